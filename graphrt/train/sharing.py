"""Sharing: each process's part of a batch, in which every example counts once, whatever the number of processes.

41 examples, 4 processes: parts of 11; the last example of the last three stands there twice, and counts once
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from graphrt.errors import GraphError
from graphrt.ir import Graph, Value
from graphrt.passes.open_batch import norms_over_batch, up_to
from graphrt.train.batch import Batch, Tree, called, inputs, leaves, mapped


def part_of_batch(batch: Batch, parts: int, number: int) -> Batch:
    """The part of ``batch`` that process ``number`` of so many has: as many examples as the largest, the last one maybe twice.

    The weight of the second is 0, where examples have weights.
    """
    even, rest = divmod(len(batch), parts)
    start, own = number * even + min(number, rest), even + (number < rest)
    twice = rest > 0 and number >= rest
    rows: Any = [*range(start, start + own), start + own - 1] if twice else slice(start, start + own)
    x, y, weight = (None if p is None else mapped(lambda _, leaf: leaf[rows], "", p) for p in batch)
    if twice and weight is not None:
        weight[-1] = 0.0
    return Batch(x, y, weight)


def mixes(net: Callable[..., Any], graph: Graph, x: Tree, rows: int) -> str:
    """Why the results of ``net`` for an example of ``rows`` like ``x`` depend on the others, or may; empty where they do not.

    ``graph`` is an empty one that it is built on.
    """
    found = leaves("out", called(net, inputs(graph, "x", x)))
    if not all(isinstance(v, Value) and v.shape[:1] == (rows,) for v in found.values()):
        return "the network has a result that is not of each example"
    for name, value in found.items():
        graph.output(name, value)
    try:
        mixed = norms_over_batch(graph, up_to(rows, dict.fromkeys(leaves("x", x), 0)))
    except GraphError as error:
        return str(error)
    return "the network normalises over the batch" if mixed else ""

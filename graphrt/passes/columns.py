"""Sums of columns beside sums of rows become sums of segments of rows, and a short sum of those.

A kernel that has rows at hand adds up the columns of a segment of them along the way (``schedule/column_sums.py``): the
gradient of layer norm reads its rows once, for what it hands on and for its scale and shift.

    x, dy --> sums of each row --> dx
      \\-----> sum of each column of a segment --> sum of the segments
"""

from __future__ import annotations

import math
from collections.abc import Callable

from graphrt.ir import Graph, Node, Value
from graphrt.op import Kind
from graphrt.ops import reshape
from graphrt.ops import sum as sum_over
from graphrt.ops.base import cast, widened
from graphrt.passes.rewrite import pruned

Extent = tuple[int, int]  # rows, and elements of each


def cut_column_sums(graph: Graph, length: Callable[[int, int], int]) -> Graph:
    """Cuts each sum of columns that shares a tensor with a reduction of the same rows, both of one phase.

    ``length`` (a target's policy) gives the rows of a segment, of so many rows of so many elements; 0 for none.
    """
    wanted = {node.name: n for node in graph.nodes if (extent := _columns(node)) and (n := length(*extent))}
    if not wanted:
        return graph
    beside: dict[object, set[Value]] = {}
    for node in graph.nodes:
        if extent := _rows(node):
            _made_of(node.inputs[0], beside.setdefault((extent, node.origin.phase), set()))
    for node in (n for n in graph.nodes if n.name in wanted):
        if _made_of(node.inputs[0], set()).isdisjoint(beside.get((_columns(node), node.origin.phase), ())):
            del wanted[node.name]
    if not wanted:
        return graph

    def rule(node: Node) -> tuple[Value] | None:
        rows = wanted.pop(node.name, 0)
        return (_cut(node, rows),) if rows else None

    return pruned(graph, rule)


def _columns(node: Node) -> Extent | None:
    """The extent of what ``node`` sums over all but the last dimensions; None if it does not."""
    if node.op.kind is not Kind.REDUCTION or node.attrs["op"] != "sum" or not node.inputs[0].dtype.is_float:
        return None
    x, dims = node.inputs[0], tuple(node.attrs["dims"])
    extent = math.prod(x.shape[: len(dims)]), math.prod(x.shape[len(dims) :])
    return extent if 0 < len(dims) < x.ndim and dims == tuple(range(len(dims))) and min(extent) > 1 else None


def _rows(node: Node) -> Extent | None:
    """The extent of what ``node`` reduces over the last dimensions; None if it does not."""
    if node.op.kind is not Kind.REDUCTION:
        return None
    x, dims = node.inputs[0], tuple(node.attrs["dims"])
    first = x.ndim - len(dims)
    return (math.prod(x.shape[:first]), math.prod(x.shape[first:])) if dims == tuple(range(first, x.ndim)) else None


def _made_of(x: Value, found: set[Value]) -> set[Value]:
    """``x``, and the values of as many elements of which it is made element by element, added to ``found``."""
    pending = [x]
    while pending:
        v = pending.pop()
        if v not in found:
            found.add(v)
            goes_on = v.node.op.kind in (Kind.ELEMENTWISE, Kind.VIEW)
            pending += [u for u in v.node.inputs if goes_on and u.type.size == x.type.size]
    return found


def _cut(node: Node, length: int) -> Value:
    """The sum ``node`` from float32 sums of segments of ``length`` rows."""
    x, (rows, columns) = node.inputs[0], _columns(node) or (0, 0)
    terms = widened(reshape(x, (rows // length, length, columns)))
    total = reshape(sum_over(sum_over(terms, 1), 0), node.types[0].shape)
    return cast(total, node.types[0].dtype)

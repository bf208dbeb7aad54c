"""The cause of a loss that is NaN, looked for in the batch that made it so, in the weights, and in the nodes of the graph."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

import graphrt.ops as F
from graphrt.compiler import compile as compile_graph
from graphrt.ir import Graph, Value
from graphrt.op import Kind
from graphrt.runtime.arrays import to_numpy
from graphrt.train.batch import Batch


def faults(batch: Batch, classes: int | None, ignored: int | None) -> list[str]:
    """The fault in the numbers of ``batch``; ``classes`` is the number of them where its first targets are indices."""
    arrays = {name: np.asarray(to_numpy(part)) for name, part in batch.named().items()}
    y = _first_target(batch)
    found = []
    for name, array in arrays.items():
        if array.dtype.kind not in "iub" and not np.isfinite(array.astype(np.float32)).all():
            found.append(f"{name} holds NaN or infinity")
    if classes is not None:
        counts = np.full(y.shape, True) if ignored is None else y != ignored
        outside = np.unique(y[counts & ((y < 0) | (y >= classes))])
        if outside.size:
            labels = f"{', '.join(map(str, outside[:5]))}{', ...' if outside.size > 5 else ''}"
            apart = "" if ignored is None else f", and {ignored} for a target that does not count"
            found.append(f"y holds {labels}, and the network has the classes 0 to {classes - 1}{apart}")
    return found


def _first_target(batch: Batch) -> np.ndarray:
    return np.asarray(next(to_numpy(part) for name, part in batch.named().items() if name.split(".")[0] == "y"))


def why_nan(batch: Batch, classes: int | None, ignored: int | None) -> str:
    """The fault of ``batch``, in words, "" where it has none; arguments as of ``faults``."""
    found = faults(batch, classes, ignored)
    if classes is not None and ignored is not None and (_first_target(batch) == ignored).all():
        found.append(f"every target is {ignored}, which does not count, so there is nothing to take the mean of")
    return " and ".join(found)


def held(arrays: Mapping[str, np.ndarray]) -> str:
    """The name of the first of ``arrays`` that holds NaN or infinity, "" where none does."""
    return next((n for n, a in arrays.items() if a.dtype.kind not in "iub" and not np.isfinite(a.astype(np.float64)).all()), "")


def first_nan(graph: Graph, batch: Batch, target: str) -> str:
    """The first node of the forward part of ``graph`` that makes a NaN of ``batch``, with the parameters it was built with.

    "" where there is none. All nodes are computed by one program, on ``target``. What is made of constants alone is NaN where
    somebody wanted it: losses have one for classes that are none.
    """
    given: dict[Value, None] = {}  # in the graph's order
    for v in graph.values():
        if v.node.op.kind is Kind.SOURCE or any(i in given for i in v.node.inputs):
            given[v] = None
    forward = [v for v in given if v.node.origin.phase == "fwd" and v.node.op.kind is not Kind.SOURCE]
    whole = {v.name: F.sum(F.cast(F.ne(v, v), "float32")) for v in forward if v.dtype.is_float}
    found = compile_graph(whole, target=target)(**batch.named())
    for value in forward:
        if found.get(value.name, 0) > 0:
            return f"{value.node.where()}: {value.name} = {value.node.op.name}(...) has the first NaN"
    return ""

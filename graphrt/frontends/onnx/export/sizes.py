"""Sizes that follow the batch: a model built at three batch sizes, of which what differs becomes ``slope * batch + offset``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphrt.compiler import trace
from graphrt.errors import ConversionError, GraphrtError
from graphrt.ir import Graph, Node, Value
from graphrt.passes.loops import tidy_loops
from graphrt.types import TensorType

BATCHES = (2, 3, 5)


@dataclass(frozen=True)
class Size:
    """``slope * batch + offset``."""

    slope: int
    offset: int = 0

    def __add__(self, other: Dim) -> Dim:
        other = other if isinstance(other, Size) else Size(0, other)
        return _dim(self.slope + other.slope, self.offset + other.offset)

    def __sub__(self, other: Dim) -> Dim:
        return self + other * -1

    def __mul__(self, factor: int) -> Dim:
        return _dim(self.slope * factor, self.offset * factor)

    __radd__, __rmul__ = __add__, __mul__

    def __rsub__(self, other: int) -> Dim:
        return self * -1 + other

    def __str__(self) -> str:
        name = "batch" if self.slope == 1 else f"{self.slope}*batch"
        return f"{name}{self.offset:+d}" if self.offset else name


Dim = int | Size


def _dim(slope: int, offset: int) -> Dim:
    return Size(slope, offset) if slope else offset


@dataclass(frozen=True)
class Sized:
    """A ``graph`` with the attributes of its nodes and the shapes of its values where they follow the batch."""

    graph: Graph
    attrs: Mapping[Node, Mapping[str, Any]]
    shapes: Mapping[Value, tuple[Dim, ...]]


def alone(graph: Graph) -> Sized:
    """``graph`` with the sizes it has."""
    graph = tidy_loops(graph, keep=False)
    return Sized(graph, {n: n.attrs for n in graph.nodes}, {v: v.shape for v in graph.values()})


def batched(model: Any, example_inputs: Any) -> Sized:
    """``model`` with an open batch: the first dimension of each of ``example_inputs``, and what follows from it.

    Raises ConversionError where anything but sizes depends on it.
    """
    graphs = []
    for batch in BATCHES:
        try:
            graphs.append(tidy_loops(trace(model, _resized(example_inputs, batch)), keep=False))
        except GraphrtError as error:
            raise ConversionError(
                f"an open batch needs a model that takes any, and with {batch} examples: {error}\nwith dynamic_batch=False the "
                "batch stays that of example_inputs"
            ) from error
    first = graphs[0]
    if len({len(g.nodes) for g in graphs}) > 1:
        raise ConversionError(f"the graph of {type(model).__name__} has other nodes for other batches; use dynamic_batch=False")
    attrs, shapes = dict[Node, Mapping[str, Any]](), dict[Value, tuple[Dim, ...]]()
    for nodes in zip(*(g.nodes for g in graphs), strict=True):
        one = nodes[0]
        if len({n.op.name for n in nodes}) > 1:
            raise ConversionError(f"{one.where()} is another op for other batches; use dynamic_batch=False")
        attrs[one] = {key: _merged([n.attrs[key] for n in nodes], one) for key in one.attrs}
        for results in zip(*(n.outputs for n in nodes), strict=True):
            shapes[results[0]] = _merged([v.shape for v in results], one)
    return Sized(first, attrs, shapes)


def _resized(tree: Any, batch: int) -> Any:
    """Example inputs with their first row ``batch`` times."""
    if isinstance(tree, Mapping):
        return {key: _resized(part, batch) for key, part in tree.items()}
    if isinstance(tree, tuple | list):
        return tuple(_resized(part, batch) for part in tree)
    if isinstance(tree, TensorType):
        return TensorType((batch, *tree.shape[1:]), tree.dtype)
    if not getattr(tree, "shape", ()):
        return tree
    if isinstance(tree, np.ndarray):
        return np.repeat(tree[:1], batch, 0)
    return tree[:1].repeat(batch, *[1] * (tree.ndim - 1))  # of torch


def _merged(found: Sequence[Any], node: Node) -> Any:
    """The common part of all of ``found``, and sizes where integers differ. Raises ConversionError."""
    first = found[0]
    if isinstance(first, tuple | list):
        if len({len(f) for f in found}) == 1:
            return tuple(_merged(parts, node) for parts in zip(*found, strict=True))
    elif all(type(f) is type(first) and (f == first or f != f) for f in found):
        return first
    elif all(isinstance(f, int) for f in found):
        slope = found[1] - first
        size = Size(slope, first - slope * BATCHES[0])
        if all(slope * batch + size.offset == f for batch, f in zip(BATCHES, found, strict=True)):
            return size
    raise ConversionError(
        f"{node.where()} depends on the batch: {first!r} for {BATCHES[0]} examples, {found[1]!r} for {BATCHES[1]}; use "
        "dynamic_batch=False"
    )

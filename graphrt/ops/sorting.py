"""Sorting and what follows from it. Stable always; NaN counts as largest, as in torch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from graphrt.errors import ArgumentError, DTypeError, ShapeError
from graphrt.ir import Graph, Value
from graphrt.op import REGISTRY, Kind, OpDef, Sample, Types, beside, register
from graphrt.ops.base import apply, broadcast_to, cast, creation, dim_index, function, integer, tensor
from graphrt.ops.elementwise import leads, ne, stop_gradient, where
from graphrt.ops.random import uniform
from graphrt.ops.reduction import amax, sum
from graphrt.ops.slicing import cut
from graphrt.ops.view import reshape, squeeze
from graphrt.types import TensorType, bool_, int32, int64


def _infer_sort(input: TensorType, *, dim: int, descending: bool) -> Types:
    if input.dtype.is_bool:
        raise DTypeError("sort takes numbers, got bool; cast it first")
    dim_index(dim, input.ndim)
    return (TensorType(input.shape, input.dtype), TensorType(input.shape, int64))


def _reference_sort(x: np.ndarray, dim: int, descending: bool) -> tuple[np.ndarray, np.ndarray]:
    if descending:  # a stable descending order is the reverse of the stable ascending order of the reverse
        order = np.flip(np.argsort(np.flip(x, dim), axis=dim, kind="stable"), dim)
        index = x.shape[dim] - 1 - order
    else:
        index = np.argsort(x, axis=dim, kind="stable")
    return np.take_along_axis(x, index, dim), index


def _samples(rng: np.random.Generator) -> list[Sample]:
    found = []
    for descending in (False, True):
        for shape, dim in (((3, 8), 1), ((9,), 0), ((2, 5, 3), 1), ((1, 1), 0), ((2, 0), 1)):
            x = rng.permutation(int(np.prod(shape))).reshape(shape).astype(np.float32) / 4
            found.append(Sample((x,), {"dim": dim, "descending": descending}))
        ties = np.array([1.0, 0.0, 1.0, -0.5, 0.0, 1.0, -0.5], np.float32)
        found.append(Sample((ties,), {"dim": 0, "descending": descending}))
        found.append(Sample((rng.integers(0, 5, (2, 40)).astype(np.int32),), {"dim": 1, "descending": descending}))
    return found


register(
    OpDef(
        name="sort",
        kind=Kind.SORT,
        infer=_infer_sort,
        vjp=lambda n, dy, _: [
            apply("scatter", n.outputs[1], dy, dim=n.attrs["dim"], size=n.types[0].shape[n.attrs["dim"]], op="sum")
        ],
        reference=_reference_sort,
        samples=_samples,
        template="sort",
        axes=beside,
    )
)


@function
def sort(input: Value, dim: int = -1, descending: bool = False) -> tuple[Value, Value]:
    """``input`` in order along ``dim``, the largest first if ``descending``, and where each element was (int64).

    Equal elements keep their order.
    """
    at = dim_index(dim, tensor(input).ndim)
    narrow = input.dtype.is_bool
    x = cast(input, int32) if narrow else input
    values, index = x.graph.append(REGISTRY["sort"], (x,), {"dim": at, "descending": bool(descending)}).outputs
    return (cast(values, bool_) if narrow else values), index


@function
def argsort(input: Value, dim: int = -1, descending: bool = False) -> Value:
    """The indices (int64) that put ``input`` in order along ``dim``, the largest first if ``descending``."""
    return sort(input, dim, descending)[1]


@function
def topk(input: Value, k: int, dim: int = -1, largest: bool = True) -> tuple[Value, Value]:
    """The ``k`` largest (or smallest) elements along ``dim``, in order, and their indices (int64)."""
    at = dim_index(dim, tensor(input).ndim)
    if not isinstance(k, int) or isinstance(k, bool) or not 0 <= k <= input.shape[at]:
        raise ArgumentError(f"k must be an int from 0 to {input.shape[at]}, got {k!r}")
    values, index = sort(input, at, largest)
    return cut(values, at, 0, k), cut(index, at, 0, k)


@function
def kthvalue(input: Value, k: int, dim: int = -1, keepdim: bool = False) -> tuple[Value, Value]:
    """The ``k``-th smallest element (counted from 1) along ``dim`` and its index (int64)."""
    at = dim_index(dim, tensor(input).ndim)
    if not isinstance(k, int) or isinstance(k, bool) or not 1 <= k <= input.shape[at]:
        raise ArgumentError(f"k must be an int from 1 to {input.shape[at]}, got {k!r}")
    values, index = (cut(v, at, k - 1, k) for v in sort(input, at))
    return (values, index) if keepdim else (squeeze(values, at), squeeze(index, at))


@function
def median(input: Value, dim: int | None = None, keepdim: bool = False) -> Any:
    """The median, the lower one of two; NaN, the first, if there is one. With ``dim`` also its index (int64).

    Without ``dim`` equal elements share the gradient, NaN among them.
    """
    if dim is None:
        middle = median(reshape(input, (-1,)), 0)[0]
        if not input.dtype.is_float:
            return middle
        level = broadcast_to(stop_gradient(middle), input.shape)
        return amax(where(leads(input, level), input, -math.inf))  # as NaN does, equal elements share the gradient
    at = dim_index(dim, tensor(input).ndim)
    n = input.shape[at]
    if not n:
        raise ShapeError(f"the median over an empty dimension of {list(input.shape)} has no value")
    values, index = sort(input, at)
    if input.dtype.is_float:  # NaN is sorted to the end
        broken = sum(ne(input, input), at, keepdim=True)
        middle = where(broken > 0, n - broken, (n - 1) // 2)
        found = [apply("gather", v, middle, dim=at) for v in (values, index)]
    else:
        found = [cut(v, at, (n - 1) // 2, (n + 1) // 2) for v in (values, index)]
    return tuple(found) if keepdim else tuple(squeeze(v, at) for v in found)


@creation
def randperm(graph: Graph, n: int) -> Value:
    """A random order of 0 to ``n - 1`` (int64), a new one at every run."""
    return argsort(uniform(graph, (integer(n, "n", 0),)), 0)

"""Elements read from, and sent to, positions in a tensor. Negative positions count from the end.

GatherND and ScatterND flatten: the last dimension of ``indices`` becomes one row-major position.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np

import graphrt.ops as F
from graphrt.errors import ConversionError
from graphrt.frontends.onnx.table import Tensor, lift, operator
from graphrt.ir import Value


def _positions(index: Value, n: int) -> Value:
    """int64 positions along a dimension of ``n``, negative ones counted from its end."""
    at = F.cast(index, "int64")
    return F.where(at < 0, at + n, at)


@operator("Gather")
def gather(data: Value, indices: Tensor, *, axis: int = 0) -> Value:
    """A known single position is a view."""
    at, n = axis % data.ndim, data.shape[axis]
    if isinstance(indices, np.ndarray):
        if indices.ndim == 0:
            return F.select(data, at, int(indices))
        indices = np.where(indices < 0, indices + n, indices).astype(np.int64)
    index = _positions(indices, n) if isinstance(indices, Value) else lift(data.graph, indices)
    y = F.index_select(data, at, F.reshape(index, [-1]))
    return F.reshape(y, (*data.shape[:at], *index.shape, *data.shape[at + 1 :]))


@operator("GatherElements")
def gather_elements(data: Value, indices: Value, *, axis: int = 0) -> Value:
    return F.gather(data, axis, _positions(indices, data.shape[axis]))


def _flat(indices: Value, sizes: tuple[int, ...]) -> Value:
    """Row-major positions in dimensions of ``sizes`` from their coordinates in the last dimension of ``indices``."""
    position = None
    for i, n in enumerate(sizes):
        one = _positions(indices[..., i], n)
        position = one if position is None else position * n + one
    return F.zeros_like(F.sum(indices, -1), "int64") if position is None else position


@operator("GatherND")
def gather_nd(data: Value, indices: Value, *, batch_dims: int = 0) -> Value:
    depth = indices.shape[-1]
    batch, inner, rest = data.shape[:batch_dims], data.shape[batch_dims : batch_dims + depth], data.shape[batch_dims + depth :]
    rows, count = math.prod(batch), math.prod(inner)
    at = F.reshape(_flat(indices, inner), (rows, -1))
    at = at + F.unsqueeze(F.arange(data.graph, rows), 1) * count
    y = F.index_select(F.reshape(data, (rows * count, math.prod(rest))), 0, F.reshape(at, [-1]))
    return F.reshape(y, (*indices.shape[:-1], *rest))


_SCATTERS: dict[str, Callable[[Value, int, Value, Value], Value]] = {
    "none": F.scatter,
    "add": F.scatter_add,
    "mul": functools.partial(F.scatter_reduce, reduce="prod"),
    "max": functools.partial(F.scatter_reduce, reduce="amax"),
    "min": functools.partial(F.scatter_reduce, reduce="amin"),
}


def _scatter(reduction: str) -> Callable[[Value, int, Value, Value], Value]:
    if reduction not in _SCATTERS:
        raise ConversionError(f"reduction must be one of {', '.join(_SCATTERS)}, got {reduction!r}")
    return _SCATTERS[reduction]


@operator("ScatterElements")
def scatter_elements(data: Value, indices: Value, updates: Value, *, axis: int = 0, reduction: str = "none") -> Value:
    return _scatter(reduction)(data, axis % data.ndim, _positions(indices, data.shape[axis]), updates)


@operator("ScatterND")
def scatter_nd(data: Value, indices: Value, updates: Value, *, reduction: str = "none") -> Value:
    depth = indices.shape[-1]
    inner, rest = data.shape[:depth], data.shape[depth:]
    count, width = math.prod(inner), math.prod(rest)
    at = F.reshape(_flat(indices, inner), (-1, 1))
    wide = F.broadcast_to(at, (at.shape[0], width))
    y = _scatter(reduction)(F.reshape(data, (count, width)), 0, wide, F.reshape(updates, (at.shape[0], width)))
    return F.reshape(y, data.shape)


@operator("TensorScatter")
def tensor_scatter(
    past_cache: Value, update: Value, write_indices: Value | None = None, *, axis: int = -2, mode: str = "linear"
) -> Value:
    """``update`` written into the cache along ``axis`` from each sequence's own position on; "circular" wraps around."""
    at, n = axis % past_cache.ndim, past_cache.shape[axis]
    steps = F.reshape(F.arange(update.graph, update.shape[at]), [-1 if d == at else 1 for d in range(update.ndim)])
    if write_indices is not None:
        steps = steps + F.reshape(F.cast(write_indices, "int64"), [-1, *[1] * (update.ndim - 1)])
    place = F.remainder(steps, n) if mode == "circular" else steps
    return F.scatter(past_cache, at, F.broadcast_to(place, update.shape), update)


@operator("Compress")
def compress(x: Value, condition: np.ndarray, *, axis: int | None = None) -> Value:
    """The slices where the known ``condition`` holds."""
    data, at = (F.reshape(x, [-1]), 0) if axis is None else (x, axis)
    return F.index_select(data, at, lift(x.graph, np.flatnonzero(condition).astype(np.int64)))


@operator("NonZero")
def non_zero(x: np.ndarray) -> np.ndarray:
    """Takes a known tensor only: the number of its nonzero elements decides a shape."""
    return np.stack(np.nonzero(np.atleast_1d(x))).astype(np.int64)[: max(x.ndim, 0)]


@operator("Unique")
def unique(x: np.ndarray, *, axis: int | None = None, sorted: int = 1) -> list[np.ndarray]:  # noqa: A002 - ONNX's name
    """Takes a known tensor only."""
    values, first, inverse, counts = np.unique(x, return_index=True, return_inverse=True, return_counts=True, axis=axis)
    order = np.arange(first.size) if sorted else np.argsort(first, kind="stable")
    place = np.argsort(order, kind="stable")
    values = values[order] if axis is None else np.take(values, order, axis)
    return [values, *(a.astype(np.int64).reshape(-1) for a in (first[order], place[inverse.reshape(-1)], counts[order]))]

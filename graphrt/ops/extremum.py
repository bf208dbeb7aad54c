"""The largest or smallest element along one dimension, and where it was first: found together, in one pass.

Positions that come from comparing elements with their extreme would depend on both being computed to the same bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from graphrt.errors import ArgumentError, DTypeError, ShapeError
from graphrt.ir import Node, Value
from graphrt.op import Kind, OpDef, Sample, Types, register
from graphrt.ops.base import apply, broadcast_to, cast, dim_index, function, tensor
from graphrt.ops.elementwise import eq, where
from graphrt.ops.reduction import amax, amin, folded
from graphrt.ops.source import iota
from graphrt.ops.view import reshape, unsqueeze
from graphrt.types import Shape, TensorType, bool_, int64, uint8

_NUMPY: dict[str, Any] = {"max": np.argmax, "min": np.argmin}


def _infer(input: TensorType, *, op: str, dims: Shape) -> Types:
    if op not in _NUMPY:
        raise ArgumentError(f"op must be one of {', '.join(_NUMPY)}, got {op!r}")
    if input.dtype.is_bool:
        raise DTypeError(f"{op} takes numbers, got bool; cast it first")
    if len(dims) != 1:
        raise ArgumentError(f"dims must name one dimension, got {list(dims)}")
    at = dim_index(dims[0], input.ndim)
    if not input.shape[at]:
        raise ShapeError(f"{op} over an empty dimension of {list(input.shape)} has no value")
    shape = (*input.shape[:at], *input.shape[at + 1 :])
    return TensorType(shape, input.dtype), TensorType(shape, int64)


def _vjp(node: Node, dy: Value | None, _: Value | None) -> list[Value | None]:
    x, (dim,) = node.inputs[0], node.attrs["dims"]
    if dy is None:
        return [None]
    chosen = eq(iota(x, dim), unsqueeze(node.outputs[1], dim))
    return [where(chosen, broadcast_to(unsqueeze(dy, dim), x.shape), 0.0)]


def _reference(x: np.ndarray, op: str, dims: Shape) -> tuple[np.ndarray, np.ndarray]:
    at = _NUMPY[op](x, axis=dims[0], keepdims=True)
    return np.take_along_axis(x, at, dims[0]).squeeze(dims[0]), at.squeeze(dims[0])


def _split(node: Node, splits: int) -> list[Value]:
    """The extremes of ``splits`` parts of the dimension, if that divides, and the extreme of those."""
    x, op, (dim,) = node.inputs[0], node.attrs["op"], node.attrs["dims"]
    length = x.shape[dim] // splits
    if length * splits != x.shape[dim]:
        return list(extremum(x, op, dim))
    values, at = extremum(reshape(x, (*x.shape[:dim], splits, length, *x.shape[dim + 1 :])), op, dim + 1)
    best, part = extremum(values, op, dim)
    inside = apply("gather", at, unsqueeze(part, dim), dim=dim)
    return [best, part * length + reshape(inside, part.shape)]


def _samples(rng: np.random.Generator) -> list[Sample]:
    x = (rng.standard_normal((3, 4, 5)) * 2).astype(np.float32)
    found = [Sample((x,), {"op": op, "dims": (d,)}) for op in _NUMPY for d in range(3)]
    found += [Sample((np.array([[1, 2, 2, 0], [3, 0, 3, 0]]),), {"op": op, "dims": (1,)}) for op in _NUMPY]  # ties
    return [*found, Sample((rng.standard_normal((2, 1300)).astype(np.float32),), {"op": "max", "dims": (1,)})]


_OP = register(
    OpDef(
        name="extremum",
        kind=Kind.REDUCTION,
        infer=_infer,
        vjp=_vjp,
        reference=_reference,
        samples=_samples,
        split=_split,
        axes=folded,
        flops=lambda n: n.inputs[0].type.size,
    )
)


def extremum(x: Value, op: str, dim: int) -> tuple[Value, Value]:
    """The extreme ("max" or "min") of ``x`` along ``dim``, which is dropped, and the position (int64) of the first."""
    values, at = x.graph.append(_OP, (x,), {"op": op, "dims": (dim,)}).outputs
    return values, at


def _along(input: Value, dim: int, keepdim: bool, op: str) -> tuple[Value, Value]:
    """Values and positions along ``dim``; bool is ordered as 0 and 1, and a scalar is a vector of one."""
    x = input if tensor(input).ndim else reshape(input, (1,))
    at = dim_index(dim, x.ndim)
    values, index = extremum(cast(x, uint8) if x.dtype.is_bool else x, op, at)
    if x.dtype.is_bool:
        values = cast(values, bool_)
    if keepdim and input.ndim:
        values, index = unsqueeze(values, at), unsqueeze(index, at)
    return values, index


def _position(input: Value, dim: int | None, keepdim: bool, op: str) -> Value:
    if dim is not None:
        return _along(input, dim, keepdim, op)[1]
    at = _along(reshape(input, (-1,)), 0, False, op)[1]
    return reshape(at, (1,) * input.ndim) if keepdim else at


@function
def argmax(input: Value, dim: int | None = None, keepdim: bool = False) -> Value:
    """Index (int64) of the first largest value along ``dim``, or in the flattened tensor; NaN counts as largest."""
    return _position(input, dim, keepdim, "max")


@function
def argmin(input: Value, dim: int | None = None, keepdim: bool = False) -> Value:
    """Index (int64) of the first smallest value along ``dim``, or in the flattened tensor; NaN counts as smallest."""
    return _position(input, dim, keepdim, "min")


@function
def max(input: Value, dim: int | None = None, keepdim: bool = False) -> Any:  # noqa: A001 - torch's name
    """The largest element; with ``dim`` the largest along it and the index of the first (int64). NaN wins."""
    return amax(input, None, keepdim) if dim is None else _along(input, dim, keepdim, "max")


@function
def min(input: Value, dim: int | None = None, keepdim: bool = False) -> Any:  # noqa: A001 - torch's name
    """The smallest element; with ``dim`` the smallest along it and the index of the first (int64). NaN wins."""
    return amin(input, None, keepdim) if dim is None else _along(input, dim, keepdim, "min")

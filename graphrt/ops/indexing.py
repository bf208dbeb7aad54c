"""Functions that gather and scatter: elements read from, and sent to, positions that the data decides.

Positions outside are no error that a kernel could raise: a gather reads zeros there, a scatter drops the element, and what
names a class or a token makes NaN (losses, ``embedding``) or no class (``one_hot``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphrt.errors import ArgumentError, DTypeError, ShapeError
from graphrt.ir import Value
from graphrt.ops.base import (
    apply,
    broadcast_shape,
    broadcast_to,
    cast,
    dim_index,
    function,
    identity,
    in_float32,
    tensor,
)
from graphrt.ops.elementwise import ge, maximum, minimum, where
from graphrt.ops.positions import scatter_to
from graphrt.ops.slicing import getitem
from graphrt.ops.source import iota
from graphrt.ops.transcendental import floor_divide
from graphrt.ops.view import reshape
from graphrt.types import int64


def _index(index: Any, what: str = "index") -> Value:
    """Integer positions as int64."""
    index = tensor(index, what)
    if not index.dtype.is_int:
        raise DTypeError(f"{what} must hold integers, got {index.dtype}")
    return cast(index, int64)


def _from_end(index: Value, size: int) -> Value:
    """``index`` with negative positions counted from the end of ``size``."""
    return where(index < 0, index + size, index)


def _line(x: Value) -> Value:
    """A scalar as a vector of one element, which torch takes it for wherever a dimension is named."""
    return x if x.ndim else reshape(x, (1,))


def _cut(x: Value, index: Value, dim: int, what: str) -> Value:
    """``x`` cut down to the sizes of ``index`` in all other dimensions, as torch reads it."""
    if index.ndim != x.ndim or any(index.shape[d] > x.shape[d] for d in range(x.ndim) if d != dim):
        raise ShapeError(
            f"index must have {x.ndim} dimensions, none but {dim} longer than those of {what} {list(x.shape)}, "
            f"got {list(index.shape)}"
        )
    keys = tuple(slice(None) if d == dim else slice(0, index.shape[d]) for d in range(x.ndim))
    return getitem(x, keys)


@function
def gather(input: Value, dim: int, index: Value) -> Value:
    """``out[i][j][k] = input[i][index[i][j][k]][k]`` for dim 1: ``index`` has as many dimensions as ``input``.

    An index without elements may have any shape, and gives a result of that shape.
    """
    x, positions = _line(tensor(input)), _line(_index(index))
    at = dim_index(dim, x.ndim)
    if not positions.type.size:
        return broadcast_to(x.graph.constant(0, x.dtype), positions.shape)
    return reshape(apply("gather", _cut(x, positions, at, "input"), positions, dim=at), index.shape)


@function
def take_along_dim(input: Value, indices: Value, dim: int | None = None) -> Value:
    """``gather`` at ``indices`` with broadcasting; of the flattened tensors when ``dim`` is None.

    Negative positions count from the end.
    """
    if dim is None:
        return take_along_dim(reshape(input, (-1,)), reshape(indices, (-1,)), 0)
    at = dim_index(dim, input.ndim)
    positions = _from_end(_index(indices, "indices"), input.shape[at])
    if positions.ndim != input.ndim:
        raise ShapeError(f"indices must have {input.ndim} dimensions, got {list(positions.shape)}")
    shape = broadcast_shape(*((*v.shape[:at], 1, *v.shape[at + 1 :]) for v in (input, positions)))

    def widen(v: Value) -> Value:
        return broadcast_to(v, (*shape[:at], v.shape[at], *shape[at + 1 :]))

    return apply("gather", widen(input), widen(positions), dim=at)


@function
def index_select(input: Value, dim: int, index: Value) -> Value:
    """The slices of ``input`` along ``dim`` that ``index``, 1-D or a scalar, names; of a scalar itself."""
    x, positions = _line(tensor(input)), _line(_index(index))
    if positions.ndim != 1:
        raise ShapeError(f"index must have at most one dimension, got {list(positions.shape)}")
    if not input.ndim and positions.shape != (1,):
        raise ShapeError(f"index into a scalar must be one position, got {list(positions.shape)}")
    y = _select(x, dim_index(dim, x.ndim), positions)
    return y if input.ndim else reshape(y, ())


def _select(input: Value, dim: int, index: Value) -> Value:
    wide = reshape(index, [index.shape[0] if d == dim else 1 for d in range(input.ndim)])
    shape = [index.shape[0] if d == dim else n for d, n in enumerate(input.shape)]
    return apply("gather", input, broadcast_to(wide, shape), dim=dim)


@function
def take(input: Value, index: Value) -> Value:
    """Elements of the flattened ``input`` at ``index`` (any shape). Negative positions count from the end."""
    positions = _from_end(_index(index), input.type.size)
    return reshape(_select(reshape(input, (-1,)), 0, reshape(positions, (-1,))), positions.shape)


def _source(input: Value, index: Any, src: Any, dim: int) -> tuple[Value, Value]:
    """``index`` and ``src`` (a number or a Value, cut to the index's sizes) for scattering into ``input``, no scalar."""
    positions = _line(_index(index))
    if not positions.type.size:  # may have any shape: nothing is sent anywhere
        positions = broadcast_to(input.graph.constant(0, int64), [0 if d == dim else n for d, n in enumerate(input.shape)])
        return positions, broadcast_to(input.graph.constant(0, input.dtype), positions.shape)
    _cut(input, positions, dim, "input")
    if not isinstance(src, Value):
        if not isinstance(src, bool | int | float):
            raise ArgumentError(f"src must be a Value or a number, got {type(src).__name__}")
        return positions, broadcast_to(input.graph.constant(src, input.dtype), positions.shape)
    if src.dtype != input.dtype:
        raise DTypeError(f"src must be {input.dtype} as input, got {src.dtype}")
    src = _line(src)
    if src.ndim != positions.ndim or any(a > b for a, b in zip(positions.shape, src.shape, strict=True)):
        raise ShapeError(f"index {list(positions.shape)} must not be larger than src {list(src.shape)}")
    return positions, getitem(src, tuple(slice(0, n) for n in positions.shape))


def _scattered(input: Value, dim: int, positions: Value, src: Value, op: str) -> Value:
    """The ``op`` of what lands on each element of ``input``; its neutral element where nothing does."""
    y = scatter_to(positions, src, dim, input.shape[dim], op)
    return _pad_to(y, input.shape, identity(op, y.dtype.numpy))


def _pad_to(x: Value, shape: Sequence[int], value: float) -> Value:
    """``x`` lengthened at the end of each dimension to ``shape``."""
    if x.shape == tuple(shape):
        return x
    zeros, high = (0,) * x.ndim, tuple(n - m for n, m in zip(shape, x.shape, strict=True))
    return apply("pad", x, low=zeros, high=high, interior=zeros, value=value)


@function
def scatter(input: Value, dim: int, index: Value, src: Any) -> Value:
    """``input`` with ``out[i][index[i][j][k]][k] = src[i][j][k]`` for dim 1; the last one written stays, always."""
    x = _line(tensor(input))
    at = dim_index(dim, x.ndim)
    positions, source = _source(x, index, src, at)
    place = _scattered(x, at, positions, iota(positions, at), "max")
    wide = [m if d == at else n for d, (n, m) in enumerate(zip(x.shape, source.shape, strict=True))]
    return reshape(where(ge(place, 0), apply("gather", _pad_to(source, wide, 0.0), place, dim=at), x), input.shape)


@function
@in_float32
def scatter_add(input: Value, dim: int, index: Value, src: Value) -> Value:
    """``input`` with ``out[i][index[i][j][k]][k] += src[i][j][k]`` for dim 1."""
    x = _line(tensor(input))
    at = dim_index(dim, x.ndim)
    positions, source = _source(x, index, src, at)
    return reshape(x + _scattered(x, at, positions, source, "sum"), input.shape)


@function
@in_float32
def scatter_reduce(input: Value, dim: int, index: Value, src: Value, reduce: str, include_self: bool = True) -> Value:
    """``input`` and the elements of ``src`` sent to ``index``, combined by ``reduce``: "sum", "prod", "mean", "amax" or "amin".

    Without ``include_self`` the elements of ``input`` that something lands on do not take part.
    """
    if reduce not in _REDUCES:
        raise ArgumentError(f"reduce must be one of {', '.join(_REDUCES)}, got {reduce!r}")
    x = _line(tensor(input))
    at = dim_index(dim, x.ndim)
    positions, source = _source(x, index, src, at)
    return reshape(_combined(x, at, positions, source, reduce, include_self), input.shape)


_REDUCES = {"sum": "sum", "prod": "prod", "mean": "sum", "amax": "max", "amin": "min"}  # torch's names: the op's


def _combined(input: Value, dim: int, positions: Value, source: Value, reduce: str, include_self: bool) -> Value:
    op = _REDUCES[reduce]
    ones = broadcast_to(input.graph.constant(1, int64), positions.shape)
    count = _scattered(input, dim, positions, ones, "sum")
    hit = ge(count, 1)
    landed = _scattered(input, dim, positions, source, op)
    if op == "sum":
        total = landed + (input if include_self else where(hit, 0, input))
        if reduce == "sum":
            return total
        parts = cast(where(hit, count + int(include_self), 1), input.dtype)
        return total / parts if input.dtype.is_float else floor_divide(total, parts)
    if not include_self:
        return where(hit, landed, input)
    if op == "prod":
        return input * landed
    return where(hit, (maximum if op == "max" else minimum)(landed, input), input)


def _slices(input: Value, dim: int, index: Value, source: Value) -> tuple[Value, int, Value, Value]:
    """``input`` (a scalar as a vector), ``dim``, and ``index`` as wide as ``source``, whose slices it places along ``dim``."""
    positions = _line(_index(index))
    x, src = _line(tensor(input)), _line(tensor(source, "source"))
    at = dim_index(dim, x.ndim)
    shape = tuple(positions.shape[0] if d == at else n for d, n in enumerate(x.shape))
    if positions.ndim != 1 or src.shape != shape:
        raise ShapeError(
            f"source {list(source.shape)} must be input {list(input.shape)} with index {list(positions.shape)} along {at}"
        )
    return x, at, broadcast_to(reshape(positions, [-1 if d == at else 1 for d in range(x.ndim)]), shape), src


@function
@in_float32
def index_add(input: Value, dim: int, index: Value, source: Value, alpha: float = 1) -> Value:
    """``input`` with the slices of ``source`` along ``dim``, times ``alpha``, added at the 1-D ``index``."""
    x, at, wide, src = _slices(input, dim, index, source)
    return reshape(x + scatter_to(wide, src if alpha == 1 else src * alpha, at, x.shape[at]), input.shape)


@function
@in_float32
def index_reduce(input: Value, dim: int, index: Value, source: Value, reduce: str, include_self: bool = True) -> Value:
    """``input`` and slices of ``source`` sent to the 1-D ``index``, combined by ``reduce``: "prod", "mean", "amax" or "amin".

    Without ``include_self`` the slices of ``input`` that something lands on do not take part.
    """
    if reduce not in ("prod", "mean", "amax", "amin"):
        raise ArgumentError(f"reduce must be prod, mean, amax or amin, got {reduce!r}; index_add sums")
    x, at, wide, src = _slices(input, dim, index, source)
    if src.dtype != x.dtype:
        raise DTypeError(f"source must be {x.dtype} as input, got {src.dtype}")
    return reshape(_combined(x, at, wide, src, reduce, include_self), input.shape)


@function
@in_float32
def put(input: Value, index: Value, source: Value, accumulate: bool = False) -> Value:
    """``input`` with ``source`` at the positions ``index`` of the flattened tensor, or added there with ``accumulate``.

    Negative positions count from the end. ``source`` has as many elements as ``index``. Of several at one position the last one
    stays.
    """
    positions, count = _index(index), tensor(input).type.size
    if tensor(source, "source").type.size != positions.type.size:
        raise ShapeError(f"source {list(source.shape)} must have as many elements as index {list(positions.shape)}")
    at, src = reshape(_from_end(positions, count), (-1,)), reshape(source, (-1,))
    flat = reshape(input, (-1,))
    return reshape((scatter_add if accumulate else scatter)(flat, 0, at, src), input.shape)

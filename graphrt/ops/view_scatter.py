"""A tensor with a part of it, named as a view names it, replaced: the functions behind ``x[...] = src`` in graphs without
writes. Slices and diagonals are views and a choice; an arbitrary stride is a scatter."""

from __future__ import annotations

from collections.abc import Sequence

from graphrt.errors import ArgumentError, DTypeError, ShapeError
from graphrt.ir import Value
from graphrt.ops.base import apply, broadcast_shape, broadcast_to, cast, dim_index, function, integers, tensor
from graphrt.ops.cumulative import cumsum
from graphrt.ops.elementwise import eq, where
from graphrt.ops.indexing import put, take
from graphrt.ops.movement import diagonal as _diagonal
from graphrt.ops.slicing import concat, cut
from graphrt.ops.source import iota
from graphrt.ops.transcendental import remainder
from graphrt.ops.view import movedim, reshape, unsqueeze
from graphrt.types import int64


def _fits(src: Value, shape: Sequence[int], input: Value, what: str) -> Value:
    if tensor(src, "src").shape != tuple(shape):
        raise ShapeError(f"src must have the shape of the {what}, {list(shape)}, got {list(src.shape)}")
    return cast(src, input.dtype)


def _spread(src: Value, dim: int, start: int, step: int, size: int) -> Value:
    """``src`` with its elements along ``dim`` at ``start``, ``start + step``, ... of ``size`` places, zeros between."""
    n = src.shape[dim]
    inner = n + max(n - 1, 0) * (step - 1)
    at = [(start, size - start - inner, step - 1) if d == dim else (0, 0, 0) for d in range(src.ndim)]
    low, high, interior = zip(*at, strict=True)
    return apply("pad", src, low=low, high=high, interior=interior, value=False if src.dtype.is_bool else 0.0)


@function
def slice_scatter(
    input: Value, src: Value, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Value:
    """``input`` with ``src`` in place of ``input``'s elements from ``start`` to ``end`` along ``dim``, ``step`` apart."""
    at = dim_index(dim, input.ndim)
    if step < 1:
        raise ArgumentError(f"step must be >= 1, got {step}")
    n = input.shape[at]
    taken = range(*slice(start, end, step).indices(n))
    part = _fits(src, [len(taken) if d == at else m for d, m in enumerate(input.shape)], input, "slice")
    if not taken:
        return input
    if step == 1:
        return concat([cut(input, at, 0, taken[0]), part, cut(input, at, taken[-1] + 1, n)], at)
    place = iota(input, at) - taken[0]
    inside = (place >= 0) & (place <= taken[-1] - taken[0]) & eq(remainder(place, step), 0)
    return where(inside, _spread(part, at, taken[0], step, n), input)


@function
def select_scatter(input: Value, src: Value, dim: int, index: int) -> Value:
    """``input`` with ``src``, which lacks ``dim``, in place of its slice at ``index``."""
    at = dim_index(dim, input.ndim)
    i = dim_index(index, input.shape[at], "index")
    return slice_scatter(input, unsqueeze(src, at), at, i, i + 1)


@function
def diagonal_scatter(input: Value, src: Value, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Value:
    """``input`` with ``src`` in place of ``diagonal(input, offset, dim1, dim2)``, whose shape it has."""
    part = _fits(src, _diagonal(input, offset, dim1, dim2).shape, input, "diagonal")
    a, b = dim_index(dim1, input.ndim, "dim1"), dim_index(dim2, input.ndim, "dim2")
    if not part.shape[-1]:
        return input
    on = eq(iota(input, b) - iota(input, a), offset)
    column = _spread(part, part.ndim - 1, max(-offset, 0), 1, input.shape[a])  # by row: each row has one place at most
    shape = [1 if d == b else n for d, n in enumerate(input.shape)]
    return where(on, broadcast_to(reshape(_back(column, a, b), shape), input.shape), input)


def _back(column: Value, a: int, b: int) -> Value:
    """The last dimension where dimension ``a`` was, in a tensor that lacks ``b``."""
    return movedim(column, -1, a - (b < a))


def _strided(input: Value, size: Sequence[int], stride: Sequence[int], storage_offset: int | None) -> Value:
    """For each element of a strided view its place in the row-major ``input``."""
    sizes, steps = integers(size, "size", 0), integers(stride, "stride", 0)
    start = storage_offset or 0
    last = start + sum((n - 1) * step for n, step in zip(sizes, steps, strict=False))
    if len(sizes) != len(steps) or start < 0 or (0 not in sizes and last >= input.type.size):
        raise ArgumentError(
            f"size {sizes}, stride {steps} and storage_offset {start} must stay within {input.type.size} elements"
        )
    place = broadcast_to(input.graph.constant(start, int64), sizes)
    for d, step in enumerate(steps):
        place = place + iota(place, d) * step
    return place


@function
def as_strided(input: Value, size: Sequence[int], stride: Sequence[int], storage_offset: int | None = None) -> Value:
    """The elements of ``input``, taken as row-major, at ``storage_offset`` plus multiples of ``stride``."""
    return take(input, _strided(input, size, stride, storage_offset))


@function
def as_strided_scatter(
    input: Value, src: Value, size: Sequence[int], stride: Sequence[int], storage_offset: int | None = None
) -> Value:
    """``input``, taken as row-major, with ``src`` in place of ``as_strided(input, size, stride, storage_offset)``.

    Where several elements of ``src`` lie at one place, the last one stays.
    """
    place = _strided(input, size, stride, storage_offset)
    return put(input, place, _fits(src, place.shape, input, "view"))


@function
def masked_scatter(input: Value, mask: Value, source: Value) -> Value:
    """The elements of ``source``, in order, where the bool ``mask`` holds, else ``input``; the two broadcast."""
    if not tensor(mask, "mask").dtype.is_bool:
        raise DTypeError(f"mask must be bool, got {mask.dtype}")
    if tensor(source, "source").dtype != input.dtype:
        raise DTypeError(f"source must be {input.dtype} as input, got {source.dtype}")
    shape = broadcast_shape(mask.shape, input.shape)
    held, x = broadcast_to(mask, shape), broadcast_to(input, shape)
    number = cumsum(cast(reshape(held, (-1,)), int64), 0) - 1
    return where(held, take(source, where(held, reshape(number, shape), -1)), x)

"""Functions that select, repeat, roll, turn and join: views over views, so that nothing is moved until something reads it.

A diagonal is a strided slice of the flattened matrix, a repetition a broadcast along a new dimension, a roll the two parts
of a cut the other way round. Names, arguments and defaults follow torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from graphrt.errors import ArgumentError, ShapeError
from graphrt.ir import Value
from graphrt.ops.base import apply, broadcast_shape, dim_index, dim_indices, function, integer, integers, tensor
from graphrt.ops.base import broadcast_to as _broadcast_to
from graphrt.ops.elementwise import ge, le, where
from graphrt.ops.reduction import sum
from graphrt.ops.slicing import concat, cut, flip, getitem
from graphrt.ops.source import iota
from graphrt.ops.view import expand, flatten, movedim, permute, reshape, transpose, unsqueeze


def _size(input: Value, dim: int, what: str = "dim") -> tuple[int, int]:
    """``dim`` from the front, and the size along it."""
    at = dim_index(dim, input.ndim, what)
    return at, input.shape[at]


# --- parts -------------------------------------------------------------------------------------------------------


@function
def narrow(input: Value, dim: int, start: int, length: int) -> Value:
    """``length`` elements from ``start`` (negative: from the end) along ``dim``."""
    at, n = _size(input, dim)
    start, length = integer(start, "start", -n), integer(length, "length", 0)
    start += n if start < 0 else 0
    if start + length > n:
        raise ArgumentError(f"start {start} and length {length} go beyond dimension {at} of size {n}")
    return cut(input, at, start, start + length)


@function
def select(input: Value, dim: int, index: int) -> Value:
    """The slice at ``index`` along ``dim``, which is dropped."""
    at, _ = _size(input, dim)
    return getitem(input, (*[slice(None)] * at, integer(index, "index")))


@function
def unbind(input: Value, dim: int = 0) -> tuple[Value, ...]:
    """All slices along ``dim``, which is dropped."""
    at, n = _size(input, dim)
    return tuple(select(input, at, i) for i in range(n))


@function
def split(tensor: Value, split_size_or_sections: int | Sequence[int], dim: int = 0) -> tuple[Value, ...]:
    """Pieces along ``dim`` of one size (the last may be smaller), or of the sizes given, which add up to the whole.

    ``split_size_or_sections`` is the size, or the list of them.
    """
    at, n = _size(tensor, dim)
    if isinstance(split_size_or_sections, int):
        size = integer(split_size_or_sections, "split_size_or_sections", 0 if n == 0 else 1)
        parts = [min(size, n - i) for i in range(0, n, max(size, 1))] or [0]
    else:
        parts = integers(split_size_or_sections, "split_size_or_sections", 0)
        if math.fsum(parts) != n:
            raise ShapeError(f"split_size_or_sections {parts} must add up to {n}, the size of dimension {at}")
    found, start = [], 0
    for size in parts:
        found.append(cut(tensor, at, start, start + size))
        start += size
    return tuple(found)


@function
def chunk(input: Value, chunks: int, dim: int = 0) -> tuple[Value, ...]:
    """At most ``chunks`` pieces of one size (the last may be smaller) along ``dim``."""
    at, n = _size(input, dim)
    count = integer(chunks, "chunks", 1)
    return split(input, -(-n // count) if n else [0] * count, at)


@function
def tensor_split(input: Value, indices_or_sections: int | Sequence[int], dim: int = 0) -> tuple[Value, ...]:
    """Pieces along ``dim``: that many, the first ones one larger where needed, or those between the indices given.

    ``indices_or_sections`` is the number, or the list of indices.
    """
    at, n = _size(input, dim)
    if isinstance(indices_or_sections, int):
        count = integer(indices_or_sections, "indices_or_sections", 1)
        if count > max(n, 1024):
            raise ArgumentError(f"indices_or_sections must not exceed {max(n, 1024)} pieces here, got {count}")
        return split(input, [n // count + (i < n % count) for i in range(count)], at)
    ends = integers(indices_or_sections, "indices_or_sections")
    ranges = [slice(a, b).indices(n) for a, b in zip([0, *ends], [*ends, n], strict=True)]
    return tuple(cut(input, at, a, max(a, b)) for a, b, _ in ranges)


# --- shape -------------------------------------------------------------------------------------------------------


@function
def unflatten(input: Value, dim: int, sizes: Sequence[int]) -> Value:
    """Dimension ``dim`` as several of ``sizes``, one of which may be -1."""
    at, n = _size(input, dim)
    parts = integers(sizes, "sizes", -1)
    if not parts or parts.count(-1) > 1:
        raise ArgumentError(f"sizes must be one size or more, at most one of them -1, got {parts}")
    known = math.prod(p for p in parts if p != -1)
    if (-1 in parts and (known == 0 or n % known)) or (-1 not in parts and known != n):
        raise ShapeError(f"sizes {parts} do not multiply to {n}, the size of dimension {at}")
    return reshape(input, (*input.shape[:at], *(n // known if p == -1 else p for p in parts), *input.shape[at + 1 :]))


@function
def expand_as(input: Value, other: Value) -> Value:
    """``input`` repeated to the shape of ``other``."""
    return expand(input, other.shape)


@function
def broadcast_to(input: Value, size: Sequence[int]) -> Value:
    """``input`` repeated along dimensions of size 1 (and new leading ones) up to ``size``."""
    return expand(input, size)


@function
def broadcast_tensors(*tensors: Value) -> tuple[Value, ...]:
    """The tensors repeated to the shape they all broadcast to."""
    shape = broadcast_shape(*(t.shape for t in tensors))
    return tuple(_broadcast_to(t, shape) for t in tensors)


# --- repetition --------------------------------------------------------------------------------------------------


@function
def repeat(input: Value, *repeats: Any) -> Value:
    """``input`` laid side by side: ``repeats`` copies along each dimension, with new leading ones where more are given."""
    given = repeats[0] if len(repeats) == 1 and isinstance(repeats[0], list | tuple) else repeats
    counts = integers(given, "repeats", 0)
    lead = len(counts) - input.ndim
    if lead < 0:
        raise ShapeError(f"repeats needs an entry for each of the {input.ndim} dimensions, got {counts}")
    shape = [1] * lead + list(input.shape)
    x = reshape(input, [m for n in shape for m in (1, n)])
    x = _broadcast_to(x, [m for c, n in zip(counts, shape, strict=True) for m in (c, n)])
    return reshape(x, [c * n for c, n in zip(counts, shape, strict=True)])


@function
def tile(input: Value, dims: Sequence[int]) -> Value:
    """``repeat`` with ones for the leading dimensions that ``dims`` does not name."""
    counts = integers(dims, "dims", 0)
    return repeat(input, [1] * (input.ndim - len(counts)) + counts)


@function
def repeat_interleave(input: Value, repeats: int, dim: int | None = None) -> Value:
    """Each element ``repeats`` times in a row along ``dim`` (of the flattened tensor when None)."""
    x = flatten(input) if dim is None else input
    at, n = _size(x, 0 if dim is None else dim)
    count = integer(repeats, "repeats", 0)
    wide = _broadcast_to(unsqueeze(x, at + 1), (*x.shape[: at + 1], count, *x.shape[at + 1 :]))
    return reshape(wide, (*x.shape[:at], n * count, *x.shape[at + 1 :]))


# --- order -------------------------------------------------------------------------------------------------------


@function
def roll(input: Value, shifts: int | Sequence[int], dims: int | Sequence[int] | None = None) -> Value:
    """``input`` shifted by ``shifts`` along ``dims``, what falls off one end coming in at the other.

    It is flattened, and then has its shape again, when ``dims`` is None.
    """
    by = integers([shifts] if isinstance(shifts, int) else shifts, "shifts")
    if dims is None:
        if len(by) != 1:
            raise ArgumentError(f"shifts must be one int when dims is None, got {by}")
        return reshape(roll(flatten(input), by[0], 0), input.shape)
    along = integers([dims] if isinstance(dims, int) else dims, "dims")
    if len(by) != len(along):
        raise ArgumentError(f"shifts and dims need equally many entries, got {by} and {along}")
    for shift, dim in zip(by, along, strict=True):
        at, n = _size(input, dim, "dims")
        back = shift % n if n else 0
        if back:
            input = concat([cut(input, at, n - back, n), cut(input, at, 0, n - back)], at)
    return input


@function
def rot90(input: Value, k: int = 1, dims: Sequence[int] = (0, 1)) -> Value:
    """``input`` turned ``k`` times by 90 degrees in the plane of two ``dims``, from the first towards the second."""
    plane = integers(dims, "dims")
    if len(plane) != 2 or len(dim_indices(plane, input.ndim)) != 2:
        raise ArgumentError(f"dims must be two dimensions, got {plane}")
    a, b = plane
    turns = integer(k, "k") % 4
    if turns in (0, 2):
        return flip(input, plane) if turns else input
    return transpose(flip(input, [b if turns == 1 else a]), a, b)


@function
def fliplr(input: Value) -> Value:
    """``input`` [m, n, ...] with its columns in reverse."""
    if input.ndim < 2:
        raise ShapeError(f"fliplr needs at least 2 dimensions, got {list(input.shape)}")
    return flip(input, [1])


@function
def flipud(input: Value) -> Value:
    """``input`` [m, ...] with its rows in reverse."""
    if input.ndim < 1:
        raise ShapeError("flipud needs at least 1 dimension, got a scalar")
    return flip(input, [0])


# --- joining -----------------------------------------------------------------------------------------------------


def _at_least(tensors: Sequence[Value], ndim: int) -> list[Value]:
    """The tensors with ones in front, and for ``ndim`` 3 one behind a matrix, as numpy.atleast_1d, 2d and 3d."""
    if not tensors:
        raise ArgumentError("tensors must hold at least one Value")
    found = []
    for t in tensors:
        shape = t.shape
        if ndim == 3 and len(shape) == 2:
            shape = (*shape, 1)
        elif ndim == 3 and len(shape) == 1:
            shape = (1, *shape, 1)
        found.append(reshape(t, (*[1] * (ndim - len(shape)), *shape)))
    return found


@function
def hstack(tensors: Sequence[Value]) -> Value:
    """The tensors side by side: along dimension 1, or 0 for vectors."""
    parts = _at_least(tensors, 1)
    return concat(parts, 0 if parts[0].ndim == 1 else 1)


@function
def vstack(tensors: Sequence[Value]) -> Value:
    """The tensors, vectors as rows, along dimension 0."""
    return concat(_at_least(tensors, 2), 0)


@function
def dstack(tensors: Sequence[Value]) -> Value:
    """The tensors, matrices as [m, n, 1], along dimension 2."""
    return concat(_at_least(tensors, 3), 2)


@function
def meshgrid(*tensors: Value | Sequence[Value], indexing: str = "ij") -> tuple[Value, ...]:
    """The coordinates of a grid: the i-th result is the i-th of the vectors ``tensors`` along dimension i.

    ``indexing`` is "ij", or "xy", which exchanges the first two dimensions.
    """
    if indexing not in ("ij", "xy"):
        raise ArgumentError(f"indexing must be 'ij' or 'xy', got {indexing!r}")
    given: Any = tensors[0] if len(tensors) == 1 and not isinstance(tensors[0], Value) else tensors
    if any(tensor(t, "tensors").ndim > 1 for t in given):
        raise ShapeError(f"meshgrid takes vectors and scalars, got {[list(t.shape) for t in given]}")
    shape = [t.type.size for t in given]
    found = [
        _broadcast_to(reshape(t, [n if d == i else 1 for d in range(len(shape))]), shape)
        for i, (t, n) in enumerate(zip(given, shape, strict=True))
    ]
    return tuple(transpose(v, 0, 1) if indexing == "xy" and len(shape) > 1 else v for v in found)


# --- matrices ----------------------------------------------------------------------------------------------------


def _triangle(input: Value, diagonal: int, lower: bool) -> Value:
    if input.ndim < 2:
        raise ShapeError(f"a triangle needs at least 2 dimensions, got {list(input.shape)}")
    over = iota(input, -1) - iota(input, -2)
    keep = (le if lower else ge)(over, integer(diagonal, "diagonal"))
    return where(keep, input, False if input.dtype.is_bool else 0)


@function
def tril(input: Value, diagonal: int = 0) -> Value:
    """[..., m, n] with zeros above the ``diagonal``-th diagonal."""
    return _triangle(input, diagonal, True)


@function
def triu(input: Value, diagonal: int = 0) -> Value:
    """[..., m, n] with zeros below the ``diagonal``-th diagonal."""
    return _triangle(input, diagonal, False)


def _plane(ndim: int, dim1: int, dim2: int) -> tuple[int, int]:
    a, b = dim_index(dim1, ndim, "dim1"), dim_index(dim2, ndim, "dim2")
    if a == b:
        raise ArgumentError(f"dim1 and dim2 must differ, got {dim1} and {dim2}")
    return a, b


@function
def diagonal(input: Value, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Value:
    """The diagonal ``offset`` columns to the right in the plane of dimensions ``dim1`` and ``dim2``, as the last dimension."""
    a, b = _plane(input.ndim, dim1, dim2)
    k = integer(offset, "offset")
    x = permute(input, [*(d for d in range(input.ndim) if d not in (a, b)), a, b])
    *batch, m, n = x.shape
    first = (0, k) if k >= 0 else (-k, 0)
    count = max(min(m - first[0], n - first[1]), 0)
    start = first[0] * n + first[1] if count else 0
    stop = start + (count - 1) * (n + 1) + 1 if count else 0
    return getitem(reshape(x, (*batch, m * n)), (..., slice(start, stop, n + 1)))


@function
def diag_embed(input: Value, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Value:
    """Square matrices in the plane of new dimensions ``dim1`` and ``dim2``, zero but for the last of ``input`` on a diagonal.

    The diagonal is ``offset`` columns to the right.
    """
    a, b = _plane(input.ndim + 1, dim1, dim2)
    if input.ndim == 0:
        raise ShapeError("diag_embed needs at least 1 dimension, got a scalar")
    k, count = integer(offset, "offset"), input.shape[-1]
    n = count + abs(k)
    low = k if k >= 0 else -k * n
    length = (count - 1) * (n + 1) + 1 if count else 0
    low = low if count else 0
    zero = (0,) * (input.ndim - 1)
    value = False if input.dtype.is_bool else 0.0
    pads = {"low": (*zero, low), "high": (*zero, n * n - low - length), "interior": (*zero, n), "value": value}
    flat = apply("pad", input, **pads)
    return movedim(reshape(flat, (*input.shape[:-1], n, n)), (-2, -1), (a, b))


@function
def diag(input: Value, diagonal: int = 0) -> Value:
    """The diagonal of a matrix, or the square matrix with a vector on its diagonal."""
    if input.ndim not in (1, 2):
        raise ShapeError(f"diag takes a vector or a matrix, got {list(input.shape)}")
    return diag_embed(input, diagonal) if input.ndim == 1 else _diagonal(input, diagonal)


_diagonal = diagonal


@function
def trace(input: Value) -> Value:
    """The sum of the diagonal of a matrix."""
    if input.ndim != 2:
        raise ShapeError(f"trace takes a matrix, got {list(input.shape)}")
    return sum(_diagonal(input))

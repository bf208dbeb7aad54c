"""ATen operators that read from, or write to, positions that the data decides."""

from __future__ import annotations

from collections.abc import Sequence

import graphrt.ops as F
from graphrt.errors import ConversionError
from graphrt.frontends.torch.table import aten, pullback, same
from graphrt.ir import Value
from graphrt.types import Shape

Indices = Sequence[Value | None]

same([F.index_select, F.index_add, F.index_reduce, F.scatter_add, F.put, F.take, F.take_along_dim])
same([F.masked_scatter])
for _overload in ("Tensor", "Scalar"):
    same([F.bucketize, F.searchsorted], _overload)
aten("scatter_reduce.two")(F.scatter_reduce)


def _rows(input: Value, indices: Indices) -> tuple[list[int], Value, Shape, Value]:
    """NumPy's indexing by arrays as a choice of rows.

    Returns the dimensions that are indexed, ``input`` with them in front and flattened into one, the shape of the indices,
    and the row that each of them names.
    """
    dims = [d for d, index in enumerate(indices) if index is not None]
    rest = [d for d in range(input.ndim) if d not in dims]
    given = [index for index in indices if index is not None]
    if any(index.dtype.is_bool for index in given):
        raise ConversionError("the size of a tensor indexed by a mask depends on the data; write where(mask, a, b)")
    row, stride = None, 1
    for d, index in reversed(list(zip(dims, F.broadcast_tensors(*given), strict=True))):
        n, position = input.shape[d], F.cast(index, "int64")
        step = F.where(position < 0, position + n, position) * stride
        row, stride = step if row is None else row + step, stride * n
    assert row is not None
    table = F.reshape(F.permute(input, [*dims, *rest]), [stride, *(input.shape[d] for d in rest)])
    return dims, table, row.shape, F.reshape(row, [-1])


def _front(dims: Sequence[int], rank: int, ndim: int) -> list[int]:
    """The order of the dimensions of an indexed tensor when those of the indices, ``rank`` of them, stood in front.

    They take the place of the indexed dimensions if these are neighbours, else they stay there.
    """
    together = list(dims) == list(range(dims[0], dims[0] + len(dims)))
    at = dims[0] if together else 0
    rest = ndim - len(dims)
    return [*range(rank, rank + at), *range(rank), *range(rank + at, rank + rest)]


@aten("index.Tensor", "_unsafe_index.Tensor")
def index(input: Value, indices: Indices) -> Value:
    """``input[indices]`` with integer arrays, None for a whole dimension."""
    dims, table, shape, row = _rows(input, indices)
    picked = F.reshape(F.index_select(table, 0, row), [*shape, *table.shape[1:]])
    return F.permute(picked, _front(dims, len(shape), input.ndim))


@aten("index_put.default", "_unsafe_index_put.default")
def index_put(input: Value, indices: Indices, values: Value, accumulate: bool = False) -> Value:
    """``input`` with ``values`` at, or added at, ``input[indices]``."""
    values = F.cast(values, input.dtype)
    mask = indices[0]
    if len(indices) == 1 and mask is not None and mask.dtype.is_bool and values.type.size == 1:
        wide = F.reshape(mask, [*mask.shape, *[1] * (input.ndim - mask.ndim)])
        one = F.reshape(values, [])
        return F.where(wide, input + one if accumulate else one, input)
    dims, table, shape, row = _rows(input, indices)
    order = _front(dims, len(shape), input.ndim)
    sizes = [*shape, *table.shape[1:]]
    wide = F.expand(values, [sizes[d] for d in order])
    source = F.reshape(F.permute(wide, [order.index(d) for d in range(len(order))]), [row.shape[0], *table.shape[1:]])
    if accumulate:
        table = F.index_add(table, 0, row, source)
    else:
        table = F.scatter(table, 0, F.expand(F.reshape(row, [-1, *[1] * (table.ndim - 1)]), source.shape), source)
    rest = [d for d in range(input.ndim) if d not in dims]
    moved = [*dims, *rest]
    back = F.reshape(table, [input.shape[d] for d in moved])
    return F.permute(back, [moved.index(d) for d in range(input.ndim)])


@aten("nonzero_static.default")
def nonzero_static(input: Value, *, size: int, fill_value: int = -1) -> Value:
    """The positions [size, dimensions] of the first ``size`` elements that are not zero; ``fill_value`` behind the last."""
    flat = F.reshape(F.ne(input, 0) if not input.dtype.is_bool else input, [-1])
    number = F.where(flat, F.cumsum(F.cast(flat, "int64"), 0) - 1, -1)  # what lands outside is dropped
    place = F.scatter(F.full(input.graph, [size], -1), 0, number, F.arange(input.graph, flat.shape[0]))
    found, step = [], 1
    for n in reversed(input.shape):
        found.append(F.where(place < 0, fill_value, F.remainder(F.floor_divide(place, step), n)))
        step *= n
    return F.stack(found[::-1], 1) if found else F.zeros(input.graph, [size, 0], "int64")


@aten("repeat_interleave.Tensor")
def repeat_interleave(repeats: Value, *, output_size: int | None = None) -> Value:
    """Each position as often as ``repeats`` says, of which the sum must be known."""
    if output_size is None:
        raise ConversionError("the size of the result depends on the data; give output_size")
    return F.searchsorted(F.cumsum(F.cast(repeats, "int64"), 0), F.arange(repeats.graph, output_size), right=True)


@aten("gather.default")
def gather(input: Value, dim: int, index: Value, *, sparse_grad: bool = False) -> Value:
    return F.gather(input, dim, index)


@aten("scatter.src", "scatter.value")
def scatter(input: Value, dim: int, index: Value, src: Value | bool | int | float) -> Value:
    return F.scatter(input, dim, index, src)


@aten("scatter.reduce", "scatter.value_reduce")
def scatter_with(input: Value, dim: int, index: Value, src: Value | bool | int | float, *, reduce: str) -> Value:
    """``scatter`` that adds to what is there, or multiplies it."""
    values = src if isinstance(src, Value) else F.full_like(F.cast(index, input.dtype), src)
    return F.scatter_reduce(input, dim, index, values, {"add": "sum", "multiply": "prod"}[reduce])


@aten("masked_scatter_backward.default")
def masked_scatter_backward(dy: Value, mask: Value, sizes: Sequence[int]) -> Value:
    """The gradient of the source: the elements of ``dy`` where ``mask`` holds, in order, as many as ``sizes`` hold."""
    zeros = F.zeros(dy.graph, list(sizes), dy.dtype)  # it is linear: where it is taken does not matter
    return pullback(lambda source: F.masked_scatter(F.zeros_like(dy), mask, source), [zeros], dy)[0]

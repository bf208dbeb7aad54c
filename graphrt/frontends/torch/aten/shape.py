"""ATen operators that move elements and compute nothing: views, joins, cuts, padding."""

from __future__ import annotations

from collections.abc import Sequence

import graphrt.ops as F
from graphrt.frontends.torch.table import aten, pullback, same
from graphrt.ir import Value
from graphrt.types import promote

same([F.permute, F.flip, F.roll, F.diagonal, F.tril, F.triu, F.stack, F.unsqueeze, F.pixel_shuffle, F.pixel_unshuffle])
same([F.channel_shuffle, F.rot90, F.diag_embed, F.trace])
same([F.transpose, F.select, F.unbind], "int")
aten("squeeze.default", "squeeze.dim", "squeeze.dims")(F.squeeze)
aten("view.default", "_unsafe_view.default", "reshape.default")(F.reshape)
aten("split.Tensor", "split_with_sizes.default")(F.split)
aten("movedim.int", "movedim.intlist")(F.movedim)
aten("unfold.default")(F.windows)
aten("im2col.default")(F.unfold)
aten("col2im.default")(F.fold)


@aten("expand.default")
def expand(input: Value, size: Sequence[int], *, implicit: bool = False) -> Value:
    return F.expand(input, size)


@aten("t.default")
def t(input: Value) -> Value:
    return F.transpose(input, 0, 1) if input.ndim == 2 else input


@aten("slice.Tensor")
def slice_tensor(input: Value, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Value:
    return input[(*[slice(None)] * (dim % input.ndim), slice(start, end, step))]


@aten("cat.default")
def cat(tensors: Sequence[Value], dim: int = 0) -> Value:
    dtype = promote(*(t.dtype for t in tensors))
    kept = [F.cast(t, dtype) for t in tensors if t.shape != (0,)]  # torch lets an empty vector join anything
    return F.cat(kept or [tensors[0]], dim)


@aten("repeat.default")
def repeat(input: Value, repeats: Sequence[int]) -> Value:
    return F.repeat(input, *repeats)


@aten("constant_pad_nd.default")
def constant_pad_nd(input: Value, pad: Sequence[int], value: float = 0) -> Value:
    return F.pad(input, pad, value=float(value))


@aten(*(f"reflection_pad{n}d.default" for n in (1, 2, 3)))
def reflection_pad(input: Value, padding: Sequence[int]) -> Value:
    return F.pad(input, padding, "reflect")


@aten(*(f"replication_pad{n}d.default" for n in (1, 2, 3)))
def replication_pad(input: Value, padding: Sequence[int]) -> Value:
    return F.pad(input, padding, "replicate")


@aten(*(f"reflection_pad{n}d_backward.default" for n in (1, 2, 3)))
def reflection_pad_backward(dy: Value, input: Value, padding: Sequence[int]) -> Value:
    return pullback(lambda x: reflection_pad(x, padding), [input], dy)[0]


@aten(*(f"replication_pad{n}d_backward.default" for n in (1, 2, 3)))
def replication_pad_backward(dy: Value, input: Value, padding: Sequence[int]) -> Value:
    return pullback(lambda x: replication_pad(x, padding), [input], dy)[0]


@aten("slice_scatter.default")
def slice_scatter(
    input: Value, src: Value, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Value:
    """``input`` with ``src`` in place of a slice."""
    at, n = dim % input.ndim, input.shape[dim]
    taken = range(*slice(start, end, step).indices(n))
    if not taken:
        return input
    if step == 1:
        return F.cat(
            [slice_tensor(input, at, 0, taken[0]), F.cast(src, input.dtype), slice_tensor(input, at, taken[-1] + 1)], at
        )
    column = [-1 if d == at else 1 for d in range(input.ndim)]
    position = F.reshape(F.arange(input.graph, n) - taken[0], column)
    inside = (position >= 0) & (position < len(taken) * step) & F.eq(F.remainder(position, step), 0)
    source = F.index_select(src, at, F.reshape(F.clamp(F.floor_divide(position, step), 0, len(taken) - 1), [-1]))
    return F.where(inside, F.cast(source, input.dtype), input)


@aten("select_scatter.default")
def select_scatter(input: Value, src: Value, dim: int, index: int) -> Value:
    i = index % input.shape[dim]
    return slice_scatter(input, F.unsqueeze(src, dim % input.ndim), dim, i, i + 1)


@aten("as_strided.default")
def as_strided(input: Value, size: Sequence[int], stride: Sequence[int], storage_offset: int | None = None) -> Value:
    """Elements of a row-major tensor by their place in memory."""
    place = F.full(input.graph, list(size), storage_offset or 0)
    for d, (n, step) in enumerate(zip(size, stride, strict=True)):
        place = place + F.reshape(F.arange(input.graph, n) * step, [n if i == d else 1 for i in range(len(size))])
    return F.take(input, place)

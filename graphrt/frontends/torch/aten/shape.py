"""ATen operators that move elements and compute nothing: views, joins, cuts, padding."""

from __future__ import annotations

from collections.abc import Sequence

import graphrt.ops as F
from graphrt.errors import ConversionError
from graphrt.frontends.torch.table import Storage, aten, pullback, same
from graphrt.ir import Value
from graphrt.ops.base import constant_of
from graphrt.types import promote

same([F.permute, F.flip, F.roll, F.diagonal, F.tril, F.triu, F.stack, F.unsqueeze, F.pixel_shuffle, F.pixel_unshuffle])
same([F.channel_shuffle, F.rot90, F.diag_embed, F.trace])
same([F.slice_scatter, F.select_scatter, F.diagonal_scatter])
same([F.transpose, F.unbind], "int")
aten("squeeze.default", "squeeze.dim", "squeeze.dims")(F.squeeze)
aten("view.default", "_unsafe_view.default", "reshape.default", "view_copy.default")(F.reshape)
aten("permute_copy.default")(F.permute)
aten("narrow_copy.default")(F.narrow)
aten("unbind_copy.int")(F.unbind)
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


@aten("_local_scalar_dense.default")
def item(input: Value) -> Value:
    """A tensor's one number: what the model calculates with it is calculated by the program."""
    return F.reshape(input, [])


@aten("select.int")
def select(input: Value, dim: int, index: int | Value) -> Value:
    if not isinstance(index, Value):
        return F.select(input, dim, index)
    return F.squeeze(F.index_select(input, dim, F.where(index < 0, index + input.shape[dim], index)), dim)


def _length(start: Value | None, end: Value, step: int) -> int:
    """How long a slice is whose bounds are numbers of the program. Raises ConversionError unless ``end`` is ``start + n``."""
    node = end.node
    count = constant_of(node.inputs[1]) if node.op.name == "add" and start is not None and node.inputs[0] is start else None
    if count is None or step != 1:
        raise ConversionError(
            "the size of a slice must not depend on the data; write x[n : n + 3], or torch.narrow(x, 0, n, 3)"
        )
    return int(count)


@aten("slice.Tensor")
def slice_tensor(
    input: Value, dim: int = 0, start: int | Value | None = None, end: int | Value | None = None, step: int = 1
) -> Value:
    if isinstance(end, Value):
        first = start if isinstance(start, Value) else None
        places = F.arange(input.graph, _length(first, end, step)) + start
        return F.index_select(input, dim, places)
    if isinstance(start, Value):
        raise ConversionError(
            "the size of a slice must not depend on the data; write x[n : n + 3], or torch.narrow(x, 0, n, 3)"
        )
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


@aten("as_strided.default", "as_strided_copy.default", reads_memory=True)
def as_strided(
    memory: Storage, input: Value, size: Sequence[int], stride: Sequence[int], storage_offset: int | None = None
) -> Value:
    return F.as_strided(memory.elements(), list(size), list(stride), memory.offset(storage_offset))


@aten("as_strided_scatter.default", writes_memory=True)
def as_strided_scatter(
    memory: Storage,
    input: Value,
    src: Value,
    size: Sequence[int],
    stride: Sequence[int],
    storage_offset: int | None = None,
) -> Value:
    written = F.as_strided_scatter(memory.elements(), src, list(size), list(stride), memory.offset(storage_offset))
    return F.permute(written, [memory.order.index(d) for d in range(input.ndim)])

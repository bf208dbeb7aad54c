"""Shapes: reading them, changing them, and moving elements to known places."""

from __future__ import annotations

import math

import numpy as np

import graphrt.ops as F
from graphrt.errors import ConversionError
from graphrt.frontends.onnx.table import Call, Ints, Items, Tensor, ints, operator
from graphrt.ir import Value


@operator("Identity")
def identity(x: Tensor | Items) -> Tensor | Items:
    return x


@operator("Shape")
def shape(data: Tensor, *, start: int = 0, end: int | None = None) -> np.ndarray:
    return np.asarray(data.shape[start:end], np.int64)


@operator("Size")
def size(data: Tensor) -> np.ndarray:
    return np.asarray(math.prod(data.shape), np.int64)


@operator("Reshape")
def reshape(data: Value, shape: np.ndarray, *, allowzero: int = 0) -> Value:
    """0 keeps a size, unless ``allowzero``."""
    wanted = ints(shape)
    return F.reshape(data, [data.shape[i] if n == 0 and not allowzero else n for i, n in enumerate(wanted)])


@operator("Flatten")
def flatten(x: Value, *, axis: int = 1) -> Value:
    at = axis if axis >= 0 else axis + x.ndim
    return F.reshape(x, (math.prod(x.shape[:at]), math.prod(x.shape[at:])))


@operator("Squeeze")
def squeeze(data: Value, axes: np.ndarray | None = None) -> Value:
    return F.squeeze(data) if axes is None else F.squeeze(data, ints(axes))


@operator("Unsqueeze")
def unsqueeze(data: Value, axes: np.ndarray) -> Value:
    ndim = data.ndim + axes.size
    new = {d % ndim for d in ints(axes)}
    sizes = iter(data.shape)
    return F.reshape(data, [1 if d in new else next(sizes) for d in range(ndim)])


@operator("Transpose")
def transpose(data: Value, *, perm: Ints | None = None) -> Value:
    return F.permute(data, list(reversed(range(data.ndim))) if perm is None else list(perm))


@operator("Expand")
def expand(x: Value, shape: np.ndarray) -> Value:
    return F.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(ints(shape))))


@operator("Concat")
def concat(*inputs: Value, axis: int) -> Value:
    return F.concat(inputs, axis)


@operator("Split")
def split(
    x: Value, split: np.ndarray | None = None, *, axis: int = 0, num_outputs: int | None = None, call: Call
) -> list[Value]:
    """Without sizes in equal parts, the last one smaller where it must be."""
    count, n = num_outputs or len(call.outputs), x.shape[axis]
    if split is not None:
        return list(F.split(x, ints(split), axis))
    each = -(-n // count)
    return list(F.split(x, [min(each, n - i * each) for i in range(count)], axis))


@operator("Slice")
def slice_(
    data: Value, starts: np.ndarray, ends: np.ndarray, axes: np.ndarray | None = None, steps: np.ndarray | None = None
) -> Value:
    keys = [slice(None)] * data.ndim
    dims = range(starts.size) if axes is None else ints(axes)
    for d, a, b, step in zip(dims, ints(starts), ints(ends), ints(steps) or [1] * starts.size, strict=True):
        keys[d] = slice(a, b, step)
    return data[tuple(keys)] if data.ndim else data


@operator("Pad")
def pad(
    data: Value,
    pads: np.ndarray,
    constant_value: np.ndarray | None = None,
    axes: np.ndarray | None = None,
    *,
    mode: str = "constant",
) -> Value:
    both, dims = ints(pads), [d % data.ndim for d in ints(axes)] if axes is not None else list(range(data.ndim))
    widths = [(0, 0)] * data.ndim
    for d, low, high in zip(dims, both[: len(dims)], both[len(dims) :], strict=True):
        widths[d] = (low, high)
    flat = [n for pair in reversed(widths) for n in pair]
    value = 0.0 if constant_value is None or not constant_value.size else constant_value.item()
    name = {"edge": "replicate", "wrap": "circular"}.get(mode, mode)
    if data.dtype.is_bool:
        return F.ne(F.pad(F.cast(data, "uint8"), flat, name, float(value)), 0)
    return F.pad(data, flat, name, value)


@operator("Tile")
def tile(x: Value, repeats: np.ndarray) -> Value:
    return F.repeat(x, *ints(repeats))


@operator("DepthToSpace")
def depth_to_space(x: Value, *, blocksize: int, mode: str = "DCR") -> Value:
    """DCR takes the block's place from the front of the channels, CRD (pixel_shuffle) from their end."""
    if mode == "CRD":
        return F.pixel_shuffle(x, blocksize)
    n, c, h, w = x.shape
    parts = F.reshape(x, (n, blocksize, blocksize, c // blocksize**2, h, w))
    return F.reshape(F.permute(parts, (0, 3, 4, 1, 5, 2)), (n, c // blocksize**2, h * blocksize, w * blocksize))


@operator("SpaceToDepth")
def space_to_depth(x: Value, *, blocksize: int, mode: str = "DCR") -> Value:
    if mode == "CRD":
        return F.pixel_unshuffle(x, blocksize)
    n, c, h, w = x.shape
    parts = F.reshape(x, (n, c, h // blocksize, blocksize, w // blocksize, blocksize))
    return F.reshape(F.permute(parts, (0, 3, 5, 1, 2, 4)), (n, c * blocksize**2, h // blocksize, w // blocksize))


@operator("Trilu")
def trilu(x: Value, k: np.ndarray | None = None, *, upper: int = 1) -> Value:
    return (F.triu if upper else F.tril)(x, 0 if k is None else int(k.item()))


@operator("ReverseSequence")
def reverse_sequence(x: Value, sequence_lens: Value, *, batch_axis: int = 1, time_axis: int = 0) -> Value:
    """The first ``sequence_lens[b]`` steps of each sequence in reverse, the others where they are."""
    if {batch_axis, time_axis} != {0, 1}:
        raise ConversionError(f"batch_axis and time_axis are 0 and 1, got {batch_axis} and {time_axis}")
    rows = F.movedim(x, time_axis, 0)
    lens = F.cast(F.unsqueeze(sequence_lens, 0), "int64")
    steps = F.unsqueeze(F.arange(x.graph, rows.shape[0]), 1)
    at = F.where(steps < lens, lens - 1 - steps, F.broadcast_to(steps, rows.shape[:2]))
    wide = F.broadcast_to(F.reshape(at, (*rows.shape[:2], *[1] * (x.ndim - 2))), rows.shape)
    return F.movedim(F.gather(rows, 0, wide), 0, time_axis)

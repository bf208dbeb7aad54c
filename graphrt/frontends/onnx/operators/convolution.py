"""Convolution and transposed convolution in one to three dimensions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

import graphrt.ops as F
from graphrt.errors import ConversionError
from graphrt.frontends.onnx.table import Ints, ints, operator
from graphrt.ir import Value

Pairs = list[tuple[int, int]]


def per_dim(values: Ints, rank: int) -> list[int]:
    """An attribute with an entry for each spatial dimension; 1 where it is left out."""
    return [int(v) for v in values] or [1] * rank


def pads_of(auto_pad: str, pads: Ints, sizes: Ints, kernel: Ints, strides: Ints, dilations: Ints) -> Pairs:
    """Padding as (low, high) pairs, from ONNX's list of lows and highs or by its ``auto_pad`` rule."""
    rank = len(sizes)
    if auto_pad in ("NOTSET", ""):
        both = [int(p) for p in pads] or [0] * (2 * rank)
        return list(zip(both[:rank], both[rank:], strict=True))
    if auto_pad == "VALID":
        return [(0, 0)] * rank
    found = []
    for n, k, s, d in zip(sizes, kernel, strides, dilations, strict=True):
        found.append(halves(max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0), auto_pad))
    return found


def halves(total: int, auto_pad: str) -> tuple[int, int]:
    """``total`` padding in two: the odd one behind for SAME_UPPER, else before. What is to be added is rather added behind."""
    half = abs(total) // 2
    if total < 0:
        return -half, total + half
    return (half, total - half) if auto_pad == "SAME_UPPER" else (total - half, half)


def spatial_rank(x: Value, what: str) -> int:
    """The number of spatial dimensions of ``x`` [N, C, ...]. Raises ConversionError for more than three, or none."""
    if not 1 <= x.ndim - 2 <= 3:
        raise ConversionError(f"{what} has one to three spatial dimensions here, the input is {list(x.shape)}")
    return x.ndim - 2


def windows(
    x: Value, what: str, kernel: Ints, auto_pad: str, pads: Ints, strides: Ints, dilations: Ints
) -> tuple[list[int], list[int], Pairs]:
    """Strides, dilations and padding of the windows that the operator ``what`` lays over ``x``. Raises ConversionError."""
    rank = spatial_rank(x, what)
    steps, gaps = per_dim(strides, rank), per_dim(dilations, rank)
    return steps, gaps, pads_of(auto_pad, pads, x.shape[2:], kernel, steps, gaps)


@operator("Conv")
def conv(
    x: Value,
    w: Value,
    b: Value | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Ints = (),
    group: int = 1,
    kernel_shape: Ints = (),
    pads: Ints = (),
    strides: Ints = (),
) -> Value:
    """``kernel_shape`` says what the shape of ``w`` does."""
    steps, gaps, pairs = windows(x, "Conv", w.shape[2:], auto_pad, pads, strides, dilations)
    return (F.conv1d, F.conv2d, F.conv3d)[len(steps) - 1](x, w, b, steps, pairs, gaps, group)


def _padded(y: Value, pairs: Pairs) -> Value:
    return F.pad(y, [n for pair in reversed(pairs) for n in pair])


@operator("ConvTranspose")
def conv_transpose(
    x: Value,
    w: Value,
    b: Value | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Ints = (),
    group: int = 1,
    kernel_shape: Ints = (),
    output_padding: Ints = (),
    output_shape: Ints = (),
    pads: Ints = (),
    strides: Ints = (),
) -> Value:
    rank = spatial_rank(x, "ConvTranspose")
    steps, gaps = per_dim(strides, rank), per_dim(dilations, rank)
    extra = [int(n) for n in output_padding] or [0] * rank
    full = [(n - 1) * s + (k - 1) * d + 1 for n, k, s, d in zip(x.shape[2:], w.shape[2:], steps, gaps, strict=True)]
    wanted: Sequence[int] = [int(n) for n in output_shape[-rank:]]
    if not wanted and auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [n * s for n, s in zip(x.shape[2:], steps, strict=True)]
    if wanted:
        pairs = [halves(m + e - n, auto_pad) for m, e, n in zip(full, extra, wanted, strict=True)]
    else:
        pairs = pads_of(auto_pad, pads, x.shape[2:], w.shape[2:], steps, gaps)
    f = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[rank - 1]
    if all(min(p) >= 0 for p in pairs) and all(e < max(s, d) for e, s, d in zip(extra, steps, gaps, strict=True)):
        return f(x, w, b, steps, pairs, extra, group, gaps)
    y = f(x, w, None, steps, 0, 0, group, gaps)
    y = _padded(y, [(-low, e - high) for (low, high), e in zip(pairs, extra, strict=True)])
    return y if b is None else y + F.reshape(b, (1, -1, *[1] * rank))


@operator("Col2Im")
def col2im(
    x: Value, image_shape: np.ndarray, block_shape: np.ndarray, *, dilations: Ints = (), pads: Ints = (), strides: Ints = ()
) -> Value:
    size, kernel = ints(image_shape), ints(block_shape)
    if len(size) != 2:
        raise ConversionError(f"Col2Im makes images of two dimensions here, image_shape is {size}")
    pairs = pads_of("NOTSET", pads, size, kernel, (), ())
    whole = [n + a + b for n, (a, b) in zip(size, pairs, strict=True)]
    y = F.fold(x, whole, kernel, per_dim(dilations, 2), 0, per_dim(strides, 2))
    return _padded(y, [(-a, -b) for a, b in pairs])

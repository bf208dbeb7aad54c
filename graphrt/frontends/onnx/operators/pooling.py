"""Pooling over windows and over whole images."""

from __future__ import annotations

import math

import numpy as np

import graphrt.ops as F
from graphrt.frontends.onnx.operators.convolution import Pairs, pads_of, per_dim, spatial_rank, windows
from graphrt.frontends.onnx.table import Call, Ints, operator
from graphrt.ir import Value

_MAX = (F.max_pool1d, F.max_pool2d, F.max_pool3d)
_SUM = (F.sum_pool1d, F.sum_pool2d, F.sum_pool3d)


def _float(x: Value) -> Value:
    return x if x.dtype.is_float else F.cast(x, "float32")


@operator("MaxPool")
def max_pool(
    x: Value,
    *,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Ints = (),
    kernel_shape: Ints,
    pads: Ints = (),
    storage_order: int = 0,
    strides: Ints = (),
    call: Call,
) -> list[Value]:
    """Indices count through the whole input; ``storage_order`` 1 lets the rows of an image run fastest."""
    steps, gaps, pairs = windows(x, "MaxPool", kernel_shape, auto_pad, pads, strides, dilations)
    rank = len(steps)
    several = any(call.outputs[1:])
    y = _MAX[rank - 1](_float(x), list(kernel_shape), steps, pairs, gaps, bool(ceil_mode), several)
    if not several:
        return [F.cast(y, x.dtype)]
    values, index = y
    *_, width = x.shape
    height = math.prod(x.shape[2:-1])
    if storage_order == 1:
        index = F.remainder(index, width) * height + F.floor_divide(index, width)
    planes = np.arange(math.prod(x.shape[:2])).reshape(*x.shape[:2], *[1] * rank) * math.prod(x.shape[2:])
    return [F.cast(values, x.dtype), index + planes]


def _counts(n: int, out: int, kernel: int, step: int, pair: tuple[int, int], gap: int, padded: bool) -> np.ndarray:
    """Elements in each of ``out`` windows along one dimension, padding counted or not."""
    low, high = pair if padded else (0, 0)
    taps = np.arange(out)[:, None] * step - pair[0] + np.arange(kernel) * gap
    return ((taps >= -low) & (taps < n + high)).sum(1)


def _sums(x: Value, kernel: Ints, steps: Ints, pairs: Pairs, gaps: Ints, ceil_mode: int) -> Value:
    return _SUM[x.ndim - 3](x, list(kernel), list(steps), pairs, bool(ceil_mode), list(gaps))


@operator("AveragePool")
def average_pool(
    x: Value,
    *,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: Ints = (),
    kernel_shape: Ints,
    pads: Ints = (),
    strides: Ints = (),
) -> Value:
    steps, gaps, pairs = windows(x, "AveragePool", kernel_shape, auto_pad, pads, strides, dilations)
    y = _sums(x, kernel_shape, steps, pairs, gaps, ceil_mode)
    counts = np.ones(())
    for n, out, k, s, pair, d in zip(x.shape[2:], y.shape[2:], kernel_shape, steps, pairs, gaps, strict=True):
        counts = np.multiply.outer(counts, _counts(n, out, k, s, pair, d, bool(count_include_pad)))
    if counts.min() == counts.max():
        return y * (1.0 / float(counts.flat[0]))
    return y * (1.0 / counts).astype(x.dtype.numpy)


@operator("LpPool")
def lp_pool(
    x: Value,
    *,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Ints = (),
    kernel_shape: Ints,
    p: int = 2,
    pads: Ints = (),
    strides: Ints = (),
) -> Value:
    steps, gaps, pairs = windows(x, "LpPool", kernel_shape, auto_pad, pads, strides, dilations)
    return F.pow(_sums(F.pow(F.abs(x), float(p)), kernel_shape, steps, pairs, gaps, ceil_mode), 1.0 / p)


def _spatial(x: Value) -> list[int]:
    return list(range(2, x.ndim))


@operator("GlobalAveragePool")
def global_average_pool(x: Value) -> Value:
    return F.mean(x, _spatial(x), keepdim=True)


@operator("GlobalMaxPool")
def global_max_pool(x: Value) -> Value:
    return F.amax(x, _spatial(x), keepdim=True)


@operator("GlobalLpPool")
def global_lp_pool(x: Value, *, p: int = 2) -> Value:
    return F.norm(x, p, _spatial(x), keepdim=True)


@operator("MaxUnpool")
def max_unpool(
    x: Value, indices: Value, output_shape: np.ndarray | None = None, *, kernel_shape: Ints, pads: Ints = (), strides: Ints = ()
) -> Value:
    """Zeros with the elements of ``x`` where MaxPool found them."""
    rank = spatial_rank(x, "MaxUnpool")
    steps = per_dim(strides, rank)
    pairs = pads_of("NOTSET", pads, x.shape[2:], kernel_shape, steps, [1] * rank)
    sizes = [(n - 1) * s + k - a - b for n, s, k, (a, b) in zip(x.shape[2:], steps, kernel_shape, pairs, strict=True)]
    shape = [*x.shape[:2], *sizes]
    flat = F.zeros_like(F.broadcast_to(x.graph.constant(0.0, x.dtype), [math.prod(shape)]))
    y = F.reshape(F.scatter(flat, 0, F.reshape(indices, [-1]), F.reshape(x, [-1])), shape)
    if output_shape is None:
        return y
    return F.pad(y, [n for m, k in zip(output_shape[::-1], y.shape[::-1], strict=True) for n in (0, int(m) - k)])

"""Pooling functions, over the window ops. Names, arguments and defaults follow torch.nn.functional."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from graphrt.errors import ArgumentError, ShapeError
from graphrt.ir import Value
from graphrt.ops.base import apply, function, ntuple

Size = int | Sequence[int]


def _attrs(input: Value, kernel: Size, stride: Size | None, padding: Size, dilation: Size, ceil_mode: bool) -> dict[str, Any]:
    """Pooling arguments in the op's form; ceil mode becomes high padding, dropping windows that start past the end."""
    if input.ndim != 4:
        raise ShapeError(f"2-D pooling needs input [N, C, H, W], got {list(input.shape)}")
    k = ntuple(kernel, 2, "kernel_size", 1)
    s = k if stride is None else ntuple(stride, 2, "stride", 1)
    p, d = ntuple(padding, 2, "padding", 0), ntuple(dilation, 2, "dilation", 1)
    if any(2 * a > b for a, b in zip(p, k, strict=True)):
        raise ArgumentError(f"padding must be at most half of kernel_size {k}, got {p}")
    pads = []
    for n, size, step, low, gap in zip(input.shape[2:], k, s, p, d, strict=True):
        high = low
        if ceil_mode:
            span = n + 2 * low - gap * (size - 1) - 1
            out = -(-span // step) + 1
            if (out - 1) * step >= n + low:
                out -= 1
            high = max((out - 1) * step + gap * (size - 1) + 1 - n - low, low)
        pads.append((low, high))
    return dict(kernel=k, stride=s, padding=tuple(pads), dilation=d)


@function
def max_pool2d(
    input: Value,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
) -> Value:
    """Largest element of each window of [N, C, H, W]; NaN wins, the first of equal elements gets the gradient."""
    return apply("max_pool", input, **_attrs(input, kernel_size, stride, padding, dilation, ceil_mode))


@function
def sum_pool2d(
    input: Value, kernel_size: Size, stride: Size | None = None, padding: Size = 0, ceil_mode: bool = False
) -> Value:
    """Sum of each window of [N, C, H, W]; padding counts as zero."""
    return apply("sum_pool", input, **_attrs(input, kernel_size, stride, padding, 1, ceil_mode))


@function
def avg_pool2d(
    input: Value,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Value:
    """Mean of each window of [N, C, H, W]; padding counts as zero elements unless ``count_include_pad`` is False."""
    attrs = _attrs(input, kernel_size, stride, padding, 1, ceil_mode)
    y = apply("sum_pool", input, **attrs)
    pads, given = attrs["padding"], ntuple(padding, 2, "padding", 0)
    plain = count_include_pad or not any(given)
    if plain and all(b <= p for (_, b), p in zip(pads, given, strict=True)):
        return y * (1.0 / math.prod(attrs["kernel"]))
    margin = given if count_include_pad else (0, 0)  # what ceil mode adds behind the padding never counts
    counts = []
    for n, size, step, (low, _), m, extra in zip(
        y.shape[2:], attrs["kernel"], attrs["stride"], pads, input.shape[2:], margin, strict=True
    ):
        start = np.arange(n) * step - low
        counts.append(np.minimum(start + size, m + extra) - np.maximum(start, -extra))
    return y * (1.0 / np.outer(*counts)).astype(np.float32)


@function
def global_avg_pool2d(input: Value) -> Value:
    """Mean over H and W of [N, C, H, W], as [N, C, 1, 1]."""
    return avg_pool2d(input, input.shape[2:])

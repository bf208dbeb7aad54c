"""Pooling layers with torch's names, arguments and defaults."""

from __future__ import annotations

from collections.abc import Sequence

import graphrt.ops as F
from graphrt.errors import ArgumentError
from graphrt.ir import Value
from graphrt.nn.module import Module

Size = int | Sequence[int]


class MaxPool2d(Module):
    """Largest element of each window of [N, C, H, W]; ``stride`` defaults to the window. Indices are not returned."""

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        dilation: Size = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        if return_indices:
            raise ArgumentError("MaxPool2d cannot return indices")
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        self.dilation, self.ceil_mode = dilation, ceil_mode

    def forward(self, input: Value) -> Value:
        return F.max_pool2d(input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode)


class AvgPool2d(Module):
    """Mean of each window of [N, C, H, W]; ``stride`` defaults to the window."""

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        self.ceil_mode, self.count_include_pad = ceil_mode, count_include_pad

    def forward(self, input: Value) -> Value:
        return F.avg_pool2d(input, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad)


class SumPool2d(Module):
    """Sum of each window of [N, C, H, W]; ``stride`` defaults to the window. torch has no such layer."""

    def __init__(self, kernel_size: Size, stride: Size | None = None, padding: Size = 0, ceil_mode: bool = False) -> None:
        self.kernel_size, self.stride, self.padding, self.ceil_mode = kernel_size, stride, padding, ceil_mode

    def forward(self, input: Value) -> Value:
        return F.sum_pool2d(input, self.kernel_size, self.stride, self.padding, self.ceil_mode)

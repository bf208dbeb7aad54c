"""Pooling layers with torch's names, arguments and defaults."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import graphrt.ops as F
from graphrt.ir import Value
from graphrt.nn.module import Module

Size = int | Sequence[int]


class _MaxPool(Module):
    rank = 0

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        dilation: Size = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        self.kernel_size, self.stride, self.padding, self.dilation = kernel_size, stride, padding, dilation
        self.return_indices, self.ceil_mode = return_indices, ceil_mode

    def forward(self, input: Value) -> Any:
        pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[self.rank - 1]
        return pool(input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode, self.return_indices)


class _AvgPool(Module):
    rank = 0

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        self.ceil_mode, self.count_include_pad, self.divisor_override = ceil_mode, count_include_pad, divisor_override

    def forward(self, input: Value) -> Value:
        pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[self.rank - 1]
        return pool(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
        )


class _SumPool(Module):
    rank = 0

    def __init__(self, kernel_size: Size, stride: Size | None = None, padding: Size = 0, ceil_mode: bool = False) -> None:
        self.kernel_size, self.stride, self.padding, self.ceil_mode = kernel_size, stride, padding, ceil_mode

    def forward(self, input: Value) -> Value:
        pool = (F.sum_pool1d, F.sum_pool2d, F.sum_pool3d)[self.rank - 1]
        return pool(input, self.kernel_size, self.stride, self.padding, self.ceil_mode)


class _LPPool(Module):
    rank = 0

    def __init__(self, norm_type: float, kernel_size: Size, stride: Size | None = None, ceil_mode: bool = False) -> None:
        self.norm_type, self.kernel_size, self.stride, self.ceil_mode = norm_type, kernel_size, stride, ceil_mode

    def forward(self, input: Value) -> Value:
        pool = (F.lp_pool1d, F.lp_pool2d, F.lp_pool3d)[self.rank - 1]
        return pool(input, self.norm_type, self.kernel_size, self.stride, self.ceil_mode)


class _AdaptiveAvgPool(Module):
    rank = 0

    def __init__(self, output_size: Any) -> None:
        self.output_size = output_size

    def forward(self, input: Value) -> Value:
        pool = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)[self.rank - 1]
        return pool(input, self.output_size)


class _AdaptiveMaxPool(Module):
    rank = 0

    def __init__(self, output_size: Any, return_indices: bool = False) -> None:
        self.output_size, self.return_indices = output_size, return_indices

    def forward(self, input: Value) -> Any:
        pool = (F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d)[self.rank - 1]
        return pool(input, self.output_size, self.return_indices)


class MaxPool1d(_MaxPool):
    """Largest element of each window: [N, C, L] -> [N, C, P]; arguments as ``MaxPool2d``."""

    rank = 1


class MaxPool2d(_MaxPool):
    """Largest element of each window: [N, C, H, W] -> [N, C, P, Q]; without N as well.

    ``P = floor((H + 2 * padding - dilation * (kernel_size - 1) - 1) / stride) + 1``, rounded up with ``ceil_mode``.
    ``kernel_size``, ``stride`` (None: the window's), ``padding`` and ``dilation`` are an int, or one for each of H and W. The
    padding never wins, NaN does; the first of equal elements gets the gradient. With ``return_indices`` the result is a pair:
    the elements, and their places in the flattened H * W (int64). Raises ShapeError, ArgumentError when called.
    """

    rank = 2


class MaxPool3d(_MaxPool):
    """Largest element of each window: [N, C, D, H, W] -> [N, C, *spatial]; arguments as ``MaxPool2d``."""

    rank = 3


class AvgPool1d(_AvgPool):
    """Mean of each window: [N, C, L] -> [N, C, P]; arguments as ``AvgPool2d``."""

    rank = 1


class AvgPool2d(_AvgPool):
    """Mean of each window: [N, C, H, W] -> [N, C, P, Q]; without N as well.

    ``kernel_size``, ``stride``, ``padding`` and ``ceil_mode`` as of ``MaxPool2d``. The padding counts as zeros unless
    ``count_include_pad`` is False; ``divisor_override`` divides the sum in place of the number of elements. Raises ShapeError,
    ArgumentError when called.
    """

    rank = 2


class AvgPool3d(_AvgPool):
    """Mean of each window: [N, C, D, H, W] -> [N, C, *spatial]; arguments as ``AvgPool2d``."""

    rank = 3


class SumPool1d(_SumPool):
    """Sum of each window of [N, C, L]; arguments as ``SumPool2d``."""

    rank = 1


class SumPool2d(_SumPool):
    """Sum of each window of [N, C, H, W], in which the padding counts as zeros. torch has no such layer.

    ``kernel_size``, ``stride``, ``padding`` and ``ceil_mode`` as of ``MaxPool2d``.
    """

    rank = 2


class SumPool3d(_SumPool):
    """Sum of each window of [N, C, D, H, W]; arguments as ``SumPool2d``."""

    rank = 3


class LPPool1d(_LPPool):
    """``sum(input ** norm_type) ** (1 / norm_type)`` of each window of [N, C, L]: 1 is the sum, 2 the Euclidean norm.

    ``kernel_size``, ``stride`` and ``ceil_mode`` as of ``MaxPool1d``.
    """

    rank = 1


class LPPool2d(_LPPool):
    """``sum(input ** norm_type) ** (1 / norm_type)`` of each window of [N, C, H, W]: 1 is the sum, 2 the Euclidean norm.

    ``kernel_size``, ``stride`` and ``ceil_mode`` as of ``MaxPool2d``.
    """

    rank = 2


class LPPool3d(_LPPool):
    """``sum(input ** norm_type) ** (1 / norm_type)`` of each window of [N, C, D, H, W]: 1 is the sum, 2 the Euclidean norm.

    ``kernel_size``, ``stride`` and ``ceil_mode`` as of ``MaxPool3d``.
    """

    rank = 3


class AdaptiveAvgPool1d(_AdaptiveAvgPool):
    """Means of [N, C, L] over ``output_size`` windows of nearly equal size; without N as well.

    ``output_size`` is an int; None keeps a dimension's size. 1 is the mean of each channel.
    """

    rank = 1


class AdaptiveAvgPool2d(_AdaptiveAvgPool):
    """Means of [N, C, H, W] over ``output_size`` windows of nearly equal size; without N as well.

    ``output_size`` is an int, or one for each dimension; None keeps a dimension's size. 1 is the mean of each channel.
    """

    rank = 2


class AdaptiveAvgPool3d(_AdaptiveAvgPool):
    """Means of [N, C, D, H, W] over ``output_size`` windows of nearly equal size; without N as well.

    ``output_size`` is an int, or one for each dimension; None keeps a dimension's size. 1 is the mean of each channel.
    """

    rank = 3


class AdaptiveMaxPool1d(_AdaptiveMaxPool):
    """Largest elements of [N, C, L] in ``output_size`` windows as ``AdaptiveAvgPool1d`` has them.

    With ``return_indices`` the result is a pair, with the elements' places in the flattened spatial dimensions (int64).
    """

    rank = 1


class AdaptiveMaxPool2d(_AdaptiveMaxPool):
    """Largest elements of [N, C, H, W] in ``output_size`` windows as ``AdaptiveAvgPool2d`` has them.

    With ``return_indices`` the result is a pair, with the elements' places in the flattened spatial dimensions (int64).
    """

    rank = 2


class AdaptiveMaxPool3d(_AdaptiveMaxPool):
    """Largest elements of [N, C, D, H, W] in ``output_size`` windows as ``AdaptiveAvgPool3d`` has them.

    With ``return_indices`` the result is a pair, with the elements' places in the flattened spatial dimensions (int64).
    """

    rank = 3

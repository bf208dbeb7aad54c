"""Convolution layers with torch's names, arguments and defaults."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

import graphrt.ops as F
from graphrt.errors import ArgumentError
from graphrt.ir import Value
from graphrt.nn.init import uniform_, weights
from graphrt.nn.module import Module, Parameter, optional
from graphrt.ops.base import ntuple
from graphrt.ops.conv import out_size
from graphrt.ops.convolution import paddings

Size = int | Sequence[int]
MODES = ("zeros", "reflect", "replicate", "circular")


def _check_channels(in_channels: int, out_channels: int, groups: int) -> None:
    if not all(isinstance(n, int) and n >= 1 for n in (in_channels, out_channels, groups)):
        raise ArgumentError(f"channels and groups must be ints >= 1, got {in_channels}, {out_channels}, groups {groups}")
    if in_channels % groups or out_channels % groups:
        raise ArgumentError(f"channels must be multiples of groups, got {in_channels}, {out_channels}, groups {groups}")


class _Conv(Module):
    rank = 0

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Any = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
    ) -> None:
        if padding_mode not in MODES:
            raise ArgumentError(f"padding_mode must be one of {', '.join(MODES)}, got {padding_mode!r}")
        _check_channels(in_channels, out_channels, groups)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size = ntuple(kernel_size, self.rank, "kernel_size", 1)
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        self.padding_mode = padding_mode
        self.weight, self.bias = weights((out_channels, in_channels // groups, *self.kernel_size), bias)

    def forward(self, input: Value) -> Value:
        padding = self.padding
        if self.padding_mode != "zeros":
            stride, dilation = (ntuple(v, self.rank, "stride", 1) for v in (self.stride, self.dilation))
            pairs = paddings(padding, self.kernel_size, stride, dilation)
            input = F.pad(input, [n for pair in reversed(pairs) for n in pair], self.padding_mode)
            padding = 0
        weight, bias = self.weight.value(input.graph), optional(self.bias, input)
        convolve = (F.conv1d, F.conv2d, F.conv3d)[self.rank - 1]
        return convolve(input, weight, bias, self.stride, padding, self.dilation, self.groups)


class Conv1d(_Conv):
    """1-D cross-correlation: [N, in_channels, L] -> [N, out_channels, P]; arguments as ``Conv2d``.

    ``weight`` is [out_channels, in_channels / groups, R].
    """

    rank = 1


class Conv2d(_Conv):
    """2-D cross-correlation: [N, in_channels, H, W] -> [N, out_channels, P, Q]; without N as well.

    ``P = floor((H + 2 * padding - dilation * (kernel_size - 1) - 1) / stride) + 1``, and Q likewise from W. ``kernel_size``,
    ``stride``, ``padding`` and ``dilation`` are an int, or one for each of H and W; ``padding`` is also (low, high) pairs,
    "same" (stride 1: P is H) or "valid" (none). ``padding_mode`` says what stands in the padding: zeros, reflect, replicate or
    circular. Channels in ``groups`` see only the inputs of their group: ``groups=in_channels`` is a depthwise convolution.

    ``weight`` [out_channels, in_channels / groups, R, S] and ``bias`` [out_channels] start uniform within ``1 /
    sqrt(in_channels / groups * R * S)`` of 0, as torch's. 3x3 filters of stride 1 run by Winograd's method on the cpu target
    (docs/cpu.md). Raises ArgumentError; when called, ShapeError and DTypeError.
    """

    rank = 2


class Conv3d(_Conv):
    """3-D cross-correlation: [N, in_channels, D, H, W] -> [N, out_channels, *spatial]; arguments as ``Conv2d``.

    ``weight`` is [out_channels, in_channels / groups, T, R, S].
    """

    rank = 3


class _ConvTranspose(Module):
    rank = 0

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        output_padding: Size = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Size = 1,
        padding_mode: str = "zeros",
    ) -> None:
        if padding_mode != "zeros":
            raise ArgumentError(f"padding_mode of a transposed convolution must be 'zeros', got {padding_mode!r}")
        _check_channels(in_channels, out_channels, groups)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size = ntuple(kernel_size, self.rank, "kernel_size", 1)
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        self.output_padding = output_padding
        self.weight, _ = weights((in_channels, out_channels // groups, *self.kernel_size), False)
        bound = 1.0 / math.sqrt(out_channels // groups * math.prod(self.kernel_size))
        self.bias = uniform_(Parameter(np.empty(out_channels, np.float32)), -bound, bound) if bias else None

    def forward(self, input: Value) -> Value:
        weight, bias = self.weight.value(input.graph), optional(self.bias, input)
        convolve = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[self.rank - 1]
        return convolve(input, weight, bias, self.stride, self.padding, self.output_padding, self.groups, self.dilation)


class ConvTranspose1d(_ConvTranspose):
    """The gradient of ``Conv1d`` as a layer: [N, in_channels, P] -> [N, out_channels, L]; arguments as ``ConvTranspose2d``."""

    rank = 1


class ConvTranspose2d(_ConvTranspose):
    """The gradient of ``Conv2d`` as a layer: [N, in_channels, P, Q] -> [N, out_channels, H, W]; without N as well.

    ``H = (P - 1) * stride - 2 * padding + dilation * (kernel_size - 1) + output_padding + 1``: the size that ``Conv2d`` with
    these arguments takes to P. Several sizes lead to one P when ``stride`` is above 1; ``output_padding``, less than ``stride``
    or ``dilation``, chooses. ``kernel_size`` to ``groups`` as of ``Conv2d``; ``padding_mode`` is "zeros".

    ``weight`` is [in_channels, out_channels / groups, R, S]. Raises ArgumentError; when called, ShapeError and DTypeError.
    """

    rank = 2


class ConvTranspose3d(_ConvTranspose):
    """The gradient of ``Conv3d`` as a layer: [N, in_channels, *spatial] -> [N, out_channels, D, H, W].

    Arguments as ``ConvTranspose2d``.
    """

    rank = 3


class LocalConv2d(Module):
    """``Conv2d`` with a filter of its own at each of the output's positions, so for one ``input_size`` (H, W) only.

    ``weight`` [P, Q, out_channels, in_channels, R, S], ``bias`` [out_channels, P, Q]; ``kernel_size``, ``stride``, ``padding``
    and ``dilation`` are an int or two. torch has no such layer.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        input_size: Size,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        dilation: Size = 1,
        bias: bool = True,
    ) -> None:
        _check_channels(in_channels, out_channels, 1)
        kernel, size = ntuple(kernel_size, 2, "kernel_size", 1), ntuple(input_size, 2, "input_size", 1)
        self.stride, self.padding, self.dilation = stride, padding, dilation
        steps, gaps = ntuple(stride, 2, "stride", 1), ntuple(dilation, 2, "dilation", 1)
        pads = [(p, p) for p in ntuple(padding, 2, "padding", 0)]
        out = tuple(map(out_size, size, kernel, steps, pads, gaps))
        if min(out) < 1:
            raise ArgumentError(f"kernel_size {kernel} does not fit input_size {size}")
        bound = 1.0 / math.sqrt(in_channels * math.prod(kernel))
        weight = Parameter(np.empty((*out, out_channels, in_channels, *kernel), np.float32))
        self.weight = uniform_(weight, -bound, bound)
        self.bias = uniform_(Parameter(np.empty((out_channels, *out), np.float32)), -bound, bound) if bias else None

    def forward(self, input: Value) -> Value:
        weight, bias = self.weight.value(input.graph), optional(self.bias, input)
        return F.local_conv2d(input, weight, bias, self.stride, self.padding, self.dilation)


class Unfold(Module):
    """im2col: the windows of [N, C, H, W] as columns [N, C * R * S, L], where L counts the windows.

    ``kernel_size`` (R, S), ``dilation``, ``padding`` and ``stride`` are an int or two, as of ``Conv2d``.
    """

    def __init__(self, kernel_size: Size, dilation: Size = 1, padding: Size = 0, stride: Size = 1) -> None:
        self.kernel_size, self.dilation, self.padding, self.stride = kernel_size, dilation, padding, stride

    def forward(self, input: Value) -> Value:
        return F.unfold(input, self.kernel_size, self.dilation, self.padding, self.stride)


class Fold(Module):
    """col2im: columns [N, C * R * S, L] added into [N, C, *output_size], the transpose of ``Unfold``.

    ``kernel_size``, ``dilation``, ``padding`` and ``stride`` are those that ``Unfold`` was given.
    """

    def __init__(self, output_size: Size, kernel_size: Size, dilation: Size = 1, padding: Size = 0, stride: Size = 1) -> None:
        self.output_size, self.kernel_size = output_size, kernel_size
        self.dilation, self.padding, self.stride = dilation, padding, stride

    def forward(self, input: Value) -> Value:
        return F.fold(input, self.output_size, self.kernel_size, self.dilation, self.padding, self.stride)


class PixelShuffle(Module):
    """[..., C * r * r, H, W] -> [..., C, H * r, W * r] for ``upscale_factor`` r (Shi et al., CVPR 2016)."""

    def __init__(self, upscale_factor: int) -> None:
        self.upscale_factor = upscale_factor

    def forward(self, input: Value) -> Value:
        return F.pixel_shuffle(input, self.upscale_factor)


class PixelUnshuffle(Module):
    """[..., C, H * r, W * r] -> [..., C * r * r, H, W] for ``downscale_factor`` r, the inverse of ``PixelShuffle``."""

    def __init__(self, downscale_factor: int) -> None:
        self.downscale_factor = downscale_factor

    def forward(self, input: Value) -> Value:
        return F.pixel_unshuffle(input, self.downscale_factor)


class ChannelShuffle(Module):
    """[N, g * C, ...] with the channels of the ``groups`` g interleaved (Zhang et al., ShuffleNet, CVPR 2018)."""

    def __init__(self, groups: int) -> None:
        self.groups = groups

    def forward(self, input: Value) -> Value:
        return F.channel_shuffle(input, self.groups)

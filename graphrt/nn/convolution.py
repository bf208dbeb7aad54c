"""Convolution layers with torch's names, arguments and defaults."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import graphrt.ops as F
from graphrt.errors import ArgumentError
from graphrt.ir import Value
from graphrt.nn.init import weights
from graphrt.nn.module import Module, optional
from graphrt.ops.base import ntuple

Size = int | Sequence[int]


class Conv2d(Module):
    """2-D cross-correlation of [N, C, H, W]; weight [out_channels, in_channels / groups, *kernel_size].

    ``padding`` is also "same" or "valid". Only ``padding_mode`` "zeros" exists. Raises ArgumentError.
    """

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
        if padding_mode != "zeros":
            raise ArgumentError(f"padding_mode must be 'zeros', got {padding_mode!r}")
        if min(in_channels, out_channels, groups) < 1 or in_channels % groups or out_channels % groups:
            raise ArgumentError(f"channels must be multiples of groups, got {in_channels}, {out_channels}, groups {groups}")
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size = ntuple(kernel_size, 2, "kernel_size", 1)
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        self.weight, self.bias = weights((out_channels, in_channels // groups, *self.kernel_size), bias)

    def forward(self, input: Value) -> Value:
        weight, bias = self.weight.value(input.graph), optional(self.bias, input)
        return F.conv2d(input, weight, bias, self.stride, self.padding, self.dilation, self.groups)

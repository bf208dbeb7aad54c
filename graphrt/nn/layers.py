"""Layers with torch's names, arguments and defaults."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

import graphrt.ops as F
from graphrt.errors import ArgumentError, ShapeError
from graphrt.ir import Value
from graphrt.nn import init
from graphrt.nn.module import Buffer, Module, Parameter
from graphrt.ops.base import ntuple

Size = int | Sequence[int]


class Sequential(Module):
    """Modules one after the other, named by position or by the keys of one dict."""

    def __init__(self, *modules: Module | Mapping[str, Module]) -> None:
        table: dict[str, Any] = {str(i): m for i, m in enumerate(modules)}
        if len(modules) == 1 and isinstance(modules[0], Mapping):
            table = dict(modules[0])
        for name, module in table.items():
            if not isinstance(module, Module):
                raise ArgumentError(f"Sequential takes Modules; number {name} is {type(module).__name__}")
        self._table: dict[str, Module] = table

    def _members(self) -> Iterator[tuple[str, Any]]:
        return iter(self._table.items())

    def __len__(self) -> int:
        return len(self._table)

    def __iter__(self) -> Iterator[Module]:
        return iter(self._table.values())

    def __getitem__(self, index: int) -> Module:
        return list(self._table.values())[index]

    def forward(self, input: Value) -> Value:
        for module in self:
            input = module(input)
        return input


class Identity(Module):
    """Its input."""

    def forward(self, input: Value) -> Value:
        return input


class Flatten(Module):
    """Dimensions ``start_dim`` to ``end_dim`` joined into one."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, input: Value) -> Value:
        return F.flatten(input, self.start_dim, self.end_dim)


# --- weights -----------------------------------------------------------------------------------------------------


def _weights(shape: tuple[int, ...], bias: bool) -> tuple[Parameter, Parameter | None]:
    """Weight [out, in, ...] and bias [out], both uniform in +-1/sqrt(fan in), which is torch's kaiming_uniform_(a=sqrt 5)."""
    weight = init.kaiming_uniform_(Parameter(np.empty(shape, np.float32)), a=math.sqrt(5.0))
    if not bias:
        return weight, None
    bound = 1.0 / math.sqrt(max(init.fans(weight)[0], 1))
    return weight, init.uniform_(Parameter(np.empty(shape[:1], np.float32)), -bound, bound)


def _value(parameter: Parameter | None, like: Value) -> Value | None:
    return None if parameter is None else parameter.value(like.graph)


class Linear(Module):
    """``input @ weight.T + bias``: input [..., in_features], weight [out_features, in_features]."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        if in_features < 1 or out_features < 1:
            raise ArgumentError(f"Linear needs positive sizes, got {in_features} and {out_features}")
        self.in_features, self.out_features = in_features, out_features
        self.weight, self.bias = _weights((out_features, in_features), bias)

    def forward(self, input: Value) -> Value:
        return F.linear(input, self.weight.value(input.graph), _value(self.bias, input))


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
        self.weight, self.bias = _weights((out_channels, in_channels // groups, *self.kernel_size), bias)

    def forward(self, input: Value) -> Value:
        weight, bias = self.weight.value(input.graph), _value(self.bias, input)
        return F.conv2d(input, weight, bias, self.stride, self.padding, self.dilation, self.groups)


# --- activations: ``inplace`` is accepted and ignored, values of a graph never change ----------------------------


class ReLU(Module):
    """``max(input, 0)``."""

    def __init__(self, inplace: bool = False) -> None: ...

    def forward(self, input: Value) -> Value:
        return F.relu(input)


class LeakyReLU(Module):
    """``input`` where positive, else ``negative_slope * input``."""

    def __init__(self, negative_slope: float = 0.01, inplace: bool = False) -> None:
        self.negative_slope = negative_slope

    def forward(self, input: Value) -> Value:
        return F.leaky_relu(input, self.negative_slope)


class ELU(Module):
    """``input`` where positive, else ``alpha * (exp(input) - 1)``."""

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        self.alpha = alpha

    def forward(self, input: Value) -> Value:
        return F.elu(input, self.alpha)


class Softplus(Module):
    """``log(1 + exp(beta * input)) / beta``; torch's ``threshold`` only avoids overflow, which cannot occur here."""

    def __init__(self, beta: float = 1.0) -> None:
        self.beta = beta

    def forward(self, input: Value) -> Value:
        return F.softplus(input, self.beta)


class Sigmoid(Module):
    """``1 / (1 + exp(-input))``."""

    def forward(self, input: Value) -> Value:
        return F.sigmoid(input)


class Tanh(Module):
    """Hyperbolic tangent."""

    def forward(self, input: Value) -> Value:
        return F.tanh(input)


class GELU(Module):
    """``input * Phi(input)``, exact or with ``approximate="tanh"``."""

    def __init__(self, approximate: str = "none") -> None:
        self.approximate = approximate

    def forward(self, input: Value) -> Value:
        return F.gelu(input, self.approximate)


class SiLU(Module):
    """``input * sigmoid(input)``."""

    def __init__(self, inplace: bool = False) -> None: ...

    def forward(self, input: Value) -> Value:
        return F.silu(input)


class Softmax(Module):
    """Softmax over ``dim`` (the last by default; torch guesses and warns)."""

    def __init__(self, dim: int = -1) -> None:
        self.dim = dim

    def forward(self, input: Value) -> Value:
        return F.softmax(input, self.dim)


class LogSoftmax(Module):
    """Logarithm of softmax over ``dim`` (the last by default)."""

    def __init__(self, dim: int = -1) -> None:
        self.dim = dim

    def forward(self, input: Value) -> Value:
        return F.log_softmax(input, self.dim)


# --- pooling -----------------------------------------------------------------------------------------------------


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


# --- normalisation and dropout -----------------------------------------------------------------------------------


class _BatchNorm(Module):
    """Batch normalisation over all dimensions but 1 (Ioffe and Szegedy, ICML 2015).

    Training uses the batch's statistics and updates the running ones, which evaluation uses. ``momentum`` is a number:
    torch's None (a cumulative average) is not offered. Raises ArgumentError.
    """

    ndims: tuple[int, ...] = ()

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
    ) -> None:
        if not isinstance(momentum, int | float):
            raise ArgumentError(f"momentum must be a number, got {momentum!r}")
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        zeros, ones = np.zeros(num_features, np.float32), np.ones(num_features, np.float32)
        self.weight = Parameter(ones) if affine else None
        self.bias = Parameter(zeros) if affine else None
        self.running_mean = Buffer(zeros) if track_running_stats else None
        self.running_var = Buffer(ones) if track_running_stats else None

    def forward(self, input: Value) -> Value:
        if input.ndim not in self.ndims:
            raise ShapeError(f"{type(self).__name__} needs {self.ndims} dimensions, got {list(input.shape)}")
        mean, var = _value(self.running_mean, input), _value(self.running_var, input)
        weight, bias = _value(self.weight, input), _value(self.bias, input)
        training = self.training or mean is None
        return F.batch_norm(input, mean, var, weight, bias, training, self.momentum, self.eps)


class BatchNorm1d(_BatchNorm):
    __doc__ = f"[N, C] or [N, C, L]. {_BatchNorm.__doc__}"
    ndims = (2, 3)


class BatchNorm2d(_BatchNorm):
    __doc__ = f"[N, C, H, W]. {_BatchNorm.__doc__}"
    ndims = (4,)


class LayerNorm(Module):
    """Normalisation over the last dimensions, whose sizes are ``normalized_shape`` (Ba et al., 2016)."""

    def __init__(self, normalized_shape: Size, eps: float = 1e-5, elementwise_affine: bool = True, bias: bool = True) -> None:
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.normalized_shape, self.eps = shape, eps
        self.weight = Parameter(np.ones(shape, np.float32)) if elementwise_affine else None
        self.bias = Parameter(np.zeros(shape, np.float32)) if elementwise_affine and bias else None

    def forward(self, input: Value) -> Value:
        weight, bias = _value(self.weight, input), _value(self.bias, input)
        return F.layer_norm(input, self.normalized_shape, weight, bias, self.eps)


class Dropout(Module):
    """Zeroes elements with probability ``p`` in training, scaling the rest (Srivastava et al., JMLR 2014)."""

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        if not 0.0 <= p <= 1.0:
            raise ArgumentError(f"p is a probability, got {p}")
        self.p = p

    def forward(self, input: Value) -> Value:
        return F.dropout(input, self.p, self.training)

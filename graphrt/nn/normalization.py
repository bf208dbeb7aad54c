"""Normalisation layers with torch's names, arguments and defaults."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

import graphrt.ops as F
from graphrt.errors import ArgumentError, ShapeError
from graphrt.ir import Value
from graphrt.nn.module import Buffer, Module, Parameter, optional

Size = int | Sequence[int]


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
        mean, var = optional(self.running_mean, input), optional(self.running_var, input)
        weight, bias = optional(self.weight, input), optional(self.bias, input)
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
        weight, bias = optional(self.weight, input), optional(self.bias, input)
        return F.layer_norm(input, self.normalized_shape, weight, bias, self.eps)

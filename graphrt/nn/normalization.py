"""Normalisation layers with torch's names, arguments and defaults."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

import graphrt.ops as F
from graphrt.errors import ArgumentError, ShapeError
from graphrt.ir import Graph, Value
from graphrt.nn.module import Buffer, Module, Parameter, optional
from graphrt.ops.base import dim_index

Size = int | Sequence[int]
M = TypeVar("M", bound=Module)


class _Norm(Module):
    """Scale, shift and running statistics of [N, C, ...]."""

    ndims: tuple[int, ...] = ()

    def __init__(self, num_features: int, eps: float, momentum: float | None, affine: bool, track_running_stats: bool) -> None:
        if momentum is not None and not isinstance(momentum, int | float):
            raise ArgumentError(f"momentum must be a number or None, got {momentum!r}")
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        zeros, ones = np.zeros(num_features, np.float32), np.ones(num_features, np.float32)
        self.weight = Parameter(ones) if affine else None
        self.bias = Parameter(zeros) if affine else None
        self.running_mean = Buffer(zeros) if track_running_stats else None
        self.running_var = Buffer(ones) if track_running_stats else None
        self.num_batches_tracked = Buffer(np.asarray(0, np.int64)) if track_running_stats else None

    def _values(self, input: Value) -> list[Value | None]:
        """Running mean and variance, weight and bias as values of the graph of ``input``."""
        if input.ndim not in self.ndims:
            raise ShapeError(f"{type(self).__name__} needs {self.ndims} dimensions, got {list(input.shape)}")
        return [optional(p, input) for p in (self.running_mean, self.running_var, self.weight, self.bias)]


class _BatchNorm(_Norm):
    """Batch normalisation over all dimensions but 1 (Ioffe and Szegedy, ICML 2015).

    ``(input - mean) / sqrt(var + eps) * weight + bias`` for each of ``num_features`` channels. Training uses the batch's mean
    and variance, and moves the running ones towards them: ``running = (1 - momentum) * running + momentum * batch``, the
    variance unbiased. Evaluation uses the running ones. ``momentum`` None makes them the plain average of all batches so far,
    and without ``track_running_stats`` there are none. ``affine`` False leaves out ``weight`` and ``bias`` [num_features].
    With ``sync`` the batch is that of all processes of a mesh (``sync_batch_norm``). Raises ArgumentError; when called,
    ShapeError.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        sync: bool = False,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats)
        self.sync = sync

    def forward(self, input: Value) -> Value:
        mean, var, weight, bias = self._values(input)
        momentum: Any = self.momentum
        if self.training and self.num_batches_tracked is not None:
            tracked = self.num_batches_tracked.value(input.graph)
            batches = input.graph.advance(tracked, input.graph.latest(tracked) + 1)
            momentum = 1.0 / F.cast(batches, "float32") if momentum is None else momentum
        momentum, training = 0.0 if momentum is None else momentum, self.training or mean is None
        return F.batch_norm(input, mean, var, weight, bias, training, momentum, self.eps, self.sync)


class BatchNorm1d(_BatchNorm):
    __doc__ = f"[N, C] or [N, C, L]. {_BatchNorm.__doc__}"
    ndims = (2, 3)


class BatchNorm2d(_BatchNorm):
    __doc__ = f"[N, C, H, W]. {_BatchNorm.__doc__}"
    ndims = (4,)


class BatchNorm3d(_BatchNorm):
    __doc__ = f"[N, C, D, H, W]. {_BatchNorm.__doc__}"
    ndims = (5,)


def sync_batch_norm(module: M) -> M:
    """Has every batch norm in ``module`` normalise by the statistics of all processes of a mesh, as torch's
    ``SyncBatchNorm.convert_sync_batchnorm`` does; returns ``module``."""
    for part in module.modules():
        if isinstance(part, _BatchNorm):
            part.sync = True
    return module


class _InstanceNorm(_Norm):
    """Normalisation of each channel of each sample over its own pixels (Ulyanov et al., 2016).

    ``num_features`` is the number of channels. ``eps``, ``momentum``, ``affine`` and ``track_running_stats`` as of
    ``BatchNorm2d``, but that ``affine`` and ``track_running_stats`` are False by default. Running statistics are updated in
    training and used in evaluation.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats)

    def forward(self, input: Value) -> Value:
        if input.ndim + 1 in self.ndims and input.ndim not in self.ndims:
            return self.forward(input[None])[0]
        mean, var, weight, bias = self._values(input)
        own = self.training or mean is None
        return F.instance_norm(input, mean, var, weight, bias, own, self.momentum or 0.0, self.eps)


class InstanceNorm1d(_InstanceNorm):
    __doc__ = f"[N, C, L] or [C, L]. {_InstanceNorm.__doc__}"
    ndims = (3,)


class InstanceNorm2d(_InstanceNorm):
    __doc__ = f"[N, C, H, W] or [C, H, W]. {_InstanceNorm.__doc__}"
    ndims = (4,)


class InstanceNorm3d(_InstanceNorm):
    __doc__ = f"[N, C, D, H, W] or [C, D, H, W]. {_InstanceNorm.__doc__}"
    ndims = (5,)


class GroupNorm(Module):
    """Normalisation of each of ``num_groups`` groups of the ``num_channels`` channels of [N, C, ...] (Wu and He, ECCV 2018).

    Mean and variance are taken over a group's channels and pixels, of one sample. ``eps`` is added to the variance; ``affine``
    False leaves out ``weight`` and ``bias`` [num_channels]. Raises ArgumentError.
    """

    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True) -> None:
        if num_groups < 1 or num_channels % num_groups:
            raise ArgumentError(f"num_groups must divide num_channels, got {num_groups} and {num_channels}")
        self.num_groups, self.num_channels, self.eps = num_groups, num_channels, eps
        self.weight = Parameter(np.ones(num_channels, np.float32)) if affine else None
        self.bias = Parameter(np.zeros(num_channels, np.float32)) if affine else None

    def forward(self, input: Value) -> Value:
        return F.group_norm(input, self.num_groups, optional(self.weight, input), optional(self.bias, input), self.eps)


class RMSNorm(Module):
    """``input`` over its root mean square in the last dimensions (Zhang and Sennrich, NeurIPS 2019).

    ``normalized_shape`` has the sizes of these dimensions. ``eps`` is added to the mean square (None: the dtype's);
    ``elementwise_affine`` False leaves out ``weight`` [*normalized_shape].
    """

    def __init__(self, normalized_shape: Size, eps: float | None = None, elementwise_affine: bool = True) -> None:
        self.normalized_shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.eps = eps
        self.weight = Parameter(np.ones(self.normalized_shape, np.float32)) if elementwise_affine else None

    def forward(self, input: Value) -> Value:
        return F.rms_norm(input, self.normalized_shape, optional(self.weight, input), self.eps)


class LocalResponseNorm(Module):
    """``input / (k + alpha * mean) ** beta``, the mean of squares over ``size`` neighbouring channels.

    Krizhevsky et al. (AlexNet), NeurIPS 2012. Channels outside count as zeros.
    """

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def forward(self, input: Value) -> Value:
        return F.local_response_norm(input, self.size, self.alpha, self.beta, self.k)


class LayerNorm(Module):
    """Normalisation over the last dimensions, whose sizes are ``normalized_shape``, an int or several (Ba et al., 2016).

    ``(input - mean) / sqrt(var + eps) * weight + bias``. ``elementwise_affine`` False leaves out ``weight`` and ``bias``,
    ``bias`` False the latter, both [*normalized_shape].
    """

    def __init__(self, normalized_shape: Size, eps: float = 1e-5, elementwise_affine: bool = True, bias: bool = True) -> None:
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.normalized_shape, self.eps = shape, eps
        self.weight = Parameter(np.ones(shape, np.float32)) if elementwise_affine else None
        self.bias = Parameter(np.zeros(shape, np.float32)) if elementwise_affine and bias else None

    def forward(self, input: Value) -> Value:
        weight, bias = optional(self.weight, input), optional(self.bias, input)
        return F.layer_norm(input, self.normalized_shape, weight, bias, self.eps)


class _NormedWeight:
    """Stands for a weight that is computed from two parameters wherever its module reads it."""

    def __init__(self, g: Parameter, v: Parameter, dim: int | None) -> None:
        self.g, self.v, self.dim = g, v, dim

    @property
    def shape(self) -> tuple[int, ...]:
        return self.v.shape

    def value(self, graph: Graph) -> Value:
        return F.weight_norm(self.v.value(graph), self.g.value(graph), self.dim)


def weight_norm(module: M, name: str = "weight", dim: int | None = 0) -> M:
    """Trains the length and the direction of parameter ``name`` apart (Salimans and Kingma, 2016): returns ``module``.

    The parameter is replaced by ``name_g``, the norms over all dimensions but ``dim`` (over all when None), and ``name_v``;
    what the module computes stays as it was. Raises ArgumentError when there is no such parameter.
    """
    weight = getattr(module, name, None)
    if not isinstance(weight, Parameter):
        raise ArgumentError(f"{type(module).__name__} has no parameter {name!r}")
    at = None if dim is None else dim_index(dim, weight.array.ndim)
    others = tuple(d for d in range(weight.array.ndim) if d != at)
    length = np.sqrt(np.sum(np.square(weight.array), others, keepdims=True))
    g, v = Parameter(length), Parameter(weight.array)
    setattr(module, f"{name}_g", g)
    setattr(module, f"{name}_v", v)
    setattr(module, name, _NormedWeight(g, v, dim))
    return module

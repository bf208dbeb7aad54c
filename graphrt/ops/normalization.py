"""Normalisation: plain code over the ops. Names, arguments and defaults follow torch.nn.functional."""

from __future__ import annotations

import math
from collections.abc import Sequence

import ml_dtypes

from graphrt.errors import ArgumentError, ShapeError
from graphrt.ir import Value
from graphrt.node import Factor
from graphrt.ops.base import cast, dim_index, function, in_float32, require_float, widened
from graphrt.ops.collective import everywhere
from graphrt.ops.elementwise import abs, pow, rsqrt, stop_gradient, where
from graphrt.ops.reduction import mean, norm
from graphrt.ops.slicing import pad
from graphrt.ops.view import reshape
from graphrt.types import HALVES


def _scaled(y: Value, weight: Value | None, bias: Value | None) -> Value:
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def _as(y: Value, input: Value) -> Value:
    """``y`` in the dtype of ``input`` where that is a half: statistics are float32, as are scale and shift under autocast."""
    return cast(y, input.dtype) if input.dtype in HALVES else y


def _per_channel(input: Value, what: str, **values: Value | None) -> list[Value | None]:
    """``values`` [C] in a shape that broadcasts against [N, C, ...]."""
    if input.ndim < 2:
        raise ShapeError(f"{what} needs [N, C, ...], got {list(input.shape)}")
    channels = input.shape[1]
    for name, v in values.items():
        if v is not None and v.shape != (channels,):
            raise ShapeError(f"{name} must be [{channels}], got {list(v.shape)}")
    if (values.get("running_mean") is None) != (values.get("running_var") is None):
        raise ArgumentError(f"{what} needs running_mean and running_var both, or neither")
    shape = [channels if d == 1 else 1 for d in range(input.ndim)]
    return [None if v is None else reshape(v, shape) for v in values.values()]


def _track(running: tuple[Value, Value], mean: Value, var: Value, scale: float, momentum: float | Value) -> None:
    """Moves the running mean and variance towards the batch's, the variance as the unbiased one, ``scale`` times as large."""
    graph = mean.graph
    mean, var = (everywhere(stop_gradient(v)) for v in (mean, var))
    counted = isinstance(scale, Factor) and not isinstance(momentum, Value)
    rate = scale.times(momentum) if counted else momentum * scale  # type: ignore[attr-defined]
    for parameter, new, share in ((running[0], mean, momentum), (running[1], var, rate)):
        old = graph.latest(parameter)
        graph.advance(parameter, cast(old * (1.0 - momentum) + new * share, old.dtype))


@function
def batch_norm(
    input: Value,
    running_mean: Value | None,
    running_var: Value | None,
    weight: Value | None = None,
    bias: Value | None = None,
    training: bool = False,
    momentum: float | Value = 0.1,
    eps: float = 1e-5,
    sync: bool = False,
) -> Value:
    """Batch normalisation over all dimensions but 1 (Ioffe and Szegedy, 2015).

    ``(input - mean) / sqrt(var + eps) * weight + bias``, with ``weight``, ``bias``, ``running_mean`` and ``running_var`` [C] or
    None. In training the batch's statistics are used, and the running ones move towards them by ``momentum`` (the variance
    unbiased), as in torch; a scalar Value as ``momentum`` serves averages whose factor changes from step to step. In evaluation
    the running ones are used. With ``sync`` the batch is that of all processes of the mesh; else each normalises its own, and
    the running ones move towards the means of theirs.
    """
    require_float(input.dtype, "input")
    _per_channel(input, "batch_norm", running_mean=running_mean, running_var=running_var, weight=weight, bias=bias)
    channels = input.shape[1]
    dims = [d for d in range(input.ndim) if d != 1]
    shape = [channels if d == 1 else 1 for d in range(input.ndim)]
    x = widened(input)
    if training:
        count = input.type.size // max(channels, 1)
        if count < 2:
            raise ShapeError(f"batch_norm in training needs more than one value per channel, got {list(input.shape)}")
        average, unbiased = mean(x, dims), Factor.unbiased(x, dims)
        sync = sync and bool(x.type.varying)
        if sync and x.graph.mesh is not None:
            average, count = everywhere(average), count * math.prod(x.graph.mesh.axes[axis] for axis in x.type.varying)
            unbiased = count / (count - 1)
        centred = x - reshape(average, shape)
        variance = mean(centred * centred, dims)
        if sync:
            variance = everywhere(variance)
        if running_mean is not None and running_var is not None:
            _track((running_mean, running_var), average, variance, unbiased, momentum)
    else:
        if running_mean is None or running_var is None:
            raise ArgumentError("batch_norm needs running_mean and running_var when it is not training")
        average, variance = (widened(input.graph.latest(v)) for v in (running_mean, running_var))
        centred = x - reshape(average, shape)
    scale = rsqrt(variance + eps)
    y = centred * reshape(scale if weight is None else scale * weight, shape)
    return _as(y if bias is None else y + reshape(bias, shape), input)


@function
def instance_norm(
    input: Value,
    running_mean: Value | None = None,
    running_var: Value | None = None,
    weight: Value | None = None,
    bias: Value | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Value:
    """Normalisation of each channel of each sample of [N, C, ...] over its own pixels (Ulyanov et al., 2016).

    With ``running_mean`` and ``running_var`` given they move by ``momentum`` towards the means over the batch, and are used
    instead without ``use_input_stats``. ``weight``, ``bias`` and ``eps`` as in ``batch_norm``.
    """
    if not use_input_stats:
        return batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    w, b = _per_channel(input, "instance_norm", weight=weight, bias=bias, running_mean=running_mean, running_var=running_var)[
        :2
    ]
    count = math.prod(input.shape[2:])
    if count < 2:
        raise ShapeError(f"instance_norm needs more than one pixel per channel, got {list(input.shape)}")
    dims = list(range(2, input.ndim))
    x = widened(input)
    average = mean(x, dims, keepdim=True)
    centred = x - average
    variance = mean(centred * centred, dims, keepdim=True)
    if running_mean is not None and running_var is not None:
        over = [d for d in range(input.ndim) if d != 1]
        _track((running_mean, running_var), mean(average, over), mean(variance, over), Factor.unbiased(x, dims), momentum)
    return _as(_scaled(centred * rsqrt(variance + eps), w, b), input)


@function
def group_norm(
    input: Value, num_groups: int, weight: Value | None = None, bias: Value | None = None, eps: float = 1e-5
) -> Value:
    """Normalisation of each of ``num_groups`` groups of channels of [N, C, ...] (Wu and He, 2018).

    ``(input - mean) / sqrt(var + eps) * weight + bias``, with ``weight`` and ``bias`` [C] or None.
    """
    w, b = _per_channel(input, "group_norm", weight=weight, bias=bias)
    if num_groups < 1 or input.shape[1] % num_groups:
        raise ArgumentError(f"num_groups must divide the {input.shape[1]} channels, got {num_groups}")
    grouped = reshape(widened(input), (input.shape[0], num_groups, input.shape[1] // num_groups, *input.shape[2:]))
    return _as(_scaled(reshape(_normalised(grouped, list(range(2, grouped.ndim)), eps), input.shape), w, b), input)


def _normalised(x: Value, dims: list[int], eps: float) -> Value:
    centred = x - mean(x, dims, keepdim=True)
    return centred * rsqrt(mean(centred * centred, dims, keepdim=True) + eps)


def _last(input: Value, normalized_shape: int | Sequence[int], **values: Value | None) -> list[int]:
    """The last dimensions, which must have the sizes ``normalized_shape``, as must ``values``."""
    sizes = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    if not sizes or input.shape[-len(sizes) :] != sizes:
        raise ShapeError(f"normalized_shape {list(sizes)} must be the last sizes of {list(input.shape)}")
    for name, v in values.items():
        if v is not None and v.shape != sizes:
            raise ShapeError(f"{name} must be {list(sizes)}, got {list(v.shape)}")
    return list(range(input.ndim - len(sizes), input.ndim))


@function
def layer_norm(
    input: Value,
    normalized_shape: int | Sequence[int],
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-5,
) -> Value:
    """Normalisation over the last dimensions, whose sizes are ``normalized_shape`` (Ba et al., 2016).

    ``(input - mean) / sqrt(var + eps) * weight + bias``, with ``weight`` and ``bias`` of that shape or None.
    """
    dims = _last(input, normalized_shape, weight=weight, bias=bias)
    return _as(_scaled(_normalised(widened(input), dims, eps), weight, bias), input)


@function
def rms_norm(
    input: Value, normalized_shape: int | Sequence[int], weight: Value | None = None, eps: float | None = None
) -> Value:
    """``input`` over its root mean square in the last dimensions (Zhang and Sennrich, 2019), times ``weight`` if it is given.

    ``normalized_shape`` has the sizes of these dimensions; ``eps`` is added to the mean square (None: the dtype's).
    """
    require_float(input.dtype, "input")
    dims = _last(input, normalized_shape, weight=weight)
    small = float(ml_dtypes.finfo(input.dtype.numpy).eps) if eps is None else eps
    x = widened(input)
    return _as(_scaled(x * rsqrt(mean(x * x, dims, keepdim=True) + small), weight, None), input)


@function
@in_float32
def local_response_norm(input: Value, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Value:
    """``input / (k + alpha * mean)**beta`` with the mean of squares over ``size`` neighbouring channels (AlexNet, 2012).

    Channels outside count as zeros.
    """
    if input.ndim < 3:
        raise ShapeError(f"local_response_norm needs [N, C, ...] of 3 dimensions or more, got {list(input.shape)}")
    if size < 1:
        raise ArgumentError(f"size must be >= 1, got {size}")
    channels = input.shape[1]
    before, behind = (min(n, max(channels - 1, 0)) for n in (size // 2, (size - 1) // 2))  # further ones are zeros anyway
    padded = pad(input * input, (*(0, 0) * (input.ndim - 2), before, behind))
    total = padded[:, :channels]
    for shift in range(1, before + behind + 1):
        total = total + padded[:, shift : shift + channels]
    return input / pow(total * (alpha / size) + k, beta)


@function
@in_float32
def normalize(input: Value, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Value:
    """``input`` divided by its p-norm along ``dim``, which is taken to be at least ``eps``."""
    length = norm(input, p, dim, keepdim=True)
    return input / where(length < eps, eps, length)


@function
@in_float32
def weight_norm(v: Value, g: Value, dim: int | None = 0) -> Value:
    """``g * v / |v|``, the norm taken over all dimensions but ``dim`` (Salimans and Kingma, 2016); g has its shape."""
    at = None if dim is None else dim_index(dim, v.ndim)
    length = norm(v, 2.0, [d for d in range(v.ndim) if d != at], keepdim=True) if v.ndim > 1 or at is None else abs(v)
    if g.shape != length.shape:
        raise ShapeError(f"g must be {list(length.shape)}, got {list(g.shape)}")
    return v * (g / length)

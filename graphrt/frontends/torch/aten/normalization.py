"""ATen operators that normalise: batch, layer and group normalisation, with the statistics that they return."""

from __future__ import annotations

from collections.abc import Sequence

import graphrt.ops as F
from graphrt.frontends.torch.table import aten
from graphrt.ir import Value
from graphrt.node import Factor
from graphrt.types import HALVES, float32

Three = tuple[Value, Value, Value]


def _wide(x: Value) -> Value:
    """Halves are normalised in float32, as torch does."""
    return F.cast(x, float32) if x.dtype in HALVES else x


def _normalised(x: Value, dims: Sequence[int], eps: float) -> Three:
    """``x`` less its mean and over its standard deviation along ``dims``; the mean; the variance."""
    mean = F.mean(x, list(dims), keepdim=True)
    centred = x - mean
    variance = F.mean(centred * centred, list(dims), keepdim=True)
    return centred * F.rsqrt(variance + eps), mean, variance


def _scaled(y: Value, weight: Value | None, bias: Value | None) -> Value:
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def _column(v: Value | None, ndim: int) -> Value | None:
    """One number for each channel, to stand beside [N, C, ...]."""
    return None if v is None else F.reshape(v, [1, -1, *[1] * (ndim - 2)])


def _by_batch(input: Value, weight: Value | None, bias: Value | None, eps: float) -> Three:
    """``input`` normalised by the mean and variance [C] of its channels, and these two."""
    x = _wide(input)
    y, mean, variance = _normalised(x, [d for d in range(x.ndim) if d != 1], eps)
    y = _scaled(y, _column(weight, x.ndim), _column(bias, x.ndim))
    return y, F.reshape(mean, [x.shape[1]]), F.reshape(variance, [x.shape[1]])


@aten("_native_batch_norm_legit.no_stats")
def batch_norm_no_stats(
    input: Value, weight: Value | None, bias: Value | None, training: bool, momentum: float, eps: float
) -> Three:
    """Batch normalisation by the batch's own mean and scale, which are returned."""
    y, mean, variance = _by_batch(input, weight, bias, eps)
    return y, mean, F.rsqrt(variance + eps)


@aten("_native_batch_norm_legit_no_training.default")
def batch_norm_no_training(
    input: Value,
    weight: Value | None,
    bias: Value | None,
    running_mean: Value,
    running_var: Value,
    momentum: float,
    eps: float,
) -> Three:
    none = F.zeros(input.graph, [0])
    return F.batch_norm(_wide(input), running_mean, running_var, weight, bias, False, momentum, eps), none, none


@aten("_native_batch_norm_legit_functional.default")
def batch_norm_functional(
    input: Value,
    weight: Value | None,
    bias: Value | None,
    running_mean: Value,
    running_var: Value,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Value, ...]:
    """Batch normalisation, its statistics, and the running ones as they become."""
    if not training:
        three = batch_norm_no_training(input, weight, bias, running_mean, running_var, momentum, eps)
        return *three, running_mean, running_var
    y, mean, variance = _by_batch(input, weight, bias, eps)
    scale = Factor.unbiased(input, [d for d in range(input.ndim) if d != 1])
    pairs = ((running_mean, mean), (running_var, variance * scale))
    return y, mean, F.rsqrt(variance + eps), *(old * (1.0 - momentum) + new * momentum for old, new in pairs)


@aten("native_layer_norm.default")
def layer_norm(input: Value, normalized_shape: Sequence[int], weight: Value | None, bias: Value | None, eps: float) -> Three:
    x = _wide(input)
    y, mean, variance = _normalised(x, range(x.ndim - len(normalized_shape), x.ndim), eps)
    return _scaled(y, weight, bias), mean, F.rsqrt(variance + eps)


@aten("native_group_norm.default")
def group_norm(
    input: Value, weight: Value | None, bias: Value | None, N: int, C: int, HxW: int, group: int, eps: float
) -> Three:
    """Normalisation of groups of channels, with the mean and scale of each, [N, group]."""
    grouped = F.reshape(_wide(input), [N, group, C // group * HxW])
    y, mean, variance = _normalised(grouped, [2], eps)
    y = _scaled(F.reshape(y, input.shape), _column(weight, input.ndim), _column(bias, input.ndim))
    return y, F.reshape(mean, [N, group]), F.reshape(F.rsqrt(variance + eps), [N, group])

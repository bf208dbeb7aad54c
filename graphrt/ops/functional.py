"""Composite functions: plain code over the ops. They differentiate by themselves, and fusion makes them one kernel.

Names, arguments and defaults follow torch.nn.functional.
"""

from __future__ import annotations

import math
from typing import Any

from graphrt.errors import ArgumentError, DTypeError, ShapeError
from graphrt.ir import Value
from graphrt.ops.base import cast, dim_index, function, require_float
from graphrt.ops.elementwise import abs, eq, erf, exp, log, maximum, ne, rsqrt, sigmoid, stop_gradient, tanh, where
from graphrt.ops.reduction import amax, mean, sum
from graphrt.ops.source import iota
from graphrt.ops.view import permute, reshape, unsqueeze

# --- activations -------------------------------------------------------------------------------------------------


@function
def leaky_relu(input: Value, negative_slope: float = 0.01) -> Value:
    """``input`` where positive, else ``negative_slope * input``."""
    return where(input > 0.0, input, input * negative_slope)


@function
def elu(input: Value, alpha: float = 1.0) -> Value:
    """``input`` where positive, else ``alpha * (exp(input) - 1)`` (Clevert et al., 2015)."""
    return where(input > 0.0, input, (exp(where(input > 0.0, 0.0, input)) - 1.0) * alpha)


@function
def softplus(input: Value, beta: float = 1.0) -> Value:
    """``log(1 + exp(beta * input)) / beta``, without overflow."""
    z = input * beta
    return _softplus(z) * (1.0 / beta)


def _softplus(z: Value) -> Value:
    """``log(1 + exp(z))``; maximum and not relu, because at 0 its gradient is the half that belongs there."""
    return maximum(z, 0.0) + log(exp(-abs(z)) + 1.0)


@function
def silu(input: Value) -> Value:
    """``input * sigmoid(input)``, also called swish."""
    return input * sigmoid(input)


@function
def gelu(input: Value, approximate: str = "none") -> Value:
    """``input * Phi(input)`` (Hendrycks and Gimpel, 2016), exact by erf or approximated by tanh."""
    if approximate == "tanh":
        inner = (input + input * input * input * 0.044715) * math.sqrt(2 / math.pi)
        return input * 0.5 * (tanh(inner) + 1.0)
    if approximate != "none":
        raise ArgumentError(f"approximate must be 'none' or 'tanh', got {approximate!r}")
    return input * 0.5 * (erf(input * math.sqrt(0.5)) + 1.0)


@function
def log_softmax(input: Value, dim: int = -1) -> Value:
    """Logarithm of ``softmax``, computed without taking the logarithm of small numbers."""
    require_float(input.dtype, "input")
    z = input - stop_gradient(amax(input, dim, keepdim=True))
    return z - log(sum(exp(z), dim, keepdim=True))


@function
def softmax(input: Value, dim: int = -1) -> Value:
    """``exp(input) / sum(exp(input))`` over ``dim``, shifted by the maximum."""
    require_float(input.dtype, "input")
    e = exp(input - stop_gradient(amax(input, dim, keepdim=True)))
    return e / sum(e, dim, keepdim=True)


# --- losses ------------------------------------------------------------------------------------------------------


def _reduced(loss: Value, reduction: str) -> Value:
    if reduction == "none":
        return loss
    if reduction in ("mean", "sum"):
        return mean(loss) if reduction == "mean" else sum(loss)
    raise ArgumentError(f"reduction must be 'none', 'mean' or 'sum', got {reduction!r}")


def _same_shape(input: Value, target: Value) -> None:
    if input.shape != target.shape:
        raise ShapeError(f"input and target must have one shape, got {list(input.shape)} and {list(target.shape)}")


def _one_hot_like(input: Value, target: Value) -> Value:
    """bool [N, C, ...]: whether the class (dimension 1, or 0 without a batch) is the target's."""
    dim = 1 if input.ndim > 1 else 0
    expected = tuple(n for d, n in enumerate(input.shape) if d != dim)
    if target.shape != expected:
        raise ShapeError(f"input {list(input.shape)} needs class indices of shape {list(expected)}, got {list(target.shape)}")
    if not target.dtype.is_int:
        raise DTypeError(f"class indices must be integers, got {target.dtype}")
    index = iota(input, dim)
    return eq(index, unsqueeze(cast(target, index.dtype), dim))


@function
def nll_loss(input: Value, target: Value, reduction: str = "mean", ignore_index: int = -100) -> Value:
    """``-input[target]`` for log-probabilities [N, C, ...] and class indices [N, ...]; the mean is over what counts."""
    hit = _one_hot_like(input, target)
    loss = -sum(where(hit, input, 0.0), 1 if input.ndim > 1 else 0)
    counts = ne(target, ignore_index)
    loss = where(counts, loss, 0.0)
    if reduction != "mean":
        return _reduced(loss, reduction)
    return sum(loss) / sum(cast(counts, input.dtype))


@function
def cross_entropy(
    input: Value, target: Value, reduction: str = "mean", ignore_index: int | None = None, label_smoothing: float = 0.0
) -> Value:
    """Softmax cross-entropy of logits [N, C, ...] with class indices [N, ...] or probabilities [N, C, ...].

    Class indices outside [0, C) contribute zero loss, so they must not occur; ``ignore_index`` names one that may, and
    takes it out of the mean. Raises ShapeError, DTypeError, ArgumentError.
    """
    if input.ndim == 0:
        raise ShapeError("cross_entropy needs a class dimension, got a scalar")
    if not 0.0 <= label_smoothing <= 1.0:
        raise ArgumentError(f"label_smoothing must lie in [0, 1], got {label_smoothing}")
    dim = 1 if input.ndim > 1 else 0
    logp = log_softmax(input, dim)
    classes = input.shape[dim]
    if target.dtype.is_float:
        _same_shape(input, target)
        goal = target * (1.0 - label_smoothing) + label_smoothing / classes if label_smoothing else target
        loss = -sum(goal * logp, dim)
        rows = max(input.type.size // classes, 1)
        return sum(loss) * (1.0 / rows) if reduction == "mean" else _reduced(loss, reduction)
    loss = -sum(where(_one_hot_like(input, target), logp, 0.0), dim)
    if label_smoothing:
        loss = loss * (1.0 - label_smoothing) - mean(logp, dim) * label_smoothing
    if ignore_index is None:
        return _reduced(loss, reduction)
    counts = ne(target, ignore_index)
    loss = where(counts, loss, 0.0)
    return sum(loss) / sum(cast(counts, input.dtype)) if reduction == "mean" else _reduced(loss, reduction)


@function
def binary_cross_entropy_with_logits(input: Value, target: Value, reduction: str = "mean") -> Value:
    """Binary cross-entropy of ``sigmoid(input)`` with ``target`` in [0, 1], stable for large logits."""
    _same_shape(input, target)
    loss = _softplus(input) - input * cast(target, input.dtype)
    return _reduced(loss, reduction)


@function
def mse_loss(input: Value, target: Value, reduction: str = "mean") -> Value:
    """Squared difference."""
    _same_shape(input, target)
    d = input - target
    return _reduced(d * d, reduction)


@function
def l1_loss(input: Value, target: Value, reduction: str = "mean") -> Value:
    """Absolute difference."""
    _same_shape(input, target)
    return _reduced(abs(input - target), reduction)


@function
def hinge_loss(input: Value, target: Value, reduction: str = "mean") -> Value:
    """``max(0, 1 - target * input)`` for targets -1 and 1."""
    _same_shape(input, target)
    return _reduced(maximum(1.0 - input * cast(target, input.dtype), 0.0), reduction)


# --- normalisation -----------------------------------------------------------------------------------------------


@function
def batch_norm(
    input: Value,
    running_mean: Value | None,
    running_var: Value | None,
    weight: Value | None = None,
    bias: Value | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Value:
    """Batch normalisation over all dimensions but 1 (Ioffe and Szegedy, 2015).

    In training the batch's statistics are used and the running ones are updated (the variance unbiased), as in torch.
    """
    if input.ndim < 2:
        raise ShapeError(f"batch_norm needs [N, C, ...], got {list(input.shape)}")
    channels = input.shape[1]
    for what, v in (("running_mean", running_mean), ("running_var", running_var), ("weight", weight), ("bias", bias)):
        if v is not None and v.shape != (channels,):
            raise ShapeError(f"{what} must be [{channels}], got {list(v.shape)}")
    dims = [d for d in range(input.ndim) if d != 1]
    shape = [channels if d == 1 else 1 for d in range(input.ndim)]
    if training:
        count = input.type.size // max(channels, 1)
        if count < 2:
            raise ShapeError(f"batch_norm in training needs more than one value per channel, got {list(input.shape)}")
        average = mean(input, dims)
        centred = input - reshape(average, shape)
        variance = mean(centred * centred, dims)
        if running_mean is not None and running_var is not None:
            graph = input.graph
            graph.update(running_mean, running_mean * (1 - momentum) + stop_gradient(average) * momentum)
            unbiased = stop_gradient(variance) * (momentum * count / (count - 1))
            graph.update(running_var, running_var * (1 - momentum) + unbiased)
    else:
        if running_mean is None or running_var is None:
            raise ArgumentError("batch_norm needs running_mean and running_var when it is not training")
        average, variance = running_mean, running_var
        centred = input - reshape(average, shape)
    scale = rsqrt(variance + eps)
    y = centred * reshape(scale if weight is None else scale * weight, shape)
    return y if bias is None else y + reshape(bias, shape)


@function
def layer_norm(
    input: Value, normalized_shape: Any, weight: Value | None = None, bias: Value | None = None, eps: float = 1e-5
) -> Value:
    """Normalisation over the last dimensions, whose sizes are ``normalized_shape`` (Ba et al., 2016)."""
    sizes = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    if not sizes or input.shape[-len(sizes) :] != sizes:
        raise ShapeError(f"normalized_shape {list(sizes)} must be the last sizes of {list(input.shape)}")
    dims = list(range(input.ndim - len(sizes), input.ndim))
    centred = input - mean(input, dims, keepdim=True)
    y = centred * rsqrt(mean(centred * centred, dims, keepdim=True) + eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


@function
def movedim(input: Value, source: int, destination: int) -> Value:
    """``input`` with dimension ``source`` moved to ``destination``."""
    a, b = dim_index(source, input.ndim, "source"), dim_index(destination, input.ndim, "destination")
    order = [d for d in range(input.ndim) if d != a]
    order.insert(b, a)
    return permute(input, order)

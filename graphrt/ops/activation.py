"""Activations and the softmax family: plain code over the ops, so they differentiate by themselves and fuse into one kernel.

Names, arguments and defaults follow torch.nn.functional.
"""

from __future__ import annotations

import math

from graphrt.errors import ArgumentError, ShapeError
from graphrt.ir import Value
from graphrt.ops.base import apply, broadcast_to, cast, dim_index, full_precision, function, in_float32, require_float
from graphrt.ops.elementwise import (
    abs,
    erf,
    exp,
    ge,
    gt,
    le,
    log,
    maximum,
    minimum,
    sigmoid,
    stop_gradient,
    straight_through,
    tanh,
    where,
)
from graphrt.ops.extremum import argmax
from graphrt.ops.random import uniform_like
from graphrt.ops.reduction import amax, sum
from graphrt.ops.slicing import getitem
from graphrt.ops.source import iota
from graphrt.ops.transcendental import expm1, log1p
from graphrt.ops.view import reshape, unsqueeze

# --- thresholds and slopes -----------------------------------------------------------------------------------------


@function
def step(input: Value) -> Value:
    """1 where ``input`` is positive, else 0 (the perceptron's); no gradient flows."""
    return cast(gt(input, 0), input.dtype)


@function
def threshold(input: Value, threshold: float, value: float) -> Value:
    """``input`` where it is above ``threshold``, else ``value``."""
    return where(le(input, threshold), value, input)


@function
def relu6(input: Value) -> Value:
    """``min(max(input, 0), 6)``."""
    return hardtanh(input, 0.0, 6.0)


@function
def hardtanh(input: Value, min_val: float = -1.0, max_val: float = 1.0) -> Value:
    """``input`` held within [min_val, max_val]; no gradient at or beyond the bounds."""
    if min_val > max_val:
        raise ArgumentError(f"min_val must not exceed max_val, got {min_val} and {max_val}")
    return where(le(input, min_val), min_val, where(ge(input, max_val), max_val, input))


@function
def leaky_relu(input: Value, negative_slope: float = 0.01) -> Value:
    """``input`` where positive, else ``negative_slope * input``."""
    return where(input > 0.0, input, input * negative_slope)


@function
def prelu(input: Value, weight: Value) -> Value:
    """``input`` where positive, else ``weight * input``; one learned slope, or one for each channel (dimension 1)."""
    channels = input.shape[1] if input.ndim > 1 else 1
    if weight.ndim > 1 or weight.type.size not in (1, channels):
        raise ShapeError(f"weight must hold 1 or {channels} slopes, got {list(weight.shape)}")
    shape = (1, -1, *(1 for _ in input.shape[2:])) if weight.type.size > 1 else (1,) * input.ndim
    return where(input > 0.0, input, where(input > 0.0, 0.0, input) * reshape(weight, shape))


@function
def rrelu(input: Value, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False) -> Value:
    """Leaky ReLU whose slope is drawn from [lower, upper) for each element in training, else their mean (Xu et al., 2015)."""
    if not lower <= upper:
        raise ArgumentError(f"lower must not exceed upper, got {lower} and {upper}")
    if not training:
        return leaky_relu(input, (lower + upper) / 2)
    slope = cast(uniform_like(input) * (upper - lower) + lower, input.dtype)
    return where(input > 0.0, input, input * slope)


@function
def hardshrink(input: Value, lambd: float = 0.5) -> Value:
    """0 within [-lambd, lambd], else ``input``."""
    return where((input >= -lambd) & (input <= lambd), 0.0, input)


@function
def softshrink(input: Value, lambd: float = 0.5) -> Value:
    """``input`` moved towards 0 by ``lambd``, 0 within [-lambd, lambd]."""
    if lambd < 0:
        raise ArgumentError(f"lambd must be >= 0, got {lambd}")
    return where((input >= -lambd) & (input <= lambd), 0.0, where(input < 0.0, input + lambd, input - lambd))


@function
@in_float32
def hardsigmoid(input: Value) -> Value:
    """``relu6(input + 3) / 6`` (MobileNetV3's)."""
    held = stop_gradient(hardtanh(input, -3.0, 3.0))  # NaN among it
    return (where((input > -3.0) & (input < 3.0), input, held) + 3.0) * (1 / 6)


@function
@in_float32
def hardswish(input: Value) -> Value:
    """``input * relu6(input + 3) / 6`` (Howard et al., "MobileNetV3", 2019)."""
    inside = (input > -3.0) & (input < 3.0)
    x = where(inside, input, 0.0)
    return where(inside, x * (x + 3.0) * (1 / 6), where(le(input, -3.0), 0.0, input))


# --- smooth --------------------------------------------------------------------------------------------------------


def scaled_elu(input: Value, alpha: float, scale: float = 1.0, input_scale: float = 1.0) -> Value:
    """``scale`` times ``input``, but ``alpha * (exp(input_scale * input) - 1)`` where that is not positive."""
    low = le(input, 0.0)
    below = expm1(where(low, input * input_scale, 0.0)) * (alpha * scale)
    return where(low, below, input * scale)


@function
@in_float32
def elu(input: Value, alpha: float = 1.0) -> Value:
    """``input`` where positive, else ``alpha * (exp(input) - 1)`` (Clevert et al., 2015)."""
    return scaled_elu(input, alpha)


@function
@in_float32
def selu(input: Value) -> Value:
    """ELU with the two constants that keep mean and variance (Klambauer et al., 2017)."""
    return scaled_elu(input, 1.6732632423543772, 1.0507009873554805)


@function
@in_float32
def celu(input: Value, alpha: float = 1.0) -> Value:
    """``input`` where positive, else ``alpha * (exp(input / alpha) - 1)`` (Barron, 2017)."""
    if alpha == 0:
        raise ArgumentError("alpha must not be 0")
    return scaled_elu(input, alpha, 1.0, 1.0 / alpha)


@function
@in_float32
def softplus(input: Value, beta: float = 1.0, threshold: float = 20.0) -> Value:
    """``log(1 + exp(beta * input)) / beta``; ``input`` itself where ``beta * input`` is above ``threshold``."""
    if beta == 0:
        raise ArgumentError("beta must not be 0")
    z = input * beta
    return where(z > threshold, input, _softplus(where(z > threshold, 0.0, z)) * (1.0 / beta))


def _softplus(z: Value) -> Value:
    """``log(1 + exp(z))``; maximum and not relu, because at 0 its gradient is the half that belongs there."""
    return maximum(z, 0.0) + log1p(exp(-abs(z)))


@function
@in_float32
def logsigmoid(input: Value) -> Value:
    """``log(sigmoid(input))`` without overflow."""
    return minimum(input, 0.0) - log1p(exp(-abs(input)))


@function
@in_float32
def softsign(input: Value) -> Value:
    """``input / (1 + |input|)``."""
    return input / (abs(input) + 1.0)


@function
@in_float32
def tanhshrink(input: Value) -> Value:
    """``input - tanh(input)``."""
    return input - tanh(input)


@function
@in_float32
def silu(input: Value) -> Value:
    """``input * sigmoid(input)``, also called swish."""
    return input * sigmoid(input)


@function
@in_float32
def mish(input: Value) -> Value:
    """``input * tanh(softplus(input))`` (Misra, 2019)."""
    return input * tanh(softplus(input))


@function
@in_float32
def gelu(input: Value, approximate: str = "none") -> Value:
    """``input * Phi(input)`` (Hendrycks and Gimpel, 2016), exact by erf; with ``approximate="tanh"`` by tanh."""
    if approximate == "tanh":
        inner = (input + input * input * input * 0.044715) * math.sqrt(2 / math.pi)
        return input * 0.5 * (tanh(inner) + 1.0)
    if approximate != "none":
        raise ArgumentError(f"approximate must be 'none' or 'tanh', got {approximate!r}")
    return input * 0.5 * (erf(input * math.sqrt(0.5)) + 1.0)


@function
@in_float32
def glu(input: Value, dim: int = -1) -> Value:
    """The first half along ``dim`` times the sigmoid of the second (Dauphin et al., 2017)."""
    at = dim_index(dim, input.ndim)
    half, odd = divmod(input.shape[at], 2)
    if odd:
        raise ShapeError(f"glu halves dimension {at}, which must be even, got {list(input.shape)}")
    lead = (slice(None),) * at
    return getitem(input, (*lead, slice(0, half))) * sigmoid(getitem(input, (*lead, slice(half, None))))


# --- the softmax family --------------------------------------------------------------------------------------------


def _shifted(input: Value, dim: int) -> Value:
    """``input`` less its maximum over ``dim``."""
    require_float(input.dtype, "input")
    at = dim_index(dim, input.ndim) if input.ndim else 0
    return input - stop_gradient(amax(input, dim, keepdim=True)) if not input.ndim or input.shape[at] else input


@function
@full_precision
def log_softmax(input: Value, dim: int = -1) -> Value:
    """Logarithm of ``softmax``, computed without taking the logarithm of small numbers."""
    z = _shifted(input, dim)
    return z - log(sum(exp(z), dim, keepdim=True))


@function
@full_precision
def softmax(input: Value, dim: int = -1) -> Value:
    """``exp(input) / sum(exp(input))`` over ``dim``, shifted by the maximum."""
    e = exp(_shifted(input, dim))
    return e / sum(e, dim, keepdim=True)


@function
@full_precision
def softmin(input: Value, dim: int = -1) -> Value:
    """``softmax(-input)``."""
    return softmax(-input, dim)


@function
@in_float32
def gumbel_softmax(logits: Value, tau: float = 1.0, hard: bool = False, dim: int = -1) -> Value:
    """A sample along ``dim`` of the Gumbel-softmax distribution of ``logits`` (Jang et al., 2017) at the temperature ``tau``.

    ``hard`` makes it one-hot with the soft gradient.
    """
    if tau <= 0:
        raise ArgumentError(f"tau must be positive, got {tau}")
    require_float(logits.dtype, "logits")
    noise = -log(-log(maximum(uniform_like(logits), 1e-10)))  # uniform numbers may be 0
    soft = softmax((logits + cast(noise, logits.dtype)) * (1.0 / tau), dim)
    if not hard:
        return soft
    at = dim_index(dim, soft.ndim)
    chosen = iota(soft, at)
    one = cast(apply("eq", chosen, broadcast_to(unsqueeze(argmax(soft, at), at), soft.shape)), soft.dtype)
    return straight_through(one, soft)

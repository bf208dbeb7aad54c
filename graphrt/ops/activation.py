"""Activations and the softmax family: plain code over the ops, so they differentiate by themselves and fuse into one kernel.

Names, arguments and defaults follow torch.nn.functional.
"""

from __future__ import annotations

import math

from graphrt.errors import ArgumentError
from graphrt.ir import Value
from graphrt.ops.base import function, require_float
from graphrt.ops.elementwise import abs, erf, exp, log, maximum, sigmoid, stop_gradient, tanh, where
from graphrt.ops.reduction import amax, sum


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

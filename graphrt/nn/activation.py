"""Activation layers with torch's names, arguments and defaults.

``inplace`` is accepted and ignored: values of a graph never change.
"""

from __future__ import annotations

import graphrt.ops as F
from graphrt.ir import Value
from graphrt.nn.module import Module


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

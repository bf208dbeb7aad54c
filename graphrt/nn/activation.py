"""Activation layers with torch's names, arguments and defaults.

``inplace`` is accepted and ignored: values of a graph never change.
"""

from __future__ import annotations

import numpy as np

import graphrt.ops as F
from graphrt.errors import ShapeError
from graphrt.ir import Value
from graphrt.nn.module import Module, Parameter


class ReLU(Module):
    """``max(input, 0)``; the gradient at 0 is 0."""

    def __init__(self, inplace: bool = False) -> None: ...

    def forward(self, input: Value) -> Value:
        return F.relu(input)


class ReLU6(Module):
    """``min(max(input, 0), 6)``."""

    def __init__(self, inplace: bool = False) -> None: ...

    def forward(self, input: Value) -> Value:
        return F.relu6(input)


class LeakyReLU(Module):
    """``input`` where positive, else ``negative_slope * input`` (Maas et al., ICML 2013)."""

    def __init__(self, negative_slope: float = 0.01, inplace: bool = False) -> None:
        self.negative_slope = negative_slope

    def forward(self, input: Value) -> Value:
        return F.leaky_relu(input, self.negative_slope)


class ELU(Module):
    """``input`` where positive, else ``alpha * (exp(input) - 1)`` (Clevert et al., ICLR 2016)."""

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        self.alpha = alpha

    def forward(self, input: Value) -> Value:
        return F.elu(input, self.alpha)


class SELU(Module):
    """ELU with the constants that keep mean and variance (Klambauer et al., 2017)."""

    def __init__(self, inplace: bool = False) -> None: ...

    def forward(self, input: Value) -> Value:
        return F.selu(input)


class CELU(Module):
    """``input`` where positive, else ``alpha * (exp(input / alpha) - 1)`` (Barron, 2017)."""

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        self.alpha = alpha

    def forward(self, input: Value) -> Value:
        return F.celu(input, self.alpha)


class GELU(Module):
    """``input * Phi(input)``, exact or with ``approximate="tanh"`` (Hendrycks and Gimpel, 2016)."""

    def __init__(self, approximate: str = "none") -> None:
        self.approximate = approximate

    def forward(self, input: Value) -> Value:
        return F.gelu(input, self.approximate)


class SiLU(Module):
    """``input * sigmoid(input)``, also called swish."""

    def __init__(self, inplace: bool = False) -> None: ...

    def forward(self, input: Value) -> Value:
        return F.silu(input)


class Mish(Module):
    """``input * tanh(softplus(input))``."""

    def __init__(self, inplace: bool = False) -> None: ...

    def forward(self, input: Value) -> Value:
        return F.mish(input)


class Sigmoid(Module):
    """``1 / (1 + exp(-input))``."""

    def forward(self, input: Value) -> Value:
        return F.sigmoid(input)


class LogSigmoid(Module):
    """``log(sigmoid(input))``."""

    def forward(self, input: Value) -> Value:
        return F.logsigmoid(input)


class Tanh(Module):
    """Hyperbolic tangent."""

    def forward(self, input: Value) -> Value:
        return F.tanh(input)


class Tanhshrink(Module):
    """``input - tanh(input)``."""

    def forward(self, input: Value) -> Value:
        return F.tanhshrink(input)


class Softplus(Module):
    """``log(1 + exp(beta * input)) / beta``; ``input`` where ``beta * input`` exceeds ``threshold``."""

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        self.beta, self.threshold = beta, threshold

    def forward(self, input: Value) -> Value:
        return F.softplus(input, self.beta, self.threshold)


class Softsign(Module):
    """``input / (1 + |input|)``."""

    def forward(self, input: Value) -> Value:
        return F.softsign(input)


class Hardtanh(Module):
    """``input`` held within [min_val, max_val]."""

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> None:
        self.min_val, self.max_val = min_val, max_val

    def forward(self, input: Value) -> Value:
        return F.hardtanh(input, self.min_val, self.max_val)


class Hardsigmoid(Module):
    """``relu6(input + 3) / 6``."""

    def __init__(self, inplace: bool = False) -> None: ...

    def forward(self, input: Value) -> Value:
        return F.hardsigmoid(input)


class Hardswish(Module):
    """``input * relu6(input + 3) / 6`` (Howard et al., MobileNetV3, ICCV 2019)."""

    def __init__(self, inplace: bool = False) -> None: ...

    def forward(self, input: Value) -> Value:
        return F.hardswish(input)


class Hardshrink(Module):
    """0 within [-lambd, lambd], else ``input``."""

    def __init__(self, lambd: float = 0.5) -> None:
        self.lambd = lambd

    def forward(self, input: Value) -> Value:
        return F.hardshrink(input, self.lambd)


class Softshrink(Module):
    """``input`` moved towards 0 by ``lambd``."""

    def __init__(self, lambd: float = 0.5) -> None:
        self.lambd = lambd

    def forward(self, input: Value) -> Value:
        return F.softshrink(input, self.lambd)


class Threshold(Module):
    """``input`` where above ``threshold``, else ``value``."""

    def __init__(self, threshold: float, value: float, inplace: bool = False) -> None:
        self.threshold, self.value = threshold, value

    def forward(self, input: Value) -> Value:
        return F.threshold(input, self.threshold, self.value)


class GLU(Module):
    """The first half along ``dim`` times the sigmoid of the second."""

    def __init__(self, dim: int = -1) -> None:
        self.dim = dim

    def forward(self, input: Value) -> Value:
        return F.glu(input, self.dim)


class Softmax(Module):
    """``exp(input) / sum(exp(input))`` along ``dim`` (the last by default; torch guesses and warns)."""

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


class Softmin(Module):
    """Softmax of ``-input`` over ``dim`` (the last by default)."""

    def __init__(self, dim: int = -1) -> None:
        self.dim = dim

    def forward(self, input: Value) -> Value:
        return F.softmin(input, self.dim)


class Softmax2d(Module):
    """Softmax over the channels of [N, C, H, W] or [C, H, W]."""

    def forward(self, input: Value) -> Value:
        if input.ndim not in (3, 4):
            raise ShapeError(f"Softmax2d needs [N, C, H, W] or [C, H, W], got {list(input.shape)}")
        return F.softmax(input, -3)


class PReLU(Module):
    """``input`` where positive, else ``weight * input`` with learned slopes (He et al., ICCV 2015).

    ``num_parameters`` is 1, or the number of channels, dimension 1, for a slope each; they start at ``init``.
    """

    def __init__(self, num_parameters: int = 1, init: float = 0.25) -> None:
        self.weight = Parameter(np.full(num_parameters, init, np.float32))

    def forward(self, input: Value) -> Value:
        return F.prelu(input, self.weight.value(input.graph))


class RReLU(Module):
    """Leaky ReLU with a slope drawn from [lower, upper) for each element in training, else their mean (Xu et al., 2015)."""

    def __init__(self, lower: float = 1 / 8, upper: float = 1 / 3, inplace: bool = False) -> None:
        self.lower, self.upper = lower, upper

    def forward(self, input: Value) -> Value:
        return F.rrelu(input, self.lower, self.upper, self.training)


class Maxout(Module):
    """The largest of each ``pool_size`` neighbours along ``dim``, whose size that divides (Goodfellow et al., ICML 2013)."""

    def __init__(self, pool_size: int, dim: int = 1) -> None:
        self.pool_size, self.dim = pool_size, dim

    def forward(self, input: Value) -> Value:
        return F.maxout(input, self.pool_size, self.dim)

"""Activation functions and the softmax family."""

from __future__ import annotations

import numpy as np

import graphrt.ops as F
from graphrt.frontends.onnx.table import Call, operator
from graphrt.ir import Value


@operator("Relu")
def relu(x: Value) -> Value:
    return F.relu(x) if x.dtype.is_float else F.maximum(x, 0)


@operator("LeakyRelu")
def leaky_relu(x: Value, *, alpha: float = 0.01) -> Value:
    return F.leaky_relu(x, alpha)


@operator("PRelu")
def prelu(x: Value, slope: Value) -> Value:
    return F.where(x < 0, x * slope, x)


@operator("ThresholdedRelu")
def thresholded_relu(x: Value, *, alpha: float = 1.0) -> Value:
    return F.threshold(x, alpha, 0.0)


@operator("Elu")
def elu(x: Value, *, alpha: float = 1.0) -> Value:
    return F.elu(x, alpha)


@operator("Celu")
def celu(x: Value, *, alpha: float = 1.0) -> Value:
    return F.celu(x, alpha)


@operator("Selu")
def selu(x: Value, *, alpha: float = 1.67326319217681884765625, gamma: float = 1.05070102214813232421875) -> Value:
    return F.elu(x, alpha) * gamma


@operator("Gelu")
def gelu(x: Value, *, approximate: str = "none") -> Value:
    return F.gelu(x, approximate)


@operator("Mish")
def mish(x: Value) -> Value:
    return F.mish(x)


@operator("Swish")
def swish(x: Value, *, alpha: float = 1.0) -> Value:
    return F.silu(x) if alpha == 1.0 else x * F.sigmoid(x * alpha)


@operator("Sigmoid")
def sigmoid(x: Value) -> Value:
    return F.sigmoid(x)


@operator("HardSigmoid")
def hard_sigmoid(x: Value, *, alpha: float = 0.2, beta: float = 0.5) -> Value:
    return F.clamp(x * alpha + beta, 0.0, 1.0)


@operator("HardSwish")
def hard_swish(x: Value) -> Value:
    return F.hardswish(x)


@operator("Tanh")
def tanh(x: Value) -> Value:
    return F.tanh(x)


@operator("Softplus")
def softplus(x: Value) -> Value:
    return F.softplus(x)


@operator("Softsign")
def softsign(x: Value) -> Value:
    return F.softsign(x)


@operator("Shrink")
def shrink(x: Value, *, bias: float = 0.0, lambd: float = 0.5) -> Value:
    wide = x if x.dtype.is_float else F.cast(x, "float32")
    return F.cast(F.where(wide < -lambd, wide + bias, F.where(wide > lambd, wide - bias, 0.0)), x.dtype)


@operator("Softmax")
def softmax(x: Value, *, axis: int = -1) -> Value:
    return F.softmax(x, axis)


@operator("LogSoftmax")
def log_softmax(x: Value, *, axis: int = -1) -> Value:
    return F.log_softmax(x, axis)


@operator("Hardmax")
def hardmax(x: Value, *, axis: int = -1) -> Value:
    """1 at the first largest element along ``axis``, else 0."""
    best = F.one_hot(F.argmax(x, axis), x.shape[axis])
    return F.cast(F.movedim(best, -1, axis), x.dtype)


@operator("Dropout", folds=False)
def dropout(
    x: Value, ratio: np.ndarray | None = None, training_mode: np.ndarray | None = None, *, seed: int = 0, call: Call
) -> list[Value]:
    """Also the mask, where it is asked for."""
    share = 0.5 if ratio is None else float(ratio.item())
    active = training_mode is not None and bool(training_mode.item()) and share > 0
    if not any(call.outputs[1:]):
        return [F.dropout(x, share, active)]
    ones = F.ones_like(x)
    kept = F.dropout(ones, share, active) if active else ones
    return [x * kept, F.ne(kept, 0)]

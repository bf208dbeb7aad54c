"""Normalisation."""

from __future__ import annotations

import numpy as np

import graphrt.ops as F
from graphrt.errors import ConversionError
from graphrt.frontends.onnx.table import Call, Ints, operator
from graphrt.ir import Value


@operator("BatchNormalization", state=("input_mean", "input_var"))
def batch_normalization(
    x: Value,
    scale: Value,
    b: Value,
    input_mean: Value,
    input_var: Value,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: int = 0,
    spatial: int = 1,
) -> list[Value]:
    """In training also the running statistics, with the variance of the population, as ONNX has it."""
    if not spatial:
        raise ConversionError("spatial=0, statistics for each pixel, has no counterpart")
    if not training_mode:
        return [F.batch_norm(x, input_mean, input_var, scale, b, False, eps=epsilon)]
    dims = [d for d in range(x.ndim) if d != 1]
    mean, var = F.mean(x, dims), F.var(x, dims, correction=0)
    y = F.batch_norm(x, mean, var, scale, b, False, eps=epsilon)
    moved = [old * momentum + new * (1.0 - momentum) for old, new in ((input_mean, mean), (input_var, var))]
    return [y, *moved]


@operator("InstanceNormalization")
def instance_normalization(x: Value, scale: Value, b: Value, *, epsilon: float = 1e-5) -> Value:
    return F.instance_norm(x, None, None, scale, b, eps=epsilon)


@operator("GroupNormalization")
def group_normalization(
    x: Value, scale: Value, bias: Value, *, epsilon: float = 1e-5, num_groups: int, stash_type: int = 1, call: Call
) -> Value:
    """Up to opset 20 scale and bias have an element for each group, from 21 on for each channel."""
    if call.opset < 21:
        scale, bias = (F.repeat_interleave(v, x.shape[1] // num_groups, 0) for v in (scale, bias))
    return F.cast(F.group_norm(F.cast(x, "float32"), num_groups, scale, bias, epsilon), x.dtype)


def _wide(x: Value, stash_type: int) -> Value:
    """``x`` in the type that statistics are computed in."""
    return F.cast(x, "float32") if stash_type == 1 and x.dtype.itemsize < 4 else x


@operator("LayerNormalization")
def layer_normalization(
    x: Value, scale: Value, b: Value | None = None, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> list[Value]:
    """Also the mean and one over the standard deviation."""
    wide, dims = _wide(x, stash_type), list(range(axis % x.ndim, x.ndim))
    mean = F.mean(wide, dims, keepdim=True)
    centred = wide - mean
    inverse = F.rsqrt(F.mean(centred * centred, dims, keepdim=True) + epsilon)
    y = F.cast(centred * inverse, x.dtype) * scale
    return [y if b is None else y + b, mean, inverse]


@operator("RMSNormalization")
def rms_normalization(x: Value, scale: Value, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1) -> Value:
    wide, dims = _wide(x, stash_type), list(range(axis % x.ndim, x.ndim))
    y = wide * F.rsqrt(F.mean(wide * wide, dims, keepdim=True) + epsilon)
    return F.cast(y, x.dtype) * scale


@operator("LpNormalization")
def lp_normalization(x: Value, *, axis: int = -1, p: int = 2) -> Value:
    """Zero where the norm is."""
    norm = F.norm(x, p, axis, keepdim=True)
    return x / F.where(F.eq(norm, 0.0), 1.0, norm)


@operator("LRN")
def lrn(x: Value, *, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0, size: int) -> Value:
    """An even window reaches further behind than before, in torch's function the other way round."""
    if size % 2:
        return F.local_response_norm(x, size, alpha, beta, bias)
    return F.flip(F.local_response_norm(F.flip(x, 1), size, alpha, beta, bias), 1)


@operator("MeanVarianceNormalization")
def mean_variance_normalization(x: Value, *, axes: Ints = (0, 2, 3)) -> Value:
    mean = F.mean(x, list(axes), keepdim=True)
    centred = x - mean
    return centred / (F.sqrt(F.mean(centred * centred, list(axes), keepdim=True)) + float(np.float32(1e-9)))

"""Quantised tensors: integers, a scale and a zero point, for a tensor, a slice along an axis, or a block of one."""

from __future__ import annotations

import numpy as np

import graphrt.ops as F
from graphrt.frontends.onnx.operators.convolution import conv
from graphrt.frontends.onnx.table import Ints, element_type, operator
from graphrt.ir import Value
from graphrt.types import DType, as_dtype


def _along(v: Value, x: Value, axis: int, block: int) -> Value:
    """A scale or zero point in a shape that broadcasts against ``x``."""
    if v.ndim == 0 or v.shape == (1,):
        return F.reshape(v, ())
    if block:
        wide = F.repeat_interleave(v, block, axis)
        return wide[(*[slice(None)] * (axis % x.ndim), slice(0, x.shape[axis]))]
    return F.reshape(v, [-1 if d == axis % x.ndim else 1 for d in range(x.ndim)])


def _saturated(y: Value, dtype: DType) -> Value:
    """Whole numbers in a float ``y`` as ``dtype``, held within its range."""
    info = np.iinfo(dtype.numpy)
    return F.cast(F.clamp(y, float(info.min), float(info.max)), dtype)


@operator("QuantizeLinear")
def quantize_linear(
    x: Value,
    y_scale: Value,
    y_zero_point: Value | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
    precision: int = 0,
    saturate: int = 1,
) -> Value:
    """Rounded to even, saturated."""
    kind = y_zero_point.dtype if y_zero_point is not None else element_type(output_dtype) if output_dtype else as_dtype("uint8")
    wide = F.cast(x, element_type(precision)) if precision else F.cast(x, "float32") if not x.dtype.is_float else x
    scale = F.cast(_along(y_scale, x, axis, block_size), wide.dtype)
    y = F.cast(F.round(wide / scale), "float32")
    if y_zero_point is not None:
        y = y + F.cast(_along(y_zero_point, x, axis, block_size), "float32")
    return _saturated(y, kind)


@operator("DequantizeLinear", folds=False)
def dequantize_linear(
    x: Value,
    x_scale: Value,
    x_zero_point: Value | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
) -> Value:
    """Dequantizes known integers too when the program runs, which therefore keeps the integers."""
    y = F.cast(x, "float32")
    if x_zero_point is not None:
        y = y - F.cast(_along(x_zero_point, x, axis, block_size), "float32")
    kind = element_type(output_dtype) if output_dtype else x_scale.dtype
    return F.cast(y * F.cast(_along(x_scale, x, axis, block_size), "float32"), kind)


@operator("DynamicQuantizeLinear")
def dynamic_quantize_linear(x: Value) -> list[Value]:
    """uint8 over the range of ``x``, zero included; also the scale and the zero point."""
    low, high = F.minimum(F.amin(x), 0.0), F.maximum(F.amax(x), 0.0)
    scale = (high - low) / 255.0
    zero = _saturated(F.round(F.where(F.eq(scale, 0.0), 0.0, -low / scale)), as_dtype("uint8"))
    return [quantize_linear(x, scale, zero), scale, zero]


def _exact(x: Value, zero: Value | None, shape: Ints = ()) -> Value:
    """Integers less their zero point in double, in which sums of their products are exact.

    A zero point that is no single number has one for each row or filter; ``shape`` lets it broadcast against ``x``.
    """
    wide = F.cast(x, "float64")
    if zero is None:
        return wide
    single = zero.type.size == 1
    return wide - F.cast(F.reshape(zero, ()) if single else F.reshape(zero, list(shape)) if shape else zero, "float64")


@operator("MatMulInteger")
def mat_mul_integer(a: Value, b: Value, a_zero_point: Value | None = None, b_zero_point: Value | None = None) -> Value:
    """A zero point for each row of ``a``, each column of ``b``, or one."""
    return F.cast(F.matmul(_exact(a, a_zero_point, (-1, 1)), _exact(b, b_zero_point)), "int32")


@operator("QLinearMatMul")
def q_linear_mat_mul(
    a: Value,
    a_scale: Value,
    a_zero_point: Value,
    b: Value,
    b_scale: Value,
    b_zero_point: Value,
    y_scale: Value,
    y_zero_point: Value,
) -> Value:
    total = F.matmul(_exact(a, a_zero_point, (-1, 1)), _exact(b, b_zero_point))
    factor = F.cast(a_scale, "float64") * F.cast(b_scale, "float64") / F.cast(y_scale, "float64")
    return _saturated(F.round(total * factor) + F.cast(y_zero_point, "float64"), y_zero_point.dtype)


@operator("ConvInteger")
def conv_integer(
    x: Value,
    w: Value,
    x_zero_point: Value | None = None,
    w_zero_point: Value | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Ints = (),
    group: int = 1,
    kernel_shape: Ints = (),
    pads: Ints = (),
    strides: Ints = (),
) -> Value:
    filters = _exact(w, w_zero_point, (-1, *[1] * (w.ndim - 1)))
    y = conv(_exact(x, x_zero_point), filters, auto_pad=auto_pad, dilations=dilations, group=group, pads=pads, strides=strides)
    return F.cast(y, "int32")


@operator("QLinearConv")
def q_linear_conv(
    x: Value,
    x_scale: Value,
    x_zero_point: Value,
    w: Value,
    w_scale: Value,
    w_zero_point: Value,
    y_scale: Value,
    y_zero_point: Value,
    b: Value | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Ints = (),
    group: int = 1,
    kernel_shape: Ints = (),
    pads: Ints = (),
    strides: Ints = (),
) -> Value:
    """The bias is int32 in steps of ``x_scale * w_scale``."""
    filters = _exact(w, w_zero_point, (-1, *[1] * (w.ndim - 1)))
    bias = None if b is None else F.cast(b, "float64")
    y = conv(
        _exact(x, x_zero_point), filters, bias, auto_pad=auto_pad, dilations=dilations, group=group, pads=pads, strides=strides
    )
    factor = F.cast(x_scale, "float64") * F.cast(w_scale, "float64") / F.cast(y_scale, "float64")
    factor = F.reshape(factor, [1, -1, *[1] * (x.ndim - 2)]) if factor.type.size > 1 else F.reshape(factor, ())
    return _saturated(F.round(y * factor) + F.cast(F.reshape(y_zero_point, ()), "float64"), y_zero_point.dtype)

"""ATen operators of one element at a time: arithmetic, comparison, logic, activations, casts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import graphrt.ops as F
from graphrt.frontends.torch.table import aten, same
from graphrt.ir import Value
from graphrt.ops.activation import scaled_elu

Operand = Value | bool | int | float

same([F.abs, F.neg, F.sign, F.reciprocal, F.sqrt, F.rsqrt, F.square, F.exp, F.exp2, F.expm1, F.log, F.log2, F.log10, F.log1p])
same([F.sin, F.cos, F.tan, F.asin, F.acos, F.atan, F.atan2, F.sinh, F.cosh, F.tanh, F.asinh, F.acosh, F.atanh, F.sinc])
same([F.erf, F.erfc, F.erfinv, F.hypot, F.logaddexp, F.heaviside, F.nan_to_num, F.deg2rad, F.rad2deg, F.signbit])
same([F.isfinite, F.isinf, F.isnan, F.logical_not, F.logical_and, F.logical_or, F.logical_xor, F.maximum, F.minimum])
same([F.sigmoid, F.silu, F.mish, F.softplus, F.leaky_relu, F.hardtanh, F.hardsigmoid, F.hardswish, F.gelu, F.celu, F.selu])
same([F.hardshrink, F.softshrink, F.threshold, F.bitwise_not, F.floor_divide])
for _overload in ("Tensor", "Scalar"):
    same(
        [F.eq, F.ne, F.lt, F.le, F.gt, F.ge, F.fmod, F.remainder, F.bitwise_and, F.bitwise_or, F.bitwise_xor, F.copysign],
        _overload,
    )
for _overload in ("Tensor", "Tensor_Scalar", "Scalar_Tensor"):
    same([F.bitwise_left_shift, F.bitwise_right_shift], _overload)
aten("__lshift__.Tensor", "__lshift__.Scalar")(F.bitwise_left_shift)
aten("__rshift__.Tensor", "__rshift__.Scalar")(F.bitwise_right_shift)


def _bools(*operands: Operand) -> bool:
    """Whether all operands are bool: then torch's arithmetic is logic."""
    return all(isinstance(v, bool) or (isinstance(v, Value) and v.dtype.is_bool) for v in operands)


@aten("add.Tensor", "add.Scalar")
def add(input: Operand, other: Operand, alpha: float = 1) -> Value:
    if _bools(input, other):
        return F.logical_or(input, other)
    return F.add(input, other if alpha == 1 else F.mul(other, alpha) if isinstance(other, Value) else other * alpha)


@aten("sub.Tensor", "sub.Scalar")
def sub(input: Operand, other: Operand, alpha: float = 1) -> Value:
    return F.sub(input, other if alpha == 1 else F.mul(other, alpha) if isinstance(other, Value) else other * alpha)


@aten("rsub.Tensor", "rsub.Scalar")
def rsub(input: Operand, other: Operand, alpha: float = 1) -> Value:
    return sub(other, input, alpha)


@aten("mul.Tensor", "mul.Scalar")
def mul(input: Operand, other: Operand) -> Value:
    return F.logical_and(input, other) if _bools(input, other) else F.mul(input, other)


@aten("div.Tensor", "div.Scalar")
def div(input: Operand, other: Operand) -> Value:
    return F.div(input, other)


@aten("div.Tensor_mode", "div.Scalar_mode")
def div_mode(input: Value, other: Operand, rounding_mode: str | None) -> Value:
    return F.divide(input, other, rounding_mode)


@aten("ldexp.Tensor")
def ldexp(input: Value, other: Value) -> Value:
    return input * F.exp2(other)


@aten("angle.default")
def angle(input: Value) -> Value:
    """The angle of a real number: pi if it is negative, else 0."""
    return F.where(F.isnan(input), input, F.where(input < 0, math.pi, 0.0))


@aten("prims.fma.default")
def fma(a: Value, b: Value, c: Value) -> Value:
    return a * b + c


@aten("pow.Tensor_Tensor", "pow.Tensor_Scalar", "pow.Scalar")
def pow(input: Operand, exponent: Operand) -> Value:  # noqa: A001 - torch's name
    return F.pow(input, exponent)


def _rounding(f: Callable[[Value], Value]) -> None:
    """Enters a function of floats that leaves integers alone."""
    aten(f"{f.__name__}.default")(lambda input: f(input) if input.dtype.is_float else input)


for _f in (F.floor, F.ceil, F.trunc, F.round):
    _rounding(_f)


@aten("round.decimals")
def round_decimals(input: Value, *, decimals: int) -> Value:
    return F.round(input * 10.0**decimals) * 10.0**-decimals


@aten("relu.default")
def relu(input: Value) -> Value:
    return F.relu(input) if input.dtype.is_float else F.maximum(input, 0)


@aten("elu.default")
def elu(input: Value, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Value:
    return scaled_elu(input, alpha, scale, input_scale)


@aten("_prelu_kernel.default")
def prelu_kernel(input: Value, weight: Value) -> Value:
    return F.where(input > 0.0, input, F.where(input > 0.0, 0.0, input) * weight)


@aten("clamp.default", "clamp.Tensor")
def clamp(input: Value, min: Operand | None = None, max: Operand | None = None) -> Value:  # noqa: A002 - torch's names
    return F.clamp(input, min, max)


@aten("clamp_min.default", "clamp_min.Tensor")
def clamp_min(input: Value, min: Operand) -> Value:  # noqa: A002 - torch's name
    return F.clamp(input, min)


@aten("clamp_max.default", "clamp_max.Tensor")
def clamp_max(input: Value, max: Operand) -> Value:  # noqa: A002 - torch's name
    return F.clamp(input, None, max)


@aten("where.self", "where.ScalarOther", "where.ScalarSelf", "where.Scalar")
def where(condition: Value, input: Operand, other: Operand) -> Value:
    return F.where(condition if condition.dtype.is_bool else F.ne(condition, 0), input, other)


@aten("masked_fill.Scalar", "masked_fill.Tensor")
def masked_fill(input: Value, mask: Value, value: Operand) -> Value:
    return F.where(mask, F.cast(value, input.dtype) if isinstance(value, Value) else value, input)


@aten("fmax.default")
def fmax(input: Value, other: Value) -> Value:
    return F.where((input >= other) | F.isnan(other), input, other)


@aten("fmin.default")
def fmin(input: Value, other: Value) -> Value:
    return F.where((input <= other) | F.isnan(other), input, other)


@aten("_to_copy.default")
def to_copy(input: Value, *, dtype: Any = None, **_: Any) -> Value:
    return input if dtype is None else F.cast(input, dtype)


@aten("prims.convert_element_type.default")
def convert_element_type(input: Value, dtype: Any) -> Value:
    return F.cast(input, dtype)


@aten("clone.default", "alias.default", "lift_fresh_copy.default", "contiguous.default")
def clone(input: Value, *_: Any, **__: Any) -> Value:
    return input


@aten("detach.default")
def detach(input: Value) -> Value:
    return F.stop_gradient(input) if input.dtype.is_float else input


@aten("copy.default")
def copy(input: Value, src: Value, non_blocking: bool = False) -> Value:
    return F.expand(F.cast(src, input.dtype), input.shape)


@aten("fill.Scalar")
def fill(input: Value, value: bool | int | float) -> Value:
    return F.full_like(input, value)

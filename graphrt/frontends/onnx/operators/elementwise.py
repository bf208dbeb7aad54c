"""Arithmetic, comparison, logic, bits, rounding and conversion, element by element; shapes broadcast."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

import graphrt.ops as F
from graphrt.frontends.onnx.table import Tensor, element_type, lift, operator
from graphrt.ir import Value
from graphrt.types import DTypeLike, as_dtype

UNARY: dict[str, Callable[[Value], Value]] = {
    "Abs": F.abs,
    "Acos": F.acos,
    "Acosh": F.acosh,
    "Asin": F.asin,
    "Asinh": F.asinh,
    "Atan": F.atan,
    "Atanh": F.atanh,
    "BitwiseNot": F.bitwise_not,
    "Ceil": F.ceil,
    "Cos": F.cos,
    "Cosh": F.cosh,
    "Erf": F.erf,
    "Exp": F.exp,
    "Floor": F.floor,
    "IsNaN": F.isnan,
    "Log": F.log,
    "Neg": F.neg,
    "Not": F.logical_not,
    "Reciprocal": F.reciprocal,
    "Round": F.round,
    "Sign": F.sign,
    "Sin": F.sin,
    "Sinh": F.sinh,
    "Sqrt": F.sqrt,
    "Tan": F.tan,
}
BINARY: dict[str, Callable[[Value, Value], Value]] = {
    "Add": F.add,
    "And": F.logical_and,
    "BitwiseAnd": F.bitwise_and,
    "BitwiseOr": F.bitwise_or,
    "BitwiseXor": F.bitwise_xor,
    "Equal": F.eq,
    "Greater": F.gt,
    "GreaterOrEqual": F.ge,
    "Less": F.lt,
    "LessOrEqual": F.le,
    "Mul": F.mul,
    "Or": F.logical_or,
    "Sub": F.sub,
    "Xor": F.logical_xor,
}


def _enter_unary(name: str, f: Callable[[Value], Value]) -> None:
    @operator(name)
    def unary(x: Value) -> Value:
        return f(x)


def _enter_binary(name: str, f: Callable[[Value, Value], Value]) -> None:
    @operator(name)
    def binary(a: Value, b: Value) -> Value:
        return f(a, b)


for _name, _unary in UNARY.items():
    _enter_unary(_name, _unary)
for _name, _binary in BINARY.items():
    _enter_binary(_name, _binary)


@operator("Div")
def div(a: Value, b: Value) -> Value:
    return F.divide(a, b, None if a.dtype.is_float else "trunc")


@operator("Mod")
def mod(a: Value, b: Value, *, fmod: int = 0) -> Value:
    return F.fmod(a, b) if fmod else F.remainder(a, b)


@operator("Pow")
def pow(x: Value, y: Tensor) -> Value:  # noqa: A001 - ONNX's name
    """The result has the type of ``x``; a known number keeps the cheap form that the graph has for it. Integers wrap around."""
    if isinstance(y, np.ndarray) and y.size == 1 and y.ndim <= x.ndim and x.dtype.is_float:
        return F.pow(x, float(y.item()))
    exponent = lift(x.graph, y)
    if exponent.dtype.is_float and not x.dtype.is_float:
        return F.cast(F.pow(F.cast(x, "float64"), F.cast(exponent, "float64")), x.dtype)
    return F.cast(F.pow(x, exponent), x.dtype)


@operator("BitShift")
def bit_shift(x: Value, y: Value, *, direction: str) -> Value:
    return (F.bitwise_left_shift if direction == "LEFT" else F.bitwise_right_shift)(x, y)


@operator("Max")
def maximum(*data: Value) -> Value:
    return functools.reduce(F.maximum, data)


@operator("Min")
def minimum(*data: Value) -> Value:
    return functools.reduce(F.minimum, data)


@operator("Sum")
def sum(*data: Value) -> Value:  # noqa: A001 - ONNX's name
    return functools.reduce(F.add, data)


@operator("Mean")
def mean(*data: Value) -> Value:
    return functools.reduce(F.add, data) / len(data)


@operator("Clip")
def clip(x: Value, min: Tensor | None = None, max: Tensor | None = None) -> Value:  # noqa: A002 - ONNX's names
    """Known bounds become numbers. Where the two contradict each other ``max`` holds."""
    bounds = [b.item() if isinstance(b, np.ndarray) else b for b in (min, max)]
    return x if bounds == [None, None] else F.clamp(x, *bounds)


@operator("Where")
def where(condition: Value, x: Value, y: Value) -> Value:
    return F.where(condition, x, y)


@operator("IsInf")
def is_inf(x: Value, *, detect_negative: int = 1, detect_positive: int = 1) -> Value:
    found = F.isinf(x)
    if not detect_negative:
        found = F.logical_and(found, x > 0)
    return found if detect_positive else F.logical_and(found, x < 0)


def convert(x: Value, dtype: DTypeLike) -> Value:
    """``x`` as ``dtype``; towards bool everything but zero is true."""
    final = as_dtype(dtype)
    return F.ne(x, 0) if final.is_bool and not x.dtype.is_bool else F.cast(x, final)


@operator("Cast")
def cast(x: Value, *, to: int, saturate: int = 1, round_mode: str = "up") -> Value:
    """``saturate`` and ``round_mode`` speak of 8-bit floats, which graphrt does not have."""
    return convert(x, element_type(to))


@operator("CastLike")
def cast_like(x: Tensor, target_type: Tensor, *, saturate: int = 1, round_mode: str = "up") -> Tensor:
    """A known number stays known: only the type of ``target_type`` matters."""
    dtype = as_dtype(target_type.dtype)
    return convert(x, dtype) if isinstance(x, Value) else x.astype(dtype.numpy)


@operator("CumSum")
def cum_sum(x: Value, axis: np.ndarray, *, exclusive: int = 0, reverse: int = 0) -> Value:
    return F.cast(F.cumsum(x, int(axis.item()), bool(reverse), bool(exclusive)), x.dtype)


@operator("CumProd")
def cum_prod(x: Value, axis: np.ndarray, *, exclusive: int = 0, reverse: int = 0) -> Value:
    return F.cast(F.cumprod(x, int(axis.item()), bool(reverse), bool(exclusive)), x.dtype)

"""Small elementwise functions that torch's users expect, over the ops. Operands broadcast; gradients at bounds are torch's."""

from __future__ import annotations

import math

import ml_dtypes

from graphrt.errors import ArgumentError, DTypeError
from graphrt.ir import Value
from graphrt.ops.base import cast, function, in_float32, lift
from graphrt.ops.elementwise import (
    abs,
    div,
    eq,
    exp,
    ge,
    gt,
    le,
    logical_and,
    lt,
    maximum,
    mul,
    ne,
    sin,
    stop_gradient,
    where,
)
from graphrt.ops.transcendental import floor_divide, fmod, log1p, trunc
from graphrt.types import bool_, float32

Operand = Value | bool | int | float


@function
def masked_fill(input: Value, mask: Value, value: Operand) -> Value:
    """``value`` where the bool ``mask`` holds, else ``input``."""
    if not mask.dtype.is_bool:
        raise DTypeError(f"mask must be bool, got {mask.dtype}")
    fill = cast(value, input.dtype) if isinstance(value, Value) else input.graph.constant(value, input.dtype)
    return where(mask, fill, input)


@function
@in_float32
def lerp(input: Value, end: Value, weight: Value | float) -> Value:
    """``input + weight * (end - input)``."""
    return input + (end - input) * weight


@function
@in_float32
def addcmul(input: Value, tensor1: Value, tensor2: Value, value: float = 1) -> Value:
    """``input + value * tensor1 * tensor2``."""
    return input + (tensor1 * tensor2 if value == 1 else tensor1 * tensor2 * value)


@function
@in_float32
def addcdiv(input: Value, tensor1: Value, tensor2: Value, value: float = 1) -> Value:
    """``input + value * tensor1 / tensor2``."""
    return input + (tensor1 / tensor2 if value == 1 else tensor1 / tensor2 * value)


@function
def clamp(input: Value, min: Operand | None = None, max: Operand | None = None) -> Value:
    """``input`` held within [min, max], either of which may be missing; the gradient at a bound is the input's.

    NaN wins, of the input and of the bounds, and has no gradient.
    """
    if min is None and max is None:
        raise ArgumentError("clamp needs min, max or both")
    x = input
    if min is not None:
        if isinstance(min, Value) and isinstance(max, Value):  # between equal bounds neither has a gradient from below
            low, high = lift(min, max)
            min = where(lt(low, high), low, stop_gradient(low))
        x, low = lift(x, min)
        x = where(ge(x, low), x, where(lt(x, low), low, math.nan) if x.dtype.is_float else low)
    if max is not None:
        x, high = lift(x, max)
        x = where(le(x, high), x, where(gt(x, high), high, math.nan) if x.dtype.is_float else high)
    return x


@function
def clip(input: Value, min: Operand | None = None, max: Operand | None = None) -> Value:
    """``clamp`` by its other name: ``input`` held within [min, max]."""
    return clamp(input, min, max)


@function
def square(input: Value) -> Value:
    """``input * input``."""
    return input * input


@function
def reciprocal(input: Value) -> Value:
    """``1 / input``."""
    return 1.0 / input


@function
def divide(input: Value, other: Operand, rounding_mode: str | None = None) -> Value:
    """``input / other``, rounded by ``rounding_mode``: None, "trunc" or "floor" (torch.div)."""
    if rounding_mode is None:
        return div(input, other)
    if rounding_mode == "floor":
        return floor_divide(input, other)
    if rounding_mode != "trunc":
        raise ArgumentError(f"rounding_mode must be None, 'trunc' or 'floor', got {rounding_mode!r}")
    a, b = lift(input, other)
    return trunc(a / b) if a.dtype.is_float else floor_divide(a - fmod(a, b), b)


@function
def isnan(input: Value) -> Value:
    """Whether each element is NaN."""
    return ne(input, input)


@function
def isinf(input: Value) -> Value:
    """Whether each element is infinite."""
    return eq(abs(input), math.inf) if input.dtype.is_float else ne(input, input)


@function
def isfinite(input: Value) -> Value:
    """Whether each element is neither infinite nor NaN."""
    return lt(abs(input), math.inf) if input.dtype.is_float else eq(input, input)


@function
def isclose(input: Value, other: Value, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> Value:
    """Whether ``|input - other| <= atol + rtol * |other|``; infinities equal themselves, NaN itself with ``equal_nan``."""
    if rtol < 0 or atol < 0:
        raise ArgumentError(f"rtol and atol must be >= 0, got {rtol} and {atol}")
    a, b = lift(input, other)
    if not a.dtype.is_float:
        a, b = cast(a, float32), cast(b, float32)
    near = logical_and(le(abs(a - b), abs(b) * rtol + atol), isfinite(b)) | eq(a, b)
    return near | logical_and(isnan(a), isnan(b)) if equal_nan else near


@function
def nan_to_num(input: Value, nan: float = 0.0, posinf: float | None = None, neginf: float | None = None) -> Value:
    """``input`` with ``nan`` for NaN, ``posinf`` and ``neginf`` for the infinities.

    None stands for the dtype's largest number, of either sign.
    """
    if not input.dtype.is_float:
        return input
    largest = float(ml_dtypes.finfo(input.dtype.numpy).max)
    high, low = largest if posinf is None else posinf, -largest if neginf is None else neginf
    return where(isnan(input), nan, where(eq(input, math.inf), high, where(eq(input, -math.inf), low, input)))


@function
def logical_xor(input: Value, other: Value) -> Value:
    """Whether exactly one holds."""
    return ne(cast(input, bool_), cast(other, bool_))


@function
@in_float32
def logaddexp(input: Value, other: Value) -> Value:
    """``log(exp(input) + exp(other))`` without overflow."""
    a, b = lift(input, other)
    top = maximum(a, b)
    return where(eq(abs(top), math.inf), top, top + log1p(exp(-abs(a - b))))


@function
@in_float32
def sinc(input: Value) -> Value:
    """``sin(pi * input) / (pi * input)``, 1 at 0."""
    z = input * math.pi
    zero = lt(abs(z), 1e-30)  # where the quotient of the gradient would overflow
    return where(zero, 1.0, sin(z) / where(zero, 1.0, z))


@function
def deg2rad(input: Value) -> Value:
    """Degrees as radians."""
    return mul(input, math.pi / 180)


@function
def rad2deg(input: Value) -> Value:
    """Radians as degrees."""
    return mul(input, 180 / math.pi)


@function
def heaviside(input: Value, values: Operand) -> Value:
    """0 below zero, 1 above, ``values`` at zero."""
    x, middle = lift(input, values)
    return where(eq(x, 0), middle, cast(gt(x, 0), x.dtype))


@function
def signbit(input: Value) -> Value:
    """Whether each element is negative, -0 among them; a NaN counts as positive."""
    if not input.dtype.is_float:
        return lt(input, 0) if input.dtype.is_int else ne(input, input)
    return lt(input, 0.0) | lt(1.0 / input, 0.0)


@function
def frac(input: Value) -> Value:
    """``input`` without its integer part."""
    return input - trunc(input)

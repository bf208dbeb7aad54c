"""More elementary functions: roundings, exponentials, logarithms, trigonometric and hyperbolic functions, erfinv.

What a target's language lacks has a row in ``targets.scalar``; what is a short formula of those is a plain function.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import numpy as np

from graphrt.ir import Value
from graphrt.ops.base import cast, function, in_float32, lift, widened
from graphrt.ops.elementwise import abs, binary, cos, define, eq, erf, exp, log, sin, sqrt, unary, where

_TWO = ("input", "other")

ceil = unary(define("ceil", lambda s, x: s.ceil(x), np.ceil, lambda n, dy: [None]), "Smallest integer not below.")
trunc = unary(define("trunc", lambda s, x: s.trunc(x), np.trunc, lambda n, dy: [None]), "The integer part.")
round = unary(  # noqa: A001 - torch's name
    define("round", lambda s, x: s.round(x), np.rint, lambda n, dy: [None]), "Nearest integer, ties to even."
)
exp2 = unary(
    define("exp2", lambda s, x: s.exp2(x), np.exp2, lambda n, dy: [dy * n.outputs[0] * math.log(2)], cheap=False),
    "``2 ** input``.",
)
expm1 = unary(
    define("expm1", lambda s, x: s.expm1(x), np.expm1, lambda n, dy: [dy * exp(n.inputs[0])], cheap=False),
    "``exp(input) - 1``, accurate near 0.",
)
log2 = unary(
    define(
        "log2",
        lambda s, x: s.log2(x),
        np.log2,
        lambda n, dy: [dy / (n.inputs[0] * math.log(2))],
        domain=(0.1, 4.0),
        cheap=False,
    ),
    "Logarithm to base 2.",
)
log1p = unary(
    define(
        "log1p", lambda s, x: s.log1p(x), np.log1p, lambda n, dy: [dy / (n.inputs[0] + 1.0)], domain=(-0.9, 4.0), cheap=False
    ),
    "``log(1 + input)``, accurate near 0.",
)
atan = unary(
    define("atan", lambda s, x: s.atan(x), np.arctan, lambda n, dy: [dy / (n.inputs[0] * n.inputs[0] + 1.0)], cheap=False),
    "Inverse tangent.",
)


def _atan2_vjp(node: Any, dy: Value) -> list[Value | None]:
    """0 at the origin, as in torch."""
    y, x = (widened(v) for v in node.inputs)  # a half does not hold their squares
    square = x * x + y * y
    origin = eq(square, 0.0)
    scaled = where(origin, 0.0, widened(dy) / where(origin, 1.0, square))
    return [cast(d, dy.dtype) for d in (scaled * x, -(scaled * y))]


atan2 = binary(
    define("atan2", lambda s, y, x: s.atan2(y, x), np.arctan2, _atan2_vjp, names=_TWO, cheap=False),
    "The angle of the point (other, input), in (-pi, pi].",
)


def _reference_erfinv(y: np.ndarray) -> np.ndarray:
    def one(v: float) -> float:
        if not -1 < v < 1:
            return math.copysign(math.inf, v) if math.fabs(v) == 1 else math.nan
        tail = (1 - math.fabs(v)) / 2  # from the tail, so that nothing is lost near +-1
        return math.copysign(NormalDist().inv_cdf(tail) / math.sqrt(2), v) if tail > 0 else math.copysign(math.inf, v)

    return np.vectorize(one, otypes=[np.float64])(y)


erfinv = unary(
    define(
        "erfinv",
        lambda s, x: s.erfinv(x),
        _reference_erfinv,
        lambda n, dy: [dy * (math.sqrt(math.pi) / 2) * exp(n.outputs[0] * n.outputs[0])],
        domain=(-0.95, 0.95),
        cheap=False,
    ),
    "Inverse error function.",
)


@function
@in_float32
def erfc(input: Value) -> Value:
    """``1 - erf(input)``."""
    return 1.0 - erf(input)


@function
@in_float32
def log10(input: Value) -> Value:
    """Logarithm to base 10."""
    return log2(input) * math.log10(2)


@function
@in_float32
def tan(input: Value) -> Value:
    """Tangent."""
    return sin(input) / cos(input)


@function
@in_float32
def sinh(input: Value) -> Value:
    """Hyperbolic sine."""
    return (expm1(input) - expm1(-input)) * 0.5


@function
@in_float32
def cosh(input: Value) -> Value:
    """Hyperbolic cosine."""
    return (exp(input) + exp(-input)) * 0.5


@function
@in_float32
def asin(input: Value) -> Value:
    """Inverse sine, in [-pi/2, pi/2]."""
    return atan2(input, sqrt((1.0 - input) * (1.0 + input)))


@function
@in_float32
def acos(input: Value) -> Value:
    """Inverse cosine, in [0, pi]."""
    return atan2(sqrt((1.0 - input) * (1.0 + input)), input)


@function
@in_float32
def asinh(input: Value) -> Value:
    """Inverse hyperbolic sine."""
    a = abs(input)
    y = log1p(a + a * a / (1.0 + sqrt(a * a + 1.0)))
    return where(input < 0.0, -y, y)


@function
@in_float32
def acosh(input: Value) -> Value:
    """Inverse hyperbolic cosine of numbers from 1 on."""
    return log(input + sqrt((input - 1.0) * (input + 1.0)))


@function
@in_float32
def atanh(input: Value) -> Value:
    """Inverse hyperbolic tangent."""
    return log1p(input * 2.0 / (1.0 - input)) * 0.5


# --- whole division and remainder --------------------------------------------------------------------------------

_R: dict[str, Any] = dict(names=_TWO, result="same", domain=(0.5, 3.0))
floor_divide = binary(
    define("floor_divide", lambda s, a, b: s.floor_divide(a, b), np.floor_divide, lambda n, dy: [None, None], **_R),
    "``input / other`` rounded down; integers divided by zero give 0.",
)


def _remainder_vjp(node: Any, dy: Value) -> list[Value | None]:
    a, b = node.inputs
    return [dy, -(dy * floor_divide(a, b))]


remainder = binary(
    define("remainder", lambda s, a, b: s.remainder(a, b), np.remainder, _remainder_vjp, **_R),
    "``input - floor(input / other) * other``: the remainder with the sign of ``other``; 0 for integers divided by zero.",
)


@function
def fmod(input: Any, other: Any) -> Value:
    """The remainder with the sign of ``input``, as C's fmod."""
    a, b = lift(input, other)
    r = remainder(abs(a), abs(b))
    return where(a < 0, -r, r)


# --- bits ----------------------------------------------------------------------------------------------------------

_I: dict[str, Any] = dict(names=_TWO, result="bits", domain=(0.0, 8.0))
_S: dict[str, Any] = {**_I, "result": "integer"}
bitwise_and = binary(
    define("bitwise_and", lambda s, a, b: s.bitwise_and(a, b), np.bitwise_and, None, **_I),
    "Bits set in both (bool: both hold).",
)
bitwise_or = binary(
    define("bitwise_or", lambda s, a, b: s.bitwise_or(a, b), np.bitwise_or, None, **_I),
    "Bits set in either (bool: either holds).",
)
bitwise_xor = binary(
    define("bitwise_xor", lambda s, a, b: s.bitwise_xor(a, b), np.bitwise_xor, None, **_I), "Bits set in one of the two."
)


def _shift(s: Any, left: bool, a: Any, b: Any) -> Any:
    """A shift by any number: beyond the bits nothing is left but the sign, as in NumPy and torch; C and LLVM define none."""
    bits, zero = 8 * a.dtype.itemsize, s.const(0, a)
    inside = s.logical_and(s.ge(b, s.const(0, b)), s.lt(b, s.const(bits, b)))
    shifted = (s.left_shift if left else s.right_shift)(a, s.where(inside, b, s.const(bits - 1, b)))
    return shifted if not left and a.dtype.short.startswith("i") else s.where(inside, shifted, zero)


bitwise_left_shift = binary(
    define("bitwise_left_shift", lambda s, a, b: _shift(s, True, a, b), np.left_shift, None, **_S),
    "``input * 2**other``; 0 if ``other`` is negative or not below the number of bits.",
)
bitwise_right_shift = binary(
    define("bitwise_right_shift", lambda s, a, b: _shift(s, False, a, b), np.right_shift, None, **_S),
    "``input / 2**other`` rounded down; 0 or -1, by the sign, if ``other`` is negative or not below the number of bits.",
)
_bitwise_not = define(
    "bitwise_not",
    lambda s, x: s.logical_not(x) if x.dtype.is_bool else s.bitwise_not(x),
    np.invert,
    None,
    result="bits",
    domain=(0.0, 8.0),
)
bitwise_not = unary(_bitwise_not, "Every bit inverted (bool: not).", integers=True)

"""More elementary functions: roundings, exponentials, logarithms, trigonometric and hyperbolic functions, erfinv.

What a target's language lacks has a row in ``targets.scalar``; what is a short formula of those is a plain function.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import numpy as np

from graphrt.ir import Value
from graphrt.ops.base import apply, cast, widened
from graphrt.ops.definition import binary, define, idempotent, twice, unary
from graphrt.ops.elementwise import abs, div, eq, exp, le, log, rsqrt, where

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


def _logarithm(name: str, reference: Any, base: int) -> Callable[[Value], Value]:
    def vjp(node: Any, dy: Value) -> list[Value | None]:
        return [dy / (node.inputs[0] * math.log(base))]

    op = define(name, lambda s, x: getattr(s, name)(x), reference, vjp, domain=(0.1, 4.0), cheap=False)
    return unary(op, f"Logarithm to base {base}.")


log2, log10 = _logarithm("log2", np.log2, 2), _logarithm("log10", np.log10, 10)
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
        a = math.fabs(v)
        if not a < 1:
            return math.copysign(math.inf, v) if a == 1 else math.nan
        z = a * math.sqrt(math.pi) / 2 if a < 0.5 else NormalDist().inv_cdf((1 - a) / 2) / -math.sqrt(2)
        for _ in range(5):  # Newton's, from the tail where a is near 1, so that nothing is lost there
            off = math.erf(z) - a if a < 0.5 else (1 - a) - math.erfc(z)
            z -= off * math.sqrt(math.pi) / 2 * math.exp(z * z)
        return math.copysign(z, v)

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


erfc = unary(
    define(
        "erfc",
        lambda s, x: s.erfc(x),
        np.vectorize(math.erfc, otypes=[np.float64]),
        lambda n, dy: [dy * (-2 / math.sqrt(math.pi)) * exp(-(n.inputs[0] * n.inputs[0]))],
        cheap=False,
    ),
    "``1 - erf(input)``, accurate where that is small.",
)


# --- formulas of the functions above -------------------------------------------------------------------------------

_LARGE = 1e8  # the square of what is larger leaves nothing of the 1 beside it, even in float64


def _sinh(s: Any, x: Any) -> Any:
    """(e + e / (e + 1)) / 2 with e = expm1(|x|); where that overflows, the half of exp(|x| / 2) squared."""
    one, half, a = s.const(1.0, x), s.const(0.5, x), s.abs(x)
    e, root = s.expm1(a), s.exp(s.mul(a, half))
    y = s.mul(half, s.add(e, s.div(e, s.add(e, one))))
    return s.copysign(s.where(s.gt(a, s.const(80.0, x)), s.mul(s.mul(half, root), root), y), x)


def _cosh(s: Any, x: Any) -> Any:
    """(e + 1 / e) / 2 with e = exp(|x|); where that overflows, the half of exp(|x| / 2) squared."""
    half, a = s.const(0.5, x), s.abs(x)
    e, root = s.exp(a), s.exp(s.mul(a, half))
    y = s.mul(half, s.add(e, s.div(s.const(1.0, x), e)))
    return s.where(s.gt(a, s.const(80.0, x)), s.mul(s.mul(half, root), root), y)


def _legs(s: Any, x: Any) -> Any:
    """sqrt(1 - x * x), the other leg of a right triangle."""
    one = s.const(1.0, x)
    return s.sqrt(s.mul(s.sub(one, x), s.add(one, x)))


def _asinh(s: Any, x: Any) -> Any:
    one, a = s.const(1.0, x), s.abs(x)
    square = s.mul(a, a)
    y = s.log1p(s.add(a, s.div(square, s.add(one, s.sqrt(s.add(square, one))))))
    far = s.add(s.log(a), s.const(math.log(2), x))
    return s.copysign(s.where(s.gt(a, s.const(_LARGE, x)), far, y), x)


def _acosh(s: Any, x: Any) -> Any:
    one = s.const(1.0, x)
    above = s.sub(x, one)
    y = s.log1p(s.add(above, s.sqrt(s.mul(above, s.add(x, one)))))
    y = s.where(s.gt(x, s.const(_LARGE, x)), s.add(s.log(x), s.const(math.log(2), x)), y)
    return s.where(s.lt(x, one), s.const(math.nan, x), y)


def _atanh(s: Any, x: Any) -> Any:
    a = s.abs(x)
    y = s.log1p(s.div(s.add(a, a), s.sub(s.const(1.0, x), a)))
    return s.copysign(s.mul(y, s.const(0.5, x)), x)


def _formula(name: str, body: Any, reference: Any, vjp: Any, doc: str, domain: tuple[float, float] = (-3.0, 3.0)) -> Any:
    def gradient(node: Any, dy: Value) -> list[Value | None]:
        """The gradient of halves is computed in float32 and rounded once."""
        return [cast(vjp(*map(widened, (node.inputs[0], node.outputs[0], dy))), dy.dtype)]

    return unary(define(name, body, reference, gradient, domain=domain, cheap=False), doc)


tan = _formula("tan", lambda s, x: s.div(s.sin(x), s.cos(x)), np.tan, lambda x, y, dy: dy * (y * y + 1.0), "Tangent.", (-1, 1))
sinh = _formula("sinh", _sinh, np.sinh, lambda x, y, dy: dy * apply("cosh", x), "Hyperbolic sine.")
cosh = _formula("cosh", _cosh, np.cosh, lambda x, y, dy: dy * sinh(x), "Hyperbolic cosine.")
asin = _formula(
    "asin",
    lambda s, x: s.atan2(x, _legs(s, x)),
    np.arcsin,
    lambda x, y, dy: dy * rsqrt((1.0 - x) * (x + 1.0)),
    "Inverse sine, in [-pi/2, pi/2].",
    (-0.9, 0.9),
)
acos = _formula(
    "acos",
    lambda s, x: s.atan2(_legs(s, x), x),
    np.arccos,
    lambda x, y, dy: -(dy * rsqrt((1.0 - x) * (x + 1.0))),
    "Inverse cosine, in [0, pi].",
    (-0.9, 0.9),
)
asinh = _formula("asinh", _asinh, np.arcsinh, lambda x, y, dy: dy * rsqrt(x * x + 1.0), "Inverse hyperbolic sine.")
acosh = _formula(
    "acosh",
    _acosh,
    np.arccosh,
    lambda x, y, dy: dy * rsqrt((abs(x) - 1.0) * (abs(x) + 1.0)),  # at -1 the root of 0, and not of -0
    "Inverse hyperbolic cosine of numbers from 1 on.",
    (1.1, 4.0),
)
atanh = _formula(
    "atanh",
    _atanh,
    np.arctanh,
    lambda x, y, dy: dy / ((1.0 - x) * (x + 1.0)),
    "Inverse hyperbolic tangent.",
    (-0.9, 0.9),
)


def _copysign_vjp(node: Any, dy: Value) -> list[Value | None]:
    x, y = node.inputs[0], node.outputs[0]
    return [where(eq(x, 0.0), 0.0, dy * (y / x)), None]


copysign = binary(
    define("copysign", lambda s, a, b: s.copysign(a, b), np.copysign, _copysign_vjp, names=_TWO, domain=(0.5, 3.0)),
    "``|input|`` with the sign of ``other``, which -0.0 has too.",
)


def _hypot(s: Any, x: Any, y: Any) -> Any:
    a, b, zero, one, infinity = s.abs(x), s.abs(y), s.const(0.0, x), s.const(1.0, x), s.const(math.inf, x)
    high, low = s.maximum(a, b), s.minimum(a, b)
    ratio = s.div(low, s.where(s.eq(high, zero), one, high))
    z = s.mul(high, s.sqrt(s.add(s.mul(ratio, ratio), one)))
    return s.where(s.logical_or(s.eq(a, infinity), s.eq(b, infinity)), infinity, z)


def _hypot_vjp(node: Any, dy: Value) -> list[Value | None]:
    return [dy * (v / node.outputs[0]) for v in node.inputs]


hypot = binary(
    define("hypot", _hypot, np.hypot, _hypot_vjp, names=_TWO, cheap=False),
    "``sqrt(input**2 + other**2)`` without overflow.",
)


def _xlogy(s: Any, x: Any, y: Any) -> Any:
    zero = s.const(0.0, x)
    return s.where(s.logical_and(s.eq(x, zero), s.eq(y, y)), zero, s.mul(x, s.log(y)))


def _xlogy_vjp(node: Any, dy: Value) -> list[Value | None]:
    x, y = node.inputs
    zero = apply("logical_and", eq(x, 0.0), le(y, 0.0))
    return [where(zero, 0.0, dy * log(where(zero, 1.0, y))), dy * (x / y)]


def _reference_xlogy(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.where((x == 0) & ~np.isnan(y), 0.0, x * np.log(y))


xlogy = binary(
    define("xlogy", _xlogy, _reference_xlogy, _xlogy_vjp, names=_TWO, domain=(0.5, 3.0), cheap=False),
    "``input * log(other)``, 0 where ``input`` is 0 unless ``other`` is NaN.",
)


# --- whole division and remainder: as Python's, in NumPy and torch -----------------------------------------------------


def _fmod(s: Any, a: Any, b: Any) -> Any:
    if a.dtype.is_float:
        return s.fmod(a, b)
    zero = s.const(0, a)
    return s.where(s.eq(b, zero), zero, s.sub(a, s.mul(s.quotient(a, b), b)))


def _beside(s: Any, r: Any, b: Any) -> Any:
    """Whether the remainder towards zero has the other sign than ``b``, so that the quotient rounded down is one less."""
    zero = s.const(0, r)
    return s.logical_and(s.ne(r, zero), s.ne(s.lt(r, zero), s.lt(b, zero)))


def _remainder(s: Any, a: Any, b: Any) -> Any:
    r = _fmod(s, a, b)
    return s.where(_beside(s, r, b), s.add(r, b), r)


def _floor_divide(s: Any, a: Any, b: Any) -> Any:
    """The quotient of what the remainder leaves, whole but for rounding; so 1 // 0.1 is 9, although 1 / 0.1 rounds to 10."""
    r, one = _fmod(s, a, b), s.const(1, a)
    if not a.dtype.is_float:
        q = s.quotient(a, b)
        return s.where(_beside(s, r, b), s.sub(q, one), q)
    zero, q = s.const(0.0, a), s.div(s.sub(a, r), b)
    q = s.where(_beside(s, r, b), s.sub(q, one), q)
    low, plain = s.floor(q), s.div(a, b)
    low = s.where(s.gt(s.sub(q, low), s.const(0.5, a)), s.add(low, one), low)
    return s.where(s.eq(b, zero), plain, s.where(s.eq(q, zero), s.copysign(zero, plain), low))


def _reference_remainder(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    r = np.fmod(a, b)
    return np.where((r != 0) & ((r < 0) != (b < 0)), r + b, r)  # np.remainder gives a zero the sign of b


_R: dict[str, Any] = dict(names=_TWO, result="same", domain=(0.5, 3.0), cheap=False)
floor_divide = binary(
    define("floor_divide", _floor_divide, np.floor_divide, lambda n, dy: [None, None], **_R),
    "``input / other`` rounded down; integers divided by zero give 0.",
)
remainder = binary(
    define(
        "remainder",
        _remainder,
        _reference_remainder,
        lambda n, dy: [dy, -(dy * floor_divide(*n.inputs))],
        **_R,
    ),
    "``input - floor(input / other) * other``: the remainder with the sign of ``other``; 0 for integers divided by zero.",
)
fmod = binary(
    define("fmod", _fmod, np.fmod, lambda n, dy: [dy, -(dy * trunc(div(*n.inputs)))], **_R),
    "The remainder with the sign of ``input``, as C's fmod; 0 for integers divided by zero.",
)


# --- bits ----------------------------------------------------------------------------------------------------------

_I: dict[str, Any] = dict(names=_TWO, result="bits", domain=(0.0, 8.0))
_S: dict[str, Any] = {**_I, "result": "integer"}
bitwise_and = binary(
    define("bitwise_and", lambda s, a, b: s.bitwise_and(a, b), np.bitwise_and, None, simplify=idempotent, **_I),
    "Bits set in both (bool: both hold).",
)
bitwise_or = binary(
    define("bitwise_or", lambda s, a, b: s.bitwise_or(a, b), np.bitwise_or, None, simplify=idempotent, **_I),
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
    simplify=twice,
)
bitwise_not = unary(_bitwise_not, "Every bit inverted (bool: not).", integers=True)

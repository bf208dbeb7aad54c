"""Elementwise ops: each output element from the same element of every input (``definition.py`` says how one is defined)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from graphrt.errors import ArgumentError, DTypeError
from graphrt.ir import Node, Value
from graphrt.op import Kind, OpDef, Sample, Types, register
from graphrt.ops.base import Number, apply, broadcast_shape, broadcast_to, constant_of, function, lift, tensor
from graphrt.ops.base import cast as cast_to
from graphrt.ops.definition import (
    EDGES,
    Grads,
    binary,
    define,
    either,
    idempotent,
    infer,
    neutral,
    same_shape,
    twice,
    unary,
)
from graphrt.ops.shares import product
from graphrt.types import DTypeLike, TensorType, as_dtype, bool_, float32, promote

_TWO = ("input", "other")


def _pow_vjp(node: Node, dy: Value) -> Grads:
    x, p = node.inputs
    number = constant_of(p)
    if number is not None and number != 0:
        return [dy * (pow(x, number - 1.0) * number), None]
    dx = where(eq(p, 0.0), 0.0, dy * (p * pow(x, p - 1.0)))
    zero = apply("logical_and", eq(x, 0.0), ge(p, 0.0))
    return [dx, where(zero, 0.0, dy * node.outputs[0] * log(where(zero, 1.0, x)))]


def _reference_pow(x: np.ndarray, p: np.ndarray) -> np.ndarray:
    if x.dtype.kind == "f":  # whose np.power may be a square root, which is another function of -0 and -inf
        return np.where(p == 0.5, np.where(x == -np.inf, np.inf, np.sqrt(x + 0.0)), np.power(x, p))
    ends = np.where(x == 1, 1, np.where(x == -1, 1 - 2 * (p & 1), 0))
    return np.where(p < 0, ends, np.power(x, np.maximum(p, 0))).astype(x.dtype)


def _extremum_vjp(node: Node, dy: Value) -> Grads:
    """Ties share the gradient equally, and beside NaN both have it, as in torch."""
    a, b = node.inputs
    loses = lt if node.op.name == "maximum" else gt
    shared = where(eq(a, b), dy * 0.5, dy)
    return [where(loses(a, b), 0.0, shared), where(loses(b, a), 0.0, shared)]


def _abs_vjp(node: Node, dy: Value) -> Grads:
    return [dy * sign(node.inputs[0])]


def _sin_vjp(node: Node, dy: Value) -> Grads:
    return [dy * cos(node.inputs[0])]


_B: dict[str, Any] = dict(names=_TWO, result="same")
_add = define("add", lambda s, a, b: s.add(a, b), np.add, lambda n, dy: [dy, dy], simplify=neutral(0), **_B)
_sub = define("sub", lambda s, a, b: s.sub(a, b), np.subtract, lambda n, dy: [dy, -dy], simplify=neutral(0, False), **_B)
_mul = define(
    "mul",
    lambda s, a, b: s.mul(a, b),
    np.multiply,
    lambda n, dy: [dy * n.inputs[1], dy * n.inputs[0]],
    simplify=neutral(1),
    **_B,
)
_div = define(
    "div",
    lambda s, a, b: s.div(a, b),
    np.true_divide,
    lambda n, dy: [dy / n.inputs[1], -(dy * n.outputs[0]) / n.inputs[1]],
    names=_TWO,
    domain=(0.5, 3.0),
    simplify=either(neutral(1, False), product),
)
define("pow", lambda s, a, b: s.pow(a, b), _reference_pow, _pow_vjp, names=_TWO, result="same", domain=(0.2, 3.0), cheap=False)
_maximum = define("maximum", lambda s, a, b: s.maximum(a, b), np.maximum, _extremum_vjp, simplify=idempotent, **_B)
_minimum = define("minimum", lambda s, a, b: s.minimum(a, b), np.minimum, _extremum_vjp, simplify=idempotent, **_B)
add = binary(_add, "``input + other``, broadcast.")
sub = binary(_sub, "``input - other``, broadcast.")
mul = binary(_mul, "``input * other``, broadcast.")
div = binary(_div, "``input / other``, broadcast; integers are divided as float32.")
maximum = binary(_maximum, "Elementwise larger of the two; NaN wins.")
minimum = binary(_minimum, "Elementwise smaller of the two; NaN wins.")


@function
def pow(input: Any, other: Any) -> Value:  # noqa: A001 - torch's name
    """``input ** other``, broadcast; integers stay integers and wrap around. Raises ArgumentError for their negative powers."""
    a, b = lift(input, other)
    if isinstance(other, int | float) and isinstance(input, Value):
        if other < 0 and not a.dtype.is_float:
            raise ArgumentError(f"an integer has no power of {other} that is one; cast the base to a float first")
        if other in (1, 2, 3):
            return math.prod([a] * (int(other) - 1), start=a)
        if other == -1:
            return div(1.0, a)
    return apply("pow", a, b)


_C: dict[str, Any] = dict(names=_TWO, result="compare")
eq = binary(define("eq", lambda s, a, b: s.eq(a, b), np.equal, None, **_C), "``input == other`` as bool.")
ne = binary(define("ne", lambda s, a, b: s.ne(a, b), np.not_equal, None, **_C), "``input != other`` as bool.")
lt = binary(define("lt", lambda s, a, b: s.lt(a, b), np.less, None, **_C), "``input < other`` as bool.")
le = binary(define("le", lambda s, a, b: s.le(a, b), np.less_equal, None, **_C), "``input <= other`` as bool.")
gt = binary(define("gt", lambda s, a, b: s.gt(a, b), np.greater, None, **_C), "``input > other`` as bool.")
ge = binary(define("ge", lambda s, a, b: s.ge(a, b), np.greater_equal, None, **_C), "``input >= other`` as bool.")

_L: dict[str, Any] = dict(names=_TWO, result="logical")
logical_and = binary(
    define(
        "logical_and",
        lambda s, a, b: s.logical_and(a, b),
        np.logical_and,
        None,
        simplify=either(neutral(True), idempotent),
        **_L,
    ),
    "Both hold.",
    bool_,
)
logical_or = binary(
    define(
        "logical_or", lambda s, a, b: s.logical_or(a, b), np.logical_or, None, simplify=either(neutral(False), idempotent), **_L
    ),
    "Either holds.",
    bool_,
)


def leads(x: Value, extreme: Value) -> Value:
    """True where an element is the ``extreme`` of those it is among; NaN always is."""
    return logical_or(eq(x, extreme), ne(x, x)) if x.dtype.is_float else eq(x, extreme)


_not = define("logical_not", lambda s, a: s.logical_not(a), np.logical_not, None, result="logical", simplify=twice)


@function
def logical_not(input: Value) -> Value:
    """``not input``, for bool tensors; other dtypes are compared with zero first."""
    return apply("logical_not", cast_to(tensor(input), bool_))


def _reference_fma(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """In double, where a product of float32 is exact."""
    return (x.astype(np.float64) * y.astype(np.float64) + z.astype(np.float64)).astype(x.dtype)


define(  # what passes make of a product and a sum: x * y + z, rounded once
    "fma",
    lambda s, x, y, z: s.fma(x, y, z),
    _reference_fma,
    lambda n, dy: [dy * n.inputs[1], dy * n.inputs[0], dy],
    names=("input", "other", "addend"),
)

neg = unary(
    define(
        "neg",
        lambda s, x: s.neg(x),
        np.negative,
        lambda n, dy: [-dy],
        result="same",
        simplify=twice,
    ),
    "``-input``.",
    integers=True,
)
abs = unary(  # noqa: A001 - torch's name
    define("abs", lambda s, x: s.abs(x), np.abs, _abs_vjp, result="same"),
    "``|input|``.",
    integers=True,
)
sign = unary(
    define(
        "sign",
        lambda s, x: s.sub(s.cast(s.gt(x, s.const(0, x)), x), s.cast(s.lt(x, s.const(0, x)), x)),
        lambda x: np.where(np.isnan(x), 0, np.sign(x)),
        lambda n, dy: [None],
        result="same",
    ),
    "-1, 0 or 1; 0 at NaN, as torch.",
    integers=True,
)
floor = unary(define("floor", lambda s, x: s.floor(x), np.floor, lambda n, dy: [None]), "Largest integer not above.")
exp = unary(define("exp", lambda s, x: s.exp(x), np.exp, lambda n, dy: [dy * n.outputs[0]], cheap=False), "``e ** input``.")
log = unary(
    define("log", lambda s, x: s.log(x), np.log, lambda n, dy: [dy / n.inputs[0]], domain=(0.1, 4.0), cheap=False),
    "Natural logarithm.",
)
sqrt = unary(
    define("sqrt", lambda s, x: s.sqrt(x), np.sqrt, lambda n, dy: [dy * 0.5 / n.outputs[0]], domain=(0.1, 4.0), cheap=False),
    "Square root.",
)
rsqrt = unary(
    define(
        "rsqrt",
        lambda s, x: s.rsqrt(x),
        lambda x: 1 / np.sqrt(x),
        lambda n, dy: [dy * -0.5 * n.outputs[0] / n.inputs[0]],
        domain=(0.1, 4.0),
        cheap=False,
    ),
    "``1 / sqrt(input)``.",
)
sin = unary(define("sin", lambda s, x: s.sin(x), np.sin, _sin_vjp, cheap=False), "Sine.")
cos = unary(define("cos", lambda s, x: s.cos(x), np.cos, lambda n, dy: [-(dy * sin(n.inputs[0]))], cheap=False), "Cosine.")
tanh = unary(
    define("tanh", lambda s, x: s.tanh(x), np.tanh, lambda n, dy: [dy * (1.0 - n.outputs[0] * n.outputs[0])], cheap=False),
    "Hyperbolic tangent.",
)
erf = unary(
    define(
        "erf",
        lambda s, x: s.erf(x),
        np.vectorize(math.erf, otypes=[np.float64]),
        lambda n, dy: [dy * (2 / math.sqrt(math.pi)) * exp(-(n.inputs[0] * n.inputs[0]))],
        cheap=False,
    ),
    "Error function.",
)


def _sigmoid(s: Any, x: Any) -> Any:
    """e - e^2 / (1 + e), or 1 less that, with e = exp(-|x|), which never overflows: small results keep their digits."""
    one, e = s.const(1.0, x), s.exp(s.neg(s.abs(x)))
    low = s.sub(e, s.div(s.mul(e, e), s.add(one, e)))
    return s.where(s.lt(x, s.const(0.0, x)), low, s.sub(one, low))


sigmoid = unary(
    define(
        "sigmoid",
        _sigmoid,
        lambda x: np.where(x >= 0, 1 / (1 + np.exp(-np.abs(x))), np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x)))),
        lambda n, dy: [dy * n.outputs[0] * (1.0 - n.outputs[0])],
        cheap=False,
    ),
    "``1 / (1 + exp(-input))``.",
)
relu = unary(
    define(
        "relu",
        lambda s, x: s.maximum(x, s.const(0.0, x)),
        lambda x: np.maximum(x, 0),
        lambda n, dy: [where(le(n.outputs[0], 0.0), 0.0, dy)],
    ),
    "``max(input, 0)``. The gradient at 0 is 0.",
)
stop_gradient = unary(
    define("stop_gradient", lambda s, x: x, lambda x: x, None, barrier=True, simplify=lambda n: n.inputs[0]),
    "The same value, through which no gradient flows (torch's detach).",
)


def _straight_through_samples(rng: np.random.Generator) -> list[Sample]:
    """Round numbers only: the gradient is not the value's, and is compared with no difference."""
    edges = np.array(EDGES, np.float32)
    return [Sample((edges, edges[::-1].copy()), {})]


_straight_through = register(
    OpDef(
        name="straight_through",
        kind=Kind.ELEMENTWISE,
        infer=lambda value, input: infer(("value", "input"), "float", value, input),
        vjp=lambda n, dy: [None, dy],
        reference=lambda value, x: value,
        samples=_straight_through_samples,
        body=lambda s, value, x: value,
        simplify=lambda n: n.inputs[0],
    )
)


@function
def straight_through(value: Value, input: Value) -> Value:
    """``value`` with the gradient of ``input``, of its shape and dtype (the straight-through estimator of Bengio, 2013)."""
    return apply(_straight_through.name, value, input)


clone = unary(
    define("clone", lambda s, x: x, lambda x: x, lambda n, dy: [dy], result="any", cheap=False),  # to be stored
    "A copy: the same value, computed when the program runs and not merely another name.",
    integers=True,
)


def _infer_where(condition: TensorType, input: TensorType, other: TensorType) -> Types:
    same_shape((condition, input, other), ("condition", "input", "other"))
    if not condition.dtype.is_bool or input.dtype != other.dtype:
        raise DTypeError(
            f"where takes a bool condition and two tensors of one dtype, got {condition.dtype}, {input.dtype}, {other.dtype}"
        )
    return (TensorType(input.shape, input.dtype),)


def _where_samples(rng: np.random.Generator) -> list[Sample]:
    shapes = ((4, 3), (), (0,))
    return [
        Sample(
            (
                np.asarray(rng.random(s) > 0.5),
                rng.standard_normal(s).astype(np.float32),
                rng.standard_normal(s).astype(np.float32),
            ),
            {},
        )
        for s in shapes
    ]


register(
    OpDef(
        name="where",
        kind=Kind.ELEMENTWISE,
        infer=_infer_where,
        vjp=lambda n, dy: [None, where(n.inputs[0], dy, 0.0), where(n.inputs[0], 0.0, dy)],
        reference=np.where,
        samples=lambda rng: [Sample(tuple(np.asarray(a) for a in s.inputs), {}) for s in _where_samples(rng)],
        body=lambda s, c, a, b: s.where(c, a, b),
        simplify=idempotent,
    )
)


@function
def where(condition: Value, input: Any, other: Any) -> Value:
    """``input`` where ``condition`` (bool) holds, else ``other``; all three broadcast."""
    tensors = [v.dtype for v in (input, other) if isinstance(v, Value)]
    dtype = promote(*tensors) if tensors else as_dtype("int64")
    if not dtype.is_float and (isinstance(input, float) or isinstance(other, float)):
        dtype = float32
    graph = tensor(condition, "condition").graph
    a, b = (v if isinstance(v, Value) else graph.constant(v, dtype if isinstance(v, Number) else None) for v in (input, other))
    shape = broadcast_shape(condition.shape, a.shape, b.shape)
    return apply("where", *(broadcast_to(v, shape) for v in (condition, cast_to(a, dtype), cast_to(b, dtype))))


def _infer_cast(input: TensorType, *, dtype: str) -> Types:
    return (TensorType(input.shape, as_dtype(dtype)),)


def _cast_samples(rng: np.random.Generator) -> list[Sample]:
    x = (rng.standard_normal((3, 4)) * 5).astype(np.float32)
    names = ("float64", "int32", "bool", "float16", "bfloat16")
    return [*(Sample((x,), {"dtype": d}) for d in names), Sample((x > 0,), {"dtype": "float32"})]


def _simplify_cast(node: Node) -> Value | None:
    """A cast to the dtype it has, or back from one that has all numbers of the one it was."""
    x, dtype = node.inputs[0], node.types[0].dtype
    if x.dtype == dtype:
        return x
    if x.node.op.name not in ("widen", node.op.name):
        return None
    before = x.node.inputs[0]
    return before if before.dtype == dtype and x.dtype.holds(dtype) else None


register(
    OpDef(
        name="cast",
        kind=Kind.ELEMENTWISE,
        infer=_infer_cast,
        vjp=lambda n, dy: [cast_to(dy, n.inputs[0].dtype) if n.inputs[0].dtype.is_float else None],
        reference=lambda x, dtype: np.asarray(x).astype(as_dtype(dtype).numpy),
        samples=_cast_samples,
        body=lambda s, x, dtype: s.cast(x, as_dtype(dtype)),
        simplify=_simplify_cast,
    )
)


@function
def cast(input: Value, dtype: DTypeLike) -> Value:
    """``input`` with each element converted to ``dtype``; floats are truncated towards zero when they become integers."""
    return cast_to(tensor(input), as_dtype(dtype))

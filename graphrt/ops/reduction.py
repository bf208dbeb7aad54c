"""Reductions: an axis set folded by sum, max, min or product.

``reduce`` drops the reduced dimensions; ``keepdim`` is a reshape behind it. Integers and bool sum in int64, float16 in
float32; the result of a float reduction has its input's dtype.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from graphrt.errors import ArgumentError, DTypeError, ShapeError
from graphrt.ir import Node, Value
from graphrt.node import Factor
from graphrt.op import LETTERS, Axes, Kind, OpDef, Sample, Types, register
from graphrt.ops.base import (
    apply,
    broadcast_to,
    cast,
    dim_indices,
    full_precision,
    function,
    identity,
    in_float32,
    require_float,
    tensor,
    widened,
)
from graphrt.ops.cumulative import cumprod
from graphrt.ops.elementwise import abs, eq, leads, log, lt, maximum, ne, pow, sqrt, stop_gradient, where
from graphrt.ops.elementwise import exp as _exp
from graphrt.ops.view import permute, reshape
from graphrt.types import Shape, TensorType, int64

Dims = int | Sequence[int] | None  # None and () mean all dimensions
_NUMPY: dict[str, Any] = {"sum": np.sum, "max": np.max, "min": np.min, "prod": np.prod}


def _infer_reduce(input: TensorType, *, op: str, dims: Shape) -> Types:
    if op not in _NUMPY:
        raise ArgumentError(f"op must be one of {', '.join(_NUMPY)}, got {op!r}")
    if input.dtype.is_bool:
        raise DTypeError(f"{op} takes numbers, got bool; cast it first")
    found = dim_indices(dims, input.ndim)
    if op in ("max", "min") and 0 in (input.shape[d] for d in found):
        raise ShapeError(f"{op} over an empty dimension of {list(input.shape)} has no value")
    return (TensorType(tuple(n for i, n in enumerate(input.shape) if i not in found), input.dtype),)


def _keep(shape: Shape, dims: Sequence[int]) -> Shape:
    return tuple(1 if i in dims else n for i, n in enumerate(shape))


def _reduce_vjp(node: Node, dy: Value) -> list[Value | None]:
    x, y = node.inputs[0], node.outputs[0]
    dims, op = node.attrs["dims"], node.attrs["op"]

    def widen(v: Value) -> Value:
        return broadcast_to(reshape(v, _keep(x.shape, dims)), x.shape)

    if op == "sum":
        return [widen(dy)]
    if op == "prod":
        return [cast(widen(widened(dy)) * _others(widened(x), dims), x.dtype)]
    tie = cast(leads(x, widen(y)), widened(dy).dtype)  # equal extremes share the gradient, NaN among NaN
    return [cast(tie * widen(widened(dy) / apply("reduce", tie, op="sum", dims=dims)), x.dtype)]


def _others(x: Value, dims: Sequence[int]) -> Value:
    """For each element the product of all others along ``dims``: of those before it, and those behind."""
    order = [*(d for d in range(x.ndim) if d not in dims), *dims]
    lines = permute(x, order)
    line = reshape(lines, (*lines.shape[: x.ndim - len(dims)], -1)) if x.type.size else lines
    others = cumprod(line, -1, exclusive=True) * cumprod(line, -1, reverse=True, exclusive=True)
    return permute(reshape(others, lines.shape), [order.index(d) for d in range(x.ndim)])


def _split_reduce(node: Node, splits: int) -> list[Value]:
    """Reduces the first reduced dimension that ``splits`` divides in two steps, halves in float32."""
    x, dims, op = widened(node.inputs[0]), node.attrs["dims"], node.attrs["op"]
    at = next((d for d in dims if x.shape[d] % splits == 0), None)
    if at is None:
        return [apply("reduce", node.inputs[0], op=op, dims=dims)]
    parts = reshape(x, (*x.shape[:at], splits, x.shape[at] // splits, *x.shape[at + 1 :]))
    partial = apply("reduce", parts, op=op, dims=tuple(d + (d >= at) for d in dims))
    whole = apply("reduce", partial, op=op, dims=(len([d for d in range(at) if d not in dims]),))
    return [cast(whole, node.types[0].dtype)]


def _reference_reduce(x: np.ndarray, op: str, dims: Shape) -> np.ndarray:
    wide = x.astype(np.float64) if x.dtype.kind == "f" else x
    return np.asarray(_NUMPY[op](wide, axis=tuple(dims))).astype(x.dtype)


def folded(node: Node) -> Axes:
    """The ``Axes`` of a reduction."""
    letters, dims = LETTERS[: node.inputs[0].ndim], node.attrs["dims"]
    kept = "".join(c for d, c in enumerate(letters) if d not in dims)
    return Axes((letters,), (kept,) * len(node.outputs), (identity(node.attrs["op"], node.inputs[0].dtype.numpy),))


def _samples(rng: np.random.Generator) -> list[Sample]:
    x = (rng.standard_normal((3, 4, 5)) * 2).astype(np.float32)
    calls = [Sample((x,), {"op": op, "dims": dims}) for op in _NUMPY for dims in ((2,), (0, 1), (0, 1, 2), (1,))]
    calls += [Sample((x[:, :, :0],), {"op": "sum", "dims": (2,)}), Sample((x[0, 0],), {"op": "max", "dims": (0,)})]
    calls.append(Sample((rng.standard_normal((2, 300)).astype(np.float32),), {"op": "sum", "dims": (1,)}))
    return calls


register(
    OpDef(
        name="reduce",
        kind=Kind.REDUCTION,
        infer=_infer_reduce,
        vjp=_reduce_vjp,
        reference=_reference_reduce,
        samples=_samples,
        split=_split_reduce,
        axes=folded,
        flops=lambda n: n.inputs[0].type.size,
    )
)


def _dims(dim: Dims, ndim: int) -> Shape:
    return dim_indices(None if dim in ((), []) else dim, ndim)


def _reduce(input: Value, op: str, dim: Dims, keepdim: bool) -> Value:
    dims = _dims(dim, tensor(input).ndim)
    y = apply("reduce", input, op=op, dims=dims) if dims else input
    return reshape(y, _keep(input.shape, dims)) if keepdim else y


@function
def sum(input: Value, dim: Dims = None, keepdim: bool = False) -> Value:  # noqa: A001 - torch's name
    """Sum over ``dim`` (all when None); bool and integers sum as int64."""
    return _reduce(input if input.dtype.is_float else cast(input, int64), "sum", dim, keepdim)


@function
def prod(input: Value, dim: Dims = None, keepdim: bool = False) -> Value:
    """Product over ``dim`` (all when None); bool and integers multiply as int64."""
    return _reduce(input if input.dtype.is_float else cast(input, int64), "prod", dim, keepdim)


@function
@in_float32
def mean(input: Value, dim: Dims = None, keepdim: bool = False) -> Value:
    """Arithmetic mean over ``dim`` (all when None) of a float tensor."""
    require_float(input.dtype, "input of mean")
    dims = _dims(dim, input.ndim)
    count = math.prod(input.shape[d] for d in dims)
    share = Factor.make(1.0 / count if count else math.nan, input, dims, lambda count: 1.0 / count)
    return _reduce(input, "sum", dim, keepdim) * share


@function
def amax(input: Value, dim: Dims = None, keepdim: bool = False) -> Value:
    """Largest value over ``dim``; NaN wins; equal values share the gradient, NaN among them."""
    return _reduce(input, "max", dim, keepdim)


@function
def amin(input: Value, dim: Dims = None, keepdim: bool = False) -> Value:
    """Smallest value over ``dim``; NaN wins; equal values share the gradient, NaN among them."""
    return _reduce(input, "min", dim, keepdim)


@function
@in_float32
def var(input: Value, dim: Dims = None, correction: float = 1, keepdim: bool = False) -> Value:
    """Variance over ``dim`` in two passes, divided by ``count - correction``; by 0 where that is not positive."""
    require_float(input.dtype, "input of var")
    dims = _dims(dim, input.ndim)
    centred = input - mean(input, dim, keepdim=True)
    divisor = math.prod(input.shape[d] for d in dims) - correction
    total = _reduce(centred * centred, "sum", dim, keepdim)
    if divisor <= 0:
        return total / 0.0
    return total * Factor.make(1.0 / divisor, input, dims, lambda count: 1.0 / maximum(count - correction, 0.0))


@function
@in_float32
def std(input: Value, dim: Dims = None, correction: float = 1, keepdim: bool = False) -> Value:
    """Standard deviation: the square root of ``var``, with its ``correction``. The gradient of equal numbers is 0."""
    return _root(var(input, dim, correction, keepdim))


@function
def any(input: Value, dim: Dims = None, keepdim: bool = False) -> Value:  # noqa: A001 - torch's name
    """Whether any element along ``dim`` is true."""
    return ne(sum(ne(input, 0) if not input.dtype.is_bool else input, dim, keepdim), 0)


@function
def all(input: Value, dim: Dims = None, keepdim: bool = False) -> Value:  # noqa: A001 - torch's name
    """Whether all elements along ``dim`` are true."""
    return eq(sum(eq(input, 0) if not input.dtype.is_bool else ~input, dim, keepdim), 0)


@function
@full_precision
def logsumexp(input: Value, dim: Dims, keepdim: bool = False) -> Value:
    """``log(sum(exp(input)))`` over ``dim``, shifted by the maximum so that nothing overflows."""
    require_float(input.dtype, "input of logsumexp")
    if not math.prod(input.shape[d] for d in _dims(dim, input.ndim)):
        return log(_reduce(input, "sum", dim, keepdim))  # of nothing: -inf
    top = stop_gradient(_reduce(input, "max", dim, True))
    top = where(lt(top * 0.0, 1.0), top, 0.0)  # an infinite maximum cannot be subtracted
    y = log(_reduce(_exp(input - top), "sum", dim, True)) + top
    dims = _dims(dim, input.ndim)
    return y if keepdim else reshape(y, [n for i, n in enumerate(input.shape) if i not in dims])


@function
@in_float32
def norm(input: Value, p: float | str = "fro", dim: Dims = None, keepdim: bool = False) -> Value:
    """The p-norm over ``dim`` (all when None): "fro" is 2; inf and -inf the largest and smallest size, 0 the count.

    The gradient at the zero vector is 0, and that of a zero where p < 1.
    """
    require_float(input.dtype, "input")
    if isinstance(p, str) and p != "fro":
        raise ArgumentError(f"p must be a number or 'fro', got {p!r}")
    size = abs(input)
    if p in (math.inf, -math.inf):
        return (amax if p > 0 else amin)(size, dim, keepdim)
    if p == 0:
        return sum(cast(ne(input, 0.0), input.dtype), dim, keepdim)
    if p == 1:
        return sum(size, dim, keepdim)
    power = 2.0 if p == "fro" else float(p)
    total = sum(input * input if power == 2.0 else _power(size, power), dim, keepdim)
    return _root(total) if power == 2.0 else _power(total, 1.0 / power)


def _root(x: Value) -> Value:
    """The square root, whose slope at 0 counts as 0."""
    zero = eq(x, 0.0)
    return where(zero, 0.0, sqrt(where(zero, 1.0, x)))


def _power(x: Value, exponent: float) -> Value:
    """``x ** exponent`` for x >= 0; where it has no slope at 0, that counts as 0."""
    if exponent >= 1:
        return pow(x, exponent)
    zero = eq(x, 0.0)
    return where(zero, 0.0 if exponent > 0 else math.inf, pow(where(zero, 1.0, x), exponent))

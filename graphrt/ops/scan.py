"""Scans: each result along one dimension from those before it.

One op with four associative operations; reversed scans are flips around it, which are views and cost nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from graphrt.errors import ArgumentError, DTypeError
from graphrt.ir import Node, Value
from graphrt.op import Kind, OpDef, Sample, Types, register
from graphrt.ops.base import apply, broadcast_to, cast, dim_index, function, require_float, tensor
from graphrt.ops.elementwise import eq, exp, ge, log, logical_and, logical_or, ne, where
from graphrt.ops.indexing import gather
from graphrt.ops.slicing import concat, flip, getitem
from graphrt.ops.source import iota
from graphrt.types import TensorType, int64

_NUMPY: dict[str, Any] = {"sum": np.add, "prod": np.multiply, "max": np.maximum, "logaddexp": np.logaddexp}


def _infer_scan(input: TensorType, *, dim: int, op: str) -> Types:
    if op not in _NUMPY:
        raise ArgumentError(f"op must be one of {', '.join(_NUMPY)}, got {op!r}")
    if input.dtype.is_bool:
        raise DTypeError("a scan takes numbers, got bool; cast it first")
    if op == "logaddexp":
        require_float(input.dtype, "input")
    dim_index(dim, input.ndim)
    return (TensorType(input.shape, input.dtype),)


def _back(x: Value, dim: int, op: str = "sum") -> Value:
    """The scan from the end."""
    return flip(apply("scan", flip(x, dim), dim=dim, op=op), dim)


def _scan_vjp(node: Node, dy: Value) -> list[Value | None]:
    x, y, dim = node.inputs[0], node.outputs[0], node.attrs["dim"]
    if node.attrs["op"] == "sum":
        return [_back(dy, dim)]
    if node.attrs["op"] == "prod":
        return [_product_gradient(x, y, dy, dim)]
    if node.attrs["op"] == "logaddexp":  # both signs apart, in logarithms, so that nothing overflows
        parts = []
        for sign in (1.0, -1.0):
            size = dy * sign
            weight = where(size > 0.0, log(where(size > 0.0, size, 1.0)), float("-inf"))
            parts.append(exp(_back(weight - y, dim, "logaddexp") + x))
        return [parts[0] - parts[1]]
    winner = apply("scan", where(_leads(x, y), iota(x, dim), 0), dim=dim, op="max")
    return [apply("scatter", winner, dy, dim=dim, size=x.shape[dim], op="sum")]


def _product_gradient(x: Value, y: Value, dy: Value, dim: int) -> Value:
    """Right also from the first zero on: before it dy*y/x, at it the product of the others, behind it nothing."""
    zero = eq(x, 0.0)
    zeros = apply("scan", cast(zero, int64), dim=dim, op="sum")
    first = logical_and(zero, eq(zeros, 1))
    others = apply("scan", where(first, 1.0, x), dim=dim, op="prod")
    before = _back(dy * y, dim) / where(zero, 1.0, x)
    at = _back(where(ge(zeros, 1), dy * others, 0.0), dim)
    return where(eq(zeros, 0), before, where(first, at, 0.0))


def _leads(x: Value, best: Value) -> Value:
    """Where an element is the extreme so far; NaN is."""
    return logical_or(eq(x, best), ne(x, x)) if x.dtype.is_float else eq(x, best)


def _samples(rng: np.random.Generator) -> list[Sample]:
    x = rng.permutation(60).reshape(3, 4, 5).astype(np.float32) / 30 - 1
    calls = [Sample((x + 0.01,), {"dim": d, "op": op}) for op in _NUMPY for d in (0, 1, 2)]
    long = rng.standard_normal((2, 300)).astype(np.float32)
    product = np.asarray([2.0, 0.0, 3.0, 0.0, 4.0], np.float32)
    return [
        *calls,
        *(Sample((long,), {"dim": 1, "op": op}) for op in ("sum", "max", "logaddexp")),
        Sample((product,), {"dim": 0, "op": "prod"}),
        Sample((np.zeros((2, 0), np.float32),), {"dim": 1, "op": "sum"}),
    ]


register(
    OpDef(
        name="scan",
        kind=Kind.SCAN,
        infer=_infer_scan,
        vjp=_scan_vjp,
        reference=lambda x, dim, op: _NUMPY[op].accumulate(x, axis=dim) if x.size else x,
        samples=_samples,
        template="scan",
    )
)


def _scan(input: Value, dim: int, op: str, reverse: bool, exclusive: bool, start: float) -> Value:
    at = dim_index(dim, tensor(input).ndim) if tensor(input).ndim or dim not in (0, -1) else 0
    if not input.ndim:
        return broadcast_to(input.graph.constant(start, input.dtype), ()) if exclusive else input
    x = flip(input, at) if reverse else input
    y = apply("scan", x, dim=at, op=op)
    if exclusive and y.shape[at]:
        keys = tuple(slice(0, n - 1 if d == at else n) for d, n in enumerate(y.shape))
        edge = [1 if d == at else n for d, n in enumerate(y.shape)]
        y = concat([broadcast_to(y.graph.constant(start, y.dtype), edge), getitem(y, keys)], at)
    return flip(y, at) if reverse else y


def _number(input: Value) -> Value:
    return input if tensor(input).dtype.is_float else cast(input, int64)


@function
def cumsum(input: Value, dim: int, reverse: bool = False, exclusive: bool = False) -> Value:
    """Running sum along ``dim``; integers sum as int64. ``reverse`` sums from the end, ``exclusive`` leaves the own out."""
    return _scan(_number(input), dim, "sum", reverse, exclusive, 0)


@function
def cumprod(input: Value, dim: int, reverse: bool = False, exclusive: bool = False) -> Value:
    """Running product along ``dim``; integers multiply as int64. ``reverse`` and ``exclusive`` as in ``cumsum``."""
    return _scan(_number(input), dim, "prod", reverse, exclusive, 1)


@function
def logcumsumexp(input: Value, dim: int, reverse: bool = False, exclusive: bool = False) -> Value:
    """``log(cumsum(exp(input)))`` without overflow."""
    require_float(tensor(input).dtype, "input")
    return _scan(input, dim, "logaddexp", reverse, exclusive, float("-inf"))


@function
def cummax(input: Value, dim: int) -> tuple[Value, Value]:
    """Running maximum along ``dim`` and the index (int64) of the last element equal to it; NaN wins."""
    at = dim_index(dim, tensor(input).ndim)
    best = apply("scan", input, dim=at, op="max")
    index = apply("scan", where(_leads(input, best), iota(input, at), 0), dim=at, op="max")
    return gather(input, at, index), index


@function
def cummin(input: Value, dim: int) -> tuple[Value, Value]:
    """Running minimum along ``dim`` and the index (int64) of the last element equal to it; NaN wins."""
    values, index = cummax(-input, dim)
    return -values, index

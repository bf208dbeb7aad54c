"""Scans: each result along one dimension from those before it.

One op with four associative operations, and the linear recurrence that their gradients are, which is its own gradient
(Blelloch, "Prefix sums and their applications", 1990). Reversed scans are flips around them, which are views and cost nothing.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from graphrt.errors import ArgumentError, DTypeError
from graphrt.ir import Node, Value
from graphrt.op import Kind, OpDef, Sample, Types, beside, register
from graphrt.ops.base import apply, broadcast_to, cast, dim_index, function, in_float32, require_float, tensor, widened
from graphrt.ops.elementwise import abs, eq, exp, leads, logical_and, where
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


def _scan_vjp(node: Node, dy: Value) -> list[Value | None]:
    x, y, dim = node.inputs[0], node.outputs[0], node.attrs["dim"]
    if node.attrs["op"] == "sum":
        return [flip(apply("scan", flip(dy, dim), dim=dim, op="sum"), dim)]
    if node.attrs["op"] in ("prod", "logaddexp"):
        x, y, dy = (widened(v) for v in (x, y, dy))
        if node.attrs["op"] == "prod":
            dx = _previous(y, dim, 1.0) * _carried(x, dy, dim)
        else:  # no exponent is positive
            dx = exp(_less(x, y)) * _carried(exp(_less(_previous(y, dim), y)), dy, dim)
        return [cast(dx, node.types[0].dtype)]
    winner = apply("scan", where(leads(x, y), iota(x, dim), 0), dim=dim, op="max")
    return [apply("scatter", winner, dy, dim=dim, size=x.shape[dim], op="sum")]


def _previous(x: Value, dim: int, first: float | None = None) -> Value:
    """The element one place before each one along ``dim``; before the first one ``first``, or itself again."""
    before = getitem(x, tuple(slice(0, n - 1 if d == dim else n) for d, n in enumerate(x.shape)))
    edge = [1 if d == dim else n for d, n in enumerate(x.shape)]
    start = getitem(x, tuple(map(slice, edge))) if first is None else broadcast_to(x.graph.constant(first, x.dtype), edge)
    return concat([start, before], dim) if x.shape[dim] else x


def _carried(decay: Value, dy: Value, dim: int) -> Value:
    """The gradient of what a recurrence with ``decay`` adds: dy of each element, and what decays back from the next one."""
    return flip(apply("recurrence", _previous(flip(decay, dim), dim), flip(dy, dim), dim=dim), dim)


def _less(a: Value, b: Value) -> Value:
    """``a - b``, 0 where both are the same infinity."""
    return where(logical_and(eq(a, b), eq(abs(a), math.inf)), 0.0, a - b)


def _reference_scan(x: np.ndarray, dim: int, op: str) -> np.ndarray:
    wide = x.astype(np.float64) if x.dtype.kind == "f" else x
    return np.asarray(_NUMPY[op].accumulate(wide, axis=dim), x.dtype) if x.size else x


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
        reference=_reference_scan,
        samples=_samples,
        template="scan",
        axes=beside,
    )
)


def _infer_recurrence(decay: TensorType, input: TensorType, *, dim: int) -> Types:
    if not decay.same(input) or not input.dtype.is_float:
        raise DTypeError(f"decay and input must be of one floating-point type, got {decay} and {input}")
    dim_index(dim, input.ndim)
    return (TensorType(input.shape, input.dtype),)


def _reference_recurrence(decay: np.ndarray, x: np.ndarray, dim: int) -> np.ndarray:
    total, y = np.zeros(np.delete(x.shape, dim)), np.zeros(x.shape)
    for r in range(x.shape[dim]):
        at = (slice(None),) * dim + (r,)
        y[at] = total = decay[at] * total + x[at]
    return y.astype(x.dtype)


def _recurrence_vjp(node: Node, dy: Value) -> list[Value | None]:
    decay, y, dim = node.inputs[0], node.outputs[0], node.attrs["dim"]
    dx = _carried(decay, dy, dim)
    return [dx * _previous(y, dim, 0.0), dx]


def _recurrence_samples(rng: np.random.Generator) -> list[Sample]:
    found = []
    for shape, dim in (((3, 4, 5), 0), ((3, 4, 5), 1), ((3, 4, 5), 2), ((2, 300), 1), ((1,), 0), ((2, 0), 1)):
        decay, x = rng.uniform(-1, 1, shape), rng.standard_normal(shape)
        found.append(Sample((decay.astype(np.float32), x.astype(np.float32)), {"dim": dim}))
    return found


register(  # y[i] = decay[i] * y[i - 1] + input[i]
    OpDef(
        name="recurrence",
        kind=Kind.SCAN,
        infer=_infer_recurrence,
        vjp=_recurrence_vjp,
        reference=_reference_recurrence,
        samples=_recurrence_samples,
        template="recurrence",
        axes=beside,
        flops=lambda n: 2 * n.types[0].size,
    )
)


def _scan(input: Value, dim: int, op: str, reverse: bool, exclusive: bool, start: float) -> Value:
    at = dim_index(dim, tensor(input).ndim) if tensor(input).ndim or dim not in (0, -1) else 0
    if not input.ndim:
        return broadcast_to(input.graph.constant(start, input.dtype), ()) if exclusive else input
    x = flip(input, at) if reverse else input
    y = apply("scan", x, dim=at, op=op)
    y = _previous(y, at, start) if exclusive else y
    return flip(y, at) if reverse else y


def _number(input: Value) -> Value:
    return input if tensor(input).dtype.is_float else cast(input, int64)


@function
def cumsum(input: Value, dim: int, reverse: bool = False, exclusive: bool = False) -> Value:
    """Running sum along ``dim``; integers sum as int64. ``reverse`` sums from the end, ``exclusive`` leaves the own out."""
    return _scan(_number(input), dim, "sum", reverse, exclusive, 0)


@function
@in_float32
def cumprod(input: Value, dim: int, reverse: bool = False, exclusive: bool = False) -> Value:
    """Running product along ``dim``; integers multiply as int64. ``reverse`` and ``exclusive`` as in ``cumsum``."""
    return _scan(_number(input), dim, "prod", reverse, exclusive, 1)


@function
@in_float32
def logcumsumexp(input: Value, dim: int, reverse: bool = False, exclusive: bool = False) -> Value:
    """``log(cumsum(exp(input)))`` along ``dim`` without overflow; ``reverse`` and ``exclusive`` as in ``cumsum``."""
    require_float(tensor(input).dtype, "input")
    return _scan(input, dim, "logaddexp", reverse, exclusive, float("-inf"))


@function
def cummax(input: Value, dim: int) -> tuple[Value, Value]:
    """Running maximum along ``dim`` and the index (int64) of the last element equal to it; NaN wins."""
    at = dim_index(dim, tensor(input).ndim)
    best = apply("scan", input, dim=at, op="max")
    index = apply("scan", where(leads(input, best), iota(input, at), 0), dim=at, op="max")
    return gather(input, at, index), index


@function
def cummin(input: Value, dim: int) -> tuple[Value, Value]:
    """Running minimum along ``dim`` and the index (int64) of the last element equal to it; NaN wins."""
    values, index = cummax(-input, dim)
    return -values, index

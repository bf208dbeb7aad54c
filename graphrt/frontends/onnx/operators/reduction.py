"""Reductions. Their axes are an input from opset 13 (ReduceSum) or 18 on, and an attribute before."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

import graphrt.ops as F
from graphrt.frontends.onnx.table import ints, operator
from graphrt.ir import Value

Reduce = Callable[[Value, list[int], bool], Value]


def _extreme(largest: bool) -> Reduce:
    """amax or amin; of no elements the smallest or largest number there is; of bools whether any or all hold."""

    def reduce(x: Value, dims: list[int], keep: bool) -> Value:
        if x.dtype.is_bool:
            return (F.any if largest else F.all)(x, dims, keep)
        if all(x.shape[d] for d in dims):
            return (F.amax if largest else F.amin)(x, dims, keep)
        info = None if x.dtype.is_float else np.iinfo(x.dtype.numpy)
        ends = (-math.inf, math.inf) if info is None else (int(info.min), int(info.max))
        shape = [1 if d in dims else n for d, n in enumerate(x.shape) if keep or d not in dims]
        return F.full(x.graph, shape, ends[0 if largest else 1], x.dtype)

    return reduce


def _log_sum_exp(x: Value, dims: list[int], keep: bool) -> Value:
    wide = x if x.dtype.is_float else F.cast(x, "float64")
    return F.logsumexp(wide, dims, keep) if all(x.shape[d] for d in dims) else F.log(F.sum(wide, dims, keep))


def _mean(x: Value, dims: list[int], keep: bool) -> Value:
    return F.mean(x if x.dtype.is_float else F.cast(x, "float64"), dims, keep)


def _float(f: Callable[[Value], Value], x: Value) -> Value:
    return f(x if x.dtype.is_float else F.cast(x, "float64"))


REDUCTIONS: dict[str, Reduce] = {
    "ReduceL1": lambda x, dims, keep: F.sum(F.abs(x), dims, keep),
    "ReduceL2": lambda x, dims, keep: _float(F.sqrt, F.sum(x * x, dims, keep)),
    "ReduceLogSum": lambda x, dims, keep: _float(F.log, F.sum(x, dims, keep)),
    "ReduceLogSumExp": _log_sum_exp,
    "ReduceMax": _extreme(largest=True),
    "ReduceMean": _mean,
    "ReduceMin": _extreme(largest=False),
    "ReduceProd": F.prod,
    "ReduceSum": F.sum,
    "ReduceSumSquare": lambda x, dims, keep: F.sum(x * x, dims, keep),
}


def _enter(name: str, reduce: Reduce) -> None:
    @operator(name)
    def reduction(data: Value, axes: np.ndarray | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Value:
        """No axes mean all of them, or with ``noop_with_empty_axes`` none: each element is reduced by itself."""
        dims = [d % data.ndim for d in ints(axes)]
        if not dims and noop_with_empty_axes:
            return F.cast(reduce(F.unsqueeze(data, -1), [data.ndim], False), data.dtype)
        return F.cast(reduce(data, dims or list(range(data.ndim)), bool(keepdims)), data.dtype)


for _name, _reduce in REDUCTIONS.items():
    _enter(_name, _reduce)


def _arg(f: Callable[[Value, int, bool], Value], data: Value, axis: int, keepdims: int, last: int) -> Value:
    if not last:
        return f(data, axis, bool(keepdims))
    return f(F.flip(data, axis), axis, bool(keepdims)) * -1 + (data.shape[axis] - 1)


@operator("ArgMax")
def arg_max(data: Value, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Value:
    return _arg(F.argmax, data, axis, keepdims, select_last_index)


@operator("ArgMin")
def arg_min(data: Value, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Value:
    return _arg(F.argmin, data, axis, keepdims, select_last_index)


@operator("TopK")
def top_k(x: Value, k: np.ndarray, *, axis: int = -1, largest: int = 1, sorted: int = 1) -> tuple[Value, Value]:  # noqa: A002
    """Always sorted."""
    return F.topk(x, int(k.item()), axis, bool(largest))

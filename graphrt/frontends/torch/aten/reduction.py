"""ATen operators that fold, scan or order a dimension."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import graphrt.ops as F
from graphrt.frontends.torch.table import F as Function
from graphrt.frontends.torch.table import aten
from graphrt.ir import Value
from graphrt.types import float32, uint8

Dims = int | Sequence[int] | None


def entry(*names: str) -> Callable[[Function], Function]:
    """``aten`` for functions of a dimension; torch takes a scalar as a vector of one element."""

    def enter(f: Function) -> Function:
        def of_any(input: Value, *args: Any, **kwargs: Any) -> Any:
            if input.ndim:
                return f(input, *args, **kwargs)
            found = f(F.reshape(input, [1]), *args, **kwargs)
            return tuple(F.reshape(v, []) for v in found) if isinstance(found, tuple) else F.reshape(found, [])

        aten(*names)(of_any)
        return f

    return enter


for _f in (F.argmax, F.argmin, F.logcumsumexp, F.cummax, F.cummin, F.logsumexp, F.kthvalue, F.median):
    entry(f"{_f.__name__}.default")(_f)
entry("median.dim")(F.median)


def _of_bools(f: Callable[..., Any]) -> Callable[..., tuple[Value, Value]]:
    """``f`` also of bool, which it takes as 0 and 1; as ``or`` and ``and`` with the position of the first that decides."""

    def extreme(input: Value, dim: int, keepdim: bool = False) -> tuple[Value, Value]:
        if not input.dtype.is_bool:
            return f(input, dim, keepdim)
        values, index = f(F.cast(input, uint8), dim, keepdim)
        return F.cast(values, input.dtype), index

    return extreme


entry("max.dim")(_of_bools(F.max))
entry("min.dim")(_of_bools(F.min))


@entry("topk.default")
def topk(input: Value, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> tuple[Value, Value]:  # noqa: A002
    return F.topk(input, k, dim, largest)


def _as(input: Value, dtype: Any) -> Value:
    return input if dtype is None else F.cast(input, dtype)


@entry("sum.default", "sum.dim_IntList")
def sum(input: Value, dim: Dims = None, keepdim: bool = False, *, dtype: Any = None) -> Value:  # noqa: A001 - torch's name
    return F.sum(_as(input, dtype), dim, keepdim)


@entry("mean.default", "mean.dim")
def mean(input: Value, dim: Dims = None, keepdim: bool = False, *, dtype: Any = None) -> Value:
    return F.mean(_as(input, dtype), dim, keepdim)


@entry("prod.default", "prod.dim_int")
def prod(input: Value, dim: Dims = None, keepdim: bool = False, *, dtype: Any = None) -> Value:
    return F.prod(_as(input, dtype), dim, keepdim)


@entry("amax.default", "max.default")
def amax(input: Value, dim: Dims = None, keepdim: bool = False) -> Value:
    return F.any(input, dim, keepdim) if input.dtype.is_bool else F.amax(input, dim, keepdim)


@entry("amin.default", "min.default")
def amin(input: Value, dim: Dims = None, keepdim: bool = False) -> Value:
    return F.all(input, dim, keepdim) if input.dtype.is_bool else F.amin(input, dim, keepdim)


@entry("any.default", "any.dim", "any.dims")
def any(input: Value, dim: Dims = None, keepdim: bool = False) -> Value:  # noqa: A001 - torch's name
    return F.any(input, dim, keepdim)


@entry("all.default", "all.dim", "all.dims")
def all(input: Value, dim: Dims = None, keepdim: bool = False) -> Value:  # noqa: A001 - torch's name
    return F.all(input, dim, keepdim)


@entry("var.correction")
def var(input: Value, dim: Dims = None, *, correction: float | None = None, keepdim: bool = False) -> Value:
    return F.var(input, dim, 1 if correction is None else correction, keepdim)


@entry("var.dim")
def var_dim(input: Value, dim: Dims, unbiased: bool = True, keepdim: bool = False) -> Value:
    return F.var(input, dim, int(unbiased), keepdim)


@entry("std.correction")
def std(input: Value, dim: Dims = None, *, correction: float | None = None, keepdim: bool = False) -> Value:
    return F.std(input, dim, 1 if correction is None else correction, keepdim)


@entry("var_mean.correction")
def var_mean(input: Value, dim: Dims = None, *, correction: float | None = None, keepdim: bool = False) -> tuple[Value, Value]:
    return var(input, dim, correction=correction, keepdim=keepdim), F.mean(input, dim, keepdim)


@entry("std_mean.correction")
def std_mean(input: Value, dim: Dims = None, *, correction: float | None = None, keepdim: bool = False) -> tuple[Value, Value]:
    return std(input, dim, correction=correction, keepdim=keepdim), F.mean(input, dim, keepdim)


@entry("linalg_vector_norm.default")
def linalg_vector_norm(
    input: Value,
    ord: float = 2,
    dim: Dims = None,
    keepdim: bool = False,
    *,
    dtype: Any = None,  # noqa: A002 - torch's name
) -> Value:
    return F.norm(_as(input, dtype), float(ord), dim, keepdim)


@entry("cumsum.default")
def cumsum(input: Value, dim: int, *, dtype: Any = None) -> Value:
    return F.cumsum(_as(input, dtype), dim)


@entry("cumprod.default")
def cumprod(input: Value, dim: int, *, dtype: Any = None) -> Value:
    return F.cumprod(_as(input, dtype), dim)


@entry("sort.default")
def sort(input: Value, dim: int = -1, descending: bool = False) -> tuple[Value, Value]:
    return F.sort(input, dim, descending)


@entry("sort.stable")
def sort_stable(input: Value, *, stable: bool | None, dim: int = -1, descending: bool = False) -> tuple[Value, Value]:
    return F.sort(input, dim, descending)


@entry("_softmax.default")
def softmax(input: Value, dim: int, half_to_float: bool) -> Value:
    return F.softmax(F.cast(input, float32) if half_to_float else input, dim)


@entry("_safe_softmax.default")
def safe_softmax(input: Value, dim: int, dtype: Any = None) -> Value:
    """A softmax that is 0, and so is its gradient, in a row that is -inf everywhere: attention with a masked row."""
    x = _as(input, dtype)
    nothing = F.eq(F.amax(F.stop_gradient(x), dim, keepdim=True), -math.inf)
    return F.where(nothing, 0.0, F.softmax(F.where(nothing, 0.0, x), dim))


@entry("_log_softmax.default")
def log_softmax(input: Value, dim: int, half_to_float: bool) -> Value:
    return F.log_softmax(F.cast(input, float32) if half_to_float else input, dim)

"""ATen operators that fold, scan or order a dimension."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import graphrt.ops as F
from graphrt.frontends.torch.table import aten, same
from graphrt.ir import Value
from graphrt.types import float32

Dims = int | Sequence[int] | None

same([F.argmax, F.argmin, F.logcumsumexp, F.cummax, F.cummin, F.logsumexp, F.topk, F.kthvalue, F.median])
aten("median.dim")(F.median)
aten("max.dim")(F.max)
aten("min.dim")(F.min)


def _as(input: Value, dtype: Any) -> Value:
    return input if dtype is None else F.cast(input, dtype)


@aten("sum.default", "sum.dim_IntList")
def sum(input: Value, dim: Dims = None, keepdim: bool = False, *, dtype: Any = None) -> Value:  # noqa: A001 - torch's name
    return F.sum(_as(input, dtype), dim, keepdim)


@aten("mean.default", "mean.dim")
def mean(input: Value, dim: Dims = None, keepdim: bool = False, *, dtype: Any = None) -> Value:
    return F.mean(_as(input, dtype), dim, keepdim)


@aten("prod.default", "prod.dim_int")
def prod(input: Value, dim: Dims = None, keepdim: bool = False, *, dtype: Any = None) -> Value:
    return F.prod(_as(input, dtype), dim, keepdim)


@aten("amax.default", "max.default")
def amax(input: Value, dim: Dims = None, keepdim: bool = False) -> Value:
    return F.any(input, dim, keepdim) if input.dtype.is_bool else F.amax(input, dim, keepdim)


@aten("amin.default", "min.default")
def amin(input: Value, dim: Dims = None, keepdim: bool = False) -> Value:
    return F.all(input, dim, keepdim) if input.dtype.is_bool else F.amin(input, dim, keepdim)


@aten("any.default", "any.dim", "any.dims")
def any(input: Value, dim: Dims = None, keepdim: bool = False) -> Value:  # noqa: A001 - torch's name
    return F.any(input, dim, keepdim)


@aten("all.default", "all.dim", "all.dims")
def all(input: Value, dim: Dims = None, keepdim: bool = False) -> Value:  # noqa: A001 - torch's name
    return F.all(input, dim, keepdim)


@aten("var.correction")
def var(input: Value, dim: Dims = None, *, correction: float | None = None, keepdim: bool = False) -> Value:
    return F.var(input, dim, 1 if correction is None else int(correction), keepdim)


@aten("var.dim")
def var_dim(input: Value, dim: Dims, unbiased: bool = True, keepdim: bool = False) -> Value:
    return F.var(input, dim, int(unbiased), keepdim)


@aten("std.correction")
def std(input: Value, dim: Dims = None, *, correction: float | None = None, keepdim: bool = False) -> Value:
    return F.std(input, dim, 1 if correction is None else int(correction), keepdim)


@aten("var_mean.correction")
def var_mean(input: Value, dim: Dims = None, *, correction: float | None = None, keepdim: bool = False) -> tuple[Value, Value]:
    return var(input, dim, correction=correction, keepdim=keepdim), F.mean(input, dim, keepdim)


@aten("linalg_vector_norm.default")
def linalg_vector_norm(
    input: Value,
    ord: float = 2,
    dim: Dims = None,
    keepdim: bool = False,
    *,
    dtype: Any = None,  # noqa: A002 - torch's name
) -> Value:
    return F.norm(_as(input, dtype), float(ord), dim, keepdim)


@aten("cumsum.default")
def cumsum(input: Value, dim: int, *, dtype: Any = None) -> Value:
    return F.cumsum(_as(input, dtype), dim)


@aten("cumprod.default")
def cumprod(input: Value, dim: int, *, dtype: Any = None) -> Value:
    return F.cumprod(_as(input, dtype), dim)


@aten("sort.default")
def sort(input: Value, dim: int = -1, descending: bool = False) -> tuple[Value, Value]:
    return F.sort(input, dim, descending)


@aten("sort.stable")
def sort_stable(input: Value, *, stable: bool | None, dim: int = -1, descending: bool = False) -> tuple[Value, Value]:
    return F.sort(input, dim, descending)


@aten("_softmax.default")
def softmax(input: Value, dim: int, half_to_float: bool) -> Value:
    return F.softmax(F.cast(input, float32) if half_to_float else input, dim)


@aten("_log_softmax.default")
def log_softmax(input: Value, dim: int, half_to_float: bool) -> Value:
    return F.log_softmax(F.cast(input, float32) if half_to_float else input, dim)

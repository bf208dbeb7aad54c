"""ATen operators that decompose matrices, and solve systems by that.

What torch keeps of LU factors for its own gradients is of the matrix or its transpose, as that lies in memory: it is not given.
"""

from __future__ import annotations

import graphrt.ops as F
from graphrt.errors import ConversionError
from graphrt.frontends.torch.table import aten
from graphrt.ir import Value
from graphrt.types import int32


@aten("_linalg_svd.default")
def svd(
    A: Value,
    full_matrices: bool = False,
    compute_uv: bool = True,
    *,
    driver: str | None = None,
) -> tuple[Value, Value, Value]:
    if compute_uv:
        return F.svd(A, full_matrices)
    none = F.zeros(A.graph, [0], A.dtype)
    return none, F.svdvals(A), none


def _info(A: Value) -> Value:
    """For each matrix 0, or which pivot, counted from 1, is the first that is 0."""
    if not A.shape[-1]:
        return F.zeros(A.graph, A.shape[:-2], int32)
    factors, _ = F.lu_factor(A)
    zero = F.eq(F.diagonal(factors, 0, -2, -1), 0.0)
    first = F.argmax(F.cast(zero, int32), -1) + 1
    return F.cast(F.where(F.any(zero, -1), first, 0), int32)


@aten("linalg_lu_factor_ex.default")
def lu_factor_ex(A: Value, *, pivot: bool = True, check_errors: bool = False) -> tuple[Value, Value, Value]:
    if not pivot:
        raise ConversionError("it exchanges rows always; leave pivot=False out")
    return *F.lu_factor(A), _info(A)


@aten("linalg_inv_ex.default")
def inv_ex(A: Value, *, check_errors: bool = False) -> tuple[Value, Value]:
    return F.inv(A), _info(A)


@aten("_linalg_solve_ex.default")
def solve_ex(A: Value, B: Value, *, left: bool = True, check_errors: bool = False) -> tuple[Value, None, None, Value]:
    return F.solve(A, B, left), None, None, _info(A)


@aten("_linalg_det.default")
def det(A: Value) -> tuple[Value, None, None]:
    return F.det(A), None, None


@aten("_linalg_slogdet.default")
def slogdet(A: Value) -> tuple[Value, Value, None, None]:
    return *F.slogdet(A), None, None


@aten("linalg_solve_triangular.default")
def solve_triangular(A: Value, B: Value, *, upper: bool, left: bool = True, unitriangular: bool = False) -> Value:
    triangle = (F.triu if upper else F.tril)(A)
    if unitriangular:
        one = F.broadcast_to(F.eye(A.graph, A.shape[-1], dtype=A.dtype), A.shape)
        triangle = F.where(F.ne(one, 0.0), one, triangle)
    return F.solve(triangle, B, left)

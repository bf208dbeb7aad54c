"""ATen operators that decompose matrices."""

from __future__ import annotations

import graphrt.ops as F
from graphrt.frontends.torch.table import aten
from graphrt.ir import Value


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

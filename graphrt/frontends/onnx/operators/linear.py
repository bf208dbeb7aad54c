"""Matrix products and determinants."""

from __future__ import annotations

import graphrt.ops as F
from graphrt.frontends.onnx.table import operator
from graphrt.ir import Value


@operator("MatMul")
def matmul(a: Value, b: Value) -> Value:
    return F.matmul(a, b)


@operator("Gemm")
def gemm(
    a: Value, b: Value, c: Value | None = None, *, alpha: float = 1.0, beta: float = 1.0, transA: int = 0, transB: int = 0
) -> Value:
    y = F.matmul(F.transpose(a, 0, 1) if transA else a, F.transpose(b, 0, 1) if transB else b)
    y = y if alpha == 1.0 else F.cast(y * alpha, a.dtype)
    return y if c is None or beta == 0.0 else y + (c if beta == 1.0 else F.cast(c * beta, a.dtype))


@operator("Einsum")
def einsum(*inputs: Value, equation: str) -> Value:
    return F.einsum(equation.replace(" ", ""), *inputs)


@operator("Det")
def det(x: Value) -> Value:
    return F.det(x)

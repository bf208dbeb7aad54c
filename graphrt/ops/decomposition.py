"""The singular value decomposition, and what follows from the values: norms of matrices, rank and condition.

The op ``svd`` takes matrices that are no wider than high, [..., M, N], and lays its three results one below the other,
[..., M + 1 + N, N]: U, the singular values as a row, and V, whose columns belong together. A wide matrix is transposed; the
whole of a square U is that of the matrix with columns of zeros beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from graphrt.errors import ArgumentError, DTypeError, ShapeError
from graphrt.ir import Node, Value
from graphrt.op import Kind, OpDef, Sample, Types, leading, register
from graphrt.ops.base import apply, cast, dim_index, function, in_float32, require_float, tensor
from graphrt.ops.elementwise import eq, gt, maximum, where
from graphrt.ops.matmul import matmul
from graphrt.ops.movement import diag_embed
from graphrt.ops.reduction import amax, amin, norm, sum
from graphrt.ops.slicing import pad, used
from graphrt.ops.view import movedim, reshape, squeeze, transpose, unsqueeze
from graphrt.types import HALVES, TensorType, int64


def _infer_svd(input: TensorType) -> Types:
    if not input.dtype.is_float or input.dtype in HALVES:
        raise DTypeError(f"svd takes float32 or float64, got {input.dtype}; cast it first")
    if input.ndim < 2 or input.shape[-2] < input.shape[-1]:
        raise ShapeError(f"svd needs [..., M, N] with M >= N, got {list(input.shape)}")
    *batch, m, n = input.shape
    return (TensorType((*batch, m + 1 + n, n), input.dtype),)


def _reference_svd(x: np.ndarray) -> np.ndarray:
    """NumPy's, with the sign that makes the first of the large elements of each column of V positive; NaN for NaN or inf."""
    *batch, m, n = x.shape
    if not x.size:
        return np.zeros((*batch, m + 1 + n, n), x.dtype)
    finite = np.isfinite(x).all((-2, -1), keepdims=True)
    u, s, vh = np.linalg.svd(np.where(finite, x, 0).astype(np.float64), full_matrices=False)
    v = vh.swapaxes(-2, -1)
    lead = np.argmax(np.abs(v) >= 0.9 * np.abs(v).max(-2, keepdims=True), -2, keepdims=True)
    sign = np.where(np.take_along_axis(v, lead, -2) < 0, -1.0, 1.0)
    return np.where(finite, np.concatenate([u * sign, s[..., None, :], v * sign], -2), np.nan).astype(x.dtype)


def _parts(y: Value) -> tuple[Value, Value, Value]:
    """U, the values and V of a result of the op."""
    m = y.shape[-2] - y.shape[-1] - 1
    return y[..., :m, :], y[..., m, :], y[..., m + 1 :, :]


def _inverse(x: Value) -> Value:
    """``1 / x``, and 0 for 0."""
    zero = eq(x, 0.0)
    return where(zero, 0.0, 1.0 / where(zero, 1.0, x))


def _svd_vjp(node: Node, dy: Value) -> list[Value | None]:
    """As torch's (Townsend, "Differentiating the singular value decomposition", 2016), with 0 for what equal values divide."""
    m, n = node.inputs[0].shape[-2:]
    u, s, v = _parts(node.outputs[0])
    du, ds, dv = (used(dy, (a, 0), (b, n)) for a, b in ((0, m), (m, m + 1), (m + 1, m + 1 + n)))
    column, row = unsqueeze(s, -1), unsqueeze(s, -2)
    apart = _inverse((row - column) * (row + column))
    inner = None if ds is None else diag_embed(squeeze(ds, -2))  # the gradient is U inner V^T, and what leaves U's columns

    def turned(x: Value, dx: Value) -> Value:
        product = matmul(transpose(x, -2, -1), dx)
        return (product - transpose(product, -2, -1)) * apart

    if du is not None:
        inner = turned(u, du) * row if inner is None else inner + turned(u, du) * row
    if dv is not None:
        inner = column * turned(v, dv) if inner is None else inner + column * turned(v, dv)
    if inner is None:
        return [None]
    left = matmul(u, inner)
    if du is not None and m > n:
        left = left + (du - matmul(u, matmul(transpose(u, -2, -1), du))) * _inverse(row)
    return [matmul(left, transpose(v, -2, -1))]


def _samples(rng: np.random.Generator) -> list[Sample]:
    """Matrices whose singular values are well apart: what belongs to equal ones is one choice of many."""
    found = []
    for shape in ((4, 3), (2, 3, 3), (2, 2, 7, 2), (1, 1), (5, 1), (20, 9), (0, 3, 2), (2, 0), (0, 0)):
        *batch, m, n = shape
        u, v = (np.linalg.qr(rng.standard_normal((*batch, k, n)))[0] for k in (m, n))
        s = (1.0 + np.arange(n)) * rng.uniform(0.9, 1.1, (*batch, n))
        found.append(Sample(((u * s[..., None, :] @ v.swapaxes(-2, -1)).astype(np.float32),), {}))
    return found


register(
    OpDef(
        name="svd",
        kind=Kind.DECOMPOSITION,
        infer=_infer_svd,
        vjp=_svd_vjp,
        reference=_reference_svd,
        samples=_samples,
        template="svd",
        axes=leading,
        flops=lambda n: 24 * n.types[0].size * n.types[0].shape[-1],  # about eight sweeps
    )
)


def _matrices(input: Value, what: str) -> Value:
    require_float(tensor(input).dtype, f"input of {what}")
    if input.ndim < 2:
        raise ShapeError(f"{what} needs [..., M, N], got {list(input.shape)}")
    return input


def _upright(input: Value) -> Value:
    """``input`` [..., M, N], or transposed where it is wider than high."""
    return input if input.shape[-2] >= input.shape[-1] else transpose(input, -2, -1)


@function
@in_float32
def svd(input: Value, full_matrices: bool = True) -> tuple[Value, Value, Value]:
    """The singular value decomposition U, S, Vh of [..., M, N] matrices, ``input = U[..., :K] @ diag(S) @ Vh[..., :K, :]``.

    S [..., K], K the smaller of M and N, is in descending order. U is [..., M, M] and Vh [..., N, N], or [..., M, K] and
    [..., K, N] without ``full_matrices``. Of each right singular vector (left, of a wide matrix) the first element that has 0.9
    of the size of its largest is positive. A matrix with an infinity or NaN has NaN for all three, where torch raises an error.

    Gradients are torch's; they exist where the singular values differ, and those of U and Vh where none is 0 either.
    """
    x = _upright(_matrices(input, "svd"))
    m, n = x.shape[-2:]
    if full_matrices and m > n:
        u, s, v = _parts(apply("svd", pad(x, (0, m - n))))
        s, v = s[..., :n], v[..., :n, :n]
    else:
        u, s, v = _parts(apply("svd", x))
    if x is not input:
        u, v = v, u
    return u, s, transpose(v, -2, -1)


@function
@in_float32
def svdvals(input: Value) -> Value:
    """The singular values of [..., M, N] matrices in descending order, [..., min(M, N)]."""
    return _parts(apply("svd", _upright(_matrices(input, "svdvals"))))[1]


@function
@in_float32
def matrix_norm(input: Value, ord: float | str = "fro", dim: Sequence[int] = (-2, -1), keepdim: bool = False) -> Value:  # noqa: A002
    """The norm ``ord`` of the matrices in the two dimensions ``dim``, as torch.linalg.matrix_norm.

    "fro" is the root of the sum of squares, "nuc" the sum of the singular values, 2 and -2 the largest and smallest of them; 1
    and -1 the largest and smallest sum of sizes in a column, inf and -inf in a row.
    """
    require_float(tensor(input).dtype, "input of matrix_norm")
    dims = [dim_index(d, input.ndim) for d in dim]
    if len(dims) != 2 or dims[0] == dims[1]:
        raise ArgumentError(f"dim must be two different dimensions, got {tuple(dim)}")
    if ord == "fro":
        return norm(input, 2.0, dims, keepdim)
    if ord not in ("nuc", 1, -1, 2, -2, math.inf, -math.inf):
        raise ArgumentError(f"ord must be 'fro', 'nuc', 1, -1, 2, -2, inf or -inf, got {ord!r}")
    x = movedim(input, dims, (-2, -1))
    if ord == "nuc":
        y = sum(svdvals(x), -1)
    else:
        assert not isinstance(ord, str)
        sizes = svdvals(x) if abs(ord) == 2 else sum(abs(x), -2 if abs(ord) == 1 else -1)
        y = (amax if ord > 0 else amin)(sizes, -1)
    return reshape(y, [1 if d in dims else k for d, k in enumerate(input.shape)]) if keepdim else y


@function
@in_float32
def cond(input: Value, p: float | str | None = None) -> Value:
    """The largest singular value of [..., M, N] matrices over the smallest; with ``p`` -2 the smallest over the largest."""
    if p not in (None, 2, -2):
        raise ArgumentError(f"p must be None, 2 or -2, got {p!r}; other norms take an inverse, which graphrt does not compute")
    s = svdvals(input)
    if not s.shape[-1]:
        raise ShapeError(f"cond needs matrices with elements, got {list(input.shape)}")
    return s[..., -1] / s[..., 0] if p == -2 else s[..., 0] / s[..., -1]


@function
@in_float32
def matrix_rank(input: Value, atol: float | None = None, rtol: float | None = None) -> Value:
    """The number of singular values of [..., M, N] matrices (int64) that exceed ``atol`` and ``rtol`` times the largest.

    ``rtol`` is by default the larger of M and N times the distance from 1 to the next number, or 0 beside an ``atol``.
    """
    s = svdvals(input)
    if not s.shape[-1]:
        return sum(cast(s, int64), -1)
    if rtol is None:
        rtol = 0.0 if atol else max(input.shape[-2:]) * float(np.finfo(s.dtype.numpy).eps)
    least = maximum(s[..., :1] * float(rtol), float(atol or 0.0))
    return sum(cast(gt(s, least), int64), -1)

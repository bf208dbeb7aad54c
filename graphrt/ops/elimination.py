"""Systems of linear equations by elimination: LU factors, solutions, inverses and determinants.

The op ``lu`` takes matrices [..., N, N] and right-hand sides [..., N, R], and lays what it finds side by side,
[..., N + 2, N + R]: L and U in the first N columns and rows, the solutions in the others; below them pivots and permutation.
"""

from __future__ import annotations

import numpy as np

from graphrt.errors import DTypeError, ShapeError
from graphrt.ir import Node, Value
from graphrt.op import Kind, OpDef, Sample, Types, leading, register
from graphrt.ops.base import apply, broadcast_shape, broadcast_to, cast, function, in_float32, require_float, tensor
from graphrt.ops.creation import eye
from graphrt.ops.elementwise import abs, log, ne, sign, where
from graphrt.ops.indexing import take_along_dim
from graphrt.ops.matmul import matmul
from graphrt.ops.movement import diagonal, tril, triu
from graphrt.ops.reduction import prod, sum
from graphrt.ops.slicing import used
from graphrt.ops.sorting import argsort
from graphrt.ops.source import iota
from graphrt.ops.view import reshape, transpose, unsqueeze
from graphrt.types import HALVES, TensorType, int32, int64


def _infer_lu(input: TensorType, other: TensorType) -> Types:
    if not input.dtype.is_float or input.dtype in HALVES or other.dtype is not input.dtype:
        raise DTypeError(f"lu takes matrices of float32 or float64, got {input.dtype} and {other.dtype}; cast them first")
    *batch, n = input.shape[:-1] if input.ndim > 1 else [0]
    if input.ndim < 2 or input.shape[-1] != n or other.shape[:-1] != (*batch, n):
        raise ShapeError(f"lu needs [..., N, N] and [..., N, R], got {list(input.shape)} and {list(other.shape)}")
    return (TensorType((*batch, n + 2, n + other.shape[-1]), input.dtype),)


def _reference_lu(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Row by row, as in a textbook; the solutions are NumPy's."""
    n, r = b.shape[-2:]
    y = np.zeros((*a.shape[:-2], n + 2, n + r))
    for at in np.ndindex(a.shape[:-2]):
        lu, place = a[at].astype(np.float64), np.arange(n)
        for j in range(n):
            pivot = j + int(np.argmax(np.abs(lu[j:, j])))
            lu[[j, pivot]], place[[j, pivot]] = lu[[pivot, j]], place[[pivot, j]]
            y[at][n, j] = pivot + 1
            if lu[j, j] != 0:
                lu[j + 1 :, j] /= lu[j, j]
            lu[j + 1 :, j + 1 :] -= np.outer(lu[j + 1 :, j], lu[j, j + 1 :])
        singular = not np.diag(lu).all()
        y[at][:n, :n], y[at][n + 1, :n] = lu, place
        y[at][:n, n:] = np.nan if singular else np.linalg.solve(a[at].astype(np.float64), b[at].astype(np.float64))
    return y.astype(a.dtype)


def _lu_vjp(node: Node, dy: Value) -> list[Value | None]:
    """Gradients by the solutions X: of B, ``A^-T dX``, of A its product with -X^T; by the factors: two systems with them."""
    a, _ = node.inputs
    y, n = node.outputs[0], a.shape[-1]
    d_factors, d_x = used(dy, (0, 0), (n, n)), used(dy, (0, n), (n, y.shape[-1])) if y.shape[-1] > n else None
    da = db = None
    if d_x is not None:
        db = _solved(transpose(a, -2, -1), d_x)
        da = -matmul(db, transpose(y[..., :n, n:], -2, -1))
    if d_factors is not None:
        lower, upper = _factors(y)
        of_lower = tril(matmul(transpose(lower, -2, -1), tril(d_factors, -1)), -1)
        inner = of_lower + triu(matmul(triu(d_factors), transpose(upper, -2, -1)))
        half = _solved(transpose(lower, -2, -1), inner)
        moved = transpose(_solved(upper, transpose(half, -2, -1)), -2, -1)
        back = argsort(cast(y[..., n + 1, :n], int64), -1)  # of the inverse permutation
        of_factors = take_along_dim(moved, broadcast_to(unsqueeze(back, -1), moved.shape), -2)
        da = of_factors if da is None else da + of_factors
    return [da, db]


def _samples(rng: np.random.Generator) -> list[Sample]:
    found = []
    for shape, r in (((3, 3), 2), ((2, 4, 4), 1), ((1, 1), 1), ((2, 2, 2, 2), 0), ((0, 3, 3), 2)):
        a = rng.standard_normal(shape) + np.roll(np.eye(shape[-1]) * 3, 1, -1)
        found.append(Sample((a.astype(np.float32), rng.standard_normal((*shape[:-1], r)).astype(np.float32)), {}))
    return found


register(
    OpDef(
        name="lu",
        kind=Kind.DECOMPOSITION,
        infer=_infer_lu,
        vjp=_lu_vjp,
        reference=_reference_lu,
        samples=_samples,
        template="lu",
        axes=leading,
        flops=lambda n: 2 * n.types[0].size * n.inputs[0].shape[-1],
    )
)


def _solved(a: Value, b: Value) -> Value:
    return apply("lu", a, b)[..., : a.shape[-1], a.shape[-1] :]


def _factors(y: Value) -> tuple[Value, Value]:
    """L and U of a result of the op."""
    n = y.shape[-2] - 2
    both = y[..., :n, :n]
    return tril(both, -1) + broadcast_to(eye(y.graph, n, dtype=y.dtype), both.shape), triu(both)


def _square(input: Value, what: str, name: str = "input") -> Value:
    require_float(tensor(input, name).dtype, f"{name} of {what}")
    if input.ndim < 2 or input.shape[-1] != input.shape[-2]:
        raise ShapeError(f"{what} needs square matrices [..., N, N], got {name} {list(input.shape)}")
    return input


def _factored(input: Value, what: str) -> Value:
    x = _square(input, what)
    return apply("lu", x, x[..., :, :0])


@function
@in_float32
def lu_factor(input: Value) -> tuple[Value, Value]:
    """The factors of ``P A = L U`` for square matrices A [..., N, N]: both in one matrix, and the pivots (int32 [..., N]).

    L, whose diagonal is 1, is below the diagonal. Row i was exchanged with row ``pivots[i] - 1``, one after the other.
    """
    y, n = _factored(input, "lu_factor"), input.shape[-1]
    return y[..., :n, :n], cast(y[..., n, :n], int32)


@function
@in_float32
def solve(A: Value, B: Value, left: bool = True) -> Value:
    """X with ``A X = B``, or ``X A = B`` if not ``left``, for square matrices A [..., N, N]; batches broadcast.

    B is [..., N, K], or a vector [N], or a batch of vectors if its shape is A's without the last dimension. Where A is singular
    X has infinities or NaN, where torch raises an error.
    """
    a, b = _square(A, "solve", "A"), tensor(B, "B")
    if a.dtype is not b.dtype:
        raise DTypeError(f"A and B must be of one type, got {a.dtype} and {b.dtype}")
    n, vector = a.shape[-1], b.ndim == 1 or (a.ndim - 1 == b.ndim and b.shape == a.shape[:-1])
    b = unsqueeze(b, -1) if vector else b
    if not left:
        if vector:
            raise ShapeError("the vectors of X A = B are rows: B must have the dimensions [..., K, N]")
        return transpose(solve(transpose(a, -2, -1), transpose(b, -2, -1)), -2, -1)
    if b.shape[-2] != n:
        raise ShapeError(f"solve needs A [..., N, N] and B [..., N, K], got {list(A.shape)} and {list(B.shape)}")
    batch = broadcast_shape(a.shape[:-2], b.shape[:-2])
    x = _solved(broadcast_to(a, (*batch, n, n)), broadcast_to(b, (*batch, *b.shape[-2:])))
    return reshape(x, x.shape[:-1]) if vector else x


@function
@in_float32
def inv(input: Value) -> Value:
    """The inverse of square matrices [..., N, N]; of a singular one infinities or NaN, where torch raises an error."""
    x = _square(input, "inv")
    return _solved(x, broadcast_to(eye(x.graph, x.shape[-1], dtype=x.dtype), x.shape))


def _odd(y: Value) -> Value:
    """1 or -1: whether the exchanges of rows in a result of the op are even or odd."""
    n = y.shape[-2] - 2
    pivots = y[..., n, :n]
    moved = ne(pivots, cast(iota(pivots, pivots.ndim - 1), y.dtype) + 1.0)
    return prod(where(moved, -1.0, broadcast_to(y.graph.constant(1.0, y.dtype), moved.shape)), -1)


@function
@in_float32
def det(input: Value) -> Value:
    """The determinant of square matrices [..., N, N]. Its gradient exists where that is not 0."""
    y, n = _factored(input, "det"), input.shape[-1]
    return _odd(y) * prod(diagonal(y[..., :n, :n], 0, -2, -1), -1)


@function
@in_float32
def slogdet(input: Value) -> tuple[Value, Value]:
    """The sign of the determinant of square matrices [..., N, N], and the logarithm of its size: 0 and -inf if it is 0."""
    y, n = _factored(input, "slogdet"), input.shape[-1]
    pivots = diagonal(y[..., :n, :n], 0, -2, -1)
    return _odd(y) * prod(sign(pivots), -1), sum(log(abs(pivots)), -1)

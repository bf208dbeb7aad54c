"""Matrix products: the op ``matmul`` [..., m, k] x [..., k, n], and torch's functions over it."""

from __future__ import annotations

import math

import numpy as np

from graphrt.errors import ShapeError
from graphrt.ir import Node, Value
from graphrt.op import LETTERS, Axes, Kind, OpDef, Sample, Types, register
from graphrt.ops.base import apply, biased, broadcast_shape, broadcast_to, function, in_float32, require_float, tensor, widened
from graphrt.ops.base import cast as cast_to
from graphrt.ops.contraction import one_float, sum_of_parts
from graphrt.ops.view import permute, reshape, transpose, unsqueeze
from graphrt.types import TensorType, int64, promote


def _infer_matmul(input: TensorType, other: TensorType) -> Types:
    one_float(("input", "other"), input, other)
    a, b = input.shape, other.shape
    if len(a) != len(b) or len(a) < 2 or a[:-2] != b[:-2] or a[-1] != b[-2]:
        raise ShapeError(f"matmul needs [..., m, k] and [..., k, n], got input {list(a)} and other {list(b)}")
    return (TensorType((*a[:-1], b[-1]), input.dtype),)


def _product(a: Value, b: Value, wrt: Value) -> Value:
    """``a @ b``, the gradient of ``wrt``; if that is a transposed view, computed as what it shows lies in memory."""
    swapped = [*range(wrt.ndim - 2), wrt.ndim - 1, wrt.ndim - 2]
    if wrt.node.op.name == "permute" and list(wrt.node.attrs["dims"]) == swapped:
        return transpose(apply("matmul", transpose(b, -1, -2), transpose(a, -1, -2)), -1, -2)
    return apply("matmul", a, b)


def _split_matmul(node: Node, splits: int) -> list[Value]:
    """Products of ``splits`` parts of k, a batch of their own, and their sum; nothing is split where k does not divide."""
    a, b = node.inputs
    if a.shape[-1] % splits:
        return [apply("matmul", a, b)]
    batch, k = a.ndim - 2, a.shape[-1] // splits
    parts_a = reshape(a, (*a.shape[:-1], splits, k))
    parts_b = reshape(b, (*b.shape[:-2], splits, k, b.shape[-1]))
    parts_a = permute(parts_a, (a.ndim - 1, *range(a.ndim - 1), a.ndim))
    parts_b = permute(parts_b, (batch, *range(batch), batch + 1, batch + 2))
    return [sum_of_parts(apply("matmul", widened(parts_a), widened(parts_b)), node)]


def _matmul_samples(rng: np.random.Generator) -> list[Sample]:
    shapes = [((5, 7), (7, 3)), ((1, 1), (1, 1)), ((2, 4, 6), (2, 6, 5)), ((33, 20), (20, 65)), ((3, 0), (0, 2))]
    return [
        Sample((rng.standard_normal(a).astype(np.float32), rng.standard_normal(b).astype(np.float32)), {}) for a, b in shapes
    ]


def _axes(node: Node) -> Axes:
    batch = LETTERS[: node.inputs[0].ndim - 2]
    return Axes((f"{batch}mk", f"{batch}kn"), (f"{batch}mn",), (0, 0))


register(
    OpDef(
        name="matmul",
        kind=Kind.CONTRACTION,
        infer=_infer_matmul,
        vjp=lambda n, dy: [
            _product(dy, transpose(n.inputs[1], -1, -2), n.inputs[0]),
            _product(transpose(n.inputs[0], -1, -2), dy, n.inputs[1]),
        ],
        reference=np.matmul,
        samples=_matmul_samples,
        template="matmul",
        axes=_axes,
        split=_split_matmul,
        flops=lambda n: 2 * n.types[0].size * n.inputs[0].shape[-1],
    )
)


def _infer_pair(input: TensorType, other: TensorType, second: TensorType) -> Types:
    if other != second.with_order(other.order):
        raise ShapeError(f"matmul_pair needs two right operands of one type, got {other} and {second}")
    return _infer_matmul(input, other) * 2


def _pair_samples(rng: np.random.Generator) -> list[Sample]:
    shapes = [((5, 7), (7, 3)), ((2, 4, 6), (2, 6, 5)), ((33, 20), (20, 65)), ((3, 0), (0, 2))]
    return [Sample(tuple(rng.standard_normal(s).astype(np.float32) for s in (a, b, b)), {}) for a, b in shapes]


def _pair_vjp(node: Node, dy: Value, dz: Value) -> list[Value]:
    a, b, c = node.inputs
    left = [_product(d, transpose(w, -1, -2), a) for d, w in ((dy, b), (dz, c))]
    return [left[0] + left[1], *(_product(transpose(a, -1, -2), d, w) for d, w in ((dy, b), (dz, c)))]


register(
    OpDef(
        name="matmul_pair",
        kind=Kind.CONTRACTION,
        infer=_infer_pair,
        vjp=_pair_vjp,
        reference=lambda input, other, second: (np.matmul(input, other), np.matmul(input, second)),
        samples=_pair_samples,
        template="matmul_pair",
        flops=lambda n: 4 * n.types[0].size * n.inputs[0].shape[-1],
    )
)


def _product_of_integers(a: Value, b: Value) -> Value:
    """``a @ b`` of integers, exact but for what its dtype cannot hold: products and their sum, which fuse."""
    shape = (*broadcast_shape(a.shape[:-2], b.shape[:-2]), a.shape[-2], a.shape[-1], b.shape[-1])
    left, right = (broadcast_to(unsqueeze(cast_to(v, int64), d), shape) for v, d in ((a, a.ndim), (b, b.ndim - 2)))
    total = apply("reduce", apply("mul", left, right), op="sum", dims=(len(shape) - 2,))
    return cast_to(total, a.dtype)


@function
def matmul(input: Value, other: Value) -> Value:
    """Matrix product as torch.matmul: vectors, matrices, and batches that broadcast; of integers too, which wrap around."""
    a, b = tensor(input), tensor(other, "other")
    if a.ndim == 0 or b.ndim == 0:
        raise ShapeError(f"matmul needs at least one dimension, got {list(a.shape)} and {list(b.shape)}")
    dtype = promote(a.dtype, b.dtype)
    a, b = cast_to(a, dtype), cast_to(b, dtype)
    a2 = unsqueeze(a, 0) if a.ndim == 1 else a
    b2 = unsqueeze(b, 1) if b.ndim == 1 else b
    if a2.shape[-1] != b2.shape[-2]:
        raise ShapeError(f"matmul needs [..., m, k] and [..., k, n], got input {list(a.shape)} and other {list(b.shape)}")
    if dtype.is_int:
        y = _product_of_integers(a2, b2)
    elif b2.ndim == 2 and a2.ndim > 2:  # one matrix for the whole batch: a taller product
        y = apply("matmul", reshape(a2, (math.prod(a2.shape[:-1]), a2.shape[-1])), b2)
        y = reshape(y, (*a2.shape[:-1], b2.shape[-1]))
    else:
        batch = broadcast_shape(a2.shape[:-2], b2.shape[:-2])
        y = apply("matmul", broadcast_to(a2, (*batch, *a2.shape[-2:])), broadcast_to(b2, (*batch, *b2.shape[-2:])))
    if a.ndim == 1:
        y = reshape(y, (*y.shape[:-2], y.shape[-1]))
    return reshape(y, y.shape[:-1]) if b.ndim == 1 else y


@function
def linear(input: Value, weight: Value, bias: Value | None = None) -> Value:
    """``input @ weight.T + bias``: input [..., in], weight [out, in], bias [out]."""
    if weight.ndim != 2 or input.ndim < 1 or input.shape[-1] != weight.shape[1]:
        raise ShapeError(f"linear needs input [..., in] and weight [out, in], got {list(input.shape)}, {list(weight.shape)}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ShapeError(f"bias must be [{weight.shape[0]}], got {list(bias.shape)}")
    y = matmul(input, transpose(weight, 0, 1))
    return biased(y, bias)


@function
@in_float32
def gram_matrix(input: Value) -> Value:
    """Products of every two channels of maps [N, C, ...], summed over positions, over the size of a map: [N, C, C].

    The style of a picture is that of a network's features (Gatys et al., CVPR 2016), divided as Johnson et al. (ECCV 2016) do.
    """
    if tensor(input).ndim < 2:
        raise ShapeError(f"input must be [N, C, ...], got {list(input.shape)}")
    require_float(input.dtype, "input")
    rows = reshape(input, (*input.shape[:2], math.prod(input.shape[2:])))
    return matmul(rows, transpose(rows, 1, 2)) * (1.0 / max(math.prod(input.shape[1:]), 1))

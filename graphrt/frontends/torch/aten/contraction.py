"""ATen operators that multiply and sum: matrix products and convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import graphrt.ops as F
from graphrt.frontends.torch.table import aten, pullback, same
from graphrt.ir import Value
from graphrt.types import as_dtype

same([F.mm, F.bmm, F.mv, F.dot, F.addmm, F.addbmm, F.baddbmm, F.linear, F.matmul, F.outer, F.dist])

_CONV = (F.conv1d, F.conv2d, F.conv3d)
_CONV_TRANSPOSE = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
Ints = Sequence[int]


@aten("convolution.default")
def convolution(
    input: Value,
    weight: Value,
    bias: Value | None,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    transposed: bool,
    output_padding: Ints,
    groups: int,
) -> Value:
    """Every convolution of torch, in one to three dimensions."""
    rank = weight.ndim - 2
    s, p, d, o = (tuple(v) * (rank if len(v) == 1 else 1) for v in (stride, padding, dilation, output_padding))
    if transposed:
        return _CONV_TRANSPOSE[rank - 1](input, weight, bias, s, p, o, groups, d)
    return _CONV[rank - 1](input, weight, bias, s, p, d, groups)


@aten("convolution_backward.default")
def convolution_backward(
    dy: Value,
    input: Value,
    weight: Value,
    bias_sizes: Ints | None,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    transposed: bool,
    output_padding: Ints,
    groups: int,
    output_mask: Sequence[bool],
) -> tuple[Value | None, ...]:
    """The gradients of input, weight and bias, as far as ``output_mask`` asks for them."""
    arguments = (None, stride, padding, dilation, transposed, output_padding, groups)
    dx, dw = pullback(lambda x, w: convolution(x, w, *arguments), [input, weight], dy)
    found = (dx, dw, F.sum(dy, [d for d in range(dy.ndim) if d != 1]))
    return tuple(g if wanted else None for g, wanted in zip(found, output_mask, strict=True))


@aten("addmv.default")
def addmv(input: Value, mat: Value, vec: Value, *, beta: float = 1, alpha: float = 1) -> Value:
    product = F.mv(mat, vec) if alpha == 1 else F.mv(mat, vec) * alpha
    return F.expand(product if beta == 0 else product + (input if beta == 1 else input * beta), product.shape)


@aten("addmm.dtype", "baddbmm.dtype")
def blended_as(input: Value, first: Value, second: Value, out_dtype: Any, *, beta: float = 1, alpha: float = 1) -> Value:
    """``addmm`` or ``baddbmm`` of halves, computed and returned as ``out_dtype``."""
    a, b, c = (F.cast(v, as_dtype(out_dtype)) for v in (first, second, input))
    return (F.addmm if a.ndim == 2 else F.baddbmm)(c, a, b, beta=beta, alpha=alpha)


@aten("mm.dtype", "bmm.dtype")
def product_as(input: Value, other: Value, out_dtype: Any) -> Value:
    a, b = (F.cast(v, as_dtype(out_dtype)) for v in (input, other))
    return F.matmul(a, b)


@aten("_cdist_forward.default")
def cdist(x1: Value, x2: Value, p: float, compute_mode: int | None) -> Value:
    return F.cdist(x1, x2, p)


@aten("_cdist_backward.default")
def cdist_backward(dy: Value, x1: Value, x2: Value, p: float, distances: Value) -> Value:
    return pullback(lambda x: F.cdist(x, x2, p), [x1], dy)[0]


@aten("_trilinear.default")
def trilinear(
    i1: Value, i2: Value, i3: Value, expand1: Ints, expand2: Ints, expand3: Ints, sumdim: Ints, unroll_dim: int = 1
) -> Value:
    """The product of three tensors, each with new dimensions where ``expand`` says, summed over ``sumdim``."""

    def wide(x: Value, dims: Ints) -> Value:
        for d in sorted(dims):
            x = F.unsqueeze(x, d)
        return x

    return F.sum(wide(i1, expand1) * wide(i2, expand2) * wide(i3, expand3), list(sumdim))

"""Convolution functions, over the contraction ops. Names, arguments and defaults follow torch.nn.functional."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphrt.errors import ArgumentError, ShapeError
from graphrt.ir import Value
from graphrt.ops.base import apply, function, ntuple
from graphrt.ops.contraction import Pads
from graphrt.ops.view import reshape
from graphrt.types import Shape


def paddings(padding: Any, kernel: Shape, stride: Shape, dilation: Shape) -> Pads:
    """``padding`` as (low, high) pairs: an int, one per dimension, pairs, "valid" or "same" (stride 1 only)."""
    rank = len(kernel)
    if isinstance(padding, str) and padding == "valid":
        return ((0, 0),) * rank
    if isinstance(padding, str) and padding == "same":
        if any(s != 1 for s in stride):
            raise ArgumentError(f"padding 'same' needs stride 1, got {stride}")
        total = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        return tuple((t // 2, t - t // 2) for t in total)
    if isinstance(padding, str):
        raise ArgumentError(f"padding is 'same', 'valid', an int or {rank} of them, got {padding!r}")
    if isinstance(padding, tuple | list) and any(isinstance(p, tuple | list) for p in padding):
        pairs = [tuple(p) for p in padding]
        if len(pairs) != rank or any(len(p) != 2 for p in pairs):
            raise ArgumentError(f"padding needs {rank} (low, high) pairs, got {padding!r}")
        return tuple((ntuple(a, 1, "padding", 0)[0], ntuple(b, 1, "padding", 0)[0]) for a, b in pairs)
    return tuple((p, p) for p in ntuple(padding, rank, "padding", 0))


@function
def conv2d(
    input: Value,
    weight: Value,
    bias: Value | None = None,
    stride: int | Sequence[int] = 1,
    padding: Any = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Value:
    """2-D cross-correlation: input [N, C, H, W], weight [K, C/groups, R, S], bias [K] -> [N, K, P, Q].

    ``padding`` is an int, two, two (low, high) pairs, "same" or "valid". Raises ShapeError, ArgumentError, DTypeError.
    """
    if input.ndim != 4 or weight.ndim != 4:
        raise ShapeError(
            f"conv2d needs input [N, C, H, W] and weight [K, C/g, R, S], got {list(input.shape)}, {list(weight.shape)}"
        )
    if not isinstance(groups, int) or groups < 1:
        raise ArgumentError(f"groups must be an int >= 1, got {groups!r}")
    strides, dilations = ntuple(stride, 2, "stride", 1), ntuple(dilation, 2, "dilation", 1)
    pads = paddings(padding, weight.shape[2:], strides, dilations)
    y = apply("conv", input, weight, stride=strides, padding=pads, dilation=dilations, groups=groups)
    if bias is None:
        return y
    if bias.shape != weight.shape[:1]:
        raise ShapeError(f"bias must be [{weight.shape[0]}], got {list(bias.shape)}")
    return y + reshape(bias, (1, -1, 1, 1))

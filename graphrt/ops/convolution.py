"""Convolution functions, over the contraction ops. Names, arguments and defaults follow torch.nn.functional.

The ops are 2-D. One dimension is two with a height of 1. Three are two with the depth taps among the channels and the depth
positions among the images: views around one op, so that everything differentiates and runs on every target.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphrt.errors import ArgumentError, ShapeError
from graphrt.ir import Value
from graphrt.ops.base import apply, biased, function, ntuple, tensor
from graphrt.ops.conv import Pads, check_channels, out_size
from graphrt.ops.matmul import matmul
from graphrt.ops.reduction import sum as sum_over
from graphrt.ops.slicing import pad
from graphrt.ops.unfold import batched, crop, tapped, unbatched, unfold
from graphrt.ops.view import permute, reshape, unsqueeze
from graphrt.types import Shape

Size = int | Sequence[int]


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
        pairs = [tuple(p) if isinstance(p, tuple | list) else () for p in padding]
        if len(pairs) != rank or any(len(p) != 2 for p in pairs):
            raise ArgumentError(f"padding needs {rank} (low, high) pairs, got {padding!r}")
        return tuple((ntuple(a, 1, "padding", 0)[0], ntuple(b, 1, "padding", 0)[0]) for a, b in pairs)
    return tuple((p, p) for p in ntuple(padding, rank, "padding", 0))


def _check(rank: int, name: str, input: Value, weight: Value, groups: int) -> Value:
    """``input`` with a batch, once ranks and ``groups`` are known to be sound."""
    x = batched(input, rank, name)
    if tensor(weight, "weight").ndim != rank + 2 or min(weight.shape[2:]) < 1:
        raise ShapeError(f"{name} needs weight of {rank + 2} dimensions with a filter in it, got {list(weight.shape)}")
    if not isinstance(groups, int) or groups < 1:
        raise ArgumentError(f"groups must be an int >= 1, got {groups!r}")
    return x


def _bias(bias: Value | None, channels: int) -> None:
    if bias is not None and tensor(bias, "bias").shape != (channels,):
        raise ShapeError(f"bias must be [{channels}], got {list(bias.shape)}")


def _finish(y: Value, bias: Value | None, input: Value, rank: int) -> Value:
    return unbatched(biased(y, None if bias is None else reshape(bias, (1, -1, *(1,) * rank))), input, rank)


def _conv(
    rank: int, input: Value, weight: Value, bias: Value | None, stride: Size, padding: Any, dilation: Size, groups: int
) -> Value:
    x = _check(rank, f"conv{rank}d", input, weight, groups)
    _bias(bias, weight.shape[0])
    check_channels(x.shape, weight.shape, groups)
    strides, dilations = ntuple(stride, rank, "stride", 1), ntuple(dilation, rank, "dilation", 1)
    pads = paddings(padding, weight.shape[2:], strides, dilations)
    w, count, kernel = weight, x.shape[0], weight.shape[2:]
    if rank == 1:
        x, w = unsqueeze(x, 2), unsqueeze(w, 2)
        strides, dilations, pads = (1, *strides), (1, *dilations), ((0, 0), *pads)
    elif rank == 3:
        x = tapped(pad(x, (0, 0, 0, 0, *pads[0])), 2, kernel[0], strides[0], dilations[0])
        depth = x.shape[2]
        x = reshape(permute(x, (0, 2, 1, 3, 4, 5)), (count * depth, x.shape[1] * kernel[0], *x.shape[4:]))
        w = reshape(w, (w.shape[0], w.shape[1] * kernel[0], *kernel[1:]))
    y = apply("conv", x, w, stride=strides[-2:], padding=pads[-2:], dilation=dilations[-2:], groups=groups)
    if rank == 1:
        y = reshape(y, (*y.shape[:2], y.shape[3]))
    elif rank == 3:
        y = permute(reshape(y, (count, depth, *y.shape[1:])), (0, 2, 1, 3, 4))
    return _finish(y, bias, input, rank)


@function
def conv1d(
    input: Value,
    weight: Value,
    bias: Value | None = None,
    stride: Size = 1,
    padding: Any = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Value:
    """1-D cross-correlation: input [N, C, L] or [C, L], weight [K, C/groups, R], bias [K] -> [N, K, P] or [K, P].

    ``stride``, ``padding``, ``dilation`` and ``groups`` as in ``conv2d``. Raises ShapeError, ArgumentError, DTypeError.
    """
    return _conv(1, input, weight, bias, stride, padding, dilation, groups)


@function
def conv2d(
    input: Value,
    weight: Value,
    bias: Value | None = None,
    stride: Size = 1,
    padding: Any = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Value:
    """2-D cross-correlation: input [N, C, H, W], weight [K, C/groups, R, S], bias [K] -> [N, K, P, Q]; without N as well.

    ``P = floor((H + 2 * padding - dilation * (R - 1) - 1) / stride) + 1``, and Q likewise. ``stride`` and ``dilation`` are an
    int or two; ``padding`` is an int, two, two (low, high) pairs, "same" (stride 1) or "valid". Channels in ``groups`` see only
    the inputs of their group. Raises ShapeError, ArgumentError, DTypeError.
    """
    return _conv(2, input, weight, bias, stride, padding, dilation, groups)


@function
def conv3d(
    input: Value,
    weight: Value,
    bias: Value | None = None,
    stride: Size = 1,
    padding: Any = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Value:
    """3-D cross-correlation: input [N, C, D, H, W], weight [K, C/groups, T, R, S], bias [K]; without N as well.

    ``stride``, ``padding``, ``dilation`` and ``groups`` as in ``conv2d``. Raises ShapeError, ArgumentError, DTypeError.
    """
    return _conv(3, input, weight, bias, stride, padding, dilation, groups)


# --- transposed --------------------------------------------------------------------------------------------------


def _scatter(x: Value, w: Value, shape: Shape, strides: Shape, pads: Pads, dilations: Shape, groups: int) -> Value:
    """The 2-D transposed convolution of output ``shape``; what no window reaches is zero."""
    reached = tuple(map(out_size, shape, w.shape[2:], strides, pads, dilations)) == x.shape[2:]
    sizes = zip(x.shape[2:], w.shape[2:], strides, dilations, strict=True)
    full = shape if reached else tuple((n - 1) * s + d * (k - 1) + 1 for n, k, s, d in sizes)
    inner = pads if reached else ((0, 0), (0, 0))
    y = apply("conv_dgrad", x, w, shape=full, stride=strides, padding=inner, dilation=dilations, groups=groups)
    return y if reached else crop(y, (2, 3), [low for low, _ in pads], shape)


def _conv_transpose(
    rank: int, input: Value, weight: Value, bias: Value | None, window: tuple[Size, Any, Size, Size], groups: int
) -> Value:
    """``window`` is stride, padding, output_padding and dilation."""
    name, (stride, padding, output_padding, dilation) = f"conv_transpose{rank}d", window
    x = _check(rank, name, input, weight, groups)
    _bias(bias, weight.shape[1] * groups)
    if x.shape[1] != weight.shape[0] or x.shape[1] % groups:
        raise ShapeError(
            f"{x.shape[1]} input channels in {groups} groups need weight [{x.shape[1]}, K/{groups}, ...], "
            f"got {list(weight.shape)}"
        )
    strides, dilations = ntuple(stride, rank, "stride", 1), ntuple(dilation, rank, "dilation", 1)
    if isinstance(padding, str):
        raise ArgumentError(f"padding must be an int, {rank} of them or pairs, got {padding!r}")
    pads, extra = paddings(padding, weight.shape[2:], strides, dilations), ntuple(output_padding, rank, "output_padding", 0)
    if any(e >= max(s, d) for e, s, d in zip(extra, strides, dilations, strict=True)):
        raise ArgumentError(f"output_padding must be smaller than stride {strides} or dilation {dilations}, got {extra}")
    sizes = zip(x.shape[2:], weight.shape[2:], strides, pads, dilations, extra, strict=True)
    shape = tuple((n - 1) * s - a - b + d * (k - 1) + 1 + e for n, k, s, (a, b), d, e in sizes)
    if min(shape) < 1 or min(x.shape[2:]) < 1:
        raise ShapeError(f"{name} of {list(x.shape[2:])} with padding {pads} would be {list(shape)}")
    if rank == 1:
        y = _scatter(
            unsqueeze(x, 2), unsqueeze(weight, 2), (1, *shape), (1, *strides), ((0, 0), *pads), (1, *dilations), groups
        )
        return _finish(reshape(y, (*y.shape[:2], *shape)), bias, input, rank)
    if rank == 2:
        return _finish(_scatter(x, weight, shape, strides, pads, dilations, groups), bias, input, rank)
    (n, c, depth, *plane), (_, filters, taps, *kernel) = x.shape, weight.shape
    x = reshape(permute(x, (0, 2, 1, 3, 4)), (n * depth, c, *plane))
    w = reshape(weight, (c, filters * taps, *kernel))
    y = _scatter(x, w, shape[1:], strides[1:], pads[1:], dilations[1:], groups)
    y = permute(reshape(y, (n, depth, filters * groups, taps, *shape[1:])), (0, 2, 1, 3, 4, 5))
    full = (depth - 1) * strides[0] + dilations[0] * (taps - 1) + 1
    y = sum_over(apply("unskew", y, dim=2, size=full, step=strides[0], dilation=dilations[0]), 3)
    return _finish(crop(y, (2,), (pads[0][0],), shape[:1]), bias, input, rank)


@function
def conv_transpose1d(
    input: Value,
    weight: Value,
    bias: Value | None = None,
    stride: Size = 1,
    padding: Any = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
) -> Value:
    """The gradient of conv1d as a layer: input [N, C, P] or [C, P], weight [C, K/groups, R], bias [K] -> [N, K, L].

    ``stride``, ``padding``, ``output_padding``, ``groups`` and ``dilation`` as in ``conv_transpose2d``.
    """
    return _conv_transpose(1, input, weight, bias, (stride, padding, output_padding, dilation), groups)


@function
def conv_transpose2d(
    input: Value,
    weight: Value,
    bias: Value | None = None,
    stride: Size = 1,
    padding: Any = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
) -> Value:
    """The gradient of conv2d as a layer: input [N, C, P, Q], weight [C, K/groups, R, S], bias [K] -> [N, K, H, W].

    Without N as well. ``H = (P - 1) * stride - 2 * padding + dilation * (R - 1) + output_padding + 1``; ``output_padding`` is
    less than ``stride`` or ``dilation``. ``padding`` is an int, two, or two (low, high) pairs. Raises ShapeError,
    ArgumentError, DTypeError.
    """
    return _conv_transpose(2, input, weight, bias, (stride, padding, output_padding, dilation), groups)


@function
def conv_transpose3d(
    input: Value,
    weight: Value,
    bias: Value | None = None,
    stride: Size = 1,
    padding: Any = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
) -> Value:
    """The gradient of conv3d as a layer: input [N, C, *spatial], weight [C, K/groups, T, R, S], bias [K]; without N as well.

    ``stride``, ``padding``, ``output_padding``, ``groups`` and ``dilation`` as in ``conv_transpose2d``.
    """
    return _conv_transpose(3, input, weight, bias, (stride, padding, output_padding, dilation), groups)


# --- locally connected -------------------------------------------------------------------------------------------


@function
def local_conv2d(
    input: Value, weight: Value, bias: Value | None = None, stride: Size = 1, padding: Size = 0, dilation: Size = 1
) -> Value:
    """conv2d with a filter of its own at each output position: locally connected, weights unshared.

    input [N, C, H, W] or [C, H, W], weight [P, Q, K, C, R, S], bias [K, P, Q] -> [N, K, P, Q]. ``stride``, ``padding`` and
    ``dilation`` are an int or two. Raises ShapeError.
    """
    x, w = batched(input, 2, "local_conv2d"), tensor(weight, "weight")
    if w.ndim != 6 or w.shape[3] != x.shape[1]:
        raise ShapeError(f"local_conv2d needs weight [P, Q, K, {x.shape[1]}, R, S], got {list(w.shape)}")
    p, q, k, c, *kernel = w.shape
    steps, pads, gaps = ntuple(stride, 2, "stride", 1), ntuple(padding, 2, "padding", 0), ntuple(dilation, 2, "dilation", 1)
    out = tuple(map(out_size, x.shape[2:], kernel, steps, [(a, a) for a in pads], gaps))
    if out != (p, q):
        raise ShapeError(f"the output is {list(out)}, so weight must be [{out[0]}, {out[1]}, K, C, R, S], got {list(w.shape)}")
    if bias is not None and tensor(bias, "bias").shape != (k, p, q):
        raise ShapeError(f"bias must be [{k}, {p}, {q}], got {list(bias.shape)}")
    columns = permute(unfold(x, kernel, gaps, pads, steps), (2, 1, 0))  # [P * Q, C * R * S, N]
    y = matmul(reshape(w, (p * q, k, columns.shape[1])), columns)
    y = reshape(permute(y, (2, 1, 0)), (x.shape[0], k, p, q))
    return unbatched(biased(y, bias), input, 2)

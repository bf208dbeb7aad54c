"""Windows as views: ``skew`` and its transpose ``unskew``, with unfold, fold and the pixel shuffles built from views.

A window is a broadcast whose copies are shifted: repeat the input over a new tap dimension, then ``skew`` it. Summing what
``unskew`` shifts back is the transpose, so each of the two is the other's gradient.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from graphrt.errors import ArgumentError, ShapeError
from graphrt.ir import OPERATORS, Node, Value
from graphrt.op import Kind, OpDef, Piece, Types, register
from graphrt.ops.base import apply, broadcast_to, dim_index, function, integer, ntuple, tensor
from graphrt.ops.conv import out_size
from graphrt.ops.reduction import sum as sum_over
from graphrt.ops.slicing import pad
from graphrt.ops.view import Index, arrays, movedim, permute, reshape, unsqueeze
from graphrt.types import Shape, TensorType

Size = int | Sequence[int]


def _check(input: TensorType, dim: int, step: int, dilation: int) -> None:
    if not 0 <= dim < input.ndim - 1:
        raise ShapeError(f"dim must have a dimension of taps behind it, got dim {dim} of {list(input.shape)}")
    if min(step, dilation, input.shape[dim + 1]) < 1:
        raise ArgumentError(f"step, dilation and the taps must be >= 1, got {step}, {dilation} and {input.shape[dim + 1]}")


def _infer_skew(input: TensorType, *, dim: int, step: int, dilation: int) -> Types:
    _check(input, dim, step, dilation)
    n, taps = input.shape[dim : dim + 2]
    return (TensorType((*input.shape[:dim], out_size(n, taps, step, (0, 0), dilation), *input.shape[dim + 1 :]), input.dtype),)


def _infer_unskew(input: TensorType, *, dim: int, size: int, step: int, dilation: int) -> Types:
    _check(input, dim, step, dilation)
    count, taps = input.shape[dim : dim + 2]
    if size < 0 or out_size(size, taps, step, (0, 0), dilation) != count:
        raise ShapeError(f"{size} elements do not hold {count} windows of {taps} taps, step {step}, dilation {dilation}")
    return (TensorType((*input.shape[:dim], size, *input.shape[dim + 1 :]), input.dtype),)


def _pull_skew(node: Node, index: Index) -> list[Piece]:
    dim, a = node.attrs["dim"], node.attrs
    at = index[dim] * a["step"] + index[dim + 1] * a["dilation"]
    return [Piece(0, (*index[:dim], at, *index[dim + 1 :]))]


def _pull_unskew(node: Node, index: Index) -> list[Piece]:
    dim, step = node.attrs["dim"], node.attrs["step"]
    at = index[dim] - index[dim + 1] * node.attrs["dilation"]
    mask = [(at, 0, (node.inputs[0].shape[dim] - 1) * step + 1)]
    if step > 1:
        mask.append((at % step, 0, 1))
    return [Piece(0, (*index[:dim], at // step, *index[dim + 1 :]), tuple(mask))]


def _taps(shape: Shape, dim: int, count: int, step: int, dilation: int) -> Any:
    """For each tap: where its windows lie in a skewed array, and where in the straight one."""
    lead = (slice(None),) * dim
    for k in range(shape[dim + 1]):
        start = k * dilation
        straight = slice(start, start + max(count - 1, 0) * step + 1, step) if count else slice(0, 0)
        yield (*lead, slice(None), k), (*lead, straight, k)


def _reference_skew(x: np.ndarray, dim: int, step: int, dilation: int) -> np.ndarray:
    count = out_size(x.shape[dim], x.shape[dim + 1], step, (0, 0), dilation)
    y = np.zeros((*x.shape[:dim], count, *x.shape[dim + 1 :]), x.dtype)
    for skewed, straight in _taps(x.shape, dim, count, step, dilation):
        y[skewed] = x[straight]
    return y


def _reference_unskew(y: np.ndarray, dim: int, size: int, step: int, dilation: int) -> np.ndarray:
    x = np.zeros((*y.shape[:dim], size, *y.shape[dim + 1 :]), y.dtype)
    for skewed, straight in _taps(y.shape, dim, y.shape[dim], step, dilation):
        x[straight] = y[skewed]
    return x


register(
    OpDef(
        name="skew",
        kind=Kind.VIEW,
        infer=_infer_skew,
        vjp=lambda n, dy: [apply("unskew", dy, size=n.inputs[0].shape[n.attrs["dim"]], **n.attrs)],
        reference=_reference_skew,
        samples=lambda rng: arrays(
            rng,
            ((7, 3), {"dim": 0, "step": 1, "dilation": 1}),
            ((2, 9, 3, 2), {"dim": 1, "step": 2, "dilation": 3}),
            ((3, 2), {"dim": 0, "step": 3, "dilation": 4}),
        ),
        pull=_pull_skew,
        flops=lambda n: 0,
    )
)
register(
    OpDef(
        name="unskew",
        kind=Kind.VIEW,
        infer=_infer_unskew,
        vjp=lambda n, dy: [apply("skew", dy, **{k: n.attrs[k] for k in ("dim", "step", "dilation")})],
        reference=_reference_unskew,
        samples=lambda rng: arrays(
            rng,
            ((5, 3), {"dim": 0, "size": 7, "step": 1, "dilation": 1}),
            ((2, 2, 3, 2), {"dim": 1, "size": 10, "step": 2, "dilation": 3}),
            ((0, 2), {"dim": 0, "size": 3, "step": 3, "dilation": 4}),
        ),
        pull=_pull_unskew,
        flops=lambda n: 0,
    )
)


# --- windows -----------------------------------------------------------------------------------------------------


def tapped(x: Value, dim: int, size: int, step: int, dilation: int) -> Value:
    """Dimension ``dim`` of ``x`` as windows, with a new dimension of ``size`` taps right behind it. Raises ShapeError."""
    if x.shape[dim] < dilation * (size - 1) + 1:
        raise ShapeError(f"a window of {size} taps, dilation {dilation}, does not fit a dimension of size {x.shape[dim]}")
    repeated = broadcast_to(unsqueeze(x, dim + 1), (*x.shape[: dim + 1], size, *x.shape[dim + 1 :]))
    return apply("skew", repeated, dim=dim, step=step, dilation=dilation) if size > 1 or step > 1 else repeated


def crop(x: Value, dims: Sequence[int], low: Sequence[int], size: Sequence[int]) -> Value:
    """``size`` elements from ``low`` on along each of ``dims``; what lies outside is zero."""
    widths = [0] * (2 * x.ndim)
    for d, a, n in zip(dims, low, size, strict=True):
        at = 2 * (x.ndim - 1 - d)
        widths[at : at + 2] = -a, a + n - x.shape[d]
    return pad(x, widths)


def batched(input: Value, rank: int, what: str) -> Value:
    """``input`` [N, C, *spatial], or [C, *spatial] with a batch of one before it. Raises ShapeError, ArgumentError."""
    if tensor(input).ndim not in (rank + 1, rank + 2):
        sizes = ", ".join("DHW"[3 - rank :]) if rank > 1 else "L"
        raise ShapeError(f"{what} needs input [N, C, {sizes}] or [C, {sizes}], got {list(input.shape)}")
    return input if input.ndim == rank + 2 else unsqueeze(input, 0)


def unbatched(y: Value, input: Value, rank: int) -> Value:
    """``y`` without the batch, if ``batched`` gave one to ``input``."""
    return y if input.ndim == rank + 2 else reshape(y, y.shape[1:])


@function
def windows(input: Value, dimension: int, size: int, step: int) -> Value:
    """All windows of ``size`` elements along ``dimension``, ``step`` apart, in a new last dimension (torch's Tensor.unfold).

    A scalar counts as a vector of one element: its windows are [size].
    """
    x = input if tensor(input).ndim else reshape(input, (1,))
    dim = dim_index(dimension, x.ndim, "dimension")
    (size,), (step,) = ntuple(size, 1, "size", 0), ntuple(step, 1, "step", 1)
    if not size:
        shape = [n // step + 1 if d == dim else n for d, n in enumerate(x.shape)]
        y = broadcast_to(x.graph.constant(0, x.dtype), (*shape, 0))
    else:
        y = movedim(tapped(x, dim, size, step, 1), dim + 1, -1)
    return y if input.ndim else reshape(y, (size,))


def _geometry(kernel_size: Size, dilation: Size, padding: Size, stride: Size) -> tuple[Shape, Shape, Shape, Shape]:
    return (
        ntuple(kernel_size, 2, "kernel_size", 1),
        ntuple(dilation, 2, "dilation", 1),
        ntuple(padding, 2, "padding", 0),
        ntuple(stride, 2, "stride", 1),
    )


@function
def unfold(input: Value, kernel_size: Size, dilation: Size = 1, padding: Size = 0, stride: Size = 1) -> Value:
    """im2col: the windows of [N, C, H, W] as columns [N, C * R * S, P * Q]; without N as well.

    ``kernel_size`` (R, S), ``dilation``, ``padding`` and ``stride`` are an int or two, as in ``conv2d``.
    """
    kernel, gaps, pads, steps = _geometry(kernel_size, dilation, padding, stride)
    x = batched(input, 2, "unfold")
    x = pad(x, (pads[1], pads[1], pads[0], pads[0]))
    for dim in (1, 0):  # the last first: a new dimension moves those behind it
        x = tapped(x, 2 + dim, kernel[dim], steps[dim], gaps[dim])
    n, c, p, r, q, s = x.shape
    return unbatched(reshape(permute(x, (0, 1, 3, 5, 2, 4)), (n, c * r * s, p * q)), input, 2)


@function
def fold(input: Value, output_size: Size, kernel_size: Size, dilation: Size = 1, padding: Size = 0, stride: Size = 1) -> Value:
    """col2im, the transpose of unfold: columns [N, C * R * S, P * Q] added into [N, C, H, W]; without N as well.

    ``output_size`` is (H, W); ``kernel_size``, ``dilation``, ``padding`` and ``stride`` are those that ``unfold`` was given.
    """
    kernel, gaps, pads, steps = _geometry(kernel_size, dilation, padding, stride)
    size = ntuple(output_size, 2, "output_size", 1)
    x = batched(input, 1, "fold")
    full = [n + 2 * p for n, p in zip(size, pads, strict=True)]
    p, q = (out_size(n, k, s, (0, 0), d) for n, k, s, d in zip(full, kernel, steps, gaps, strict=True))
    taps = math.prod(kernel)
    if x.shape[1] % taps or x.shape[2] != p * q or p * q == 0:
        raise ShapeError(
            f"output {list(size)} has {p} x {q} windows of {taps} taps: input must be [N, C * {taps}, {p * q}], "
            f"got {list(input.shape)}"
        )
    x = permute(reshape(x, (x.shape[0], x.shape[1] // taps, *kernel, p, q)), (0, 1, 4, 2, 5, 3))
    for i in (0, 1):
        x = apply("unskew", x, dim=2 + 2 * i, size=full[i], step=steps[i], dilation=gaps[i])
    return unbatched(crop(sum_over(x, (3, 5)), (2, 3), pads, size), input, 1)


# --- shuffles ----------------------------------------------------------------------------------------------------


@function
def pixel_shuffle(input: Value, upscale_factor: int) -> Value:
    """[..., C * r * r, H, W] -> [..., C, H * r, W * r] for ``upscale_factor`` r (Shi et al., CVPR 2016)."""
    r = integer(upscale_factor, "upscale_factor", 1)
    if tensor(input).ndim < 3 or input.shape[-3] % (r * r):
        raise ShapeError(f"pixel_shuffle needs input [..., C * {r * r}, H, W], got {list(input.shape)}")
    *lead, c, h, w = input.shape
    n = len(lead)
    x = reshape(input, (*lead, c // (r * r), r, r, h, w))
    x = permute(x, (*range(n), n, n + 3, n + 1, n + 4, n + 2))
    return reshape(x, (*lead, c // (r * r), h * r, w * r))


@function
def pixel_unshuffle(input: Value, downscale_factor: int) -> Value:
    """[..., C, H * r, W * r] -> [..., C * r * r, H, W] for ``downscale_factor`` r, the inverse of pixel_shuffle."""
    r = integer(downscale_factor, "downscale_factor", 1)
    if tensor(input).ndim < 3 or input.shape[-2] % r or input.shape[-1] % r:
        raise ShapeError(f"pixel_unshuffle needs input [..., C, H * {r}, W * {r}], got {list(input.shape)}")
    *lead, c, h, w = input.shape
    n = len(lead)
    x = reshape(input, (*lead, c, h // r, r, w // r, r))
    x = permute(x, (*range(n), n, n + 2, n + 4, n + 1, n + 3))
    return reshape(x, (*lead, c * r * r, h // r, w // r))


@function
def channel_shuffle(input: Value, groups: int) -> Value:
    """[N, g * C, ...], of ``groups`` g, with channel ``i * C + j`` moved to ``j * g + i``.

    Zhang et al., ShuffleNet, CVPR 2018.
    """
    g = integer(groups, "groups", 1)
    if tensor(input).ndim < 3 or input.shape[1] % g:
        raise ShapeError(f"channel_shuffle needs input [N, C, *spatial] with C divisible by {g}, got {list(input.shape)}")
    n, c, *rest = input.shape
    x = permute(reshape(input, (n, g, c // g, *rest)), (0, 2, 1, *range(3, len(rest) + 3)))
    return reshape(x, input.shape)


OPERATORS["unfold"] = windows  # x.unfold(dimension, size, step), as torch's method

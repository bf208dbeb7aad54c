"""Sampling at positions that the data decides: ``grid_sample`` and the grids of affine maps.

Jaderberg et al., "Spatial Transformer Networks", NIPS 2015. The neighbours of a position are dimensions of their own, one for
each of the image's: one gather reads them all, and a weighted sum over them is the result, in the same kernel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from graphrt.errors import ArgumentError, ShapeError
from graphrt.ir import Value
from graphrt.ops.base import apply, broadcast_to, cast, function, in_float32, integers, require_float, tensor
from graphrt.ops.elementwise import abs, eq, floor, ge, le, logical_and, lt, where
from graphrt.ops.reduction import sum
from graphrt.ops.resize import cubic
from graphrt.ops.slicing import getitem
from graphrt.ops.source import iota
from graphrt.ops.transcendental import remainder, round
from graphrt.ops.view import reshape
from graphrt.types import int64

_TAPS = {"bilinear": 2, "nearest": 1, "bicubic": 4}  # neighbours that take part, along each dimension
_PADDINGS = ("zeros", "border", "reflection")


def _reflected(at: Value, low: float, high: float) -> Value:
    """Positions mirrored at ``low`` and ``high`` until they lie between them."""
    span = high - low
    if span <= 0:
        return at * 0.0
    far = where(lt(at, low), low - at, at - low)
    turn = remainder(far, 2 * span)
    return where(ge(turn, span), 2 * span - turn, turn) + low


def _held(at: Value, n: int, padding_mode: str, align_corners: bool) -> Value:
    """Positions moved into an image of ``n`` pixels, as ``padding_mode`` says; there is no slope at, or beyond, the edge."""
    if padding_mode == "zeros":
        return at
    if padding_mode == "reflection":
        at = _reflected(at, 0.0, n - 1.0) if align_corners else _reflected(at, -0.5, n - 0.5)
    return where(le(at, 0.0), 0.0, where(ge(at, n - 1.0), n - 1.0, at))


def _neighbours(at: Value, dim: int, n: int, mode: str, padding_mode: str, align_corners: bool) -> tuple[Value, Value | None]:
    """Whole positions of the neighbours of ``at`` in ``n`` pixels, side by side along ``dim``, and their weights (None: 1)."""
    if mode == "nearest":
        return round(_held(at, n, padding_mode, align_corners)), None
    at = at if mode == "bicubic" else _held(at, n, padding_mode, align_corners)
    low = floor(at)
    wide = broadcast_to(low, [_TAPS[mode] if d == dim else m for d, m in enumerate(at.shape)])
    step = cast(iota(wide, dim), at.dtype)
    if mode == "bilinear":
        return wide + step, where(eq(step, 0.0), 1.0 - (at - low), at - low)
    step = step - 1.0
    return _held(wide + step, n, padding_mode, align_corners), cubic(abs(step - (at - low)))


def sampled(
    input: Value, places: Sequence[Value], mode: str = "bilinear", padding_mode: str = "zeros", align_corners: bool = False
) -> Value:
    """``input`` [N, C, *spatial] read at ``places``, as [N, C, *out]: for each spatial dimension the pixels' positions, floats
    [N, *out] with the centre of the first pixel at 0. Modes as of ``grid_sample``."""
    sizes, rank = input.shape[2:], input.ndim - 2
    index = weight = inside = None
    for d, (n, given) in enumerate(zip(sizes, places, strict=True)):
        at = reshape(given, (given.shape[0], *[1] * rank, *given.shape[1:]))
        place, share = _neighbours(at, 1 + d, n, mode, padding_mode, align_corners)
        within = logical_and(ge(place, 0.0), le(place, n - 1.0))
        step = cast(where(within, place, 0.0), int64)
        index = step if index is None else index * n + step
        inside = within if inside is None else logical_and(inside, within)
        weight = share if weight is None else weight if share is None else weight * share
    assert index is not None and inside is not None
    taps, pixels = math.prod(index.shape[1 : 1 + rank]), math.prod(index.shape[1 + rank :])
    lead = (*input.shape[:2], taps, pixels)

    def wide(v: Value) -> Value:
        return broadcast_to(reshape(v, (lead[0], 1, *lead[2:])), lead)

    flat = reshape(input, (*lead[:2], math.prod(sizes)))
    picked = reshape(apply("gather", flat, reshape(wide(index), (*lead[:2], taps * pixels)), dim=2), lead)
    shares = picked if weight is None else picked * wide(cast(weight, input.dtype))
    return reshape(sum(where(wide(inside), shares, 0.0), 2), (*lead[:2], *index.shape[1 + rank :]))


@function
@in_float32
def grid_sample(
    input: Value, grid: Value, mode: str = "bilinear", padding_mode: str = "zeros", align_corners: bool | None = None
) -> Value:
    """``input`` [N, C, *spatial] read at ``grid`` [N, *out, rank], as [N, C, *out].

    Coordinates lie in [-1, 1], the last dimension's first: with ``align_corners`` from the first pixel's centre to the last
    one's, else from edge to edge. ``mode``: bilinear (in any number of dimensions), nearest, or bicubic (Keys, 1981, a = -0.75)
    in two. What lies outside is, by ``padding_mode``, zeros, the border's pixel, or a reflection.
    """
    require_float(tensor(input).dtype, "input")
    require_float(tensor(grid, "grid").dtype, "grid")
    rank = input.ndim - 2
    if rank < 1 or grid.ndim != input.ndim or grid.shape[0] != input.shape[0] or grid.shape[-1] != rank:
        raise ShapeError(
            f"grid_sample needs input [N, C, *spatial] and grid [N, *out, {max(rank, 1)}], "
            f"got {list(input.shape)} and {list(grid.shape)}"
        )
    if min(input.shape[2:]) < 1:
        raise ShapeError(f"grid_sample needs pixels to read, got {list(input.shape)}")
    if mode not in _TAPS:
        raise ArgumentError(f"mode must be one of {', '.join(_TAPS)}, got {mode!r}")
    if padding_mode not in _PADDINGS:
        raise ArgumentError(f"padding_mode must be one of {', '.join(_PADDINGS)}, got {padding_mode!r}")
    sizes, aligned, places = input.shape[2:], bool(align_corners), []
    for d, n in enumerate(sizes):
        g = getitem(grid, (..., rank - 1 - d)) + 1.0
        places.append(g * ((n - 1) / 2) if aligned else (g * n - 1.0) * 0.5)
    return sampled(input, places, mode, padding_mode, aligned)


@function
@in_float32
def affine_grid(theta: Value, size: Sequence[int], align_corners: bool | None = None) -> Value:
    """The grid of an affine map for ``grid_sample``: ``theta`` [N, 2, 3] and ``size`` (N, C, H, W) give [N, H, W, 2]; [N, 3, 4]
    and (N, C, D, H, W) give [N, D, H, W, 3]. ``align_corners`` as there."""
    require_float(tensor(theta, "theta").dtype, "theta")
    sizes = integers(size, "size", 1)
    rank = len(sizes) - 2
    if rank not in (2, 3) or theta.shape != (sizes[0], rank, rank + 1):
        raise ShapeError(
            f"affine_grid needs theta [N, 2, 3] with size (N, C, H, W), or [N, 3, 4] with (N, C, D, H, W), "
            f"got {list(theta.shape)} and {sizes}"
        )
    shape = (sizes[0], *sizes[2:], rank)
    like = broadcast_to(theta.graph.constant(0.0, theta.dtype), shape)

    def column(j: int) -> Value:
        return broadcast_to(reshape(getitem(theta, (..., j)), (sizes[0], *[1] * rank, rank)), shape)

    total = column(rank)
    for j in range(rank):
        d, n = rank - j, sizes[1 + rank - j]  # x runs along the last spatial dimension
        step = 2.0 / max(n - 1, 1) if align_corners else 2.0 / n
        first = (-1.0 if n > 1 else 0.0) if align_corners else 1.0 / n - 1.0
        total = total + column(j) * (cast(iota(like, d), theta.dtype) * step + first)
    return total

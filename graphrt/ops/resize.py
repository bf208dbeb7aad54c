"""Resizing feature maps: ``interpolate`` with torch's modes.

Positions are computed from the index inside the kernel, never stored. Whole factors of nearest resizing are views. With
antialiasing a pixel is made of as many as lie under it, and each dimension is a product with a matrix of their weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from graphrt.errors import ArgumentError, ShapeError
from graphrt.ir import Value
from graphrt.ops.base import apply, broadcast_to, cast, function, in_float32, require_float, tensor
from graphrt.ops.elementwise import floor, le, maximum, minimum, where
from graphrt.ops.matmul import linear, matmul
from graphrt.ops.pooling import adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d
from graphrt.ops.slicing import getitem
from graphrt.ops.source import iota
from graphrt.ops.view import reshape
from graphrt.types import int64

_LINEAR = {"linear": 1, "bilinear": 2, "trilinear": 3, "bicubic": 2, "lanczos": 2}  # mode -> spatial dimensions
_KEYS = -0.75  # the parameter of Keys' kernel
_MODES = ("nearest", "nearest-exact", "area", *_LINEAR)


@function
@in_float32
def interpolate(
    input: Value,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Value:
    """[N, C, *spatial] resized to ``size`` or by ``scale_factor``.

    ``mode`` is nearest, nearest-exact, linear, bilinear, trilinear, bicubic (Keys, 1981, a = -0.75), lanczos or area.
    ``align_corners`` makes the corner pixels' centres meet; otherwise the images' edges do. ``recompute_scale_factor`` takes
    the factor from the sizes in place of the one given. ``antialias``, for bilinear, bicubic (a = -0.5 then) and lanczos,
    which needs it, widens the kernel by as much as the image shrinks, as Pillow does. Raises ArgumentError, ShapeError.
    """
    require_float(tensor(input).dtype, "input")
    rank = input.ndim - 2
    if not 1 <= rank <= 3:
        raise ShapeError(f"interpolate needs [N, C, *spatial] with 1 to 3 spatial dimensions, got {list(input.shape)}")
    if mode not in _MODES or _LINEAR.get(mode, rank) != rank:
        raise ArgumentError(f"mode must be one of {', '.join(_MODES)} that fits {rank} spatial dimensions, got {mode!r}")
    if align_corners is not None and mode not in _LINEAR:
        raise ArgumentError(f"align_corners has no meaning for mode {mode!r}")
    if antialias and mode not in _KERNELS:
        raise ArgumentError(f"antialias goes with {', '.join(_KERNELS)}, got {mode!r}")
    if mode == "lanczos" and (align_corners or not antialias):
        raise ArgumentError("mode 'lanczos' needs antialias=True, and cannot align corners")
    sizes, scales = _sizes(input.shape[2:], size, scale_factor, bool(recompute_scale_factor))
    if antialias:
        return _antialiased(input, sizes, scales, mode, bool(align_corners))
    if mode in ("linear", "bilinear", "trilinear") or (mode == "nearest" and rank == 2):
        own = (1, 2) if mode == "nearest" else (1,)  # times the size: what torch takes by sizes, whatever the factor was
        scales = [None if m in [n * k for k in own] else s for n, m, s in zip(input.shape[2:], sizes, scales, strict=True)]
    if min(input.shape[2:]) < 1:
        raise ShapeError(f"interpolate needs pixels to start from, got {list(input.shape)}")
    if mode == "area":
        return (adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d)[rank - 1](input, sizes)
    resize = _cubic if mode == "bicubic" else _line if mode in _LINEAR else _nearest
    x = input
    for d, (n, scale) in enumerate(zip(sizes, scales, strict=True)):
        if n != x.shape[2 + d] or scale is not None:
            x = resize(x, 2 + d, n, scale, align_corners if mode in _LINEAR else mode == "nearest-exact")
    return x


def _sizes(shape: Sequence[int], size: Any, factor: Any, recompute: bool) -> tuple[list[int], list[float | None]]:
    """Output sizes, and the step in input pixels of each dimension where ``factor`` says it."""
    if (size is None) == (factor is None):
        raise ArgumentError("give either size or scale_factor")
    given = size if factor is None else factor
    values = list(given) if isinstance(given, list | tuple) else [given] * len(shape)
    kinds = (int,) if factor is None else (int, float)
    if len(values) != len(shape) or not all(
        isinstance(v, kinds) and not isinstance(v, bool) and 0 < v < math.inf for v in values
    ):
        what = "size" if factor is None else "scale_factor"
        raise ArgumentError(f"{what} must be a positive number or {len(shape)} of them, got {given!r}")
    if factor is None:
        return values, [None] * len(shape)
    sizes = [math.floor(n * f) for n, f in zip(shape, values, strict=True)]
    if min(sizes) < 1:
        raise ArgumentError(f"scale_factor {factor!r} leaves nothing of {list(shape)}")
    return sizes, [None if recompute or n * f == m else 1.0 / f for n, f, m in zip(shape, values, sizes, strict=True)]


def _positions(x: Value, dim: int, n: int) -> Value:
    """0, 1, 2 ... along ``dim`` of a result with ``n`` there."""
    like = broadcast_to(x.graph.constant(0.0, x.dtype), [n if d == dim else 1 for d in range(x.ndim)])
    return cast(iota(like, dim), x.dtype)


def _pick(x: Value, dim: int, index: Value) -> Value:
    """``x`` at the integers ``index`` (shape 1 but along ``dim``), held inside."""
    at = maximum(minimum(cast(index, int64), x.shape[dim] - 1), 0)
    shape = [index.shape[dim] if d == dim else n for d, n in enumerate(x.shape)]
    return apply("gather", x, broadcast_to(at, shape), dim=dim)


def _nearest(x: Value, dim: int, n: int, scale: float | None, exact: Any) -> Value:
    size = x.shape[dim]
    lead, tail = x.shape[:dim], x.shape[dim + 1 :]
    if scale is None and n % size == 0:  # every pixel repeated
        wide = broadcast_to(reshape(x, (*lead, size, 1, *tail)), (*lead, size, n // size, *tail))
        return reshape(wide, (*lead, n, *tail))
    if scale is None and size % n == 0:
        skip = size // n
        return getitem(x, (*[slice(None)] * dim, slice(skip // 2 if exact else 0, None, skip)))
    step = size / n if scale is None else scale
    return _pick(x, dim, floor((_positions(x, dim, n) + (0.5 if exact else 0.0)) * step))


def _source(x: Value, dim: int, n: int, scale: float | None, align: Any) -> Value:
    """The position of each output pixel's centre, in pixels of ``x``."""
    size = x.shape[dim]
    if align:
        return _positions(x, dim, n) * ((size - 1) / (n - 1) if n > 1 else 0.0)
    return (_positions(x, dim, n) + 0.5) * (size / n if scale is None else scale) - 0.5


def _line(x: Value, dim: int, n: int, scale: float | None, align: Any) -> Value:
    at = maximum(_source(x, dim, n, scale, align), 0.0)
    low = floor(at)
    share = at - low
    return _pick(x, dim, low) * (1.0 - share) + _pick(x, dim, low + 1.0) * share


def _near(s: Value) -> Value:
    return ((_KEYS + 2.0) * s - (_KEYS + 3.0)) * s * s + 1.0


def _far(s: Value) -> Value:
    return ((s - 5.0) * s + 8.0) * s * _KEYS - 4.0 * _KEYS


def cubic(distance: Value) -> Value:
    """The weight of a pixel at a ``distance`` of up to 2 (Keys, 1981)."""
    return where(le(distance, 1.0), _near(distance), _far(distance))


# --- antialiasing ---------------------------------------------------------------------------------------------------


def _keys(d: np.ndarray) -> np.ndarray:
    """Keys' kernel with a = -0.5, as Pillow has it."""
    return np.where(d <= 1, (1.5 * d - 2.5) * d * d + 1, np.where(d < 2, ((2.5 - 0.5 * d) * d - 4) * d + 2, 0))


_KERNELS: dict[str, tuple[float, Callable[[np.ndarray], np.ndarray]]] = {  # how far each reaches, and its weight at a distance
    "bilinear": (1.0, lambda d: np.maximum(1 - d, 0)),
    "bicubic": (2.0, _keys),
    "lanczos": (3.0, lambda d: np.where(d < 3, np.sinc(d) * np.sinc(d / 3), 0)),
}


def _weights(size: int, n: int, scale: float | None, align: bool, mode: str) -> np.ndarray:
    """[n, size]: what each of ``size`` pixels adds to each of ``n``."""
    step = size / n if scale is None else scale
    if align:
        step = (size - 1) / (n - 1) if n > 1 else 0.0
    reach, kernel = _KERNELS[mode]
    centre, wide = (np.arange(n)[:, None] + 0.5) * step, max(step, 1.0)
    place = np.arange(size)
    first, last = ((centre + side * reach * wide + 0.5).astype(np.int64) for side in (-1, 1))
    found = np.where((place >= first) & (place < last), kernel(np.abs(place - centre + 0.5) / wide), 0)
    return found / found.sum(1, keepdims=True)


def _antialiased(x: Value, sizes: Sequence[int], scales: Sequence[float | None], mode: str, align: bool) -> Value:
    """A dimension whose size stays is left alone, whatever the factor was, as by torch."""
    with x.graph.autocast(enabled=False):  # it is no layer whose products may be rounded
        for d, (n, scale) in enumerate(zip(sizes, scales, strict=True), 2):
            if n != x.shape[d]:
                found = _weights(x.shape[d], n, scale, align, mode).astype(x.dtype.numpy)
                weights = x.graph.constant(found, x.dtype)
                x = matmul(weights, x) if d == 2 else linear(x, weights)
    return x


def _cubic(x: Value, dim: int, n: int, scale: float | None, align: Any) -> Value:
    at = _source(x, dim, n, scale, align)
    low = floor(at)
    t = at - low
    weights: list[tuple[float, Value]] = [(-1.0, _far(t + 1.0)), (0.0, _near(t)), (1.0, _near(1.0 - t)), (2.0, _far(2.0 - t))]
    parts = [_pick(x, dim, low + shift) * weight for shift, weight in weights]
    return parts[0] + parts[1] + parts[2] + parts[3]

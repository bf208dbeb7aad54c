"""Resize: along each dimension a few elements, their positions and weights worked out at import, are read and summed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

import graphrt.ops as F
from graphrt.errors import ConversionError
from graphrt.frontends.onnx.table import Ints, ints, lift, operator
from graphrt.ir import Value

_NEAREST: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "round_prefer_floor": lambda at: np.ceil(at - 0.5),
    "round_prefer_ceil": lambda at: np.floor(at + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


@dataclass(frozen=True)
class _Dim:
    """One dimension resized from ``n`` to ``out`` elements by ``scale``; its region of interest as parts of its length."""

    n: int
    out: int
    scale: float
    start: float
    end: float

    def positions(self, mode: str) -> np.ndarray:
        """The position in the input of each output element, by one of ONNX's coordinate transformation modes."""
        i, wide = np.arange(self.out, dtype=np.float64), self.n * self.scale
        if mode == "half_pixel" or (mode == "pytorch_half_pixel" and self.out > 1):
            return (i + 0.5) / self.scale - 0.5
        if mode == "pytorch_half_pixel":
            return np.zeros(1)
        if mode == "half_pixel_symmetric":
            return self.n / 2 * (1 - self.out / wide) + (i + 0.5) / self.scale - 0.5
        if mode == "align_corners":
            return i * ((self.n - 1) / (wide - 1) if wide != 1 else 0.0)
        if mode == "asymmetric":
            return i / self.scale
        if mode == "tf_crop_and_resize":
            if self.out == 1:
                return np.full(1, 0.5 * (self.start + self.end) * (self.n - 1))
            return self.start * (self.n - 1) + i * (self.end - self.start) * (self.n - 1) / (self.out - 1)
        raise ConversionError(f"coordinate_transformation_mode {mode!r} is not known")


def _linear(d: np.ndarray) -> np.ndarray:
    return np.maximum(1 - np.abs(d), 0)


def _cubic(d: np.ndarray, a: float) -> np.ndarray:
    """Keys' kernel (1981)."""
    d = np.abs(d)
    near, far = ((a + 2) * d - (a + 3)) * d * d + 1, ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0))


def _taps(
    at: np.ndarray, n: int, reach: int, kernel: Callable[[np.ndarray], np.ndarray], shrink: float, exclude: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Positions [out, taps] inside the input and their weights, by a kernel ``reach`` wide stretched by ``1 / shrink``."""
    first = int(np.floor(-reach / shrink)) + 1
    place = np.floor(at)[:, None] + np.arange(first, 2 - first)
    weights = kernel((place - at[:, None]) * shrink)
    if exclude:
        weights = np.where((place >= 0) & (place < n), weights, 0)
    if exclude or shrink != 1:
        weights = weights / weights.sum(1, keepdims=True)
    return np.clip(place, 0, n - 1).astype(np.int64), weights


def _read(x: Value, axis: int, index: np.ndarray) -> Value:
    """Elements ``index`` along ``axis``: as a view where each is repeated or every so many are taken."""
    n, out = x.shape[axis], index.size
    if out % n == 0 and np.array_equal(index, np.repeat(np.arange(n), out // n)):
        return F.repeat_interleave(x, out // n, axis) if out > n else x
    step = int(index[1] - index[0]) if out > 1 else 1
    if step > 0 and np.array_equal(index, index[0] + np.arange(out) * step):
        return x[(*[slice(None)] * axis, slice(int(index[0]), int(index[-1]) + 1, step))]
    return F.index_select(x, axis, lift(x.graph, index))


def _weighted(x: Value, axis: int, index: np.ndarray, weights: np.ndarray) -> Value:
    shape = [-1 if d == axis else 1 for d in range(x.ndim)]
    parts = [
        _read(x, axis, index[:, t]) * lift(x.graph, weights[:, t].astype(x.dtype.numpy).reshape(shape))
        for t in range(index.shape[1])
        if weights[:, t].any()
    ]
    return functools.reduce(F.add, parts)


def _dims(
    shape: Sequence[int], scales: np.ndarray | None, sizes: np.ndarray | None, roi: np.ndarray | None, crop: bool, policy: str
) -> list[_Dim]:
    """The dimensions to be resized, from their sizes and what the node says of them."""
    rank = len(shape)
    region = np.asarray([0.0] * rank + [1.0] * rank) if roi is None or roi.size == 0 else roi.astype(np.float64)
    found = []
    wanted = None if sizes is None or sizes.size == 0 else ints(sizes)
    if wanted is None and (scales is None or scales.size != rank):
        raise ConversionError("it needs scales or sizes for each dimension that it resizes")
    common = None
    if wanted is not None and policy != "stretch":
        ratios = [m / n for m, n in zip(wanted, shape, strict=True)]
        common = min(ratios) if policy == "not_larger" else max(ratios)
    for d, n in enumerate(shape):
        start, end = float(region[d]), float(region[d + rank])
        if wanted is None:
            assert scales is not None
            scale = float(scales[d])
            out = int(np.floor(n * (end - start) * scale if crop else n * scale))
        else:
            scale = wanted[d] / n if common is None else common
            out = wanted[d] if common is None else int(n * scale + 0.5)
        found.append(_Dim(n, out, scale, start, end))
    return found


@operator("Resize")
def resize(
    x: Value,
    roi: np.ndarray | None = None,
    scales: np.ndarray | None = None,
    sizes: np.ndarray | None = None,
    *,
    antialias: int = 0,
    axes: Ints = (),
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch",
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
) -> Value:
    where = [a % x.ndim for a in axes] or list(range(x.ndim))
    crop = coordinate_transformation_mode == "tf_crop_and_resize"
    dims = _dims([x.shape[a] for a in where], scales, sizes, roi, crop, keep_aspect_ratio_policy)
    if mode not in ("nearest", "linear", "cubic") or nearest_mode not in (*_NEAREST, "simple"):
        raise ConversionError(f"mode {mode!r} with nearest_mode {nearest_mode!r} is not known")
    y = x if mode == "nearest" or x.dtype.is_float else F.cast(x, "float32")
    outside: list[tuple[int, np.ndarray]] = []
    for axis, dim in zip(where, dims, strict=True):
        if dim.out == dim.n and dim.scale == 1.0 and not crop:
            continue
        at = dim.positions(coordinate_transformation_mode)
        if crop:
            outside.append((axis, (at < 0) | (at > dim.n - 1)))
        if mode == "nearest":
            rounded = nearest_mode if nearest_mode != "simple" else "ceil" if dim.scale < 1 else "floor"  # opset 10's
            y = _read(y, axis, np.clip(_NEAREST[rounded](at), 0, dim.n - 1).astype(np.int64))
            continue
        shrink = min(dim.scale, 1.0) if antialias else 1.0
        kernel = _linear if mode == "linear" else functools.partial(_cubic, a=cubic_coeff_a)
        y = _weighted(y, axis, *_taps(at, dim.n, 1 if mode == "linear" else 2, kernel, shrink, bool(exclude_outside)))
    for axis, mask in outside:
        if mask.any():
            flags = lift(x.graph, mask.reshape([-1 if d == axis else 1 for d in range(x.ndim)]))
            y = F.where(flags, extrapolation_value, y)
    return y if y.dtype == x.dtype else F.cast(F.round(y), x.dtype)

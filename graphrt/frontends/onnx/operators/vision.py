"""Regions, grids and boxes."""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np

import graphrt.ops as F
from graphrt.errors import ConversionError
from graphrt.frontends.onnx.table import Ints, operator
from graphrt.ir import Value


@operator("RoiAlign")
def roi_align(
    x: Value,
    rois: Value,
    batch_indices: Value,
    *,
    coordinate_transformation_mode: str = "half_pixel",
    mode: str = "avg",
    output_height: int = 1,
    output_width: int = 1,
    sampling_ratio: int = 0,
    spatial_scale: float = 1.0,
) -> Value:
    if mode != "avg" or sampling_ratio < 1:
        raise ConversionError(
            f"mode 'avg' with a sampling_ratio of 1 or more is known, not {mode!r} with {sampling_ratio}; 0 leaves the number "
            "of samples to the data"
        )
    boxes = F.concat([F.unsqueeze(F.cast(batch_indices, rois.dtype), 1), rois], 1)
    aligned = coordinate_transformation_mode == "half_pixel"
    return F.roi_align(x, boxes, [output_height, output_width], spatial_scale, sampling_ratio, aligned)


@operator("MaxRoiPool")
def max_roi_pool(x: Value, rois: Value, *, pooled_shape: Ints, spatial_scale: float = 1.0) -> Value:
    return F.roi_pool(x, rois, list(pooled_shape), spatial_scale)


def _reflected(at: Value, low: float, high: float) -> Value:
    """Positions mirrored at ``low`` and ``high`` until they lie between them."""
    span = high - low
    if span <= 0:
        return at * 0.0
    turn = F.remainder(F.abs(at - low), 2 * span)
    return F.minimum(turn, 2 * span - turn) + low


def _cubic(t: Value, a: float = -0.75) -> list[Value]:
    """Weights of the four neighbours of a point ``t`` behind the second one (Keys, 1981)."""

    def near(d: Value) -> Value:
        return ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0

    def far(d: Value) -> Value:
        return ((d - 5.0) * d + 8.0) * d * a - 4.0 * a

    return [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)]


@operator("GridSample")
def grid_sample(x: Value, grid: Value, *, align_corners: int = 0, mode: str = "linear", padding_mode: str = "zeros") -> Value:
    """x [N, C, *spatial] read at grid [N, *out, rank], coordinates in [-1, 1] with the last dimension's first."""
    mode = {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)
    sizes, out = x.shape[2:], grid.shape[1:-1]
    taps: list[list[tuple[Value, Value | None]]] = []  # for each dimension the neighbours' positions and weights
    for d, n in enumerate(sizes):
        g = grid[..., len(sizes) - 1 - d]
        edges = (0.0, n - 1.0) if align_corners else (-0.5, n - 0.5)
        at = (g + 1.0) * ((n - 1) / 2) if align_corners else ((g + 1.0) * n - 1.0) * 0.5

        def inside(v: Value, n: int = n, edges: tuple[float, float] = edges) -> Value:
            v = _reflected(v, *edges) if padding_mode == "reflection" else v
            return v if padding_mode == "zeros" else F.clamp(v, 0.0, n - 1.0)

        if mode == "nearest":
            taps.append([(F.round(inside(at)), None)])
        elif mode == "linear":
            at = inside(at)
            low = F.floor(at)
            taps.append([(low, 1.0 - (at - low)), (low + 1.0, at - low)])
        else:
            low = F.floor(at)
            taps.append([(inside(low + (i - 1.0)), w) for i, w in enumerate(_cubic(at - low))])
    flat = F.reshape(x, (*x.shape[:2], math.prod(sizes)))
    parts = []
    for corner in itertools.product(*taps):
        index, weight = _place([place for place, _ in corner], sizes)
        for _, w in corner:
            weight = weight if w is None else weight * w
        wide = F.broadcast_to(F.reshape(index, (x.shape[0], 1, -1)), (*x.shape[:2], math.prod(out)))
        parts.append(F.gather(flat, 2, wide) * F.cast(F.reshape(weight, (x.shape[0], 1, -1)), x.dtype))
    return F.reshape(functools.reduce(F.add, parts), (*x.shape[:2], *out))


def _place(places: list[Value], sizes: tuple[int, ...]) -> tuple[Value, Value]:
    """Row-major int64 positions from whole coordinates, and 1.0 where they lie inside, else 0.0."""
    index = F.zeros_like(places[0], "int64")
    counts = F.ones_like(places[0])
    for place, n in zip(places, sizes, strict=True):
        counts = F.where(F.logical_and(place >= 0.0, place <= n - 1.0), counts, 0.0)
        index = index * n + F.cast(F.clamp(place, 0.0, n - 1.0), "int64")
    return index, counts


def _iou(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of one box with several, corners in either order."""
    low, high = np.minimum(box[:2], box[2:]), np.maximum(box[:2], box[2:])
    lows, highs = np.minimum(others[:, :2], others[:, 2:]), np.maximum(others[:, :2], others[:, 2:])
    both = np.prod(np.maximum(np.minimum(high, highs) - np.maximum(low, lows), 0), 1)
    total = np.prod(high - low) + np.prod(highs - lows, 1) - both
    return np.where(total > 0, both / np.where(total > 0, total, 1), 0)


@operator("NonMaxSuppression")
def non_max_suppression(
    boxes: np.ndarray,
    scores: np.ndarray,
    max_output_boxes_per_class: np.ndarray | None = None,
    iou_threshold: np.ndarray | None = None,
    score_threshold: np.ndarray | None = None,
    *,
    center_point_box: int = 0,
) -> np.ndarray:
    """Of known boxes only, since how many are left decides a shape; in a program use ``graphrt.ops.nms``."""
    limit = 0 if max_output_boxes_per_class is None else int(max_output_boxes_per_class.item())
    overlap = 0.0 if iou_threshold is None else float(iou_threshold.item())
    if center_point_box:
        centre, half = boxes[..., :2], boxes[..., 2:] / 2
        boxes = np.concatenate([centre - half, centre + half], -1)
    found = []
    for batch, label in np.ndindex(*scores.shape[:2]):
        row, kept = scores[batch, label], list[int]()
        for i in np.argsort(-row, kind="stable"):
            if len(kept) == limit or (score_threshold is not None and row[i] <= score_threshold.item()):
                break
            if not kept or _iou(boxes[batch, i], boxes[batch, kept]).max() <= overlap:
                kept.append(int(i))
        found += [(batch, label, i) for i in kept]
    return np.asarray(found, np.int64).reshape(-1, 3)

"""Regions, grids and boxes."""

from __future__ import annotations

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


@operator("GridSample")
def grid_sample(x: Value, grid: Value, *, align_corners: int = 0, mode: str = "linear", padding_mode: str = "zeros") -> Value:
    """x [N, C, *spatial] read at grid [N, *out, rank], coordinates in [-1, 1] with the last dimension's first."""
    named = {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode)
    return F.grid_sample(x, grid, named, padding_mode, bool(align_corners))


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
    """Takes known boxes only, since the number that is left decides a shape; in a program use ``graphrt.ops.nms``."""
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

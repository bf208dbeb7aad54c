"""Boxes and regions: overlap, non-maximum suppression, RoI pooling and RoIAlign. Boxes are (x1, y1, x2, y2).

Shapes are static, so what torchvision returns in a length that the data decides is padded here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from graphrt.errors import ArgumentError, DTypeError, ShapeError
from graphrt.ir import Value
from graphrt.op import Kind, OpDef, Sample, Types, register
from graphrt.ops.base import apply, broadcast_to, cast, function, in_float32, ntuple, require_float, tensor
from graphrt.ops.elementwise import eq, floor, ge, gt, le, logical_and, lt, maximum, minimum, where
from graphrt.ops.indexing import index_select, scatter, take
from graphrt.ops.reduction import amax, mean
from graphrt.ops.scan import cumsum
from graphrt.ops.sorting import argsort
from graphrt.ops.source import iota
from graphrt.ops.transcendental import ceil
from graphrt.ops.view import reshape, unsqueeze
from graphrt.types import TensorType, bool_, int64


def _infer_nms(input: TensorType) -> Types:
    if not input.dtype.is_bool or input.ndim < 2 or input.shape[-1] != input.shape[-2]:
        raise ShapeError(f"nms needs bool [..., N, N], whether one box would suppress another, got {input}")
    return (TensorType(input.shape[:-1], bool_),)


def _reference_nms(suppresses: np.ndarray) -> np.ndarray:
    keep = np.ones(suppresses.shape[:-1], bool)
    for i in range(suppresses.shape[-1]):
        behind = np.arange(suppresses.shape[-1]) > i
        keep &= ~(suppresses[..., i, :] & behind & keep[..., i : i + 1])
    return keep


register(
    OpDef(
        name="nms",
        kind=Kind.SCAN,
        infer=_infer_nms,
        vjp=None,
        reference=_reference_nms,
        samples=lambda rng: [Sample((rng.random(s) < 0.3,), {}) for s in ((6, 6), (2, 3, 9, 9), (1, 1), (0, 0))],
        template="nms",
    )
)


def _boxes(boxes: Value, width: int, what: str = "boxes") -> Value:
    boxes = tensor(boxes, what)
    require_float(boxes.dtype, what)
    if boxes.ndim != 2 or boxes.shape[1] != width:
        raise ShapeError(f"{what} must be [N, {width}], got {list(boxes.shape)}")
    return boxes


@function
@in_float32
def box_area(boxes: Value) -> Value:
    """Area of each of [N, 4] boxes, as [N]."""
    b = _boxes(boxes, 4)
    return (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1])


@function
@in_float32
def box_iou(boxes1: Value, boxes2: Value) -> Value:
    """Intersection over union of each of ``boxes1`` [N, 4] with each of ``boxes2`` [M, 4], as [N, M]."""
    a, b = unsqueeze(_boxes(boxes1, 4, "boxes1"), 1), unsqueeze(_boxes(boxes2, 4, "boxes2"), 0)
    width = maximum(minimum(a[..., 2], b[..., 2]) - maximum(a[..., 0], b[..., 0]), 0.0)
    height = maximum(minimum(a[..., 3], b[..., 3]) - maximum(a[..., 1], b[..., 1]), 0.0)
    shared = width * height
    total = unsqueeze(box_area(boxes1), 1) + unsqueeze(box_area(boxes2), 0)
    return shared / (total - shared)


@function
def nms(boxes: Value, scores: Value, iou_threshold: float) -> Value:
    """Greedy non-maximum suppression of boxes [N, 4] (x1, y1, x2, y2) with scores [N].

    A box is suppressed whose intersection over union with one that is kept, of a higher score, exceeds ``iou_threshold``.
    Returns int64 [N]: the indices of the boxes kept, by decreasing score, then -1 for each that was suppressed.
    """
    count = _boxes(boxes, 4).shape[0]
    if tensor(scores, "scores").shape != (count,):
        raise ShapeError(f"scores must be [{count}], got {list(scores.shape)}")
    if not isinstance(iou_threshold, int | float) or not 0.0 <= iou_threshold <= 1.0:
        raise ArgumentError(f"iou_threshold must lie in [0, 1], got {iou_threshold!r}")
    order = argsort(scores, 0, descending=True)
    ordered = index_select(boxes, 0, order)
    keep = apply("nms", gt(box_iou(ordered, ordered), float(iou_threshold)))
    place = where(keep, cumsum(keep, 0) - 1, count)  # what is suppressed goes nowhere
    none = broadcast_to(boxes.graph.constant(-1, int64), (count,))
    return scatter(none, 0, place, order)


def _regions(input: Value, boxes: Value, output_size: int | Sequence[int]) -> tuple[int, int]:
    require_float(tensor(input).dtype, "input")
    if input.ndim != 4:
        raise ShapeError(f"input must be [N, C, H, W], got {list(input.shape)}")
    if _boxes(boxes, 5).dtype != input.dtype:
        raise DTypeError(f"boxes must be {input.dtype} as input, got {boxes.dtype}")
    height, width = ntuple(output_size, 2, "output_size", 1)
    return height, width


@function
@in_float32
def roi_align(
    input: Value,
    boxes: Value,
    output_size: int | Sequence[int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = 2,
    aligned: bool = False,
) -> Value:
    """RoIAlign (He et al., "Mask R-CNN", 2017): the mean of bilinear samples in each cell, [K, C, *output_size].

    boxes [K, 5] are (batch index, x1, y1, x2, y2), in coordinates that ``spatial_scale`` multiplies to those of ``input``.
    ``sampling_ratio`` samples a side are taken in each cell; torchvision's -1, a number that the data decides, does not exist
    here. ``aligned`` shifts boxes by half a pixel.
    """
    height, width = _regions(input, boxes, output_size)
    (ratio,) = ntuple(sampling_ratio, 1, "sampling_ratio", 1)
    _, channels, h, w = input.shape
    k, shift = boxes.shape[0], 0.5 if aligned else 0.0
    corners = boxes[:, 1:] * spatial_scale - shift

    def lines(low: Value, high: Value, cells: int, size: int) -> tuple[Value, Value, Value, Value]:
        """For the samples of one side, [K, cells * ratio]: both pixels, the upper one's share, and whether it counts."""
        span = high - low
        span = span if aligned else maximum(span, 1.0)
        like = broadcast_to(span.graph.constant(0.0, span.dtype), (k, cells * ratio))
        at = unsqueeze(low, 1) + (cast(iota(like, 1), span.dtype) + 0.5) * unsqueeze(span * (1.0 / (cells * ratio)), 1)
        valid = logical_and(ge(at, -1.0), le(at, float(size)))
        at = minimum(maximum(at, 0.0), float(size - 1))
        below = minimum(floor(at), float(max(size - 2, 0)))
        return below, minimum(below + 1.0, float(size - 1)), at - below, valid

    x0, x1, fx, x_ok = lines(corners[:, 0], corners[:, 2], width, w)
    y0, y1, fy, y_ok = lines(corners[:, 1], corners[:, 3], height, h)
    shape = (k, channels, height * ratio, width * ratio)

    def row(v: Value) -> Value:
        return broadcast_to(reshape(v, (k, 1, height * ratio, 1)), shape)

    def column(v: Value) -> Value:
        return broadcast_to(reshape(v, (k, 1, 1, width * ratio)), shape)

    batch = broadcast_to(reshape(cast(boxes[:, 0], int64), (k, 1, 1, 1)), shape)
    plane = batch * channels + iota(batch, 1)

    def pixel(y: Value, x: Value) -> Value:
        return take(input, (plane * h + row(cast(y, int64))) * w + column(cast(x, int64)))

    top = pixel(y0, x0) * (1.0 - column(fx)) + pixel(y0, x1) * column(fx)
    bottom = pixel(y1, x0) * (1.0 - column(fx)) + pixel(y1, x1) * column(fx)
    samples = where(logical_and(row(y_ok), column(x_ok)), top * (1.0 - row(fy)) + bottom * row(fy), 0.0)
    return mean(reshape(samples, (k, channels, height, ratio, width, ratio)), (3, 5))


@function
@in_float32
def roi_pool(input: Value, boxes: Value, output_size: int | Sequence[int], spatial_scale: float = 1.0) -> Value:
    """RoI pooling (Girshick, "Fast R-CNN", 2015): the largest pixel in each cell, [K, C, *output_size]; empty cells are 0.

    boxes [K, 5] are (batch index, x1, y1, x2, y2), times ``spatial_scale``, rounded to whole pixels.
    """
    height, width = _regions(input, boxes, output_size)
    channels, h, w = input.shape[1:]
    k = boxes.shape[0]
    corners = floor(boxes[:, 1:] * spatial_scale + 0.5)

    def inside(low: Value, high: Value, cells: int, size: int) -> Value:
        """bool [K, cells, size]: which pixels belong to which cell."""
        shape = (k, cells, size)
        span = maximum(high - low + 1.0, 1.0) * (1.0 / cells)
        wide = broadcast_to(reshape(span, (k, 1, 1)), shape)
        cell, pixel = cast(iota(wide, 1), wide.dtype), cast(iota(wide, 2), wide.dtype)
        start = reshape(low, (k, 1, 1))
        return logical_and(ge(pixel, start + floor(cell * wide)), lt(pixel, start + ceil((cell + 1.0) * wide)))

    columns = inside(corners[:, 0], corners[:, 2], width, w)
    rows = inside(corners[:, 1], corners[:, 3], height, h)
    own = index_select(input, 0, cast(boxes[:, 0], int64))  # [K, C, H, W]
    lowest = -math.inf
    best = amax(where(reshape(columns, (k, 1, 1, width, w)), reshape(own, (k, channels, h, 1, w)), lowest), 4)
    best = amax(where(reshape(rows, (k, 1, height, h, 1)), reshape(best, (k, channels, 1, h, width)), lowest), 3)
    return where(eq(best, lowest), 0.0, best)

"""Detections that are kept, and regions that are read: non-maximum suppression, RoI pooling and RoIAlign.

Shapes are static, so what torchvision returns in a length that the data decides is padded here, with -1 where it is positions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from graphrt.errors import ArgumentError, DTypeError, ShapeError
from graphrt.ir import Value
from graphrt.op import Kind, OpDef, Sample, Types, leading, register
from graphrt.ops.base import apply, broadcast_to, cast, function, in_float32, ntuple, require_float, tensor
from graphrt.ops.boxes import box_iou, gather_rows, require_boxes
from graphrt.ops.composite import square
from graphrt.ops.cumulative import cumsum
from graphrt.ops.elementwise import eq, exp, floor, ge, gt, le, logical_and, lt, maximum, minimum, where
from graphrt.ops.extremum import argmax, extremum
from graphrt.ops.indexing import gather, index_select, scatter
from graphrt.ops.reduction import sum
from graphrt.ops.slicing import concat
from graphrt.ops.sorting import argsort, topk
from graphrt.ops.source import iota
from graphrt.ops.transcendental import ceil
from graphrt.ops.view import permute, reshape, squeeze, unsqueeze
from graphrt.types import TensorType, bool_, int32, int64


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
        axes=leading,
    )
)


def _scored(boxes: Value, scores: Value, threshold: float, what: str) -> None:
    """Raises ShapeError, DTypeError, ArgumentError unless ``boxes`` [..., N, 4] have ``scores`` [..., N]."""
    shape = require_boxes(boxes, 4).shape[:-1]
    if tensor(scores, "scores").shape != shape:
        raise ShapeError(f"scores must be {list(shape)}, got {list(scores.shape)}")
    if not 0.0 <= threshold <= 1.0:
        raise ArgumentError(f"{what} must lie in [0, 1], got {threshold!r}")


@function
def nms(boxes: Value, scores: Value, iou_threshold: float, mask: Value | None = None) -> Value:
    """Greedy non-maximum suppression of boxes [..., N, 4] (x1, y1, x2, y2) with scores [..., N].

    A box is suppressed whose intersection over union with one that is kept, of a higher score, exceeds ``iou_threshold``.
    Returns int64 [..., N]: the indices of the boxes kept, by decreasing score, then -1 for each that was suppressed or that
    ``mask`` [..., N] leaves out.
    """
    return _suppressed(boxes, scores, iou_threshold, mask, None)


@function
def batched_nms(boxes: Value, scores: Value, idxs: Value, iou_threshold: float, mask: Value | None = None) -> Value:
    """Suppression within classes: boxes of different ``idxs``, integers [..., N], suppress nothing of one another.

    ``boxes``, ``scores``, ``iou_threshold`` and ``mask`` as of ``nms``, and so is what it returns.
    """
    if tensor(idxs, "idxs").shape != tensor(scores, "scores").shape or not idxs.dtype.is_int:
        raise ShapeError(f"idxs must be integers {list(scores.shape)}, got {idxs.type}")
    return _suppressed(boxes, scores, iou_threshold, mask, idxs)


def _suppressed(boxes: Value, scores: Value, threshold: float, mask: Value | None, classes: Value | None) -> Value:
    _scored(boxes, scores, threshold, "iou_threshold")
    if mask is not None and (tensor(mask, "mask").shape != scores.shape or not mask.dtype.is_bool):
        raise ShapeError(f"mask must be bool {list(scores.shape)}, got {mask.type}")
    count, last = scores.shape[-1], scores.ndim - 1
    order = argsort(scores, -1, descending=True)
    ordered = gather_rows(boxes, order)
    against = gt(box_iou(ordered, ordered), float(threshold))
    if classes is not None:
        own = gather(classes, -1, order)
        against = logical_and(against, eq(unsqueeze(own, -1), unsqueeze(own, -2)))
    if mask is not None:
        counts = gather(mask, -1, order)
        against = logical_and(against, unsqueeze(counts, -1))
    keep = apply("nms", against)
    if mask is not None:
        keep = logical_and(keep, counts)
    place = where(keep, cumsum(keep, -1) - 1, count)  # what is suppressed goes nowhere
    none = broadcast_to(boxes.graph.constant(-1, int64), scores.shape)
    return scatter(none, last, place, order)


@function
@in_float32
def soft_nms(
    boxes: Value, scores: Value, count: int, sigma: float = 0.5, score_threshold: float = 0.001
) -> tuple[Value, Value]:
    """Soft-NMS (Bodla et al., ICCV 2017): the best of the boxes [..., N, 4], ``count`` times, each lowering the others' scores.

    A score is multiplied by ``exp(-iou**2 / sigma)`` for each box that was taken before it. Returns int64 [..., count], indices
    by decreasing score, -1 where the best that is left does not exceed ``score_threshold``; and those scores, else 0.
    """
    _scored(boxes, scores, score_threshold, "score_threshold")
    if not 0 <= count <= scores.shape[-1] or sigma <= 0:
        raise ArgumentError(f"count must lie in [0, {scores.shape[-1]}] and sigma be above 0, got {count} and {sigma}")
    factors = exp(square(box_iou(boxes, boxes)) * (-1.0 / sigma))
    places = iota(scores, scores.ndim - 1)
    left, taken, values = scores, list[Value](), list[Value]()
    for _ in range(count):
        at = argmax(left, -1, keepdim=True)
        best = gather(left, -1, at)
        good = gt(best, score_threshold)
        taken.append(where(good, at, -1))
        values.append(where(good, best, 0.0))
        left = where(eq(places, at), -math.inf, left * squeeze(gather_rows(factors, at), -2))
    if not count:
        empty = (*scores.shape[:-1], 0)
        return broadcast_to(boxes.graph.constant(-1, int64), empty), broadcast_to(
            boxes.graph.constant(0.0, scores.dtype), empty
        )
    return concat(taken, -1), concat(values, -1)


@function
def masked_topk(input: Value, mask: Value, k: int) -> tuple[Value, Value]:
    """The ``k`` largest of the elements along the last dimension for which ``mask`` is true, in order, and their indices.

    Where there are fewer, the rest is -inf with index -1.
    """
    if tensor(mask, "mask").shape != tensor(input).shape or not mask.dtype.is_bool:
        raise ShapeError(f"mask must be bool {list(input.shape)}, got {mask.type}")
    require_float(input.dtype, "input")
    values, index = topk(where(mask, input, -math.inf), k)
    counts = sum(cast(mask, int64), -1, keepdim=True)
    return values, where(lt(iota(index, index.ndim - 1), counts), index, -1)


def _regions(input: Value, boxes: Value, output_size: int | Sequence[int]) -> tuple[int, int]:
    require_float(tensor(input).dtype, "input")
    if input.ndim != 4:
        raise ShapeError(f"input must be [N, C, H, W], got {list(input.shape)}")
    if require_boxes(boxes, 5).ndim != 2:
        raise ShapeError(f"boxes must be [K, 5], got {list(boxes.shape)}")
    if boxes.dtype != input.dtype:
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
    corners = boxes[:, 1:] * spatial_scale - (0.5 if aligned else 0.0)

    def line(low: Value, high: Value, cells: int) -> Value:
        """The samples of one side, [K, cells * ratio]."""
        span = high - low
        span = span if aligned else maximum(span, 1.0)
        like = broadcast_to(unsqueeze(low, 1), (*low.shape, cells * ratio))
        return like + (cast(iota(like, 1), span.dtype) + 0.5) * unsqueeze(span * (1.0 / (cells * ratio)), 1)

    x, y = line(corners[:, 0], corners[:, 2], width), line(corners[:, 1], corners[:, 3], height)
    return _bilinear(input, boxes[:, 0], x, y, 1.0, ratio)


@function
@in_float32
def crop_and_resize(input: Value, boxes: Value, output_size: int | Sequence[int], extrapolation_value: float = 0.0) -> Value:
    """The part of ``input`` [N, C, H, W] in each of boxes [K, 5], resized bilinearly to [K, C, *output_size].

    boxes are (batch index, x1, y1, x2, y2) in pixels, the first of which has its centre at 0; the corners of the result are
    sampled there, the middle where it is one pixel long. What lies outside is ``extrapolation_value``. TensorFlow's function of
    that name takes boxes (y1, x1, y2, x2) in shares of H - 1 and W - 1.
    """
    height, width = _regions(input, boxes, output_size)

    def line(low: Value, high: Value, count: int) -> Value:
        """The samples of one side, [K, count]; the outer ones are the corners themselves, which may be the picture's."""
        part = low.graph.constant(np.linspace(0.0, 1.0, count) if count > 1 else np.array([0.5]), low.dtype)
        return unsqueeze(low, 1) * (1.0 - part) + unsqueeze(high, 1) * part

    x, y = line(boxes[:, 1], boxes[:, 3], width), line(boxes[:, 2], boxes[:, 4], height)
    found = _bilinear(input, boxes[:, 0], x, y)
    rows, columns = _inside(y, input.shape[2]), _inside(x, input.shape[3])
    inside = logical_and(reshape(rows, (*rows.shape, 1)), reshape(columns, (columns.shape[0], 1, columns.shape[1])))
    return where(broadcast_to(unsqueeze(inside, 1), found.shape), found, extrapolation_value)


def _inside(at: Value, size: int, margin: float = 0.0) -> Value:
    """Whether positions ``at`` lie among ``size`` pixels, or up to ``margin`` beyond them."""
    return logical_and(ge(at, -margin), le(at, size - 1 + margin))


def _taps(at: Value, size: int, margin: float) -> tuple[Value, Value]:
    """Both pixels that each position ``at`` [K, P] among ``size`` of them lies between, -1 outside, and their shares [K, P, 2].

    Positions up to ``margin`` beyond the outermost pixels read those.
    """
    held = minimum(maximum(at, 0.0), float(size - 1))
    below = minimum(floor(held), float(max(size - 2, 0)))
    both = broadcast_to(unsqueeze(below, 2), (*at.shape, 2))
    step, above = cast(iota(both, 2), at.dtype), unsqueeze(held - below, 2)
    pixel = where(unsqueeze(_inside(at, size, margin), 2), minimum(both + step, float(size - 1)), -1.0)
    return cast(pixel, int64), where(eq(step, 0.0), 1.0 - above, above)


def _bilinear(input: Value, batch: Value, x: Value, y: Value, margin: float = 0.0, samples: int = 1) -> Value:
    """``input`` [N, C, H, W] of image ``batch`` [K] at columns ``x`` [K, P] and rows ``y`` [K, Q]: [K, C, Q, P].

    Of ``samples`` a side it is the mean, so there are fewer results. Those more than ``margin`` beyond the outermost pixels are
    zeros. A pixel's channels lie side by side and have one position, so the gradient moves whole pixels.
    """
    n, channels, h, w = input.shape
    k, p, q = x.shape[0], x.shape[1] // samples, y.shape[1] // samples
    shape = (k, q, p, 2 * samples, 2 * samples)

    def row(v: Value) -> Value:
        return broadcast_to(reshape(v, (k, q, 1, 2 * samples, 1)), shape)

    def column(v: Value) -> Value:
        return broadcast_to(reshape(v, (k, 1, p, 1, 2 * samples)), shape)

    (rows, by_row), (columns, by_column) = _taps(y, h, margin), _taps(x, w, margin)
    image = broadcast_to(reshape(cast(batch, int64), (k, 1, 1, 1, 1)), shape)
    place = (image * h + row(rows)) * w + column(columns)
    place = where(logical_and(ge(row(rows), 0), ge(column(columns), 0)), place, -1)
    pixels = reshape(permute(input, (0, 2, 3, 1)), (n * h * w, channels))
    taps = reshape(index_select(pixels, 0, reshape(place, (-1,))), (*shape, channels))
    share = unsqueeze(row(by_row) * column(by_column), 5) * (1.0 / samples**2)
    return permute(sum(taps * share, (3, 4)), (0, 3, 1, 2))


@function
@in_float32
def roi_pool(input: Value, boxes: Value, output_size: int | Sequence[int], spatial_scale: float = 1.0) -> Value:
    """RoI pooling (Girshick, "Fast R-CNN", 2015): the largest pixel in each cell, [K, C, *output_size]; empty cells are 0.

    boxes [K, 5] are (batch index, x1, y1, x2, y2), times ``spatial_scale``, rounded to whole pixels. Of equal pixels one gets
    the gradient.
    """
    height, width = _regions(input, boxes, output_size)
    n, channels, h, w = input.shape
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

    columns = reshape(inside(corners[:, 0], corners[:, 2], width, w), (k, 1, width, w, 1))
    rows = reshape(inside(corners[:, 1], corners[:, 3], height, h), (k, height, h, 1, 1))
    # Channels lie innermost, where neighbours belong to one cell. Only positions are looked for: the gradient goes to them.
    maps, picture = permute(input, (0, 2, 3, 1)), cast(boxes[:, 0], int64)
    own = reshape(index_select(maps, 0, picture), (k, h, 1, w, channels))
    best, column = extremum(where(columns, own, -math.inf), "max", 3)  # [K, H, width, C]
    best, row = extremum(where(rows, unsqueeze(best, 1), -math.inf), "max", 2)  # [K, height, width, C]
    column = cast(gather(cast(column, int32), 1, row), int64)  # half the bytes, of many
    place = (reshape(picture, (k, 1, 1, 1)) * h + row) * w + column
    found = gather(reshape(maps, (n * h * w, channels)), 0, reshape(place, (-1, channels)))
    found = where(eq(best, -math.inf), 0.0, reshape(found, best.shape))
    return permute(found, (0, 3, 1, 2))

"""Boxes (x1, y1, x2, y2): areas, overlaps and their losses, deltas from anchors, and which truth each anchor belongs to.

Shapes are static, so a picture has a fixed number of slots for boxes. An empty one is a box of no area, which overlaps nothing;
a mask says which slots count.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from graphrt.errors import ArgumentError, ShapeError
from graphrt.ir import Value
from graphrt.ops.base import (
    broadcast_shape,
    broadcast_to,
    full_precision,
    function,
    in_float32,
    integers,
    require_float,
    tensor,
)
from graphrt.ops.composite import clamp, square
from graphrt.ops.elementwise import eq, exp, ge, log, logical_and, lt, maximum, minimum, stop_gradient, where
from graphrt.ops.extremum import argmax
from graphrt.ops.indexing import gather, scatter
from graphrt.ops.loss import reduced, same_shape
from graphrt.ops.reduction import amax, any
from graphrt.ops.slicing import stack
from graphrt.ops.source import iota
from graphrt.ops.transcendental import atan2
from graphrt.ops.view import unsqueeze
from graphrt.types import bool_

LARGEST = math.log(1000.0 / 16)  # of a delta of sizes: what decodes to a box of 1000 pixels from an anchor of 16
_FORMATS = ("xyxy", "xywh", "cxcywh")


def require_boxes(boxes: Value, width: int, what: str = "boxes") -> Value:
    """``boxes`` [..., N, width] of floats. Raises ShapeError, DTypeError, ArgumentError."""
    boxes = tensor(boxes, what)
    require_float(boxes.dtype, what)
    if boxes.ndim < 2 or boxes.shape[-1] != width:
        raise ShapeError(f"{what} must be [..., N, {width}], got {list(boxes.shape)}")
    return boxes


def _shared(top: Value, bottom: Value) -> Value:
    """``top / bottom``, 0 where that is a share of nothing, with a gradient that is finite there."""
    nothing = eq(bottom, 0.0)
    return where(nothing, 0.0, top / where(nothing, 1.0, bottom))


@function
@in_float32
def box_area(boxes: Value) -> Value:
    """Area of each of [..., N, 4] boxes, as [..., N]."""
    return _area(require_boxes(boxes, 4))


def _area(b: Value) -> Value:
    return (b[..., 2] - b[..., 0]) * (b[..., 3] - b[..., 1])


@function
@in_float32
def box_convert(boxes: Value, in_fmt: str, out_fmt: str) -> Value:
    """``boxes`` [..., N, 4] of format ``in_fmt`` in ``out_fmt``: corners "xyxy", a corner and sizes "xywh", centre "cxcywh"."""
    if in_fmt not in _FORMATS or out_fmt not in _FORMATS:
        raise ArgumentError(f"formats are {', '.join(_FORMATS)}, got {in_fmt!r} and {out_fmt!r}")
    boxes = require_boxes(boxes, 4)
    if in_fmt == out_fmt:
        return boxes
    a, b, c, d = (boxes[..., i] for i in range(4))
    if in_fmt == "xywh":
        a, b, c, d = a, b, a + c, b + d
    elif in_fmt == "cxcywh":
        a, b, c, d = a - 0.5 * c, b - 0.5 * d, a + 0.5 * c, b + 0.5 * d
    if out_fmt == "xywh":
        a, b, c, d = a, b, c - a, d - b
    elif out_fmt == "cxcywh":
        a, b, c, d = 0.5 * (a + c), 0.5 * (b + d), c - a, d - b
    return stack([a, b, c, d], -1)


@function
@in_float32
def clip_boxes_to_image(boxes: Value, size: Sequence[int]) -> Value:
    """``boxes`` [..., N, 4] cut to a picture of ``size`` (H, W). Raises ArgumentError, ShapeError."""
    boxes, sides = require_boxes(boxes, 4), integers(size, "size", 0)
    if len(sides) != 2:
        raise ArgumentError(f"size must be (H, W), got {size!r}")
    height, width = sides
    return stack([clamp(boxes[..., i], 0.0, float((width, height)[i % 2])) for i in range(4)], -1)


# --- overlap -------------------------------------------------------------------------------------------------------


class _Pair(NamedTuple):
    """Two boxes, [..., 4] of shapes that broadcast."""

    a: Value
    b: Value

    @staticmethod
    def every(boxes1: Value, boxes2: Value) -> _Pair:
        """Each of ``boxes1`` [..., N, 4] with each of ``boxes2`` [..., M, 4]."""
        return _Pair(unsqueeze(require_boxes(boxes1, 4, "boxes1"), -2), unsqueeze(require_boxes(boxes2, 4, "boxes2"), -3))

    @staticmethod
    def each(boxes1: Value, boxes2: Value) -> _Pair:
        """Each of ``boxes1`` [..., N, 4] with the one of ``boxes2`` at its place."""
        pair = _Pair(require_boxes(boxes1, 4, "boxes1"), require_boxes(boxes2, 4, "boxes2"))
        same_shape(*pair)
        return pair

    def areas(self) -> tuple[Value, Value]:
        """The areas of intersection and union."""
        a, b = self
        width = maximum(minimum(a[..., 2], b[..., 2]) - maximum(a[..., 0], b[..., 0]), 0.0)
        height = maximum(minimum(a[..., 3], b[..., 3]) - maximum(a[..., 1], b[..., 1]), 0.0)
        shared = width * height
        return shared, _area(a) + _area(b) - shared

    def iou(self) -> Value:
        return _shared(*self.areas())

    def hull(self) -> tuple[Value, Value]:
        """Width and height of the smallest box around both."""
        a, b = self
        width = maximum(a[..., 2], b[..., 2]) - minimum(a[..., 0], b[..., 0])
        return width, maximum(a[..., 3], b[..., 3]) - minimum(a[..., 1], b[..., 1])

    def generalized(self) -> Value:
        shared, union = self.areas()
        width, height = self.hull()
        return _shared(shared, union) - _shared(width * height - union, width * height)

    def distance(self) -> Value:
        a, b = self
        across, down = (0.5 * (a[..., i] + a[..., i + 2] - b[..., i] - b[..., i + 2]) for i in range(2))
        width, height = self.hull()
        return self.iou() - _shared(square(across) + square(down), square(width) + square(height))

    def complete(self) -> Value:
        first, second = (atan2(box[..., 2] - box[..., 0], box[..., 3] - box[..., 1]) for box in self)
        aspect = square(first - second) * (4.0 / math.pi**2)
        share = stop_gradient(_shared(aspect, 1.0 - self.iou() + aspect))
        return self.distance() - share * aspect


@function
@in_float32
def box_iou(boxes1: Value, boxes2: Value) -> Value:
    """Intersection over union of each of ``boxes1`` [..., N, 4] with each of ``boxes2`` [..., M, 4], as [..., N, M].

    That of two boxes of no area is 0.
    """
    return _Pair.every(boxes1, boxes2).iou()


@function
@in_float32
def generalized_box_iou(boxes1: Value, boxes2: Value) -> Value:
    """Generalized IoU of ``boxes1`` and ``boxes2`` as of ``box_iou`` (Rezatofighi et al., CVPR 2019).

    It is less by the share of the smallest box around both that neither covers.
    """
    return _Pair.every(boxes1, boxes2).generalized()


@function
@in_float32
def distance_box_iou(boxes1: Value, boxes2: Value) -> Value:
    """Distance IoU of ``boxes1`` and ``boxes2`` as of ``box_iou`` (Zheng et al., AAAI 2020).

    It is less by the squared distance of the centres over that of the corners of the smallest box around both.
    """
    return _Pair.every(boxes1, boxes2).distance()


@function
@in_float32
def complete_box_iou(boxes1: Value, boxes2: Value) -> Value:
    """Complete IoU of ``boxes1`` and ``boxes2`` as of ``distance_box_iou`` (Zheng et al., AAAI 2020).

    It is less by a penalty of different aspect ratios, whose weight has no gradient.
    """
    return _Pair.every(boxes1, boxes2).complete()


@function
@full_precision
def generalized_box_iou_loss(boxes1: Value, boxes2: Value, reduction: str = "none") -> Value:
    """One less ``generalized_box_iou`` of each of ``boxes1`` [..., N, 4] with the one of ``boxes2`` at its place."""
    return reduced(1.0 - _Pair.each(boxes1, boxes2).generalized(), reduction)


@function
@full_precision
def distance_box_iou_loss(boxes1: Value, boxes2: Value, reduction: str = "none") -> Value:
    """One less ``distance_box_iou`` of each of ``boxes1`` [..., N, 4] with the one of ``boxes2`` at its place."""
    return reduced(1.0 - _Pair.each(boxes1, boxes2).distance(), reduction)


@function
@full_precision
def complete_box_iou_loss(boxes1: Value, boxes2: Value, reduction: str = "none") -> Value:
    """One less ``complete_box_iou`` of each of ``boxes1`` [..., N, 4] with the one of ``boxes2`` at its place."""
    return reduced(1.0 - _Pair.each(boxes1, boxes2).complete(), reduction)


# --- anchors -------------------------------------------------------------------------------------------------------


def _weights(weights: Sequence[float]) -> Sequence[float]:
    if len(weights) != 4 or not all(w > 0 for w in weights):
        raise ArgumentError(f"weights must be 4 numbers above 0, got {weights!r}")
    return weights


@function
@in_float32
def encode_boxes(boxes: Value, anchors: Value, weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0)) -> Value:
    """Deltas [..., N, 4] that take ``anchors`` to ``boxes`` (Ren et al., "Faster R-CNN", 2015, equation 2), times ``weights``.

    They are the way from centre to centre in sizes of the anchor, and logarithms of the ratios of sizes. That of a box without
    area is infinite.
    """
    wx, wy, ww, wh = _weights(weights)
    to, by = box_convert(boxes, "xyxy", "cxcywh"), box_convert(require_boxes(anchors, 4, "anchors"), "xyxy", "cxcywh")
    way = [(to[..., i] - by[..., i]) / by[..., i + 2] * w for i, w in enumerate((wx, wy))]
    return stack([*way, *(log(to[..., i + 2] / by[..., i + 2]) * w for i, w in enumerate((ww, wh)))], -1)


@function
@in_float32
def decode_boxes(
    deltas: Value, anchors: Value, weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0), largest: float = LARGEST
) -> Value:
    """The boxes [..., N, 4] to which ``deltas`` take ``anchors``: undoes ``encode_boxes`` of the same ``weights``.

    Logarithms of sizes end at ``largest``, so that an untrained network makes no infinite box.
    """
    wx, wy, ww, wh = _weights(weights)
    deltas, by = require_boxes(deltas, 4, "deltas"), box_convert(require_boxes(anchors, 4, "anchors"), "xyxy", "cxcywh")
    centre = [deltas[..., i] / w * by[..., i + 2] + by[..., i] for i, w in enumerate((wx, wy))]
    sizes = [exp(minimum(deltas[..., i + 2] / w, largest)) * by[..., i + 2] for i, w in enumerate((ww, wh))]
    return box_convert(stack([*centre, *sizes], -1), "cxcywh", "xyxy")


@function
def match_boxes(iou: Value, mask: Value, above: float, below: float | None = None, rescue: str | None = None) -> Value:
    """The truth that each anchor belongs to, from their ``iou`` [..., M, N]: int64 [..., N].

    That of the largest overlap where it is at least ``above``; else -1, background, below ``below`` (by default ``above``), and
    -2, neither, from there on. ``mask`` bool [..., M] says which truths there are. ``rescue`` gives a truth at least one
    anchor: "ties" gives each anchor that overlaps a truth most of all its own best truth (Faster R-CNN), "best" gives each
    truth the first such anchor (SSD).
    """
    require_float(tensor(iou, "iou").dtype, "iou")
    below = above if below is None else below
    if not 0.0 <= below <= above <= 1.0:
        raise ArgumentError(f"thresholds must be 0 <= below <= above <= 1, got {below} and {above}")
    if rescue not in (None, "ties", "best"):
        raise ArgumentError(f'rescue must be None, "ties" or "best", got {rescue!r}')
    if iou.ndim < 2 or tensor(mask, "mask").shape != iou.shape[:-1] or mask.dtype is not bool_:
        raise ShapeError(f"iou must be [..., M, N] and mask bool [..., M], got {iou.type} and {mask.type}")
    overlap = where(unsqueeze(mask, -1), iou, -1.0)
    largest, own = amax(overlap, -2), argmax(overlap, -2)
    found = where(ge(largest, above), own, where(lt(largest, below), -1, -2))
    if rescue == "ties":
        top = amax(overlap, -1, keepdim=True)
        return where(any(logical_and(eq(overlap, top), ge(overlap, 0.0)), -2), own, found)
    if rescue == "best":
        first = where(mask, argmax(overlap, -1), iou.shape[-1])  # of what is no truth it goes nowhere
        return scatter(found, -1, first, iota(first, first.ndim - 1))
    return found


@function
def gather_rows(input: Value, index: Value) -> Value:
    """Rows of ``input`` [..., N, D] at ``index`` [..., K], as [..., K, D]; zeros at positions outside, of which -1 is one.

    The dimensions before those broadcast.
    """
    if tensor(input).ndim < 2 or tensor(index, "index").ndim < 1:
        raise ShapeError(f"input must be [..., N, D] and index [..., K], got {list(input.shape)} and {list(index.shape)}")
    lead = broadcast_shape(input.shape[:-2], index.shape[:-1])
    count, width = input.shape[-2:]
    wide = broadcast_to(unsqueeze(index, -1), (*lead, index.shape[-1], width))
    return gather(broadcast_to(input, (*lead, count, width)), -2, wide)

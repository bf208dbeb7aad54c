"""Anchors, the boxes that detectors start from, and what a detector keeps of its scores for them.

Maps have sizes that are known when a graph is built, so anchors are constants of it: [A, 4], row by row of each map, the boxes
of a place one after the other.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import graphrt.ops as F
from graphrt import nn
from graphrt.errors import ArgumentError
from graphrt.ir import Value


def _tiled(shapes: np.ndarray, across: np.ndarray, down: np.ndarray) -> np.ndarray:
    """``shapes`` [B, 4] about each place of a map, of which these are the columns and rows: [rows * columns * B, 4]."""
    x, y = np.meshgrid(across, down)
    places = np.stack([x, y, x, y], -1).reshape(-1, 1, 4)
    return (places + shapes).reshape(-1, 4)


def anchor_boxes(
    image: Sequence[int],
    maps: Sequence[Sequence[int]],
    sizes: Sequence[Sequence[float]],
    ratios: Sequence[float] = (0.5, 1.0, 2.0),
) -> np.ndarray:
    """Anchors of a feature pyramid, float32 [A, 4], as torchvision has them (Ren et al., "Faster R-CNN", 2015).

    ``image`` (H, W) has ``maps`` (h, w), each with the ``sizes`` of its level, roots of areas, in each of ``ratios`` of height
    to width. Corners of the boxes at a map's first place are rounded to whole pixels. Raises ArgumentError.
    """
    if len(maps) != len(sizes):
        raise ArgumentError(f"there are {len(maps)} maps and sizes for {len(sizes)}")
    found = []
    for (h, w), level in zip(maps, sizes, strict=True):
        tall = np.sqrt(np.asarray(ratios, np.float32))
        height, width = (np.outer(side, np.asarray(level, np.float32)).reshape(-1) for side in (tall, 1 / tall))
        shapes = np.round(np.stack([-width, -height, width, height], 1) / 2)
        found.append(_tiled(shapes, np.arange(w) * (image[1] // w), np.arange(h) * (image[0] // h)))
    return np.concatenate(found).astype(np.float32)


def default_boxes(
    image: Sequence[int],
    maps: Sequence[Sequence[int]],
    ratios: Sequence[Sequence[float]],
    scales: Sequence[float],
    steps: Sequence[int] | None = None,
) -> np.ndarray:
    """SSD's default boxes, float32 [A, 4] (Liu et al., "SSD: single shot multibox detector", ECCV 2016), as torchvision's.

    A map of ``image`` (H, W) has squares of its own of ``scales``, shares of the image, and of the geometric mean of that and
    the next, of which there is one more than ``maps``; and boxes of each of its ``ratios`` and one over it. Places are
    ``steps`` pixels apart, by default as many as fill the image. No side is longer than the image's. Raises ArgumentError.
    """
    if not len(maps) == len(ratios) == len(scales) - 1:
        raise ArgumentError(f"{len(maps)} maps need as many ratios and a scale more, got {len(ratios)} and {len(scales)}")
    found = []
    for level, ((h, w), own) in enumerate(zip(maps, ratios, strict=True)):
        scale, mean = scales[level], float(np.sqrt(scales[level] * scales[level + 1]))
        sides = [(scale, scale), (mean, mean)]
        for ratio in own:
            root = float(np.sqrt(ratio))
            sides += [(scale * root, scale / root), (scale / root, scale * root)]
        half = np.minimum(sides, 1.0) / 2
        rows, columns = (n if steps is None else side / steps[level] for n, side in zip((h, w), image, strict=True))
        places = (np.arange(w) + 0.5) / columns, (np.arange(h) + 0.5) / rows
        found.append(_tiled(np.concatenate([-half, half], 1), *places))
    return (np.concatenate(found) * np.array([image[1], image[0]] * 2)).astype(np.float32)


def by_place(map: Value, boxes: int) -> Value:
    """The words of a head on ``boxes`` at each place, [N, boxes * K, H, W], in the order of anchors: [N, H * W * boxes, K]."""
    n, channels, h, w = map.shape
    apart = F.permute(F.reshape(map, (n, boxes, channels // boxes, h, w)), (0, 3, 4, 1, 2))
    return F.reshape(apart, (n, h * w * boxes, channels // boxes))


def kept(
    boxes: Value,
    scores: Value,
    score_threshold: float = 0.05,
    iou_threshold: float = 0.5,
    candidates: int = 200,
    slots: int = 20,
) -> dict[str, Value]:
    """The rest of ``boxes`` [N, A, 4], or [N, A, C, 4], with ``scores`` [N, A, C]: ``slots`` detections of each picture.

    The best ``candidates`` of all classes above ``score_threshold`` suppress one another within their class by
    ``iou_threshold``; the best of the rest are ``box`` [N, slots, 4], ``score`` [N, slots], ``class`` int64 [N, slots] and
    ``anchor`` int64 [N, slots], where in A they come from. Slots that are left have class and anchor -1, and zeros.
    """
    n, count, classes = scores.shape
    flat = F.reshape(scores, (n, count * classes))
    values, at = F.masked_topk(flat, F.gt(flat, score_threshold), min(candidates, count * classes))
    some = F.ge(at, 0)
    anchor = F.where(some, F.floor_divide(at, classes), -1)
    label = F.where(some, F.remainder(at, classes), -1)
    by_class = boxes.ndim == 4
    chosen = F.gather_rows(F.reshape(boxes, (n, -1, 4)), at if by_class else anchor)
    order = F.batched_nms(chosen, F.where(some, values, 0.0), label, iou_threshold, some)[:, :slots]
    good = F.ge(order, 0)
    return {
        "box": F.gather_rows(chosen, order),
        "score": F.where(good, F.gather(values, 1, order), 0.0),
        "class": F.where(good, F.gather(label, 1, order), -1),
        "anchor": F.where(good, F.gather(anchor, 1, order), -1),
    }


class LossOfParts(nn.Module):
    """Base of losses of detectors: the sum of the ``parts`` called ``names``, which are metrics of Trainer too."""

    names: tuple[str, ...] = ("class", "box")

    def parts(self, output: Any, target: Any) -> Mapping[str, Value]:
        """The parts of the loss, scalars by name."""
        raise ArgumentError(f"{type(self).__name__} must define parts(self, output, target)")

    def forward(self, output: Any, target: Any) -> Value:
        parts = self.parts(output, target)
        return functools.reduce(operator.add, [parts[name] for name in self.names])

    def metrics(self) -> dict[str, Any]:
        """Each part as a metric of Trainer."""
        return {name: lambda output, target, name=name: self.parts(output, target)[name] for name in self.names}


class Detector(nn.Module):
    """A trained detector as it is used: [N, 3, H, W] -> what ``kept`` returns, with its ``options``.

    ``net`` has a method ``scored(output, image)`` that gives boxes and scores as ``kept`` takes them; what else it is called
    with, such as proposals, is handed on. If it has ``masks(output, found, image)`` too, there is ``mask`` [N, slots, H, W] of
    probabilities.
    """

    def __init__(self, net: Any, **options: Any) -> None:
        self.net, self.options = net, options

    def forward(self, input: Value, **given: Value) -> dict[str, Value]:
        return self.kept(self.net(input, **given), input.shape[2:])

    def kept(self, output: Any, image: Sequence[int]) -> dict[str, Value]:
        """The rest of what the network said of a picture of size ``image`` (H, W)."""
        boxes, scores = self.net.scored(output, image)
        found = kept(F.clip_boxes_to_image(boxes, image), scores, **self.options)
        return {**found, "mask": self.net.masks(output, found, image)} if hasattr(self.net, "masks") else found

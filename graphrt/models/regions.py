"""The common part of detectors of regions: a sample of the proposals for training, cutting them out, losses and scores.

proposals, truths ─▶ sample (slots) ─▶ cut out of the picture or its maps ─▶ scores of classes and background, deltas
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import graphrt.ops as F
from graphrt import nn
from graphrt.errors import ArgumentError
from graphrt.ir import Value
from graphrt.models.anchors import LossOfParts
from graphrt.models.ssd import box_loss

WEIGHTS = (10.0, 10.0, 5.0, 5.0)  # of deltas: one over their deviations, by which Fast R-CNN divides them
SMALLEST = 1e-2  # side of a detection, in pixels


def sampled(found: Value, count: int, share: float) -> Value:
    """bool [N, A]: a random choice of ``count`` of the positions that ``found`` [N, A] names a truth (0 and on) or -1 for.

    At most a ``share`` of them have a truth; others take the place of those that are missing. It is another one at every run,
    from the program's counters.
    """
    positive, negative = F.ge(found, 0), F.eq(found, -1)
    drawn = F.uniform(found.graph, found.shape)

    def rank(of: Value) -> Value:
        return F.argsort(F.argsort(F.where(of, drawn, 2.0), -1), -1)

    chosen = F.logical_and(positive, F.lt(rank(positive), int(count * share)))
    room = count - F.sum(F.cast(chosen, "int64"), -1, keepdim=True)
    return F.logical_or(chosen, F.logical_and(negative, F.lt(rank(negative), room)))


class Sample(NamedTuple):
    """Proposals of a batch that a step is trained on, those with a truth first: ``boxes`` [N, S, 4]."""

    boxes: Value
    own: Value  # int64 [N, S], the truth of each, -1 for background and in an empty slot
    label: Value  # int64 [N, S], the truth's class and 1, 0 for background
    overlap: Value  # [N, S], with its truth, 0 where there is none
    counts: Value  # bool [N, S], which slots are in use


def has_area(boxes: Value) -> Value:
    """bool [..., N]: which slots of ``boxes`` [..., N, 4] are in use."""
    return F.logical_and(F.gt(boxes[..., 2], boxes[..., 0]), F.gt(boxes[..., 3], boxes[..., 1]))


def numbered(boxes: Value) -> Value:
    """``boxes`` [N, P, 4] each behind the number of its picture, [N * P, 5]."""
    n, p, _ = boxes.shape
    number = F.cast(F.floor_divide(F.arange(boxes.graph, n * p), p), boxes.dtype)
    return F.concat([F.unsqueeze(number, 1), F.reshape(boxes, (n * p, 4))], 1)


def aligned(maps: Sequence[Value], boxes: Value, height: int, size: int) -> Value:
    """``boxes`` [N, P, 4] cut out of the map of their size by RoIAlign, [N * P, C, size, size].

    ``maps`` are of pictures that are ``height`` pixels high (Lin et al., CVPR 2017, equation 1).
    """
    rois = numbered(boxes)
    scales = [2.0 ** round(math.log2(m.shape[2] / height)) for m in maps]
    cut = [F.roi_align(m, rois, size, s, 2) for m, s in zip(maps, scales, strict=True)]
    lowest = round(-math.log2(scales[0]))
    level = F.floor(4 + F.log2(F.sqrt(F.box_area(rois[:, 1:])) / 224) + 1e-6)
    level = F.clamp(level, float(lowest), float(lowest + len(cut) - 1))
    found = cut[0]
    for i, part in enumerate(cut[1:], 1):
        found = F.where(F.reshape(F.eq(level, float(lowest + i)), (-1, 1, 1, 1)), part, found)
    return found


class RegionNet(nn.Module):
    """Base of detectors that judge regions: [N, 3, H, W] and ``proposals`` [N, P, 4], of no area in an empty slot, to a dict.

    It has ``proposals``, ``present`` bool [N, P], ``logits`` [N, P, 1 + num_classes], background first, and ``deltas`` [N, P,
    1 + num_classes, 4]. Called with ``box`` [N, K, 4], ``class`` int64 [N, K] and ``present`` bool [N, K] as well it returns
    losses instead, scalars by name, of a random sample of proposals and truths.

    A subclass has ``seen``, what is made of a picture, and ``judged``, what is made of that and of boxes. A proposal is of a
    class if it overlaps a truth by 0.5, of the background if by less and by at least ``lowest``; a ``share`` of the ``sampled``
    is of classes.
    """

    num_classes: int
    sampled: int
    share, lowest = 0.25, 0.0
    beta: float | None = 1.0  # of smooth L1

    def forward(self, input: Value, proposals: Value, **truth: Value) -> dict[str, Value]:
        seen, present = self.seen(input), has_area(proposals)
        if truth:
            return self.losses(seen, self.sample(proposals, present, truth), truth)
        return self.found(seen, proposals, present)

    def seen(self, input: Value) -> Any:
        """All that ``judged`` gets of pictures ``input``."""
        raise ArgumentError(f"{type(self).__name__} must define seen(self, input)")

    def judged(self, seen: Any, boxes: Value) -> tuple[Value, Value]:
        """Logits [N, P, 1 + C] and deltas [N, P, 1 + C, 4] of ``boxes`` [N, P, 4]."""
        raise ArgumentError(f"{type(self).__name__} must define judged(self, seen, boxes)")

    def found(self, seen: Any, boxes: Value, present: Value) -> dict[str, Value]:
        """The findings in ``boxes`` [N, P, 4]."""
        logits, deltas = self.judged(seen, boxes)
        return {"proposals": boxes, "present": present, "logits": logits, "deltas": deltas}

    def sample(self, boxes: Value, present: Value, truth: Mapping[str, Value]) -> Sample:
        """A random sample of ``boxes`` [N, P, 4], those that are ``present``, and of the boxes of ``truth``."""
        boxes = F.concat([boxes, truth["box"]], 1)  # truths are proposals too, or there were no good ones at first
        iou = F.box_iou(truth["box"], boxes)
        found = F.match_boxes(iou, truth["present"], 0.5)
        found = F.where(F.concat([present, truth["present"]], 1), found, -2)
        overlap = F.amax(F.where(F.unsqueeze(truth["present"], -1), iou, 0.0), 1)
        if self.lowest:
            found = F.where(F.lt(overlap, self.lowest), -2, found)
        chosen = sampled(found, self.sampled, self.share)
        order = F.masked_topk(F.cast(F.ge(found, 0), boxes.dtype), chosen, min(self.sampled, boxes.shape[1]))[1]
        counts, at = F.ge(order, 0), F.maximum(order, 0)
        own = F.where(counts, F.gather(found, 1, at), -1)
        label = F.where(F.ge(own, 0), F.gather(truth["class"], 1, F.maximum(own, 0)) + 1, 0)
        return Sample(F.gather_rows(boxes, order), own, label, F.where(counts, F.gather(overlap, 1, at), 0.0), counts)

    def losses(self, seen: Any, sample: Sample, truth: Mapping[str, Value]) -> dict[str, Value]:
        """Cross-entropy of the classes of a sample, and smooth L1 of the deltas of those with a truth, over its size."""
        logits, deltas = self.judged(seen, sample.boxes)
        each = F.cross_entropy(F.movedim(logits, -1, 1), sample.label, reduction="none")
        share = 1.0 / F.maximum(F.sum(F.cast(sample.counts, "float32")), 1.0)
        mine = F.expand(F.reshape(sample.label, (*sample.label.shape, 1, 1)), (*sample.label.shape, 1, 4))
        return {
            "class": F.sum(F.where(sample.counts, each, 0.0)) * share,
            "box": self._box_loss(F.gather(deltas, 2, mine)[:, :, 0], sample, truth["box"]) * share,
        }

    def _box_loss(self, deltas: Value, sample: Sample, boxes: Value) -> Value:
        """The sum over the boxes of ``sample`` of the loss of their ``deltas`` [N, S, 4], each of its own class."""
        return box_loss(deltas, sample.boxes, boxes, sample.own, WEIGHTS, self.beta)

    def scored(self, output: dict[str, Value], image: Sequence[int]) -> tuple[Value, Value]:
        """Boxes of each class [N, P, num_classes, 4] in pixels, and probabilities [N, P, num_classes], 0 without area."""
        deltas = output["deltas"][:, :, 1:]
        n, p, classes, _ = deltas.shape
        flat = (n, p * classes, 4)
        start = F.reshape(F.expand(F.unsqueeze(output["proposals"], 2), deltas.shape), flat)
        boxes = F.clip_boxes_to_image(F.decode_boxes(F.reshape(deltas, flat), start, WEIGHTS), image)
        boxes = F.reshape(boxes, deltas.shape)
        some = F.ge(F.amin(boxes[..., 2:] - boxes[..., :2], -1), SMALLEST)
        counts = F.logical_and(F.unsqueeze(output["present"], -1), some)
        return boxes, F.where(counts, F.softmax(output["logits"], -1)[..., 1:], 0.0)


class BoxPredictor(nn.Module):
    """[K, inputs] -> logits [K, classes] and deltas [K, classes, 4]; ``classes`` count the background."""

    def __init__(self, inputs: int, classes: int) -> None:
        self.cls_score, self.bbox_pred = nn.Linear(inputs, classes), nn.Linear(inputs, classes * 4)

    def forward(self, input: Value, n: int) -> tuple[Value, Value]:
        """Scores and boxes of ``n`` pictures, [N, P, classes] and [N, P, classes, 4]."""
        logits, deltas = self.cls_score(input), self.bbox_pred(input)
        classes = logits.shape[1]
        return F.reshape(logits, (n, -1, classes)), F.reshape(deltas, (n, -1, classes, 4))


class SumOfLosses(LossOfParts):
    """The loss of a network that returns its losses itself, scalars by name: the sum of those called ``names``."""

    def __init__(self, names: Sequence[str] = ("objectness", "rpn_box", "class", "box")) -> None:
        self.names = tuple(names)

    def parts(self, output: Mapping[str, Value], target: Any) -> Mapping[str, Value]:
        """The losses that the network returned."""
        return output

"""Faster R-CNN (Ren, He, Girshick and Sun, "Faster R-CNN: towards real-time object detection", NeurIPS 2015).

image ─▶ trunk ─▶ maps ─▶ 3x3 ─▶ for each anchor: object or not, deltas ─▶ proposals (slots)
                    └────────────────── RoIAlign ◀──────────────────────────────┘
                                           └─▶ two linear layers ─▶ scores of classes and background, deltas by class
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import graphrt.ops as F
from graphrt import nn
from graphrt.errors import ArgumentError
from graphrt.ir import Value
from graphrt.models.anchors import LossOfParts, anchor_boxes, by_place
from graphrt.models.fpn import FPN, Pyramid, ResNetMaps
from graphrt.models.resnet import Bottleneck, ResNet
from graphrt.models.ssd import box_loss

RPN_WEIGHTS, WEIGHTS = (1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)  # of deltas
BETA = 1 / 9  # of smooth L1


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


class _RPNHead(nn.Module):
    def __init__(self, channels: int, boxes: int) -> None:
        self.boxes = boxes
        self.conv = nn.Sequential(nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()))
        self.cls_logits, self.bbox_pred = nn.Conv2d(channels, boxes, 1), nn.Conv2d(channels, boxes * 4, 1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, 0.0, 0.01)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    def forward(self, maps: Sequence[Value]) -> tuple[Value, Value]:
        shared = [self.conv(x) for x in maps]
        logits = F.concat([by_place(self.cls_logits(x), self.boxes) for x in shared], 1)
        return logits[..., 0], F.concat([by_place(self.bbox_pred(x), self.boxes) for x in shared], 1)


class _RPN(nn.Module):
    def __init__(self, channels: int, boxes: int) -> None:
        self.head = _RPNHead(channels, boxes)


class _BoxHead(nn.Module):
    def __init__(self, inputs: int, hidden: int) -> None:
        self.fc6, self.fc7 = nn.Linear(inputs, hidden), nn.Linear(hidden, hidden)

    def forward(self, input: Value) -> Value:
        return F.relu(self.fc7(F.relu(self.fc6(F.flatten(input, 1)))))


class _BoxPredictor(nn.Module):
    def __init__(self, inputs: int, classes: int) -> None:
        self.cls_score, self.bbox_pred = nn.Linear(inputs, classes), nn.Linear(inputs, classes * 4)


class _RoIHeads(nn.Module):
    def __init__(self, inputs: int, hidden: int, classes: int) -> None:
        self.box_head, self.box_predictor = _BoxHead(inputs, hidden), _BoxPredictor(hidden, classes)


class FasterRCNN(nn.Module):
    """[N, 3, H, W] -> ``proposals`` [N, P, 4], ``present`` bool [N, P], ``logits`` [N, P, 1 + num_classes] and ``deltas``.

    Called with ``box`` [N, K, 4], ``class`` int64 [N, K] and ``present`` bool [N, K] as well it returns the paper's four losses
    instead, scalars by name, of a random sample of anchors and of proposals.

    ``backbone`` returns maps of ``channels`` each; ``sizes`` are those of the anchors of each map, in each of ``ratios``.
    ``proposals`` says of how many of the best anchors how many are kept, P, each of which overlaps no better one by more than
    0.7; ``sampled`` the sizes of the samples of anchors and of proposals. ``head`` says how many of the first maps are pooled
    from, each for the proposals of its size, and the units of its linear layers. ``num_classes`` does not count the background.
    """

    def __init__(
        self,
        backbone: nn.Module,
        channels: int,
        num_classes: int,
        sizes: Sequence[Sequence[float]],
        ratios: Sequence[float] = (0.5, 1.0, 2.0),
        proposals: tuple[int, int] = (2000, 1000),
        sampled: tuple[int, int] = (256, 512),
        head: tuple[int, int] = (4, 1024),
    ) -> None:
        pooled, hidden = head
        if pooled > len(sizes):
            raise ArgumentError(f"head must pool from at most all maps, {len(sizes)}, got {pooled}")
        self.backbone, self.num_classes, self.pooled = backbone, num_classes, pooled
        self._boxes = (sizes, ratios)
        self.candidates, self.proposals = proposals
        self.anchors_sampled, self.rois_sampled = sampled
        self.rpn = _RPN(channels, len(sizes[0]) * len(ratios))
        self.roi_heads = _RoIHeads(channels * 49, hidden, num_classes + 1)

    def forward(self, input: Value, **truth: Value) -> dict[str, Value]:
        maps = self.backbone(input)
        anchors = input.graph.constant(anchor_boxes(input.shape[2:], [m.shape[2:] for m in maps], *self._boxes))
        objectness, deltas = self.rpn.head(maps)
        boxes, there = self._proposed(F.stop_gradient(objectness), F.stop_gradient(deltas), anchors, input)
        if not truth:
            logits, by_class = self._judged(maps, boxes, input)
            return {"proposals": boxes, "present": there, "logits": logits, "deltas": by_class}
        losses = self._rpn_losses(objectness, deltas, anchors, truth)
        return {**losses, **self._roi_losses(maps, boxes, there, truth, input)}

    def _proposed(self, objectness: Value, deltas: Value, anchors: Value, image: Value) -> tuple[Value, Value]:
        """The best boxes [N, P, 4] that the region proposal network makes of ``anchors``, and which of them there are."""
        boxes = F.clip_boxes_to_image(F.decode_boxes(deltas, anchors, RPN_WEIGHTS), image.shape[2:])
        wide, high = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
        some = F.logical_and(F.gt(wide, 1e-3), F.gt(high, 1e-3))
        scores, at = F.masked_topk(objectness, some, min(self.candidates, objectness.shape[1]))
        good = F.ge(at, 0)
        best = F.gather_rows(boxes, at)
        order = F.nms(best, F.where(good, scores, -1e9), 0.7, good)[:, : self.proposals]
        return F.gather_rows(best, order), F.ge(order, 0)

    def _rpn_losses(self, objectness: Value, deltas: Value, anchors: Value, truth: dict[str, Value]) -> dict[str, Value]:
        found = F.match_boxes(F.box_iou(truth["box"], anchors), truth["present"], 0.7, 0.3, "ties")
        sample = sampled(found, self.anchors_sampled, 0.5)
        known = F.cast(F.ge(found, 0), objectness.dtype)
        each = F.binary_cross_entropy_with_logits(objectness, known, reduction="none")
        share = 1.0 / F.maximum(F.sum(F.cast(sample, "float32")), 1.0)
        return {
            "objectness": F.sum(F.where(sample, each, 0.0)) * share,
            "rpn_box": box_loss(deltas, anchors, truth["box"], F.where(sample, found, -1), RPN_WEIGHTS, BETA) * share,
        }

    def _roi_losses(
        self, maps: Sequence[Value], boxes: Value, there: Value, truth: dict[str, Value], image: Value
    ) -> dict[str, Value]:
        boxes = F.concat([boxes, truth["box"]], 1)  # truths are proposals too, or there were no good ones at first
        there = F.concat([there, truth["present"]], 1)
        found = F.match_boxes(F.box_iou(truth["box"], boxes), truth["present"], 0.5)
        found = F.where(there, found, -2)
        sample = sampled(found, self.rois_sampled, 0.25)
        order = F.masked_topk(F.cast(F.ge(found, 0), boxes.dtype), sample, min(self.rois_sampled, boxes.shape[1]))[1]
        counts, own = F.ge(order, 0), F.where(F.ge(order, 0), F.gather(found, 1, order), -1)
        rois = F.gather_rows(boxes, order)
        logits, deltas = self._judged(maps, rois, image)
        label = F.where(F.ge(own, 0), F.gather(truth["class"], 1, F.maximum(own, 0)) + 1, 0)
        each = F.cross_entropy(F.movedim(logits, -1, 1), label, reduction="none")
        share = 1.0 / F.maximum(F.sum(F.cast(counts, "float32")), 1.0)
        mine = F.gather(deltas, 2, F.expand(F.reshape(label, (*label.shape, 1, 1)), (*label.shape, 1, 4)))[:, :, 0]
        return {
            "class": F.sum(F.where(counts, each, 0.0)) * share,
            "box": box_loss(mine, rois, truth["box"], own, WEIGHTS, BETA) * share,
        }

    def _judged(self, maps: Sequence[Value], boxes: Value, image: Value) -> tuple[Value, Value]:
        """Logits [N, P, 1 + C] and deltas [N, P, 1 + C, 4] of ``boxes`` [N, P, 4]."""
        n, p, _ = boxes.shape
        hidden = self.roi_heads.box_head(self._cut_out(maps, boxes, image))
        predictor = self.roi_heads.box_predictor
        classes = self.num_classes + 1
        return F.reshape(predictor.cls_score(hidden), (n, p, classes)), F.reshape(
            predictor.bbox_pred(hidden), (n, p, classes, 4)
        )

    def _cut_out(self, maps: Sequence[Value], boxes: Value, image: Value) -> Value:
        """``boxes`` cut out of the map of their size, [N * P, channels, 7, 7] (Lin et al., CVPR 2017, equation 1)."""
        n, p, _ = boxes.shape
        flat = F.reshape(boxes, (n * p, 4))
        number = F.cast(F.floor_divide(F.arange(boxes.graph, n * p), p), boxes.dtype)
        rois = F.concat([F.unsqueeze(number, 1), flat], 1)
        scales = [m.shape[2] / image.shape[2] for m in maps[: self.pooled]]
        cut = [F.roi_align(m, rois, 7, s, 2) for m, s in zip(maps, scales, strict=False)]
        lowest = round(-math.log2(scales[0]))
        level = F.floor(4 + F.log2(F.sqrt(F.box_area(flat)) / 224 + 1e-6))
        level = F.clamp(level, float(lowest), float(lowest + len(cut) - 1))
        found = cut[0]
        for i, part in enumerate(cut[1:], 1):
            found = F.where(F.reshape(F.eq(level, float(lowest + i)), (-1, 1, 1, 1)), part, found)
        return found

    def scored(self, output: dict[str, Value], image: Sequence[int]) -> tuple[Value, Value]:
        """Boxes of each class [N, P, num_classes, 4] in pixels, and probabilities [N, P, num_classes]."""
        deltas = output["deltas"][:, :, 1:]
        n, p, classes, _ = deltas.shape
        from_ = F.reshape(F.expand(F.unsqueeze(output["proposals"], 2), deltas.shape), (n, p * classes, 4))
        boxes = F.decode_boxes(F.reshape(deltas, (n, p * classes, 4)), from_, WEIGHTS)
        scores = F.where(F.unsqueeze(output["present"], -1), F.softmax(output["logits"], -1), 0.0)
        return F.reshape(boxes, deltas.shape), scores[..., 1:]


class SumOfLosses(LossOfParts):
    """The loss of a network that returns its losses itself, scalars by name: the sum of those called ``names``."""

    def __init__(self, names: Sequence[str] = ("objectness", "rpn_box", "class", "box")) -> None:
        self.names = tuple(names)

    def parts(self, output: Mapping[str, Value], target: Any) -> Mapping[str, Value]:
        """The losses that the network returned."""
        return output


def fasterrcnn_resnet50_fpn(num_classes: int = 90) -> nn.Module:
    """[N, 3, H, W] -> what ``FasterRCNN`` returns; 41,808,406 parameters with 90 classes.

    Ren et al., "Faster R-CNN", NeurIPS 2015, with the feature pyramid of Lin et al., CVPR 2017. Names of parameters are
    torchvision's, whose ``num_classes`` counts the background.
    """
    body = ResNetMaps(ResNet(Bottleneck, (3, 4, 6, 3)), 1)
    fpn = FPN((256, 512, 1024, 2048), 256, "pool")
    return FasterRCNN(Pyramid(body, fpn), 256, num_classes, [[32.0], [64.0], [128.0], [256.0], [512.0]])

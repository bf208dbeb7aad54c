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
from graphrt.models.anchors import anchor_boxes, by_place
from graphrt.models.fpn import FPN, Pyramid, ResNetMaps
from graphrt.models.regions import BoxPredictor, RegionNet, aligned, sampled
from graphrt.models.resnet import Bottleneck, ResNet
from graphrt.models.ssd import box_loss

WEIGHTS = (1.0, 1.0, 1.0, 1.0)  # of the deltas of anchors
PRESENT = 1e-3  # side of a proposal, in pixels


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


class RoIHeads(nn.Module):
    def __init__(self, inputs: int, hidden: int, classes: int) -> None:
        self.box_head, self.box_predictor = _BoxHead(inputs, hidden), BoxPredictor(hidden, classes)


class FasterRCNN(RegionNet):
    """[N, 3, H, W] -> what a ``RegionNet`` returns, of ``proposals`` that the network makes itself.

    Called with the truths as well it returns the paper's four losses instead, scalars by name, of a random sample of anchors
    and of proposals.

    ``backbone`` returns maps of ``channels`` each; ``sizes`` are those of the anchors of each map, in each of ``ratios``.
    ``proposals`` says of how many of each map's best anchors how many are kept of all, P, each of which overlaps no better one
    of its map by more than 0.7; ``sampled`` the sizes of the samples of anchors and of proposals. ``head`` says how many of the
    first maps are pooled from, each for the proposals of its size, and the units of its linear layers. ``num_classes`` does not
    count the background.
    """

    beta = 1 / 9

    def __init__(
        self,
        backbone: nn.Module,
        channels: int,
        num_classes: int,
        sizes: Sequence[Sequence[float]],
        ratios: Sequence[float] = (0.5, 1.0, 2.0),
        proposals: tuple[int, int] = (1000, 1000),
        sampled: tuple[int, int] = (256, 512),
        head: tuple[int, int] = (4, 1024),
    ) -> None:
        self.maps, hidden = head
        if self.maps > len(sizes):
            raise ArgumentError(f"head must pool from at most all maps, {len(sizes)}, got {self.maps}")
        self.backbone, self.num_classes = backbone, num_classes
        self._boxes = (sizes, ratios)
        self.candidates, self.proposals = proposals
        self.anchors_sampled, self.sampled = sampled
        self.rpn = _RPN(channels, len(sizes[0]) * len(ratios))
        self.roi_heads: Any = RoIHeads(channels * 49, hidden, num_classes + 1)

    def forward(self, input: Value, **truth: Value) -> dict[str, Value]:  # type: ignore[override]
        maps = self.backbone(input)
        places = [m.shape[2:] for m in maps]
        anchors = input.graph.constant(anchor_boxes(input.shape[2:], places, *self._boxes))
        objectness, deltas = self.rpn.head(maps)
        counts = [h * w * self.rpn.head.boxes for h, w in places]
        boxes, there = self._proposed(F.stop_gradient(objectness), F.stop_gradient(deltas), anchors, counts, input)
        seen = (maps[: self.maps], input.shape[2])
        if not truth:
            return self.found(seen, boxes, there)
        losses = self._rpn_losses(objectness, deltas, anchors, truth)
        return {**losses, **self.losses(seen, self.sample(boxes, there, truth), truth)}

    def _proposed(
        self, objectness: Value, deltas: Value, anchors: Value, counts: Sequence[int], image: Value
    ) -> tuple[Value, Value]:
        """The best boxes [N, P, 4] that the region proposal network makes of ``anchors``, and which of them there are.

        ``counts`` are the anchors of each map.
        """
        best, scores, start = list[Value](), list[Value](), 0
        for count in counts:
            own = slice(start, start + count)
            boxes = F.clip_boxes_to_image(F.decode_boxes(deltas[:, own], anchors[own], WEIGHTS), image.shape[2:])
            some = F.ge(F.amin(boxes[..., 2:] - boxes[..., :2], -1), PRESENT)
            score, at = F.masked_topk(objectness[:, own], some, min(self.candidates, count))
            good = F.ge(at, 0)
            boxes = F.gather_rows(boxes, at)
            order = F.nms(boxes, F.where(good, score, -1e9), 0.7, good)
            best.append(F.gather_rows(boxes, order))
            scores.append(F.where(F.ge(order, 0), F.gather(score, 1, F.maximum(order, 0)), -math.inf))
            start += count
        every = F.concat(scores, 1)
        at = F.masked_topk(every, F.gt(every, -math.inf), min(self.proposals, every.shape[1]))[1]
        return F.gather_rows(F.concat(best, 1), at), F.ge(at, 0)

    def _rpn_losses(self, objectness: Value, deltas: Value, anchors: Value, truth: Mapping[str, Value]) -> dict[str, Value]:
        found = F.match_boxes(F.box_iou(truth["box"], anchors), truth["present"], 0.7, 0.3, "ties")
        sample = sampled(found, self.anchors_sampled, 0.5)
        known = F.cast(F.ge(found, 0), objectness.dtype)
        each = F.binary_cross_entropy_with_logits(objectness, known, reduction="none")
        share = 1.0 / F.maximum(F.sum(F.cast(sample, "float32")), 1.0)
        return {
            "objectness": F.sum(F.where(sample, each, 0.0)) * share,
            "rpn_box": box_loss(deltas, anchors, truth["box"], F.where(sample, found, -1), WEIGHTS, self.beta) * share,
        }

    def judged(self, seen: tuple[Sequence[Value], int], boxes: Value) -> tuple[Value, Value]:
        maps, height = seen
        return self.roi_heads.box_predictor(self.roi_heads.box_head(aligned(maps, boxes, height, 7)), boxes.shape[0])


def resnet50_fpn() -> nn.Module:
    """The trunk of ResNet-50 with a pyramid of five maps of 256 channels, a quarter to a 64th of the picture's size."""
    return Pyramid(ResNetMaps(ResNet(Bottleneck, (3, 4, 6, 3)), 1), FPN((256, 512, 1024, 2048), 256, "pool"))


SIZES = ((32.0,), (64.0,), (128.0,), (256.0,), (512.0,))  # of anchors


def fasterrcnn_resnet50_fpn(num_classes: int = 90) -> nn.Module:
    """[N, 3, H, W] -> what ``FasterRCNN`` returns; 41,808,406 parameters with 90 classes.

    Ren et al., "Faster R-CNN", NeurIPS 2015, with the feature pyramid of Lin et al., CVPR 2017. Names of parameters are
    torchvision's, whose ``num_classes`` counts the background.
    """
    return FasterRCNN(resnet50_fpn(), 256, num_classes, SIZES)

"""RetinaNet (Lin, Goyal, Girshick, He and Dollár, "Focal loss for dense object detection", ICCV 2017).

image ─▶ trunk ─▶ feature pyramid ─▶ for each map, by the same weights: 3x3 convolutions ─▶ scores of classes
                                                                        3x3 convolutions ─▶ deltas
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import graphrt.ops as F
from graphrt import nn
from graphrt.ir import Value
from graphrt.models.anchors import LossOfParts, anchor_boxes, by_place
from graphrt.models.fpn import FPN, Pyramid, ResNetMaps
from graphrt.models.resnet import Bottleneck, ResNet
from graphrt.models.ssd import box_loss

WEIGHTS = (1.0, 1.0, 1.0, 1.0)  # of deltas


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    """A 3x3 convolution with weights of deviation 0.01."""
    layer = nn.Conv2d(inputs, outputs, 3, padding=1)
    nn.init.normal_(layer.weight, 0.0, 0.01)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


class _Tower(nn.Module):
    """Base: ``depth`` convolutions with ReLU before a last one, whose channels ``boxes`` share; the same for all maps."""

    def __init__(self, channels: int, depth: int, boxes: int) -> None:
        self.boxes = boxes
        self.conv = nn.Sequential(*(nn.Sequential(_conv(channels, channels), nn.ReLU()) for _ in range(depth)))

    def _through(self, maps: Sequence[Value], last: nn.Conv2d) -> Value:
        return F.concat([by_place(last(self.conv(x)), self.boxes) for x in maps], 1)


class _Classes(_Tower):
    def __init__(self, channels: int, depth: int, boxes: int, classes: int, prior: float) -> None:
        super().__init__(channels, depth, boxes)
        self.cls_logits = _conv(channels, boxes * classes)
        assert self.cls_logits.bias is not None
        nn.init.constant_(self.cls_logits.bias, -math.log((1 - prior) / prior))

    def forward(self, maps: Sequence[Value]) -> Value:
        return self._through(maps, self.cls_logits)


class _Deltas(_Tower):
    def __init__(self, channels: int, depth: int, boxes: int) -> None:
        super().__init__(channels, depth, boxes)
        self.bbox_reg = _conv(channels, boxes * 4)

    def forward(self, maps: Sequence[Value]) -> Value:
        return self._through(maps, self.bbox_reg)


class _Head(nn.Module):
    def __init__(self, channels: int, depth: int, boxes: int, classes: int, prior: float) -> None:
        self.classification_head = _Classes(channels, depth, boxes, classes, prior)
        self.regression_head = _Deltas(channels, depth, boxes)


class RetinaNet(nn.Module):
    """[N, 3, H, W] -> ``logits`` [N, A, num_classes], ``deltas`` [N, A, 4] and ``anchors`` [A, 4].

    ``backbone`` returns maps of ``channels`` each; ``sizes`` are those of the anchors of each map, in each of ``ratios``.
    ``depth`` convolutions come before the last; scores begin at the probability ``prior``.
    """

    def __init__(
        self,
        backbone: nn.Module,
        channels: int,
        num_classes: int,
        sizes: Sequence[Sequence[float]],
        ratios: Sequence[float] = (0.5, 1.0, 2.0),
        depth: int = 4,
        prior: float = 0.01,
    ) -> None:
        self.backbone, self.num_classes = backbone, num_classes
        self._boxes = (sizes, ratios)
        self.head = _Head(channels, depth, len(sizes[0]) * len(ratios), num_classes, prior)

    def forward(self, input: Value) -> dict[str, Value]:
        maps = self.backbone(input)
        anchors = anchor_boxes(input.shape[2:], [m.shape[2:] for m in maps], *self._boxes)
        return {
            "logits": self.head.classification_head(maps),
            "deltas": self.head.regression_head(maps),
            "anchors": input.graph.constant(anchors),
        }

    def scored(self, output: dict[str, Value], image: Sequence[int]) -> tuple[Value, Value]:
        """Boxes [N, A, 4] in pixels, and the probability [N, A, num_classes] of each class by itself."""
        return F.decode_boxes(output["deltas"], output["anchors"], WEIGHTS), F.sigmoid(output["logits"])


class RetinaNetLoss(LossOfParts):
    """Focal loss of all anchors but those between ``below`` and ``above``, and smooth L1 of deltas, over the matched anchors.

    Called with the network's output and a target as ``SSDLoss``. An anchor belongs to the truth that it overlaps by ``above``,
    to none under ``below``; one that overlaps a truth most of all belongs to its own best. ``alpha`` and ``gamma`` are those of
    ``sigmoid_focal_loss``, ``beta`` that of ``smooth_l1_loss``.
    """

    def __init__(
        self, above: float = 0.5, below: float = 0.4, alpha: float = 0.25, gamma: float = 2.0, beta: float = 1 / 9
    ) -> None:
        self.above, self.below, self.alpha, self.gamma, self.beta = above, below, alpha, gamma, beta

    def parts(self, output: dict[str, Value], target: dict[str, Value]) -> dict[str, Value]:
        """The loss of classes and of boxes, scalars by name."""
        logits, anchors = output["logits"], output["anchors"]
        iou = F.box_iou(target["box"], anchors)
        found = F.match_boxes(iou, target["present"], self.above, self.below, "ties")
        positive = F.ge(found, 0)
        label = F.where(positive, F.gather(target["class"], 1, F.maximum(found, 0)), -1)
        known = F.cast(F.eq(F.unsqueeze(label, -1), F.arange(label.graph, logits.shape[-1])), logits.dtype)
        each = F.sigmoid_focal_loss(logits, known, self.alpha, self.gamma)
        share = 1.0 / F.maximum(F.sum(F.cast(positive, "float32")), 1.0)
        return {
            "class": F.sum(F.where(F.unsqueeze(F.ne(found, -2), -1), each, 0.0)) * share,
            "box": box_loss(output["deltas"], anchors, target["box"], found, WEIGHTS, self.beta) * share,
        }


def retinanet_resnet50_fpn(num_classes: int = 91) -> nn.Module:
    """[N, 3, H, W] -> what ``RetinaNet`` returns; 34,068,119 parameters with 91 classes.

    Lin et al., "Focal loss for dense object detection", ICCV 2017. Names of parameters are torchvision's,
    as is what ``num_classes`` counts.
    """
    body = ResNetMaps(ResNet(Bottleneck, (3, 4, 6, 3)), 2)
    sizes = [[int(size * 2 ** (octave / 3)) for octave in range(3)] for size in (32, 64, 128, 256, 512)]
    return RetinaNet(Pyramid(body, FPN((512, 1024, 2048), 256, "p6p7")), 256, num_classes, sizes)

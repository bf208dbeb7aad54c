"""SSD (Liu, Anguelov, Erhan, Szegedy, Reed, Fu and Berg, "SSD: single shot multibox detector", ECCV 2016).

image ─▶ trunk ─▶ map ─▶ map ─▶ ...
                   └──────┴─────┴─▶ 3x3 ─▶ for each default box: scores of classes and background, deltas
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

import graphrt.ops as F
from graphrt import nn
from graphrt.ir import Value
from graphrt.models.anchors import LossOfParts, by_place, default_boxes
from graphrt.models.vgg import VGG16, features

WEIGHTS = (10.0, 10.0, 5.0, 5.0)  # of deltas


class _Heads(nn.Module):
    """A 3x3 convolution for each map, of ``width`` channels for each of its ``boxes``."""

    def __init__(self, channels: Sequence[int], boxes: Sequence[int], width: int) -> None:
        self.boxes = tuple(boxes)
        self.module_list = [nn.Conv2d(c, b * width, 3, padding=1) for c, b in zip(channels, boxes, strict=True)]
        for layer in self.module_list:
            nn.init.xavier_uniform_(layer.weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, maps: Sequence[Value]) -> Value:
        found = [by_place(head(x), b) for head, x, b in zip(self.module_list, maps, self.boxes, strict=True)]
        return F.concat(found, 1)


class _Head(nn.Module):
    def __init__(self, channels: Sequence[int], boxes: Sequence[int], classes: int) -> None:
        self.classification_head = _Heads(channels, boxes, classes)
        self.regression_head = _Heads(channels, boxes, 4)


class SSD(nn.Module):
    """[N, 3, H, W] -> ``logits`` [N, A, 1 + num_classes], background first, ``deltas`` [N, A, 4] and ``anchors`` [A, 4].

    ``backbone`` returns maps of ``channels``; ``ratios``, ``scales`` and ``steps`` of their default boxes are those of
    ``default_boxes``. ``num_classes`` does not count the background.
    """

    def __init__(
        self,
        backbone: nn.Module,
        channels: Sequence[int],
        num_classes: int,
        ratios: Sequence[Sequence[float]],
        scales: Sequence[float],
        steps: Sequence[int] | None = None,
    ) -> None:
        self.backbone, self.num_classes = backbone, num_classes
        self._boxes = (ratios, scales, steps)
        self.head = _Head(channels, [2 + 2 * len(own) for own in ratios], num_classes + 1)

    def forward(self, input: Value) -> dict[str, Value]:
        maps = self.backbone(input)
        boxes = default_boxes(input.shape[2:], [m.shape[2:] for m in maps], *self._boxes)
        return {
            "logits": self.head.classification_head(maps),
            "deltas": self.head.regression_head(maps),
            "anchors": input.graph.constant(boxes),
        }

    def scored(self, output: dict[str, Value], image: Sequence[int]) -> tuple[Value, Value]:
        """Boxes [N, A, 4] in pixels, and probabilities [N, A, num_classes] of the classes but for the background."""
        return F.decode_boxes(output["deltas"], output["anchors"], WEIGHTS), F.softmax(output["logits"], -1)[..., 1:]


class SSDLoss(LossOfParts):
    """The paper's equation 1: smooth L1 of matched boxes' deltas and cross-entropy, over the number of matched boxes.

    Called with the network's output and a dict of ``box`` [N, K, 4] in pixels, ``class`` int64 [N, K] and ``present`` bool
    [N, K]. A default box belongs to a truth that it overlaps by ``threshold``, and to the one whose best it is; of the others
    the ``negatives`` times as many that are furthest from background count as that (hard negative mining).
    """

    def __init__(self, threshold: float = 0.5, negatives: int = 3) -> None:
        self.threshold, self.negatives = threshold, negatives

    def parts(self, output: dict[str, Value], target: dict[str, Value]) -> dict[str, Value]:
        """The loss of classes and of boxes, scalars by name."""
        logits, anchors = output["logits"], output["anchors"]
        found = F.match_boxes(F.box_iou(target["box"], anchors), target["present"], self.threshold, rescue="best")
        positive = F.ge(found, 0)
        label = F.where(positive, F.gather(target["class"], 1, F.maximum(found, 0)) + 1, 0)
        each = F.reshape(
            F.cross_entropy(F.reshape(logits, (-1, logits.shape[-1])), F.reshape(label, (-1,)), reduction="none"), label.shape
        )
        count = F.sum(F.cast(positive, "int64"), 1, keepdim=True)
        order = F.argsort(F.where(positive, -1.0, F.stop_gradient(each)), 1, descending=True)
        rank = F.argsort(order, 1)
        counts = F.logical_or(positive, F.lt(rank, count * self.negatives))
        share = 1.0 / F.maximum(F.cast(F.sum(count), "float32"), 1.0)
        return {
            "class": F.sum(F.where(counts, each, 0.0)) * share,
            "box": box_loss(output["deltas"], anchors, target["box"], found, WEIGHTS) * share,
        }


def box_loss(
    deltas: Value, anchors: Value, boxes: Value, found: Value, weights: Sequence[float], beta: float | None = 1.0
) -> Value:
    """The sum of smooth L1 of ``deltas`` [N, A, 4] of ``anchors`` [A, 4] that have ``found`` int64 [N, A] one of ``boxes``.

    Other anchors may be empty. With ``beta`` None it is the sum of squares.
    """
    positive = F.unsqueeze(F.ge(found, 0), -1)
    truth = F.gather_rows(boxes, found)
    wanted = F.where(positive, F.encode_boxes(truth, F.expand(anchors, truth.shape), weights), 0.0)
    if beta is None:
        return F.sum(F.where(positive, F.square(deltas - wanted), 0.0))
    return F.sum(F.where(positive, F.smooth_l1_loss(deltas, wanted, beta=beta, reduction="none"), 0.0))


class _VGGMaps(nn.Module):
    """The six maps of SSD300: VGG-16's conv4_3, normalised and scaled, then fc6 and fc7 as convolutions and four pairs more."""

    def __init__(self) -> None:
        layers = list(features(VGG16, False))
        pools = [i for i, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]
        layers[pools[2]] = nn.MaxPool2d(2, ceil_mode=True)
        self.scale_weight = nn.Parameter(np.full(512, 20.0))
        self.features = nn.Sequential(*layers[: pools[3]])
        fully = nn.Sequential(
            *(nn.MaxPool2d(3, 1, 1), nn.Conv2d(512, 1024, 3, padding=6, dilation=6), nn.ReLU()),
            *(nn.Conv2d(1024, 1024, 1), nn.ReLU()),
        )
        pairs = [_extra(1024, 256, 2), _extra(512, 128, 2), _extra(256, 128, 1), _extra(256, 128, 1)]
        self.extra = [nn.Sequential(*layers[pools[3] : pools[4]], fully), *pairs]
        for part in (fully, *pairs):
            for layer in part:
                if isinstance(layer, nn.Conv2d):
                    nn.init.xavier_uniform_(layer.weight)
                    assert layer.bias is not None
                    nn.init.zeros_(layer.bias)

    def forward(self, input: Value) -> list[Value]:
        x = self.features(input)
        maps = [F.reshape(self.scale_weight.value(x.graph), (1, -1, 1, 1)) * F.normalize(x)]
        for block in self.extra:
            x = block(x)
            maps.append(x)
        return maps


def _extra(inputs: int, width: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(inputs, width, 1), nn.ReLU()),
        *(nn.Conv2d(width, 2 * width, 3, stride, 1 if stride == 2 else 0), nn.ReLU()),
    )


def ssd300_vgg16(num_classes: int = 90) -> nn.Module:
    """[N, 3, 300, 300] -> what ``SSD`` returns, of 8,732 default boxes; 35,641,826 parameters with 90 classes.

    Liu et al., "SSD: single shot multibox detector", ECCV 2016. Names of parameters are torchvision's, whose ``num_classes``
    counts the background.
    """
    return SSD(
        _VGGMaps(),
        (512, 1024, 512, 256, 256, 256),
        num_classes,
        ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,)),
        (0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05),
        (8, 16, 32, 64, 100, 300),
    )

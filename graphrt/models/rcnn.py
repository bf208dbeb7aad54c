"""R-CNN (Girshick, Donahue, Darrell and Malik, "Rich feature hierarchies for accurate object detection...", CVPR 2014).

proposals ─▶ crop, with some of what is around, and warp to a square ─▶ CNN ─▶ scores of classes and background
                                                                       └─▶ last pool ─▶ linear ─▶ deltas by class
"""

from __future__ import annotations

import graphrt.ops as F
from graphrt import nn
from graphrt.ir import Value
from graphrt.models.alexnet import alexnet_2012
from graphrt.models.regions import WEIGHTS, RegionNet, Sample, numbered
from graphrt.models.ssd import box_loss

ALIKE = 0.6  # overlap from which on a proposal is regressed to its truth


class RCNN(RegionNet):
    """[N, 3, H, W] and ``proposals`` [N, P, 4] -> what a ``RegionNet`` returns; with the truths, two losses.

    Each proposal is cut out with ``context`` pixels of the warped square around it, warped to ``size`` pixels a side whatever
    its shape was, and seen by ``trunk``, which returns maps that flatten to ``features`` numbers. ``head`` makes ``hidden``
    numbers of them, from which classes are scored. ``num_classes`` does not count the background; ``sampled`` proposals of each
    picture are trained on.

    The paper's stages are one step here. Its support vector machines, which come after the softmax that the trunk is tuned
    with, are that softmax. Its regression of boxes by class is a linear layer over the trunk's features as they are: no
    gradient flows from it into the trunk, and its loss is the squared error of proposals that overlap their truth by 0.6.
    """

    beta = None

    def __init__(
        self,
        trunk: nn.Module,
        features: int,
        head: nn.Module,
        hidden: int,
        num_classes: int,
        size: int = 227,
        context: int = 16,
        sampled: int = 128,
    ) -> None:
        self.trunk, self.head, self.num_classes, self.sampled = trunk, head, num_classes, sampled
        self.size, self.context = size, context
        self.cls_score = nn.Linear(hidden, num_classes + 1)
        self.bbox_pred = nn.Linear(features, (num_classes + 1) * 4)

    def seen(self, input: Value) -> Value:
        return input

    def warped(self, image: Value, boxes: Value) -> Value:
        """``boxes`` [N, P, 4] of pictures as [N * P, 3, size, size], zeros where they reach beyond the picture.

        A border of zeros lets a picture fade, so that it does not matter on which side of its edge a sample is rounded to.
        """
        rois = numbered(boxes)
        share = self.context / (self.size - 2 * self.context)
        sides = rois[:, 3:] - rois[:, 1:3]
        low, high = (
            rois[:, 1:3] - sides * share + 1.0,
            rois[:, 3:] + sides * share,
        )  # centres of the outer pixels, and the border
        return F.crop_and_resize(F.pad(image, (1, 1, 1, 1)), F.concat([rois[:, :1], low, high], 1), self.size)

    def judged(self, seen: Value, boxes: Value) -> tuple[Value, Value]:
        pooled = F.flatten(self.trunk(self.warped(seen, boxes)), 1)
        n, classes = boxes.shape[0], self.num_classes + 1
        logits, deltas = self.cls_score(self.head(pooled)), self.bbox_pred(F.stop_gradient(pooled))
        return F.reshape(logits, (n, -1, classes)), F.reshape(deltas, (n, -1, classes, 4))

    def _box_loss(self, deltas: Value, sample: Sample, boxes: Value) -> Value:
        own = F.where(F.ge(sample.overlap, ALIKE), sample.own, -1)
        return box_loss(deltas, sample.boxes, boxes, own, WEIGHTS, self.beta)


def rcnn_alexnet(num_classes: int = 20) -> nn.Module:
    """[N, 3, H, W] and proposals [N, P, 4] -> what ``RCNN`` returns, on the AlexNet of 2012: squares of 227 pixels.

    Girshick et al., "Rich feature hierarchies for accurate object detection and semantic segmentation", CVPR 2014.
    59,141,609 parameters with ``num_classes`` 20.
    """
    trunk, _, classifier = list(alexnet_2012())
    assert isinstance(classifier, nn.Sequential)
    return RCNN(trunk, 256 * 6 * 6, nn.Sequential(*list(classifier)[:-1]), 4096, num_classes)

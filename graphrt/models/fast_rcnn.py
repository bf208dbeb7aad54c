"""Fast R-CNN (Girshick, "Fast R-CNN", ICCV 2015).

image ─▶ trunk ─▶ map ─▶ RoI pooling of each proposal ─▶ linear layers ─▶ scores of classes and background, deltas by class
proposals ──────────────────┘
"""

from __future__ import annotations

import graphrt.ops as F
from graphrt import nn
from graphrt.ir import Value
from graphrt.models.regions import BoxPredictor, RegionNet, numbered
from graphrt.models.vgg import VGG16, features


class FastRCNN(RegionNet):
    """[N, 3, H, W] and ``proposals`` [N, P, 4] -> what a ``RegionNet`` returns; with the truths, the paper's two losses.

    ``backbone`` returns a map of ``channels``, ``stride`` times as small as the picture, of which each proposal is pooled to
    ``size`` pixels a side. ``hidden`` units have the two linear layers behind that. Background is what overlaps a truth by 0.1
    to 0.5. ``num_classes`` does not count it; ``sampled`` proposals of each picture are trained on, with ``dropout`` of that
    probability behind each linear layer.
    """

    lowest = 0.1

    def __init__(
        self,
        backbone: nn.Module,
        channels: int,
        num_classes: int,
        stride: int = 16,
        size: int = 7,
        hidden: int = 4096,
        sampled: int = 64,
        dropout: float = 0.5,
    ) -> None:
        self.backbone, self.num_classes, self.sampled = backbone, num_classes, sampled
        self._pooled = (size, 1.0 / stride)
        self.head = nn.Sequential(
            *(nn.Flatten(), nn.Linear(channels * size * size, hidden), nn.ReLU(), nn.Dropout(dropout)),
            *(nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(dropout)),
        )
        self.predictor = BoxPredictor(hidden, num_classes + 1)
        nn.init.normal_(self.predictor.cls_score.weight, 0.0, 0.01)
        nn.init.normal_(self.predictor.bbox_pred.weight, 0.0, 0.001)

    def seen(self, input: Value) -> Value:
        return self.backbone(input)

    def judged(self, seen: Value, boxes: Value) -> tuple[Value, Value]:
        return self.predictor(self.head(F.roi_pool(seen, numbered(boxes), *self._pooled)), boxes.shape[0])


def fastrcnn_vgg16(num_classes: int = 20) -> nn.Module:
    """[N, 3, H, W] and proposals [N, P, 4] -> what ``FastRCNN`` returns, on VGG-16 but for its last pool.

    Girshick, "Fast R-CNN", ICCV 2015. 134,690,729 parameters with ``num_classes`` 20.
    """
    return FastRCNN(nn.Sequential(*list(features(VGG16, False))[:-1]), 512, num_classes)

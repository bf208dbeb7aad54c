"""YOLO (Redmon, Divvala, Girshick and Farhadi, "You only look once: unified, real-time object detection", CVPR 2016).

image ─▶ convolutions ─▶ linear ─▶ linear ─▶ S x S cells, each B times (x, y, w, h, confidence) and C class probabilities
"""

from __future__ import annotations

from collections.abc import Sequence

import graphrt.ops as F
from graphrt import nn
from graphrt.ir import Value
from graphrt.models.anchors import LossOfParts

# Channels, filter and stride of each convolution; None is a 2x2 pool.
PAPER: Sequence[tuple[int, int, int] | None] = (
    *((64, 7, 2), None, (192, 3, 1), None),
    *((128, 1, 1), (256, 3, 1), (256, 1, 1), (512, 3, 1), None),
    *((256, 1, 1), (512, 3, 1)) * 4,
    *((512, 1, 1), (1024, 3, 1), None),
    *((512, 1, 1), (1024, 3, 1)) * 2,
    *((1024, 3, 1), (1024, 3, 2), (1024, 3, 1), (1024, 3, 1)),
)


class YOLO(nn.Module):
    """[N, 3, size, size] -> [N, S, S, 5 B + C]: for each cell B boxes (x, y, w, h, confidence), then C class probabilities.

    x and y are shares of the cell; w and h are square roots of shares of the image, as the authors' program has them. S are
    ``cells``, B ``boxes``, C ``num_classes``. ``layers`` have channels, filter and stride of each convolution, or None for a
    pool; ``hidden`` are the units between the linear layers, which ``dropout`` follows. ``batch_norm`` puts a norm behind each
    convolution.
    """

    def __init__(
        self,
        num_classes: int = 20,
        cells: int = 7,
        boxes: int = 2,
        size: int = 448,
        layers: Sequence[tuple[int, int, int] | None] = PAPER,
        hidden: int = 4096,
        dropout: float = 0.5,
        batch_norm: bool = False,
    ) -> None:
        self.num_classes, self.cells, self.boxes = num_classes, cells, boxes
        parts: list[nn.Module] = []
        channels, side = 3, size
        for layer in layers:
            if layer is None:
                parts.append(nn.MaxPool2d(2))
                side //= 2
                continue
            width, kernel, stride = layer
            conv = nn.Conv2d(channels, width, kernel, stride, kernel // 2, bias=not batch_norm)
            nn.init.kaiming_normal_(conv.weight, 0.1, nonlinearity="leaky_relu")
            parts += [conv, *([nn.BatchNorm2d(width)] if batch_norm else []), nn.LeakyReLU(0.1)]
            channels, side = width, (side + 2 * (kernel // 2) - kernel) // stride + 1
        self.features = nn.Sequential(*parts)
        self.head = nn.Sequential(
            *(nn.Flatten(), nn.Linear(channels * side * side, hidden), nn.LeakyReLU(0.1), nn.Dropout(dropout)),
            nn.Linear(hidden, cells * cells * (5 * boxes + num_classes)),
        )

    def forward(self, input: Value) -> Value:
        found = self.head(self.features(input))
        return F.reshape(found, (input.shape[0], self.cells, self.cells, 5 * self.boxes + self.num_classes))

    def scored(self, output: Value, image: Sequence[int]) -> tuple[Value, Value]:
        """Boxes [N, S * S * B, 4] in pixels of ``image`` (H, W), and scores of each class [N, S * S * B, C].

        P(class) is P(class given an object) times the confidence, P(object) times the overlap.
        """
        n, s = output.shape[0], self.cells
        boxes, confidence, classes = _apart(output, self.boxes)
        scores = F.unsqueeze(confidence, -1) * F.unsqueeze(classes, -2)
        pixels = _pixels(boxes, s, image)
        return F.reshape(pixels, (n, s * s * self.boxes, 4)), F.reshape(scores, (n, s * s * self.boxes, self.num_classes))


def _apart(output: Value, boxes: int) -> tuple[Value, Value, Value]:
    """Boxes [N, S * S, B, 4], confidences [N, S * S, B] and classes [N, S * S, C] of the network's output."""
    n, s, _, channels = output.shape
    flat = F.reshape(output, (n, s * s, channels))
    five = F.reshape(flat[:, :, : 5 * boxes], (n, s * s, boxes, 5))
    return five[..., :4], five[..., 4], flat[:, :, 5 * boxes :]


def _pixels(boxes: Value, cells: int, image: Sequence[int]) -> Value:
    """Boxes [N, S * S, B, 4] as the network has them, as corners in pixels."""
    place = F.arange(boxes.graph, cells * cells)
    column, row = (F.cast(F.reshape(f(place, cells), (-1, 1)), boxes.dtype) for f in (F.remainder, F.floor_divide))
    height, width = image
    centre = [(column + boxes[..., 0]) * (width / cells), (row + boxes[..., 1]) * (height / cells)]
    sizes = [boxes[..., 2] * boxes[..., 2] * float(width), boxes[..., 3] * boxes[..., 3] * float(height)]
    return F.box_convert(F.stack([*centre, *sizes], -1), "cxcywh", "xyxy")


class YOLOLoss(LossOfParts):
    """The paper's sum of five squared errors, over the pictures of a batch: its equation 3.

    Called with the network's output [N, S, S, 5 B + C] and a dict of ``box`` [N, K, 4] in pixels of a picture of ``size``,
    ``class`` int64 [N, K] and ``present`` bool [N, K]. The cell of a box's centre answers for it, the last of several boxes;
    of its B boxes the one that overlaps most. ``coord`` and ``noobj`` are the paper's weights.
    """

    names = ("centre", "size", "object", "no_object", "class")

    def __init__(self, boxes: int = 2, size: int = 448, coord: float = 5.0, noobj: float = 0.5) -> None:
        self.boxes, self.size, self.coord, self.noobj = boxes, size, coord, noobj

    def parts(self, output: Value, target: dict[str, Value]) -> dict[str, Value]:
        """The five parts, scalars by name."""
        n, s = output.shape[:2]
        boxes, confidence, classes = _apart(output, self.boxes)
        in_cells = F.box_convert(target["box"], "xyxy", "cxcywh") * (s / self.size)
        column, row = (F.clamp(F.cast(F.floor(in_cells[..., i]), "int64"), 0, s - 1) for i in range(2))
        cell = F.where(target["present"], row * s + column, s * s)  # of an empty slot, nowhere
        slots = F.arange(output.graph, cell.shape[1])
        truth = F.scatter(F.full_like(classes[..., 0], -1, dtype="int64"), 1, cell, F.expand(slots, cell.shape))
        there = F.ge(truth, 0)
        own = F.gather_rows(in_cells, truth)  # [N, S * S, 4]
        pixels = F.gather_rows(target["box"], truth)
        iou = F.stop_gradient(F.box_iou(_pixels(boxes, s, (self.size, self.size)), F.unsqueeze(pixels, 2))[..., 0])
        best = F.eq(F.arange(output.graph, self.boxes), F.argmax(iou, -1, keepdim=True))
        answers = F.cast(F.logical_and(best, F.unsqueeze(there, -1)), output.dtype)
        wanted = F.unsqueeze(F.concat([own[..., :2] - F.floor(own[..., :2]), F.sqrt(own[..., 2:] * (1 / s))], -1), 2)
        apart = F.square(boxes - wanted) * F.unsqueeze(answers, -1)
        known = F.one_hot(F.gather(target["class"], 1, F.maximum(truth, 0)), classes.shape[-1])
        wrong = F.square(classes - F.cast(known, classes.dtype)) * F.unsqueeze(F.cast(there, classes.dtype), -1)
        return {
            "centre": F.sum(apart[..., :2]) * (self.coord / n),
            "size": F.sum(apart[..., 2:]) * (self.coord / n),
            "object": F.sum(F.square(confidence - iou) * answers) * (1 / n),
            "no_object": F.sum(F.square(confidence) * (1.0 - answers)) * (self.noobj / n),
            "class": F.sum(wrong) * (1 / n),
        }


def yolo_v1(num_classes: int = 20) -> nn.Module:
    """[N, 3, 448, 448] -> [N, 7, 7, 30] with 20 classes; 271,703,550 parameters.

    Redmon et al., "You only look once: unified, real-time object detection", CVPR 2016: 24 convolutions and two linear layers.
    ``num_classes`` C make 10 + C numbers for each cell.
    """
    return YOLO(num_classes)

"""Mask R-CNN (He, Gkioxari, Dollár and Girshick, "Mask R-CNN", ICCV 2017).

Faster R-CNN ─▶ boxes ─▶ RoIAlign, 14x14 ─▶ convolutions ─▶ x2 ─▶ for each class a mask of 28x28 ─▶ pasted into the picture
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import graphrt.ops as F
from graphrt import nn
from graphrt.ir import Value
from graphrt.models.faster_rcnn import SIZES, FasterRCNN, RoIHeads, resnet50_fpn
from graphrt.models.regions import Sample, aligned

POOLED = 14  # pixels a side of what masks are made from


def _conv_like(layer: nn.Conv2d | nn.ConvTranspose2d) -> Any:
    nn.init.kaiming_normal_(layer.weight, mode="fan_out")
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


class _MaskPredictor(nn.Module):
    def __init__(self, channels: int, classes: int) -> None:
        self.conv5_mask = _conv_like(nn.ConvTranspose2d(channels, channels, 2, 2))
        self.mask_fcn_logits = _conv_like(nn.Conv2d(channels, classes, 1))

    def forward(self, input: Value) -> Value:
        return self.mask_fcn_logits(F.relu(self.conv5_mask(input)))


class _RoIHeads(nn.Module):
    def __init__(self, boxes: RoIHeads, channels: int, depth: int, classes: int) -> None:
        self.box_head, self.box_predictor = boxes.box_head, boxes.box_predictor
        layers = [_conv_like(nn.Conv2d(channels, channels, 3, padding=1)) for _ in range(depth)]
        self.mask_head = nn.Sequential(*(nn.Sequential(layer, nn.ReLU()) for layer in layers))
        self.mask_predictor = _MaskPredictor(channels, classes)


class MaskRCNN(FasterRCNN):
    """``FasterRCNN`` with a mask for each detection, and ``depth`` convolutions before masks are enlarged.

    ``backbone``, ``channels``, ``num_classes``, ``args`` and ``options`` are the arguments of ``FasterRCNN``.

    Called with the truths, of which ``mask`` bool [N, K, H, W] is one, it returns a fifth loss: the mean over the pixels of the
    masks of proposals with a truth, each of its own class alone, of binary cross-entropy.
    """

    def __init__(
        self, backbone: nn.Module, channels: int, num_classes: int, *args: Any, depth: int = 4, **options: Any
    ) -> None:
        super().__init__(backbone, channels, num_classes, *args, **options)
        self.roi_heads = _RoIHeads(self.roi_heads, channels, depth, num_classes + 1)

    def found(self, seen: tuple[Sequence[Value], int], boxes: Value, present: Value) -> dict[str, Value]:
        maps, _ = seen
        return {**super().found(seen, boxes, present), **{f"map{i}": m for i, m in enumerate(maps)}}

    def losses(self, seen: tuple[Sequence[Value], int], sample: Sample, truth: Mapping[str, Value]) -> dict[str, Value]:
        most = max(int(self.sampled * self.share), 1)  # those with a truth come first
        boxes, own, label = sample.boxes[:, :most], sample.own[:, :most], sample.label[:, :most]
        logits = self._logits(seen, boxes, label)
        counts = F.reshape(F.ge(own, 0), (-1, 1, 1))
        wanted = cut_masks(truth["mask"], boxes, own, logits.shape[-1])
        each = F.binary_cross_entropy_with_logits(logits, F.where(counts, wanted, 0.0), reduction="none")
        pixels = F.maximum(F.sum(F.cast(counts, "float32")), 1.0) * float(logits.shape[1] * logits.shape[2])
        mask = F.sum(F.where(counts, each, 0.0)) / pixels
        return {**super().losses(seen, sample, truth), "mask": mask}

    def _logits(self, seen: tuple[Sequence[Value], int], boxes: Value, label: Value) -> Value:
        """Logits [N * P, M, M] of the masks of ``boxes`` [N, P, 4], each of its ``label`` int64 [N, P], 0 for background."""
        maps, height = seen
        heads = self.roi_heads
        every = heads.mask_predictor(heads.mask_head(aligned(maps, boxes, height, POOLED)))
        k, _, h, w = every.shape
        return F.gather(every, 1, F.expand(F.reshape(label, (k, 1, 1, 1)), (k, 1, h, w)))[:, 0]

    def masks(self, output: Mapping[str, Value], found: Mapping[str, Value], image: Sequence[int]) -> Value:
        """The masks [N, slots, H, W] of detections, probabilities, 0 outside their boxes and in empty slots."""
        n, slots, _ = found["box"].shape
        maps = [output[f"map{i}"] for i in range(self.maps)]
        logits = self._logits((maps, image[0]), found["box"], found["class"] + 1)
        pasted = F.reshape(paste_masks(F.sigmoid(logits), F.reshape(found["box"], (-1, 4)), image), (n, slots, *image))
        return F.where(F.reshape(F.ge(found["class"], 0), (n, slots, 1, 1)), pasted, 0.0)


def cut_masks(masks: Value, boxes: Value, own: Value, size: int) -> Value:
    """``masks`` bool [N, K, H, W] as ``boxes`` [N, P, 4] show them, each that of its truth ``own`` int64 [N, P].

    [N * P, size, size]; what has no truth, -1, gets the first mask.
    """
    n, k, h, w = masks.shape
    number = F.reshape(F.arange(masks.graph, n) * k, (n, 1)) + F.maximum(own, 0)
    rois = F.concat([F.cast(F.reshape(number, (-1, 1)), boxes.dtype), F.reshape(boxes, (-1, 4))], 1)
    return F.roi_align(F.reshape(F.cast(masks, boxes.dtype), (n * k, 1, h, w)), rois, size, 1.0, 1)[:, 0]


def paste_masks(masks: Value, boxes: Value, image: Sequence[int]) -> Value:
    """``masks`` [K, M, M] resized bilinearly to their ``boxes`` [K, 4] in a picture of size ``image`` (H, W): [K, H, W].

    As torchvision does it: masks get a border of one pixel of zeros, and boxes, larger by as much, end at whole pixels.
    """
    size = masks.shape[-1]
    padded, grown = size + 2, (size + 2) / size

    def line(low: Value, high: Value, pixels: int) -> Value:
        """How much of each of a mask's pixels is in each of the picture's, [K, pixels, padded]."""
        middle, half = (low + high) * 0.5, (high - low) * (0.5 * grown)
        first, last = F.trunc(middle - half), F.trunc(middle + half)
        span = F.maximum(last - first + 1.0, 1.0)
        at = F.cast(F.arange(low.graph, pixels), low.dtype) - F.unsqueeze(first, 1)
        inside = F.logical_and(F.ge(at, 0.0), F.lt(at, F.unsqueeze(span, 1)))
        place = F.clamp((at + 0.5) * F.unsqueeze(padded / span, 1) - 0.5, 0.0, float(padded - 1))
        near = F.relu(1.0 - F.abs(F.unsqueeze(place, 2) - F.cast(F.arange(low.graph, padded), low.dtype)))
        return F.where(F.unsqueeze(inside, 2), near, 0.0)[:, :, 1:-1]  # the border adds nothing

    rows, columns = line(boxes[:, 1], boxes[:, 3], image[0]), line(boxes[:, 0], boxes[:, 2], image[1])
    return F.matmul(F.matmul(rows, masks), F.movedim(columns, 1, 2))


def maskrcnn_resnet50_fpn(num_classes: int = 90) -> nn.Module:
    """[N, 3, H, W] -> what ``MaskRCNN`` returns; 44,454,513 parameters with 90 classes.

    He et al., "Mask R-CNN", ICCV 2017. Names of parameters are torchvision's, whose ``num_classes`` counts the background.
    """
    return MaskRCNN(resnet50_fpn(), 256, num_classes, SIZES)

"""Detectors with torchvision's names beside torchvision's own with the same random weights, before and after suppression."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import INTERPRETED

import graphrt as grt
from graphrt import models, nn

torch = pytest.importorskip("torch")
detection = pytest.importorskip(
    "torchvision.models.detection",
    reason="needs a torchvision that goes with this torch",
    exc_type=(ImportError, RuntimeError),  # type: ignore[arg-type]
)
from torch.nn import functional as F  # noqa: E402
from torchvision.models.detection.image_list import ImageList  # noqa: E402
from torchvision.models.detection.roi_heads import paste_masks_in_image  # noqa: E402

pytestmark = [pytest.mark.proof, pytest.mark.skipif(INTERPRETED, reason="whole networks take too long interpreted")]
CLASSES = 5  # and a background


class Both(nn.Module):
    """What a network says of each box, and what is kept of that."""

    def __init__(self, net: Any, **options: Any) -> None:
        self.net, self.options = net, options

    def forward(self, input: grt.Value) -> dict[str, Any]:
        output, whole = self.net(input), models.Detector(self.net, **self.options)
        return {**output, "found": whole.kept(output, input.shape[2:])}


def pair(name: str, size: tuple[int, int], **options: Any) -> tuple[Any, Any, Any]:
    """torchvision's network and ours, of the same random weights, by which classes differ, and a picture."""
    torch.manual_seed(0)
    same: dict[str, Any] = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}
    same |= {} if name.startswith("ssd") else {"min_size": min(size), "max_size": max(size)}
    counted = CLASSES + (not name.startswith("retinanet"))
    theirs = getattr(detection, name)(weights=None, weights_backbone=None, num_classes=counted, **same, **options).eval()
    for key, value in theirs.state_dict().items():
        if key.endswith("running_var"):
            value.uniform_(0.8, 1.2)
        elif key.endswith("bn3.weight"):
            value.fill_(0.2)  # or a random trunk of 50 layers makes hundreds
        elif key == "roi_heads.box_predictor.cls_score.weight":
            value.normal_(0.0, 0.3)
        elif name.startswith("retinanet") and "classification_head" in key:
            value.normal_(0.0, 0.04) if value.ndim > 1 else value.fill_(-4.0 if "logits" in key else 0.0)
    with nn.init.skip_init():
        ours = getattr(models, name)(CLASSES).eval()
    report = grt.load_weights(ours, theirs.state_dict())
    assert not report.missing and not report.unexpected and not report.mismatched
    return theirs, ours, torch.randn(1, 3, *size)


def compared(found: dict[str, np.ndarray], theirs: dict[str, Any], offset: int) -> int:
    """Compares the detections of a picture; classes are ``offset`` higher in torchvision. Returns how many there are."""
    count = len(theirs["scores"])
    assert (found["class"][0] >= 0).sum() == count
    np.testing.assert_allclose(found["score"][0, :count], theirs["scores"], atol=1e-4)
    np.testing.assert_array_equal(found["class"][0, :count] + offset, theirs["labels"])
    np.testing.assert_allclose(found["box"][0, :count], theirs["boxes"], rtol=1e-4, atol=1e-4)
    return count


@pytest.mark.parametrize("name", ["fasterrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn"])
@torch.no_grad()
def test_detectors_of_regions(name: str) -> None:
    """Proposals, what is said of them, the detections that are kept, and their masks, in 28x28 and in the picture."""
    size = (128, 160)
    theirs, ours, x = pair(name, size, rpn_post_nms_top_n_test=60, box_detections_per_img=300)
    ours.proposals = 60
    found = grt.compile(
        Both(ours, score_threshold=0.05, iou_threshold=0.5, candidates=300, slots=300), x.numpy(), target="cpu"
    )(x.numpy())
    maps = theirs.backbone(x)
    (proposals,), _ = theirs.rpn(ImageList(x, [size]), maps)
    assert found["present"].sum() == len(proposals) == 60
    np.testing.assert_allclose(found["proposals"][0], proposals, rtol=1e-4, atol=1e-4)
    heads = theirs.roi_heads
    logits, deltas = heads.box_predictor(heads.box_head(heads.box_roi_pool(maps, [proposals], [size])))
    np.testing.assert_allclose(found["logits"][0], logits, atol=1e-4)
    np.testing.assert_allclose(found["deltas"][0].reshape(60, -1), deltas, atol=1e-4)
    (kept,), _ = heads(maps, [proposals], [size])
    count = compared(found["found"], kept, 1)
    assert 10 < count < 300 and len(set(kept["labels"].tolist())) > 1
    if "masks" in kept:
        masks = paste_masks_in_image(kept["masks"], kept["boxes"], size)[:, 0]
        np.testing.assert_allclose(found["found"]["mask"][0, :count], masks, atol=1e-4)
        assert 0.01 < masks.mean() < 0.99 and not found["found"]["mask"][0, count:].any()


@pytest.mark.parametrize("name", ["ssd300_vgg16", "retinanet_resnet50_fpn"])
@torch.no_grad()
def test_detectors_of_anchors(name: str) -> None:
    ssd = name.startswith("ssd")
    size = (300, 300) if ssd else (128, 160)
    theirs, ours, x = pair(name, size, score_thresh=0.5, nms_thresh=0.45, detections_per_img=1000)
    both = Both(ours, score_threshold=0.5, iou_threshold=0.45, candidates=1000, slots=1000)
    found = grt.compile(both, x.numpy(), target="cpu")(x.numpy())
    maps = list(theirs.backbone(x).values())
    heads = theirs.head(maps)
    np.testing.assert_allclose(found["logits"], heads["cls_logits"], atol=1e-4)
    np.testing.assert_allclose(found["deltas"], heads["bbox_regression"], atol=1e-4)
    (anchors,) = theirs.anchor_generator(ImageList(x, [size]), maps)
    np.testing.assert_allclose(found["anchors"], anchors, atol=1e-4)
    scores = F.softmax(heads["cls_logits"], -1)[..., 1:] if ssd else F.sigmoid(heads["cls_logits"])
    assert (scores > 0.5).sum((0, 1)).max() <= 400, "more would be too many for a class, as torchvision counts candidates"
    (kept,) = theirs(x)
    assert 10 < compared(found["found"], kept, int(ssd)) < 1000

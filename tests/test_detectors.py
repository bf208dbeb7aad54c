"""Detectors and segmentation networks: sizes and counts of the papers, losses by loops, and a training step of small ones."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import INTERPRETED, assert_close
from test_detection import drawn, matched, overlaps
from test_functional import TARGET

import graphrt as grt
import graphrt.ops as F
from graphrt import models, nn, optim
from graphrt.data import scenes, selective_search
from graphrt.errors import ArgumentError, ShapeError
from graphrt.models.fcn import _bilinear
from graphrt.models.fpn import FPN, Pyramid, SmallMaps
from graphrt.models.mask_rcnn import cut_masks, paste_masks
from graphrt.models.regions import SMALLEST, WEIGHTS, RegionNet, aligned, sampled
from graphrt.models.ssd import box_loss
from graphrt.targets.reference.evaluate import evaluate
from graphrt.train import pictures, tasks
from graphrt.train.batch import Batch, spec_of

pytestmark = [pytest.mark.interpret] if INTERPRETED else []
only_here = pytest.mark.skipif(INTERPRETED, reason="no kernel is run, or whole networks, which take too long interpreted")
BIG: dict[str, tuple[Any, int, tuple[int, ...]]] = {
    "yolo_v1": (models.yolo_v1, 271_703_550, (3, 448, 448)),
    "ssd300_vgg16": (models.ssd300_vgg16, 35_641_826, (3, 300, 300)),
    "retinanet_resnet50_fpn": (models.retinanet_resnet50_fpn, 34_068_119, (3, 128, 160)),
    "fasterrcnn_resnet50_fpn": (models.fasterrcnn_resnet50_fpn, 41_808_406, (3, 128, 160)),
    "maskrcnn_resnet50_fpn": (models.maskrcnn_resnet50_fpn, 44_454_513, (3, 128, 160)),
    "fastrcnn_vgg16": (models.fastrcnn_vgg16, 134_690_729, (3, 96, 128)),
    "rcnn_alexnet": (models.rcnn_alexnet, 59_141_609, (3, 96, 128)),
}


@only_here
@pytest.mark.parametrize("name", BIG)
def test_published_networks(name: str) -> None:
    build, count, shape = BIG[name]
    with nn.init.skip_init():
        net = build()
    assert nn.count_parameters(net) == count
    graph = grt.Graph()
    given = {"proposals": graph.input("p", (1, 5, 4))} if name in ("fastrcnn_vgg16", "rcnn_alexnet") else {}
    found = net.eval()(graph.input("x", (1, *shape)), **given)
    if given:
        assert found["logits"].shape == (1, 5, 21) and found["deltas"].shape == (1, 5, 21, 4)
        return
    if name == "yolo_v1":
        assert found.shape == (1, 7, 7, 30)
        assert sum(isinstance(m, nn.Conv2d) for m in net.modules()) == 24
        return
    if name.startswith(("faster", "mask")):
        shapes = {n: v.shape for n, v in found.items() if not n.startswith("map")}
        few = 3 * sum(h * w for h, w in ((32, 40), (16, 20), (8, 10), (4, 5), (2, 3)))  # no more than 2000 are candidates
        slots = min(few, 1000)
        assert shapes == {
            "proposals": (1, slots, 4),
            "present": (1, slots),
            "logits": (1, slots, 91),
            "deltas": (1, slots, 91, 4),
        }
        return
    classes, maps = (91, [(16, 20), (8, 10), (4, 5), (2, 3), (1, 2)]) if name.startswith("retinanet") else (91, [])
    boxes = 9 * sum(h * w for h, w in maps) or 8732
    assert found["logits"].shape == (1, boxes, classes)
    assert found["deltas"].shape == (1, boxes, 4) and found["anchors"].shape == (boxes, 4)


@only_here
def test_fully_convolutional_networks_take_any_size() -> None:
    for stride, shape in ((8, (45, 61)), (32, (33, 20)), (4, (64, 64)), (2, (7, 9))):
        net = models.FCN(5, stride, ((4,), (6,), (8, 8), (8,), (8,)), head=8, head_kernel=3)
        assert net(grt.Graph().input("x", (2, 3, *shape))).shape == (2, 5, *shape)
    with pytest.raises(ArgumentError, match="power of two"):
        models.FCN(5, 3)
    with pytest.raises(ShapeError, match="even sizes"):
        models.unet()(grt.Graph().input("x", (1, 1, 570, 572)))


def test_scores_are_enlarged_bilinearly() -> None:
    """As torch's interpolation away from the edges, where that repeats the last pixel and a transposed convolution fades."""

    x = np.random.default_rng(0).standard_normal((1, 2, 5, 6)).astype(np.float32)
    for stride, fixed in ((2, False), (4, True)):
        found = grt.compile(_bilinear(2, stride, fixed), (x,), target=TARGET)(x)
        wanted = torch.nn.functional.interpolate(torch.from_numpy(x), scale_factor=stride, mode="bilinear").numpy()
        inner = (..., slice(stride, -stride), slice(stride, -stride))
        np.testing.assert_allclose(found[inner], wanted[inner], atol=1e-5)


def test_anchors_by_hand() -> None:
    found = models.anchor_boxes((32, 48), [(2, 3), (1, 1)], [[16.0], [32.0, 40.0]], (0.5, 1.0))
    assert found.shape == (2 * 3 * 2 + 4, 4)
    np.testing.assert_array_equal(found[0], [-11, -6, 11, 6])  # 16 * sqrt(2) wide, 16 / sqrt(2) high, rounded
    np.testing.assert_array_equal(found[1], [-8, -8, 8, 8])
    np.testing.assert_array_equal(found[3], [8, -8, 24, 8])  # a column further
    np.testing.assert_array_equal(found[7], [-8, 8, 8, 24])  # a row further
    boxes = models.default_boxes((100, 200), [(1, 2)], [(4,)], (0.25, 1.0))
    np.testing.assert_allclose(
        boxes[:4], [[25, 37.5, 75, 62.5], [0, 25, 100, 75], [0, 43.75, 100, 56.25], [37.5, 25, 62.5, 75]]
    )
    np.testing.assert_allclose(boxes[4:] - boxes[:4], [[100, 0, 100, 0]] * 4)
    with pytest.raises(ArgumentError):
        models.anchor_boxes((8, 8), [(1, 1)], [])
    with pytest.raises(ArgumentError):
        models.default_boxes((8, 8), [(1, 1)], [(2,)], (0.2,))


def test_boxes_of_each_class_are_kept() -> None:
    rng = np.random.default_rng(1)
    boxes, scores = drawn(rng, 1, 4, 2), np.array([[[0.9, 0.1], [0.2, 0.8], [0.0, 0.0], [0.0, 0.7]]], np.float32)
    graph = grt.Graph()
    for name, value in models.kept(graph.input("b", boxes.shape), graph.input("s", scores.shape), 0.5, 1.0, 8, 4).items():
        graph.output(name, value)
    out = grt.compile(graph, target=TARGET)(b=boxes, s=scores)
    assert out["anchor"].tolist() == [[0, 1, 3, -1]] and out["class"].tolist() == [[0, 1, 1, -1]]
    np.testing.assert_array_equal(out["box"][0, :3], boxes[0, [0, 1, 3], [0, 1, 1]])


def test_what_a_detector_keeps() -> None:
    rng = np.random.default_rng(0)
    boxes, scores = drawn(rng, 2, 15), rng.permutation(2 * 15 * 3).reshape(2, 15, 3).astype(np.float32) / 90
    graph = grt.Graph()
    found = models.kept(graph.input("b", boxes.shape), graph.input("s", scores.shape), 0.4, 0.0, 12, 11)
    for name, value in found.items():
        graph.output(name, value)
    out = grt.compile(graph, target=TARGET)(b=boxes, s=scores)
    assert (out["class"][:, -1] == -1).all(), "there are more slots than boxes left"
    for i in range(2):
        best = sorted(((s, a, k) for (a, k), s in np.ndenumerate(scores[i]) if s > 0.4), reverse=True)[:12]
        left: list[tuple[float, int, int]] = []
        for s, a, k in best:
            if all(k != other or overlaps(boxes[i, a], boxes[i, b])[0] <= 0.0 for _, b, other in left):
                left.append((s, a, k))
        count = len(left)
        assert out["anchor"][i].tolist() == [a for _, a, _ in left][:11] + [-1] * (11 - count)
        assert out["class"][i].tolist() == [k for *_, k in left][:11] + [-1] * (11 - count)
        np.testing.assert_array_equal(out["box"][i, :count], boxes[i, [a for _, a, _ in left][:11]])
        np.testing.assert_allclose(out["score"][i, :count], [s for s, *_ in left][:11])
        assert not out["box"][i, count:].any() and not out["score"][i, count:].any()


# --- losses --------------------------------------------------------------------------------------------------------


def truths(size: int = 64, slots: int = 4) -> dict[str, np.ndarray]:
    """Of two pictures, of which the first has two truths in the same cell of a grid, and the second one."""
    box = np.zeros((2, slots, 4), np.float32)
    box[0, :3] = [[4, 6, 24, 30], [10, 12, 20, 22], [30, 30, 62, 50]]
    box[1, 0] = [5, 40, 15, 60]
    label = np.full((2, slots), -1)
    label[0, :3], label[1, 0] = [2, 0, 1], 1
    return {"present": label >= 0, "class": label, "box": box * (size / 64)}


def given(graph: grt.Graph, feeds: dict[str, np.ndarray], prefix: str, arrays: dict[str, np.ndarray]) -> dict[str, grt.Value]:
    feeds.update({f"{prefix}{name}": array for name, array in arrays.items()})
    return {name: graph.input(f"{prefix}{name}", array.shape, array.dtype) for name, array in arrays.items()}


def run(loss: Any, output: Any, target: dict[str, np.ndarray], names: list[str]) -> dict[str, np.ndarray]:
    """The parts of a loss and the gradient of their sum, on the target of this process, compared with the reference."""
    graph, feeds = grt.Graph(), dict[str, np.ndarray]()
    found = given(graph, feeds, "o.", output)
    true = given(graph, feeds, "t.", target)
    one = found["all"] if "all" in output else found
    for name, value in loss.parts(one, true).items():
        graph.output(name, value)
    total = loss(one, true)
    for name, g in zip(names, grt.grad(total, [found[n] for n in names]), strict=True):
        graph.output(f"d {name}", g)
    out = grt.compile(graph, target=TARGET)(feeds)
    exact = evaluate(graph, {**graph.initial, **feeds})
    for name, value in graph.outputs.items():
        assert_close(out[name], exact[value], 100, name)
    return out


def test_the_loss_of_yolo() -> None:
    rng = np.random.default_rng(1)
    size, s, b, c = 64, 3, 2, 3
    output, target = rng.uniform(0.05, 0.9, (2, s, s, 5 * b + c)).astype(np.float32), truths(size)
    out = run(models.YOLOLoss(b, size), {"all": output}, target, ["all"])
    expected = dict.fromkeys(models.YOLOLoss.names, 0.0)
    for n in range(2):
        owner: dict[tuple[int, int], int] = {}
        for k in np.flatnonzero(target["present"][n]):
            x1, y1, x2, y2 = target["box"][n, k] * s / size
            owner[int((y1 + y2) / 2), int((x1 + x2) / 2)] = k
        assert len(owner) == 2 - n, "two truths of the first picture share a cell"
        for i, j in np.ndindex(s, s):
            five = output[n, i, j, : 5 * b].reshape(b, 5).astype(np.float64)
            if (i, j) not in owner:
                expected["no_object"] += 0.5 * (five[:, 4] ** 2).sum()
                continue
            box = target["box"][n, owner[i, j]].astype(np.float64)
            centre, sides = (box[:2] + box[2:]) / 2 * s / size, (box[2:] - box[:2]) / size
            mine = []
            for x, y, w, h, _ in five:
                cx, cy = (j + x) * size / s, (i + y) * size / s
                mine.append(overlaps(np.array([cx - w * w * 32, cy - h * h * 32, cx + w * w * 32, cy + h * h * 32]), box)[0])
            best = int(np.argmax(mine))
            expected["centre"] += 5 * ((five[best, :2] - (centre - [j, i])) ** 2).sum()
            expected["size"] += 5 * ((five[best, 2:4] - np.sqrt(sides)) ** 2).sum()
            expected["object"] += (five[best, 4] - mine[best]) ** 2
            expected["no_object"] += 0.5 * (np.delete(five[:, 4], best) ** 2).sum()
            wanted = np.eye(c)[target["class"][n, owner[i, j]]]
            expected["class"] += ((output[n, i, j, 5 * b :] - wanted) ** 2).sum()
    for name, value in expected.items():
        assert out[name] == pytest.approx(value / 2, rel=1e-4), name


def test_the_boxes_and_scores_of_yolo() -> None:
    with nn.init.skip_init():
        net = models.YOLO(3, 2, 1, 32, ((4, 3, 1), None), 4)
    output = np.zeros((1, 2, 2, 8), np.float32)
    output[0, 1, 0] = [0.25, 0.5, 0.5, 0.25, 0.8, 0.1, 0.7, 0.2]
    graph = grt.Graph()
    for name, value in zip(("box", "score"), net.scored(graph.input("o", output.shape), (32, 64)), strict=True):
        graph.output(name, value)
    out = grt.compile(graph, target=TARGET)(o=output)
    np.testing.assert_allclose(out["box"][0, 2], [8 - 8, 24 - 1, 8 + 8, 24 + 1], atol=1e-5)
    np.testing.assert_allclose(out["score"][0, 2], [0.08, 0.56, 0.16], rtol=1e-6)


def anchored(kind: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray]:
    rng = np.random.default_rng(2)
    anchors = models.anchor_boxes((64, 64), [(8, 8), (4, 4)], [[12.0], [22.0]], (1.0, 2.0))
    logits = rng.standard_normal((2, len(anchors), 4 if kind == "ssd" else 3)).astype(np.float32)
    deltas = rng.standard_normal((2, len(anchors), 4)).astype(np.float32)
    target = truths()
    iou = np.array([[[overlaps(t, a)[0] if (t[2:] > t[:2]).all() else 0.0 for a in anchors] for t in p] for p in target["box"]])
    return {"logits": logits, "deltas": deltas, "anchors": anchors}, target, iou


def smooth(
    output: dict[str, np.ndarray], target: dict[str, np.ndarray], n: int, a: int, k: int, scale: Any, beta: float
) -> float:
    own, box = output["anchors"][a].astype(np.float64), target["box"][n, k].astype(np.float64)
    size, to = own[2:] - own[:2], box[2:] - box[:2]
    wanted = np.concatenate([((box[:2] + box[2:]) - (own[:2] + own[2:])) / 2 / size, np.log(to / size)]) * scale
    d = np.abs(output["deltas"][n, a] - wanted)
    return float(np.where(d < beta, d * d / 2 / beta, d - beta / 2).sum())


def test_the_loss_of_ssd() -> None:
    output, target, iou = anchored("ssd")
    out = run(models.SSDLoss(), output, target, ["logits", "deltas"])
    classes = boxes = 0.0
    positive = 0
    for n in range(2):
        found = matched(iou[n].astype(np.float32), target["present"][n], 0.5, 0.5, "best")
        label = [0 if k < 0 else target["class"][n, k] + 1 for k in found]
        wide = output["logits"][n].astype(np.float64)
        each = np.log(np.exp(wide).sum(1)) - wide[np.arange(len(label)), label]
        own = [a for a, k in enumerate(found) if k >= 0]
        hard = sorted((each[a] for a, k in enumerate(found) if k < 0), reverse=True)[: 3 * len(own)]
        classes += each[own].sum() + sum(hard)
        boxes += sum(smooth(output, target, n, a, found[a], [10, 10, 5, 5], 1.0) for a in own)
        positive += len(own)
    assert positive > 4
    assert out["class"] == pytest.approx(classes / positive, rel=1e-4)
    assert out["box"] == pytest.approx(boxes / positive, rel=1e-4)


def test_the_loss_of_retinanet() -> None:
    output, target, iou = anchored("retinanet")
    out = run(models.RetinaNetLoss(beta=0.5), output, target, ["logits", "deltas"])
    classes = boxes = 0.0
    positive = between = 0
    for n in range(2):
        found = matched(iou[n].astype(np.float32), target["present"][n], 0.5, 0.4, "ties")
        for a, k in enumerate(found):
            between += k == -2
            for c in range(3) if k != -2 else ():
                p = 1 / (1 + math.exp(-output["logits"][n, a, c]))
                true = k >= 0 and target["class"][n, k] == c
                classes += -0.25 * (1 - p) ** 2 * math.log(p) if true else -0.75 * p**2 * math.log(1 - p)
            if k >= 0:
                boxes += smooth(output, target, n, a, k, 1.0, 0.5)
                positive += 1
    assert positive > 4 and between
    assert out["class"] == pytest.approx(classes / positive, rel=1e-4)
    assert out["box"] == pytest.approx(boxes / positive, rel=1e-4)


def test_boxes_that_are_empty_have_no_part_in_a_loss() -> None:
    """Neither an anchor without area, nor a truth; an infinity that is masked behind the loss would make its gradient NaN."""
    anchors = np.array([[[1, 1, 5, 7], [0, 0, 0, 0], [2, 2, 6, 6]]], np.float32)
    found, boxes = np.array([[1, -1, -1]]), np.array([[[0, 0, 0, 0], [1, 2, 6, 8]]], np.float32)
    graph = grt.Graph()
    deltas = graph.input("d", (1, 3, 4))
    a, f, b = graph.input("a", anchors.shape), graph.input("f", found.shape, "int64"), graph.input("b", boxes.shape)
    graph.output("dd", grt.grad(box_loss(deltas, a, b, f, (1.0,) * 4), [deltas])[0])
    out = grt.compile(graph, target=TARGET)(d=np.ones((1, 3, 4), np.float32), a=anchors, f=found, b=boxes)["dd"]
    np.testing.assert_allclose(out[0, 0], 1 - np.array([0.5 / 4, 1 / 6, np.log(5 / 4), np.log(6 / 6)]), rtol=1e-5)
    assert not out[0, 1:].any()


def test_samples_of_anchors_and_proposals() -> None:
    """As many as asked for where there are enough, positives up to their share, none of those that are neither."""
    found = np.full((3, 40), -1)
    found[0, :20], found[0, 30:] = 2, -2
    found[1, 5:8] = 0
    found[2, :] = -2
    found[2, 3] = 1
    graph = grt.Graph()
    graph.output("chosen", sampled(graph.input("found", found.shape, "int64"), 12, 0.5))
    program = grt.compile(graph, target=TARGET)
    runs = [program(found=found)["chosen"] for _ in range(3)]
    for chosen in runs:
        assert chosen.sum(1).tolist() == [12, 12, 1] and not chosen[found == -2].any()
        assert (chosen & (found >= 0)).sum(1).tolist() == [6, 3, 1]
    assert not np.array_equal(runs[0], runs[1])


class Judge(RegionNet):
    """Says of a box what a linear layer makes of its corners."""

    num_classes, sampled, lowest, share = 3, 20, 0.1, 1.0

    def __init__(self, by_class: np.ndarray) -> None:
        self.by_class = by_class  # [4, 4 + 16]

    def seen(self, input: grt.Value) -> None:
        return None

    def judged(self, seen: None, boxes: grt.Value) -> tuple[grt.Value, grt.Value]:
        said = F.matmul(boxes, boxes.graph.constant(self.by_class))
        return said[..., :4], F.reshape(said[..., 4:], (*boxes.shape[:2], 4, 4))


def test_the_losses_and_scores_of_regions() -> None:
    """All proposals and truths are in the sample, which is larger, but for those that overlap no truth by 0.1."""
    rng = np.random.default_rng(3)
    net, target = Judge(rng.standard_normal((4, 20)).astype(np.float32) / 40), truths()
    boxes = drawn(rng, 2, 9, size=64.0)
    boxes[:, :3] = target["box"][:, :1] + rng.uniform(-3, 3, (2, 3, 4)).astype(np.float32)
    boxes[0, 5:] = 0.0
    graph, feeds = grt.Graph(), {"p": boxes}
    true, given_boxes = given(graph, feeds, "t.", target), graph.input("p", boxes.shape)
    image = graph.input("x", (2, 3, 64, 64))
    for name, value in net(image, given_boxes, **true).items():
        graph.output(name, value)
    for name, value in zip(("boxes", "scores"), net.scored(net(image, given_boxes), (40, 50)), strict=True):
        graph.output(name, value)
    out = grt.compile(graph, target=TARGET)(x=np.zeros((2, 3, 64, 64), np.float32), **feeds)
    classes = regression = count = left_out = 0.0
    for n in range(2):
        own = [k for k in range(4) if target["present"][n, k]]
        for box in [*(b for b in boxes[n] if b.any()), *target["box"][n, own]]:
            best = max(own, key=lambda k: overlaps(target["box"][n, k], box)[0])
            iou = overlaps(target["box"][n, best], box)[0]
            if iou < 0.1:
                left_out += 1
                continue
            label = target["class"][n, best] + 1 if iou >= 0.5 else 0
            said = box.astype(np.float64) @ net.by_class
            classes += np.log(np.exp(said[:4]).sum()) - said[label]
            count += 1
            if label:
                deltas = {"deltas": said[4:].reshape(4, 4)[label][None, None], "anchors": box[None]}
                regression += smooth(deltas, {"box": target["box"][n : n + 1]}, 0, 0, best, WEIGHTS, 1.0)
    assert left_out and regression
    assert out["class"] == pytest.approx(classes / count, rel=1e-4)
    assert out["box"] == pytest.approx(regression / count, rel=1e-4)
    said = boxes @ net.by_class
    share = np.exp(said[..., :4]) / np.exp(said[..., :4]).sum(-1, keepdims=True)
    sides = np.minimum(*(out["boxes"][..., i + 2] - out["boxes"][..., i] for i in range(2)))
    there = boxes.any(-1, keepdims=True) & (sides >= SMALLEST)
    np.testing.assert_allclose(out["scores"], np.where(there, share[..., 1:], 0.0), atol=1e-5)
    assert there.any() and not there.all() and (out["boxes"] >= 0).all() and (out["boxes"] <= [50, 40, 50, 40]).all()


def test_masks_are_cut_out_and_pasted() -> None:
    """Beside loops: a mask with a border of zeros is resized to whole pixels, at the edge of the picture cut off."""
    rng = np.random.default_rng(5)
    masks, size = rng.random((4, 6, 6)).astype(np.float32), (17, 20)
    boxes = np.array([[3.2, 4.1, 11.7, 9.5], [-2.0, 8.0, 6.0, 16.9], [15.3, 0.0, 19.9, 16.0], [5, 5, 5, 5]], np.float32)
    truth, own = rng.random((1, 2, *size)) < 0.5, np.array([[1, 0, 1, -1]])
    graph = grt.Graph()
    m, b = graph.input("m", masks.shape), graph.input("b", boxes.shape)
    graph.output("pasted", paste_masks(m, b, size))
    t, o = graph.input("t", truth.shape, "bool"), graph.input("o", own.shape, "int64")
    graph.output("cut", cut_masks(t, F.unsqueeze(b, 0), o, 5))
    out = grt.compile(graph, target=TARGET)(m=masks, b=boxes, t=truth, o=own)
    for k in range(4):
        wide = np.pad(masks[k].astype(np.float64), 1)
        middle, half = (boxes[k, :2] + boxes[k, 2:]) / 2, (boxes[k, 2:] - boxes[k, :2]) / 2 * (8 / 6)
        (x1, y1), (x2, y2) = (np.trunc(c).astype(int) for c in (middle - half, middle + half))
        w, h = max(x2 - x1 + 1, 1), max(y2 - y1 + 1, 1)
        large = torch.nn.functional.interpolate(torch.from_numpy(wide)[None, None], (h, w), mode="bilinear")[0, 0]
        wanted = np.zeros(size)
        for i, j in np.ndindex(size):
            if 0 <= i - y1 < h and 0 <= j - x1 < w:
                wanted[i, j] = large[i - y1, j - x1]
        np.testing.assert_allclose(out["pasted"][k], wanted, atol=1e-5)
    for k in range(3):
        x1, y1, x2, y2 = boxes[k]
        plane = truth[0, own[0, k]]
        for i, j in np.ndindex(5, 5):
            y, x = y1 + (y2 - y1) * (i + 0.5) / 5, x1 + (x2 - x1) * (j + 0.5) / 5
            p, q = int(max(min(y, 15.999), 0)), int(max(min(x, 18.999), 0))
            u, v = min(max(y, 0.0), 16.0) - p, min(max(x, 0.0), 19.0) - q
            corner = plane[p : p + 2, q : q + 2].astype(np.float64)
            inside = -1 <= y <= 17 and -1 <= x <= 20
            value = float((np.array([1 - u, u]) @ corner @ np.array([1 - v, v])).item()) if inside else 0.0
            assert out["cut"][k, i, j] == pytest.approx(value, abs=1e-4)


def test_regions_are_pooled_from_the_map_of_their_size() -> None:
    """A box of 224 pixels is cut out of a map of a sixteenth, one half as large of that of an eighth."""
    graph = grt.Graph()
    maps = [graph.constant(np.full((1, 1, 512 // s, 512 // s), s, np.float32)) for s in (4, 8, 16, 32)]
    sides = np.array([20, 111, 113, 223, 225, 447, 449, 0], np.float32)
    boxes = np.stack([sides * 0, sides * 0, sides, sides], -1)[None]
    graph.output("out", aligned(maps, graph.input("b", boxes.shape), 512, 2))
    assert grt.compile(graph, target=TARGET)(b=boxes)["out"][:, 0, 0, 0].tolist() == [4, 4, 8, 8, 16, 16, 32, 4]


# --- training ------------------------------------------------------------------------------------------------------

SMALL: dict[str, tuple[Any, Any]] = {
    "fcn": (lambda: models.FCN(4, 2, ((6,), (8,)), head=8, head_kernel=3, dropout=0.0), nn.CrossEntropyLoss()),
    "unet": (lambda: models.UNet(3, 4, 4, 2, padded=True), nn.CrossEntropyLoss()),
    "yolo": (
        lambda: models.YOLO(3, 4, 2, 32, ((6, 3, 1), None, (8, 3, 1), None, (8, 3, 1), None), 16, 0.0),
        models.YOLOLoss(2, 32),
    ),
    "ssd": (lambda: models.SSD(SmallMaps((4, 6, 8), 2), (6, 8), 3, ((2,), (2,)), (0.2, 0.4, 0.6)), models.SSDLoss()),
    "retinanet": (
        lambda: models.RetinaNet(Pyramid(SmallMaps((4, 6, 8), 2), FPN((6, 8), 6)), 6, 3, [[10.0], [16.0]], depth=1),
        models.RetinaNetLoss(),
    ),
    "faster_rcnn": (
        lambda: models.FasterRCNN(
            Pyramid(SmallMaps((4, 6, 8), 2), FPN((6, 8), 6)), 6, 3, [[10.0], [16.0]], (1.0,), (24, 8), (24, 8), (2, 8)
        ),
        models.SumOfLosses(),
    ),
    "mask_rcnn": (
        lambda: models.MaskRCNN(
            Pyramid(SmallMaps((4, 6), 2), FPN((4, 6), 4)), 4, 3, [[10.0], [16.0]], (1.0,), (24, 8), (24, 8), (1, 8), depth=1
        ),
        models.SumOfLosses(("objectness", "rpn_box", "class", "box", "mask")),
    ),
    "fast_rcnn": (
        lambda: models.FastRCNN(nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU()), 6, 3, 2, 4, 8, 32, 0.0),
        models.SumOfLosses(("class", "box")),
    ),
    "rcnn": (
        lambda: models.RCNN(nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU()), 6 * 36, nn.Linear(6 * 36, 8), 8, 3, 12, 1, 32),
        models.SumOfLosses(("class", "box")),
    ),
}


LONG = {"retinanet", "faster_rcnn", "mask_rcnn"}  # to compile


@only_here
@pytest.mark.usefixtures("optimized")  # whose vectors add up several sums side by side
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.proof] if n in LONG else []) for n in SMALL])
def test_a_training_step(name: str) -> None:
    """One program: gradients are those of the float64 reference, and the loss falls."""
    build, loss = SMALL[name]
    nn.init.manual_seed(0)
    drawn = scenes(8, 32, 3, seed=3)
    y = drawn.y["label"] if name in ("fcn", "unet") else {n: drawn.y[n] for n in ("present", "class", "box")}
    x: Any = drawn.x
    if name.endswith("rcnn"):
        extra = {"mask_rcnn": {"mask": drawn.y["mask"]}, "faster_rcnn": {}}
        x = {"input": x, **y, **extra.get(name, {"proposals": selective_search(drawn.x, 8)})}
    trainer = grt.Trainer(build(), loss, optim.SGD(0.02), metrics=(), target="cpu")
    graph = trainer.training_graph(spec_of(x), spec_of(y))
    named = {**Batch(x, y).named(), "lr": 1.0}
    exact = evaluate(graph, {**graph.initial, **named})
    program = grt.compile(graph, target="cpu")
    found = program(named)
    assert found["loss"] == pytest.approx(float(exact[graph.outputs["loss"]]), rel=1e-5)
    steps = {n: (program.state[n] - graph.initial[n], exact[v] - graph.initial[n]) for n, v in graph.updates.items()}
    largest = max(float(np.abs(wanted).max()) for _, wanted in steps.values())
    for n, (step, wanted) in steps.items():
        np.testing.assert_allclose(step, wanted, rtol=2e-3, atol=2e-4 * largest, err_msg=n)
    losses = [trainer.step(x, y)["loss"] for _ in range(4)]
    assert losses[-1] < losses[0], losses


class Scores(nn.Module):
    """Scores for each ``stride`` pixels of ``count`` pictures, free of any network, enlarged as those of an FCN."""

    def __init__(self, count: int, size: int, stride: int) -> None:
        self.scores = nn.Parameter(np.zeros((count, 4, -(-size // stride), -(-size // stride)), np.float32))
        self.enlarge, self.size = _bilinear(4, stride, fixed=True), size

    def forward(self, input: Any) -> Any:
        return self.enlarge(self.scores.value(input.graph))[:, :, : self.size, : self.size]


@only_here
@pytest.mark.proof
def test_how_fine_a_mask_can_be_by_stride() -> None:
    """docs/detection.md: the mean IoU of scores that are fitted to the masks, which no network of that stride can surpass."""
    found = {}
    scene, shape = scenes(12, 48, seed=1).y["label"], tasks.get("fcn32s").pictures(4, 1).y
    for name, stride, label in (("8", 8, scene), ("16", 16, scene), ("32", 32, scene), ("32 of 256", 32, shape)):
        count, size = label.shape[:2]
        trainer = grt.Trainer(Scores(count, size, stride), nn.CrossEntropyLoss(), optim.Adam(0.5), metrics=["mean_iou"])
        given = np.zeros((count, 1), np.float32)
        for _ in range(120):
            trainer.step(given, label)
        found[name] = trainer.evaluate((given, label), count)["mean_iou"]
    assert found["32"] < 0.4 < found["16"] < 0.7 < found["8"] < 0.93 < found["32 of 256"], found


@only_here
def test_tasks_make_what_training_and_prediction_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = tasks.get("ssd")
    trainer, held = task.trainer(seed=1, target="cpu"), task.held_out(1, 4)
    assert set(held.y) == {"present", "class", "box"} and held.x.shape == (4, 3, 64, 64)
    assert not np.array_equal(held.x, task.pictures(4, 2).x), "training sees other pictures"
    compiled = []
    monkeypatch.setattr("graphrt.nn.by_shape.compile_graph", lambda *a, **k: compiled.append(a) or grt.compile(*a, **k))
    before = task.predict(trainer, held.x)
    for p in trainer.net.parameters():
        p.array[...] *= 1.5
    trainer.push()
    found = task.predict(trainer, held.x)
    assert len(compiled) == 1 and not np.array_equal(before["score"], found["score"]), "one program, of the weights as they are"
    assert found["box"].shape[:2] == found["class"].shape == (4, 20)
    pictures.save_picture(task.show(trainer, held, 3), tmp_path / "shown.png")
    assert (tmp_path / "shown.png").stat().st_size > 1000
    large = tasks.get("fcn32s").pictures(3, 1)
    assert large.x.shape == (3, 3, 256, 256) and large.y.shape == (3, 256, 256) and large.y.dtype == np.int64
    for label in large.y:
        ((kind,),) = [set(label[label > 0].tolist())]
        assert kind in (1, 2, 3) and np.ptp(np.flatnonzero((label > 0).any(0))) >= 90, "one shape, a large one"
    with pytest.raises(ArgumentError, match="no task 'detr'; there is fcn, fcn32s, fcn16s, fcn8s, unet, yolo"):
        tasks.get("detr")


def test_boxes_and_labels_are_drawn() -> None:
    images = np.full((1, 3, 8, 8), 0.5)
    found = {"box": np.array([[[1, 2, 5, 6], [0, 0, 8, 8]]]), "class": np.array([[2, -1]]), "score": np.array([[0.9, 0.0]])}
    picture = pictures.boxed(images, found, ("a", "b", "c"), scale=4)[0]
    outline = np.zeros((32, 32), bool)
    outline[8:24, 4:20] = True
    outline[9:23, 5:19] = False
    assert (picture[outline] == pictures.COLOURS[2]).all()
    assert (pictures.boxed(images, found, ("a", "b", "c"), least=0.95) == 127).all()
    labels = np.zeros((1, 8, 8), int)
    labels[0, 2, 3] = 1
    painted = pictures.painted(images, labels)[0]
    assert (painted[2, 3] > painted[0, 0]).any() and (painted.reshape(-1, 3) == painted[0, 0]).all(1).sum() == 63
    assert pictures.grid([pictures.plain(images)] * 2, scale=2, gap=1).shape == (40, 20, 3)


@only_here
@pytest.mark.proof
def test_the_sample_of_the_page_on_detection_runs() -> None:
    (sample,) = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[1] / "docs" / "detection.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {"grt": grt}
    exec(sample.replace("train(seed=0)", "train(seed=0, share=0.05, progress=False)"), names)
    assert names["found"].keys() == {"box", "score", "class", "anchor"}


QUICK = {"fcn", "fcn32s", "fcn16s", "fcn8s", "unet", "yolo", "ssd", "retinanet", "faster_rcnn"}  # to train
GOALS = [pytest.param(n, marks=pytest.mark.proof if n in QUICK else pytest.mark.slow) for n in tasks.TASKS]


@only_here
@pytest.mark.parametrize("name", GOALS)
def test_a_task_reaches_its_goal(name: str) -> None:
    task = tasks.get(name)
    trainer = task.train(seed=0, target="cpu", progress=False)
    assert task.figures(trainer, task.held_out(0))[task.figure] >= task.goal

"""Boxes, suppression, matching and the losses of detectors: beside plain Python, torchvision where it can be imported, and the
float64 reference, in slots of which some are empty."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from conftest import INTERPRETED, check
from test_functional import TARGET

import graphrt as grt
from graphrt import ops as F
from graphrt.errors import GraphrtError

pytestmark = [pytest.mark.interpret] if INTERPRETED else []


def drawn(rng: np.random.Generator, *shape: int, size: float = 10.0) -> np.ndarray:
    """Boxes [*shape, 4] with area."""
    low = rng.uniform(0, 0.7 * size, (*shape, 2))
    return np.concatenate([low, low + rng.uniform(0.1 * size, 0.3 * size, (*shape, 2))], -1).astype(np.float32)


def overlaps(a: np.ndarray, b: np.ndarray) -> tuple[float, float, float, float]:
    """IoU, GIoU, DIoU and CIoU of two boxes with area."""
    x, y = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(x, 0.0) * max(y, 0.0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    wide, high = max(a[2], b[2]) - min(a[0], b[0]), max(a[3], b[3]) - min(a[1], b[1])
    iou = shared / union
    apart = ((a[0] + a[2] - b[0] - b[2]) ** 2 + (a[1] + a[3] - b[1] - b[3]) ** 2) / 4
    diou = iou - apart / (wide**2 + high**2)
    aspect = 4 / math.pi**2 * (math.atan((a[2] - a[0]) / (a[3] - a[1])) - math.atan((b[2] - b[0]) / (b[3] - b[1]))) ** 2
    return iou, iou - (wide * high - union) / (wide * high), diou, diou - aspect**2 / max(1 - iou + aspect, 1e-12)


KINDS: dict[str, Callable[..., grt.Value]] = {
    "iou": F.box_iou,
    "giou": F.generalized_box_iou,
    "diou": F.distance_box_iou,
    "ciou": F.complete_box_iou,
}
LOSSES = {"giou": F.generalized_box_iou_loss, "diou": F.distance_box_iou_loss, "ciou": F.complete_box_iou_loss}


def test_overlaps_and_their_gradients() -> None:
    """Of a batch of two pictures; the last slot of each is empty, and so is one that it meets."""
    rng = np.random.default_rng(0)
    a, b = drawn(rng, 2, 5), drawn(rng, 2, 4)
    a[:, -1] = b[:, -1] = 0.0
    graph = grt.Graph()
    x, y = graph.input("a", a.shape), graph.input("b", b.shape)
    total = graph.constant(0.0)
    for name, f in KINDS.items():
        graph.output(name, f(x, y))
        total = total + F.sum(f(x, y) * f(x, y))
    for name, loss in LOSSES.items():
        graph.output(f"{name} loss", loss(x[:, :4], y))
    for name, g in zip(("da", "db"), grt.grad(total, [x, y]), strict=True):
        graph.output(name, g)
    found = check(graph, {"a": a, "b": b}, TARGET, 30)
    assert all(np.isfinite(v).all() for v in found.values())
    for n, i, j in np.ndindex(2, 4, 3):
        for name, value in zip(KINDS, overlaps(a[n, i].astype(np.float64), b[n, j].astype(np.float64)), strict=True):
            assert found[name][n, i, j] == pytest.approx(value, abs=1e-5), name
    assert not found["iou"][:, 4].any() and not found["iou"][:, :, 3].any()
    for name in LOSSES:
        np.testing.assert_allclose(found[f"{name} loss"], 1 - np.diagonal(found[name], 0, 1, 2), atol=1e-6)


def test_formats_and_deltas() -> None:
    rng = np.random.default_rng(1)
    boxes, anchors, weights = drawn(rng, 2, 6), drawn(rng, 6), (10.0, 10.0, 5.0, 5.0)
    graph = grt.Graph()
    b, a = graph.input("b", boxes.shape), graph.input("a", anchors.shape)
    deltas = F.encode_boxes(b, F.broadcast_to(a, boxes.shape), weights)
    graph.output("deltas", deltas)
    graph.output("back", F.decode_boxes(deltas, F.broadcast_to(a, boxes.shape), weights))
    graph.output("endless", F.decode_boxes(deltas * 0.0 + 1e3, F.broadcast_to(a, boxes.shape)))
    for to in ("xywh", "cxcywh"):
        graph.output(to, F.box_convert(b, "xyxy", to))
        graph.output(f"{to} back", F.box_convert(F.box_convert(b, "xyxy", to), to, "xyxy"))
    graph.output("clipped", F.clip_boxes_to_image(b * 2.0 - 5.0, (6, 9)))
    graph.output("rows", F.gather_rows(b, graph.input("at", (2, 3), "int64")))
    at = np.array([[5, -1, 0], [2, 2, 6]])
    found = check(graph, {"b": boxes, "a": anchors, "at": at}, TARGET, 10)
    np.testing.assert_allclose(found["back"], boxes, atol=1e-4)
    assert np.isfinite(found["endless"]).all()
    size, own = boxes[..., 2:] - boxes[..., :2], anchors[:, 2:] - anchors[:, :2]
    way = ((boxes[..., :2] + boxes[..., 2:]) - (anchors[:, :2] + anchors[:, 2:])) / 2 / own
    np.testing.assert_allclose(found["deltas"], np.concatenate([way * 10, np.log(size / own) * 5], -1), atol=1e-4)
    np.testing.assert_allclose(found["xywh"], np.concatenate([boxes[..., :2], size], -1), atol=1e-6)
    np.testing.assert_allclose(found["cxcywh"][..., :2], (boxes[..., :2] + boxes[..., 2:]) / 2, atol=1e-6)
    np.testing.assert_allclose(found["xywh back"], boxes, atol=1e-5)
    np.testing.assert_allclose(found["cxcywh back"], boxes, atol=1e-5)
    np.testing.assert_allclose(found["clipped"], np.clip(boxes * 2 - 5, 0, [9, 6, 9, 6]), atol=1e-6)
    whole = np.concatenate([boxes, np.zeros((2, 1, 4), np.float32)], 1)
    np.testing.assert_array_equal(found["rows"], np.stack([whole[n, i] for n, i in enumerate(at)]))


def matched(iou: np.ndarray, mask: np.ndarray, above: float, below: float, rescue: str | None) -> list[int]:
    """The truth of each anchor of one picture, by loops."""
    found = []
    there = [m for m in range(len(mask)) if mask[m]]
    for n in range(iou.shape[1]):
        best = max(there, key=lambda m: (iou[m, n], -m), default=None)
        value = -1.0 if best is None else iou[best, n]
        ties = rescue == "ties" and any(iou[m, n] == iou[m].max() for m in there)
        found.append(best if best is not None and (value >= above or ties) else -1 if value < below else -2)
    for m in there if rescue == "best" else []:
        found[int(iou[m].argmax())] = m
    return found


def test_matching() -> None:
    """Overlaps from a coarse grid, so that there are ties; the third picture has no truth."""
    rng = np.random.default_rng(2)
    iou = (rng.integers(0, 9, (3, 4, 11)) / 10).astype(np.float32)
    mask = np.array([[1, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 0]], bool)
    graph = grt.Graph()
    v, m = graph.input("iou", iou.shape), graph.input("mask", mask.shape, "bool")
    ways = [(0.5, None, None), (0.7, 0.3, "ties"), (0.75, 0.75, "best"), (0.7, 0.4, None)]
    for i, (above, below, rescue) in enumerate(ways):
        graph.output(str(i), F.match_boxes(v, m, above, below, rescue))
    found = grt.compile(graph, target=TARGET)(iou=iou, mask=mask)
    for i, (above, below, rescue) in enumerate(ways):
        for n in range(3):
            want = matched(iou[n], mask[n], above, above if below is None else below, rescue)
            assert found[str(i)][n].tolist() == want, (i, n)
    assert (found["1"] == -2).any() and (found["1"] >= 0).any() and (found["2"][2] == -1).all()


def greedy(boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, mask: np.ndarray, threshold: float) -> list[int]:
    kept: list[int] = []
    for i in np.argsort(-scores, kind="stable"):
        rivals = [j for j in kept if classes[i] == classes[j]]
        if mask[i] and all(overlaps(boxes[i], boxes[j])[0] <= threshold for j in rivals):
            kept.append(int(i))
    return kept + [-1] * (len(scores) - len(kept))


def test_suppression_by_class_softly_and_of_what_counts() -> None:
    rng = np.random.default_rng(3)
    n, count = 24, 6
    boxes, scores = drawn(rng, 2, n), rng.permutation(2 * n).reshape(2, n).astype(np.float32) / (2 * n)
    classes, mask = rng.integers(0, 3, (2, n)), rng.random((2, n)) < 0.8
    graph = grt.Graph()
    b, s = graph.input("b", boxes.shape), graph.input("s", scores.shape)
    c, m = graph.input("c", classes.shape, "int64"), graph.input("m", mask.shape, "bool")
    graph.output("plain", F.nms(b, s, 0.3))
    graph.output("by class", F.batched_nms(b, s, c, 0.3))
    graph.output("of some", F.batched_nms(b, s, c, 0.1, m))
    for name, v in zip(("soft", "soft scores"), F.soft_nms(b, s, count, 0.4, 0.75), strict=True):
        graph.output(name, v)
    for name, v in zip(("top", "top at"), F.masked_topk(s, m & F.gt(s, 0.8), count), strict=True):
        graph.output(name, v)
    found = check(graph, {"b": boxes, "s": scores, "c": classes, "m": mask}, TARGET, 10)
    for i in range(2):
        one = np.zeros(n)
        every = np.ones(n, bool)
        assert found["plain"][i].tolist() == greedy(boxes[i], scores[i], one, every, 0.3)
        assert found["by class"][i].tolist() == greedy(boxes[i], scores[i], classes[i], every, 0.3)
        assert found["of some"][i].tolist() == greedy(boxes[i], scores[i], classes[i], mask[i], 0.1)
        left, taken = scores[i].astype(np.float64), []
        for _ in range(count):
            at = int(left.argmax())
            good = left[at] > 0.75
            taken.append((at if good else -1, left[at] if good else 0.0))
            left = left * np.exp([-(overlaps(boxes[i, j], boxes[i, at])[0] ** 2) / 0.4 for j in range(n)])
            left[at] = -np.inf
        assert found["soft"][i].tolist() == [at for at, _ in taken]
        np.testing.assert_allclose(found["soft scores"][i], [score for _, score in taken], atol=1e-5)
        counts = [j for j in np.argsort(-scores[i]) if mask[i, j] and scores[i, j] > 0.8][:count]
        assert found["top at"][i].tolist() == counts + [-1] * (count - len(counts))
        assert found["top"][i].tolist() == [*scores[i, counts], *[-np.inf] * (count - len(counts))]
    assert (found["soft"] == -1).any() and (found["top at"] == -1).any() and (found["by class"] != found["plain"]).any()


def test_crops_are_resized_bilinearly() -> None:
    """Corners of the crop are sampled at the box's; what lies outside is one value; gradients beside the reference."""
    rng = np.random.default_rng(4)
    x = rng.standard_normal((2, 3, 6, 7)).astype(np.float32)
    boxes = np.array([[0, 0, 0, 6, 5], [1, 1.3, 0.2, 4.1, 4.9], [1, -2.0, 1.0, 8.0, 3.0]], np.float32)
    graph = grt.Graph()
    v, b = graph.input("x", x.shape), graph.input("b", boxes.shape)
    crop, dot = F.crop_and_resize(v, b, (4, 3), 0.25), F.crop_and_resize(v, b, 1)
    graph.output("crop", crop)
    graph.output("dot", dot)
    for name, g in zip(("dx", "db"), grt.grad(F.sum(crop * crop) + F.sum(dot), [v, b]), strict=True):
        graph.output(name, g)
    found = check(graph, {"x": x, "b": boxes}, TARGET, 40)

    def at(plane: np.ndarray, row: float, column: float, outside: float) -> float:
        if not (0 <= row <= 5 and 0 <= column <= 6):
            return outside
        i, j = min(int(row), 4), min(int(column), 5)
        p, q = row - i, column - j
        corner = plane[i : i + 2, j : j + 2]
        return float((np.array([1 - p, p]) @ corner @ np.array([1 - q, q])).item())

    for k, (n, x1, y1, x2, y2) in enumerate(boxes.tolist()):
        for c, i, j in np.ndindex(3, 4, 3):
            want = at(x[int(n), c], y1 + (y2 - y1) * i / 3, x1 + (x2 - x1) * j / 2, 0.25)
            assert found["crop"][k, c, i, j] == pytest.approx(want, abs=1e-5)
        for c in range(3):
            assert found["dot"][k, c, 0, 0] == pytest.approx(at(x[int(n), c], (y1 + y2) / 2, (x1 + x2) / 2, 0.0), abs=1e-5)


def test_losses_of_detectors_and_masks() -> None:
    rng = np.random.default_rng(5)
    logits, goal = rng.standard_normal((3, 4, 5)).astype(np.float32) * 3, (rng.random((3, 4, 5)) < 0.2).astype(np.float32)
    graph = grt.Graph()
    x, t = graph.input("x", logits.shape), graph.input("t", goal.shape)
    ways = {"focal": (0.25, 2.0), "unweighted": (-1.0, 2.0), "no focus": (0.25, 0.0), "other": (0.6, 1.3)}
    for name, (alpha, gamma) in ways.items():
        graph.output(name, F.sigmoid_focal_loss(x, t, alpha, gamma))
    dice, gram = F.dice_loss(F.sigmoid(x), t, 0.1, "none"), F.gram_matrix(x)
    graph.output("dice", dice)
    graph.output("gram", gram)
    loss = F.sigmoid_focal_loss(x, t, reduction="sum") + F.sum(dice) + F.sum(gram * gram)
    graph.output("dx", grt.grad(loss, [x])[0])
    found = check(graph, {"x": logits, "t": goal}, TARGET, 60)
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    right = np.where(goal > 0, p, 1 - p)
    for name, (alpha, gamma) in ways.items():
        share = 1.0 if alpha < 0 else np.where(goal > 0, alpha, 1 - alpha)
        np.testing.assert_allclose(found[name], -np.log(right) * (1 - right) ** gamma * share, atol=1e-5, err_msg=name)
    both = (2 * (p * goal).sum((1, 2)) + 0.1) / ((p**2).sum((1, 2)) + goal.sum((1, 2)) + 0.1)
    np.testing.assert_allclose(found["dice"], 1 - both, atol=1e-6)
    np.testing.assert_allclose(found["gram"], np.einsum("ncx,ndx->ncd", logits, logits) / 20, rtol=1e-5, atol=1e-5)


def test_overlaps_and_focal_loss_are_those_of_torchvision() -> None:
    try:
        from torchvision import ops
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"needs a torchvision that goes with this torch: {error}")
    rng = np.random.default_rng(6)
    a, b = drawn(rng, 7), drawn(rng, 5)
    logits, goal = rng.standard_normal((4, 6)).astype(np.float32), (rng.random((4, 6)) < 0.3).astype(np.float32)
    graph, ta, tb = grt.Graph(), torch.from_numpy(a), torch.from_numpy(b)
    x, y = graph.input("a", a.shape), graph.input("b", b.shape)
    for f in (*KINDS.values(), *LOSSES.values()):
        graph.output(f.__name__, f(x[:5], y) if f in LOSSES.values() else f(x, y))
    u, t = graph.input("u", logits.shape), graph.input("t", goal.shape)
    graph.output("focal", F.sigmoid_focal_loss(u, t))
    found = grt.compile(graph, target=TARGET)(a=a, b=b, u=logits, t=goal)
    for f in (*KINDS.values(), *LOSSES.values()):
        theirs = getattr(ops, f.__name__)(ta[:5] if f in LOSSES.values() else ta, tb)
        np.testing.assert_allclose(found[f.__name__], theirs, atol=1e-5, err_msg=f.__name__)
    np.testing.assert_allclose(
        found["focal"], ops.sigmoid_focal_loss(torch.from_numpy(logits), torch.from_numpy(goal)), atol=1e-6
    )


def _boxes(g: grt.Graph, *shape: int) -> grt.Value:
    return g.input(f"b{len(g.nodes)}", (*shape, 4))


WRONG: list[tuple[str, Any]] = [
    ("box_convert", lambda g: F.box_convert(_boxes(g, 3), "xyxy", "corners")),
    ("clip_boxes_to_image", lambda g: F.clip_boxes_to_image(g.input("b", (4,)), (3, 3))),
    ("generalized_box_iou_loss", lambda g: F.generalized_box_iou_loss(_boxes(g, 3), _boxes(g, 2))),
    ("generalized_box_iou_loss", lambda g: F.generalized_box_iou_loss(_boxes(g, 3), _boxes(g, 3), "max")),
    ("encode_boxes", lambda g: F.encode_boxes(_boxes(g, 3), _boxes(g, 3), (1.0, 1.0))),
    ("decode_boxes", lambda g: F.decode_boxes(_boxes(g, 3), g.input("a", (3, 5)))),
    ("match_boxes", lambda g: F.match_boxes(g.input("i", (2, 3)), g.input("m", (3,), "bool"), 0.5)),
    ("match_boxes", lambda g: F.match_boxes(g.input("i", (2, 3)), g.input("m", (2,)), 0.5)),
    ("match_boxes", lambda g: F.match_boxes(g.input("i", (2, 3)), g.input("m", (2,), "bool"), 0.5, 0.7)),
    ("match_boxes", lambda g: F.match_boxes(g.input("i", (2, 3)), g.input("m", (2,), "bool"), 0.5, 0.4, "all")),
    ("gather_rows", lambda g: F.gather_rows(g.input("x", (3,)), g.input("i", (3,), "int64"))),
    ("nms", lambda g: F.nms(_boxes(g, 3), g.input("s", (3,)), 0.5, g.input("m", (3,)))),
    ("batched_nms", lambda g: F.batched_nms(_boxes(g, 3), g.input("s", (3,)), g.input("c", (3,)), 0.5)),
    ("soft_nms", lambda g: F.soft_nms(_boxes(g, 3), g.input("s", (3,)), 4)),
    ("soft_nms", lambda g: F.soft_nms(_boxes(g, 3), g.input("s", (3,)), 2, -1.0)),
    ("masked_topk", lambda g: F.masked_topk(g.input("x", (3,)), g.input("m", (2,), "bool"), 1)),
    ("crop_and_resize", lambda g: F.crop_and_resize(g.input("x", (1, 2, 4, 4)), _boxes(g, 3), 2)),
    ("sigmoid_focal_loss", lambda g: F.sigmoid_focal_loss(g.input("x", (3,)), g.input("t", (3,)), 1.5)),
    ("dice_loss", lambda g: F.dice_loss(g.input("x", (3,)), g.input("t", (2,)))),
    ("gram_matrix", lambda g: F.gram_matrix(g.input("x", (3,)))),
]


@pytest.mark.parametrize(("name", "build"), WRONG)
def test_what_does_not_fit_is_refused(name: str, build: Any) -> None:
    with pytest.raises(GraphrtError, match=f"{name} at "):
        build(grt.Graph())


def _some(g: grt.Graph, *shape: int, name: str = "boxes") -> grt.Value:
    return g.input(name, shape or (3, 4))


BAD: list[tuple[str, Callable[[grt.Graph], Any]]] = [
    *WRONG,
    ("box_convert", lambda g: F.box_convert(_some(g, 3, 5), "xyxy", "xywh")),
    ("box_convert", lambda g: F.box_convert(_some(g), None, "xywh")),
    ("clip_boxes_to_image", lambda g: F.clip_boxes_to_image(_some(g, 3, 5), (8, 8))),
    ("clip_boxes_to_image", lambda g: F.clip_boxes_to_image(_some(g), (8,))),
    ("clip_boxes_to_image", lambda g: F.clip_boxes_to_image(_some(g), "large")),
    *(
        (f.__name__, wrong)
        for f in (F.generalized_box_iou, F.distance_box_iou, F.complete_box_iou)
        for wrong in (
            lambda g, f=f: f(_some(g), _some(g, 3, 5, name="others")),
            lambda g, f=f: f(_some(g, 2, 3, 4), _some(g, 3, 3, 4, name="others")),
            lambda g, f=f: f(_some(g), [0, 0, 1, 1]),
        )
    ),
    *(
        (f.__name__, wrong)
        for f in (F.generalized_box_iou_loss, F.distance_box_iou_loss, F.complete_box_iou_loss)
        for wrong in (
            lambda g, f=f: f(_some(g), _some(g, 3, 5, name="others")),
            lambda g, f=f: f(_some(g), _some(g, 2, 4, name="others")),
            lambda g, f=f: f(_some(g), _some(g, name="others"), "median"),
        )
    ),
    ("encode_boxes", lambda g: F.encode_boxes(_some(g), _some(g, name="anchors"), (1.0, 1.0, 0.0, 1.0))),
    ("encode_boxes", lambda g: F.encode_boxes(_some(g), _some(g, 3, 5, name="anchors"))),
    ("decode_boxes", lambda g: F.decode_boxes(_some(g), _some(g, name="anchors"), "heavy")),
    ("decode_boxes", lambda g: F.decode_boxes(_some(g, 3, 5), _some(g, name="anchors"))),
    ("decode_boxes", lambda g: F.decode_boxes(_some(g), _some(g, 2, 4, name="anchors"))),
    ("match_boxes", lambda g: F.match_boxes(g.input("iou", (2, 5)), g.input("m", (2,)), 0.5)),
    ("match_boxes", lambda g: F.match_boxes(g.input("iou", (2, 5)), g.input("m", (2,), "bool"), 0.3, 0.5)),
    ("match_boxes", lambda g: F.match_boxes(g.input("iou", (2, 5)), g.input("m", (2,), "bool"), 0.5, rescue="all")),
    ("gather_rows", lambda g: F.gather_rows(g.input("x", (2, 4, 3)), g.input("i", (3, 2), "int64"))),
    ("gather_rows", lambda g: F.gather_rows(g.input("x", (4, 3)), g.input("i", (2,)))),
    ("batched_nms", lambda g: F.batched_nms(_some(g), g.input("s", (2,)), g.input("i", (2,), "int64"), 0.5)),
    ("batched_nms", lambda g: F.batched_nms(_some(g), g.input("s", (3,)), g.input("i", (3,), "int64"), 1.5)),
    ("soft_nms", lambda g: F.soft_nms(_some(g), g.input("s", (3,)), 2, 0.0)),
    ("soft_nms", lambda g: F.soft_nms(_some(g), g.input("s", (2,)), 2)),
    ("masked_topk", lambda g: F.masked_topk(g.input("x", (3,)), g.input("m", (3,)), 2)),
    ("masked_topk", lambda g: F.masked_topk(g.input("x", (3,)), g.input("m", (3,), "bool"), 4)),
    ("crop_and_resize", lambda g: F.crop_and_resize(g.input("x", (3, 8, 8)), _some(g, 2, 5), 4)),
    ("crop_and_resize", lambda g: F.crop_and_resize(g.input("x", (1, 3, 8, 8)), _some(g), 4)),
    ("crop_and_resize", lambda g: F.crop_and_resize(g.input("x", (1, 3, 8, 8)), _some(g, 2, 5), 0)),
    *(
        (f.__name__, wrong)
        for f in (F.sigmoid_focal_loss, F.dice_loss)
        for wrong in (
            lambda g, f=f: f(g.input("x", (3, 4)), g.input("y", (3, 5))),
            lambda g, f=f: f(g.input("x", (3, 4), "int64"), g.input("y", (3, 4))),
            lambda g, f=f: f(g.input("x", (3, 4)), g.input("y", (3, 4)), reduction="median"),
        )
    ),
]

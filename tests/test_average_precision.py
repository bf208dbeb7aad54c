"""Mean average precision: by hand, and to 1e-9 what pycocotools counts of random boxes and masks."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest
from conftest import INTERPRETED

from graphrt.errors import ArgumentError, ShapeError
from graphrt.train import MeanAveragePrecision

pytestmark = pytest.mark.skipif(INTERPRETED, reason="NumPy only, the same in both lanes")
BOX = np.array([0.0, 0.0, 10.0, 10.0])


def result(found: list[tuple[int, float, Any]], true: list[tuple[int, Any]], **options: Any) -> dict[str, float]:
    """Of one picture with these (class, score, box) and (class, box)."""
    precision = MeanAveragePrecision(3, **options)
    classes, scores, boxes = zip(*found, strict=True) if found else ((), (), np.zeros((0, 4)))
    precision.add(
        {"class": np.array([classes], int), "score": np.array([scores], float), "box": np.array([boxes])},
        {"class": np.array([[k for k, _ in true]], int), "box": np.array([[b for _, b in true]]).reshape(1, -1, 4)},
    )
    return precision.result()


def test_by_hand() -> None:
    right = result([(0, 0.9, BOX)], [(0, BOX)])
    assert [right[name] for name in ("map", "map_50", "mar_1", "map_small")] == pytest.approx([1.0] * 4)
    assert right["map_medium"] == right["map_large"] == -1.0
    assert result([], [(0, BOX)])["map"] == 0.0
    assert result([(0, 0.9, BOX)], [(1, BOX)])["map"] == 0.0, "a class that only detections have does not count"
    assert set(result([], []).values()) == {-1.0}
    half = result([(0, 0.9, BOX), (0, 0.8, BOX + 50)], [(0, BOX), (0, BOX + 100)])
    assert half["map_50"] == pytest.approx(51 / 101), "recalls up to a half are reached, with precision 1"
    late = result([(0, 0.9, BOX + 50), (0, 0.8, BOX)], [(0, BOX)])
    assert late["map_50"] == pytest.approx(0.5) and late["mar_1"] == 0.0 and late["mar_10"] == 1.0
    twice = result([(0, 0.9, BOX), (0, 0.8, BOX)], [(0, BOX)])
    assert twice["map_50"] == pytest.approx(1.0), "a second hit comes behind full recall"
    narrow = result([(0, 0.9, np.array([0.0, 0.0, 10.0, 6.2]))], [(0, BOX)])
    assert narrow["map_50"] == pytest.approx(1.0) and narrow["map_75"] == 0.0 and narrow["map"] == pytest.approx(0.3)
    slots = result([(-1, 0.9, BOX), (0, 0.5, BOX)], [(0, BOX), (-1, BOX)])
    assert slots["map"] == pytest.approx(1.0), "slots of class -1 are empty"


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ArgumentError, match="box"):
        MeanAveragePrecision(3, "circle")
    with pytest.raises(ArgumentError, match="three numbers"):
        MeanAveragePrecision(3, max_detections=(10, 1, 100))
    precision = MeanAveragePrecision(3)
    slots = {"class": np.zeros((2, 3), int), "box": np.zeros((2, 3, 4))}
    with pytest.raises(ShapeError, match="score must have"):
        precision.add({**slots, "score": np.zeros((2, 2))}, slots)
    with pytest.raises(ArgumentError, match="class holds 7, and there are the classes 0 to"):
        one = {"class": np.array([[7]]), "score": np.ones((1, 1)), "box": np.ones((1, 1, 4))}
        MeanAveragePrecision(2).add(one, one)
    with pytest.raises(ShapeError, match="1 pictures"):
        precision.add({**{n: a[:1] for n, a in slots.items()}, "score": np.zeros((1, 3))}, slots)


def drawn(overlap: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Detections near truths and elsewhere in 30 pictures; scores are tenths, so that many are equal."""
    rng = np.random.default_rng(7)
    n, k, d, side = 30, 6, 14, 160
    low, size = rng.uniform(0, 110, (n, k, 2)), 2.0 ** rng.uniform(2.0, 7.0, (n, k, 1)) * rng.uniform(0.7, 1.4, (n, k, 2))
    box = np.concatenate([low, np.minimum(low + size, side)], -1)
    true = {"class": rng.integers(-1, 3, (n, k)), "box": box, "crowd": rng.random((n, k)) < 0.1}
    near = box[np.arange(n)[:, None], rng.integers(0, k, (n, d))]
    moved = near + rng.standard_normal((n, d, 4)) * 0.04 * (near[..., 2:] - near[..., :2])[..., [0, 1, 0, 1]]
    moved = np.concatenate([moved[..., :2], np.maximum(moved[..., 2:], moved[..., :2] + 1)], -1)
    found = {"class": rng.integers(-1, 3, (n, d)), "box": moved, "score": rng.integers(1, 10, (n, d)) / 10}
    if overlap == "mask":
        for part in (true, found):
            across = np.arange(side) + 0.5
            x1, y1, x2, y2 = np.moveaxis(part.pop("box"), -1, 0)[..., None]
            rows, columns = (across > y1) & (across < y2), (across > x1) & (across < x2)
            part["mask"] = rows[..., :, None] & columns[..., None, :] & ((across[:, None] + across) % 7 > 1)
    return found, true


# Of drawn(...), by pycocotools 2.0.11.
RECORDED: dict[str, list[float]] = {
    "box": [
        0.111629554142,
        0.143200299985,
        0.143145294485,
        0.129129761738,
        0.09266599481,
        0.480660066007,
        0.172179394936,
        0.377503683147,
        0.377503683147,
        0.370410509031,
        0.371150793651,
        0.566666666667,
    ],
    "mask": [
        0.111029802039,
        0.143200299985,
        0.136845550623,
        0.121699980762,
        0.124883500746,
        -1.0,
        0.175031692192,
        0.385970637613,
        0.385970637613,
        0.36960740409,
        0.431960784314,
        -1.0,
    ],
}


@pytest.mark.parametrize("overlap", ["box", "mask"])
def test_figures_are_those_that_pycocotools_gave(overlap: str) -> None:
    precision = MeanAveragePrecision(3, overlap)
    found, true = drawn(overlap)
    for rows in (slice(0, 11), slice(11, 30)):  # a batch at a time
        precision.add({n: a[rows] for n, a in found.items()}, {n: a[rows] for n, a in true.items()})
    np.testing.assert_allclose(list(precision.result().values()), RECORDED[overlap], atol=1e-9)


@pytest.mark.parametrize("overlap", ["box", "mask"])
def test_figures_are_those_of_pycocotools(overlap: str) -> None:
    pytest.importorskip("pycocotools", reason="needs pycocotools; what it gave once is tested above")
    found, true = drawn(overlap)
    precision = MeanAveragePrecision(3, overlap)
    precision.add(found, true)
    expected = coco(found, true, overlap)
    np.testing.assert_allclose(list(precision.result().values()), expected, atol=1e-9)
    np.testing.assert_allclose(RECORDED[overlap], expected, atol=1e-9)


def coco(found: dict[str, np.ndarray], true: dict[str, np.ndarray], overlap: str) -> list[float]:
    from pycocotools import mask as coder
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def shape(part: dict[str, np.ndarray], i: int, j: int) -> dict[str, Any]:
        if overlap == "mask":
            code = coder.encode(np.asfortranarray(part["mask"][i, j].astype(np.uint8)))
            return {"segmentation": code, "area": float(part["mask"][i, j].sum())}
        x1, y1, x2, y2 = (float(v) for v in part["box"][i, j])
        return {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}

    def listed(part: dict[str, np.ndarray]) -> list[dict[str, Any]]:
        rows = np.argwhere(part["class"] >= 0).tolist()
        return [
            {"image_id": i, "category_id": int(part["class"][i, j]), **shape(part, i, j)} | extra(part, i, j) for i, j in rows
        ]

    def extra(part: dict[str, np.ndarray], i: int, j: int) -> dict[str, Any]:
        return {"score": float(part["score"][i, j])} if "score" in part else {"iscrowd": int(part["crowd"][i, j])}

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        annotations = [{"id": number + 1, **one} for number, one in enumerate(listed(true))]
        images = [{"id": i, "height": 160, "width": 160} for i in range(len(true["class"]))]
        truth.dataset = {"images": images, "annotations": annotations, "categories": [{"id": k} for k in range(3)]}
        truth.createIndex()
        judge = COCOeval(truth, truth.loadRes(listed(found)), "segm" if overlap == "mask" else "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge.stats.tolist()

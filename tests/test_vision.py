"""Resizing, boxes and regions: beside torch, and beside plain Python where torchvision would be the oracle."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as T
from conftest import INTERPRETED, check
from test_functional import TARGET, Call, compare, data

import graphrt as grt
from graphrt import ops as F

pytestmark = [pytest.mark.interpret] if INTERPRETED else []


def _resize(mode: str, **options: Any) -> Call:
    rank = {"linear": 1, "trilinear": 3}.get(mode, 2)
    x = data(*(2, 3, 4, 5, 7)[: 2 + rank]) if rank != 2 else data(2, 3, 5, 7)
    return (
        lambda x: F.interpolate(x, mode=mode, **options),
        lambda x: T.interpolate(x, mode=mode, **options),
        [x],
    )


def test_interpolate() -> None:
    calls: dict[str, Call] = {}
    for mode in ("nearest", "nearest-exact", "bilinear", "bicubic"):
        for align in (None,) if mode.startswith("nearest") else (False, True):
            sizes: list[dict[str, Any]] = [{"size": (10, 14)}, {"size": (3, 11)}, {"scale_factor": 1.7}, {"size": (1, 1)}]
            sizes += [{"scale_factor": (2.0, 0.5)}, {"scale_factor": 1.3, "recompute_scale_factor": True}]
            for options in sizes[: 3 if INTERPRETED else None]:
                calls[f"{mode} {align} {options}"] = _resize(mode, align_corners=align, **options)
    smooth: list[dict[str, Any]] = [{"size": (3, 11)}, {"size": (1, 2)}, {"scale_factor": 0.47}, {"scale_factor": (1.3, 1.7)}]
    for mode in ("bilinear", "bicubic", "lanczos"):
        for options in smooth[: 1 if INTERPRETED else None]:
            calls[f"smooth {mode} {options}"] = _resize(mode, antialias=True, **options)
        if mode != "lanczos" and not INTERPRETED:
            calls[f"smooth {mode}"] = _resize(mode, size=(3, 11), align_corners=True, antialias=True)
    calls["linear"] = _resize("linear", size=9)
    calls["trilinear"] = _resize("trilinear", size=(2, 9, 8))
    calls["area"] = _resize("area", size=(3, 4))
    calls["same size"] = _resize("bilinear", size=(5, 7))
    compare(calls, 60)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic", "lanczos"])
def test_a_factor_that_changes_no_size_smooths_nothing(mode: str) -> None:
    """torch's result; its gradient there is that of another factor."""
    x, options = data(2, 3, 5, 7), {"scale_factor": (1.05, 0.6), "mode": mode, "antialias": True}
    graph = grt.Graph()
    graph.output("y", F.interpolate(graph.input("x", x.shape), **options))
    found = grt.compile(graph, target=TARGET)(x=x)["y"]
    np.testing.assert_allclose(found, T.interpolate(torch.from_numpy(x), **options), rtol=1e-5, atol=1e-6)


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def _drawn(rng: np.random.Generator, count: int) -> np.ndarray:
    return np.sort(rng.random((count, 2, 2)) * 10, axis=1).reshape(count, 4).astype(np.float32)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 1.0])
def test_nms_keeps_what_the_greedy_loop_keeps(threshold: float) -> None:
    rng = np.random.default_rng(int(threshold * 10))
    boxes, scores = _drawn(rng, 20), rng.permutation(20).astype(np.float32)
    graph = grt.Graph()
    b, s = graph.input("b", boxes.shape), graph.input("s", scores.shape)
    graph.output("kept", F.nms(b, s, threshold))
    graph.output("iou", F.box_iou(b, b))
    outputs = grt.compile(graph, target=TARGET)(b=boxes, s=scores)
    kept: list[int] = []
    for i in np.argsort(-scores):
        if all(_iou(boxes[i], boxes[j]) <= threshold for j in kept):
            kept.append(int(i))
    assert outputs["kept"].tolist() == kept + [-1] * (20 - len(kept))
    np.testing.assert_allclose(outputs["iou"], [[_iou(a, c) for c in boxes] for a in boxes], atol=1e-6)


def _bilinear(plane: np.ndarray, y: float, x: float) -> float:
    h, w = plane.shape
    if y < -1 or y > h or x < -1 or x > w:
        return 0.0
    y, x = min(max(y, 0.0), h - 1.0), min(max(x, 0.0), w - 1.0)
    y0, x0 = int(y), int(x)
    y1, x1 = min(y0 + 1, h - 1), min(x0 + 1, w - 1)
    fy, fx = y - y0, x - x0
    top, bottom = plane[y0, x0] * (1 - fx) + plane[y0, x1] * fx, plane[y1, x0] * (1 - fx) + plane[y1, x1] * fx
    return float(top * (1 - fy) + bottom * fy)


@pytest.mark.parametrize("aligned", [False, True])
def test_roi_align_and_roi_pool(aligned: bool) -> None:
    """Boxes partly outside included; values beside loops in Python, gradients beside the float64 reference."""
    rng = np.random.default_rng(1)
    x, count = rng.standard_normal((2, 3, 6, 7)).astype(np.float32), 5
    rois = np.concatenate([rng.integers(0, 2, (count, 1)), _drawn(rng, count) * 1.5 - 2], axis=1).astype(np.float32)
    graph = grt.Graph()
    v, r = graph.input("x", x.shape), graph.input("r", rois.shape)
    align, pool = F.roi_align(v, r, (2, 3), 0.5, 2, aligned), F.roi_pool(v, r, 2, 0.5)
    graph.output("align", align)
    graph.output("pool", pool)
    graph.output("dx", grt.grad(F.sum(align * align) + F.sum(pool * pool), [v])[0])
    outputs = check(graph, {"x": x, "r": rois}, TARGET, 40)
    expected = np.zeros((count, 3, 2, 3))
    for k, (b, *corners) in enumerate(rois):
        x1, y1, x2, y2 = (c * 0.5 - (0.5 if aligned else 0.0) for c in corners)
        w, h = (x2 - x1, y2 - y1) if aligned else (max(x2 - x1, 1), max(y2 - y1, 1))
        for c, i, j in np.ndindex(3, 2, 3):
            taps = [(y1 + h / 2 * (i + (p + 0.5) / 2), x1 + w / 3 * (j + (q + 0.5) / 2)) for p in (0, 1) for q in (0, 1)]
            expected[k, c, i, j] = np.mean([_bilinear(x[int(b), c], *tap) for tap in taps])
    np.testing.assert_allclose(outputs["align"], expected, atol=2e-6)
    for k, (b, *corners) in enumerate(rois):
        x1, y1, x2, y2 = (int(np.floor(c * 0.5 + 0.5)) for c in corners)
        h, w = max(y2 - y1 + 1, 1) / 2, max(x2 - x1 + 1, 1) / 2
        for i, j in np.ndindex(2, 2):
            rows = slice(*np.clip([y1 + int(np.floor(i * h)), y1 + int(np.ceil((i + 1) * h))], 0, 6))
            columns = slice(*np.clip([x1 + int(np.floor(j * w)), x1 + int(np.ceil((j + 1) * w))], 0, 7))
            cell = x[int(b), :, rows, columns].reshape(3, -1)
            np.testing.assert_array_equal(outputs["pool"][k, :, i, j], cell.max(1) if cell.size else np.zeros(3))


def _map(g: grt.Graph) -> grt.Value:
    return g.input("x", (1, 2, 4, 4))


BAD: list[tuple[str, Any]] = [
    ("interpolate", lambda g: F.interpolate(_map(g))),
    ("interpolate", lambda g: F.interpolate(_map(g), 3, 2.0)),
    ("interpolate", lambda g: F.interpolate(_map(g), (3, 3, 3))),
    ("interpolate", lambda g: F.interpolate(_map(g), 0)),
    ("interpolate", lambda g: F.interpolate(_map(g), 3, mode="trilinear")),
    ("interpolate", lambda g: F.interpolate(_map(g), 3, align_corners=True)),
    ("interpolate", lambda g: F.interpolate(_map(g), scale_factor=0.1)),
    ("interpolate", lambda g: F.interpolate(_map(g), 3, mode="nearest", antialias=True)),
    ("interpolate", lambda g: F.interpolate(_map(g), 3, mode="lanczos")),
    ("interpolate", lambda g: F.interpolate(_map(g), 3, mode="lanczos", align_corners=True, antialias=True)),
    ("box_area", lambda g: F.box_area(g.input("b", (3, 5)))),
    ("box_area", lambda g: F.box_area(g.input("b", (4,)))),
    ("box_area", lambda g: F.box_area(g.input("b", (3, 4), "int64"))),
    ("box_iou", lambda g: F.box_iou(g.input("b", (3, 4)), g.input("c", (3, 3)))),
    ("box_iou", lambda g: F.box_iou(g.input("b", (3,)), g.input("c", (3, 4)))),
    ("box_iou", lambda g: F.box_iou(g.input("b", (3, 4)), None)),
    ("nms", lambda g: F.nms(g.input("b", (3, 4)), g.input("s", (4,)), 0.5)),
    ("nms", lambda g: F.nms(g.input("b", (3, 4)), g.input("s", (3,)), 1.5)),
    ("nms", lambda g: F.nms(g.input("b", (3, 4)), g.input("s", (3,)), "half")),
    ("roi_align", lambda g: F.roi_align(_map(g), g.input("r", (3, 4)), 2)),
    ("roi_align", lambda g: F.roi_align(_map(g), g.input("r", (3, 5)), 0)),
    ("roi_align", lambda g: F.roi_align(_map(g), g.input("r", (3, 5)), 2, sampling_ratio=-1)),
    ("roi_pool", lambda g: F.roi_pool(_map(g), g.input("r", (3, 4)), 2)),
    ("roi_pool", lambda g: F.roi_pool(g.input("x", (4, 4)), g.input("r", (3, 5)), 2)),
    ("roi_pool", lambda g: F.roi_pool(_map(g), g.input("r", (3, 5)), (1, 2, 3))),
]

"""Mean average precision of detectors, as COCO counts it: over thresholds of overlap, sizes of objects, numbers of detections.

detections, truths ─▶ overlaps of each picture and class ─▶ which detection hits ─▶ precision by recall ─▶ means
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphrt.errors import ArgumentError, ShapeError

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
_ALMOST = 1 - 1e-10  # of an overlap that a threshold of 1 asks for


@dataclass(frozen=True)
class _Verdict:
    """The detections of one class in one picture, by decreasing score: hits and what does not count, [T, D]."""

    scores: np.ndarray
    hit: np.ndarray
    ignored: np.ndarray
    truths: int  # that count


class MeanAveragePrecision:
    """Mean average precision and recall of detections of ``classes`` classes, as COCO counts them (Lin et al., ECCV 2014).

        precision = MeanAveragePrecision(classes=3)
        precision.add(found, truth)  # batch by batch
        precision.result()["map_50"]

    ``overlap`` is measured between "box"es or "mask"s, and must reach each of ``thresholds``. Of a picture the best
    ``max_detections`` of a class count, three numbers, the last of which all but recalls are taken at. ``areas`` are the two
    sizes in pixels at which a medium and a large object begin. Raises ArgumentError.
    """

    def __init__(
        self,
        classes: int,
        overlap: str = "box",
        thresholds: Sequence[float] | np.ndarray = THRESHOLDS,
        max_detections: Sequence[int] = (1, 10, 100),
        areas: Sequence[float] = (32.0**2, 96.0**2),
    ) -> None:
        if overlap not in ("box", "mask"):
            raise ArgumentError(f'overlap must be "box" or "mask", got {overlap!r}')
        if len(max_detections) != 3 or list(max_detections) != sorted(max_detections) or len(areas) != 2 or classes < 1:
            raise ArgumentError("max_detections must be three numbers in order, areas two, and classes at least 1")
        self.classes, self.overlap, self.max_detections = classes, overlap, tuple(max_detections)
        self.thresholds = np.asarray(thresholds, np.float64)
        small, large = areas
        self.areas = {"all": (0.0, 1e10), "small": (0.0, small), "medium": (small, large), "large": (large, 1e10)}
        self._seen: dict[tuple[int, str], list[_Verdict]] = {}

    def add(self, found: Mapping[str, Any], truth: Mapping[str, Any]) -> None:
        """Takes in a batch of pictures, each with slots of detections and of truths; a ``class`` below 0 is an empty slot.

        ``found`` has ``class`` [N, D], ``score`` [N, D] and ``box`` [N, D, 4] or ``mask`` bool [N, D, H, W]; ``truth`` has
        ``class`` [N, K] and such boxes or masks, and may have ``crowd`` bool [N, K], regions in which any number of detections
        is neither right nor wrong, and ``area`` [N, K], the sizes. Raises ShapeError, ArgumentError for other classes.
        """
        detections = {name: np.asarray(found[name]) for name in ("class", "score", self.overlap)}
        truths = {name: np.asarray(truth[name]) for name in ("class", self.overlap, "crowd", "area") if name in truth}
        for name, part in (*detections.items(), *truths.items()):
            like = (detections if part is detections.get(name) else truths)["class"].shape
            if part.shape[:2] != like or len(like) != 2:
                raise ShapeError(f"{name} must have the sizes [N, slots] of class, {list(like)}, got {list(part.shape)}")
        if len(detections["class"]) != len(truths["class"]):
            raise ShapeError(
                f"{len(detections['class'])} pictures were found something in, and {len(truths['class'])} are true"
            )
        if (most := max(int(part["class"].max(initial=-1)) for part in (detections, truths))) >= self.classes:
            raise ArgumentError(f"class holds {most}, and there are the classes 0 to {self.classes - 1}")
        for n in range(len(truths["class"])):
            for k in range(self.classes):
                one, other = (
                    {a: part[n][parts["class"][n] == k] for a, part in parts.items()} for parts in (detections, truths)
                )
                self._picture(k, one, other)

    def _picture(self, k: int, found: dict[str, np.ndarray], truth: dict[str, np.ndarray]) -> None:
        """Compares what was ``found`` of class ``k`` in a picture with what is true of it."""
        order = np.argsort(-found["score"], kind="stable")[: self.max_detections[-1]]
        scores, shapes = found["score"][order], found[self.overlap][order]
        crowd = truth.get("crowd", np.zeros(len(truth["class"]), bool)).astype(bool)
        if not len(crowd) and not len(scores):
            return
        iou = _overlaps(shapes, truth[self.overlap], crowd)
        sizes, own = truth.get("area", _sizes(truth[self.overlap])), _sizes(shapes)
        for name, (low, high) in self.areas.items():
            ignored = crowd | (sizes < low) | (sizes > high)
            behind = np.argsort(ignored, kind="stable")  # truths that count come first
            hit, unjudged = self._matched(iou[:, behind], ignored[behind], crowd[behind])
            unjudged |= ~hit & ((own < low) | (own > high))
            self._seen.setdefault((k, name), []).append(_Verdict(scores, hit, unjudged, int((~ignored).sum())))

    def _matched(self, iou: np.ndarray, ignored: np.ndarray, crowd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The detections with a truth of their own, and those of them that do not count, [T, D]: greedily, the best first.

        A detection takes the truth that it overlaps most of those that are left, the last of equals, one that counts if any
        does; a crowd is never used up.
        """
        hit, unjudged = np.zeros((2, len(self.thresholds), len(iou)), bool)
        for t, threshold in enumerate(np.minimum(self.thresholds, _ALMOST)):
            free = np.ones(len(ignored), bool)
            for d, row in enumerate(iou):
                fits = free & (row >= threshold)
                fits = fits & ~ignored if (fits & ~ignored).any() else fits
                if not fits.any():
                    continue
                best = len(row) - 1 - int(np.argmax(np.where(fits, row, -1.0)[::-1]))
                hit[t, d], unjudged[t, d], free[best] = True, ignored[best], crowd[best]
        return hit, unjudged

    def _curves(self, k: int, area: str, most: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Precision [T, R] at each of RECALLS and recall [T] of a class; None where no truth counts."""
        seen = self._seen.get((k, area), [])
        truths = sum(v.truths for v in seen)
        if not truths:
            return None
        order = np.argsort(-np.concatenate([v.scores[:most] for v in seen]), kind="stable")
        hit = np.concatenate([v.hit[:, :most] for v in seen], 1)[:, order]
        counts = ~np.concatenate([v.ignored[:, :most] for v in seen], 1)[:, order]
        right, wrong = np.cumsum(hit & counts, 1, dtype=float), np.cumsum(~hit & counts, 1, dtype=float)
        recall = right / truths
        best = np.maximum.accumulate((right / (right + wrong + np.spacing(1)))[:, ::-1], 1)[:, ::-1]
        precision = np.zeros((len(self.thresholds), len(RECALLS)))
        for t in range(len(self.thresholds)):
            at = np.searchsorted(recall[t], RECALLS, side="left")
            precision[t, at < len(order)] = best[t, at[at < len(order)]]
        return precision, recall[:, -1] if len(order) else np.zeros(len(self.thresholds))

    def _mean(self, part: int, area: str = "all", most: int | None = None, threshold: float | None = None) -> float:
        """The mean precision (``part`` 0) or recall (1) of the classes that have truths, -1 where none has."""
        curves = (self._curves(k, area, self.max_detections[-1] if most is None else most) for k in range(self.classes))
        found = [curve[part] for curve in curves if curve is not None]
        rows = slice(None) if threshold is None else np.isclose(self.thresholds, threshold)
        values = np.array(found)[:, rows] if found else np.zeros(0)
        return float(values.mean()) if values.size else -1.0

    def result(self) -> dict[str, float]:
        """COCO's twelve figures of all that was added, -1 where nothing of that size is true.

        ``map`` is the mean over thresholds, ``map_50`` and ``map_75`` are of those alone, ``map_small``, ``map_medium`` and
        ``map_large`` of objects of those sizes; ``mar_1``, ``mar_10``, ``mar_100`` (the ``max_detections``) are mean recalls.
        """
        sizes = ("small", "medium", "large")
        return {
            "map": self._mean(0),
            "map_50": self._mean(0, threshold=0.5),
            "map_75": self._mean(0, threshold=0.75),
            **{f"map_{name}": self._mean(0, name) for name in sizes},
            **{f"mar_{most}": self._mean(1, most=most) for most in self.max_detections},
            **{f"mar_{name}": self._mean(1, name) for name in sizes},
        }


def _sizes(shapes: np.ndarray) -> np.ndarray:
    """Areas of boxes [K, 4] or masks [K, H, W], in float64."""
    if shapes.ndim > 2:
        return shapes.sum((1, 2), dtype=np.float64)
    wide = shapes.astype(np.float64)
    return (wide[:, 2] - wide[:, 0]) * (wide[:, 3] - wide[:, 1])


def _overlaps(found: np.ndarray, true: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """Intersection over union [D, K]; over the detection alone where the truth is a crowd."""
    if found.ndim > 2:
        shared = np.einsum("dhw,khw->dk", found.astype(np.float64), true.astype(np.float64), optimize=True)
    else:
        a, b = found.astype(np.float64)[:, None], true.astype(np.float64)[None]
        sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
        shared = np.maximum(sides, 0.0).prod(-1)
    own = _sizes(found)[:, None]
    total = np.where(crowd, own, own + _sizes(true) - shared)
    return np.divide(shared, total, out=np.zeros_like(shared), where=total > 0)

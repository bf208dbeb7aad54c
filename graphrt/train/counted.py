"""Metrics that are no means over examples: what is counted on the device adds up over batches, and gives the metric in the end.

output, target ─▶ counts (in the program) ─▶ summed over batches ─▶ result (NumPy)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np

import graphrt.ops as F
from graphrt.arguments import checked
from graphrt.errors import ArgumentError, ShapeError
from graphrt.ir import Value
from graphrt.ops.base import widened


class Metric(ABC):
    """Base of such metrics: ``counts`` is graph code, ``result`` is what sums of its values say.

    An instance is passed as one of the ``metrics`` of Trainer; of several batches, or a whole epoch, ``result`` sees the sum.
    """

    @abstractmethod
    def counts(self, output: Value, target: Value) -> Value:
        """The counts that add up over examples: int64, float32 or float64 of any shape."""

    @abstractmethod
    def result(self, counts: np.ndarray) -> Any:
        """The metric of examples whose ``counts`` add up to these: a float, or an array."""


def classes_of(output: Value, target: Value) -> tuple[Value, Value, int]:
    """Predicted and true classes as int64 [M], and how many there are.

    ``output`` are logits [N, C, ...] for classes ``target`` [N, ...]; or logits of one class, [N, ...] or [N, 1, ...], for
    targets of their shape or [N, ...] that are 0 or 1. Raises ShapeError.
    """
    shape = output.shape[:1] + output.shape[2:]
    label = F.reshape(F.cast(target, "int64"), (-1,))
    if output.ndim >= 2 and output.shape[1] > 1 and target.dtype.is_int and target.shape == shape:
        return F.reshape(F.argmax(output, 1), (-1,)), label, output.shape[1]
    if target.shape == output.shape or (output.ndim >= 2 and output.shape[1] == 1 and target.shape == shape):
        return F.reshape(F.cast(F.gt(output, 0.0), "int64"), (-1,)), label, 2
    raise ShapeError(
        "classes need logits [N, C, ...] and integer classes [N, ...], or logits of one class and targets 0 or 1 of their "
        f"shape, got {output.type} and {target.type}"
    )


class ConfusionMatrix(Metric):
    """How often each class, a row, was taken for each, a column: int64 [C, C].

    Logits [N, C, ...] with classes [N, ...], or logits of one class with targets 0 or 1. Targets that are ``ignore_index``, and
    others that name no class, do not count.
    """

    @checked
    def __init__(self, ignore_index: int | None = -100) -> None:
        self.ignore_index = ignore_index

    def counts(self, output: Value, target: Value) -> Value:
        found, label, classes = classes_of(output, target)
        known = F.ge(label, 0) & F.lt(label, classes)
        if self.ignore_index is not None:
            known = known & F.ne(label, self.ignore_index)
        flat = F.bincount(F.where(known, label * classes + found, -1), minlength=classes * classes)
        return F.reshape(flat, (classes, classes))

    def result(self, counts: np.ndarray) -> Any:
        return counts.astype(np.int64)


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """``top / bottom``, 0 where that is 0 / 0."""
    return np.divide(top, bottom, out=np.zeros(np.shape(bottom)), where=np.asarray(bottom) != 0)


class _FromConfusion(ConfusionMatrix):
    """Base: a share of each class, averaged."""

    @checked
    def __init__(self, average: str | None = "macro", ignore_index: int | None = -100) -> None:
        super().__init__(ignore_index)
        if average not in ("macro", "micro", "weighted", "binary", None):
            raise ArgumentError(f'average must be "macro", "micro", "weighted", "binary" or None, got {average!r}')
        self.average = average

    @abstractmethod
    def share(self, hits: np.ndarray, wrong: np.ndarray, missed: np.ndarray) -> np.ndarray:
        """The metric of classes that were found ``hits`` times, said ``wrong``ly and ``missed`` so often."""

    def result(self, counts: np.ndarray) -> Any:
        counts = counts.astype(np.float64)
        hits = counts.diagonal()
        wrong, missed = counts.sum(0) - hits, counts.sum(1) - hits
        if self.average == "micro":
            return float(self.share(hits.sum(), wrong.sum(), missed.sum()))
        each = self.share(hits, wrong, missed)
        if self.average is None:
            return each
        if self.average == "binary":
            return float(each[-1])
        occurs = (hits + wrong + missed) > 0
        weights = hits + missed if self.average == "weighted" else occurs.astype(np.float64)
        return float((each * weights).sum() / weights.sum()) if weights.sum() else float("nan")


class Precision(_FromConfusion):
    """The share of what was taken for a class that is of it, as sklearn.metrics.precision_score.

    ``average`` over the classes that occur: "macro", "weighted" by their targets, "micro" of all counts together, "binary" the
    last class, None each class's own. Logits, targets and ``ignore_index`` as of ``ConfusionMatrix``. Raises ArgumentError.
    """

    def share(self, hits: np.ndarray, wrong: np.ndarray, missed: np.ndarray) -> np.ndarray:
        return _ratio(hits, hits + wrong)


class Recall(_FromConfusion):
    """The share of a class that was found, as sklearn's recall_score; ``average`` and ``ignore_index`` as of ``Precision``."""

    def share(self, hits: np.ndarray, wrong: np.ndarray, missed: np.ndarray) -> np.ndarray:
        return _ratio(hits, hits + missed)


class F1(_FromConfusion):
    """The harmonic mean of precision and recall, as sklearn's f1_score; ``average``, ``ignore_index`` as of ``Precision``."""

    def share(self, hits: np.ndarray, wrong: np.ndarray, missed: np.ndarray) -> np.ndarray:
        return _ratio(2.0 * hits, 2.0 * hits + wrong + missed)


class MeanIoU(_FromConfusion):
    """Intersection over union of each class's pixels, as sklearn's jaccard_score.

    ``average``, by default the mean of the classes that occur, and ``ignore_index`` as of ``Precision``.
    """

    def share(self, hits: np.ndarray, wrong: np.ndarray, missed: np.ndarray) -> np.ndarray:
        return _ratio(hits, hits + wrong + missed)


class AUC(Metric):
    """The area under the ROC curve: how often a positive scores higher than a negative, ties half.

    Scores are probabilities, of one class from logits [N] or [N, 1] with targets 0 or 1, or of each of the classes of logits
    [N, C, ...], whose areas are averaged. They are counted in ``bins`` of equal width, so two closer than that are a tie. NaN
    where there are no positives or no negatives. Raises ArgumentError for fewer than 2 bins.
    """

    @checked
    def __init__(self, bins: int = 1000) -> None:
        if bins < 2:
            raise ArgumentError(f"bins must be at least 2, got {bins}")
        self.bins = bins

    def counts(self, output: Value, target: Value) -> Value:
        _, label, classes = classes_of(output, target)
        one = target.shape == output.shape or output.shape[1] == 1
        wide = F.cast(widened(output), "float32")
        if one:
            scores, positive = F.reshape(F.sigmoid(wide), (-1, 1)), F.reshape(label, (-1, 1))
        else:
            scores = F.reshape(F.movedim(F.softmax(wide, 1), 1, -1), (-1, classes))
            positive = F.one_hot(label, classes)
        bins = F.clamp(F.cast(F.floor(scores * float(self.bins)), "int64"), 0, self.bins - 1)
        columns = scores.shape[1]
        column = F.expand(F.reshape(F.arange(label.graph, columns), (1, columns)), scores.shape)
        index = (column * 2 + positive) * self.bins + bins
        index = F.where(F.reshape(F.ge(label, 0), (-1, 1)), index, -1)
        flat = F.bincount(F.reshape(index, (-1,)), minlength=columns * 2 * self.bins)
        return F.reshape(flat, (columns, 2, self.bins))

    def result(self, counts: np.ndarray) -> Any:
        negative, positive = counts[:, 0].astype(np.float64), counts[:, 1].astype(np.float64)
        above = positive[:, ::-1].cumsum(1)[:, ::-1] - positive  # positives in higher bins
        won = (negative * (above + 0.5 * positive)).sum(1)
        pairs = negative.sum(1) * positive.sum(1)
        if not pairs.all():
            return float("nan")
        return float((won / pairs).mean())


class R2(Metric):
    """The coefficient of determination, as sklearn.metrics.r2_score: 1 less the squared error over the targets' variance.

    Outputs and targets have one shape, [N] or [N, ...]; the mean of the columns is given. Sums are float64.
    """

    def counts(self, output: Value, target: Value) -> Value:
        if output.shape != target.shape:
            raise ShapeError(f"r2 needs an output and a target of one shape, got {output.type} and {target.type}")
        rows = output.shape[0]
        y, found = (F.reshape(F.cast(widened(v), "float64"), (rows, -1)) for v in (target, output))
        ones = F.sum(y * 0.0 + 1.0, 0)
        return F.stack([ones, F.sum(y, 0), F.sum(y * y, 0), F.sum((y - found) * (y - found), 0)], 0)

    def result(self, counts: np.ndarray) -> Any:
        count, total, squares, errors = counts
        spread = squares - total * total / count
        return float(np.mean(1.0 - errors / spread)) if (spread > 0).all() else float("nan")


COUNTED: dict[str, Callable[[], Metric]] = {
    "confusion_matrix": ConfusionMatrix,
    "precision": Precision,
    "recall": Recall,
    "f1": F1,
    "mean_iou": MeanIoU,
    "auc": AUC,
    "r2": R2,
}

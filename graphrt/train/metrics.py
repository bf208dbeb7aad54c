"""Metrics: graph code that a program computes beside its loss, as functions of the network's output and the target.

A function gives a mean over examples, and has a method ``denominator`` where it is one of something else. A ``Metric`` gives
counts that add up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

import graphrt.ops as F
from graphrt.arguments import checked
from graphrt.errors import ArgumentError, ShapeError
from graphrt.ir import Value
from graphrt.ops.base import widened
from graphrt.train.counted import COUNTED, Metric

DENOMINATOR = "denominator of "  # and the name of the mean that it is of
COUNTS = "counts of "  # and the name of the Metric
GRAD_NORM = "grad_norm"  # of a training step alone
Measure = Callable[[Any, Any], Value] | Metric
Metrics = str | Measure | Sequence[str | Measure] | Mapping[str, str | Measure] | None


def has_classes(output: Any, target: Any) -> bool:
    """Whether ``target`` [N, ...] has a class index for each of the logits ``output`` [N, C, ...]."""
    if not isinstance(output, Value) or not isinstance(target, Value) or output.ndim < 2 or not target.dtype.is_int:
        return False
    return output.shape[:1] + output.shape[2:] == target.shape


def accuracy(output: Value, target: Value, ignore_index: int | None = -100) -> Value:
    """The share of the targets that are not ``ignore_index`` at whose class the logits [N, C, ...] are largest."""
    if not has_classes(output, target):
        given = output.type if isinstance(output, Value) else type(output).__name__
        raise ShapeError(
            f"accuracy needs logits [N, C, ...] and integer classes [N, ...], got {given} and {target.type}; "
            "pass metrics=() for none, a function of (output, target), or with losses by name a dict of metrics by these names"
        )
    label = F.cast(target, "int64")
    hit = F.eq(F.argmax(output, 1), label)
    if ignore_index is None:
        return F.mean(F.cast(hit, "float32"))
    counts = F.ne(label, ignore_index)
    return F.cast(F.sum(hit & counts), "float32") / F.cast(F.maximum(F.sum(counts), 1), "float32")


def mae(output: Value, target: Value) -> Value:
    """The mean absolute error."""
    return F.l1_loss(output, target)


def mse(output: Value, target: Value) -> Value:
    """The mean squared error."""
    return F.mse_loss(output, target)


class Accuracy:
    """``accuracy`` for one ``ignore_index``, with what it divides by."""

    def __init__(self, ignore_index: int | None) -> None:
        self.ignore_index = ignore_index

    def __call__(self, output: Value, target: Value) -> Value:
        return accuracy(output, target, self.ignore_index)

    def denominator(self, output: Value, target: Value) -> Value | None:
        """How many targets count; None where all do."""
        return None if self.ignore_index is None else F.sum(F.ne(F.cast(target, "int64"), self.ignore_index))


class TopK(Accuracy):
    """The share of targets that are among the ``k`` classes of the largest logits [N, C, ...]; ``ignore_index`` do not count.

    Of equal logits the class of the lower index comes first. Raises ArgumentError for ``k`` under 1.
    """

    @checked
    def __init__(self, k: int = 5, ignore_index: int | None = -100) -> None:
        super().__init__(ignore_index)
        if k < 1:
            raise ArgumentError(f"k must be at least 1, got {k}")
        self.k, self.__name__ = k, f"top_{k}"

    def __call__(self, output: Value, target: Value) -> Value:
        if not has_classes(output, target):
            given = output.type if isinstance(output, Value) else type(output).__name__
            raise ShapeError(f"top_{self.k} needs logits [N, C, ...] and integer classes [N, ...], got {given}, {target.type}")
        label = F.unsqueeze(F.cast(target, "int64"), 1)
        number = F.reshape(F.arange(output.graph, output.shape[1]), (1, -1, *[1] * (output.ndim - 2)))
        own = F.sum(F.where(F.eq(number, label), output, 0.0), 1, keepdim=True)
        before = F.gt(output, own) | (F.eq(output, own) & F.lt(number, label))
        hit = F.lt(F.sum(F.cast(before, "int64"), 1), self.k) & F.ge(F.squeeze(label, 1), 0)
        counts = F.ne(F.squeeze(label, 1), -1 if self.ignore_index is None else self.ignore_index)
        return F.cast(F.sum(F.cast(hit & counts, "int64")), "float32") / F.cast(
            F.maximum(F.sum(F.cast(counts, "int64")), 1), "float32"
        )


METRICS: dict[str, Measure] = {f.__name__: f for f in (accuracy, mae, mse)}


def named(metrics: Metrics) -> dict[str, Measure] | None:
    """``metrics`` by name; None stays None. Raises ArgumentError."""
    if metrics is None:
        return None
    if isinstance(metrics, Mapping):
        pairs = list(metrics.items())
    else:
        listed = [metrics] if isinstance(metrics, str) or callable(metrics) or isinstance(metrics, Metric) else list(metrics)
        pairs = [(m if isinstance(m, str) else getattr(m, "__name__", type(m).__name__), m) for m in listed]
    return {name: _by_name(m) if isinstance(m, str) else _checked(m) for name, m in pairs}


def _by_name(name: str) -> Measure:
    """The metric of that name. Raises ArgumentError."""
    if name in METRICS:
        return METRICS[name]
    if name in COUNTED:
        return COUNTED[name]()
    if name == GRAD_NORM:
        return grad_norm
    if name.startswith("top_") and name[4:].isdigit():
        return TopK(int(name[4:]))
    return _checked(name)


def _checked(metric: Any) -> Measure:
    if callable(metric) or isinstance(metric, Metric):
        return metric
    raise ArgumentError(
        f"unknown metrics {[metric]}; there is {', '.join([*METRICS, 'top_K', *COUNTED, GRAD_NORM])}, and any function of "
        "(output, target) that returns a scalar Value, such as lambda output, target: F.mean(F.abs(output - target))"
    )


def grad_norm(output: Any, target: Any) -> Value:
    """Stands for the norm of the gradients, which no output knows: a training step measures it."""
    raise ArgumentError("grad_norm is measured of a whole training step")


def denominator(metric: Measure, output: Any, target: Value) -> Value | None:
    """The divisor of ``metric`` if it is a mean of something else than the examples: its method ``denominator`` says so."""
    found = getattr(metric, "denominator", None)
    share = None if found is None or is_sum(metric) else found(output, target)
    return None if share is None else F.cast(widened(share), "float32")


def is_sum(metric: Any) -> bool:
    """Whether ``metric`` adds up over the examples: its ``reduction`` says so, as that of a loss does."""
    return getattr(metric, "reduction", "mean") == "sum"


def read(found: Mapping[str, Any], measures: Mapping[str, Measure]) -> dict[str, Any]:
    """The values that a program ``found`` of one batch: numbers, and the results of counts."""
    return {
        name.removeprefix(COUNTS): result_of(measures[name.removeprefix(COUNTS)], value)
        if name.startswith(COUNTS)
        else float(value)
        for name, value in found.items()
        if not name.startswith(DENOMINATOR)
    }


def result_of(measure: Measure, counts: Any) -> Any:
    """The metric that the sum of its counts gives."""
    assert isinstance(measure, Metric)
    return measure.result(np.asarray(counts))


class Pooled:
    """Loss and metrics over a data set, from those of its batches."""

    def __init__(self, measures: Mapping[str, Any]) -> None:
        self._measures = measures
        self._summed = [name for name, measure in measures.items() if is_sum(measure)]
        self._totals: dict[str, Any] = {}
        self._shares: dict[str, float] = {}

    def add(self, found: Mapping[str, Any], examples: int) -> None:
        """Takes in what was ``found`` of a batch; means of nothing are left out."""
        for name, value in found.items():
            if name.startswith(DENOMINATOR):
                continue
            if name.startswith(COUNTS):
                self._totals[name] = self._totals.get(name, 0) + np.asarray(value)
                continue
            value = float(value)
            share = 1.0 if name in self._summed else float(found.get(DENOMINATOR + name, examples))
            self._totals[name] = self._totals.get(name, 0.0) + (value * share if share else 0.0)
            self._shares[name] = self._shares.get(name, 0.0) + share

    def values(self) -> dict[str, Any]:
        """Sums, means over all batches, NaN for the mean of nothing, and the results of counts."""
        return {name.removeprefix(COUNTS): self._value(name, total) for name, total in self._totals.items()}

    def means(self) -> dict[str, float]:
        """``values`` without the results of counts."""
        return {name: self._value(name, total) for name, total in self._totals.items() if not name.startswith(COUNTS)}

    def _value(self, name: str, total: Any) -> Any:
        if name.startswith(COUNTS):
            return result_of(self._measures[name.removeprefix(COUNTS)], total)
        return total if name in self._summed else total / self._shares[name] if self._shares[name] else math.nan

    def to_json(self) -> dict[str, Any]:
        """All that was taken in so far as JSON values, from which every sum comes back as it was."""
        totals = {n: [t.tolist(), t.dtype.name] if isinstance(t, np.ndarray) else t for n, t in self._totals.items()}
        return {"totals": totals, "shares": self._shares}

    def take(self, found: Mapping[str, Any]) -> None:
        """Goes on from what ``to_json`` gave."""
        totals = found["totals"].items()
        self._totals = {n: np.array(*t) if isinstance(t, list) else t for n, t in totals}
        self._shares = dict(found["shares"])


def measured(name: str, metric: Callable[..., Value], output: Any, target: Value) -> Value:
    """The result of ``metric``, a float32 scalar. Raises ArgumentError for anything else."""
    found = metric(output, target)
    if not isinstance(found, Value) or found.shape:
        given = found.type if isinstance(found, Value) else type(found).__name__
        raise ArgumentError(f"{name} must return a scalar Value of the graph, got {given}; F.mean makes one")
    return F.cast(widened(found), "float32")

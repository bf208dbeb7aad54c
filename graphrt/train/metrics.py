"""Metrics: graph code that a program computes beside its loss, as functions of the network's output and the target."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import graphrt.ops as F
from graphrt.errors import ArgumentError, ShapeError
from graphrt.ir import Value
from graphrt.ops.base import widened

DENOMINATOR = "denominator of "  # and the name of the mean that it is of
Metric = Callable[[Any, Value], Value]
Metrics = str | Metric | Sequence[str | Metric] | Mapping[str, str | Metric] | None


def has_classes(output: Any, target: Value) -> bool:
    """Whether ``target`` [N, ...] has a class index for each of the logits ``output`` [N, C, ...]."""
    if not isinstance(output, Value) or output.ndim < 2 or not target.dtype.is_int:
        return False
    return output.shape[:1] + output.shape[2:] == target.shape


def accuracy(output: Value, target: Value, ignore_index: int | None = -100) -> Value:
    """The share of the targets that are not ``ignore_index`` at whose class the logits [N, C, ...] are largest."""
    if not has_classes(output, target):
        given = output.type if isinstance(output, Value) else type(output).__name__
        raise ShapeError(
            f"accuracy needs logits [N, C, ...] and integer classes [N, ...], got {given} and {target.type}; "
            "pass metrics=() for none, or a function of (output, target)"
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
        """The number of targets that count; None where all of them do."""
        return None if self.ignore_index is None else F.sum(F.ne(F.cast(target, "int64"), self.ignore_index))


METRICS: dict[str, Metric] = {f.__name__: f for f in (accuracy, mae, mse)}


def named(metrics: Metrics) -> dict[str, Metric] | None:
    """``metrics`` by name; None stays None. Raises ArgumentError."""
    if metrics is None:
        return None
    if isinstance(metrics, Mapping):
        pairs = list(metrics.items())
    else:
        listed = [metrics] if isinstance(metrics, str) or callable(metrics) else list(metrics)
        pairs = [(m if isinstance(m, str) else getattr(m, "__name__", type(m).__name__), m) for m in listed]
    unknown = [m for _, m in pairs if not callable(m) and m not in METRICS]
    if unknown:
        raise ArgumentError(
            f"unknown metrics {unknown}; there is {', '.join(METRICS)}, and any function of (output, target) that returns "
            "a scalar Value, such as lambda output, target: F.mean(F.abs(output - target))"
        )
    return {name: METRICS[m] if isinstance(m, str) else m for name, m in pairs}


def denominator(metric: Callable[..., Value], output: Any, target: Value) -> Value | None:
    """The divisor of ``metric`` if it is a mean of something else than the examples: its method ``denominator`` says so."""
    found = getattr(metric, "denominator", None)
    share = None if found is None or is_sum(metric) else found(output, target)
    return None if share is None else F.cast(widened(share), "float32")


def is_sum(metric: Any) -> bool:
    """Whether ``metric`` adds up over the examples: its ``reduction`` says so, as that of a loss does."""
    return getattr(metric, "reduction", "mean") == "sum"


class Pooled:
    """Loss and metrics over a data set, from those of its batches."""

    def __init__(self, summed: Collection[str]) -> None:
        self._summed = summed
        self._totals: dict[str, float] = {}
        self._shares: dict[str, float] = {}

    def add(self, found: Mapping[str, float], examples: int) -> None:
        """Takes in what was ``found`` of a batch; means of nothing are left out."""
        for name, value in found.items():
            if name.startswith(DENOMINATOR):
                continue
            share = 1.0 if name in self._summed else found.get(DENOMINATOR + name, examples)
            self._totals[name] = self._totals.get(name, 0.0) + (value * share if share else 0.0)
            self._shares[name] = self._shares.get(name, 0.0) + share

    def values(self) -> dict[str, float]:
        """Sums, and means over all batches; NaN for the mean of nothing."""
        return {
            name: total if name in self._summed else total / self._shares[name] if self._shares[name] else math.nan
            for name, total in self._totals.items()
        }


def measured(name: str, metric: Callable[..., Value], output: Any, target: Value) -> Value:
    """The result of ``metric``, a float32 scalar. Raises ArgumentError for anything else."""
    found = metric(output, target)
    if not isinstance(found, Value) or found.shape:
        given = found.type if isinstance(found, Value) else type(found).__name__
        raise ArgumentError(f"{name} must return a scalar Value of the graph, got {given}; F.mean makes one")
    return F.cast(widened(found), "float32")

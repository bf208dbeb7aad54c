"""Metrics: graph code that a program computes beside its loss, as functions of the network's output and the target."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import graphrt.ops as F
from graphrt.errors import ArgumentError, ShapeError
from graphrt.ir import Value
from graphrt.ops.base import widened

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


def measured(name: str, metric: Callable[..., Value], output: Any, target: Value) -> Value:
    """What ``metric`` gives, a float32 scalar. Raises ArgumentError for anything else."""
    found = metric(output, target)
    if not isinstance(found, Value) or found.shape:
        given = found.type if isinstance(found, Value) else type(found).__name__
        raise ArgumentError(f"{name} must return a scalar Value of the graph, got {given}; F.mean makes one")
    return F.cast(widened(found), "float32")

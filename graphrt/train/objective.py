"""Objective: what a step minimises and what it measures, for a network of one output or of several.

output, target ─▶ heads: an output, its target, its loss and metrics ─▶ the weighted sum of losses
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import graphrt.ops as F
from graphrt.errors import ArgumentError, told
from graphrt.ir import Graph, Value
from graphrt.nn import Module
from graphrt.nn.module import under
from graphrt.ops.base import widened
from graphrt.ops.collective import everywhere
from graphrt.train.batch import WEIGHT, leaves
from graphrt.train.counted import Metric
from graphrt.train.metrics import (
    COUNTS,
    DENOMINATOR,
    Accuracy,
    Measure,
    Metrics,
    accuracy,
    denominator,
    grad_norm,
    has_classes,
    measured,
    named,
)
from graphrt.train.parts import Measured, part_of, reduced_by, rows_of

Loss = Callable[[Any, Any], Value] | Module
Losses = Loss | tuple[Loss, float] | Sequence[Loss | tuple[Loss, float]] | Mapping[str, Loss | tuple[Loss, float]]


@dataclass(frozen=True)
class Head:
    """An output, by its number or name, or None for whatever the network returns; and what is wanted of it."""

    key: int | str | None
    loss: Loss
    weight: float
    metrics: dict[str, Measure] | None  # None: the accuracy, where there is one

    @property
    def ignored(self) -> int | None:
        """The class index that does not count."""
        return getattr(self.loss, "ignore_index", -100)

    def of(self, tree: Any) -> Any:
        """The head's own part of outputs or targets; a target that is only one belongs to all."""
        several = isinstance(tree, tuple | list | Mapping)
        if self.key is None or not several:
            return tree
        if isinstance(tree, Mapping) != isinstance(self.key, str):
            raise ArgumentError(f"losses by {'name' if isinstance(self.key, str) else 'position'} do not fit {_kind(tree)}")
        try:
            return tree[self.key]
        except (KeyError, IndexError):
            raise ArgumentError(f"there is a loss for {self.key!r}, and the network or the batch has {_kind(tree)}") from None

    def named(self, what: str) -> str:
        """The name of a loss or metric of one of several heads: NAME_loss; the first of heads without names has the metrics."""
        return f"{self.key}_{what}" if isinstance(self.key, str) or (self.key is not None and what == "loss") else what

    @property
    def path(self) -> str:
        """The name that the parameters of the loss are below."""
        return "loss" if self.key is None else f"loss.{self.key}"


def _kind(tree: Any) -> str:
    return f"the names {', '.join(map(str, tree))}" if isinstance(tree, Mapping) else f"{len(tree)} of them"


class Objective:
    """Loss and metrics of a network's outputs, as ``Trainer`` takes them; no loss where a step function has them.

    Raises ArgumentError for an unknown metric.
    """

    def __init__(self, loss: Losses | None, metrics: Metrics) -> None:
        self.classes: int | None = None  # of the logits of the graph that was built last, where targets are class indices
        if loss is None:
            wanted = named(metrics) or {}
            if any(measure is not grad_norm for measure in wanted.values()):
                raise ArgumentError("a step function returns its metrics beside the loss; metrics may be grad_norm alone")
            self.heads, self.grad_norm = [], next(iter(wanted), None)
            return
        if isinstance(loss, Mapping):
            by_head = isinstance(metrics, Mapping) and bool(metrics.keys() & loss.keys())
            if by_head and (unknown := metrics.keys() - loss.keys()):  # type: ignore[union-attr]
                raise ArgumentError(f"metrics for {', '.join(sorted(unknown))}; there are losses for {', '.join(loss)}")
            self.heads = [
                Head(key, *_weighted(one), named(metrics.get(key, ()) if by_head else metrics))  # type: ignore[union-attr]
                for key, one in loss.items()
            ]
        elif isinstance(loss, tuple | list) and not _is_pair(loss):
            self.heads = [Head(i, *_weighted(one), {} if i else named(metrics)) for i, one in enumerate(loss)]
        else:
            self.heads = [Head(None, *_weighted(loss), named(metrics))]
        if not self.heads:
            raise ArgumentError("there is no loss")
        every = {name for head in self.heads for name, measure in (head.metrics or {}).items() if measure is grad_norm}
        self.grad_norm = next(iter(every), None)  # the name that the norm of the gradients goes by

    @property
    def ignored(self) -> int | None:
        """The class index that does not count, of the first loss."""
        return self.heads[0].ignored if self.heads else None

    def measures(self) -> dict[str, Measure]:
        """Losses and metrics by the names that programs give them."""
        found: dict[str, Measure] = {"loss": self.heads[0].loss if len(self.heads) == 1 else lambda output, target: output}
        for head in self.heads:
            found |= {head.named("loss"): head.loss} | {head.named(n): m for n, m in (head.metrics or {}).items()}
        return found

    def outputs(
        self,
        graph: Graph,
        output: Any,
        target: Any,
        labels: Any,
        weight: Value | None,
        denominators: bool,
        apart: int = 0,
        last: Value | None = None,
    ) -> tuple[Value, Value]:
        """Makes losses and metrics outputs of ``graph``, with their ``denominators`` if those are asked for.

        ``labels`` are the targets for the metrics, ``weight`` [N] those of the examples. With ``apart``, the number of examples
        of all processes, outputs are this one's own. ``last`` says whether the last example counts in this process, or stands
        where others have one. Returns the loss of all as what is summed, and what that is divided by.
        """
        heads = [head for head in self.heads if not (isinstance(output, Value) and isinstance(head.key, int) and head.key)]
        parts = [(head, head.of(output), head.of(target), head.of(labels)) for head in heads]
        losses = [self._loss(head, found, wanted, weight, last, bool(apart)) for head, found, wanted, _ in parts]
        wholes = [loss.whole() for loss in losses]
        shown = [loss.mine() for loss in losses] if apart else wholes
        graph.output("loss", _weighed(heads, shown))
        for (head, found, _, wanted), loss in zip(parts, shown, strict=True):
            if head.key is not None:
                graph.output(head.named("loss"), loss)
            self._measure(graph, head, _Seen(found, wanted, weight, last), denominators, bool(apart))
        if len(losses) == 1 and losses[0].share is not None:
            return _weighed(heads, [everywhere(losses[0].value, "sum")]), everywhere(losses[0].share, "sum")
        examples = 1.0 if len(losses) == 1 and losses[0].summed else float(max(apart, 1))
        return _weighed(heads, wholes) * examples, graph.constant(examples)

    def _loss(self, head: Head, output: Any, target: Any, weight: Value | None, last: Value | None, shared: bool) -> Measured:
        """The loss of a head in this process."""
        with under(head.path):
            if weight is not None:
                return Measured(F.sum(_per_example(head.loss, output, target) * weight), F.sum(weight))
            return _Seen(output, target, None, last).measured("the loss", head.loss, shared)

    def _measure(self, graph: Graph, head: Head, seen: _Seen, denominators: bool, apart: bool) -> None:
        """Adds the metrics of a head to the outputs, and what they and its loss divide by."""

        def together(v: Value, op: str) -> Value:
            return v if apart else everywhere(v, op)

        def divide(name: str, by: Measure) -> None:
            share = seen.summed(lambda output, target: denominator(by, output, target)) if denominators else None
            if share is not None:
                graph.output(DENOMINATOR + name, together(share, "sum"))

        classes = has_classes(seen.output, seen.target)
        if head is self.heads[0]:
            self.classes = seen.output.shape[1] if classes else None
        if seen.weight is None:
            with under(head.path):
                divide(head.named("loss"), head.loss)
        elif denominators:
            graph.output(DENOMINATOR + head.named("loss"), together(F.sum(seen.weight), "sum"))
        metrics: Mapping[str, Measure] = {"accuracy": accuracy} if classes else {}
        for what, given in (metrics if head.metrics is None else head.metrics).items():
            name = head.named(what)
            metric = Accuracy(head.ignored) if given is accuracy else given
            if isinstance(metric, Metric):
                counts = seen.summed(metric.counts)
                assert counts is not None
                graph.output(COUNTS + name, together(counts, "sum"))
            elif metric is not grad_norm:
                with under(name):
                    if apart and seen.last is None:
                        graph.output(name, measured(name, metric, seen.output, seen.target))
                    else:
                        found = seen.measured(name, metric, False)
                        graph.output(name, found.mine() if apart else found.whole())
                    divide(name, metric)


@dataclass(frozen=True)
class _Seen:
    """The outputs and targets of this process's examples, of which the ``last`` counts or does not (None: all do)."""

    output: Any
    target: Any
    weight: Value | None
    last: Value | None

    def _cut(self) -> tuple[int, list[tuple[Any, Any]]]:
        """How many examples count for certain; outputs and targets of those, and of the last."""
        count = next(iter(leaves("x", self.output).values())).shape[0] - 1
        ranges = ((0, count), (count, count + 1))
        return count, [(rows_of(self.output, *rows), rows_of(self.target, *rows)) for rows in ranges]

    def measured(self, name: str, measure: Any, shared: bool) -> Measured:
        """``measure`` of the examples that count."""
        if self.last is None:
            return part_of(name, measure, self.output, self.target, shared)
        count, (certain, last) = self._cut()
        return part_of(name, measure, *certain, rows=count).beside(part_of(name, measure, *last, rows=1), self.last)

    def summed(self, measure: Callable[[Any, Any], Value | None]) -> Value | None:
        """``measure``, which adds up over examples, of those that count; None where it is."""
        if self.last is None:
            return measure(self.output, self.target)
        _, (certain, last) = self._cut()
        found, more = measure(*certain), measure(*last)
        if found is None or more is None:
            return None
        return found + F.cast(F.where(self.last, more, F.zeros_like(more)), found.dtype)


def _weighed(heads: Sequence[Head], losses: Sequence[Value]) -> Value:
    """The sum of ``losses``, weighted as ``heads`` say."""
    scaled = [loss if head.weight == 1.0 else loss * head.weight for head, loss in zip(heads, losses, strict=True)]
    return functools.reduce(lambda a, b: a + b, scaled)


def _is_pair(loss: Any) -> bool:
    return isinstance(loss, tuple) and len(loss) == 2 and isinstance(loss[1], int | float)


def _weighted(loss: Any) -> tuple[Loss, float]:
    """A loss and its weight. Raises ArgumentError."""
    found, weight = loss if _is_pair(loss) else (loss, 1.0)
    if not callable(found) or isinstance(found, type):
        raise ArgumentError(f"a loss is a function of (output, target), or (function, weight), got {told(loss)}")
    return found, float(weight)


def _per_example(loss: Loss, output: Any, target: Any) -> Value:
    """The loss of each example, [N]. Raises ArgumentError for one that only has a mean."""
    if isinstance(loss, Module) and hasattr(loss, "reduction"):
        found = reduced_by(loss, "none")(output, target)
    elif not isinstance(loss, Module) and "reduction" in inspect.signature(loss).parameters:
        found = loss(output, target, reduction="none")  # type: ignore[call-arg]
    else:
        found = loss(output, target)
    if not isinstance(found, Value) or not found.ndim:
        raise ArgumentError(
            f"a batch with a {WEIGHT} needs a loss of each example: one with a reduction, such as those of nn, or a function "
            "that returns [N, ...]"
        )
    wide = F.cast(widened(found), "float32")
    return wide if wide.ndim == 1 else F.mean(wide, tuple(range(1, wide.ndim)))


def outputs_by_name(found: Any) -> dict[str, Value]:
    """The results of a network by name: out, or out0 and so on, or a dict's own names. Raises ArgumentError."""
    pairs = (
        found.items() if isinstance(found, Mapping) else enumerate(found) if isinstance(found, list | tuple) else [("", found)]
    )
    named = {key if isinstance(key, str) and key else f"out{key}": value for key, value in pairs}
    for value in named.values():
        if not isinstance(value, Value):
            raise ArgumentError(
                f"predict needs a network that returns a Value, or a tuple or dict of them, got {type(value).__name__}"
            )
    return named


def classes_of(target: Any, given: Any) -> Any:
    """The labels metrics compare with: ``target``, or the class of the largest share where class indices were ``given``."""
    mixed = isinstance(target, Value) and isinstance(given, Value) and given.dtype.is_int and target.dtype.is_float
    return F.argmax(target, 1) if mixed and target.ndim == given.ndim + 1 else target

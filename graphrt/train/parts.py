"""Parts: a loss or metric of a batch of which each process has some examples, from those of the parts.

    value x share ─▶ summed over processes ─▶ / the sum of shares          a mean: the share is what it divides by
    value         ─▶ summed over processes                                 a sum

A measure that does not say which it is, is computed once of two small batches and of both together, which says it.
"""

from __future__ import annotations

import copy
import inspect
from dataclasses import dataclass
from typing import Any

import numpy as np

import graphrt.ops as F
from graphrt.errors import ArgumentError, GraphrtError
from graphrt.ir import Graph, Value
from graphrt.nn import Module
from graphrt.ops.collective import everywhere
from graphrt.targets.reference.evaluate import evaluate
from graphrt.train.batch import each
from graphrt.train.metrics import Measure, denominator, has_classes, is_sum, measured

FEW = 3  # examples of each of the two batches


@dataclass(frozen=True)
class Measured:
    """A measure of this process's examples: a mean, or their sum if ``summed``; ``share`` is what a sum is to be divided by."""

    value: Value
    share: Value | None
    summed: bool = False

    def mine(self) -> Value:
        """That of this process."""
        return self.value if self.share is None else self.value / self.share

    def whole(self) -> Value:
        """That of all."""
        if self.share is None:
            return everywhere(self.value, "sum" if self.summed else "mean")
        return everywhere(self.value, "sum") / everywhere(self.share, "sum")

    def beside(self, last: Measured, counts: Value) -> Measured:
        """That with the example ``last``, which ``counts`` or does not."""
        value = self.value + F.where(counts, last.value, 0.0)
        if self.share is None or last.share is None:
            return Measured(value, None, True)
        return Measured(value, self.share + F.where(counts, last.share, 0.0))


def part_of(name: str, measure: Any, output: Any, target: Any, shared: bool = False, rows: int = 0) -> Measured:
    """``measure`` of this process's examples; as a sum and a share where there are others, it is ``shared`` by runs, or there
    are ``rows`` of what else counts. Raises ArgumentError."""
    found = measured(name, measure, output, target)
    others = bool(found.type.varying)
    share = denominator(measure, output, target) if others or shared or rows else None
    if share is None:
        summed = adds_up(name, measure, output, target) if others else is_sum(measure)
        if rows and not summed:
            return Measured(found * float(rows), found.graph.constant(float(rows)))
        return Measured(found, None, summed)
    if isinstance(measure, Module) and hasattr(measure, "reduction"):  # not a mean, which may be one of nothing
        return Measured(measured(name, reduced_by(measure, "sum"), output, target), share)
    return Measured(F.where(F.eq(share, 0.0), 0.0, found) * share, share)


def reduced_by(loss: Module, reduction: str) -> Module:
    """``loss`` with another reduction."""
    found = copy.copy(loss)
    found.reduction = reduction
    return found


def rows_of(tree: Any, start: int, stop: int) -> Any:
    """The examples from ``start`` to ``stop`` of every tensor in ``tree``."""
    return each(lambda leaf: leaf[start:stop], tree)


def adds_up(name: str, measure: Measure, output: Any, target: Any) -> bool:
    """Whether ``measure``, called ``name``, is a sum over the examples of a batch, and not their mean.

    It says so itself (``reduction``, an attribute or a parameter), or is computed of two batches of ``FEW`` examples like
    ``output`` and ``target``, and of both together. Raises ArgumentError for what is neither.
    """
    declared = getattr(measure, "reduction", None)
    if declared is None and not isinstance(measure, Module):
        said = inspect.signature(measure).parameters.get("reduction") if callable(measure) else None
        declared = said.default if said is not None and isinstance(said.default, str) else None
    if declared is not None:
        return declared == "sum"
    rng = np.random.default_rng(0)
    try:
        first, second = (each(lambda leaf: _drawn(leaf, output, rng), [output, target]) for _ in range(2))
        a, b, both = (_computed(measure, *trees) for trees in (first, second, each(_joined, first, second)))
    except (GraphrtError, TypeError, ValueError, IndexError, KeyError) as error:
        a, b, both, why = np.nan, np.nan, np.nan, f" ({str(error).splitlines()[0]})"
    else:
        why = ""
    for summed, expected in ((False, (a + b) / 2), (True, a + b)):
        if np.isfinite(expected) and np.isclose(both, expected, rtol=1e-6, atol=1e-12):
            return summed
    told = "what it is" if not np.isfinite(both) else "that it is either the mean or the sum of those of a batch's parts"
    raise ArgumentError(
        f"each process has a part of the batch, and nothing says of {name} {told}{why}: give it an attribute reduction, "
        '"mean" or "sum", which says how those of the processes make that of all, or a method denominator'
    )


def _drawn(leaf: Any, output: Any, rng: np.random.Generator) -> np.ndarray:
    """Numbers like ``leaf`` of FEW examples: probabilities, or classes that logits ``output`` have."""
    shape = (FEW, *leaf.shape[1:]) if leaf.ndim else ()
    if leaf.dtype.is_float:
        return rng.uniform(0.1, 0.9, shape).astype(leaf.dtype.numpy)
    classes = output.shape[1] if has_classes(output, leaf) else 2
    return rng.integers(0, classes, shape).astype(leaf.dtype.numpy)


def _joined(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The examples of both."""
    return np.concatenate([first, second]) if first.ndim else first


def _computed(measure: Any, output: Any, target: Any) -> float:
    """The ``measure`` of arrays."""
    graph, feeds = Graph(), dict[str, np.ndarray]()

    def given(leaf: np.ndarray) -> Value:
        feeds[f"x{len(feeds)}"] = leaf
        return graph.input(f"x{len(feeds) - 1}", leaf.shape, leaf.dtype)

    found = measured("a measure", measure, each(given, output), each(given, target))
    return float(evaluate(graph, {**graph.initial, **feeds})[found])

"""Dynamic loss scaling: keeps float16 gradients out of the range where they vanish (Micikevicius et al., ICLR 2018).

The factor, its counter and the decision to skip a step are state and graph code, so they are part of the compiled program.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

import graphrt.ops as F
from graphrt.errors import ArgumentError
from graphrt.ir import Value
from graphrt.optim.optimizer import Optimizer, keep_unless


class GradScaler:
    """Multiplies the loss, divides the gradients and skips updates with infinities or NaN, as torch.amp.GradScaler.

    The factor starts at ``init_scale``, is multiplied by ``backoff_factor`` after a skipped step and by ``growth_factor``
    after ``growth_interval`` steps in a row without one. Two in one graph need a ``name`` each, after which their state is
    named. Raises ArgumentError for factors that would not do so.
    """

    def __init__(
        self,
        init_scale: float = 65536.0,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        name: str = "scaler",
    ) -> None:
        if not (init_scale > 0 and growth_factor > 1 and 0 < backoff_factor < 1 and growth_interval >= 1):
            raise ArgumentError(
                "a scaler needs init_scale > 0, growth_factor > 1, 0 < backoff_factor < 1 and growth_interval >= 1, got "
                f"{init_scale}, {growth_factor}, {backoff_factor}, {growth_interval}"
            )
        self.init_scale, self.growth_factor = init_scale, growth_factor
        self.backoff_factor, self.growth_interval, self.name = backoff_factor, growth_interval, name

    def scale(self, loss: Value) -> Value:
        """The scalar ``loss`` times the factor: what to differentiate. Call it once for a graph, before ``apply``."""
        factor = loss.graph.parameter(f"{self.name}.scale", np.float32(self.init_scale), trainable=False)
        return loss * F.cast(factor, loss.dtype)

    def apply(self, optimizer: Optimizer, params: Sequence[Value], grads: Sequence[Value], lr: Value) -> None:
        """``optimizer.apply`` with the gradients of the scaled loss; no state of the optimizer changes in a skipped step.

        Raises ArgumentError when ``scale`` was not called, and what ``optimizer.apply`` raises.
        """
        graph = lr.graph
        if f"{self.name}.scale" not in graph.sources:
            raise ArgumentError("the gradients must be those of scaler.scale(loss)")
        with graph.transaction(), graph.phase("opt"):
            factor = graph.sources[f"{self.name}.scale"].outputs[0]
            largest = F.amax(F.abs(grads[0])) if grads else factor
            for g in grads[1:]:
                largest = F.maximum(largest, F.amax(F.abs(g)))
            finite = F.isfinite(largest)
            before = dict(graph.updates)
            optimizer.apply(params, [g * (1.0 / factor) for g in grads], lr)
            keep_unless(graph, before, finite)
            steps = graph.parameter(f"{self.name}.growth_tracker", shape=(), dtype="int64", trainable=False)
            grown = F.eq(steps, self.growth_interval - 1)
            graph.update(steps, F.where(finite & ~grown, steps + 1, 0))
            more = F.where(grown, factor * self.growth_factor, factor)
            graph.update(factor, F.where(finite, more, factor * self.backoff_factor))

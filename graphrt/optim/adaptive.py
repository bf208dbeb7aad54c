"""Optimizers that divide each element's step by the size of its gradients so far: Adagrad, RMSprop, Adadelta."""

from __future__ import annotations

from dataclasses import dataclass

import graphrt.ops as F
from graphrt.errors import ArgumentError
from graphrt.ir import Graph, Value
from graphrt.optim.optimizer import Optimizer


@dataclass(eq=False, repr=False)
class Adagrad(Optimizer):
    """Steps shrink with the sum of squared gradients (Duchi et al., JMLR 2011), as torch.optim.Adagrad.

    ``p = p - lr / (1 + t * lr_decay) * g / (sqrt(sum) + eps)`` at step t from 0; the sum starts at
    ``initial_accumulator_value``, and ``weight_decay`` times p is added to the gradient g. Other arguments as of ``Optimizer``.
    Raises ArgumentError for negative arguments.
    """

    lr: float = 1e-2
    lr_decay: float = 0.0
    weight_decay: float = 0.0
    initial_accumulator_value: float = 0.0
    eps: float = 1e-10

    def _shared(self, graph: Graph, of: str) -> list[Value]:
        if not self.lr_decay:
            return []
        step, _ = self._counter(graph, of, "step", lambda v: v + 1, "int64")  # those done before this one
        return [1.0 + F.cast(step, self._scalar(graph, of)) * self.lr_decay]

    def _update(self, graph: Graph, name: str, p: Value, g: Value, lr: Value, shared: list[Value]) -> Value:
        g = self._penalized(p, g, self.weight_decay)
        total = self._like(graph, name, "sum", self.initial_accumulator_value)
        grown = total + g * g
        graph.update(total, grown)
        return p - g / (F.sqrt(grown) + self.eps) * (lr / shared[0] if shared else lr)


@dataclass(eq=False, repr=False)
class RMSprop(Optimizer):
    """Steps over the root of a running mean of squared gradients (Hinton, 2012), as torch.optim.RMSprop.

    ``p = p - lr * g / (sqrt(mean) + eps)``; the mean decays by ``alpha``, ``momentum`` is that of the steps, ``weight_decay``
    times p is added to the gradient g. ``centered`` subtracts the squared running mean of the gradient (Graves, 2013).
    Other arguments as of ``Optimizer``. Raises ArgumentError for negative arguments and ``alpha`` outside [0, 1).
    """

    lr: float = 1e-2
    alpha: float = 0.99
    eps: float = 1e-8
    weight_decay: float = 0.0
    momentum: float = 0.0
    centered: bool = False

    def _check(self) -> None:
        super()._check()
        if not self.alpha < 1.0:
            raise ArgumentError(f"alpha must lie in [0, 1), got {self.alpha}")

    def _update(self, graph: Graph, name: str, p: Value, g: Value, lr: Value, shared: list[Value]) -> Value:
        def running(what: str, new: Value) -> Value:
            return self._moment(graph, name, what, p, lambda old: old * self.alpha + new * (1.0 - self.alpha))

        g = self._penalized(p, g, self.weight_decay)
        squares = running("square_avg", g * g)
        if self.centered:
            average = running("grad_avg", g)
            squares = squares - average * average
        step = g / (F.sqrt(squares) + self.eps)
        if self.momentum:
            across = step
            step = self._moment(graph, name, "momentum_buffer", p, lambda v: v * self.momentum + across)
        return p - step * lr


@dataclass(eq=False, repr=False)
class Adadelta(Optimizer):
    """Steps as large as those before them (Zeiler, "ADADELTA", 2012), as torch.optim.Adadelta.

    ``step = g * sqrt(d + eps) / sqrt(v + eps)`` with v and d the running means, which decay by ``rho``, of squared gradients
    and of squared steps before this one; ``p = p - lr * step``. ``weight_decay`` times p is added to the gradient g. Other
    arguments as of ``Optimizer``. Raises ArgumentError for negative arguments and ``rho`` above 1.
    """

    lr: float = 1.0
    rho: float = 0.9
    eps: float = 1e-6
    weight_decay: float = 0.0

    def _check(self) -> None:
        super()._check()
        if not self.rho <= 1.0:
            raise ArgumentError(f"rho must lie in [0, 1], got {self.rho}")

    def _update(self, graph: Graph, name: str, p: Value, g: Value, lr: Value, shared: list[Value]) -> Value:
        g = self._penalized(p, g, self.weight_decay)
        v = self._moment(graph, name, "square_avg", p, lambda v: v * self.rho + g * g * (1.0 - self.rho))
        steps: list[Value] = []

        def advance(d: Value) -> Value:
            steps.append(F.sqrt(d + self.eps) / F.sqrt(v + self.eps) * g)
            return d * self.rho + steps[0] * steps[0] * (1.0 - self.rho)

        self._moment(graph, name, "acc_delta", p, advance)
        return p - steps[0] * lr

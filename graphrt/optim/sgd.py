"""Optimizers whose step is the gradient, or its mean, of one length: SGD, Lion, and by layer LARS."""

from __future__ import annotations

from dataclasses import dataclass

import graphrt.ops as F
from graphrt.errors import ArgumentError
from graphrt.ir import Graph, Value
from graphrt.ops.collective import everywhere
from graphrt.optim.optimizer import Optimizer, check_betas


@dataclass(eq=False, repr=False)
class SGD(Optimizer):
    """Gradient descent with momentum, as torch.optim.SGD.

    ``v = momentum * v + (1 - dampening) * (g + weight_decay * p)``, then ``p = p - lr * v``; the first step is not dampened.
    With ``nesterov`` the step is ``g + momentum * v`` (Sutskever et al., ICML 2013). Other arguments as of ``Optimizer``.

    Raises ArgumentError for negative arguments, and for ``nesterov`` without momentum or with dampening.
    """

    momentum: float = 0.0
    dampening: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False

    def _check(self) -> None:
        super()._check()
        if self.nesterov and (self.momentum <= 0 or self.dampening != 0):
            raise ArgumentError("nesterov needs a momentum above 0 and no dampening")

    def _shared(self, graph: Graph, of: str) -> list[Value]:
        if not (self.momentum and self.dampening):
            return []
        started, _ = self._counter(graph, of, "started", lambda v: F.maximum(v, 1.0))  # torch's first step is not dampened
        return [1.0 - started * self.dampening]

    def _update(self, graph: Graph, name: str, p: Value, g: Value, lr: Value, shared: list[Value]) -> Value:
        g = self._penalized(p, g, self.weight_decay)
        if self.momentum:
            dampened = g * shared[0] if shared else g
            moved = self._moment(graph, name, "momentum", p, lambda v: v * self.momentum + dampened)
            g = g + moved * self.momentum if self.nesterov else moved
        return p - g * lr


@dataclass(eq=False, repr=False)
class Lion(Optimizer):
    """The sign of a running mean (Chen et al., "Symbolic discovery of optimization algorithms", NeurIPS 2023).

    ``p = (1 - lr * weight_decay) * p - lr * sign(betas[0] * m + (1 - betas[0]) * g)``, then
    ``m = betas[1] * m + (1 - betas[1]) * g``. Its rate is a tenth to a third of Adam's. Other arguments as of ``Optimizer``.
    Raises ArgumentError for negative arguments and betas outside [0, 1).
    """

    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0

    def _check(self) -> None:
        super()._check()
        check_betas(self.betas)

    def _update(self, graph: Graph, name: str, p: Value, g: Value, lr: Value, shared: list[Value]) -> Value:
        first, second = self.betas
        steps: list[Value] = []

        def advance(m: Value) -> Value:
            steps.append(F.sign(m * first + g * (1.0 - first)))
            return m * second + g * (1.0 - second)

        self._moment(graph, name, "exp_avg", p, advance)
        return self._shrunk(p, lr, self.weight_decay) - steps[0] * lr


@dataclass(eq=False, repr=False)
class LARS(Optimizer):
    """Momentum whose rate fits each parameter's norm (You et al., "Large batch training of convolutional networks", 2017).

    With ``g = gradient + weight_decay * p`` the step is scaled by ``trust_coefficient * |p| / (|gradient| + weight_decay * |p|
    + eps)``, or by 1 where a norm is 0, before it enters ``v = momentum * v + step``; ``p = p - lr * v``. Parameters without
    decay by ``decay_1d`` False are not scaled either, as the paper trains biases and norms. Other arguments as of
    ``Optimizer``. Raises ArgumentError for negative arguments, and for ``nesterov`` without momentum.
    """

    lr: float = 1.0
    momentum: float = 0.9
    weight_decay: float = 0.0
    trust_coefficient: float = 1e-3
    eps: float = 1e-8
    nesterov: bool = False

    def _check(self) -> None:
        super()._check()
        if self.nesterov and self.momentum <= 0:
            raise ArgumentError("nesterov needs a momentum above 0")

    def _update(self, graph: Graph, name: str, p: Value, g: Value, lr: Value, shared: list[Value]) -> Value:
        decay = self._decay(p, self.weight_decay)
        step = self._penalized(p, g, self.weight_decay)
        if self.decay_1d or p.ndim > 1:
            size, slope = norm(p), norm(g)
            local = self.trust_coefficient * size / (slope + size * decay + self.eps)
            step = step * F.where(F.gt(size, 0.0) & F.gt(slope, 0.0), local, 1.0)
        if self.momentum:
            moved = self._moment(graph, name, "momentum", p, lambda v: v * self.momentum + step)
            step = step + moved * self.momentum if self.nesterov else moved
        return p - step * lr


def norm(value: Value) -> Value:
    """The root of the sum of squares, of all parts of what is sharded."""
    return F.sqrt(everywhere(F.sum(value * value), "sum"))

"""Optimizers whose step is the gradient, or its mean, of one length: SGD, Lion, and by layer LARS and Muon."""

from __future__ import annotations

import math
from dataclasses import dataclass

import graphrt.ops as F
from graphrt.errors import ArgumentError
from graphrt.ir import Graph, Value
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


@dataclass(eq=False, repr=False)
class Muon(Optimizer):
    """Momentum, made orthogonal by Newton-Schulz iterations (Jordan et al., "Muon", 2024), as torch.optim.Muon.

    ``v = momentum * v + (1 - momentum) * g``; with ``nesterov`` ``(1 - momentum) * g + momentum * v`` is made orthogonal, and
    without ``v``: ``ns_steps`` iterations ``X = a X + (b A + c A A) X`` with ``A = X X'`` and ``ns_coefficients`` a, b, c, from
    that matrix over its norm, at least ``eps``. Then ``p = (1 - lr * weight_decay) * p - lr * s * X``, where s is
    ``sqrt(max(1, rows / columns))`` for ``adjust_lr_fn`` None or "original", and ``0.2 * sqrt(max(rows, columns))`` for
    "match_rms_adamw". The weight of a convolution is a matrix of a row for each output channel. The iterations are float32,
    where torch's are bfloat16.

    Parameters of fewer than two dimensions need a group with another optimizer:
    ``Muon(0.02, groups=[(lambda p: p.ndim < 2, AdamW(3e-4))])``. Other arguments as of ``Optimizer``. Raises ArgumentError for
    negative arguments, an unknown ``adjust_lr_fn`` and parameters that are no matrices.
    """

    weight_decay: float = 0.1
    momentum: float = 0.95
    nesterov: bool = True
    ns_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315)
    eps: float = 1e-7
    ns_steps: int = 5
    adjust_lr_fn: str | None = None

    def _check(self) -> None:
        super()._check()
        if self.adjust_lr_fn not in (None, "original", "match_rms_adamw"):
            raise ArgumentError(f'adjust_lr_fn must be None, "original" or "match_rms_adamw", got {self.adjust_lr_fn!r}')
        if len(self.ns_coefficients) != 3:
            raise ArgumentError(f"ns_coefficients must be three numbers, got {self.ns_coefficients}")

    def _update(self, graph: Graph, name: str, p: Value, g: Value, lr: Value, shared: list[Value]) -> Value:
        if p.ndim < 2:
            raise ArgumentError(
                f"Muon updates matrices, and {name!r} has shape {list(p.shape)}; give the others an optimizer of their own: "
                "groups=[(lambda p: p.ndim < 2, optim.AdamW(3e-4))]"
            )
        moved = self._moment(graph, name, "momentum", p, lambda v: v + (g - v) * (1.0 - self.momentum))
        step = g + (moved - g) * self.momentum if self.nesterov else moved
        rows = p.shape[0]
        columns = math.prod(p.shape[1:])
        matrix = F.reshape(step, (rows, columns))
        whole = F.reshape(self._orthogonal(matrix), p.shape)
        scale = 0.2 * max(rows, columns) ** 0.5 if self.adjust_lr_fn == "match_rms_adamw" else max(1.0, rows / columns) ** 0.5
        return self._shrunk(p, lr, self.weight_decay) - whole * (lr * scale)

    def _orthogonal(self, matrix: Value) -> Value:
        """Nearly U V' of the matrix U S V'."""
        a, b, c = self.ns_coefficients
        tall = matrix.shape[0] > matrix.shape[1]
        x = F.transpose(matrix, 0, 1) if tall else matrix
        x = x / F.maximum(norm(x), self.eps)
        for _ in range(self.ns_steps):
            gram = x @ F.transpose(x, 0, 1)
            x = x * a + (gram * b + (gram @ gram) * c) @ x
        return F.transpose(x, 0, 1) if tall else x


def norm(value: Value) -> Value:
    """The root of the sum of squares."""
    return F.sqrt(F.sum(value * value))

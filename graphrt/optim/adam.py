"""Adam and what was made of it: running means of gradients over the root of those of their squares."""

from __future__ import annotations

from dataclasses import dataclass

import graphrt.ops as F
from graphrt.errors import ArgumentError
from graphrt.ir import Graph, Value
from graphrt.optim.optimizer import Optimizer, check_betas
from graphrt.optim.sgd import norm


@dataclass(eq=False, repr=False)
class _Moments(Optimizer):
    """Base: running means of the gradient and of its square that decay by ``betas``."""

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def _check(self) -> None:
        super()._check()
        check_betas(self.betas)

    def _shared(self, graph: Graph, of: str) -> list[Value]:
        """1 - beta**t of both betas."""
        self._count(graph, of)
        return [self._correction(graph, of, i + 1, beta) for i, beta in enumerate(self.betas)]

    def _means(self, graph: Graph, name: str, p: Value, g: Value) -> tuple[Value, Value]:
        first, second = self.betas
        m = self._moment(graph, name, "exp_avg", p, lambda m: m + (g - m) * (1.0 - first))
        v = self._moment(graph, name, "exp_avg_sq", p, lambda v: v * second + g * g * (1.0 - second))
        return m, v


@dataclass(eq=False, repr=False)
class Adam(_Moments):
    """Adam (Kingma and Ba, ICLR 2015), as torch.optim.Adam.

    ``p = p - lr * m / (sqrt(v) + eps)`` with m and v the means of gradients and of their squares, which decay by ``betas`` and
    are corrected for starting at 0. ``weight_decay`` times p is added to the gradient. ``amsgrad`` divides by the largest v so
    far (Reddi et al., ICLR 2018). Other arguments as of ``Optimizer``.

    Raises ArgumentError for negative arguments and betas outside [0, 1).
    """

    weight_decay: float = 0.0
    amsgrad: bool = False

    def _update(self, graph: Graph, name: str, p: Value, g: Value, lr: Value, shared: list[Value]) -> Value:
        return self._adapted(graph, name, p, self._penalized(p, g, self.weight_decay), lr, shared)

    def _adapted(self, graph: Graph, name: str, p: Value, g: Value, lr: Value, shared: list[Value]) -> Value:
        """``p`` after a step along the gradient ``g``."""
        m, v = self._means(graph, name, p, g)
        if self.amsgrad:
            mean = v
            v = self._moment(graph, name, "max_exp_avg_sq", p, lambda most: F.maximum(most, mean))
        return p - m / (F.sqrt(v) / F.sqrt(shared[1]) + self.eps) * (lr / shared[0])


@dataclass(eq=False, repr=False)
class AdamW(Adam):
    """``Adam`` with decoupled decay, as torch.optim.AdamW: p is multiplied by ``1 - lr * weight_decay`` before the step.

    Loshchilov and Hutter, ICLR 2019. ``lr``, ``betas``, ``eps``, ``amsgrad`` and the others as of ``Adam``.
    """

    weight_decay: float = 1e-2

    def _update(self, graph: Graph, name: str, p: Value, g: Value, lr: Value, shared: list[Value]) -> Value:
        return self._adapted(graph, name, self._shrunk(p, lr, self.weight_decay), g, lr, shared)


@dataclass(eq=False, repr=False)
class Adamax(_Moments):
    """Adam by the largest gradient (Kingma and Ba, ICLR 2015), as torch.optim.Adamax.

    ``p = p - lr * m / u`` with ``u = max(betas[1] * u, |g| + eps)``, and m the mean of gradients that decays by ``betas[0]``,
    corrected for starting at 0. ``weight_decay`` times p is added to the gradient g. Other arguments as of ``Optimizer``.
    Raises ArgumentError for negative arguments and betas outside [0, 1).
    """

    lr: float = 2e-3
    weight_decay: float = 0.0

    def _shared(self, graph: Graph, of: str) -> list[Value]:
        self._count(graph, of)
        return [self._correction(graph, of, 1, self.betas[0])]

    def _update(self, graph: Graph, name: str, p: Value, g: Value, lr: Value, shared: list[Value]) -> Value:
        g = self._penalized(p, g, self.weight_decay)
        m = self._moment(graph, name, "exp_avg", p, lambda m: m + (g - m) * (1.0 - self.betas[0]))
        u = self._moment(graph, name, "exp_inf", p, lambda u: F.maximum(u * self.betas[1], F.abs(g) + self.eps))
        return p - m / u * (lr / shared[0])


@dataclass(eq=False, repr=False)
class _EitherDecay(_Moments):
    """Base: decay of weights as a penalty, or decoupled."""

    weight_decay: float = 0.0
    decoupled_weight_decay: bool = False

    def _decayed(self, p: Value, g: Value, lr: Value) -> tuple[Value, Value]:
        """The parameter and the gradient with decay in one of them."""
        if self.decoupled_weight_decay:
            return self._shrunk(p, lr, self.weight_decay), g
        return p, self._penalized(p, g, self.weight_decay)


@dataclass(eq=False, repr=False)
class NAdam(_EitherDecay):
    """Adam with Nesterov's momentum (Dozat, ICLR workshop 2016), as torch.optim.NAdam.

    The momentum of step t is ``mu = betas[0] * (1 - 0.96**(t * momentum_decay) / 2)``; the step is
    ``lr * ((1 - mu) * g / (1 - M) + mu' * m / (1 - M * mu')) / (sqrt(v) + eps)`` with M the product of all mu so far, mu' the
    next one, and v corrected as Adam's. ``weight_decay`` times p is added to the gradient g, or with ``decoupled_weight_decay``
    p is multiplied by ``1 - lr * weight_decay``. ``betas`` and the others as of ``Adam``. Raises ArgumentError.
    """

    lr: float = 2e-3
    momentum_decay: float = 4e-3

    def _shared(self, graph: Graph, of: str) -> list[Value]:
        step = F.cast(self._count(graph, of), self._scalar(graph, of))
        mu, following = ((1.0 - 0.5 * 0.96 ** (t * self.momentum_decay)) * self.betas[0] for t in (step, step + 1.0))
        # 1 - M, which starts at 0 as counters do
        _, rest = self._counter(graph, of, "mu_rest", lambda v: 1.0 - (1.0 - v) * mu)
        following_rest = 1.0 - (1.0 - rest) * following
        return [(1.0 - mu) / rest, following / following_rest, self._correction(graph, of, 2, self.betas[1])]

    def _update(self, graph: Graph, name: str, p: Value, g: Value, lr: Value, shared: list[Value]) -> Value:
        p, g = self._decayed(p, g, lr)
        m, v = self._means(graph, name, p, g)
        return p - (g * (lr * shared[0]) + m * (lr * shared[1])) / (F.sqrt(v / shared[2]) + self.eps)


@dataclass(eq=False, repr=False)
class RAdam(_EitherDecay):
    """Adam that waits for its variance (Liu et al., "On the variance of the adaptive learning rate", ICLR 2020).

    As torch.optim.RAdam: while the length rho of the mean of squares is at most 5 the step is ``lr * m``, later
    ``lr * r * m / (sqrt(v) + eps)`` with the rectification r of the paper. ``weight_decay`` times p is added to the gradient,
    or with ``decoupled_weight_decay`` p is multiplied by ``1 - lr * weight_decay``. ``betas`` and the others as of ``Adam``.
    Raises ArgumentError.
    """

    def _shared(self, graph: Graph, of: str) -> list[Value]:
        first, second = super()._shared(graph, of)
        beta = self.betas[1]
        # rho = 2 / (1 - beta) - 1 - 2 t beta**t / (1 - beta**t) subtracts two numbers of 1 / (1 - beta). With
        # s = 1 + beta + ... + beta**(t - 1) and q = s + beta * (q before) it is 2 q / s - 1, which loses no digit.
        weights = second * (1.0 / (1.0 - beta))
        _, longer = self._counter(graph, of, "length", lambda q: q * beta + weights)
        rho, most = longer * 2.0 / weights - 1.0, 2.0 / (1.0 - beta) - 1.0
        square = (rho - 4.0) * (rho - 2.0) * (most / ((most - 4.0) * (most - 2.0))) / rho
        return [first, F.sqrt(second * F.maximum(square, 0.0)), F.gt(rho, 5.0)]

    def _update(self, graph: Graph, name: str, p: Value, g: Value, lr: Value, shared: list[Value]) -> Value:
        p, g = self._decayed(p, g, lr)
        m, v = self._means(graph, name, p, g)
        return p - m * (lr / shared[0]) * F.where(shared[2], shared[1] / (F.sqrt(v) + self.eps), 1.0)

    def _check(self) -> None:
        super()._check()
        if not self.betas[1] > 0.6:  # where rho never reaches 4
            raise ArgumentError(f"RAdam needs betas[1] above 0.6, got {self.betas[1]}")


@dataclass(eq=False, repr=False)
class LAMB(_Moments):
    """AdamW whose rate fits each parameter's norm (You et al., "Large batch optimization for deep learning", ICLR 2020).

    ``r = m / (sqrt(v) + eps) + weight_decay * p`` with m and v as Adam's; ``p = p - lr * |p| / |r| * r``, without the ratio
    where a norm is 0, and for parameters that ``decay_1d`` False leaves without decay. ``betas`` and the others as of ``Adam``.
    Raises ArgumentError for negative arguments and betas outside [0, 1).
    """

    eps: float = 1e-6
    weight_decay: float = 1e-2

    def _update(self, graph: Graph, name: str, p: Value, g: Value, lr: Value, shared: list[Value]) -> Value:
        m, v = self._means(graph, name, p, g)
        step = self._penalized(p, m / shared[0] / (F.sqrt(v / shared[1]) + self.eps), self.weight_decay)
        if not (self.decay_1d or p.ndim > 1):
            return p - step * lr
        size, length = norm(p), norm(step)
        return p - step * (lr * F.where(F.gt(size, 0.0) & F.gt(length, 0.0), size / length, 1.0))

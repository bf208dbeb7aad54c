"""Optimizers as graph code: ``apply`` appends the update of every parameter to the graph of its gradient.

The learning rate is a scalar Value, so a schedule changes it without another compilation. Moments and counters are state of
the program, named after their parameter. The arithmetic follows torch.optim.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

import graphrt.ops as F
from graphrt.errors import ArgumentError, DTypeError
from graphrt.ir import Graph, Value


class Optimizer(ABC):
    """Base: holds the base learning rate ``lr``; subclasses write ``_update``."""

    def __init__(self, lr: float, weight_decay: float = 0.0) -> None:
        _at_least_zero(lr=lr, weight_decay=weight_decay)
        self.lr, self.weight_decay = lr, weight_decay

    def apply(self, params: Sequence[Value], grads: Sequence[Value], lr: Value) -> None:
        """Updates each of ``params`` (float parameters of one graph) by its gradient of the same shape.

        ``lr`` is a float scalar of the graph. Raises ArgumentError for lists of two lengths, DTypeError.
        """
        if len(params) != len(grads) or not params:
            raise ArgumentError(f"need a gradient for each of at least one parameter, got {len(params)} and {len(grads)}")
        for p in params:
            if not p.dtype.is_float:
                raise DTypeError(f"only float parameters can be optimized; {p!r}")
        graph = params[0].graph
        with graph.transaction(), graph.phase("opt"):
            shared = self._shared(graph)
            for p, g in zip(params, grads, strict=True):
                graph.update(p, self._update(graph, p, g, lr, shared))

    def _shared(self, graph: Graph) -> list[Value]:
        """State that all parameters share, such as bias corrections."""
        return []

    @abstractmethod
    def _update(self, graph: Graph, p: Value, g: Value, lr: Value, shared: list[Value]) -> Value:
        """The next value of ``p``; updates of the optimizer's own state go into ``graph``."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v}' for k, v in vars(self).items())})"


class SGD(Optimizer):
    """Gradient descent with momentum (Sutskever et al., ICML 2013, for Nesterov's form), as torch.optim.SGD.

    Raises ArgumentError for negative arguments, and for ``nesterov`` without momentum or with dampening.
    """

    def __init__(
        self,
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        super().__init__(lr, weight_decay)
        _at_least_zero(momentum=momentum)
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ArgumentError("nesterov needs a momentum above 0 and no dampening")
        self.momentum, self.dampening, self.nesterov = momentum, dampening, nesterov

    def _shared(self, graph: Graph) -> list[Value]:
        if not (self.momentum and self.dampening):
            return []
        started = graph.parameter("optimizer.started", trainable=False)  # torch's first step is not dampened
        graph.update(started, F.maximum(started, 1.0))
        return [1.0 - started * self.dampening]

    def _update(self, graph: Graph, p: Value, g: Value, lr: Value, shared: list[Value]) -> Value:
        if self.weight_decay:
            g = g + p * self.weight_decay
        if self.momentum:
            buffer = graph.parameter(f"{p.name}.momentum", shape=p.shape, dtype=p.dtype, trainable=False)
            moved = buffer * self.momentum + (g * shared[0] if shared else g)
            graph.update(buffer, moved)
            g = g + moved * self.momentum if self.nesterov else moved
        return p - g * lr


class Adam(Optimizer):
    """Adam (Kingma and Ba, ICLR 2015) as torch.optim.Adam: ``eps`` outside the root, decay added to the gradient.

    Raises ArgumentError for negative arguments and betas outside [0, 1).
    """

    decoupled = False

    def __init__(
        self,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(lr, weight_decay)
        _at_least_zero(eps=eps)
        if len(betas) != 2 or not all(0.0 <= b < 1.0 for b in betas):
            raise ArgumentError(f"betas must be two numbers in [0, 1), got {betas}")
        self.betas, self.eps = tuple(betas), eps

    def _shared(self, graph: Graph) -> list[Value]:
        step = graph.parameter("optimizer.step", dtype="int64", trainable=False)
        graph.update(step, step + 1)
        corrections = []
        for i, beta in enumerate(self.betas, 1):
            # 1 - beta**t by recurrence: in float32 the subtraction would lose most digits while t is small
            previous = graph.parameter(f"optimizer.correction{i}", trainable=False)
            corrections.append(previous * beta + (1.0 - beta))
            graph.update(previous, corrections[-1])
        return [corrections[0], F.sqrt(corrections[1])]

    def _update(self, graph: Graph, p: Value, g: Value, lr: Value, shared: list[Value]) -> Value:
        if self.weight_decay and self.decoupled:
            p_old = p * (1.0 - lr * self.weight_decay)
        else:
            p_old = p
            g = g + p * self.weight_decay if self.weight_decay else g
        m = graph.parameter(f"{p.name}.exp_avg", shape=p.shape, dtype=p.dtype, trainable=False)
        v = graph.parameter(f"{p.name}.exp_avg_sq", shape=p.shape, dtype=p.dtype, trainable=False)
        m_new = m + (g - m) * (1.0 - self.betas[0])
        v_new = v * self.betas[1] + g * g * (1.0 - self.betas[1])
        graph.update(m, m_new)
        graph.update(v, v_new)
        return p_old - m_new / (F.sqrt(v_new) / shared[1] + self.eps) * (lr / shared[0])


class AdamW(Adam):
    """Adam with decoupled decay (Loshchilov and Hutter, ICLR 2019) as torch.optim.AdamW."""

    decoupled = True

    def __init__(
        self,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(lr, betas, eps, weight_decay)


class Adagrad(Optimizer):
    """Steps shrink with the sum of squared gradients (Duchi et al., JMLR 2011), as torch.optim.Adagrad.

    Raises ArgumentError for negative arguments.
    """

    def __init__(
        self,
        lr: float = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
    ) -> None:
        super().__init__(lr, weight_decay)
        _at_least_zero(lr_decay=lr_decay, initial_accumulator_value=initial_accumulator_value, eps=eps)
        self.lr_decay, self.initial_accumulator_value, self.eps = lr_decay, initial_accumulator_value, eps

    def _shared(self, graph: Graph) -> list[Value]:
        if not self.lr_decay:
            return []
        step = graph.parameter("optimizer.step", dtype="int64", trainable=False)  # those done before this one
        graph.update(step, step + 1)
        return [1.0 + F.cast(step, "float32") * self.lr_decay]

    def _update(self, graph: Graph, p: Value, g: Value, lr: Value, shared: list[Value]) -> Value:
        g = g + p * self.weight_decay if self.weight_decay else g
        start = np.full(p.shape, self.initial_accumulator_value, p.dtype.numpy)
        total = graph.parameter(f"{p.name}.sum", start, trainable=False)
        grown = total + g * g
        graph.update(total, grown)
        return p - g / (F.sqrt(grown) + self.eps) * (lr / shared[0] if shared else lr)


class RMSprop(Optimizer):
    """Steps over the root of a running mean of squared gradients (Hinton, 2012), as torch.optim.RMSprop.

    ``centered`` subtracts the squared running mean of the gradient (Graves, 2013). Raises ArgumentError for negative
    arguments and ``alpha`` outside [0, 1).
    """

    def __init__(
        self,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
    ) -> None:
        super().__init__(lr, weight_decay)
        _at_least_zero(eps=eps, momentum=momentum)
        if not 0.0 <= alpha < 1.0:
            raise ArgumentError(f"alpha must lie in [0, 1), got {alpha}")
        self.alpha, self.eps, self.momentum, self.centered = alpha, eps, momentum, centered

    def _update(self, graph: Graph, p: Value, g: Value, lr: Value, shared: list[Value]) -> Value:
        def running(name: str, new: Value) -> Value:
            old = graph.parameter(f"{p.name}.{name}", shape=p.shape, dtype=p.dtype, trainable=False)
            mean = old * self.alpha + new * (1.0 - self.alpha)
            graph.update(old, mean)
            return mean

        g = g + p * self.weight_decay if self.weight_decay else g
        squares = running("square_avg", g * g)
        if self.centered:
            average = running("grad_avg", g)
            squares = squares - average * average
        step = g / (F.sqrt(squares) + self.eps)
        if not self.momentum:
            return p - step * lr
        buffer = graph.parameter(f"{p.name}.momentum_buffer", shape=p.shape, dtype=p.dtype, trainable=False)
        moved = buffer * self.momentum + step
        graph.update(buffer, moved)
        return p - moved * lr


def _at_least_zero(**arguments: float) -> None:
    for name, value in arguments.items():
        if not value >= 0.0:
            raise ArgumentError(f"{name} must be at least 0, got {value}")

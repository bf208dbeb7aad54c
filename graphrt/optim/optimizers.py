"""Optimizers as graph code: ``apply`` appends the update of every parameter to the graph of its gradient.

The learning rate is a scalar Value, so a schedule changes it without another compilation. Moments are state of the program,
named after their parameter; a counter is named after the first parameter of those that it counts for. So optimizers of
different parameters share a graph, or a State, and none of their own state. The arithmetic follows torch.optim.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

import graphrt.ops as F
from graphrt.errors import ArgumentError, DTypeError, GraphError
from graphrt.ir import Graph, Value

Groups = Sequence[tuple[Any, Mapping[str, Any]]]


class Optimizer(ABC):
    """Base: holds the base learning rate ``lr`` and ``weight_decay``; subclasses write ``_update``.

    ``groups`` are torch's param_groups, each (which, options), such as ``("*.bias", {"weight_decay": 0.0})``. ``which`` is a
    pattern of names as of ``fnmatch``, a list of patterns, or a function of the parameter's Value that says whether it belongs;
    a parameter is in the first group that fits. ``options`` are arguments of the optimizer; the others, and all of the
    parameters that no group has, are the optimizer's own. A group's ``lr`` keeps its ratio to ``lr`` when a schedule changes
    that.

    ``name`` keeps the state of two optimizers apart that update the same parameters in programs on one State.
    """

    groups: tuple[tuple[Any, Optimizer], ...] = ()
    name: str = ""

    def __init__(self, lr: float, weight_decay: float = 0.0) -> None:
        _at_least_zero(lr=lr, weight_decay=weight_decay)
        self.lr, self.weight_decay = lr, weight_decay
        self.counted: dict[str, str] = {}  # the parameter after which the counters of each are named, once it was updated

    def _grouped(self, groups: Groups, name: str) -> None:
        """Takes note of ``groups`` and ``name``; the last thing a constructor does. Raises ArgumentError."""
        own = self._options()
        found = []
        for group in groups:
            if not (isinstance(group, tuple) and len(group) == 2 and isinstance(group[1], Mapping)):
                raise ArgumentError(f'a group is (which, options), such as ("*.bias", {{"weight_decay": 0.0}}), got {group!r}')
            if unknown := group[1].keys() - own.keys():
                names = f"{', '.join(map(repr, sorted(unknown)))}; there is {', '.join(own)}"
                raise ArgumentError(f"{type(self).__name__} has no option {names}")
            make: Callable[..., Optimizer] = type(self)
            found.append((group[0], make(**{**own, **group[1]}, name=name)))
            if found[-1][1].lr != self.lr and not self.lr:
                raise ArgumentError("a group with a learning rate of its own needs an lr above 0, to which it keeps its ratio")
        self.groups, self.name = tuple(found), name

    def apply(self, params: Sequence[Value], grads: Sequence[Value], lr: Value) -> None:
        """Updates each of ``params`` (float parameters of one graph) by its gradient of the same shape.

        ``lr`` is a float scalar of the graph. A parameter that the network itself has written is stepped from what was
        written. Raises ArgumentError for lists of two lengths and a group's pattern that no parameter of the graph has,
        DTypeError, GraphError for a parameter that an optimizer has updated.
        """
        if len(params) != len(grads) or not params:
            raise ArgumentError(f"need a gradient for each of at least one parameter, got {len(params)} and {len(grads)}")
        for p in params:
            if not p.dtype.is_float:
                raise DTypeError(f"only float parameters can be optimized; {p!r}")
        graph = params[0].graph
        self._check_patterns(graph)
        members: dict[int, tuple[Optimizer, dict[str, list[tuple[Value, Value]]]]] = {}
        counted = dict(self.counted)
        for p, g in zip(params, grads, strict=True):
            optimizer = next((o for which, o in self.groups if _fits(which, p)), self)
            _, parts = members.setdefault(id(optimizer), (optimizer, {}))
            fresh = next((first for first in parts if first not in self.counted.values()), p.name)
            parts.setdefault(counted.setdefault(p.name, fresh), []).append((p, g))
        with graph.transaction(), graph.phase("opt"):
            for optimizer, parts in members.values():
                rate = lr if optimizer.lr == self.lr else lr * (optimizer.lr / self.lr)
                for first, pairs in parts.items():
                    shared = optimizer._shared(graph, first)
                    for p, g in pairs:
                        now = graph.latest(p)
                        if now.node.origin.phase == "opt":
                            raise GraphError(f"parameter {p.name!r} has an update already: {now!r}")
                        graph.advance(p, optimizer._update(graph, p.name, now, g, rate, shared))
        self.counted = counted

    def _check_patterns(self, graph: Graph) -> None:
        names = [v.name for v in graph.parameters(trainable=False)]
        for which, _ in self.groups:
            for pattern in [] if callable(which) else [which] if isinstance(which, str) else which:
                if not any(fnmatchcase(n, pattern) for n in names):
                    raise ArgumentError(f"no parameter is named like {pattern!r}; there is {', '.join(names)}")

    def _own(self, graph: Graph, of: str, what: str, value: Any = None, **kind: Any) -> Value:
        """State of this optimizer that is named after the parameter ``of``."""
        name = f"{of}.{self.name}.{what}" if self.name else f"{of}.{what}"
        return graph.parameter(name, value, trainable=False, **kind)

    def _counter(
        self, graph: Graph, of: str, what: str, advance: Callable[[Value], Value], dtype: str = "float32"
    ) -> tuple[Value, Value]:
        """A scalar that starts at 0: its value before and after ``advance``, which happens once a run."""
        name = f"{of}.{self.name}.{what}" if self.name else f"{of}.{what}"
        if name in graph.updates:  # applied before, to others of its parameters
            return graph.sources[name].outputs[0], graph.updates[name]
        before = self._own(graph, of, what, dtype=dtype)
        graph.update(before, advance(before))
        return before, graph.updates[name]

    def _shared(self, graph: Graph, of: str) -> list[Value]:
        """A value that all parameters of a group share, as a bias correction; its state is named after the first, ``of``."""
        return []

    @abstractmethod
    def _update(self, graph: Graph, name: str, p: Value, g: Value, lr: Value, shared: list[Value]) -> Value:
        """The next value of the parameter ``name``, which is ``p``; updates of the optimizer's own state go into ``graph``."""

    def _options(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k not in ("counted", "groups", "name")}

    def __repr__(self) -> str:
        shown = self._options() | {k: v for k, v in (("groups", self.groups), ("name", self.name)) if v}
        return f"{type(self).__name__}({', '.join(f'{k}={v}' for k, v in shown.items())})"


class SGD(Optimizer):
    """Gradient descent with momentum, as torch.optim.SGD.

    ``v = momentum * v + (1 - dampening) * (g + weight_decay * p)``, then ``p = p - lr * v``; the first step is not dampened.
    With ``nesterov`` the step is ``g + momentum * v`` (Sutskever et al., ICML 2013). ``groups`` and ``name`` as of
    ``Optimizer``.

    Raises ArgumentError for negative arguments, and for ``nesterov`` without momentum or with dampening.
    """

    def __init__(
        self,
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        groups: Groups = (),
        name: str = "",
    ) -> None:
        super().__init__(lr, weight_decay)
        _at_least_zero(momentum=momentum)
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ArgumentError("nesterov needs a momentum above 0 and no dampening")
        self.momentum, self.dampening, self.nesterov = momentum, dampening, nesterov
        self._grouped(groups, name)

    def _shared(self, graph: Graph, of: str) -> list[Value]:
        if not (self.momentum and self.dampening):
            return []
        started, _ = self._counter(graph, of, "started", lambda v: F.maximum(v, 1.0))  # torch's first step is not dampened
        return [1.0 - started * self.dampening]

    def _update(self, graph: Graph, name: str, p: Value, g: Value, lr: Value, shared: list[Value]) -> Value:
        if self.weight_decay:
            g = g + p * self.weight_decay
        if self.momentum:
            buffer = self._own(graph, name, "momentum", shape=p.shape, dtype=p.dtype)
            moved = buffer * self.momentum + (g * shared[0] if shared else g)
            graph.update(buffer, moved)
            g = g + moved * self.momentum if self.nesterov else moved
        return p - g * lr


class Adam(Optimizer):
    """Adam (Kingma and Ba, ICLR 2015), as torch.optim.Adam.

    ``p = p - lr * m / (sqrt(v) + eps)`` with m and v the means of gradients and of their squares, which decay by ``betas`` and
    are corrected for starting at 0. ``weight_decay`` times p is added to the gradient. ``groups`` and ``name`` as of
    ``Optimizer``.

    Raises ArgumentError for negative arguments and betas outside [0, 1).
    """

    decoupled = False

    def __init__(
        self,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        groups: Groups = (),
        name: str = "",
    ) -> None:
        super().__init__(lr, weight_decay)
        _at_least_zero(eps=eps)
        if len(betas) != 2 or not all(0.0 <= b < 1.0 for b in betas):
            raise ArgumentError(f"betas must be two numbers in [0, 1), got {betas}")
        self.betas, self.eps = tuple(betas), eps
        self._grouped(groups, name)

    def _shared(self, graph: Graph, of: str) -> list[Value]:
        self._counter(graph, of, "step", lambda v: v + 1, "int64")
        # 1 - beta**t by recurrence: in float32 the subtraction would lose most digits while t is small
        first, second = self.betas
        _, correction1 = self._counter(graph, of, "correction1", lambda v: v * first + (1.0 - first))
        _, correction2 = self._counter(graph, of, "correction2", lambda v: v * second + (1.0 - second))
        return [correction1, F.sqrt(correction2)]

    def _update(self, graph: Graph, name: str, p: Value, g: Value, lr: Value, shared: list[Value]) -> Value:
        if self.weight_decay and self.decoupled:
            p_old = p * (1.0 - lr * self.weight_decay)
        else:
            p_old = p
            g = g + p * self.weight_decay if self.weight_decay else g
        m = self._own(graph, name, "exp_avg", shape=p.shape, dtype=p.dtype)
        v = self._own(graph, name, "exp_avg_sq", shape=p.shape, dtype=p.dtype)
        m_new = m + (g - m) * (1.0 - self.betas[0])
        v_new = v * self.betas[1] + g * g * (1.0 - self.betas[1])
        graph.update(m, m_new)
        graph.update(v, v_new)
        return p_old - m_new / (F.sqrt(v_new) / shared[1] + self.eps) * (lr / shared[0])


class AdamW(Adam):
    """``Adam`` with decoupled decay, as torch.optim.AdamW: p is multiplied by ``1 - lr * weight_decay`` before the step.

    Loshchilov and Hutter, ICLR 2019. ``lr``, ``betas``, ``eps``, ``groups`` and ``name`` as of ``Adam``.
    """

    decoupled = True

    def __init__(
        self,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        groups: Groups = (),
        name: str = "",
    ) -> None:
        super().__init__(lr, betas, eps, weight_decay, groups, name)


class Adagrad(Optimizer):
    """Steps shrink with the sum of squared gradients (Duchi et al., JMLR 2011), as torch.optim.Adagrad.

    ``p = p - lr / (1 + t * lr_decay) * g / (sqrt(sum) + eps)`` at step t from 0; the sum starts at
    ``initial_accumulator_value``, and ``weight_decay`` times p is added to the gradient g. ``groups`` and ``name`` as of
    ``Optimizer``. Raises ArgumentError for negative arguments.
    """

    def __init__(
        self,
        lr: float = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        groups: Groups = (),
        name: str = "",
    ) -> None:
        super().__init__(lr, weight_decay)
        _at_least_zero(lr_decay=lr_decay, initial_accumulator_value=initial_accumulator_value, eps=eps)
        self.lr_decay, self.initial_accumulator_value, self.eps = lr_decay, initial_accumulator_value, eps
        self._grouped(groups, name)

    def _shared(self, graph: Graph, of: str) -> list[Value]:
        if not self.lr_decay:
            return []
        step, _ = self._counter(graph, of, "step", lambda v: v + 1, "int64")  # those done before this one
        return [1.0 + F.cast(step, "float32") * self.lr_decay]

    def _update(self, graph: Graph, name: str, p: Value, g: Value, lr: Value, shared: list[Value]) -> Value:
        g = g + p * self.weight_decay if self.weight_decay else g
        start = np.full(p.shape, self.initial_accumulator_value, p.dtype.numpy)
        total = self._own(graph, name, "sum", start)
        grown = total + g * g
        graph.update(total, grown)
        return p - g / (F.sqrt(grown) + self.eps) * (lr / shared[0] if shared else lr)


class RMSprop(Optimizer):
    """Steps over the root of a running mean of squared gradients (Hinton, 2012), as torch.optim.RMSprop.

    ``p = p - lr * g / (sqrt(mean) + eps)``; the mean decays by ``alpha``, ``momentum`` is that of the steps, ``weight_decay``
    times p is added to the gradient g. ``centered`` subtracts the squared running mean of the gradient (Graves, 2013).
    ``groups`` and ``name`` as of ``Optimizer``. Raises ArgumentError for negative arguments and ``alpha`` outside [0, 1).
    """

    def __init__(
        self,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        groups: Groups = (),
        name: str = "",
    ) -> None:
        super().__init__(lr, weight_decay)
        _at_least_zero(eps=eps, momentum=momentum)
        if not 0.0 <= alpha < 1.0:
            raise ArgumentError(f"alpha must lie in [0, 1), got {alpha}")
        self.alpha, self.eps, self.momentum, self.centered = alpha, eps, momentum, centered
        self._grouped(groups, name)

    def _update(self, graph: Graph, name: str, p: Value, g: Value, lr: Value, shared: list[Value]) -> Value:
        def running(what: str, new: Value) -> Value:
            old = self._own(graph, name, what, shape=p.shape, dtype=p.dtype)
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
        buffer = self._own(graph, name, "momentum_buffer", shape=p.shape, dtype=p.dtype)
        moved = buffer * self.momentum + step
        graph.update(buffer, moved)
        return p - moved * lr


def _fits(which: Any, p: Value) -> bool:
    """Whether parameter ``p`` is in the group of ``which``."""
    if callable(which):
        return bool(which(p))
    return any(fnmatchcase(p.name, pattern) for pattern in ([which] if isinstance(which, str) else which))


def _at_least_zero(**arguments: float) -> None:
    for name, value in arguments.items():
        if not value >= 0.0:
            raise ArgumentError(f"{name} must be at least 0, got {value}")

"""The losses that a training step minimises: the objective, of all parameters, or those of a user's step function, of parts.

net, x, y ─▶ step function ─▶ minimize(loss, part), once or several times ─▶ gradients and updates, in one graph
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

import graphrt.ops as F
from graphrt.autodiff import grad
from graphrt.errors import ArgumentError, told
from graphrt.ir import Graph, Value
from graphrt.nn import Module, Parameter
from graphrt.optim import GradScaler, Optimizer, Run
from graphrt.train.metrics import measured

Step = Callable[[Any, Any, Any, "Minimize"], Value | Mapping[str, Value]]
Optimizers = Optimizer | Mapping[str, Optimizer]


class Minimize:
    """Updates parameters along the gradient of a loss, as a step function asks; in evaluation it does nothing.

    ``parts`` are the names of those that have an optimizer of their own. ``scaled`` says that losses are scaled, as float16
    wants. ``stepped`` gets the parameters' new values, which modules called from then on read; no gradient flows through an
    update.
    """

    def __init__(
        self,
        graph: Graph,
        optimizer: Optimizer | None,
        parts: Collection[str],
        scaled: bool,
        stepped: dict[Parameter, Value],
    ) -> None:
        self.graph, self.optimizer, self.parts, self.scaled, self.stepped = graph, optimizer, parts, scaled, stepped
        self.grads: list[Value] = []  # of all parameters that were updated
        self._calls = 0

    def __call__(self, loss: Value, part: Module | None = None, run: Run | None = None) -> None:
        """Updates the trainable parameters of ``part`` of the network, or all, by the gradient of the scalar ``loss``.

        ``run`` is as of ``Optimizer.apply``.

        Raises ArgumentError where there are none, or one has no optimizer, GraphError where a parameter was updated in this
        step already.
        """
        if self.optimizer is None:
            return
        graph, optimizer = self.graph, self.optimizer
        own = None if part is None else {p.name: p for p in part.parameters()}
        params = [p for p in graph.parameters() if own is None or p.name in own]
        if not params:
            raise ArgumentError(f"{'the network' if part is None else type(part).__name__} has no trainable parameters")
        for p in params if self.parts else ():
            if not any(p.name.startswith(f"{name}.") for name in self.parts):
                raise ArgumentError(f"{p.name} has no optimizer: the parts that have one are {', '.join(self.parts)}")
        lr = graph.sources["lr"].outputs[0] if "lr" in graph.sources else graph.input("lr")
        if self.scaled:
            scaler = GradScaler(name=f"scaler{self._calls or ''}")
            grads = grad(scaler.scale(loss), params)
            scaler.apply(optimizer, params, grads, lr)
            factor = graph.sources[f"{scaler.name}.scale"].outputs[0]
            grads = [g * (1.0 / factor) for g in grads]
        else:
            grads = grad(loss, params)
            optimizer.apply(params, grads, lr, run)
        self.grads, self._calls = [*self.grads, *grads], self._calls + 1
        for p in params:
            if own is not None:
                self.stepped[own[p.name]] = F.stop_gradient(graph.latest(p))


def made_one(optimizer: Optimizers) -> Optimizer:
    """Optimizers of parts of the network, by their names, as one: the first with the others as its groups."""
    if isinstance(optimizer, Optimizer):
        return optimizer
    if not isinstance(optimizer, Mapping) or not optimizer or not all(isinstance(one, Optimizer) for one in optimizer.values()):
        raise ArgumentError(
            "an optimizer is one of graphrt.optim, such as SGD(lr=0.1), or a dict of them by parts' names; got "
            + told(optimizer)
        )
    (_, first), *others = optimizer.items()
    return replace(first, groups=[*first.groups, *((f"{name}.*", one) for name, one in others)])


def outputs_of_step(graph: Graph, found: Any) -> None:
    """Makes what a step function returned, a loss or a dict of it and others, outputs of ``graph``. Raises ArgumentError."""
    named = {"loss": found} if isinstance(found, Value) else found
    if not isinstance(named, Mapping) or "loss" not in named:
        given = f"the names {', '.join(map(repr, found))}" if isinstance(found, Mapping) else type(found).__name__
        raise ArgumentError(f'a step function returns its loss, or a dict of scalars with "loss" among them, got {given}')
    for name, value in named.items():
        graph.output(name, measured(name, lambda _, __, value=value: value, None, value))

"""Values that the layers of a network compute: activations, their statistics, and the norms of gradients by layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

import graphrt.ops as F
from graphrt.autodiff import grad
from graphrt.compiler import compile as compile_graph
from graphrt.errors import ArgumentError, unknown
from graphrt.ir import Graph, Value
from graphrt.nn.module import Module, in_mode, noted
from graphrt.runtime.arrays import to_numpy


@dataclass(frozen=True)
class Probe:
    """A network built on a batch: the ``graph``, its input, its output, and the output of each layer by path."""

    graph: Graph
    input: Value
    output: Value
    layers: Mapping[str, Value]

    def layer(self, path: str) -> Value:
        """The output of a layer. Raises ArgumentError with the paths there are."""
        if path not in self.layers:
            raise ArgumentError(unknown("layer", path, filter(None, self.layers)))
        return self.layers[path]


def probe(net: Module, x: np.ndarray, training: bool = False) -> Probe:
    """``net`` on a batch like ``x`` [N, ...]. A layer that is called twice has the output of its last call."""
    graph = Graph()
    value = graph.input("x", x.shape, x.dtype.name)
    with in_mode(net, training), noted() as calls:
        output = net(value)
    paths = {id(m): path for path, m in reversed(list(net.named_modules()))}
    found = {paths[id(call.module)]: call.output for call in calls}
    return Probe(graph, value, output, {path: v for path, v in found.items() if isinstance(v, Value)})


def as_input(x: Any) -> np.ndarray:
    """``x`` as float32 unless it is of integers."""
    array = to_numpy(x)
    return array.astype(np.float32) if array.dtype == np.float64 else array


def activations(net: Module, x: Any, target: str = "auto") -> dict[str, np.ndarray]:
    """The output of each layer of ``net`` for the batch ``x`` [N, ...], by path, in the order of their calls.

    The layers are the modules without others inside; the network's output is under "" where it is none of theirs. ``target`` is
    that of ``compile``.
    """
    x = as_input(x)
    built = probe(net, x)
    leaves = [path for path, m in net.named_modules() if not any(True for _ in m.named_children())]
    chosen = {path: v for path, v in built.layers.items() if path in leaves}
    if built.output not in chosen.values():
        chosen[""] = built.output
    return compile_graph(chosen, target=target)(x=x)


@dataclass(frozen=True)
class Statistics:
    """Statistics of a layer's activations: ``mean``, ``std``, ``low`` and ``high``, and the share of ``zeros``."""

    path: str
    mean: float
    std: float
    low: float
    high: float
    zeros: float

    def __str__(self) -> str:
        numbers = "".join(f"{n:>11.4f}" for n in (self.mean, self.std, self.low, self.high))
        return f"{self.path or '(output)':<32}{numbers}{100 * self.zeros:>9.1f} %"


def statistics(found: Mapping[str, np.ndarray]) -> list[Statistics]:
    """Statistics of each of ``activations``; each prints as a line."""
    rows = []
    for path, a in found.items():
        wide = a.astype(np.float64)
        mean, std, low, high = (float(f(wide)) for f in (np.mean, np.std, np.min, np.max))
        rows.append(Statistics(path, mean, std, low, high, float((a == 0).mean())))
    return rows


def gradient_norms(net: Module, loss: Callable[[Any, Any], Value], x: Any, y: Any, target: str = "auto") -> dict[str, float]:
    """The norm of the gradient of ``loss(net(x), y)`` by each trainable parameter of ``net``, by name, in training mode.

    ``target`` is that of ``compile``. Raises ArgumentError for a network without trainable parameters.
    """
    x, y = as_input(x), as_input(y)
    built = probe(net, x, training=True)
    graph = built.graph
    value = loss(built.output, graph.input("y", y.shape, y.dtype.name))
    parameters = graph.parameters()
    if not parameters:
        raise ArgumentError("the network has no trainable parameters")
    norms = {p.name: F.sqrt(F.sum(g * g)) for p, g in zip(parameters, grad(value, parameters), strict=True)}
    return {name: float(norm) for name, norm in compile_graph(norms, target=target)(x=x, y=y).items()}

"""Gradients beside central differences, and the backward graph of a value as text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import graphrt.ops as F
from graphrt.autodiff import grad
from graphrt.errors import ArgumentError
from graphrt.ir import Graph, Node, Value
from graphrt.runtime.arrays import to_numpy
from graphrt.targets.reference.evaluate import evaluate


@dataclass(frozen=True)
class GradcheckRow:
    """One operand: the largest error among the ``checked`` elements, where it is, and both gradients there."""

    name: str
    shape: tuple[int, ...]
    checked: int
    error: float
    at: tuple[int, ...]
    analytic: float
    numeric: float
    ok: bool


@dataclass(frozen=True)
class GradcheckReport:
    """The rows of ``gradcheck``, which print as a table; it is true where all are right."""

    rows: tuple[GradcheckRow, ...]

    def __bool__(self) -> bool:
        return all(row.ok for row in self.rows)

    def __str__(self) -> str:
        lines = [f"{'operand':<24}{'shape':<16}{'checked':>8}{'error':>11}  {'at':<14}{'analytic':>13}{'numeric':>13}"]
        for row in self.rows:
            shape, at = "x".join(map(str, row.shape)) or "scalar", ",".join(map(str, row.at))
            numbers = f"{row.error:>11.2e}  {at:<14}{row.analytic:>13.6g}{row.numeric:>13.6g}"
            lines.append(f"{row.name:<24}{shape:<16}{row.checked:>8}{numbers}  {'ok' if row.ok else 'WRONG'}")
        return "\n".join(lines)


def gradcheck(
    function: Callable[..., Value],
    inputs: Sequence[Any],
    eps: float = 1e-6,
    atol: float = 1e-6,
    rtol: float = 1e-4,
    elements: int = 64,
    seed: int = 0,
) -> GradcheckReport:
    """Compares gradients of ``function(*inputs)`` with central differences of width ``eps``, in float64.

    ``function`` takes Values, as a module does, and returns one of any shape, of which a sum weighted at random is taken.
    Gradients are by each float among ``inputs`` (arrays) and by each trainable parameter, at ``elements`` places of each at
    most, which ``seed`` draws. A row is right where the difference is within ``atol`` plus ``rtol`` times the gradient. Print
    the report for a table. Raises ArgumentError where there is nothing to differentiate by, and what ``function`` raises.
    """
    arrays, rng, graph = [to_numpy(x) for x in inputs], np.random.default_rng(seed), Graph()
    values = [
        graph.input(f"input{i}", a.shape, "float32" if a.dtype.kind == "f" else a.dtype.name) for i, a in enumerate(arrays)
    ]
    result = function(*values)
    weights = rng.standard_normal(result.shape)
    loss = F.sum(result * graph.input("weights", result.shape))
    wrt = [v for v in values if v.dtype.is_float] + graph.parameters()
    if not wrt:
        raise ArgumentError("there is nothing to differentiate by: no input is floating point, and there are no parameters")
    grads = grad(loss, wrt)
    feeds: dict[str, np.ndarray] = {name: array.copy() for name, array in graph.initial.items()}
    feeds |= {v.name: a.copy() for v, a in zip(values, arrays, strict=True)} | {"weights": weights}
    feeds = {name: a.astype(np.float64) if a.dtype.kind == "f" else a for name, a in feeds.items()}
    found = evaluate(graph, feeds)

    def at(name: str, place: tuple[int, ...], by: float) -> float:
        moved = feeds[name].copy()
        moved[place] += by
        return float(evaluate(graph, {**feeds, name: moved})[loss])

    rows = []
    for value, gradient in zip(wrt, grads, strict=True):
        analytic = found[gradient]
        places = rng.permutation(analytic.size)[:elements]
        worst: tuple[float, tuple[int, ...], float, float] = (0.0, (), 0.0, 0.0)
        ok = True
        for place in (tuple(map(int, np.unravel_index(p, analytic.shape))) for p in places):
            numeric = (at(value.name, place, eps) - at(value.name, place, -eps)) / (2 * eps)
            error = abs(float(analytic[place]) - numeric)
            ok = ok and bool(error <= atol + rtol * abs(numeric))
            if not error <= worst[0]:
                worst = (error, place, float(analytic[place]), numeric)
        rows.append(GradcheckRow(value.name, value.shape, len(places), *worst, ok))
    return GradcheckReport(tuple(rows))


def backward_text(loss: Value, wrt: Sequence[Value]) -> str:
    """The graph of ``loss`` and its gradients by ``wrt`` as text to follow: forward, then backward by the node it belongs to.

        forward
          add_0 = add(x, y)                          toy.py:5
          mul_0 = mul(add_0, z)                      toy.py:5
        backward
          of mul_0 = mul(add_0, z)
            mul_1 = mul(ones_0, z)
        ...

    Gradients are appended to the graph, as by ``grad``.
    """
    graph = loss.graph
    before = len(graph.nodes)
    grads = grad(loss, wrt)
    needed, pending = set[Node](), [loss.node, *(g.node for g in grads)]
    while pending:
        node = pending.pop()
        if node not in needed:
            needed.add(node)
            pending += [v.node for v in node.inputs]
    forward = [n for n in graph.nodes[:before] if n in needed and n.op.name not in ("input", "parameter", "constant")]
    lines = [
        "forward",
        *(f"  {_equation(n):<56} {n.origin.file.rpartition('/')[2]}:{n.origin.line}" for n in forward),
        "backward",
    ]
    by_name, source = {n.name: n for n in forward}, ""
    for node in graph.nodes[before:]:
        if node not in needed or node.op.name == "constant":
            continue
        if node.origin.source != source and node.origin.source in by_name:
            source = node.origin.source
            lines.append(f"  of {_equation(by_name[source])}")
        lines.append(f"    {_equation(node)}")
    lines.append("gradients")
    lines += [f"  d {loss.name} / d {v.name} = {_term(g)} : {g.type}" for v, g in zip(wrt, grads, strict=True)]
    return "\n".join(lines)


def _equation(node: Node) -> str:
    shown = [_term(v) for v in node.inputs]
    shown += [f"{key}={value}" for key, value in node.attrs.items() if key not in ("dtype", "value")]
    return f"{', '.join(v.name for v in node.outputs)} = {node.op.name}({', '.join(shown)})"


def _term(value: Value) -> str:
    return f"{value.node.attrs['value']:g}" if value.node.op.name == "constant" else value.name

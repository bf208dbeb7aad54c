"""Every op of the registry on every target: forward against the NumPy reference, gradients against finite differences.

Nothing here names an op: a new OpDef is tested by being registered.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import assert_close

import graphrt as grt
from graphrt.op import REGISTRY, Kind, OpDef, Sample
from graphrt.targets.reference import evaluate

OPS = [op for op in REGISTRY.values() if op.kind is not Kind.SOURCE]
STEP = 1e-5


def length(op: OpDef, sample: Sample) -> int:
    """How many terms one output element may sum: the elements read for each one written."""
    sizes = [np.size(a) for a in sample.inputs]
    return max([1, *sizes]) if op.kind in (Kind.REDUCTION, Kind.CONTRACTION, Kind.WINDOW) else 1


def append(graph: grt.Graph, op: OpDef, sample: Sample, prefix: str, feeds: dict[str, Any]) -> grt.Node:
    inputs = []
    for i, array in enumerate(sample.inputs):
        name = f"{prefix}in{i}"
        feeds[name] = np.asarray(array)
        inputs.append(graph.input(name, feeds[name].shape, feeds[name].dtype))
    return graph.append(op, inputs, sample.attrs)


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_forward_and_gradient_on_target(op: OpDef, target: str) -> None:
    """All samples in one program, results and gradients as outputs, against the float64 evaluation of the same graph."""
    rng = np.random.default_rng(1)
    graph, feeds, lengths = grt.Graph(), dict[str, Any](), dict[str, int]()
    samples = op.samples(np.random.default_rng(0))
    assert samples, f"{op.name} has no samples"
    for i, sample in enumerate(samples):
        node = append(graph, op, sample, f"s{i}.", feeds)
        for k, v in enumerate(node.outputs):
            graph.output(f"s{i}.out{k}", v)
            lengths[f"s{i}.out{k}"] = length(op, sample)
        y, wrt = node.outputs[0], [v for v in node.inputs if v.dtype.is_float]
        if op.vjp is None or not y.dtype.is_float or not wrt or sample.attrs.get("splits"):
            continue
        feeds[f"s{i}.dy"] = rng.standard_normal(y.shape).astype(y.dtype.numpy)
        dy = graph.input(f"s{i}.dy", y.shape, y.dtype)
        for k, g in enumerate(grt.grad(y, wrt, dy)):
            graph.output(f"s{i}.grad{k}", g)
            lengths[f"s{i}.grad{k}"] = length(op, sample)
    outputs = grt.compile(graph, target=target)(feeds)
    expected = evaluate(graph, feeds)
    for name, v in graph.outputs.items():
        assert outputs[name].dtype == v.dtype.numpy
        assert_close(outputs[name], expected[v], lengths[name], f"{op.name} {name}")


@pytest.mark.parametrize("op", [op for op in OPS if op.vjp is not None], ids=lambda op: op.name)
def test_gradient_against_finite_differences(op: OpDef) -> None:
    """Central differences in float64 along random directions, for every sample that has a smooth neighbourhood."""
    rng = np.random.default_rng(2)
    for sample in op.samples(np.random.default_rng(0)):
        if sample.attrs.get("splits"):
            continue  # made by a pass, after differentiation
        graph, feeds = grt.Graph(), dict[str, Any]()
        node = append(graph, op, sample, "", feeds)
        y, wrt = node.outputs[0], [v for v in node.inputs if v.dtype.is_float]
        if not y.dtype.is_float or y.dtype.itemsize < 4 or not wrt or y.type.size == 0 or _has_kink(feeds):
            continue
        weights = rng.standard_normal(y.shape)
        feeds = {k: a.astype(np.float64) if a.dtype.kind == "f" else a for k, a in feeds.items()}
        dy = graph.input("dy", y.shape, y.dtype)
        grads = grt.grad(y, wrt, dy)
        table = evaluate(graph, {**feeds, "dy": weights})
        for v, g in zip(wrt, grads, strict=True):
            direction = rng.standard_normal(v.shape)
            moved = []
            for sign in (1, -1):
                shifted = {**feeds, v.node.name: feeds[v.node.name] + sign * STEP * direction, "dy": weights}
                moved.append(float((evaluate(graph, shifted)[y] * weights).sum()))
            numeric = (moved[0] - moved[1]) / (2 * STEP)
            analytic = float((table[g] * direction).sum())
            assert analytic == pytest.approx(numeric, rel=1e-4, abs=1e-4 * max(1.0, float(np.abs(table[g]).max(initial=0)))), (
                f"{op.name}{dict(sample.attrs)} with respect to {v.node.name}"
            )


def _has_kink(feeds: dict[str, Any]) -> bool:
    """Whether a sample holds the round numbers at which piecewise functions are tested forward but have no derivative."""
    return any(a.ndim == 1 and a.dtype.kind == "f" and np.isin(a, [0.0, 1.0, -1.0]).any() for a in feeds.values())


def test_second_gradient(target: str) -> None:
    """The set is closed: gradients of gradients of a small network compile and match the reference."""
    rng = np.random.default_rng(3)
    graph = grt.Graph()
    x, w = graph.input("x", (2, 3, 6, 6)), graph.input("w", (4, 3, 3, 3))
    h = grt.ops.tanh(grt.ops.conv2d(x, w, padding=1))
    h = grt.ops.avg_pool2d(grt.ops.max_pool2d(h, 2), 3)
    loss = grt.ops.sum(h * h)
    (dw,) = grt.grad(loss, [w])
    for i, g in enumerate(grt.grad(grt.ops.sum(dw * dw), [x, w])):
        graph.output(f"g{i}", g)
    feeds = {
        "x": rng.standard_normal((2, 3, 6, 6)).astype(np.float32),
        "w": rng.standard_normal((4, 3, 3, 3)).astype(np.float32),
    }
    outputs, expected = grt.compile(graph, target=target)(feeds), evaluate(graph, feeds)
    for name, v in graph.outputs.items():
        assert_close(outputs[name], expected[v], 300)

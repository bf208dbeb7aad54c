"""Every op of the registry on every target in every dtype it takes: forward and gradient against the NumPy reference.

Gradients, and gradients of gradients, against finite differences, and against torch for ops that it has under a name. But for
that last table nothing here names an op: a new OpDef is tested by being registered.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from conftest import INTERPRETED, assert_close

import graphrt as grt
from graphrt.errors import GraphError, GraphrtError
from graphrt.op import REGISTRY, Kind, OpDef, Sample
from graphrt.targets.reference.evaluate import evaluate
from graphrt.types import DTYPES, DType, as_dtype, float32

OPS = [op for op in REGISTRY.values() if op.kind not in (Kind.SOURCE, Kind.COLLECTIVE)]  # those: test_collectives.py
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


def converted(op: OpDef, sample: Sample, dtype: DType) -> Sample | None:
    """``sample`` with its numbers as ``dtype``, or None if that is no call of its own or the op refuses it.

    Integers beside floats are indices and stay; those of an op that has nothing else become ``dtype`` too.
    """
    arrays = [np.asarray(a) for a in sample.inputs]
    floats = any(a.dtype.kind == "f" for a in arrays)
    if not floats and (op.kind is not Kind.ELEMENTWISE or dtype.is_float or all(a.dtype == bool for a in arrays)):
        return Sample(tuple(arrays), sample.attrs) if dtype is float32 else None

    def convert(a: np.ndarray) -> np.ndarray:
        if a.dtype.kind == "b" or (floats and a.dtype.kind in "iu"):
            return a
        if dtype.is_bool:
            return a > 0
        return (a if dtype.is_float or dtype.name != "uint8" else np.abs(a)).astype(dtype.numpy)

    found = Sample(tuple(map(convert, arrays)), sample.attrs)
    try:
        append(grt.Graph(), op, found, "", {})
    except GraphrtError:
        return None
    return found


@pytest.mark.at_O3
@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_forward_and_gradient_on_target(op: OpDef, target: str) -> None:
    """All samples in all dtypes in one program, results and gradients as outputs, against its float64 evaluation."""
    rng = np.random.default_rng(1)
    graph, feeds, lengths = grt.Graph(), dict[str, Any](), dict[str, int]()
    samples = op.samples(np.random.default_rng(0))
    assert samples, f"{op.name} has no samples"
    few = {0, len(samples) // 2, len(samples) - 1}  # of the other dtypes: compiling is what takes the time
    calls = {
        f"{d}.s{i}": converted(op, s, d) for d in DTYPES.values() for i, s in enumerate(samples) if d is float32 or i in few
    }
    for label, sample in calls.items():
        if sample is None:
            continue
        node = append(graph, op, sample, f"{label}.", feeds)
        for k, v in enumerate(node.outputs):
            graph.output(f"{label}.out{k}", v)
            lengths[f"{label}.out{k}"] = length(op, sample)
        y, wrt = node.outputs[0], [v for v in node.inputs if v.dtype.is_float]
        if op.vjp is None or not y.dtype.is_float or not wrt or sample.attrs.get("splits"):
            continue
        feeds[f"{label}.dy"] = rng.standard_normal(y.shape).astype(y.dtype.numpy)
        dy = graph.input(f"{label}.dy", y.shape, y.dtype)
        for k, g in enumerate(grt.grad(y, wrt, dy)):
            graph.output(f"{label}.grad{k}", g)
            lengths[f"{label}.grad{k}"] = length(op, sample)
    assert graph.outputs
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
        halves = any(v.dtype.itemsize < 4 for v in (y, *wrt))
        if not y.dtype.is_float or halves or not wrt or y.type.size == 0 or _has_kink(feeds):
            continue
        weights = rng.standard_normal(y.shape)
        feeds = {k: a.astype(np.float64) if as_dtype(a.dtype).is_float else a for k, a in feeds.items()}
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


@pytest.mark.skipif(INTERPRETED, reason="the reference target only, the same in both lanes")
@pytest.mark.parametrize("op", [op for op in OPS if op.vjp is not None], ids=lambda op: op.name)
def test_second_gradient_against_finite_differences(op: OpDef) -> None:
    """The gradient of a gradient in a random direction, in float64, for the first samples that have one."""
    rng = np.random.default_rng(4)
    for sample in op.samples(np.random.default_rng(0))[:4]:
        graph, feeds = grt.Graph(), dict[str, Any]()
        node = append(graph, op, sample, "", feeds)
        y, wrt = node.outputs[0], [v for v in node.inputs if v.dtype.is_float]
        if sample.attrs.get("splits") or not y.dtype.is_float or not wrt or y.type.size == 0 or _has_kink(feeds):
            continue
        feeds = {k: a.astype(np.float64) if as_dtype(a.dtype).is_float else a for k, a in feeds.items()}
        for v in (y, *wrt):
            feeds[f"along {v.name}"] = rng.standard_normal(v.shape)
        along = {v: graph.input(f"along {v.name}", v.shape, v.dtype) for v in (y, *wrt)}
        slope = graph.constant(0.0)
        try:
            for v, g in zip(wrt, grt.grad(y, wrt, along[y]), strict=True):
                slope = slope + grt.ops.cast(grt.ops.sum(g * along[v]), "float32")
            seconds = grt.grad(slope, wrt)
        except GraphError:
            continue  # an op of the gradient has none
        table = evaluate(graph, feeds)
        for v, g in zip(wrt, seconds, strict=True):
            name, direction = v.node.name, rng.standard_normal(v.shape)
            moved = [float(evaluate(graph, {**feeds, name: feeds[name] + s * STEP * direction})[slope]) for s in (1, -1)]
            analytic, scale = float((table[g] * direction).sum()), float(np.abs(table[g]).max(initial=0))
            assert analytic == pytest.approx((moved[0] - moved[1]) / (2 * STEP), rel=1e-4, abs=1e-4 * max(1.0, scale)), (
                f"{op.name}{dict(sample.attrs)} with respect to {name}"
            )


TORCH: dict[str, Callable[..., Any]] = {  # where torch calls it otherwise, or takes other arguments
    "broadcast": lambda x, shape: torch.broadcast_to(x, shape),
    "concat": lambda *tensors, dim: torch.cat(tensors, dim),
    "stop_gradient": torch.detach,
    "reduce": lambda x, op, dims: {"sum": torch.sum, "max": torch.amax, "min": torch.amin}[op](x, dims),
    "slice": lambda x, start, stop, step: x[tuple(map(slice, start, stop, step))],
}
NOT_TORCH = {
    "gather",
    "scatter",
    "sort",
    "pad",
    "floor_divide",
    "lu",
    "svd",
}  # the same name for something else, or no gradient
NAMED = [op for op in OPS if op.name not in NOT_TORCH and (op.name in TORCH or callable(getattr(torch, op.name, None)))]


@pytest.mark.skipif(INTERPRETED, reason="the reference target only, the same in both lanes")
@pytest.mark.parametrize("op", NAMED, ids=lambda op: op.name)
def test_against_torch(op: OpDef) -> None:
    """Result and gradient in float64, edge cases included: ties, zeros, empty tensors."""
    rng = np.random.default_rng(5)
    theirs = TORCH.get(op.name) or getattr(torch, op.name)
    for sample in op.samples(np.random.default_rng(0)):
        if sample.attrs.get("op") == "prod":
            continue  # torch multiplies along one dimension only
        graph, feeds = grt.Graph(), dict[str, Any]()
        node = append(graph, op, sample, "", feeds)
        feeds = {k: a.astype(np.float64) if as_dtype(a.dtype).is_float else a for k, a in feeds.items()}
        y, wrt = node.outputs[0], [v for v in node.inputs if v.dtype.is_float]
        tensors = [torch.from_numpy(a).requires_grad_(a.dtype.kind == "f") for a in feeds.values()]
        expected = theirs(*tensors, **sample.attrs)
        what = f"{op.name}{dict(sample.attrs)}"
        if not (y.dtype.is_float and expected.requires_grad and op.vjp):
            np.testing.assert_allclose(evaluate(graph, feeds)[y], expected.detach().numpy(), 1e-9, 1e-9, err_msg=what)
            continue
        feeds["dy"] = rng.standard_normal(y.shape)
        grads = grt.grad(y, wrt, graph.input("dy", y.shape, y.dtype))
        expected.backward(torch.from_numpy(np.asarray(feeds["dy"])))
        table = evaluate(graph, feeds)
        np.testing.assert_allclose(table[y], expected.detach().numpy(), 1e-9, 1e-9, err_msg=what)
        for g, t in zip(grads, [t for t in tensors if t.requires_grad], strict=True):
            np.testing.assert_allclose(table[g], np.zeros(t.shape) if t.grad is None else t.grad, 1e-7, 1e-7, err_msg=what)


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

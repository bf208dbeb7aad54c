"""What is known of max pooling's gradient: it moves elements, so masks and sums need not look at the larger map."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import check

import graphrt as grt
from graphrt import ops as F
from graphrt.passes.simplify import simplify


def _net(kernel: int, stride: int, padding: int, activation: str = "relu") -> grt.Graph:
    rng = np.random.default_rng(0)
    g = grt.Graph()
    x = g.input("x", (2, 3, 11, 11))
    weights = np.round(rng.standard_normal((4, 3, 3, 3)) * 2).astype(np.float32) / 8  # sums of eighths are exact in any order:
    w, b = g.parameter("w", weights), g.parameter("b", np.zeros(4, np.float32))  # what is equal is so on all machines
    y = F.max_pool2d(getattr(F, activation)(F.conv2d(x, w, b, padding=1)), kernel, stride, padding)
    loss = g.output("loss", F.sum(y * y))
    for p, d in zip((w, b, x), grt.grad(loss, [w, b, x]), strict=True):
        g.output(f"d {p.name}", d)
    return g


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (3, 1, 1), (2, 3, 0)])
def test_gradients(kernel: int, stride: int, padding: int, target: str) -> None:
    """Also where a window is negative everywhere, or holds its largest number twice."""
    g = _net(kernel, stride, padding)
    x = np.round(np.random.default_rng(1).standard_normal((2, 3, 11, 11)) * 2).astype(np.float32)
    check(g, {"x": x}, target, length=500)
    check(g, {"x": np.full_like(x, -1.0)}, target, length=500)


def test_masks_and_sums_are_of_the_pooled_map() -> None:
    graph = simplify(_net(2, 2, 0))
    pooled, full = (2, 4, 5, 5), (2, 4, 11, 11)
    assert {n.types[0].shape for n in graph.nodes if n.op.name == "le"} == {pooled}
    sums = [n for n in graph.nodes if n.op.name == "reduce" and n.inputs[0].ndim == 4]
    assert {n.inputs[0].shape for n in sums} == {pooled}
    assert not [n for n in graph.nodes if n.op.name == "where" and n.types[0].shape == full]


def test_other_activations_keep_their_masks() -> None:
    """The rule is of ReLU alone: what is below the bound of relu6 passes, what is above does not."""
    graph = simplify(_net(2, 2, 0, "relu6"))
    assert (2, 4, 11, 11) in {n.types[0].shape for n in graph.nodes if n.op.name == "where"}


def test_indices_of_something_else(target: str) -> None:
    """Indices that come from another tensor's pool say nothing of this one's mask."""
    g = grt.Graph()
    x, z = g.input("x", (1, 2, 6, 6)), g.input("z", (1, 2, 6, 6))
    dy = grt.grad(F.sum(F.max_pool2d(z, 2) * F.max_pool2d(F.relu(x), 2)), [z])[0]
    g.output("y", F.where(F.relu(x) <= 0.0, 0.0, dy))
    rng = np.random.default_rng(0)
    check(g, {k: rng.standard_normal((1, 2, 6, 6)).astype(np.float32) for k in ("x", "z")}, target)

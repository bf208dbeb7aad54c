"""Sums of many addends: slices' gradients are laid side by side, products of one shape are one; values stay what they were."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import INTERPRETED, check
from hypothesis import given
from hypothesis import strategies as st

import graphrt as grt
from graphrt import nn
from graphrt import ops as F
from graphrt.compiler import lower_graph
from graphrt.passes.patterns.addends import merge_addends
from graphrt.passes.simplify import simplify
from graphrt.targets.target import Settings, parse


def merged(graph: grt.Graph) -> Counter[str]:
    """The number of nodes of each op behind the pass."""
    new = merge_addends(simplify(graph))
    new.verify()
    return Counter(n.op.name for n in new.nodes)


def gradients(x_shape: tuple[int, ...], parts: Any) -> grt.Graph:
    """The gradient of a function of slices of ``x``, each with factors of its own."""
    g = grt.Graph()
    x = g.parameter("x", np.arange(np.prod(x_shape), dtype=np.float32).reshape(x_shape) / 10)
    loss = F.sum(F.tanh(parts[0](x)) * 1.0)
    for i, part in enumerate(parts[1:], 2):
        loss = loss + F.sum(F.tanh(part(x)) * float(i))
    g.output("dx", grt.grad(loss, [x])[0])
    return g


SLICES = {
    "all of it": ((4, 6), [lambda x: x[:, :2], lambda x: x[:, 2:3], lambda x: x[:, 3:]], 0, 1),
    "in another order": ((4, 6), [lambda x: x[:, 4:], lambda x: x[:, :4]], 0, 1),
    "the middle": ((4, 6), [lambda x: x[1:2], lambda x: x[2:3]], 1, 1),
    "a gap": ((6, 2), [lambda x: x[:1], lambda x: x[2:4], lambda x: x[4:6]], 2, 1),
    "the same twice": ((6, 2), [lambda x: x[:3], lambda x: x[:3], lambda x: x[3:]], 1, 1),
    "an overlap": ((6, 2), [lambda x: x[:4], lambda x: x[2:]], 2, 0),
    "two ways": ((4, 6), [lambda x: x[:2], lambda x: x[2:], lambda x: x[:, :3], lambda x: x[:, 3:]], 0, 2),
    "every other": ((6, 2), [lambda x: x[::2], lambda x: x[1::2]], 2, 0),
    "a corner": ((6, 2), [lambda x: x[:3, :1], lambda x: x[3:, 1:]], 2, 0),
    "and the whole": ((6, 2), [lambda x: x[:3], lambda x: x * 2.0, lambda x: x[3:]], 0, 1),
    "one by one": ((9, 5), [lambda x, i=i: x[i] for i in range(9)], 0, 1),
}


@pytest.mark.parametrize("name", SLICES)
def test_gradients_of_slices_lie_side_by_side(name: str, target: str) -> None:
    shape, parts, pads, concats = SLICES[name]
    graph = gradients(shape, parts)
    found = merged(graph)
    assert (found["pad"], found["concat"]) == (pads, concats)
    check(graph, {}, target)


def test_a_slice_that_is_added_twice(target: str) -> None:
    """Its second appearance is no part of what lies side by side, and is not lost."""
    g = grt.Graph()
    u, v = g.input("u", (2, 3)), g.input("v", (2, 4))
    left, right = F.pad(u, (0, 4)), F.pad(v, (3, 0))
    g.output("y", left + (right + left) + F.pad(u * 2.0, (4, 0)))
    rng = np.random.default_rng(0)
    check(g, {"u": rng.standard_normal((2, 3)).astype("f"), "v": rng.standard_normal((2, 4)).astype("f")}, target)


@given(data=st.data())
def test_gradients_of_drawn_slices(data: st.DataObject) -> None:
    """Any slices of three dimensions: the pass keeps what the sum of their gradients is."""
    shape = data.draw(st.tuples(*[st.integers(1, 5)] * 3))
    bounds = [st.tuples(*[st.tuples(st.integers(0, n), st.integers(0, n)).map(sorted) for n in shape])]
    cuts = data.draw(st.lists(st.one_of(bounds), min_size=2, max_size=6))
    parts = [lambda x, cut=cut: x[tuple(slice(a, b) for a, b in cut)] for cut in cuts]
    check(gradients(shape, parts), {}, "reference:float64")


def shared(steps: int, rows: int, sizes: tuple[int, int]) -> tuple[grt.Graph, dict[str, np.ndarray]]:
    """The gradient of a matrix by which so many inputs are multiplied."""
    rng, g = np.random.default_rng(0), grt.Graph()
    w = g.parameter("w", rng.standard_normal(sizes).astype(np.float32))
    xs = [g.input(f"x{i}", (rows, sizes[0])) for i in range(steps)]
    loss = F.mean(F.stack([F.mean(F.tanh(x @ w)) for x in xs]))
    g.output("dw", grt.grad(loss, [w])[0])
    return g, {f"x{i}": rng.standard_normal((rows, sizes[0])).astype(np.float32) for i in range(steps)}


def test_a_weight_used_often_has_the_gradient_of_one_product(target: str) -> None:
    graph, feeds = shared(5, 3, (16, 24))
    assert merged(graph)["matmul"] == 5 + 1
    check(graph, feeds, target, length=15)


def test_products_stay_apart_where_that_moves_less() -> None:
    graph, _ = shared(2, 40, (4, 4))
    assert merged(graph)["matmul"] == 2 + 2
    assert merge_addends(graph) is graph


def test_products_with_a_common_factor_stay_apart(target: str) -> None:
    """Its gradient is a product of a sum, which is no product of matrices side by side."""
    g = grt.Graph()
    x, w = g.input("x", (2, 16)), g.parameter("w", np.ones((16, 16), np.float32))
    loss = F.sum(F.tanh(x @ w)) + F.sum(F.sin(x @ w))
    g.output("dw", grt.grad(loss, [w])[0])
    check(g, {"x": np.random.default_rng(0).standard_normal((2, 16)).astype(np.float32)}, target, length=4)


@pytest.mark.parametrize(("cell", "most"), [(nn.RNN, 3), (nn.GRU, 6), (nn.LSTM, 7)])
@pytest.mark.skipif(INTERPRETED, reason="counts launches of the cpu's plan")
def test_a_recurrent_network_sums_its_weights_gradients_at_the_end(cell: Callable[..., nn.Module], most: int) -> None:
    """A time step adds a few launches and a few nodes, however many there are, and none of them touches a weight's gradient."""
    launches, nodes = list[int](), list[int]()
    for steps in (20, 30):
        g = grt.Graph()
        out = cell(16, 16)(g.input("x", (steps, 4, 16)))[0]
        weights = g.parameters()
        for w, dw in zip(weights, grt.grad(F.sum(out * out), weights), strict=True):
            g.update(w, w - 0.1 * dw)
        lowering = lower_graph(g, parse("cpu", Settings()), {})
        assert lowering.schedule is not None
        products = [n for n in lowering.graph.nodes if n.op.name == "matmul" and n.types[0].shape == weights[0].shape]
        assert len(products) == 2  # of both weights, over all steps
        launches.append(len(lowering.schedule.launches))
        nodes.append(len(lowering.graph.nodes))
    assert launches[1] - launches[0] <= 10 * most
    assert nodes[1] - nodes[0] <= 10 * nodes[0] / 20

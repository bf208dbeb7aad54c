"""Passes keep what a graph computes, return the same object when nothing changes, and do what they are for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import check

import graphrt as grt
from graphrt import ops as F
from graphrt.op import Kind
from graphrt.passes.layout import assign_layouts
from graphrt.passes.simplify import dead_code, simplify
from graphrt.passes.snapshot_updates import snapshot_updates
from graphrt.passes.split import split_reductions
from graphrt.targets.reference.evaluate import evaluate

PASSES: dict[str, Callable[[grt.Graph], grt.Graph]] = {
    "dead_code": dead_code,
    "simplify": simplify,
    "snapshot_updates": snapshot_updates,
    "split": lambda g: split_reductions(g, lambda node: 2),
    "layout": assign_layouts,
}


def network() -> tuple[grt.Graph, dict[str, Any]]:
    rng = np.random.default_rng(0)
    g = grt.Graph()
    x = g.input("x", (4, 3, 8, 8))
    w = g.parameter("w", rng.standard_normal((5, 3, 3, 3)).astype(np.float32))
    m = g.parameter("m", shape=(5, 3, 3, 3), trainable=False)
    h = F.softmax(F.flatten(F.max_pool2d(F.relu(F.conv2d(x, w, padding=1) + 0.0), 2) * 1.0, 1))
    loss = g.output("loss", F.sum(h * h) + F.sum(F.transpose(F.transpose(x, 1, 2), 1, 2)) * 0.1)
    v = m * 0.9 + grt.grad(loss, [w])[0]
    g.update(m, v)
    g.update(w, w - v * 0.1)
    return g, {"x": rng.standard_normal((4, 3, 8, 8)).astype(np.float32)}


@pytest.mark.parametrize("name", PASSES)
def test_a_pass_keeps_the_values(name: str) -> None:
    g, feeds = network()
    before = evaluate(g, {**g.initial, **feeds})
    new = PASSES[name](g)
    new.verify()
    after = evaluate(new, {**new.initial, **feeds})
    for old, table in ((g.outputs, new.outputs), (g.updates, new.updates)):
        assert old.keys() == table.keys()
        for key, v in old.items():
            np.testing.assert_allclose(after[table[key]], before[v], rtol=1e-12)
    assert len({n.name for n in new.nodes}) == len(new.nodes), "two nodes have one name"


@pytest.mark.parametrize("name", ["dead_code", "simplify", "snapshot_updates", "layout"])
def test_a_pass_with_nothing_to_do_returns_the_same_object(name: str) -> None:
    g = grt.Graph()
    g.output("y", F.relu(g.input("x", (3,))))
    assert PASSES[name](g) is g


def simplified(build: Callable[[grt.Value], grt.Value]) -> list[str]:
    """Names of the ops left between input and output."""
    g = grt.Graph()
    g.output("y", build(g.input("x", (2, 3, 4))))
    return [n.op.name for n in simplify(g).nodes if n.op.name != "input"]


@pytest.mark.parametrize(
    "build, left",
    [
        (lambda x: x + 0.0, []),
        (lambda x: x * 1.0 / 1.0, []),
        (lambda x: F.neg(F.neg(x)), []),
        (lambda x: F.reshape(F.reshape(x, (6, 4)), (2, 3, 4)), []),
        (lambda x: F.reshape(F.reshape(x, (6, 4)), (24,)), ["reshape"]),
        (lambda x: F.permute(F.permute(x, (1, 2, 0)), (2, 0, 1)), []),
        (lambda x: F.stop_gradient(F.relu(x)), ["relu"]),
        (lambda x: F.relu(x) + F.relu(x), ["relu", "add"]),
        (lambda x: x * (F.exp(x.graph.constant(0.0)) + 1.0), ["constant", "broadcast", "mul"]),
        (lambda x: F.cast(F.cast(x, "float32"), "float32"), []),
    ],
)
def test_simplify(build: Callable[[grt.Value], grt.Value], left: list[str]) -> None:
    assert simplified(build) == left


def test_layout_is_channels_last_inside_and_only_there() -> None:
    g, _ = network()
    new = assign_layouts(simplify(g))
    types = {n.name: n.types[0] for n in new.nodes}
    assert types["x"].order is None, "the caller's arrays are row-major"
    assert types["conv_0"].order == (0, 2, 3, 1) and types["relu_0"].order == (0, 2, 3, 1)
    assert types["w"].order == (2, 3, 1, 0) and types["m"].order == types["w"].order, "the momentum lies as its parameter"
    assert new.updates["w"].type.order == types["w"].order
    few = assign_layouts(simplify(g), min_channels=16)
    assert {n.name: n.types[0] for n in few.nodes}["conv_0"].order is None


def test_outputs_lie_as_they_are_asked_to(target: str) -> None:
    """Whatever computes them; a value that is returned twice lies as the first asks."""
    g, rng = grt.Graph(), np.random.default_rng(0)
    x, w = g.input("x", (2, 4, 6, 5)), g.input("w", (4, 4, 3, 3))
    values = {
        "elementwise": F.exp(x),
        "view": F.transpose(x, 1, 3),
        "reduction": F.sum(x[None] * x[:, None], 1),
        "rows": F.softmax(x, 3),
        "columns": F.layer_norm(F.transpose(x, 1, 3), [4]),
        "matmul": F.relu(x @ F.transpose(x, 2, 3)),
        "conv": F.relu(F.conv2d(x, w)),
        "pooled": F.max_pool2d(x, 2) * 2.0,
        "gathered": F.gather(x, 3, F.argsort(x, 3)) + 1.0,
        "scanned": F.cumsum(x, 2) - 1.0,
        "joined": F.cat([x, F.exp(x)], 2),
        "attended": F.scaled_dot_product_attention(x, x * 0.5, x),
        "padded": F.pad(x, (1, 2, 0, 1)),
        "constant": F.full(g, [2, 3, 4, 5], 2.0) + F.reshape(F.arange(g, 3), [3, 1, 1]),
    }
    orders = [(0, 1, 2, 3), (0, 2, 3, 1), (3, 2, 1, 0), (1, 0, 3, 2)]
    for name, v in values.items():
        for order in orders:
            g.output(f"{name} {order}", v if order == orders[0] else v + float(orders.index(order)), order)
    g.output("twice", values["view"], orders[2])
    assert str(grt.Graph.parse(str(g))) == str(g)
    found = check(g, {n: rng.standard_normal(g.sources[n].types[0].shape).astype(np.float32) for n in "xw"}, target, 64)
    for name, y in found.items():
        order = g.orders[name] if name != "twice" else orders[0]
        assert y.transpose(order).flags.c_contiguous, name
    with pytest.raises(grt.errors.ArgumentError, match=r"order of output 'z' must list its 4 dimensions, got \(0, 1\)"):
        g.output("z", x, (0, 1))


def test_a_mean_of_halves_does_not_overflow() -> None:
    """The sum of ``-x / n`` is near -60; that of x, from which float32 would take it, is beyond float16."""
    graph = grt.Graph()
    x = graph.input("x", (4096,), "float16")
    graph.output("y", F.sum(-(x * (1 / 4096))))
    y = grt.compile(graph, target="cpu")(x=np.full(4096, 60, np.float16))["y"]
    assert np.isfinite(y) and abs(float(y) + 60) < 0.1


def test_many_parts_without_an_element_need_no_buffer() -> None:
    g = grt.Graph()
    x = g.input("x", (0, 3))
    g.output("y", F.cat([x + float(i) for i in range(20)]))
    assert grt.compile(g, target="reference")(x=np.zeros((0, 3), np.float32))["y"].shape == (0, 3)


def test_flips_that_turn_nothing_are_left_out(optimized: None) -> None:
    """As a parameter's update one would be a kernel that stores what lies there, of which a compiler leaves nothing."""
    g = grt.Graph()
    start = np.arange(24, dtype=np.float32).reshape(1, 3, 8)
    w, v, u = (g.parameter(name, start) for name in "wvu")
    g.update(w, F.flip(w, [0]))
    g.update(v, F.flip(F.flip(F.flip(v, [1]), [0, 2, 1]), [2]))
    g.update(u, F.flip(F.flip(u, [0, 1]), [2, 1]))
    g.output("y", F.flip(F.flip(w, [1, 2]), [1]))
    program = grt.compile(g, target="cpu")
    np.testing.assert_array_equal(program({})["y"], start[..., ::-1])
    for name, expected in (("w", start), ("v", start), ("u", start[..., ::-1])):
        np.testing.assert_array_equal(program.state[name], expected)
    assert [n.attrs["dims"] for n in program.graph.nodes if n.op.name == "flip"] == [(2,)] * 2


@pytest.mark.parametrize("dims", [(0,), (0, 2), (0, 1, 2)])
def test_what_is_centred_sums_to_nothing(dims: tuple[int, ...]) -> None:
    """Whether few dimensions are summed or all, no sum of it is taken; one that is centred along others is."""
    g = grt.Graph()
    x = g.input("x", (3, 4, 5))
    g.output("y", F.sum(x - F.mean(x, dims, keepdim=True), dims))
    assert not any(n.op.kind is Kind.REDUCTION for n in simplify(dead_code(g)).nodes)
    g.output("z", F.sum(x - F.mean(x, 1, keepdim=True), dims))
    assert any(n.op.kind is Kind.REDUCTION for n in simplify(dead_code(g)).nodes)

"""Sibling convolutions as one: the merged graph computes what the graph did, and only where that is predicted to gain."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from conftest import INTERPRETED, assert_close
from graphs import inception_step
from hypothesis import given, settings

import graphrt as grt
from graphrt import ops as F
from graphrt.op import Kind
from graphrt.passes.decision import Decision
from graphrt.passes.partial import Segments, partial_sums
from graphrt.passes.remat import rematerialise
from graphrt.passes.siblings import Times, merge_siblings
from graphrt.passes.simplify import simplify
from graphrt.targets.reference.evaluate import evaluate

GAIN = Times(lambda node, filters: 1.0, 0.0, 0.0, (), lambda node, m, n, k: 1.0)
LOSE = Times(lambda node, filters: float(filters) ** 2, 0.0, 0.0, (), lambda node, m, n, k: float(m * n * k) ** 2)
pytestmark = [pytest.mark.interpret] if INTERPRETED else []


def contractions(graph: grt.Graph) -> int:
    return sum(n.op.kind is Kind.CONTRACTION for n in graph.nodes)


def agree(graph: grt.Graph, other: grt.Graph, feeds: dict[str, Any], length: int) -> None:
    """Both graphs compute the same results and updates in float64, up to the order of sums."""
    other.verify()
    a, b = evaluate(graph, {**graph.initial, **feeds}), evaluate(other, {**graph.initial, **feeds})
    for kind in ("outputs", "updates"):
        for name, v in getattr(graph, kind).items():
            result = np.asarray(b[getattr(other, kind)[name]], v.dtype.numpy)
            assert_close(result, a[v], length, name, other)


@st.composite
def families(draw: Any) -> tuple[grt.Graph, dict[str, Any]]:
    """Convolutions of one tensor, some alike and some not, with what follows them, their gradients and updates."""
    graph, rng = grt.Graph(), np.random.default_rng(draw(st.integers(0, 2**16)))
    c, size = draw(st.integers(1, 4)), draw(st.integers(3, 6))
    given_x = graph.input("x", (2, c, size, size))
    weight = graph.parameter("first", rng.standard_normal((c, c, 1, 1)).astype("f"))
    x = F.conv2d(given_x, weight) if draw(st.booleans()) else given_x  # so that x has a gradient, or not
    results = []
    for i in range(draw(st.integers(2, 5))):
        r, k = draw(st.sampled_from([1, 1, 1, 3])), draw(st.integers(1, 4))
        stride, groups = draw(st.sampled_from([1, 1, 2])), c if draw(st.integers(0, 5)) == 0 else 1
        w = graph.parameter(f"w{i}", rng.standard_normal((k * groups, c // groups, r, r)).astype("f"))
        y = F.conv2d(x, w, stride=stride, padding=r // 2, groups=groups)
        match draw(st.sampled_from(["relu", "norm", "result", "sum", "none"])):
            case "relu":
                y = F.relu(y)
            case "norm":
                mean, var = (
                    graph.parameter(f"{n}{i}", np.ones(y.shape[1], np.float32), trainable=False) for n in ("mean", "var")
                )
                y = F.batch_norm(y, mean, var, training=True)
            case "result":
                graph.output(f"y{i}", y)
            case "sum":
                y = y * F.sum(y, (2, 3), keepdim=True)
        results.append(y)
    loss = sum((F.mean(y * y) for y in results), start=graph.constant(0.0))
    same = [y for y in results if y.shape[2:] == results[0].shape[2:]]
    whole = F.concat(same, 1) if len(same) > 1 else same[0]
    loss = loss + F.mean(F.max_pool2d(whole, 3, 1, 1) * 0.5)
    graph.output("loss", loss)
    parameters = [p for p in graph.parameters() if p.node.attrs["trainable"]]
    for p, g in zip(parameters, grt.grad(loss, parameters), strict=True):
        graph.update(p, p - g * 0.1)
    return graph, {"x": rng.standard_normal((2, c, size, size)).astype("f")}


@st.composite
def products(draw: Any) -> tuple[grt.Graph, dict[str, Any]]:
    """Layers that read one tensor, some with a bias, some multiplied by another, their gradients and updates."""
    graph, rng = grt.Graph(), np.random.default_rng(draw(st.integers(0, 2**16)))
    c, lead = draw(st.integers(1, 5)), draw(st.sampled_from([(4,), (2, 3), (2, 2, 2)]))
    given_x = graph.input("x", (*lead, c))
    first = graph.parameter("first", rng.standard_normal((c, c)).astype("f"))
    x = F.linear(given_x, first) if draw(st.booleans()) else given_x  # so that x has a gradient, or not
    bias, activation = draw(st.booleans()), draw(st.sampled_from([F.relu, F.gelu, lambda y: y * 2.0, lambda y: y]))
    results = list[grt.Value]()
    for i in range(draw(st.integers(2, 4))):
        k = draw(st.sampled_from([3, 3, 4]))
        w = graph.parameter(f"w{i}", rng.standard_normal((k, c) if draw(st.integers(0, 3)) else (c, k)).astype("f"))
        y = F.linear(x, w) if w.shape == (k, c) else F.matmul(x, w)
        if bias or draw(st.integers(0, 3)) == 0:
            y = y + graph.parameter(f"bias{i}", rng.standard_normal(k).astype("f"))
        y = activation(y) if draw(st.integers(0, 3)) else F.sigmoid(y)
        if draw(st.integers(0, 3)) == 0:
            graph.output(f"y{i}", y)
        if results and results[-1].shape == y.shape and draw(st.booleans()):
            y = y * results[-1]  # depends on two siblings
        results.append(y)
    loss = sum((F.mean(y * y) for y in results), start=graph.constant(0.0))
    graph.output("loss", loss)
    parameters = graph.parameters()
    for p, g in zip(parameters, grt.grad(loss, parameters), strict=True):
        if draw(st.integers(0, 4)):
            graph.update(p, p - g * 0.1)
    return graph, {"x": rng.standard_normal((*lead, c)).astype("f")}


@given(products(), st.booleans())
@settings(max_examples=40)
def test_merged_products_compute_the_same(case: tuple[grt.Graph, dict[str, Any]], keeps: bool) -> None:
    graph, feeds = case
    plain, decisions = simplify(graph), list[Decision]()
    merged = merge_siblings(plain, replace(GAIN, keeps=keeps), decisions)
    agree(plain, merged, feeds, 2000)
    joined = sum(d.taken for d in decisions)
    assert (merged is plain) == (joined == 0) and contractions(merged) <= contractions(plain) - joined
    agree(plain, simplify(rematerialise(merged)), feeds, 2000)


def heads(rows: int, width: int, bias: bool = True) -> grt.Graph:
    """Queries, keys and values of one tensor by three layers, attention, and a step of their weights."""
    graph = grt.Graph()
    x = graph.input("x", (2, rows, width))
    parts = []
    for name in "qkv":
        w, b = graph.parameter(f"w{name}", shape=(width, width)), graph.parameter(f"b{name}", shape=(width,))
        parts.append(F.transpose(F.reshape(F.linear(x, w, b if bias else None), (2, rows, 2, width // 2)), 1, 2))
    query, key, value = parts
    graph.output("y", F.scaled_dot_product_attention(query, key, value))
    return graph


def stepped(graph: grt.Graph, *wrt: str) -> grt.Graph:
    """``graph`` with the gradient of its output's mean square, and a step of all parameters."""
    loss = F.mean(graph.outputs["y"] * graph.outputs["y"])
    sources = [*graph.parameters(), *(graph.sources[name].outputs[0] for name in wrt)]
    for v, g in zip(sources, grt.grad(loss, sources), strict=True):
        if v.node.name in wrt:
            graph.output(f"d {v.node.name}", g)
        else:
            graph.update(v, v - g * 0.1)
    return graph


def test_queries_keys_and_values_are_one_product() -> None:
    """Forward, with the biases behind it; the input's gradient; the weights' gradient: three products in place of nine."""
    plain, decisions = simplify(stepped(heads(4, 6), "x")), list[Decision]()
    merged = merge_siblings(plain, GAIN, decisions)
    assert [sum(n.op.template == "matmul" for n in g.nodes) for g in (plain, merged)] == [9, 3], str(merged)
    assert sum(d.taken for d in decisions) == 6
    forward = next(n for n in merged.nodes if n.op.template == "matmul")
    assert forward.types[0].shape == (8, 18)
    assert sum(n.op.name == "add" and n.types[0].shape[-1] == 18 for n in merged.nodes) == 1, "biases are one addition"


def test_siblings_wait_for_no_sibling() -> None:
    """A layer that is used again on its own result shares its weight with what it waits for, and stays apart."""
    graph = grt.Graph()
    x, w = graph.input("x", (4, 4)), graph.parameter("w", shape=(4, 4))
    y = F.relu(F.linear(F.relu(F.linear(x, w)), w))
    graph.output("y", y)
    plain, decisions = simplify(graph), list[Decision]()
    assert merge_siblings(plain, GAIN, decisions) is plain and not decisions


@pytest.mark.parametrize("freeze", [False, True])
def test_a_frozen_program_packs_siblings_once(freeze: bool, rng: np.random.Generator) -> None:
    """Weights that are kept packed lie side by side for all runs; in others each run would copy them: ``explain`` says so."""
    graph = heads(24, 96)
    for array in graph.initial.values():
        array[...] = rng.standard_normal(array.shape) * 0.3
    target = "interpret" if INTERPRETED else "cpu"
    program = grt.compile(graph, target=target, freeze=freeze)
    x = rng.standard_normal((2, 24, 96)).astype("f")
    assert_close(program(x=x)["y"], evaluate(graph, {**graph.initial, "x": x})[graph.outputs["y"]], 400)
    siblings = [d for d in program.decisions if d.stage == "siblings"]
    assert len(siblings) == 2
    if not INTERPRETED:
        assert program.launches == (2 if freeze else 4)
        assert all(d.taken == freeze and bool(d.change) != freeze for d in siblings)
        program.state.set("wk", 2 * program.state["wk"])  # packed anew
        again = evaluate(graph, {**graph.initial, "wk": program.state["wk"], "x": x})
        assert_close(program(x=x)["y"], again[graph.outputs["y"]], 400)


@given(families())
@settings(max_examples=30)
def test_merged_graphs_compute_the_same(case: tuple[grt.Graph, dict[str, Any]]) -> None:
    graph, feeds = case
    plain, decisions = simplify(graph), list[Decision]()
    merged = merge_siblings(plain, GAIN, decisions)
    agree(plain, merged, feeds, 2000)
    joined = sum(d.taken for d in decisions)
    assert (merged is plain) == (joined == 0) and contractions(merged) <= contractions(plain) - joined
    again = rematerialise(merged)
    agree(plain, again, feeds, 2000)
    agree(plain, partial_sums(again, lambda node, producer: Segments(math.prod(node.inputs[0].shape[2:]))), feeds, 2000)


def test_every_kind_is_merged() -> None:
    """Two blocks of four branches: three siblings each, whose gradients are two contractions and not six."""
    plain, decisions = simplify(inception_step(batch=2, channels=8, size=5)), list[Decision]()
    merged = merge_siblings(plain, GAIN, decisions)
    assert contractions(plain) - contractions(merged) == 12 == sum(d.taken for d in decisions)
    assert all("predicted to save" in d.reason for d in decisions)
    order = [n.types[0].shape[0] for n in merged.nodes if n.op.template == "conv_wgrad"]
    assert sorted(order) == [2, 2, 2, 2, 2, 2, 8, 8, 8], "stem, six branches alone, two families"


def test_what_loses_stays_apart() -> None:
    plain, decisions = simplify(inception_step(batch=2, channels=8, size=5)), list[Decision]()
    assert merge_siblings(plain, LOSE, decisions) is plain and merge_siblings(plain, None, decisions) is plain
    assert len(decisions) == 12 and not any(d.taken for d in decisions)
    assert all("predicted to lose" in d.reason for d in decisions)


@pytest.mark.parametrize("half", ["", pytest.param("float16", marks=pytest.mark.proof)])
def test_a_training_step_on_targets(half: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Merged and apart give one answer, with halves as well; the cpu target leaves siblings apart by itself."""
    target = "interpret" if INTERPRETED else "cpu"
    graph, rng = inception_step(batch=2, channels=8, size=6, autocast=half), np.random.default_rng(0)
    for array in graph.initial.values():
        array[...] = rng.standard_normal(array.shape) * 0.3 if array.ndim > 1 else 1 + 0.3 * rng.random(array.shape)
    feeds = {"x": rng.standard_normal((2, 8, 6, 6)).astype("f"), "lr": np.float32(0.1)}
    expected = evaluate(graph, {**graph.initial, **feeds})
    merged = {}
    for gains in (GAIN, None):
        monkeypatch.setattr("graphrt.passes.pipeline.merge_siblings", lambda g, _, d, t=gains: merge_siblings(g, t, d))
        program = grt.compile(graph, target=target)
        merged[gains is GAIN] = sum(d.taken and "siblings" in d.other for d in program.decisions)
        program(feeds)
        for name, v in graph.updates.items():
            error = np.abs(np.asarray(program.state[name], np.float64) - expected[v]).max()
            assert error <= (0.02 if half else 1e-4) * max(np.abs(expected[v]).max(), 1), f"{name}, merged: {gains is GAIN}"
    assert merged == {True: 12, False: 0}


def test_sums_of_slices_are_sums_of_the_whole(rng: np.random.Generator) -> None:
    """Two slices of one tensor: their means and variances come from two sums of segments, not four."""
    graph = grt.Graph()
    x = graph.input("x", (2, 6, 4, 4))
    for i, part in enumerate((x[:, :2], x[:, 2:])):
        mean = F.mean(part, (0, 2, 3), keepdim=True)
        graph.output(f"var{i}", F.mean((part - mean) * (part - mean), (0, 2, 3)))
    plain = simplify(graph)
    cut = simplify(partial_sums(plain, lambda node, producer: Segments(16)))
    agree(plain, cut, {"x": rng.standard_normal((2, 6, 4, 4)).astype("f")}, 100)
    assert sum(n.op.kind is Kind.REDUCTION and n.types[0].ndim == 2 for n in cut.nodes) == 2, str(cut)


@pytest.mark.skipif(INTERPRETED, reason="about the target cpu, which merges products")
def test_products_of_one_number_are_siblings_too() -> None:
    """Their results are seen as scalars, which have no last dimension."""
    g = grt.Graph()
    x, a, b = g.input("x"), g.parameter("a", np.full((1, 1), 2.0, np.float32)), g.parameter("b", np.ones((1, 1), np.float32))
    row = x.reshape((1, 1))
    g.output("y", (row @ a).reshape(()) + (row @ b).reshape(()) * 3.0)
    assert grt.compile(g, target="cpu", freeze=True)(x=1.5)["y"] == 7.5

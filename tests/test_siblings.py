"""Sibling convolutions as one: the merged graph computes what the graph did, and only where that is predicted to gain."""

from __future__ import annotations

import math
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

GAIN, LOSE = Times(lambda node, filters: 1.0, 0.0, 0.0), Times(lambda node, filters: float(filters) ** 2, 0.0, 0.0)
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


@pytest.mark.parametrize("half", ["", "float16"])
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

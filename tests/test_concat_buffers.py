"""Concatenations in place: every part is stored where the whole has it, and nobody reads or writes anything else."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from conftest import INTERPRETED, assert_close, check, examples
from graphs import inception_step
from hypothesis import given, settings

import graphrt as grt
from graphrt import ops as F
from graphrt.schedule.concat_buffers import find_buffers
from graphrt.targets.reference.evaluate import evaluate

TARGET = "interpret" if INTERPRETED else "cpu"
pytestmark = [pytest.mark.interpret] if INTERPRETED else []


def slots(program: grt.Program) -> dict[str, str]:
    """The buffer of each value, by name."""
    assert program.schedule is not None
    return {v.name: place.slot.name for v, place in program.schedule.home.items()}


def test_convolutions_store_into_the_whole(target: str, rng: np.random.Generator) -> None:
    graph = grt.Graph()
    x = graph.input("x", (2, 3, 6, 5))
    a, b = (
        F.relu(F.conv2d(x, graph.parameter(n, rng.standard_normal((k, 3, r, r)).astype("f")), padding=r // 2))
        for n, k, r in (("a", 5, 1), ("b", 8, 3))
    )
    pool = F.max_pool2d(x, 3, 1, 1)
    y = F.concat([a, b, pool], 1)
    graph.output("y", F.conv2d(y, graph.parameter("w", rng.standard_normal((4, 16, 3, 3)).astype("f")), padding=1))
    graph.output("part", F.sum(b, 1))
    check(graph, {"x": rng.standard_normal((2, 3, 6, 5)).astype("f")}, target, 200)
    program = grt.compile(graph, target=target)
    homes = slots(program)
    assert {homes[v.name] for v in (a, b, pool)} == {y.name} == {homes[y.name]}, program.plan_text()
    assert program.launches <= 5, "two convolutions, a pool, the last convolution, a sum: no copies"


def test_a_returned_whole_is_written_by_its_parts(target: str, rng: np.random.Generator) -> None:
    graph = grt.Graph()
    x = graph.input("x", (4, 6))
    parts = [F.matmul(x, graph.parameter(n, rng.standard_normal((6, k)).astype("f"))) for n, k in (("a", 3), ("b", 5))]
    graph.output("y", F.concat(parts, 1))
    feeds = {"x": rng.standard_normal((4, 6)).astype("f")}
    check(graph, feeds, target, 10)
    assert grt.compile(graph, target=target).launches == 2


def test_a_view_of_a_whole_is_returned(target: str, rng: np.random.Generator) -> None:
    """The gradient of a matrix that is read row by row: no kernel looks through all of its rows."""
    g = grt.Graph()
    x = g.input("x", (20, 6))
    loss = F.mean(F.square(F.stack([F.sum(F.square(x[i])) for i in range(20)])))
    g.output("dx", grt.grad(loss, [x])[0])
    program = grt.compile(g, target=target)
    assert program.launches < 30  # two a row would be 40
    assert len(find_buffers(program.graph).wholes) == 2
    check(g, {"x": rng.standard_normal((20, 6)).astype("f")}, target, length=20)


def test_a_dense_block_lies_in_one_buffer(target: str, rng: np.random.Generator) -> None:
    """Each layer reads what all before it computed: the smaller concatenations are parts of the largest."""
    graph = grt.Graph()
    found = [F.conv2d(graph.input("x", (2, 3, 5, 5)), graph.parameter("w", rng.standard_normal((4, 3, 1, 1)).astype("f")))]
    for i in range(3):
        w = graph.parameter(f"w{i}", rng.standard_normal((2, 4 + 2 * i, 3, 3)).astype("f"))
        found.append(F.conv2d(F.relu(F.concat(found, 1)) if i else found[0], w, padding=1))
    graph.output("y", F.sum(F.concat(found, 1) * 2.0, (2, 3)))
    check(graph, {"x": rng.standard_normal((2, 3, 5, 5)).astype("f")}, target, 100)
    program = grt.compile(graph, target=target)
    assert len({slots(program)[v.name] for v in found}) == 1, program.plan_text()


@pytest.mark.parametrize(
    ("why", "build"),
    [
        ("is cheap: computed where it is read", lambda x: F.sum(F.concat([F.relu(x), F.neg(x)], 1), 1)),
        ("is not computed by a kernel", lambda x: F.matmul(F.concat([x, F.relu(x)], 1), F.permute(x, (1, 0)).repeat(2, 1))),
    ],
)
def test_refusals_are_explained(why: str, build: Any) -> None:
    graph = grt.Graph()
    graph.output("y", build(graph.input("x", (4, 4))))
    program = grt.compile(graph, target=TARGET)
    assert any(not d.taken and d.other == "one buffer" and why in d.reason for d in program.decisions), program.explain().full()


def test_an_inception_block_trains(target: str, rng: np.random.Generator) -> None:
    """Forward, backward and update of two blocks, fused and not, against the reference."""
    graph = inception_step(batch=2, channels=8, size=5)
    for array in graph.initial.values():  # weights that say something, none of them zero
        array[...] = rng.standard_normal(array.shape) * 0.3 if array.ndim > 1 else 1 + 0.3 * rng.random(array.shape)
    feeds = {"x": rng.standard_normal((2, 8, 5, 5)).astype("f"), "lr": np.float32(0.1)}
    check(graph, feeds, target, 3000)
    program = grt.compile(graph, target=target)
    assert any(d.taken and d.other == "one buffer" for d in program.decisions)


@st.composite
def concatenations(draw: Any) -> tuple[grt.Graph, dict[str, Any]]:
    """Values of one height, side by side in several overlapping wholes that products, sums and results read."""
    graph, rng = grt.Graph(), np.random.default_rng(draw(st.integers(0, 2**16)))
    x = graph.input("x", (3, 4))
    values = [x]
    for i in range(draw(st.integers(2, 6))):
        picked = [values[draw(st.integers(0, len(values) - 1))] for _ in range(draw(st.integers(1, 3)))]
        y = F.concat(picked, 1) if len(picked) > 1 else picked[0]
        match draw(st.sampled_from(["matmul", "relu", "slice", "both"])):
            case "matmul":
                width = draw(st.integers(1, 5))
                y = F.matmul(y, graph.parameter(f"w{i}", rng.standard_normal((y.shape[1], width)).astype("f")))
            case "relu":
                y = F.relu(y * 0.5 + 0.25)
            case "slice":
                y = F.tanh(y[:, draw(st.integers(0, y.shape[1] - 1)) :])
            case "both":
                y = F.concat([F.matmul(F.permute(y, (1, 0)), F.relu(y)).sum(0, keepdim=True).expand((3, -1)), F.relu(y)], 1)
        values.append(y)
        if draw(st.booleans()):
            graph.output(f"y{i}", y)
    graph.output("last", F.concat(values[-2:], 1) if draw(st.booleans()) else values[-1])
    loss = F.mean(values[-1] * values[-1])
    for p in graph.parameters():
        graph.update(p, p - grt.grad(loss, [p])[0] * 0.1)
    return graph, {"x": rng.standard_normal((3, 4)).astype("f")}


@given(concatenations())
@settings(max_examples=examples(16, 6))
def test_random_concatenations(case: tuple[grt.Graph, dict[str, Any]]) -> None:
    graph, feeds = case
    table = evaluate(graph, {**graph.initial, **feeds})
    program = grt.compile(graph, target=TARGET)
    outputs = program(feeds)
    for name, v in graph.outputs.items():
        assert_close(outputs[name], table[v], 2000, name, graph)
    for name, v in graph.updates.items():
        assert_close(program.state[name], table[v], 2000, name, graph)

"""What there is to compile grows with the graph, not with its square or a power of two: counts, no seconds."""

from __future__ import annotations

from collections import Counter
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from conftest import INTERPRETED, check
from hypothesis import given, settings
from strategies import draw

import graphrt as grt
from bench.compile_growth import KINDS, assignments, paddings, shifts
from graphrt import ops as F
from graphrt.compiler import lower_graph
from graphrt.passes.pieces import PIECES
from graphrt.schedule import following, fusion, fusion_state, inline, lower, reduction_fusion
from graphrt.schedule.memory import blocks
from graphrt.schedule.work import MOST
from graphrt.targets.cpu.codegen import generate
from graphrt.targets.target import parse

once = pytest.mark.skipif(INTERPRETED, reason="the schedule is the same in both lanes")


def counts(graph: grt.Graph, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Lines of the C source, and how often the costly questions of a compilation are asked."""
    found = Counter[str]()

    def counted(module: Any, name: str) -> None:
        function = getattr(module, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            found[name] += 1
            return function(*args, **kwargs)

        patch.setattr(module, name, call)

    with monkeypatch.context() as patch:
        counted(fusion, "legal")
        counted(inline, "_inlinable")
        counted(fusion_state, "reads")
        counted(following._Cut, "_add")
        counted(lower.Emitter, "_compute")
        counted(reduction_fusion._SameRows, "_fused")
        counted(reduction_fusion._SameRows, "_push")
        lowering = lower_graph(graph, parse("cpu"), {})
    source = str(generate(lowering)[0])
    return Counter({**found, "lines": len(source.splitlines()), "characters": len(source)})


@once
@pytest.mark.parametrize("kind", KINDS)
def test_growth_is_linear(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    build, n = KINDS[kind]
    small, large = (counts(build(size), monkeypatch) for size in (n, 2 * n))
    for what, count in large.items():
        assert count <= 2.6 * small[what] + 50, f"{what}: {small[what]}, then {count}"


@once
@pytest.mark.parametrize("kind", ["concat", "stack"])
def test_equal_parts_share_a_kernel(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part more is a line of a table."""
    build, n = KINDS[kind]
    small, large = (counts(build(size), monkeypatch)["lines"] for size in (n, 2 * n))
    assert large - small <= 1.5 * n


@pytest.mark.parametrize("build", [shifts, paddings, assignments])
def test_what_is_not_looked_through(build: Any, target: str, rng: np.random.Generator) -> None:
    graph = build(6)
    check(graph, {n.name: rng.standard_normal(n.types[0].shape).astype("f") for n in graph.sources.values()}, target, 64)


def test_many_parts(target: str, rng: np.random.Generator) -> None:
    """Parts that are inputs, views, computed, read elsewhere, given twice, empty, results; a whole that is a new parameter."""
    g = grt.Graph()
    inputs = [g.input(f"x{i}", (3, i % 4)) for i in range(8)]
    w = g.parameter("w", rng.standard_normal((3, 32)).astype("f"))
    parts = [F.tanh(x) for x in inputs[:4]] + [x * 2.0 for x in inputs[4:6]] + [w[:, :2], F.flip(w, 1)[:, :3]]
    whole = F.concat([*inputs, *parts, inputs[3], inputs[3], F.zeros(g, (3, 2))], 1)
    assert len(whole.node.inputs) > PIECES
    g.output("whole", whole)
    g.output("again", whole)
    g.output("part", parts[3])
    g.output("slice", whole[:, 5:17] * 2.0 + whole[:, 4:16])
    g.output("product", F.matmul(whole, F.transpose(whole, 0, 1)))
    g.output("halves", F.concat([F.sum(whole, 1), F.mean(whole, 1)]))
    g.update(w, whole)
    check(g, {x.name: rng.standard_normal(x.shape).astype("f") for x in inputs}, target, length=64)


def test_a_part_is_not_read_from_the_buffer_it_is_stored_in(target: str, rng: np.random.Generator) -> None:
    """A slice of a concatenation that lies where one part does, read by the kernel that computes the part."""
    g = grt.Graph()
    x, y = g.input("x", (4096,)), g.input("y", (4096,))
    whole = g.output("whole", F.concat([F.tanh(x), F.tanh(y)]))
    g.output("sum", whole[:4096] * 2.0 + F.tanh(x))
    g.output("rows", F.sum(F.reshape(whole, (2, 4096)), 1) + F.sum(F.reshape(F.tanh(y), (1, 4096)), 1))
    check(g, {n: rng.standard_normal(4096).astype("f") for n in "xy"}, target, length=4096)


@once
def test_a_kernel_is_bounded() -> None:
    """A chain of cheap operations is cut where a kernel would be too large, and is right."""
    g = grt.Graph()
    x = v = g.input("x", (50,))
    for i in range(MOST + 100):
        v = F.abs(v) if i % 2 else v - x
    g.output("y", v)
    lowering = lower_graph(g, parse("cpu"), {})
    sizes = [len(kernel.group.nodes) for launch in lowering.kernels for kernel in launch]
    assert len(sizes) > 1 and max(sizes) == MOST
    check(g, {"x": np.linspace(0.5, 1, 50, dtype="f")}, "cpu", length=MOST)


@once
@settings(max_examples=10)
@given(st.integers(0, 2**32))
def test_every_launch_gives_something(seed: int) -> None:
    """No group is launched for what all its readers compute again, whether or not templates have tiles; none is too large."""
    graph = draw(seed, dags=2).graph
    for target in ("cpu", "null"):
        lowering = lower_graph(graph, parse(target), {})
        for kernel in (kernel for launch in lowering.kernels for kernel in launch):
            assert any(block.stores for block in blocks(kernel)), f"{kernel.group} stores nothing"
            assert len(kernel.group.nodes) <= MOST


@once
def test_what_all_readers_compute_again_is_no_launch() -> None:
    """A half is not worth storing for three kernels that read what it is made of anyway."""
    g = grt.Graph()
    x = g.input("x", (64, 64, 8))
    half = F.cast(F.cast(x, "float16"), "float32")
    for d in range(3):
        g.output(f"y{d}", F.amax((x + float(d)) * half, d))
    program = grt.compile(g, target="cpu")
    assert len(program.schedule.groups()) == 3 and "out=()" not in program.plan_text()

"""The fuzzer in the ordinary suite: 210 random graphs on the compiled lane (420 in proofs), 32 interpreted; it finds faults.

``python -m tests.fuzz --minutes 20`` looks longer.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from conftest import INTERPRETED
from fuzz import differences, fused, fuzz, run, shrink, switch, table
from strategies import KINDS, Numbers, draw

import graphrt as grt
from graphrt import ops as F
from graphrt.op import REGISTRY, Kind

TARGET = "interpret" if INTERPRETED else "cpu"
pytestmark = [pytest.mark.interpret] if INTERPRETED else []
PROGRAMS, DAGS, LARGEST = (5, 4, 24) if INTERPRETED else (24, 10, 400)


def slice_of(kind: str) -> list[Any]:
    """Some programs of a kind: half of them in `make test`, all in `make proofs`."""
    number = PROGRAMS if kind == "builder" else PROGRAMS // 4
    marks = [() if INTERPRETED or seed < number // 2 else pytest.mark.proof for seed in range(number)]
    return [pytest.param(kind, seed, marks=mark) for seed, mark in enumerate(marks)]


@pytest.mark.parametrize(("kind", "seed"), [case for kind in KINDS for case in slice_of(kind)])
def test_random_graphs(kind: str, seed: int) -> None:
    """Every third program is compiled with another switch of fusion too; long runs do that always, and at -O3."""
    fault, _ = fuzz(seed, TARGET, DAGS, LARGEST, switch(seed // 3) if seed % 3 == 0 else "", KINDS[kind])
    assert fault is None, str(fault)


@pytest.mark.skipif(INTERPRETED, reason="draws only, the same in both lanes")
def test_every_op_and_most_functions_are_drawn() -> None:
    """A new op is drawn by being registered; and programs are of the size they are meant to be."""
    unfit = (Kind.DECOMPOSITION, Kind.COLLECTIVE)  # that have many right answers, or are of several processes
    missing = {op.name for op in REGISTRY.values() if op.kind not in unfit and op.name != "pvary"}
    graphs = list[grt.Graph]()
    while missing and len(graphs) < 48:
        graphs.append(draw(len(graphs)).graph)
        missing -= {node.op.name for node in graphs[-1].nodes}
    assert not missing
    assert all(30 < sum(n.op.kind is not Kind.SOURCE for n in g.nodes) < 4000 for g in graphs)
    assert sum(len(g.updates) for g in graphs) > len(graphs) and sum(len(g.outputs) for g in graphs) > 12 * len(graphs)


@pytest.mark.skipif(INTERPRETED, reason="about the fuzzer itself")
@pytest.mark.parametrize("value", [-math.inf, math.inf, math.nan, 2.0])
def test_constants_that_are_no_numbers_are_compared(value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = grt.Graph()
    graph.output("y", F.broadcast_to(graph.constant(value), (3,)))
    numbers = Numbers(graph, {})
    numbers.extend()
    assert not differences(graph, {}, numbers, TARGET, "none")
    for wrong in {-math.inf, math.inf, math.nan, 2.0} - {value}:
        monkeypatch.setattr("fuzz.run", lambda *_, w=wrong: {"y": np.array([value, w, value], np.float32)})
        assert differences(graph, {}, numbers, TARGET)


@pytest.mark.skipif(INTERPRETED, reason="about the fuzzer itself")
def test_a_planted_fault_is_found_and_cut_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong result in the middle of a program leaves a graph of the nodes that make it."""
    builder = draw(3, dags=2)
    x = builder.pool[0]
    builder.graph.output("planted", F.cos(F.tanh(F.sin(F.reshape(x, (-1,))) + 0.5) * 2.0))
    builder.numbers.extend()
    assert not differences(builder.graph, builder.feeds, builder.numbers, TARGET)
    assert fused["elementwise", "elementwise", "chain"] and "elementwise    chain" in table()

    def wrong(graph: grt.Graph, feeds: dict[str, np.ndarray], target: str, fusion: str) -> dict[str, np.ndarray]:
        tanh = any(n.op.name == "tanh" for n in graph.nodes)
        found = run(graph, feeds, target, fusion)
        return {n: a + 1e-4 if tanh and a.dtype == np.float32 else a for n, a in found.items()}

    monkeypatch.setattr("fuzz.run", wrong)

    def fails(graph: grt.Graph, feeds: dict[str, np.ndarray]) -> bool:
        numbers = Numbers(graph, feeds)
        numbers.extend()
        return bool(differences(graph, feeds, numbers, "reference"))

    graph, _ = shrink(builder.graph, builder.feeds, fails)
    assert [n.op.name for n in graph.nodes if n.op.kind is not Kind.SOURCE] == ["tanh"]
    assert str(grt.Graph.parse(str(graph))) == str(graph)

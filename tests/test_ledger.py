"""The ledger: what every decision saves adds up to what the plan moves less than the one without fusion, to the byte."""

from __future__ import annotations

import os

import hypothesis.strategies as st
import pytest
from graphs import inception_step, lenet_step
from hypothesis import given, settings
from strategies import draw

import graphrt as grt
from graphrt import ops as F
from graphrt.bench.patterns import PATTERNS, graph
from graphrt.compiler import lower_graph
from graphrt.passes.stages import STAGES
from graphrt.runtime.explanation import Explanation
from graphrt.runtime.lowering import Ledger
from graphrt.schedule.cost import launch_cost
from graphrt.schedule.group import Group
from graphrt.schedule.lower import lower
from graphrt.schedule.schedule import Schedule
from graphrt.schedule.traffic import Traffic, _Count
from graphrt.schedule.whole import Whole
from graphrt.targets.target import Settings, parse

TARGETS = [
    "cpu",
    pytest.param(
        "cuda:sm_90",
        marks=pytest.mark.skipif(
            os.environ.get("TRITON_INTERPRET") == "1", reason="plans for a GPU are made in the lane that compiles"
        ),
    ),
]


def moved(g: grt.Graph, target: str, fusion: str) -> int:
    """The bytes of the plan of ``g`` with the stages ``fusion``."""
    return sum(launch_cost(kernels).bytes for kernels in lower_graph(g, parse(target, Settings(fusion=fusion)), {}).kernels)


@pytest.fixture(autouse=True)
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kernel on the way is lowered, too, and has as many bytes as were counted without that."""
    count = Traffic.bytes

    def both(traffic: Traffic, schedule: Schedule, group: Group) -> int:
        found = count(traffic, schedule, group)
        assert found == launch_cost([lower(schedule, group, traffic.policy)]).bytes, str(group)
        return found

    monkeypatch.setattr(Traffic, "bytes", both)


def adds_up(g: grt.Graph, target: str, fusion: str = "all") -> Ledger:
    """The ledger of ``g``, whose ends are those of the two plans and whose entries lead from one to the other."""
    ledger = lower_graph(g, parse(target, Settings(fusion=fusion)), {}).ledger
    assert ledger.unfused == moved(g, target, "none") and ledger.fused == moved(g, target, fusion)
    assert ledger.unfused - ledger.fused == ledger.saved
    return ledger


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", PATTERNS)
def test_the_entries_add_up(name: str, target: str) -> None:
    for backward in [False, True] if PATTERNS[name].backward else [False]:
        adds_up(graph(PATTERNS[name], "small", backward)[0], target)


@pytest.mark.parametrize("target", TARGETS)
def test_the_entries_of_networks_add_up(target: str) -> None:
    stages = set[str]()
    for g in (lenet_step(), inception_step(batch=4, size=8, blocks=1)):
        stages |= {d.stage for d in adds_up(g, target).decisions if d.taken and d.saved}
    assert {"epilogue", "in_place", "inline", "rows", "rowops"} <= stages


@given(
    st.sampled_from(["conv_bn_relu_train", "swiglu", "embedding_add_layer_norm", "inception_block"]),
    st.sets(st.sampled_from([*STAGES])),
)
@settings(max_examples=12)
def test_the_entries_of_some_stages_add_up(name: str, stages: set[str]) -> None:
    adds_up(graph(PATTERNS[name], "tiny", PATTERNS[name].backward)[0], "cpu", ",".join(sorted(stages)) or "none")


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=5)
def test_the_entries_of_drawn_graphs_add_up(seed: int) -> None:
    adds_up(draw(seed, dags=2, largest=100).graph, "cpu")


def test_most_kernels_are_counted_without_a_walk(monkeypatch: pytest.MonkeyPatch) -> None:
    """They read whole tensors, so a look at their members tells what they move."""
    walks, count = list[int](), _Count.total
    monkeypatch.setattr(_Count, "total", lambda self: walks.append(1) or count(self))
    asked, found = list[int](), Whole.group
    monkeypatch.setattr(Whole, "group", lambda self, *of: asked.append(1) or found(self, *of))
    adds_up(lenet_step(4), "cpu")
    assert len(asked) > 100 and 3 * len(walks) < len(asked)


def test_an_edge_saves_what_is_not_stored_and_read() -> None:
    g = grt.Graph()
    g.output("y", F.relu(g.input("x", (64, 32)) @ g.input("w", (32, 16)) + g.input("b", (16,))))
    found = {(d.node, d.other): d.saved for d in adds_up(g, "cpu").decisions}
    assert found["add_0", "matmul_0"] == found["relu_0", "matmul_0"] == 2 * 4 * 64 * 16


def test_what_is_computed_again_costs_what_it_is_made_of() -> None:
    """The first who computes it reads two tensors for one; with the last nobody stores it, and what stored it read two."""
    g = grt.Graph()
    x = g.input("a", (256, 64)) + g.input("b", (256, 64))
    g.output("p", F.sum(x, 1))
    g.output("q", F.amax(F.exp(x), 0))
    ledger = adds_up(g, "cpu")
    assert [d.saved for d in ledger.decisions if d.node == "add_0" and d.taken] == [-x.type.nbytes, 2 * x.type.nbytes]
    assert f"add_0 into reduce_0: fused, costs {x.type.nbytes} bytes" in str(ledger.decisions[1])


def test_a_buffer_counts_as_often_as_a_launch_reads_it() -> None:
    """Two groups side by side in one launch read their input each for itself."""
    g = grt.Graph()
    x = g.input("x", (64, 32))
    g.output("p", F.sum(x, 1))
    g.output("q", F.sum(x, 0))
    (kernels,) = lower_graph(g, parse("cpu"), {}).kernels
    assert len(kernels) == 2 and launch_cost(kernels).read == 2 * x.type.nbytes


def test_explain_prints_the_ledger() -> None:
    lowering = lower_graph(lenet_step(4), parse("cpu"), {})
    found, ledger = Explanation(lowering), lowering.ledger
    assert f"{ledger.fused} bytes moved of {ledger.unfused} without fusion, {ledger.saved} bytes saved" in str(found)
    data = found.to_json()
    entries = sum(d["saved"] for d in data["decisions"] if d["taken"]) + sum(data["bytes"]["passes"].values())
    assert data["bytes"]["unfused"] - data["bytes"]["fused"] == entries

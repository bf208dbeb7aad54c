"""Stages of fusion: each can be left out, or had alone, and pairs of nodes kept apart."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from conftest import INTERPRETED, examples
from graphs import inception_step, lenet_step, residual_block
from hypothesis import given, settings

import graphrt as grt
from graphrt import ops as F
from graphrt.compiler import lower_graph
from graphrt.errors import ArgumentError
from graphrt.passes.stages import ALL, NONE, STAGES, Fusion
from graphrt.schedule.schedule import Schedule
from graphrt.targets.target import Settings, parse

TARGET = "interpret" if INTERPRETED else "cpu"
pytestmark = [pytest.mark.interpret] if INTERPRETED else []


@given(st.sets(st.sampled_from(list(STAGES))))
def test_stages_print_as_they_are_read(stages: set[str]) -> None:
    fusion = Fusion(frozenset(stages))
    assert Fusion.parse(str(fusion)) == fusion


@pytest.mark.parametrize(
    "text, stages",
    [
        ("all", {*STAGES}),
        ("", {*STAGES}),
        ("none", set()),
        ("chain, rowops", {"chain", "rowops"}),
        ("-epilogue,-pairs", {*STAGES} - {"epilogue", "pairs"}),
    ],
)
def test_what_names_stages(text: str, stages: set[str]) -> None:
    assert Fusion.parse(text).stages == stages


@pytest.mark.parametrize("text", ["everything", "chain,epilog", "-chain,rows", "all,chain", "none,rows"])
def test_unknown_stages_are_refused_with_a_list(text: str) -> None:
    with pytest.raises(ArgumentError, match="no stage .*siblings, .*pairs"):
        grt.compile(_net(), target="cpu", fusion=text)


@pytest.mark.parametrize("forbid", [["conv_0"], [("conv_0",)], [("a", "a")], [("a", 1)], ["ab"]])
def test_pairs_are_two_names(forbid: list[tuple[str, ...]]) -> None:
    with pytest.raises(ArgumentError, match="pairs of two node names"):
        grt.compile(_net(), target="cpu", forbid=forbid)


def _net() -> grt.Graph:
    g = grt.Graph()
    x, w = g.input("x", (2, 3, 8, 8)), g.parameter("w", np.ones((4, 3, 3, 3), np.float32))
    g.output("y", F.sigmoid(F.relu(F.conv2d(x, w)) * 2.0))
    return g


def _groups(program: grt.Program) -> list[set[str]]:
    assert program.schedule is not None
    return [{n.name for n in (*g.nodes, *g.inlined)} for g in program.schedule.groups()]


def test_forbidden_pairs_are_in_two_kernels() -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    whole = grt.compile(_net(), target=TARGET)
    assert {"conv_0", "relu_0", "mul_0", "sigmoid_0"} in _groups(whole)
    apart = grt.compile(_net(), target=TARGET, forbid=[("relu_0", "conv_0")])
    assert not any({"conv_0", "relu_0"} <= group for group in _groups(apart))
    assert "relu_0 into conv_0: not fused: is kept apart (forbid)" in apart.explain().full()
    np.testing.assert_array_equal(whole(x=x)["y"], apart(x=x)["y"])


def test_a_forbidden_name_that_is_none_has_suggestions() -> None:
    with pytest.raises(ArgumentError, match="'relu_1', which is no node .* relu_0"):
        grt.compile(_net(), target=TARGET, forbid=[("conv_0", "relu_1")])


def test_the_variable_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHRT_FUSE", "-epilogue")
    program = grt.compile(_net(), target=TARGET)
    assert program.launches == grt.compile(_net(), target=TARGET, fusion="-epilogue").launches == 2
    assert "the stage epilogue is off" in program.explain().full()
    assert grt.compile(_net(), target=TARGET, fusion="all").launches == 1


@pytest.mark.parametrize("target", ["cpu", "cuda:sm_90"])
@pytest.mark.parametrize("build", [lenet_step, pytest.param(inception_step, marks=pytest.mark.proof), residual_block])
def test_stages_change_plans(build: Callable[[], grt.Graph], target: str) -> None:
    """Without any, every op is a kernel of its own."""

    def plan(fusion: str) -> Schedule:
        found = lower_graph(build(), parse(target, Settings(fusion=fusion)), {}).schedule
        assert found is not None
        return found

    whole = plan("all")
    text = "\n".join(map(str, whole.launches))
    for stage in ("epilogue", "inline", "horizontal", "rowops"):
        assert "\n".join(map(str, plan(f"-{stage}").launches)) != text, stage
    unfused = plan("none")
    assert all(len(g.nodes) + len(g.copies) == 1 and not g.inlined for g in unfused.groups())
    assert len(unfused.launches) > len(whole.launches)


def test_a_launch_is_described_by_what_it_computes() -> None:
    """Without names, so that equal launches of two programs are called the same."""
    g = grt.Graph()
    x, w, v = g.input("x", (4, 8)), g.parameter("w", shape=(8, 6)), g.parameter("v", shape=(5,))
    g.output("y", F.relu(F.matmul(x, w)))
    g.output("z", F.sum(F.exp(v)))
    schedule = lower_graph(g, parse("cpu"), {}).schedule
    assert schedule is not None
    assert {"matmul 4x6 of 8x6 relu", "reduce 5 exp"} == {launch.description() for launch in schedule.launches}
    g = grt.Graph()
    for p in (g.parameter(name, shape=(7,)) for name in "ab"):
        g.update(p, p * 2.0)
    schedule = lower_graph(g, parse("cpu"), {}).schedule
    assert schedule is not None and [launch.description() for launch in schedule.launches] == ["2 groups side by side"]


def test_fusions_meet() -> None:
    some = Fusion.parse("chain,rows", [("a", "b")])
    assert ALL & some == some and (NONE & some).stages == frozenset() and (NONE & some).parted(["b"], ["a", "c"])
    assert not some.parted(["a"], ["a", "c"]) and str(some) == "chain,rows, apart a|b"


@given(st.sets(st.sampled_from(list(STAGES))))
@settings(max_examples=examples(4, 2))
def test_a_training_step_computes_the_same(stages: set[str]) -> None:
    rng = np.random.default_rng(0)
    graph = inception_step(2, 8, 6, 1)
    feeds = dict[str, np.ndarray]()
    for node in graph.sources.values():
        type = node.types[0]
        array = rng.standard_normal(type.shape) if type.dtype.is_float else rng.integers(0, 8, type.shape)
        if node.op.name == "input":
            feeds[node.name] = np.asarray(array, type.dtype.numpy)
        else:
            graph.initial[node.name] = np.asarray(abs(array) * 0.1, type.dtype.numpy)
    some = grt.compile(graph, target=TARGET, fusion=str(Fusion(frozenset(stages))))
    every = grt.compile(graph, target=TARGET, fusion="all")
    a, b = some(feeds), every(feeds)
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=1e-4, atol=1e-5, err_msg=f"{name}: {sorted(stages)}")
    for name in graph.updates:
        np.testing.assert_allclose(some.state[name], every.state[name], rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.skipif(INTERPRETED, reason="one page, read once")
def test_the_page_has_every_stage_and_its_samples_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parent.parent / "docs" / "fusion.md").read_text()
    assert all(f"| `{name}` | {text} |" in page for name, text in STAGES.items())
    exec("\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL)), {})

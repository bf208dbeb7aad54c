"""``program.check`` and ``bisect``: faults that are planted in rules are found, where they are and by what they take."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from graphs import lenet_step
from hypothesis import given

import graphrt as grt
from graphrt import ops as F
from graphrt.bench.patterns import PATTERNS, graph
from graphrt.config import Flags
from graphrt.errors import AccessError, ArgumentError, InputError
from graphrt.runtime.bisection import least
from graphrt.schedule import place
from graphrt.schedule.emitter import Emitter
from graphrt.schedule.kernel_ir import Var


def block() -> grt.Graph:
    """Two convolutions behind each other, with what follows them."""
    g = grt.Graph()
    h = g.input("x", (2, 3, 9, 9))
    for i in range(2):
        h = F.conv2d(h, g.input(f"w{i}", (4, h.shape[1], 3, 3)), g.input(f"b{i}", (4,)), padding=1)
        h = F.relu(h) if i else F.leaky_relu(h)
    g.output("y", F.mean(h, (2, 3)))
    return g


def batch(g: grt.Graph, rng: np.random.Generator) -> dict[str, Any]:
    return {n.name: rng.standard_normal(n.types[0].shape).astype(np.float32) for n in g.sources.values()}


@pytest.fixture
def wrong_epilogue(monkeypatch: pytest.MonkeyPatch) -> None:
    """The larger of two is taken for the smaller wherever a template computes it."""
    emit = Emitter.emit

    def planted(self: Emitter, op: str, args: tuple[Any, ...], dtype: Any) -> Var:
        return emit(self, "minimum" if op == "maximum" and self.group.kind == "template" else op, args, dtype)

    monkeypatch.setattr(Emitter, "emit", planted)


@pytest.mark.parametrize("name", ["conv_bn_relu_train", "dropout_add_layer_norm", "attention", "lstm_cell", "adamw_clipped"])
def test_patterns_are_right(name: str, target: str, rng: np.random.Generator) -> None:
    g, builder = graph(PATTERNS[name], "tiny", PATTERNS[name].backward)
    assert grt.compile(g, target=target).check(builder.feeds(rng)) is None


def test_a_training_step_is_right(rng: np.random.Generator, target: str) -> None:
    g = lenet_step(3)
    for name, value in g.initial.items():
        g.initial[name] = rng.standard_normal(value.shape).astype(np.float32) * 0.2
    program = grt.compile(g, target=target)
    feeds = {"x": rng.standard_normal((3, 1, 32, 32)).astype(np.float32), "target": [1, 2, 3], "lr": 0.1}
    before = program.state["fc3.weight"].copy()
    assert program.check(feeds) is None
    assert not np.array_equal(program.state["fc3.weight"], before), "state advances as in any run"
    expected = grt.compile(lenet_step(3), target="reference")
    for name in expected.state:
        expected.state.set(name, g.initial[name])
    expected(feeds)
    np.testing.assert_allclose(program.state["fc3.weight"], expected.state["fc3.weight"], rtol=1e-4, atol=1e-5)


def test_a_fault_is_found_where_it_is(wrong_epilogue: None, rng: np.random.Generator, target: str) -> None:
    """The second convolution is wrong, the mean behind it only for that reason."""
    g = block()
    found = grt.compile(g, target=target).check(batch(g, rng))
    assert found is not None and found.value == "relu_0" and "conv[" in found.launch
    assert "test_checking.py" in found.where and 0 < found.count <= found.size == 2 * 4 * 81
    assert found.found <= 0.0 < found.expected or found.expected == 0.0 > found.found
    assert f"{found.value}[{', '.join(map(str, found.index))}] is {found.found!r}" in str(found)


def test_bisection_finds_the_decision(wrong_epilogue: None, rng: np.random.Generator, target: str) -> None:
    g = block()
    found = grt.bisect(grt.compile(g, target=target), batch(g, rng))
    assert found.stages == ["epilogue"] and found.different is not None
    assert [(d.node, d.other) for d in found.decisions] == [("add_1", "conv_1"), ("relu_0", "conv_1")], "one needs the other"
    assert "wrong with epilogue, right without any" in str(found) and "relu_0 into conv_1: fused" in str(found)


def test_bisection_finds_the_decision_in_a_loop(wrong_epilogue: None, rng: np.random.Generator) -> None:
    """What a loop's body does wrong is found by its nodes; the cpu keeps loops."""
    g = grt.Graph()
    w = g.input("w", (6, 6))
    h, _ = F.scan(lambda h, x: ((h := F.relu(h @ w + x)), h), g.input("h", (2, 6)), g.input("x", (12, 2, 6)))
    g.output("y", h)
    found = grt.bisect(grt.compile(g, target="cpu"), batch(g, rng))
    assert found.stages == ["epilogue"] and {d.node.partition("_")[0] for d in found.decisions} == {"add", "relu"}
    assert {d.other.partition("_")[0] for d in found.decisions} == {"matmul"}


def test_bisection_finds_a_stage(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator, target: str) -> None:
    """A parameter is overwritten where it is still to be read: that takes no two nodes in one kernel."""
    g = grt.Graph()
    w = g.parameter("w", rng.standard_normal((600, 600)).astype(np.float32))
    g.update(w, F.permute(w, (1, 0)) * 0.5)
    program = grt.compile(g, target=target)
    assert grt.bisect(program).different is None
    obstacle = place.obstacle
    monkeypatch.setattr(place, "obstacle", lambda *args: ("", "") if args[-1] else obstacle(*args))
    if target == "interpret" and Flags.read().guard:
        with pytest.raises(AccessError, match="which program 0 stores too"):
            grt.bisect(program)
        return
    found = grt.bisect(program)
    assert found.stages == ["in_place"] and not found.decisions and "right without any" in str(found)
    np.testing.assert_array_equal(program.state["w"], g.initial["w"], "the state is left as it is")


def test_what_is_wrong_without_fusion_is_not_its_fault(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    emit = Emitter.emit
    monkeypatch.setattr(Emitter, "emit", lambda self, op, args, dtype: emit(self, {"exp": "neg"}.get(op, op), args, dtype))
    g = grt.Graph()
    g.output("y", F.exp(g.input("x", (8,))) * 2.0)
    found = grt.bisect(grt.compile(g, target="cpu"), batch(g, rng))
    assert found.different is not None and not found.stages and "not the cause" in str(found)


@given(st.sets(st.integers(0, 30), min_size=1, max_size=4), st.integers(31, 40))
def test_the_least_set(needed: set[int], count: int) -> None:
    assert set(least(range(count), lambda some: needed <= {*some})) == needed


def test_rounding_is_no_difference(rng: np.random.Generator) -> None:
    """Numbers that cancel, and comparisons that a rounding turns."""
    g = grt.Graph()
    x = g.input("x", (64, 257))
    centred = x - F.mean(x, 1, keepdim=True)
    g.output("sums", F.sum(centred, 1))
    g.output("sign", F.sum(centred, 1) > 0.0)
    program = grt.compile(g, target="cpu")
    assert program.check({"x": rng.standard_normal((64, 257)).astype(np.float32) + 1000}) is None


def test_what_cannot_be_checked() -> None:
    g = grt.Graph()
    g.output("y", F.exp(g.input("x", (8,))))
    with pytest.raises(ArgumentError, match="reference target has no launches"):
        grt.compile(g, target="reference").check(x=np.zeros(8, np.float32))
    with pytest.raises(ArgumentError, match="reference target fuses nothing"):
        grt.bisect(grt.compile(g, target="reference"), x=np.zeros(8, np.float32))
    with pytest.raises(InputError, match="missing input 'x'"):
        grt.compile(g, target="cpu").check()

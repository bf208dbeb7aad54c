"""Frozen programs: weights packed once, the same bits, and what writes the state afterwards is seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphrt as grt
from graphrt import ops as F

KINDS = {  # which template packs the weight
    "wide": ((2, 8, 9, 9), (40, 8, 3, 3), {"stride": 2}),
    "winograd": ((2, 16, 8, 8), (32, 16, 3, 3), {"padding": 1}),
    "narrow": ((2, 3, 9, 9), (4, 3, 3, 3), {}),
    "depthwise": ((2, 24, 7, 7), (24, 1, 3, 3), {"groups": 24}),
    "pointwise": ((2, 16, 5, 5), (32, 16, 1, 1), {}),
    "matrix": ((12, 70), (33, 70), None),
    "a row": ((1, 70), (33, 70), None),
}


def program(kind: str, freeze: bool, state: grt.State | None = None) -> tuple[grt.Program, dict[str, np.ndarray]]:
    shape, weight, how = KINDS[kind]
    rng, graph = np.random.default_rng(0), grt.Graph()
    x, w = graph.input("x", shape), graph.parameter("w", rng.standard_normal(weight).astype(np.float32))
    y = F.linear(x, w) if how is None else F.conv2d(x, w, **how)
    graph.output("y", F.relu(y + graph.parameter("b", np.ones(y.shape[1:], np.float32))))
    compiled = grt.compile(graph, target="cpu", freeze=freeze, state=state)
    return compiled, {"x": rng.standard_normal(shape).astype(np.float32)}


@pytest.mark.parametrize("kind", KINDS)
def test_a_frozen_program_computes_the_same_bits(kind: str) -> None:
    plain, inputs = program(kind, freeze=False)
    frozen, _ = program(kind, freeze=True, state=plain.state)
    for _ in range(2):
        np.testing.assert_array_equal(frozen(inputs)["y"], plain(inputs)["y"])
    plain.state.set("w", plain.state["w"][::-1] * 2)
    np.testing.assert_array_equal(frozen(inputs)["y"], plain(inputs)["y"])


def test_weights_are_packed_once() -> None:
    frozen, inputs = program("wide", freeze=True)
    before = frozen(inputs)["y"]
    frozen.state["w"][...] = 0  # a write that nothing notices
    np.testing.assert_array_equal(frozen(inputs)["y"], before)
    frozen.state.set("b", frozen.state["b"])
    assert (frozen(inputs)["y"] != before).any()


def test_a_training_step_on_the_same_state_is_seen() -> None:
    frozen, inputs = program("wide", freeze=True)
    first = frozen(inputs)["y"]
    graph = grt.Graph()
    w = graph.parameter("w", frozen.state["w"])
    graph.update(w, w * 0.5)
    grt.compile(graph, target="cpu", state=frozen.state)()
    plain, _ = program("wide", freeze=False, state=frozen.state)
    np.testing.assert_array_equal(frozen(inputs)["y"], plain(inputs)["y"])
    assert (frozen(inputs)["y"] != first).any()


@pytest.mark.parametrize("how", ["run", "time", "elapsed"])
def test_a_training_step_that_is_interrupted_is_seen(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C during a native call is raised when it returns: the parameters are new by then."""
    frozen, inputs = program("wide", freeze=True)
    frozen(inputs)
    g = grt.Graph()
    w = g.parameter("w", shape=frozen.state["w"].shape)
    g.update(w, w * 2.0)
    step = grt.compile(g, target="cpu", state=frozen.state)
    run = getattr(step._binary, how)

    def interrupted(*args: Any) -> Any:
        run(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(step._binary, how, interrupted)
    with pytest.raises(KeyboardInterrupt):
        {"run": step, "time": step.profile, "elapsed": step.elapsed}[how]()
    plain, _ = program("wide", freeze=False, state=frozen.state)
    np.testing.assert_array_equal(frozen(inputs)["y"], plain(inputs)["y"])


def test_what_a_program_updates_is_not_frozen() -> None:
    graph = grt.Graph()
    x, w = graph.input("x", (8, 20)), graph.parameter("w", np.ones((20, 20), np.float32))
    graph.output("y", F.matmul(x, w))
    graph.update(w, w * 2.0)
    compiled = grt.compile(graph, target="cpu", freeze=True)
    ones = np.ones((8, 20), np.float32)
    for factor in (1, 2, 4):
        np.testing.assert_array_equal(compiled(x=ones)["y"], np.full((8, 20), 20 * factor, np.float32))


def test_a_loaded_program_stays_frozen(tmp_path: Path) -> None:
    frozen, inputs = program("winograd", freeze=True)
    frozen.save(tmp_path / "p")
    loaded = grt.load(tmp_path / "p")
    for _ in range(2):
        np.testing.assert_array_equal(loaded(inputs)["y"], frozen(inputs)["y"])
    loaded.state.set("w", np.zeros_like(frozen.state["w"]))
    assert (loaded(inputs)["y"] == 1).all()

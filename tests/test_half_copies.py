"""Halves of weights that live on from run to run: written by whoever updates the weight, made anew after anything else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from gpu_programs import DEVICES, needs_compiler

import graphrt as grt
from graphrt import ops as F
from graphrt.passes.half_copies import keep_half_copies
from graphrt.targets.reference.evaluate import evaluate
from graphrt.types import as_dtype

COPIES = {"w.bfloat16": "w", "f.bfloat16": "f"}


def step(half: str = "bfloat16") -> grt.Graph:
    """A convolution with bias and a linear layer in mixed precision, and their updates."""
    graph, rng = grt.Graph(), np.random.default_rng(0)
    x, y = graph.input("x", (4, 3, 6, 6)), graph.input("y", (4,), "int64")
    w = graph.parameter("w", 0.3 * rng.standard_normal((8, 3, 3, 3)).astype(np.float32))
    b = graph.parameter("b", rng.standard_normal(8).astype(np.float32))
    f = graph.parameter("f", rng.standard_normal((5, 8)).astype(np.float32))
    with graph.autocast(half):
        h = F.relu(F.conv2d(x, w, b, padding=1))
        loss = graph.output("loss", F.cross_entropy(F.linear(F.mean(h, (2, 3)), f), y))
    for p, d in zip((w, b, f), grt.grad(loss, [w, b, f]), strict=True):
        graph.update(p, p - 0.1 * d)
    return graph


def feeds(rng: np.random.Generator) -> dict[str, Any]:
    return {"x": rng.standard_normal((4, 3, 6, 6)).astype(np.float32), "y": rng.integers(0, 5, 4)}


def halves_are_those_of_weights(state: grt.State) -> None:
    assert state.copies == COPIES
    for copy, of in COPIES.items():
        np.testing.assert_array_equal(state[copy], state[of].astype(ml_dtypes.bfloat16), copy)


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    """Every target that a driver runs, in turn."""
    return request.param


@pytest.mark.parametrize("half", ["bfloat16", "float16"])
def test_the_graph_computes_what_it_did(half: str, rng: np.random.Generator) -> None:
    graph = step(half)
    carried = keep_half_copies(graph, {})
    carried.verify()
    copies = {n.name: n.attrs["copy_of"] for n in carried.sources.values() if "copy_of" in n.attrs}
    assert copies == {f"w.{half}": "w", f"f.{half}": "f"} and carried.updates.keys() == graph.updates.keys() | copies.keys()
    assert [p.node.name for p in carried.parameters()] == ["w", "b", "f"]
    assert not [n for n in carried.nodes if n.op.name == "cast" and n.inputs[0].node.name in copies.values() and n.name is None]
    values = {**graph.initial, **feeds(rng)}
    values |= {c: graph.initial[of].astype(as_dtype(half).numpy) for c, of in copies.items()}
    old, new = evaluate(graph, values, "float32"), evaluate(carried, values, "float32")
    for name in graph.updates:
        np.testing.assert_array_equal(new[carried.updates[name]], old[graph.updates[name]])
    for copy, of in copies.items():
        np.testing.assert_array_equal(new[carried.updates[copy]], new[carried.updates[of]].astype(as_dtype(half).numpy))


def test_only_halves_of_weights_that_are_updated() -> None:
    graph = grt.Graph()
    w = graph.parameter("w", shape=(4, 4))
    x = graph.input("x", (4, 4), "bfloat16")
    graph.output("y", F.matmul(x, F.cast(w, "bfloat16")))
    assert "w.bfloat16" not in keep_half_copies(graph, {}).sources, "nobody updates it"
    graph.update(w, w * 2.0)
    assert "w.bfloat16" in keep_half_copies(graph, {}).sources
    graph.parameter("w.bfloat16", shape=(2,))
    assert keep_half_copies(graph, {}).sources["w.bfloat16"].types[0].shape == (2,), "the name is the user's"


@pytest.mark.parametrize("target", [d for d in DEVICES if getattr(d, "values", [d])[0] != "null"])
def test_training_steps(target: str, rng: np.random.Generator) -> None:
    program, plain = grt.compile(step(), target=target), grt.compile(step(), target="reference")
    batch = feeds(rng)
    for i in range(3):
        assert float(program(batch)["loss"]) == pytest.approx(float(plain(batch)["loss"]), abs=0.02), i
        halves_are_those_of_weights(program.state)
    assert [*program.state] == ["w", "b", "f"] and len(program.state) == 3


def test_what_others_write_is_seen(device: str, rng: np.random.Generator) -> None:
    """``set``, another program, and whoever has the tensor; null runs all of it but the kernels."""
    state, batch = grt.State(), feeds(rng)
    program = grt.compile(step(), target=device, state=state)

    def seen(value: float) -> None:
        """The copy of w at the start of a run."""
        state.refresh(program._binary._state)
        assert (state["w.bfloat16"].astype(np.float32) == value).all()

    program(batch)
    state.set("w", np.full((8, 3, 3, 3), 0.5, np.float32))
    seen(0.5)
    state.tensor("w").fill_(0.25)
    seen(0.25)
    other = grt.Graph()
    w = other.parameter("w", shape=(8, 3, 3, 3))
    other.update(w, w * 0.5)
    grt.compile(other, target=device, state=state)({})
    assert "w.bfloat16" in state._stale and "f.bfloat16" not in state._stale
    program(batch)
    assert not state._stale


def test_copies_are_nobodys_state(tmp_path: Path, device: str, rng: np.random.Generator) -> None:
    program = grt.compile(step(), target=device)
    program(feeds(rng))
    with pytest.raises(grt.errors.InputError, match="no state 'w.bfloat16'; there is 'w', 'b', 'f'"):
        program.state.set("w.bfloat16", np.zeros((8, 3, 3, 3), np.float32))
    program.state.save(tmp_path / "state.safetensors")
    grt.compile(step(), target="reference").state.load(tmp_path / "state.safetensors")
    program.state.load(tmp_path / "state.safetensors")
    assert program.state._stale == COPIES.keys()


@needs_compiler
def test_a_saved_program_makes_its_copies(tmp_path: Path, rng: np.random.Generator) -> None:
    program = grt.compile(step(), target="cuda:sm_90")
    program.save(tmp_path / "f.grt")
    loaded = grt.load(tmp_path / "f.grt", target="null")
    assert loaded.state.copies == COPIES and {*loaded.state} == {"w", "b", "f"}
    loaded.state.refresh(loaded._binary._state)
    halves_are_those_of_weights(loaded.state)
    loaded(feeds(rng))

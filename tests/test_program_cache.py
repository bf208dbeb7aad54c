"""Programs that the cache knows run without being scheduled again, and are nobody else's."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphrt as grt
from graphrt import compiler, errors, optim
from graphrt import ops as F
from graphrt.op import REGISTRY
from graphrt.targets.cpu import program_cache
from graphrt.targets.target import Target


@pytest.fixture
def lowered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A cache of the test's own, and the targets for which anything was lowered."""
    monkeypatch.setenv("GRAPHRT_CACHE", str(tmp_path))
    monkeypatch.setenv("GRAPHRT_KNOWN", "1")
    real, found = compiler.lower_graph, list[str]()

    def count(graph: grt.Graph, target: Target, *rest: Any, **more: Any) -> Any:
        found.append(target.name)
        return real(graph, target, *rest, **more)

    monkeypatch.setattr(compiler, "lower_graph", count)
    return found


def step(scale: float = 0.5, name: str = "x", padding: int = 1, dtype: str = "float32") -> grt.Graph:
    """A training step with a convolution, a constant array, an input that nothing reads and one in another memory order."""
    g, rng = grt.Graph(), np.random.default_rng(0)
    x, y = g.input(name, (4, 3, 6, 6), dtype, order=(0, 2, 3, 1)), g.input("y", (4,), "int64")
    g.input("unread", (2,))
    w = g.parameter("w", rng.standard_normal((5, 3, 3, 3)).astype("f"))
    h = F.relu(F.conv2d(F.cast(x, "float32"), w, padding=padding)) * g.constant(np.linspace(0, 1, 5, dtype="f")[:, None, None])
    loss = g.output("loss", F.cross_entropy(F.mean(h, (2, 3)) * scale, y))
    optim.SGD(0.1, momentum=0.9).apply([w], grt.grad(loss, [w]), g.constant(0.1))
    return g


def feeds(name: str = "x", dtype: str = "float32") -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {name: rng.standard_normal((4, 3, 6, 6)).astype(dtype), "y": rng.integers(0, 5, 4)}


def same(a: grt.Program, b: grt.Program) -> None:
    """Both do the same for three steps, from the same state."""
    for _ in range(3):
        np.testing.assert_array_equal(a(feeds())["loss"], b(feeds())["loss"])
    assert {*a.state} == {*b.state} and a.state.types == b.state.types
    for name in a.state:
        np.testing.assert_array_equal(a.state[name], b.state[name], name)


def test_a_known_program_is_not_lowered(lowered: list[str]) -> None:
    first = grt.compile(step(), target="cpu")
    assert lowered == ["cpu"]
    again = grt.compile(step(), target="cpu")  # built on another line
    same(first, again)
    assert lowered == ["cpu"], "what runs needs no schedule"
    assert again.inputs == first.inputs and again.outputs == first.outputs
    with pytest.raises(errors.InputError, match=r"missing input 'y' \(defined at .*test_program_cache.py"):
        again(x=feeds()["x"])


def test_it_shows_what_it_is_when_asked(lowered: list[str], tmp_path: Path) -> None:
    first = grt.compile(step(), target="cpu")
    again = grt.compile(step(), target="cpu")
    assert again.explain().full() == first.explain().full() and again.plan_text() == first.plan_text()
    assert again.source() == first.source() and again.launches == first.launches
    assert lowered == ["cpu", "cpu"], "once for each program"
    assert [p.name for p in again.profile(feeds(), runs=1)] == [launch.title() for launch in again.schedule.launches]  # type: ignore[union-attr]
    again.save(tmp_path / "saved")
    loaded = grt.load(tmp_path / "saved")
    np.testing.assert_array_equal(loaded(feeds())["loss"], again(feeds())["loss"])


OTHERS: dict[str, Callable[[], grt.Graph]] = {
    "number": lambda: step(scale=0.25),
    "attribute": lambda: step(padding=0),
    "dtype": lambda: step(dtype="float64"),
    "input": lambda: step(name="z"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_another_graph_is_another_program(other: str, lowered: list[str]) -> None:
    grt.compile(step(), target="cpu")
    grt.compile(OTHERS[other](), target="cpu")
    assert lowered == ["cpu", "cpu"]


@pytest.mark.parametrize("name", ["GRAPHRT_FUSE", "GRAPHRT_CFLAGS", "GRAPHRT_KNOWN"])
def test_flags_make_other_programs(name: str, lowered: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    first = grt.compile(step(), target="cpu")
    monkeypatch.setenv(
        name,
        {"GRAPHRT_CFLAGS": f"{os.environ['GRAPHRT_CFLAGS']} -DNOTHING", "GRAPHRT_KNOWN": "0", "GRAPHRT_FUSE": "-in_place"}[
            name
        ],
    )
    again = grt.compile(step(), target="cpu")
    assert lowered == ["cpu", "cpu"]
    if name in ("GRAPHRT_CFLAGS", "GRAPHRT_KNOWN"):
        same(first, again)


def test_frozen_programs_and_memory_orders_are_told_apart(lowered: list[str]) -> None:
    def graph() -> grt.Graph:
        g = grt.Graph()
        w = g.parameter("w", np.arange(12, dtype="f").reshape(4, 3))
        g.output("y", F.matmul(g.input("x", (2, 4)), w))
        return g

    x = np.ones((2, 4), "f")
    for freeze in (False, True):
        expected = grt.compile(graph(), target="cpu", freeze=freeze)(x=x)["y"]
        np.testing.assert_array_equal(grt.compile(graph(), target="cpu", freeze=freeze)(x=x)["y"], expected)
    assert lowered == ["cpu", "cpu"]
    state = grt.State()
    state.share("w", np.asfortranarray(np.arange(12, dtype="f").reshape(4, 3)))
    for _ in range(2):
        np.testing.assert_array_equal(grt.compile(graph(), target="cpu", state=state)(x=x)["y"], expected)
    assert lowered == ["cpu"] * 3


def test_other_code_of_this_package_compiles_anew(lowered: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    grt.compile(step(), target="cpu")
    monkeypatch.setattr(program_cache, "_sources", lambda: "another version")
    grt.compile(step(), target="cpu")
    assert lowered == ["cpu", "cpu"]


@pytest.mark.parametrize("harm", ["empty", "cut", "list", "no interface", "no object"])
def test_a_broken_cache_is_compiled_again(harm: str, lowered: list[str], tmp_path: Path) -> None:
    first = grt.compile(step(), target="cpu")
    (record,) = (tmp_path / "cpu").glob("program-*.json")
    if harm == "no object":
        for object in (tmp_path / "cpu").glob("program-*.so"):
            object.unlink()
    else:
        text = record.read_text()
        record.write_text({"empty": "", "cut": text[: len(text) // 2], "list": "[]", "no interface": "{}"}[harm])
    same(first, grt.compile(step(), target="cpu"))
    assert lowered == ["cpu", "cpu"]
    same(grt.compile(step(), target="cpu"), grt.compile(step(), target="cpu"))
    assert lowered == ["cpu", "cpu"], "it is whole again"


def test_a_record_that_cannot_be_written_is_left_out(lowered: list[str], tmp_path: Path) -> None:
    """As in a cache that holds objects and is read-only."""
    first = grt.compile(step(), target="cpu")
    (record,) = (tmp_path / "cpu").glob("program-*.json")
    record.unlink()
    record.mkdir()
    same(first, grt.compile(step(), target="cpu"))
    assert lowered == ["cpu", "cpu"]


@pytest.mark.parametrize("rule", ["infer", "body", "vjp"])
def test_ops_of_others_are_not_remembered(rule: str, lowered: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What they do may change without the graph: a factor in the body of an op, say."""

    def other(*args: Any) -> Any:
        return getattr(real, rule)(*args)

    real = REGISTRY["relu"]
    monkeypatch.setitem(REGISTRY, "relu", dataclasses.replace(real, **{rule: other}))  # type: ignore[arg-type]
    for _ in range(2):
        grt.compile(step(), target="cpu")
    assert lowered == ["cpu", "cpu"]

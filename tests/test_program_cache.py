"""Programs that the cache knows run without being scheduled again, and are nobody else's."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_structure import ORDER

import graphrt as grt
from graphrt import compiler, errors, nn, optim
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


PARTS: dict[str, Callable[[], Any]] = {  # what a key is made of beside the graph, and another of each
    "_sources": lambda: "another version",
    "_versions": lambda: ("another NumPy",),
    "identity": lambda: ["another compiler"],
}


@pytest.mark.parametrize("part", PARTS)
def test_other_code_compiles_anew(part: str, lowered: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    grt.compile(step(), target="cpu")
    monkeypatch.setattr(program_cache, part, PARTS[part])
    grt.compile(step(), target="cpu")
    assert lowered == ["cpu", "cpu"]


def test_the_code_in_a_key_is_all_that_graphs_pass_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rooms behind the compiler are not in it: what they do is in the graph. No op's rules are there."""
    behind = ORDER[ORDER.index(("compiler",)) + 1 :]
    assert {room for rooms in behind for room in rooms} == program_cache.LATER
    assert all(map(program_cache._own, REGISTRY.values()))
    for name in ("ir.py", "passes/split.py", "nn/layers.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    monkeypatch.setattr(program_cache, "_PACKAGE", tmp_path)
    texts = [program_cache._sources.__wrapped__()]
    for name in ("nn/layers.py", "ir.py", "passes/split.py"):
        (tmp_path / name).write_text("pass")
        texts.append(program_cache._sources.__wrapped__())
    assert texts[0] == texts[1] and len({*texts}) == 3


ARGUMENTS: dict[str, dict[str, Any]] = {
    "freeze": {"freeze": True},
    "forbid": {"forbid": [("conv_0", "relu_0")]},
    "fusion": {"fusion": "-chain"},
    "batch": {"batch": grt.up_to(4)},
    "batch_invariant": {"batch_invariant": True},
    "memory_limit": {"memory_limit": "1GB"},
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments_make_other_programs(name: str, lowered: list[str]) -> None:
    grt.compile(step(), target="cpu")
    for _ in range(2):
        grt.compile(step(), target="cpu", **ARGUMENTS[name])
    assert lowered == ["cpu", "cpu"]


def test_parts_make_another_program(lowered: list[str]) -> None:
    """Nodes of two parts share no kernel, whatever lines of the user's they come from."""
    text = (
        "%0 x : f32[4] = input(shape=(4,), dtype='float32')   # a.py:1 fwd\n"
        "%1 relu_0 : f32[4] = relu(%0)   # a.py:2 fwd{first}\n"
        "%2 exp_0 : f32[4] = exp(%1)   # a.py:3 fwd{second}\noutput y = %2\n"
    )
    texts = [text.format(first="", second=""), text.format(first=", part 1", second=", part 2")]
    assert [grt.compile(grt.Graph.parse(t), target="cpu").launches for t in texts] == [1, 2]


def dropping() -> grt.Graph:
    nn.manual_seed(0)
    g = grt.Graph()
    x = g.input("x", (4, 16))
    loss = g.output("loss", F.mean(F.square(nn.Sequential(nn.Linear(16, 8), nn.Dropout(0.5), nn.Linear(8, 2))(x))))
    optim.Adam(1e-2).apply(params := g.parameters(), grt.grad(loss, params), g.constant(1e-2))
    return g


def half() -> grt.Graph:
    nn.manual_seed(0)
    g = grt.Graph()
    with g.autocast("bfloat16"):
        g.output("loss", F.mean(nn.Linear(16, 8)(g.input("x", (4, 16)))))
    return g


def eight_bits() -> grt.Graph:
    nn.manual_seed(0)
    g = grt.Graph()
    g.output("loss", F.mean(nn.Linear(16, 64)(g.input("x", (4, 16)))))
    return grt.quantize_weights(g)


def looped(factor: float = 0.5) -> grt.Graph:
    g = grt.Graph()
    w = g.parameter("w", np.eye(16, dtype="f"))
    _, ys = F.scan(lambda h, x: (F.tanh(h @ w + x), h * factor), F.zeros(g, (1, 16)), g.input("x", (4, 16))[:, None])
    loss = g.output("loss", F.mean(F.square(ys)))
    optim.SGD(0.1).apply([w], grt.grad(loss, [w]), g.constant(0.1))
    return g


CASES: dict[str, tuple[Callable[[], grt.Graph], dict[str, Any]]] = {
    "random": (dropping, {}),
    "any batch": (dropping, {"batch": grt.up_to(4)}),
    "memory limit": (dropping, {"memory_limit": "1GB"}),
    "batch invariant": (dropping, {"batch_invariant": True}),
    "halves": (half, {}),
    "frozen": (half, {"freeze": True}),
    "eight bits": (eight_bits, {}),
    "loop": (looped, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_known_program_of_any_kind_is_the_same(case: str, lowered: list[str], tmp_path: Path) -> None:
    make, arguments = CASES[case]
    first, again = (grt.compile(make(), target="cpu", **arguments) for _ in range(2))
    count = len(lowered)
    rows = np.random.default_rng(0).standard_normal((4, 16)).astype("f")
    for x in (rows, rows[:3]) if "batch" in arguments else (rows, rows + 1):
        np.testing.assert_array_equal(again(x=x)["loss"], first(x=x)["loss"])
    assert len(lowered) == count, "what runs needs no schedule"
    for name in first.state:
        np.testing.assert_array_equal(again.state[name], first.state[name], name)
    again.save(tmp_path / "saved")
    np.testing.assert_array_equal(grt.load(tmp_path / "saved")(x=rows)["loss"], first(x=rows)["loss"])
    assert again.explain().full() == first.explain().full() and again.source() == first.source()
    assert again.plan_text() == first.plan_text() and str(again.graph) == str(first.graph)


def test_a_known_program_is_of_the_graph_as_it_was(lowered: list[str]) -> None:
    """It is not copied before somebody looks into the program, and nothing is built on the user's."""
    grt.compile(step(), target="cpu")
    graph = step()
    text = str(graph)
    known = grt.compile(graph, target="cpu")
    assert lowered == ["cpu"]
    graph.output("more", F.exp(graph.outputs["loss"]))
    more = str(graph)
    assert str(known.built) == text and "more" not in known.graph.outputs and known.outputs.keys() == {"loss"}
    assert all(node.graph is known.built for node in known.built.nodes)
    known.explain().full()
    known.built.output("own", known.built.outputs["loss"])
    assert str(graph) == more


TOGETHER = """
import numpy as np, graphrt as grt
from graphrt import ops as F
g = grt.Graph()
g.output("y", F.sum(F.softmax(g.input("x", (64,))) * 3.0))
print(grt.compile(g, target="cpu")(x=np.arange(64, dtype="f"))["y"].tobytes().hex())
"""


def test_processes_may_compile_the_same_at_once(tmp_path: Path) -> None:
    environment = {**os.environ, "GRAPHRT_CACHE": str(tmp_path), "GRAPHRT_KNOWN": "1"}
    running = [
        subprocess.Popen([sys.executable, "-c", TOGETHER], env=environment, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    found = [process.communicate(timeout=300)[0] for process in running]
    assert len({*found}) == 1 and found[0], found
    assert len([*(tmp_path / "cpu").glob("program-*.json")]) == 1


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


def test_ops_of_others_in_loops_are_not_remembered(lowered: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def other(*args: Any) -> Any:
        return real.body(*args)  # type: ignore[misc]

    real = REGISTRY["tanh"]
    monkeypatch.setitem(REGISTRY, "tanh", dataclasses.replace(real, body=other))
    grt.compile(looped(0.25), target="cpu")
    once = len(lowered)
    program = grt.compile(looped(0.25), target="cpu")
    assert len(lowered) == 2 * once
    assert REGISTRY["tanh"] not in {node.op for node in program.built.nodes}, "it is in a loop only"

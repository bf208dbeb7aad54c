"""Row chunks: a large product that is used up row by row is made in parts; the results are the same, and refusals say why."""

from __future__ import annotations

from collections.abc import Callable

import hypothesis.strategies as st
import numpy as np
import pytest
from conftest import INTERPRETED, assert_close, check
from hypothesis import given, settings

import graphrt as grt
from graphrt import ops as F
from graphrt.compiler import lower_graph
from graphrt.passes import pipeline
from graphrt.passes.decision import Decision
from graphrt.passes.row_chunks import chunk_rows
from graphrt.passes.simplify import dead_code, simplify
from graphrt.targets.reference.evaluate import evaluate
from graphrt.targets.target import parse
from graphrt.types import as_dtype, float32

pytestmark = [pytest.mark.interpret] if INTERPRETED else []
TARGET = "interpret" if INTERPRETED else "cpu"
once = pytest.mark.skipif(INTERPRETED, reason="the passes are the same in both lanes")
ROWS, WIDTH, CLASSES = 48, 3, 40


def _logits(g: grt.Graph, rows: int, width: int, classes: int, bias: bool = True, dtype: str = "float32") -> grt.Value:
    """The last layer of a network of two."""
    rng = np.random.default_rng(0)

    def parameter(name: str, *shape: int) -> grt.Value:
        return F.cast(g.parameter(name, rng.standard_normal(shape).astype(np.float32)), as_dtype(dtype))

    h = F.tanh(F.linear(F.cast(g.input("x", (rows, width)), as_dtype(dtype)), parameter("first", width, width)))
    return F.linear(h, parameter("last", classes, width), parameter("bias", classes) if bias else None)


def _step(loss: grt.Value) -> grt.Graph:
    """The graph of a step of SGD, after the passes that are in front of chunks."""
    g = loss.graph
    g.output("loss", loss)
    for p, d in zip(g.parameters(), grt.grad(loss, g.parameters()), strict=True):
        g.update(p, p - 0.1 * d)
    return simplify(dead_code(g))


LOSSES: dict[str, Callable[[grt.Value, grt.Value], grt.Value]] = {
    "plain": lambda z, y: F.cross_entropy(z, y),
    "smoothed": lambda z, y: F.cross_entropy(z, y, label_smoothing=0.1, ignore_index=None),
    "weighted": lambda z, y: F.cross_entropy(
        z, y, z.graph.parameter("weight", np.linspace(0.5, 2, CLASSES, dtype=np.float32), trainable=False), ignore_index=3
    ),
    "sum": lambda z, y: F.cross_entropy(z, y, reduction="sum"),
    "each": lambda z, y: F.sum(F.cross_entropy(z, y, reduction="none") ** 2),
    "sequences": lambda z, y: F.cross_entropy(F.permute(F.reshape(z, (12, -1, CLASSES)), (0, 2, 1)), F.reshape(y, (12, -1))),
    "margin": lambda z, y: F.multi_margin_loss(z, y),
    "logsumexp": lambda z, y: F.mean(F.logsumexp(z, 1)) + 0.0 * F.sum(y),
    "scaled": lambda z, y: F.cross_entropy(z * 0.5, y) * 128.0,
}


def _graph(loss: str, train: bool, bias: bool = True, dtype: str = "float32") -> grt.Graph:
    g = grt.Graph()
    value = LOSSES[loss](_logits(g, ROWS, WIDTH, CLASSES, bias, dtype), g.input("y", (ROWS,), "int64"))
    if train:
        return _step(value)
    g.output("loss", value)
    return simplify(dead_code(g))


def _chunked(g: grt.Graph, rows: int, loops: bool) -> tuple[grt.Graph, list[Decision]]:
    decisions = list[Decision]()
    found = chunk_rows(g, rows * 4 * CLASSES, loops, decisions)
    found.verify()
    return found, decisions


def _feeds() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {"x": rng.standard_normal((ROWS, WIDTH)).astype(np.float32), "y": rng.integers(0, CLASSES, ROWS)}


@once
@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("loss", LOSSES)
def test_chunks_are_the_whole(loss: str, train: bool) -> None:
    """In a loop and written out, in float64 to the last digits."""
    whole = _graph(loss, train)
    for loops in (True, False):
        g, decisions = _chunked(whole, 8, loops)
        assert [d.taken for d in decisions] == [True], decisions
        results = []
        for one in (whole, g):
            program = grt.compile(one, target="reference:float64", state=(state := grt.State()))
            results.append([program(_feeds())["loss"], *(state[name] for name in sorted(whole.updates))])
        for a, b in zip(*results, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("loss", ["plain", "weighted"])
@pytest.mark.parametrize("loops", [True, False], ids=["loop", "written out"])
def test_chunks_run(loss: str, loops: bool) -> None:
    g, _ = _chunked(_graph(loss, True), 8, loops)
    check(g, _feeds(), TARGET, ROWS * CLASSES)


@once
@pytest.mark.parametrize("loops", [True, False], ids=["loop", "written out"])
def test_sums_of_halves_are_float32(loops: bool) -> None:
    """What each chunk adds to a gradient is not rounded to eight bits."""
    whole = _graph("plain", True, dtype="bfloat16")
    g, decisions = _chunked(whole, 8, loops)
    if not decisions:  # 2 bytes an element
        g, decisions = _chunked(whole, 4, loops)
    assert [d.taken for d in decisions] == [True]
    last = next(n for n in g.nodes if n.name == "last")
    states = {}
    for name, one in {"whole": whole, "chunks": g}.items():
        program = grt.compile(one, target="reference", state=(state := grt.State()))
        program(_feeds())
        states[name] = state["last"]
    assert last.types[0].dtype is float32
    np.testing.assert_allclose(states["chunks"], states["whole"], rtol=0, atol=2.0**-9 * np.abs(states["whole"]).max() * 0.1)


@once
@settings(max_examples=6)
@given(st.sampled_from(sorted(LOSSES)), st.integers(1, 24), st.booleans(), st.booleans())
def test_any_chunks_are_the_whole(loss: str, rows: int, train: bool, loops: bool) -> None:
    """Also where there are none: then the graph is the same object."""
    whole = _graph(loss, train, bias=rows % 2 == 0)
    g, decisions = _chunked(whole, rows, loops)
    assert (g is whole) == (not any(d.taken for d in decisions))
    a, b = (grt.compile(one, target="reference:float64", state=grt.State())(_feeds())["loss"] for one in (whole, g))
    np.testing.assert_allclose(a, b, rtol=1e-6)


def _refused(z: Callable[[grt.Value, grt.Value], grt.Value], rows: int = ROWS, classes: int = CLASSES) -> Decision:
    g = grt.Graph()
    loss = z(_logits(g, rows, WIDTH, classes), g.input("y", (rows,), "int64"))
    decisions = list[Decision]()
    whole = _step(loss)
    assert chunk_rows(whole, rows * classes * 4 // 6, True, decisions) is whole
    (decision,) = [d for d in decisions if d.node == "matmul_1"]
    assert not decision.taken and decision.change
    return decision


@once
def test_what_is_needed_whole_is_told() -> None:
    """Another reader of the product, a gradient that waits for the whole loss, rows that meet, another large tensor."""

    def returned(z: grt.Value, y: grt.Value) -> grt.Value:
        z.graph.output("logits", z)
        return F.cross_entropy(z, y)

    assert "it is returned" in _refused(returned).reason
    assert "which all rows are folded into" in _refused(lambda z, y: F.cross_entropy(z, y) ** 2).reason
    assert "does not make a row of one row" in _refused(lambda z, y: F.sum(F.cumsum(z, 0)) + 0.0 * F.sum(y)).reason
    assert "folds all rows, and not by a sum" in _refused(lambda z, y: F.amax(z) + 0.0 * F.sum(y)).reason
    noise = "which it meets, is as large"
    assert noise in _refused(lambda z, y: F.cross_entropy(z + z.graph.input("noise", z.shape), y)).reason
    assert noise in _refused(lambda z, y: F.cross_entropy(F.dropout(z, 0.5), y)).reason
    assert "no number of equal chunks" in _refused(lambda z, y: F.cross_entropy(z, y), rows=47).reason
    few = _refused(lambda z, y: F.cross_entropy(z, y), rows=8)
    assert "its sums over rows are 644 bytes" in few.reason and few.change == "it had 17 rows or more"


@once
@pytest.mark.parametrize("target", ["cpu", "cuda:sm_90"])
def test_logits_of_a_large_vocabulary_need_little_memory(target: str) -> None:
    """On both kinds of target: in a loop, and written out; the whole would take 268 MB, and as much for its gradient."""
    g = grt.Graph()
    _step(F.cross_entropy(_logits(g, 2048, 192, 32768), g.input("y", (2048,), "int64")))
    lowered = lower_graph(g, parse(target), {})
    (decision,) = [d for d in lowered.decisions if d.stage == "chunks"]
    assert decision.taken and str(decision).startswith(
        "matmul_1 is made in chunks of rows: 8 times 256 rows need 33,554,432 bytes"
    )
    assert lowered.plan is not None and lowered.plan.size < 160e6


@once
def test_a_part_is_in_the_text() -> None:
    g, _ = _chunked(_graph("plain", True), 8, False)
    assert {n.origin.part for n in g.nodes} == set(range(7))
    again = grt.Graph.parse(str(g))
    assert [n.origin.part for n in again.nodes] == [n.origin.part for n in g.nodes] and str(again) == str(g)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of eight rows, of all programs."""
    monkeypatch.setattr(pipeline, "chunk_rows", lambda g, most, loops, found: chunk_rows(g, 8 * 4 * CLASSES, loops, found))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
def test_a_program_for_any_batch_has_chunks(train: bool) -> None:
    """Rows past the count, whatever they hold, change no loss and no parameter."""
    g = grt.Graph()
    each = F.cross_entropy(_logits(g, ROWS, WIDTH, CLASSES), g.input("y", (ROWS,), "int64"), reduction="none")
    g.output("each", each)
    loss = g.output("loss", F.mean(each))
    if train:
        for p, d in zip(g.parameters(), grt.grad(loss, g.parameters()), strict=True):
            g.update(p, p - 0.1 * d)
    program = grt.compile(g, target=TARGET, batch=grt.up_to(ROWS), state=(state := grt.State()))
    assert [d.taken for d in program.explain().decisions if d.stage == "chunks"] == [True]
    rows, initial = 29, dict(g.initial)
    feeds = {name: array[:rows] for name, array in _feeds().items()}
    found = program(feeds)
    one = grt.Graph()
    few = F.cross_entropy(_logits(one, rows, WIDTH, CLASSES), one.input("y", (rows,), "int64"), reduction="none")
    mean = F.mean(few)
    new = (
        {p.name: p - 0.1 * d for p, d in zip(one.parameters(), grt.grad(mean, one.parameters()), strict=True)} if train else {}
    )
    wanted = evaluate(one, {**one.initial, **feeds})
    assert_close(found["each"], wanted[few], CLASSES)
    assert_close(found["loss"], wanted[mean], ROWS * CLASSES)
    assert all(np.array_equal(initial[name], one.initial[name]) for name in initial)
    for name, v in new.items():
        assert_close(state[name], wanted[v], ROWS * CLASSES)


@once
@pytest.mark.usefixtures("small")
def test_chunks_with_a_limit_of_memory() -> None:
    """What is computed in chunks is not computed again in stretches, and the step is the same."""
    whole = _graph("plain", True)
    plain = grt.compile(whole, target="cpu")
    held = plain.memory().size + 10_000
    small = grt.compile(whole, target="cpu", memory_limit=held)
    assert small(_feeds())["loss"] == plain(_feeds())["loss"]

"""``memory_limit``: a step that fits gives the same bits, and where none does the error says the least there is."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import hypothesis.strategies as st
import numpy as np
import pytest
from conftest import INTERPRETED
from hypothesis import given, settings

import graphrt as grt
from graphrt import errors, nn, optim
from graphrt import ops as F
from graphrt.compiler import lower_graph
from graphrt.passes.checkpoints import keep_checkpoints
from graphrt.passes.decision import Decision
from graphrt.targets.target import parse

pytestmark = [pytest.mark.interpret] if INTERPRETED else []
TARGET = "interpret" if INTERPRETED else "cpu"
once = pytest.mark.skipif(INTERPRETED, reason="the passes are the same in both lanes")


def _step(loss: grt.Value) -> grt.Graph:
    """The graph of ``loss`` with a step of SGD."""
    g = loss.graph
    g.output("loss", loss)
    for p, d in zip(g.parameters(), grt.grad(loss, g.parameters()), strict=True):
        g.update(p, p - 0.1 * d)
    return g


class Net(nn.Module):
    """Layers that are called one behind the other, or as ``body`` says."""

    def __init__(self, layers: Sequence[nn.Module], body: Callable[[Sequence[nn.Module], grt.Value], grt.Value]) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.body = body

    def forward(self, x: grt.Value) -> grt.Value:
        """The mean of the squares of what ``body`` makes of ``x``."""
        h = self.body([*self.layers], x)
        return F.mean(h * h)


def convolutions(depth: int = 4, size: int = 8) -> grt.Graph:
    """A step of convolutions with norms, dropout and residual sums, pooled behind the first."""

    def body(layers: Sequence[nn.Module], x: grt.Value) -> grt.Value:
        h = F.max_pool2d(layers[0](x), 2)
        for i in range(depth):
            y = layers[2 * i + 2](layers[2 * i + 1](h))
            h = F.gelu(y) + h if i % 2 else F.dropout(F.relu(y), 0.1)
        return h

    nn.manual_seed(0)
    layers = [n for _ in range(depth) for n in (nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))]
    return _step(Net([nn.Conv2d(3, 8, 3, padding=1), *layers], body)(grt.Graph().input("x", (4, 3, 2 * size, 2 * size))))


def recurrent() -> grt.Graph:
    """A step of LSTMs, which are loops, one behind the other."""

    def body(layers: Sequence[nn.Module], x: grt.Value) -> grt.Value:
        for layer in layers:
            x = layer(x)[0]
        return x

    nn.manual_seed(0)
    return _step(Net([nn.LSTM(8, 8) for _ in range(2)], body)(grt.Graph().input("x", (6, 2, 8))))


def blocks(depth: int = 2) -> grt.Graph:
    """A step of attention and gates with concatenations."""

    def body(layers: Sequence[nn.Module], h: grt.Value) -> grt.Value:
        for i in range(0, len(layers), 6):
            norm, *three, gate, out = layers[i : i + 6]
            n = norm(h)
            q, k, v = (F.permute(F.reshape(one(n), (2, 16, 2, 4)), (0, 2, 1, 3)) for one in three)
            a = F.reshape(F.permute(F.scaled_dot_product_attention(q, k, v), (0, 2, 1, 3)), (2, 16, 8))
            h = h + out(F.concat([a, F.silu(gate(n))], 2))
        return h

    nn.manual_seed(0)
    layers = [n for _ in range(depth) for n in (nn.LayerNorm(8), *(nn.Linear(8, 8) for _ in range(4)), nn.Linear(16, 8))]
    return _step(Net(layers, body)(grt.Graph().input("x", (2, 16, 8))))


NETWORKS = {"convolutions": convolutions, "recurrent": recurrent, "blocks": blocks}


def held(program: grt.Program) -> int:
    """The bytes that a run of ``program`` holds, from its plan and its graph."""
    assert program.plan is not None
    kept = [n.types[0] for n in program.graph.nodes if n.op.name in ("input", "parameter")]
    return program.plan.size + sum(t.nbytes for t in (*kept, *(v.type for v in program.graph.outputs.values())))


def losses(program: grt.Program, steps: int = 3) -> list[bytes]:
    """The bits of the losses of some steps."""
    x = np.random.default_rng(0).standard_normal(program.graph.sources["x"].types[0].shape).astype(np.float32)
    return [np.asarray(program(x=x)["loss"]).tobytes() for _ in range(steps)]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_that_fits_gives_the_same_bits(name: str) -> None:
    plain = grt.compile(NETWORKS[name](), target=TARGET)
    with pytest.raises(errors.ArgumentError) as error:
        grt.compile(NETWORKS[name](), target=TARGET, memory_limit=1)
    least = int(re.findall(r"the least that a run holds is ([\d,]+)", str(error.value))[0].replace(",", ""))
    assert least < held(plain)
    small = grt.compile(NETWORKS[name](), target=TARGET, memory_limit=least)
    assert held(small) == least
    assert losses(small) == losses(plain)
    taken = [d for d in small.explain().decisions if d.stage == "checkpoint"]
    refused = [d for d in small.explain().decisions if d.stage == "memory"]
    assert taken and all(d.taken for d in taken)
    assert refused[0].change == f"memory_limit were {held(plain):,} bytes"


@once
@settings(max_examples=6)
@given(st.sampled_from(sorted(NETWORKS)), st.integers(2, 6))
def test_a_stretch_is_computed_again_from_what_is_kept(name: str, stretches: int) -> None:
    """The rewritten graph computes the same, each copy is of a node of the forward pass, and none reads another stretch's."""
    graph, decisions = NETWORKS[name](), list[Decision]()
    found = keep_checkpoints(graph, stretches, decisions)
    found.verify()
    first = {n.name: n for n in found.nodes if n.origin.phase != "again"}
    copies = [n for n in found.nodes if n.origin.phase == "again"]
    assert 1 <= len(decisions) < stretches
    for node in copies:
        original = first[node.origin.source]
        assert (node.op, node.attrs, node.types) == (original.op, original.attrs, original.types)
        assert original.origin.phase == "fwd"
    begin = next(i for i, n in enumerate(found.nodes) if n.origin.phase == "bwd")
    assert all(n.origin.phase != "again" for n in found.nodes[:begin])
    assert not any(v.node.origin.phase == "again" for n in found.nodes for v in n.inputs if n.origin.phase in ("fwd", "opt"))
    x = np.random.default_rng(0).standard_normal(graph.sources["x"].types[0].shape).astype(np.float32)
    states = []
    for g in (graph, found):
        program = grt.compile(g, target="reference", state=(state := grt.State()))
        program(x=x)
        states.append({name: state[name].tobytes() for name in sorted(g.updates)})
    assert states[0] == states[1]


@once
def test_nothing_is_computed_again_before_it_is_needed() -> None:
    """Four stretches need little more than a quarter of the memory, and not what all copies together do."""
    graph = convolutions(16, 16)
    plain, cut = (lower_graph(graph, parse("cpu"), {}, stretches=n).plan for n in (1, 4))
    assert plain is not None and cut is not None
    assert cut.size < 0.6 * plain.size


@once
def test_stretches_are_even_in_what_the_backward_pass_reads() -> None:
    """Sums are read by nobody later: of eight and eight tanh the first stretch has four tanh."""
    graph = grt.Graph()
    v = graph.parameter("w", np.ones((64, 64), np.float32))
    moved = [v := v + 1.5 for _ in range(8)]
    waves = [v := F.tanh(v) for _ in range(8)]
    graph.output("d", grt.grad(F.mean(v), graph.parameters())[0])
    decisions = list[Decision]()
    keep_checkpoints(graph, 2, decisions)
    ((node, reason),) = [(d.node, d.reason) for d in decisions]
    assert node == moved[0].node.name and f"10 nodes up to {waves[2].node.name} " in reason


@once
def test_a_limit_that_is_none_is_refused() -> None:
    g = grt.Graph()
    g.output("y", F.relu(g.input("x", (4,))))
    for limit in (0, -1, True, "2", "2 gigabytes", "GB", 1.5, "-2GB"):
        with pytest.raises(errors.ArgumentError, match="memory_limit is a positive number of bytes, or a text like '2GB'"):
            grt.compile(g, target="cpu", memory_limit=limit)  # type: ignore[arg-type]
    with pytest.raises(errors.ArgumentError, match="memory_limit is for targets that plan memory, and reference does not"):
        grt.compile(g, target="reference", memory_limit="1GB")
    with pytest.raises(errors.ArgumentError, match=r"the least that a run holds is 32 .*forward pass cut into 1 stretch;"):
        grt.compile(g, target="cpu", memory_limit="31B")
    assert grt.compile(g, target="cpu", memory_limit="32 B")(x=np.ones(4, np.float32))["y"].sum() == 4


@once
def test_programs_of_other_limits_are_others_in_the_cache() -> None:
    graph = convolutions()
    plain, large = (grt.compile(graph, target="cpu", memory_limit=limit) for limit in (None, "1GiB"))
    assert plain.launches == large.launches
    small = grt.compile(graph, target="cpu", memory_limit=held(plain) - 1)
    again = grt.compile(graph, target="cpu", memory_limit=held(plain) - 1)
    assert again.launches == small.launches > plain.launches
    assert losses(small) == losses(again) == losses(plain)


@once
def test_a_trainer_keeps_the_limit() -> None:
    """The losses are those without one; what is no limit is refused where a trainer is made, one that is too low at a step."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((64, 32)).astype(np.float32), rng.integers(0, 10, 64)

    def trainer(limit: str | int | None = None) -> grt.Trainer:
        nn.manual_seed(0)
        net = nn.Sequential(
            *(layer for _ in range(8) for layer in (nn.Linear(32, 32, bias=False), nn.Tanh())), nn.Linear(32, 10)
        )
        return grt.Trainer(net, nn.CrossEntropyLoss(), optim.SGD(0.1), target="cpu", memory_limit=limit)

    plain = trainer()
    expected = [plain.step(x, y)["loss"] for _ in range(3)]
    most = held(plain.program("train", x, y))
    small = trainer(most - 1)
    assert [small.step(x, y)["loss"] for _ in range(3)] == expected
    assert held(small.program("train", x, y)) < most
    with pytest.raises(errors.ArgumentError, match="memory_limit is a positive number of bytes"):
        trainer("2 gigabytes")
    with pytest.raises(errors.ArgumentError, match="memory_limit is 1 bytes, and the least that a run holds"):
        trainer(1).step(x, y)

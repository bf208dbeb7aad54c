"""Products that meet, as a gate and what it lets through: one kernel with two sums a tile, the same numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import INTERPRETED, check

import graphrt as grt
from graphrt import ops as F
from graphrt.ops.base import apply
from graphrt.passes.decision import Decision
from graphrt.passes.gates import pair_products
from graphrt.passes.pipeline import PassPolicy, run_passes
from graphrt.passes.siblings import Times
from graphrt.passes.simplify import simplify
from graphrt.passes.stages import Fusion
from graphrt.schedule.kernel_ir import TemplateKernel

K, N = 24, 40


def weights(g: grt.Graph, count: int = 2, dtype: str = "float32") -> list[grt.Value]:
    rng = np.random.default_rng(1)
    made = [g.parameter(f"w{i}", (rng.standard_normal((N, K)) / 5).astype(np.float32)) for i in range(count)]
    return [F.cast(w, dtype) for w in made]


def meetings() -> tuple[grt.Graph, dict[str, Any]]:
    """SwiGLU of rows and of sequences, both sides behind something, and with a gradient that wants both results."""
    g, rng = grt.Graph(), np.random.default_rng(0)
    feeds = {"x": rng.standard_normal((33, K)).astype(np.float32), "z": rng.standard_normal((2, 17, K)).astype(np.float32)}
    x, z, (gate, up) = g.input("x", (33, K)), g.input("z", (2, 17, K)), weights(g)
    g.output("swiglu", F.silu(F.linear(x, gate)) * F.linear(x, up))
    bias = g.parameter("bias", np.linspace(-1, 1, N).astype(np.float32))
    g.output("sequences", F.tanh(F.linear(z, gate, bias)) * F.sigmoid(F.linear(z, up)))
    h = F.cast(x, "bfloat16")
    wide = [F.cast(F.linear(h, F.cast(w, "bfloat16")), "float32") for w in (up, gate)]
    g.output("half", F.cast(wide[0] * F.gelu(wide[1]), "bfloat16"))
    return g, feeds


def test_numbers(target: str) -> None:
    g, feeds = meetings()
    program = grt.compile(g, target=target)
    templates = [k.spec.name for launch in program.kernel_ir for k in launch if isinstance(k, TemplateKernel)]
    assert {*templates} == {"matmul"} if target == "cpu" else templates == ["matmul_pair"] * 3
    check(g, feeds, target, K)


def test_training(target: str) -> None:
    """Both results are stored by the pair's kernel for the backward pass, which has its own products."""
    g, rng = grt.Graph(), np.random.default_rng(0)
    feeds = {"x": rng.standard_normal((33, K)).astype(np.float32)}
    x, (gate, up) = g.input("x", (33, K)), weights(g)
    loss = g.output("loss", F.mean(F.silu(F.linear(x, gate)) * F.linear(x, up)))
    for name, d in zip(("dx", "dgate", "dup"), grt.grad(loss, [x, gate, up]), strict=True):
        g.output(name, d)
    check(g, feeds, target, 4 * N)


def test_a_pair_is_an_op(target: str) -> None:
    g, rng = grt.Graph(), np.random.default_rng(0)
    x, a, b = g.input("x", (3, 4)), g.input("a", (4, 5)), g.input("b", (4, 5))
    y, z = apply("matmul_pair", x, a, b).node.outputs
    g.output("h", y * z)
    check(g, {v.name: rng.standard_normal(v.shape).astype(np.float32) for v in (x, a, b)}, target, 8)
    with pytest.raises(grt.errors.ShapeError, match="two right operands of one type"):
        apply("matmul_pair", x, a, g.input("c", (4, 6)))


def times(saved: float) -> Times:
    """A pair saves so many seconds."""
    return Times(None, 0.0, 1e-7, pair=lambda *given: saved)


def pairs(g: grt.Graph, saved: float = 1e-6) -> tuple[int, list[Decision]]:
    decisions: list[Decision] = []
    found = pair_products(simplify(g), times(saved), decisions)
    found.verify()
    return sum(n.op.name == "matmul_pair" for n in found.nodes), decisions


def test_what_is_paired_and_why() -> None:
    g, _ = meetings()
    count, decisions = pairs(g)
    assert count == 3 and all(d.taken and "predicted to save 1.0 us" in d.reason for d in decisions)
    count, decisions = pairs(g, -1e-6)
    assert count == 0 and all(d.change and "predicted to lose 1.0 us" in d.reason for d in decisions) and len(decisions) == 3
    assert pairs(g, 0.45e-7)[0] == 0 and pairs(g, 0.55e-7)[0] == 3  # half a launch is what times are exact to
    policy = PassPolicy(splits=lambda node: 0, times=times(1e-6))
    for fusion, count in (("all", 3), ("-siblings", 0)):
        made = run_passes(g, policy, {}, Fusion.parse(fusion))[0][-1][1]
        assert sum(n.op.name == "matmul_pair" for n in made.nodes) == count


def test_what_does_not_meet_stays_apart() -> None:
    """Results that no op reads together, element by element; and a product whose weight is made of the other's result."""
    g = grt.Graph()
    x, (a, b, c) = g.input("x", (N, K)), weights(g, 3)
    y, z = F.linear(x, a), F.linear(x, b)
    g.output("apart", F.relu(y))
    g.output("turned", F.transpose(y, 0, 1) * z)
    g.output("sums", F.sum(y, 1) * F.sum(z, 1))
    g.output("other", F.linear(x + 1.0, c) * z)
    made = F.linear(x, F.reshape(F.sum(z, 1), (N, 1)) * a)
    g.output("made", made * z)
    assert pairs(g) == (0, [])
    both = F.linear(x, c) * z  # z and c's, not y and c's
    g.output("both", both)
    count, (decision,) = pairs(g)
    assert count == 1 and {decision.node, decision.other.split()[0]} <= {n.name for n in g.nodes}


@pytest.mark.skipif(INTERPRETED, reason="compiles kernels, so it cannot run under TRITON_INTERPRET=1")
def test_the_compiler_keeps_both_sums_in_registers() -> None:
    """Where launches count; products so large that a wider tile is better stay apart."""
    pytest.importorskip("triton", reason="needs the triton package, which exists for Linux only")

    def swiglu(rows: int, size: int, hidden: int) -> grt.Program:
        g = grt.Graph()
        x = g.input("x", (rows, size), "bfloat16")
        gate, up = (g.parameter(name, shape=(hidden, size), dtype="bfloat16") for name in ("gate", "up"))
        g.output("h", F.silu(F.linear(x, gate)) * F.linear(x, up))
        return grt.compile(g, target="cuda:sm_90")

    (report,) = swiglu(256, 256, 384).kernels()
    assert report.spills == 0 and "HGMMA" in report.instructions and report.bytes == 2 * (256 * (256 + 384) + 2 * 384 * 256)
    large = swiglu(8192, 2048, 5632)
    assert large.launches == 2
    (decision,) = [d for d in large.decisions if d.other.endswith("(pair)")]
    assert not decision.taken and "predicted to lose" in decision.reason


@pytest.mark.skipif(INTERPRETED, reason="about the target cpu, which takes pairs apart")
def test_what_nobody_reads_of_a_pair_is_no_kernel() -> None:
    g, rng = grt.Graph(), np.random.default_rng(0)
    x, a, b = g.input("x", (5, 7)), g.input("a", (7, 3)), g.input("b", (7, 3))
    g.output("y", apply("matmul_pair", x, a, b).node.outputs[1])
    feeds = {name: rng.standard_normal(v.types[0].shape).astype(np.float32) for name, v in g.sources.items()}
    program = grt.compile(g, target="cpu")
    assert program.launches == 1
    np.testing.assert_allclose(program(**feeds)["y"], feeds["x"] @ feeds["b"], rtol=1e-5)

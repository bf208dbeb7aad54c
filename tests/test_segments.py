"""Sums over pixels: from sums of segments, in the epilogue of the convolution that computes the pixels."""

from __future__ import annotations

import os

import numpy as np
import pytest
from conftest import check

import graphrt as grt
from graphrt import ops as F
from graphrt.compiler import lower_graph
from graphrt.passes.partial import Segments, partial_sums
from graphrt.passes.simplify import simplify
from graphrt.targets.reference.evaluate import evaluate
from graphrt.targets.target import parse

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
GPU = "interpret" if INTERPRETED else "cuda:sm_90"


def _net(
    batch: int, size: int, channels: int, stride: int = 1, half: str | None = None, blocks: int = 2, down: int = 1
) -> grt.Graph:
    """Residual blocks of convolution, batch norm and ReLU behind a strided convolution, with gradients."""
    rng = np.random.default_rng(0)
    g = grt.Graph()
    x = g.input("x", (batch, 3, size, size))

    def conv_bn(h: grt.Value, name: str, k: int, r: int, stride: int = 1) -> grt.Value:
        w = g.parameter(
            f"{name}.w", rng.standard_normal((k, h.shape[1], r, r)).astype(np.float32) / (h.shape[1] * r * r) ** 0.5
        )
        gamma, beta = (g.parameter(f"{name}.{n}", np.full(k, v, np.float32)) for n, v in (("gamma", 1.2), ("beta", 0.1)))
        mean, var = (
            g.parameter(f"{name}.{n}", np.full(k, v, np.float32), trainable=False) for n, v in (("mean", 0), ("var", 1))
        )
        return F.batch_norm(F.conv2d(h, w, stride=stride, padding=r // 2), mean, var, gamma, beta, training=True)

    with g.autocast(half or "bfloat16", enabled=half is not None):
        h = F.relu(conv_bn(x, "stem", channels, 3, stride))
        for i in range(blocks):
            a = F.relu(conv_bn(h, f"block{i}.a", channels // 2, 1))
            h = F.relu(conv_bn(a, f"block{i}.b", channels, 3, down) + h[:, :, ::down, ::down])
        loss = g.output("loss", F.mean(F.cast(h * h, "float32")))
    params = g.parameters()
    for p, d in zip(params, grt.grad(loss, params), strict=True):
        g.output(f"d {p.name}", d)
    return g


@pytest.mark.parametrize("shape", [(2, 8, 8), (2, 16, 4), (3, 8, 20), (1, 7, 6)])
def test_values_do_not_change(shape: tuple[int, int, int], rng: np.random.Generator) -> None:
    """The pass against the graph it is given, evaluated by the reference."""
    graph = simplify(_net(*shape, blocks=1))
    cut = partial_sums(
        graph, lambda node, producer: Segments(4) if node.inputs[0].type.size // node.types[0].size % 4 == 0 else None
    )
    cut.verify()
    assert (cut is graph) == (shape == (1, 7, 6)), "49 pixels have no segments of 4"
    feeds = {**graph.initial, "x": rng.standard_normal(graph.sources["x"].types[0].shape).astype(np.float32)}
    before, after = evaluate(graph, feeds), evaluate(cut, feeds)
    for name, v in graph.outputs.items():
        np.testing.assert_allclose(after[cut.outputs[name]], before[v], rtol=1e-9, atol=1e-12, err_msg=name)
    for name, v in graph.updates.items():
        np.testing.assert_allclose(after[cut.updates[name]], before[v], rtol=1e-9, atol=1e-12, err_msg=name)


def test_variance_of_large_means(target: str, rng: np.random.Generator) -> None:
    """Sums of squares would lose every digit: 1e6 beside a deviation of 1."""
    g = grt.Graph()
    x = g.input("x", (4, 3, 16, 16))
    mean, var = g.parameter("mean", np.zeros(3, np.float32), trainable=False), g.parameter("var", np.ones(3, np.float32))
    g.output("y", F.batch_norm(x, mean, var, training=True))
    offset = np.array([1e4, -1e4, 0.0])[:, None, None]
    feeds = (rng.standard_normal((4, 3, 16, 16)) + offset).astype(np.float32)
    program = grt.compile(g, target=target)
    program(x=feeds)
    np.testing.assert_allclose(program.state["var"], 0.9 + 0.1 * feeds.var((0, 2, 3), ddof=1, dtype=np.float64), rtol=1e-3)


@pytest.mark.parametrize(
    ("batch", "size", "channels", "stride", "half"),
    [(4, 16, 20, 1, None), (4, 16, 16, 2, "float16"), (2, 8, 6, 1, None), (4, 12, 3, 1, None)],
)
def test_training_step(batch: int, size: int, channels: int, stride: int, half: str | None, target: str) -> None:
    g = _net(batch, size, channels, stride, half, blocks=1)
    x = np.random.default_rng(1).standard_normal((batch, 3, size, size)).astype(np.float32)
    if half is None:
        check(g, {"x": x}, target, length=4000)
        return
    program, expected = grt.compile(g, target=target), evaluate(g, {**g.initial, "x": x})
    for name, got in program(x=x).items():
        want = expected[g.outputs[name]]
        np.testing.assert_allclose(got, want, atol=0.03 * max(np.abs(want).max(), 0.1), err_msg=name)


def test_statistics_are_epilogues() -> None:
    """Every sum over pixels of the network is made where the pixels are, forward and backward."""
    graph = _net(16, 16, 32)
    program = grt.compile(graph, target="cuda:sm_90" if not INTERPRETED else "interpret")
    assert program.schedule is not None
    pixels = 16 * 16 * 16
    alone = [
        n
        for group in program.schedule.groups()
        for n in group.nodes
        if n.op.name == "reduce" and n.inputs[0].type.size >= pixels and n.types[0].ndim == 2 and group.kind != "template"
    ]
    assert len(alone) == 2, f"only the gradient of the last norm comes from no convolution: {alone}"
    assert len([g for g in program.schedule.groups() if g.segments]) == 9


@pytest.mark.parametrize(("size", "down"), [(16, 2), (12, 3)])
def test_strided_gradients_sum_by_phases(size: int, down: int, target: str) -> None:
    """A tile of a strided gradient has every second pixel, or third, and its segments are of those."""
    g = _net(4, size, 8, blocks=2, down=down)
    check(g, {"x": np.random.default_rng(1).standard_normal((4, 3, size, size)).astype(np.float32)}, target, length=4000)
    graph = _net(16, 4 * size, 32, down=down)
    program = grt.compile(graph, target=GPU)
    assert program.schedule is not None
    strided = [g for g in program.schedule.groups() if g.anchor is not None and g.anchor.attrs.get("stride") == (down, down)]
    assert {g.anchor.op.name for g in strided if g.segments and g.anchor is not None} == {"conv", "conv_dgrad"}


def test_cpu_keeps_whole_sums() -> None:
    assert parse("cpu").passes().segments(next(n for n in _net(4, 16, 8).nodes if n.op.name == "reduce"), None) is None


def test_a_sum_of_a_gradient_behind_a_dear_activation_reads_what_the_products_read() -> None:
    """No copy of the gradient is made for the bias, which would have the exponential stored beside it for the copy."""
    g = grt.Graph()
    x, w, b = g.input("x", (8192, 64)), g.parameter("w", shape=(128, 64)), g.parameter("b", shape=(128,))
    y = F.gelu(F.linear(x, w, b))
    for name, gradient in zip("xwb", grt.grad(y, [x, w, b], g.input("dy", y.shape)), strict=True):
        g.output(f"d {name}", gradient)
    g.output("y", y)
    schedule = lower_graph(g, parse(GPU), {}).schedule
    assert schedule is not None
    stored = [v.name for group in schedule.groups() for v in group.outputs if v.shape == y.shape]
    assert len(stored) == 2, stored  # the result, and the gradient of what the activation reads


@pytest.mark.parametrize("target, stored", [(GPU, False), ("cpu", True)])
def test_a_gpu_computes_what_is_dear_again_where_no_template_does(target: str, stored: bool) -> None:
    """An exponential is less than its bytes there; a cpu computes for as long as it moves them."""
    g = grt.Graph()
    x = g.input("x", (512, 256))
    y = F.exp(x)
    g.output("rows", F.sum(y, 1))
    g.output("columns", F.amax(y, 0))
    schedule = lower_graph(g, parse(target), {}).schedule
    assert schedule is not None and any(v.shape == y.shape for group in schedule.groups() for v in group.outputs) is stored


def test_sums_of_rows_that_a_program_holds_are_not_split() -> None:
    """There are as many programs as rows; a sum of columns, with a program for some of them side by side, is split."""
    g = grt.Graph()
    x = g.input("x", (8192, 2048))
    g.output("rows", F.sum(x * x, 1))
    assert len(lower_graph(g, parse(GPU), {}).kernels) == 1
    g = grt.Graph()
    g.output("columns", F.sum(g.input("x", (2048, 64)), 0))
    assert len(lower_graph(g, parse(GPU), {}).kernels) == 2

"""Norms of halves as fused multiply-adds, which GPUs compute on load: what is rewritten, and that values do not change."""

from __future__ import annotations

from collections import Counter

import hypothesis.strategies as st
import numpy as np
import pytest
from conftest import INTERPRETED, check
from hypothesis import given
from test_segments import _net

import graphrt as grt
from graphrt import ops as F
from graphrt.passes.patterns.combinations import fuse_combinations
from graphrt.passes.simplify import simplify
from graphrt.targets.reference.evaluate import evaluate

GPU = "interpret" if INTERPRETED else "cuda:sm_90"
SHAPE = (4, 3, 5, 5)


def _counts(graph: grt.Graph) -> Counter[str]:
    """The operations on whole maps."""
    return Counter(n.op.name for n in graph.nodes if n.types[0].size == np.prod(SHAPE) and n.op.name != "broadcast")


def _half(g: grt.Graph, name: str, shape: tuple[int, ...] = SHAPE) -> grt.Value:
    return F.cast(g.input(name, shape, "bfloat16"), "float32")


def _vectors(g: grt.Graph, *names: str) -> list[grt.Value]:
    return [F.reshape(g.input(name, (3,)), (1, 3, 1, 1)) for name in names]


@pytest.mark.skipif(INTERPRETED, reason="about the pass alone")
def test_what_is_rewritten() -> None:
    """A norm and its gradient take an operation for each half; nothing does of which a part is no half, or no vector."""
    g = grt.Graph()
    x, dy, other = _half(g, "x"), _half(g, "dy"), g.input("other", SHAPE)
    m, s, b, k = _vectors(g, "m", "s", "b", "k")
    centred = x - m
    g.output("y", centred * s + b)
    g.output("dx", dy * s + centred * k + centred * k - b)
    found = _counts(fuse_combinations(simplify(g)))
    assert found["fma"] == 3 and not {"mul", "sub", "neg"} & {*found}, found
    g = grt.Graph()
    x, other = _half(g, "x"), g.input("other", SHAPE)
    m, s, b = _vectors(g, "m", "s", "b")
    rows = F.mean(x, (1,), keepdim=True)
    for i, v in enumerate([(other - m) * s + b, other * s + (x - m) * s + b, (x - rows) * s + b, x - m, x * s, x * other + b]):
        g.output(f"y{i}", v)
    g = simplify(g)
    assert fuse_combinations(g) is g


@st.composite
def combinations(draw: st.DrawFn) -> grt.Graph:
    """A tree of sums, differences and products with vectors, of halves and vectors."""
    g = grt.Graph()
    halves, vectors = [_half(g, "x"), _half(g, "y")], _vectors(g, "a", "b", "c")

    def tree(depth: int) -> grt.Value:
        kind = draw(st.sampled_from(["half", "vector", "add", "sub", "mul", "neg"] if depth else ["half"]))
        if kind == "half":
            return draw(st.sampled_from(halves))
        if kind == "vector":
            return F.broadcast_to(draw(st.sampled_from(vectors)), SHAPE)
        if kind == "neg":
            return -tree(depth - 1)
        if kind == "mul":
            return tree(depth - 1) * draw(st.sampled_from([*vectors, 0.5]))
        a, b = tree(depth - 1), tree(depth - 1)
        return a + b if kind == "add" else a - b

    g.output("v", tree(4) + halves[0] * vectors[0])
    return g


@pytest.mark.skipif(INTERPRETED, reason="about the pass alone")
@given(combinations(), st.integers(0, 2**32 - 1))
def test_values_do_not_change(graph: grt.Graph, seed: int) -> None:
    """In double, beside the graph that was written."""
    rng = np.random.default_rng(seed)
    feeds = {n: rng.standard_normal(s.types[0].shape).astype(s.types[0].dtype.numpy) for n, s in graph.sources.items()}
    fused = fuse_combinations(graph)
    fused.verify()
    before, after = (evaluate(g, feeds)[g.outputs["v"]] for g in (graph, fused))
    np.testing.assert_allclose(after, before, rtol=1e-9, atol=1e-9)
    assert sum(_counts(fused).values()) <= sum(_counts(graph).values())


@pytest.mark.parametrize("half", ["bfloat16", "float16"])
def test_a_norm_between_convolutions(half: str, target: str, rng: np.random.Generator) -> None:
    """Batch norm and ReLU with their gradients, of a map whose mean is many times its deviation, before the products."""
    g = grt.Graph()
    x, dz = g.input("x", (2, 16, 8, 8), half), g.input("dz", (2, 16, 8, 8), half)
    w, gamma, beta = g.input("w", (16, 16, 1, 1), half), g.input("gamma", (16,)), g.input("beta", (16,))
    with g.autocast(half):
        z = g.output("z", F.conv2d(F.relu(F.batch_norm(x, None, None, gamma, beta, training=True)), w))
        dx, dw = grt.grad(F.sum(F.cast(z, "float32") * F.cast(dz, "float32")), [x, w])
        g.output("dx", F.cast(F.conv2d(dx, w), half))
        g.output("dw", F.cast(dw, half))
    program = grt.compile(g, target=target)
    fused = sum(n.op.name == "fma" for n in program.graph.nodes)
    assert fused == (0 if target == "cpu" else 3)
    feeds = {name: rng.standard_normal(n.types[0].shape).astype(n.types[0].dtype.numpy) for name, n in g.sources.items()}
    feeds["x"] = (feeds["x"].astype(np.float32) + 8).astype(feeds["x"].dtype)
    check(g, feeds, target, 16)


@pytest.mark.parametrize("half", ["bfloat16", "float16"])
def test_a_prologue_rounds_as_the_graph_says(half: str, target: str, rng: np.random.Generator) -> None:
    """What is computed on load is, bit for bit, what a kernel of its own stores: zeros of both signs, and what rounds to 0."""
    g = grt.Graph()
    x, scale = g.input("x", (1, 16, 8, 8), half), g.input("scale", (16,))
    y = F.relu(F.cast(F.cast(x, "float32") * F.reshape(scale, (1, 16, 1, 1)), half))
    eye = F.cast(g.input("eye", (16, 16, 1, 1)), half)
    g.output("z", F.conv2d(y, eye))
    small = 2.0**-24 if half == "float16" else 2.0**-100  # Triton's interpreter has no subnormal bfloat16
    values = rng.standard_normal((1, 16, 8, 8)).astype(np.float32)
    values[0, :, 0, :4] = [0.0, -0.0, small, -small]
    feeds = {
        "x": values.astype(x.dtype.numpy),
        "scale": rng.standard_normal(16).astype(np.float32),
        "eye": np.eye(16, dtype=np.float32).reshape(16, 16, 1, 1),
    }
    on_load, stored = (grt.compile(g, target=target, fusion=fusion)(feeds)["z"] for fusion in ("all", "none"))
    np.testing.assert_array_equal(on_load.view(np.uint16), stored.view(np.uint16))


@pytest.mark.skipif(INTERPRETED, reason="about generated code")
def test_a_prologue_masks_before_it_packs() -> None:
    """Two elements that are masked in float32 are packed by one conversion, and no rounded number is rounded again."""
    source = grt.compile(_net(4, 64, 64, half="bfloat16"), target="cuda:sm_90", fusion="-recompute").source()
    loaders = [text for text in source.split("@triton.jit") if "return" in text and "tl.maximum" in text]
    assert loaders and all("return cast(tl.where(mask, " in text and text.count("cast(") == 1 for text in loaders), loaders

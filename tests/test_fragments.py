"""Kernels as they are for GPUs whose products are stored as the matrix units leave them (AMD's), run by Triton's interpreter.

There a tile's rows lie as memory does: products may be computed transposed, weight gradients have output channels for columns,
and halves are stored with another axis in front.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from conftest import INTERPRETED, check

import graphrt as grt
from graphrt import ops as F

pytest.importorskip("triton", reason="needs the triton package, which exists for Linux only")

from graphrt.targets.triton import target

Build = Callable[[np.random.Generator], tuple[grt.Graph, dict[str, np.ndarray]]]
if INTERPRETED:
    pytestmark = [pytest.mark.interpret]
TARGET = "interpret" if INTERPRETED else "hip:gfx942"


@pytest.fixture(autouse=True)
def architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "NULL", "hip:gfx942")


def convolutions(rng: np.random.Generator) -> tuple[grt.Graph, dict[str, np.ndarray]]:
    """Halves, a prologue, groups, odd sizes; updates, which may be epilogues of weight gradients."""
    g = grt.Graph()
    x, t = g.input("x", (3, 6, 7, 9)), g.input("t", (3, 10, 7, 9))
    w = g.parameter("w", (0.3 * rng.standard_normal((10, 6, 3, 3))).astype("f"))
    v = g.parameter("v", (0.3 * rng.standard_normal((10, 5, 1, 1))).astype("f"))
    with g.autocast("float16"):
        y = F.conv2d(F.relu(F.conv2d(x, w, padding=1)), v, groups=2)
    loss = g.output("loss", F.mean(F.square(F.cast(y, "float32") - t)))
    for p, d in zip((w, v), grt.grad(loss, [w, v]), strict=True):
        g.update(p, p - 0.1 * d)
    return g, {n: rng.standard_normal(s).astype("f") for n, s in (("x", (3, 6, 7, 9)), ("t", (3, 10, 7, 9)))}


def products(rng: np.random.Generator) -> tuple[grt.Graph, dict[str, np.ndarray]]:
    """A product stored by columns, with a prologue on either side and a bias along its columns, and a batch of them."""
    g = grt.Graph()
    a, b, c = g.input("a", (37, 20)), g.input("b", (20, 50)), g.input("c", (50,))
    g.output("turned", F.transpose(F.matmul(F.relu(a), F.tanh(b)) + c, 0, 1))
    g.output("half", F.cast(F.matmul(F.cast(a, "float16"), F.cast(b, "float16")), "float16"))
    p, q = g.input("p", (2, 9, 17)), g.input("q", (2, 17, 33))
    g.output("batch", F.transpose(F.matmul(p, q), 1, 2) * 2.0)
    shapes = {"a": (37, 20), "b": (20, 50), "c": (50,), "p": (2, 9, 17), "q": (2, 17, 33)}
    return g, {n: rng.standard_normal(s).astype("f") for n, s in shapes.items()}


@pytest.mark.parametrize("build", [convolutions, products])
def test_they_compute_the_same(build: Build, rng: np.random.Generator) -> None:
    graph, feeds = build(rng)
    source = grt.compile(graph, target=TARGET).source()
    assert "[None], mask=" in source, "halves are stored with another axis in front"
    if build is products:
        assert "_a(b, n, k, mask, ARGS)" in source and "_store(acc, b, n, m, mask, ARGS)" in source, source
    if INTERPRETED:
        check(graph, feeds, TARGET, 2000)

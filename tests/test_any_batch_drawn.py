"""Programs for any batch up to the largest, of drawn networks that fold the batch again and again, with their gradients."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from conftest import INTERPRETED, assert_close
from hypothesis import given, settings
from hypothesis import strategies as st

import graphrt as grt
from graphrt import Value
from graphrt import ops as F
from graphrt.passes.batch_rows import analyse
from graphrt.passes.open_batch import ROWS
from graphrt.passes.zero_rows import sources_of_zeros
from graphrt.targets.reference.evaluate import evaluate

MOST, WIDE = 7, 6
Step = Callable[[Value, Value, Value], Value]  # of values [n, WIDE], a weight [WIDE, WIDE] and classes [n]


def apart(h: Value) -> Value:
    """Examples in pairs of rows, which change places and come back."""
    n = h.shape[0]
    rows = F.softmax(F.reshape(F.permute(F.reshape(h, (n, 2, 3)), (1, 0, 2)), (2 * n, 3)), 1)
    return F.reshape(F.permute(F.reshape(rows, (2, n, 3)), (1, 0, 2)), (n, WIDE))


def attended(h: Value) -> Value:
    """The three pairs of an example attend to each other."""
    q = F.reshape(h, (h.shape[0], 1, 3, 2))
    return F.reshape(F.scaled_dot_product_attention(q, F.tanh(q), q), h.shape)


def filtered(h: Value, w: Value) -> Value:
    maps = F.reshape(h, (h.shape[0], 1, 2, 3))
    return F.reshape(F.conv2d(maps, F.reshape(w[:4, :1], (1, 1, 2, 2)), padding=((0, 1), (1, 0))), h.shape)


STEPS: dict[str, Step] = {
    "tanh": lambda h, w, t: F.tanh(h),
    "product": lambda h, w, t: F.matmul(h, w),
    "softmax": lambda h, w, t: F.softmax(h, 1),
    "layer norm": lambda h, w, t: F.layer_norm(h, (WIDE,)),
    "centred": lambda h, w, t: h - F.mean(h, 0, keepdim=True),
    "below the largest": lambda h, w, t: h - F.amax(h, 0, keepdim=True),
    "scaled": lambda h, w, t: h / (F.amax(F.abs(h)) + 1.0),
    "spread": lambda h, w, t: h / (F.mean(h * h, 0, keepdim=True) + 0.5),
    "correlations": lambda h, w, t: F.matmul(h, F.tanh(F.matmul(F.permute(h, (1, 0)), h))),
    "by class": lambda h, w, t: h + F.embedding(t, w),
    "of its class": lambda h, w, t: h * F.gather(h, 1, F.reshape(t, (-1, 1))),
    "where": lambda h, w, t: F.where(F.eq(F.reshape(t, (-1, 1)), 1), h, F.sigmoid(h)),
    "flipped": lambda h, w, t: F.flip(h, [1]) + F.cumsum(h, 1) * 0.1,
    "apart": lambda h, w, t: apart(h),
    "attended": lambda h, w, t: attended(h),
    "filtered": lambda h, w, t: filtered(h, w),
    "frequent": lambda h, w, t: h * F.cast(F.gather(F.bincount(t, minlength=4), 0, t), "float32")[:, None] * 0.1,
}
LOSSES: dict[str, Callable[[Value, Value], Value]] = {
    "squares": lambda h, t: F.mean(h * h),
    "classes": lambda h, t: F.cross_entropy(h, t, label_smoothing=0.1),
    "each": lambda h, t: F.sum(F.cross_entropy(h, t, reduction="none") * 0.3),
    "log": lambda h, t: F.logsumexp(h, (0, 1)),
    "largest": lambda h, t: F.sum(F.amax(h, 0)) + F.mean(F.amin(h, 1)),
}
networks = st.tuples(st.lists(st.sampled_from(list(STEPS)), min_size=2, max_size=7), st.sampled_from(list(LOSSES)))


def network(steps: list[str], loss: str, n: int) -> grt.Graph:
    g = grt.Graph()
    h, t = g.input("x", (n, WIDE)), g.input("t", (n,), "int64")
    rng = np.random.default_rng(0)
    for i, step in enumerate(steps):
        h = STEPS[step](h, g.parameter(f"w{i}", (rng.standard_normal((WIDE, WIDE)) * 0.4).astype(np.float32)), t)
        g.output(f"mean of {i}", F.mean(h))
    g.output("h", h)
    total = g.output("loss", LOSSES[loss](h, t))
    x, *weights = grt.grad(total, [g.sources["x"].outputs[0], *g.parameters()])
    g.output("dx", x)
    for p, d in zip(g.parameters(), weights, strict=True):
        g.update(p, p - 0.1 * d)
    return g


def differs_nowhere(drawn: tuple[list[str], str], seed: int, target: str) -> None:
    """A run of each batch, its spare rows NaN, beside the graph of that batch."""
    program = grt.compile(network(*drawn, MOST), target=target, batch=grt.up_to(MOST))
    rng = np.random.default_rng(seed)
    for rows in (1, int(rng.integers(2, MOST)), MOST):
        graph = network(*drawn, rows)
        feeds = {"x": rng.standard_normal((rows, WIDE)).astype(np.float32), "t": rng.integers(0, 4, rows)}
        expected = evaluate(graph, {**{name: program.state[name].copy() for name in program.state}, **feeds})
        spare = {"x": np.full((MOST, WIDE), np.nan, np.float32), "t": np.full(MOST, -(2**62))}
        for name, array in feeds.items():
            spare[name][:rows] = array
        outputs = program({ROWS: rows, **spare})
        for name, v in graph.outputs.items():
            assert_close(outputs[name], expected[v], 1024, f"{name} of {rows} rows", graph)
        for name, v in graph.updates.items():
            assert_close(program.state[name], expected[v], 1024, f"update of {name} of {rows} rows", graph)


@pytest.mark.skipif(INTERPRETED, reason="the reference only, the same in both lanes")
@given(networks, st.integers(0, 2**31))
@settings(max_examples=10)
def test_drawn_networks_on_the_reference(drawn: tuple[list[str], str], seed: int) -> None:
    differs_nowhere(drawn, seed, "reference")


@pytest.mark.skipif(
    INTERPRETED, reason="rewrites the same graph for every target; test_any_batch runs networks of its own there"
)
@pytest.mark.parametrize("loss", LOSSES)
@given(steps=st.lists(st.sampled_from(list(STEPS)), min_size=4, max_size=7), seed=st.integers(0, 2**31))
@settings(max_examples=1)
def test_drawn_networks(loss: str, steps: list[str], seed: int) -> None:
    differs_nowhere((steps, loss), seed, "cpu")


@pytest.mark.skipif(INTERPRETED, reason="the graph is the same in both lanes")
def test_the_gradients_of_all_layers_wait_for_the_same_mask() -> None:
    """Where the gradient meets the batch: rows of zeros stay so through products with weights and ReLU's condition."""
    g = grt.Graph()
    h, layers = g.input("x", (MOST, WIDE)), list[Value]()
    for i in range(4):
        h = F.relu(F.matmul(h, g.parameter(f"w{i}", np.eye(WIDE, dtype=np.float32))))
        layers.append(h)
    gradients = grt.grad(F.mean(h * h), layers[:-1])
    found = analyse(g, MOST, {"x": 0})
    first = sources_of_zeros(gradients[-1:], found)
    assert all(sources_of_zeros([d], found) == first for d in gradients)

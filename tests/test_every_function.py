"""Every public function that has a gradient, by ``calls.py``: gradients to the second order, halves, dtypes of constants."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from calls import CALLS
from conftest import INTERPRETED

import graphrt as grt
from graphrt import Value
from graphrt import ops as F
from graphrt.ops import FUNCTIONS
from graphrt.targets.reference.evaluate import evaluate
from graphrt.types import HALVES, DType, float64

STEP = 1e-5
NO_GRADIENT = {  # booleans, integers and steps
    *("all any argmax argmin argsort ceil eq floor floor_divide ge gt heaviside isclose isfinite isinf isnan le lt ne".split()),
    *("bitwise_and bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift bitwise_xor".split()),
    *("logical_and logical_not logical_or logical_xor matrix_rank nms one_hot round sign step stop_gradient trunc".split()),
    *("batched_nms bucketize full_like histc match_boxes ones_like searchsorted signbit zeros_like".split()),
}
DRAWN = {  # random numbers
    *("alpha_dropout bernoulli dropout dropout1d dropout2d dropout3d feature_alpha_dropout feature_dropout".split()),
    *("gumbel_softmax normal_like uniform_like".split()),
}
EXCHANGED = {  # between the processes of a mesh: test_collectives.py
    *("all_gather all_reduce all_to_all broadcast_from ppermute pvary reduce_scatter shard".split()),
}
LOOPS = {"gru", "lstm", "rnn_relu", "rnn_tanh", "scan"}  # of cells, which are tried, and of any step: test_loop.py
only_here = pytest.mark.skipif(INTERPRETED, reason="the reference target only, the same in both lanes")


def test_every_function_is_called() -> None:
    assert {c.name for c in CALLS.values()} | NO_GRADIENT | DRAWN | LOOPS | EXCHANGED == FUNCTIONS.keys()


def _weighted(values: list[Value], graph: grt.Graph, feeds: dict[str, Any], prefix: str) -> Value:
    """The sum of ``values`` times random numbers."""
    total = graph.constant(0.0, float64)
    for i, v in enumerate(values):
        feeds[f"{prefix}{i}"] = np.random.default_rng(i).standard_normal(v.shape)
        total = total + F.sum(v * graph.input(f"{prefix}{i}", v.shape, v.dtype))
    return total


@only_here
@pytest.mark.parametrize("name", CALLS)
def test_gradients_of_both_orders(name: str) -> None:
    """By central differences in float64 along a random direction; the graph of all that has no narrower float in it."""
    graph, feeds = grt.Graph(), dict[str, Any]()
    inputs, results = CALLS[name].values(graph, "x", float64.numpy, feeds)
    wrt = [v for v in inputs if v.dtype.is_float]
    loss = _weighted(results, graph, feeds, "of the result ")
    first = grt.grad(loss, wrt)
    slope = _weighted(first, graph, feeds, "of the gradient ")
    second = grt.grad(slope, wrt)
    narrow = [n.where() for n in graph.nodes if any(t.dtype.is_float and t.dtype is not float64 for t in n.types)]
    assert not narrow
    feeds = {**graph.initial, **feeds}
    table = evaluate(graph, feeds)
    for k, v in enumerate(wrt):
        direction = np.random.default_rng(9).standard_normal(v.shape)
        moved = [evaluate(graph, {**feeds, v.node.name: feeds[v.node.name] + s * STEP * direction}) for s in (1, -1)]
        for order, value, gradient in (("first", loss, first[k]), ("second", slope, second[k])):
            numeric = float(moved[0][value] - moved[1][value]) / (2 * STEP)
            scale = max(1.0, float(np.abs(table[gradient]).max(initial=0)))
            analytic = float((table[gradient] * direction).sum())
            assert analytic == pytest.approx(numeric, rel=1e-4, abs=1e-4 * scale), f"{order} with respect to {v.node.name}"


def _ulps(got: np.ndarray, exact: np.ndarray, dtype: DType) -> float:
    """The largest difference from ``exact`` rounded once; small elements count by a hundredth of the largest, or of 1."""
    want, got = exact.astype(dtype.numpy).astype(np.float64), got.astype(np.float64)
    assert np.array_equal(np.isfinite(want), np.isfinite(got)), f"{got} is not {want}"
    finite = np.isfinite(want)
    size = np.maximum(np.abs(want), 0.01 * np.abs(want[finite]).max(initial=1))
    return float((np.abs(got - want)[finite] / size[finite]).max(initial=0)) / float(ml_dtypes.finfo(dtype.numpy).eps)


ROUNDED_INSIDE = {  # made of products that are halves themselves, as torch's are
    *("conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d linear local_conv2d bilinear".split()),
    *("gru_cell lstm_cell rnn_tanh_cell rnn_relu_cell scaled_dot_product_attention".split()),
}


@only_here
@pytest.mark.parametrize("half", HALVES, ids=str)
def test_halves_are_rounded_once(half: DType) -> None:
    """Results are those of float64 rounded to the half, also of numbers that halves hardly hold.

    A gradient's formula may round a few times, as torch's, but sums nothing in the half.
    """
    for number, (name, call) in enumerate(CALLS.items()):
        if call.name in ROUNDED_INSIDE:
            continue
        graph, feeds = grt.Graph(), dict[str, Any]()
        inputs, results = call.values(graph, "x", half.numpy, feeds)
        scale = 1 if (number + HALVES.index(half)) % 2 else 100
        feeds = {k: (a * scale).astype(a.dtype) if a.dtype == half.numpy else a for k, a in feeds.items()}
        found = [(y, 1.01) for y in results]
        for i, y in enumerate(results):
            feeds[f"dy{i}"] = np.random.default_rng(i).standard_normal(y.shape).astype(y.dtype.numpy)
            dy = graph.input(f"dy{i}", y.shape, y.dtype)
            found += [(g, 8.0) for g in grt.grad(y, [v for v in inputs if v.dtype.is_float], dy)]
        with np.errstate(all="ignore"):
            got, exact = (evaluate(graph, {**graph.initial, **feeds}, p) for p in ("float32", "float64"))
            for v, allowed in found:
                assert v.dtype is half or call.name in ("bincount", "cast"), name
                assert v.dtype is not half or _ulps(got[v], exact[v], half) <= allowed, f"{name}, times {scale}"

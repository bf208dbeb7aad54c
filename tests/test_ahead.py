"""What an epilogue computes from its column alone is computed once a launch, on a cpu: the factors of norms in evaluation."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
from conftest import assert_close, examples
from hypothesis import given, settings

import graphrt as grt
from graphrt import ops as F

EPS = 1e-5


def norm(y: grt.Value, vectors: list[grt.Value]) -> grt.Value:
    """A norm with given statistics, of channels in dimension 1."""
    mean, variance, weight, bias = (F.reshape(v, (1, -1, *(1,) * (len(y.shape) - 2))) for v in vectors)
    return (y - mean) * F.rsqrt(variance + EPS) * weight + bias


def expected(y: np.ndarray, vectors: list[np.ndarray]) -> np.ndarray:
    mean, variance, weight, bias = (v.astype(np.float64).reshape(1, -1, *(1,) * (y.ndim - 2)) for v in vectors)
    return (y - mean) / np.sqrt(variance + EPS) * weight + bias


def convolved(x: np.ndarray, w: np.ndarray, groups: int) -> np.ndarray:
    """A convolution of stride 1 whose padding keeps the size, in float64."""
    n, c, height, width = x.shape
    k, each, r, _ = w.shape
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (r // 2,) * 2, (r // 2,) * 2))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (r, r), (2, 3))
    parts = zip(np.split(windows, groups, 1), np.split(w.astype(np.float64), groups, 0), strict=True)
    assert c == each * groups
    return np.concatenate([np.einsum("nchwrs,kcrs->nkhw", part, filters) for part, filters in parts], 1)


@given(st.data())
@settings(max_examples=examples(10, 10))
def test_norms_behind_convolutions(draw: st.DataObject) -> None:
    groups = draw.draw(st.sampled_from([1, 1, 2]))
    each, k = draw.draw(st.integers(1, 40)), groups * draw.draw(st.integers(1, 40))
    r, size, images = draw.draw(st.sampled_from([1, 3])), draw.draw(st.integers(1, 12)), draw.draw(st.integers(1, 4))
    freeze, relu = draw.draw(st.booleans()), draw.draw(st.booleans())
    rng = np.random.default_rng(draw.draw(st.integers(0, 99)))
    x = rng.standard_normal((images, each * groups, size, size)).astype(np.float32)
    w = rng.standard_normal((k, each, r, r)).astype(np.float32)
    vectors = [rng.uniform(0.5, 2, k).astype(np.float32) for _ in range(4)]
    graph = grt.Graph()
    names = ("mean", "variance", "weight", "bias")
    given = [graph.parameter(name, v) for name, v in zip(names, vectors, strict=True)]
    y = F.conv2d(graph.input("x", x.shape), graph.parameter("w", w), padding=r // 2, groups=groups)
    y = norm(y, given)
    graph.output("y", F.relu(y) if relu else y)
    want = expected(convolved(x, w, groups), vectors)
    program = grt.compile(graph, target="cpu", freeze=freeze)
    for _ in range(2):  # the second run finds its filter packed
        assert_close(np.asarray(program(x=x)["y"]), np.maximum(want, 0) if relu else want, each * r * r)


def test_a_norm_behind_a_large_convolution_is_one_launch_that_takes_one_root_a_channel() -> None:
    graph = grt.Graph()
    vectors = [graph.parameter(name, np.ones(64, np.float32)) for name in ("mean", "variance", "weight", "bias")]
    x, w = graph.input("x", (4, 64, 12, 12)), graph.parameter("w", shape=(64, 64, 3, 3))
    graph.output("y", norm(F.conv2d(x, w, padding=1), vectors))
    program = grt.compile(graph, target="cpu")
    store = program.source().split("_store(")[1].split("}")[0]
    assert program.launches == 1
    assert "sqrt" not in store and "ahead[" in store

"""How far Winograd's method is from the exact result, beside a plain float32 sum (cpu)."""

from __future__ import annotations

import numpy as np
import pytest

import graphrt as grt
from graphrt import ops as F


def errors(channels: int, winograd: bool, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Root-mean-square error over root-mean-square value, of the output and of both gradients."""
    monkeypatch.setenv("GRAPHRT_WINOGRAD", str(4 * winograd))
    rng = np.random.default_rng(0)
    x = np.maximum(rng.standard_normal((4, channels, 14, 14)), 0).astype(np.float32)
    w = (rng.standard_normal((channels, channels, 3, 3)) * (2 / (9 * channels)) ** 0.5).astype(np.float32)
    up = rng.standard_normal((4, channels, 14, 14)).astype(np.float32)

    def run(dtype: str) -> dict[str, np.ndarray]:
        graph = grt.Graph()
        data, filters, given = (graph.input(name, a.shape, dtype) for name, a in (("x", x), ("w", w), ("up", up)))
        y = F.conv2d(data, filters, None, padding=1)
        dx, dw = grt.grad(F.sum(y * given), [data, filters])
        for name, value in (("y", y), ("dx", dx), ("dw", dw)):
            graph.output(name, value)
        arrays = {name: a.astype(dtype) for name, a in (("x", x), ("w", w), ("up", up))}
        return {name: np.asarray(a, np.float64) for name, a in grt.compile(graph, target="cpu")(arrays).items()}

    exact = run("float64")
    return {name: np.sqrt(np.mean((a - exact[name]) ** 2) / np.mean(exact[name] ** 2)) for name, a in run("float32").items()}


@pytest.mark.parametrize("channels", [16, 96])
def test_errors_are_those_of_a_sum_within_a_small_factor(channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, fast = errors(channels, False, monkeypatch), errors(channels, True, monkeypatch)
    assert all(1e-8 < e < 1e-6 for e in plain.values()), plain
    assert plain != fast, "another method"
    for name, error in fast.items():
        assert error < 5 * plain[name], (name, error, plain[name])


def test_a_tile_of_two_keeps_infinities_where_they_are(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, 16, 12, 12)).astype(np.float32)
    x[0, 3, 5, 5], x[1, 2, 0, 8] = np.inf, np.nan
    w = rng.standard_normal((16, 16, 3, 3)).astype(np.float32)

    def finite(tile: int) -> np.ndarray:
        monkeypatch.setenv("GRAPHRT_WINOGRAD", str(tile))
        graph = grt.Graph()
        graph.output("y", F.conv2d(graph.input("x", x.shape), graph.input("w", w.shape), None, padding=1))
        return np.isfinite(grt.compile(graph, target="cpu")(x=x, w=w)["y"])

    plain, two, four = finite(0), finite(2), finite(4)
    np.testing.assert_array_equal(two, plain)
    assert not four[~plain].any() and four.mean() > 0.7, "the tiles around them, and no others"

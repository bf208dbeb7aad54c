"""How far Winograd's method is from the exact result, beside a plain float32 sum (cpu)."""

from __future__ import annotations

import numpy as np
import pytest

import graphrt as grt
from graphrt import ops as F


def errors(channels: int, winograd: bool, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Root-mean-square error over root-mean-square value, of the output and of both gradients."""
    monkeypatch.setenv("GRAPHRT_WINOGRAD", str(int(winograd)))
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

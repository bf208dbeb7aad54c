"""Sums of many terms: errors do not grow with their number, whatever it is, and of halves nothing but the result is a half."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from conftest import INTERPRETED, target_parameters

import graphrt as grt
from graphrt import ops as F
from graphrt.targets.reference.evaluate import evaluate
from graphrt.types import HALVES, DType

HALF_ULP = 2.0**-24  # of float32
SOME = ("mean", "var", "l1_loss", "mse_loss", "norm", "avg_pool2d")  # under the interpreter, whose maxima are slow
every_target = pytest.mark.parametrize("target", [*target_parameters(), *([] if INTERPRETED else ["reference"])])


def halves(graph: grt.Graph, dtype: DType, feeds: dict[str, Any]) -> None:
    """Functions whose sums, or numbers of terms, no float16 holds, and their gradients."""
    name = dtype.name
    calls = {
        "mean": (lambda x: F.mean(x), np.full((100, 100), 100.0)),
        "var": (lambda x: F.var(x, 1), 100.0 * np.where(np.arange(600).reshape(2, 300) % 2, 1.0, -1.0)),
        "std": (lambda x: F.std(x, 1), 100.0 * np.where(np.arange(600).reshape(2, 300) % 2, 1.0, -1.0)),
        "norm": (lambda x: F.norm(x, 2.0, 1), np.full((2, 3000), 8.0)),
        "l1_loss": (lambda x: F.l1_loss(x, x * 2.0), np.full((100, 90), 100.0)),
        "mse_loss": (lambda x: F.mse_loss(x, x * 0.5), np.full((100, 90), 200.0)),
        "softmax": (lambda x: F.softmax(x, 0), np.full(70000, 3.0)),
        "logsumexp": (lambda x: F.logsumexp(x, 0), np.full(70000, 3.0)),
        "amax": (lambda x: F.amax(x) * 1024.0, np.full(70000, 3.0)),
        "avg_pool2d": (lambda x: F.avg_pool2d(x, 12), np.full((1, 2, 12, 12), 600.0)),
        "lp_pool2d": (lambda x: F.lp_pool2d(x, 2.0, 12), np.full((1, 1, 12, 12), 600.0)),
        "layer_norm": (lambda x: F.layer_norm(x, 300), 300.0 * np.sin(np.arange(600.0)).reshape(2, 300)),
        "batch_norm": (lambda x: F.batch_norm(x, None, None, training=True), 300.0 * np.sin(np.arange(600.0)).reshape(200, 3)),
        "normalize": (lambda x: F.normalize(x), 100.0 * np.cos(np.arange(2000.0)).reshape(2, 1000)),
        "cosine_similarity": (
            lambda x: F.cosine_similarity(x, F.abs(x - 60.0)),
            50.0 + np.arange(2000.0).reshape(2, 1000) / 100,
        ),
        "cdist": (lambda x: F.cdist(x, x * 0.5), 100.0 + np.arange(2000.0).reshape(2, 1000) / 100),
        "scatter_reduce": (
            lambda x: F.scatter_reduce(F.zeros_like(x), 0, F.cast(F.zeros_like(x), "int64"), x, "mean"),
            np.full(700, 100.0),
        ),
    }
    for label, (f, x) in calls.items():
        if INTERPRETED and label not in SOME:
            continue
        feeds[f"{name} {label}"] = x.astype(dtype.numpy)
        value = graph.input(f"{name} {label}", x.shape, dtype)
        y = f(value)
        graph.output(f"{name} {label} y", y)
        feeds[f"{name} {label} dy"] = np.random.default_rng(0).uniform(0.5, 1.5, y.shape).astype(dtype.numpy)
        dy = graph.input(f"{name} {label} dy", y.shape, dtype)
        graph.output(f"{name} {label} dx", grt.grad(y, [value], dy)[0])


@every_target
def test_sums_of_halves_are_float32(target: str) -> None:
    graph, feeds = grt.Graph(), dict[str, Any]()
    for dtype in HALVES[: 1 if INTERPRETED else 2]:
        halves(graph, dtype, feeds)
    program = grt.compile(graph, target=target)
    outputs, exact = program(feeds), evaluate(graph, feeds)
    for name, v in graph.outputs.items():
        want, got = exact[v].astype(v.dtype.numpy).astype(np.float64), outputs[name].astype(np.float64)
        info, units = ml_dtypes.finfo(v.dtype.numpy), 1.01 if name.endswith(" y") else 3.0
        size = np.maximum(np.abs(want), np.abs(want).max() / 100) * float(info.eps) + float(info.smallest_subnormal)
        assert np.isfinite(got).all() and (np.abs(got - want) <= units * size).all(), name


@every_target
@pytest.mark.parametrize(
    "shape,dims",
    [((199999, 5), (0,)), ((5, 49999), (1,)), ((3, 19997, 7), (0, 1)), ((997, 5, 199), (0, 2)), ((99991,), (0,))],
)
def test_errors_do_not_grow_with_the_number_of_terms(shape: tuple[int, ...], dims: tuple[int, ...], target: str) -> None:
    """Sizes are primes, which nothing divides; what is summed lies apart, in rows, or is computed, or every second."""
    if target == "interpret":
        shape = tuple(min(n, 997) for n in shape)
    x = np.random.default_rng(0).uniform(0, 1, shape).astype(np.float32)
    graph = grt.Graph()
    value = graph.input("x", shape)
    half = value[tuple(slice(None, None, 2) if d == dims[0] else slice(None) for d in range(len(shape)))]
    graph.output("sum", F.sum(value, dims))
    graph.output("mean", F.mean(value * 3.0, dims))
    graph.output("var", F.var(value, dims))
    if target != "interpret":
        graph.output("logsumexp", F.logsumexp(value, dims))
    graph.output("every second", F.sum(half, dims))
    program = grt.compile(graph, target=target)
    outputs, exact = program(x=x), evaluate(graph, {"x": x})
    for name, v in graph.outputs.items():
        error = float(np.abs(outputs[name] / exact[v] - 1).max()) / HALF_ULP
        assert error <= 16, f"{name}: {error} half units in the last place"


@every_target
@pytest.mark.usefixtures("optimized")  # whose vectors add up several sums side by side
def test_long_products_and_pools(target: str) -> None:
    k, pool = (1999, (13, 11)) if target == "interpret" else (99991, (67, 61))
    rng = np.random.default_rng(0)
    feeds = {n: rng.uniform(0, 1, s).astype(np.float32) for n, s in {"a": (9, k), "b": (k, 17), "x": (1, 2, *pool)}.items()}
    graph = grt.Graph()
    a, b, x = (graph.input(n, v.shape) for n, v in feeds.items())
    graph.output("matmul", F.matmul(a, b))
    graph.output("few rows", F.matmul(a[:2], b))
    graph.output("pool", F.avg_pool2d(x, pool))
    graph.output("global", F.global_avg_pool(x))
    program = grt.compile(graph, target=target)
    outputs, exact = program(feeds), evaluate(graph, feeds)
    for name, v in graph.outputs.items():
        error = float(np.abs(outputs[name] / exact[v] - 1).max()) / HALF_ULP
        assert error <= 2 * math.log2(k), f"{name}: {error} half units in the last place"


@pytest.mark.skipif(not INTERPRETED, reason="runs kernels of small tiles under TRITON_INTERPRET=1")
@pytest.mark.interpret
def test_long_rows_on_small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU's tiles are small, and long rows are blocks of them; the interpreter's own would hold a whole row."""
    from graphrt.targets.triton.emit import generated, tiling

    monkeypatch.setattr(tiling, "_TILE", {False: 128, True: 128})  # with GRAPHRT_GUARD the interpreter takes a GPU's
    monkeypatch.setattr(generated, "STEPS", 4)
    x = np.random.default_rng(0).uniform(0.5, 1.5, (599, 3)).astype(np.float32)
    graph = grt.Graph()
    value = graph.input("x", x.shape)
    for name, y in {"sum": F.sum(value, 0), "var": F.var(value, 0), "amax": F.amax(value, 0), "amin": F.amin(value, 0)}.items():
        graph.output(name, y)
    graph.output("prod", F.prod(F.cast(value > 1.4, "float32") * 1e-3 + 1.0, 0))
    graph.output("count", F.sum(F.cast(value > 1.0, "int64"), 0))
    program = grt.compile(graph, target="interpret")
    assert "for block in range(" in program.source()
    outputs, exact = program(x=x), evaluate(graph, {"x": x})
    for name, v in graph.outputs.items():
        np.testing.assert_allclose(outputs[name], exact[v], 1e-4 if name == "prod" else 1e-6, err_msg=name)

"""An expression is the same number wherever it is computed: products are rounded before they are added, on every target.

Fusion computes values again where they are read, and gradients compare such values with what the forward pass found. The
templates' own sums are fused, because their source says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import INTERPRETED

import graphrt as grt
from graphrt import ops as F
from graphrt.targets.cpu.build import FLAGS, processor
from graphrt.types import as_dtype


def run(target: str, feeds: dict[str, np.ndarray], build: Callable[..., dict[str, grt.Value]]) -> dict[str, Any]:
    graph = grt.Graph()
    for name, v in build(*(graph.input(n, a.shape, as_dtype(str(a.dtype))) for n, a in feeds.items())).items():
        graph.output(name, v)
    return grt.compile(graph, target=target)(feeds)


def test_products_are_rounded_before_they_are_added(target: str, rng: np.random.Generator) -> None:
    """In a kernel of its own, of rows, of columns, and behind a product of matrices: the same bits as NumPy's."""
    assert "-ffp-contract=off" in FLAGS
    x, a, b = (rng.standard_normal((24, 40)).astype(np.float32) for _ in range(3))
    feeds = {"x": x, "a": a, "b": b, "one": np.eye(40, dtype=np.float32)}

    def build(x: grt.Value, a: grt.Value, b: grt.Value, one: grt.Value) -> dict[str, grt.Value]:
        y = x * a + b
        rows = {"rows": y - F.amax(y, 1, keepdim=True), "columns": y - F.amax(y, 0, keepdim=True)}
        return {"alone": y * a - b, **rows, "behind": (x @ one) * a + b, "before": y @ one}

    y = x * a + b
    expected = {"alone": y * a - b, "rows": y - y.max(1, keepdims=True), "columns": y - y.max(0, keepdims=True)}
    expected |= {"behind": y, "before": y}
    for name in expected:
        found = run(target, feeds, lambda *v, name=name: {name: build(*v)[name]})
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def test_gradients_find_the_extremes_that_they_compare_with(target: str, rng: np.random.Generator) -> None:
    """They compute the operand again: every row's share goes somewhere. Sorting compares what it loads more than once."""
    length = 12 if INTERPRETED else 300
    feeds = {name: rng.standard_normal((8, length)).astype(np.float32) for name in "xab"}
    feeds["at"] = rng.integers(0, 4, (8, length))

    def build(x: grt.Value, a: grt.Value, b: grt.Value, at: grt.Value) -> dict[str, grt.Value]:
        y = x * a + b
        best = F.scatter_reduce(F.zeros(x.graph, (8, 4)) - 100.0, 1, at, y, "amax")
        of = {"amax": F.amax(y, 1), "amin": F.amin(y * 1.7 + b, 1), "cummax": F.cummax(y, 1)[0], "scatter": best}
        pool = F.max_pool2d(F.reshape(y, (8, 1, 1, length)), (1, 2))
        found = {n: F.sum(grt.grad(F.sum(v), [b])[0], 1) for n, v in {**of, "pool": pool}.items()}
        return {**found, "order": F.sort(y, 1)[1]}

    found = run(target, feeds, build)
    met = np.array([len(set(row)) for row in feeds["at"].tolist()])
    expected = {"amax": 1, "amin": 2.7, "cummax": length, "scatter": met, "pool": length // 2}
    for name, share in expected.items():
        np.testing.assert_allclose(found[name], np.broadcast_to(share, 8), rtol=1e-6, err_msg=name)
    np.testing.assert_array_equal(np.sort(found["order"], 1), np.broadcast_to(np.arange(length), (8, length)))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_halves_are_compared_as_they_are_stored(dtype: str, target: str, rng: np.random.Generator) -> None:
    """Though they are computed in float32, and what is compared may be computed again: here behind a row too long to keep."""
    length = 40 if INTERPRETED else 40_000
    x = rng.standard_normal((2, length)).astype(as_dtype(dtype).numpy)

    def build(x: grt.Value) -> dict[str, grt.Value]:
        y = x * 1.7 + 0.3
        most, at = F.max(y, 1, keepdim=True)
        dy = grt.grad(F.sum(F.amax(y, 1)), [y])[0]
        return {"share": F.sum(dy, 1), "same": F.eq(F.take_along_dim(y, at, 1), most), "kept": most}

    found = run(target, {"x": x}, build)
    np.testing.assert_allclose(found["share"].astype(np.float32), [1, 1], rtol=0.01)
    assert found["same"].all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_what_is_picked_among_halves_is_stored_as_it_is(dtype: str, target: str, rng: np.random.Generator) -> None:
    """Bit for bit, the largest, the smallest, infinities and zeros among them; NaN stays NaN."""
    half = as_dtype(dtype).numpy
    tiny = [] if INTERPRETED else [1e-40, -1e-40]  # which Triton's interpreter converts to zero
    edges = [np.nan, np.inf, -np.inf, 0.0, -0.0, *tiny, 6e-8, 38400.0, 1.00390625]
    x, y = (rng.permutation(np.r_[edges, rng.standard_normal(45)]).astype(np.float32).astype(half) for _ in range(2))
    given = {"x": x, "y": y, "u": x.astype(np.float32) * np.float32(1.7)}

    def build(x: grt.Value, y: grt.Value, u: grt.Value) -> dict[str, grt.Value]:
        rounded = F.cast(u, dtype)
        return {
            "relu": F.relu(x),
            "behind": F.relu(rounded),
            "picked": F.where(F.gt(x, 0.5), F.neg(y), F.abs(x)),
            "least": F.minimum(F.maximum(rounded, y), 2.0),
            "between": F.minimum(F.maximum(y, 0.1), x),  # 0.1 is no half
        }

    found, wide = run(target, given, build), {n: a.astype(np.float32) for n, a in given.items()}
    rounded, tenth = given["u"].astype(half).astype(np.float32), np.array(0.1, half).astype(np.float32)
    expected = {
        "relu": np.maximum(wide["x"], 0),
        "behind": np.maximum(rounded, 0),
        "picked": np.where(wide["x"] > 0.5, -wide["y"], abs(wide["x"])),
        "least": np.minimum(np.maximum(rounded, wide["y"]), 2),
        "between": np.minimum(np.maximum(wide["y"], tenth), wide["x"]),
    }
    for name, value in expected.items():
        assert found[name].dtype == half
        np.testing.assert_array_equal(found[name].astype(np.float32), value, err_msg=name)


def test_zeros_of_both_signs_are_two_constants(target: str) -> None:
    x = np.array([1.0, -1.0, 2.0], np.float32)
    found = run(
        target, {"x": x}, lambda x: {"y": 1.0 / F.where(F.gt(x, 0.0), 0.0, -0.0), "z": 1.0 / F.where(F.gt(x, 1.5), x, -0.0)}
    )
    np.testing.assert_array_equal(found["y"], [np.inf, -np.inf, np.inf])
    np.testing.assert_array_equal(found["z"], [-np.inf, -np.inf, 0.5])


@pytest.mark.skipif("fma" not in processor(), reason="needs a processor with fused multiply-add, which this machine's is not")
@pytest.mark.parametrize("rows", [1, 4, 64])
def test_templates_fuse_their_products(rows: int) -> None:
    """x * x less its rounded self is what was rounded off: nothing, had it been rounded."""
    x = np.float32(1 + 2.0**-12)
    a, b = np.zeros((rows, 2), np.float32), np.zeros((2, 40), np.float32)
    a[:], b[:] = (1, x), [[-(x * x)], [x]]
    image = np.broadcast_to(a[0], (rows, 3, 8, 2)).copy()
    filters = np.broadcast_to(b[:, 0], (20, 3, 1, 2)) / np.float32([1, 2**30, 2**30])[:, None, None]
    feeds = {"a": a, "b": b, "image": image, "many": filters.astype(np.float32), "own": filters[:3, :1].astype(np.float32)}

    def build(a: grt.Value, b: grt.Value, image: grt.Value, many: grt.Value, own: grt.Value) -> dict[str, grt.Value]:
        return {"matmul": a @ b, "conv": F.conv2d(image[:, :1], many[:, :1]), "depthwise": F.conv2d(image, own, groups=3)}

    for name, found in run("cpu", feeds, build).items():
        np.testing.assert_array_equal(found, np.full(found.shape, 2.0**-24, np.float32), err_msg=name)


@pytest.mark.aot
@pytest.mark.skipif(INTERPRETED, reason="compiles kernels, which cannot be under TRITON_INTERPRET=1")
@pytest.mark.parametrize("target", ["cuda:sm_90", "hip:gfx942"])
def test_compiled_kernels_fuse_nothing_unasked(target: str) -> None:
    from graphrt.targets.triton.compile.build import compile_kernel

    graph = grt.Graph()
    x, a, b = (graph.input(name, (64, 512)) for name in "xab")
    graph.output("y", x * a + b)
    made = grt.compile(graph, target=target)._executable._compilation
    (code,) = made.codes
    listing = compile_kernel(code, made.module, target).asm["ptx" if target.startswith("cuda") else "amdgcn"]
    assert re.search(r"\bmul(?:\.rn)?\.f32|v_pk_mul_f32|v_mul_f32", listing)
    assert not re.search(r"\bfma\.rn|v_(?:pk_)?(?:fma|fmac|mad|mac)_f32", listing)

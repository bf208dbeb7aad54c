"""argmax, argmin and the extremes along a dimension: value and position come from one pass, whatever they are taken of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from conftest import INTERPRETED

import graphrt as grt
from graphrt import ops as F
from graphrt.errors import ShapeError
from graphrt.types import as_dtype

DTYPES = ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64")
LONG = 520 if INTERPRETED else 2600  # more than a block of the cpu, or than what Triton keeps of a column


def compiled(target: str, feeds: dict[str, np.ndarray], build: Callable[..., dict[str, grt.Value]]) -> tuple[grt.Program, Any]:
    graph = grt.Graph()
    for name, v in build(*(graph.input(n, a.shape, as_dtype(str(a.dtype))) for n, a in feeds.items())).items():
        graph.output(name, v)
    program = grt.compile(graph, target=target)
    return program, program(feeds)


def both(x: grt.Value, dim: int) -> dict[str, grt.Value]:
    (most, at), (least, where) = F.max(x, dim), F.min(x, dim)
    return {"most": most, "at": at, "least": least, "where": where}


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_along_rows_and_columns(dtype: str, target: str, rng: np.random.Generator) -> None:
    """The first of equal elements; also of the smallest and largest numbers that there are."""
    kind = as_dtype(dtype)
    numbers = rng.integers(0, 2 if kind.is_bool else 7, (4, 18)) - (3 if dtype[0] in "ifb" and not kind.is_bool else 0)
    x = numbers.astype(kind.numpy)
    if kind.is_int:
        x[1], x[2] = np.iinfo(kind.numpy).min, np.iinfo(kind.numpy).max
    feeds = {"x": x}
    _, found = compiled(target, feeds, lambda v: {f"{n}{d}": y for d in (0, 1) for n, y in both(v, d).items()})
    for d in (0, 1):
        wide = x.astype(np.float64) if kind.is_float else x
        np.testing.assert_array_equal(found[f"at{d}"], wide.argmax(d))
        np.testing.assert_array_equal(found[f"where{d}"], wide.argmin(d))
        for name, expected in ((f"most{d}", x.max(d)), (f"least{d}", x.min(d))):
            assert found[name].dtype == x.dtype
            np.testing.assert_array_equal(found[name], expected)


@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_extremes_of_nothing_else(dtype: str, target: str) -> None:
    """The largest of the least numbers that there are is that number, and the reverse: a fold starts from as far out."""
    kind = as_dtype(dtype)
    ends = (np.iinfo(kind.numpy).min, np.iinfo(kind.numpy).max) if kind.is_int else (-np.inf, np.inf)
    g, feeds = grt.Graph(), {}
    for name, end, fold, scan in (("least", ends[0], F.amax, F.cummax), ("most", ends[1], F.amin, F.cummin)):
        x, feeds[name] = g.input(name, (3, 70), dtype), np.full((3, 70), end).astype(kind.numpy)
        for dims in (0, 1, (0, 1)):
            g.output(f"{name} {dims}", fold(x, dims))
        g.output(f"{name} so far", scan(x, 1)[0])
    for name, y in grt.compile(g, target=target)(feeds).items():
        assert (np.asarray(y) == feeds[name.split()[0]][0, 0]).all(), name


@pytest.mark.parametrize("length", [1, 3, 33])
def test_nan_infinities_and_ties(length: int, target: str, rng: np.random.Generator) -> None:
    """NaN is both the largest and the smallest, as torch has it; the first of several is found."""
    x = rng.standard_normal((7, length)).astype(np.float32)
    x[1], x[2], x[3, length // 2 :] = -np.inf, np.inf, np.nan
    x[4, -1], x[5], x[6, length // 3] = np.nan, 0.0, np.inf
    x[5, ::2] = -0.0
    feeds = {"x": x}
    _, rows = compiled(target, feeds, lambda v: both(v, 1))
    _, columns = compiled(target, {"x": np.ascontiguousarray(x.T)}, lambda v: both(v, 0))
    for found in (rows, columns):
        for value, at, of in (("most", "at", torch.max), ("least", "where", torch.min)):
            expected = of(torch.from_numpy(x), 1)
            np.testing.assert_array_equal(found[at], expected.indices.numpy())
            np.testing.assert_array_equal(found[value], expected.values.numpy())


def test_long_rows_and_columns(target: str, rng: np.random.Generator) -> None:
    """The first of equal extremes far apart, and a NaN behind them."""
    x = rng.standard_normal((2, LONG)).astype(np.float32)
    x[:, [7, LONG - 2]], x[:, [LONG // 2, LONG - 1]] = 9.0, -9.0
    x[1, LONG - 5] = np.nan
    made = [compiled(target, {"x": np.ascontiguousarray(x.T)}, lambda v: both(v, 0))]
    made += [] if INTERPRETED else [compiled(target, {"x": x}, lambda v: both(v, 1))]  # which takes the interpreter a minute
    for _, found in made:
        np.testing.assert_array_equal(found["at"], [7, LONG - 5])
        np.testing.assert_array_equal(found["where"], [LONG // 2, LONG - 5])
        np.testing.assert_array_equal(found["most"], [9.0, np.nan])


def test_of_what_is_computed_on_the_way(target: str, rng: np.random.Generator) -> None:
    """Positions are those of an element that has the extreme, though products may be rounded before they are added."""
    size = 4 if INTERPRETED else 16
    shape = (2, 3, 4, 12 if INTERPRETED else 40)
    x, k, k2, k3 = (rng.standard_normal(shape).astype(np.float32) for _ in range(4))
    image = rng.standard_normal((1, 3, size, size)).astype(np.float32)
    scores, b = (rng.standard_normal((4, 30)).astype(np.float32) for _ in range(2))
    feeds = {"x": x, "k": k, "k2": k2, "k3": k3, "image": image, "scores": scores, "b": b}

    def build(x: grt.Value, k: grt.Value, k2: grt.Value, k3: grt.Value, *rest: grt.Value) -> dict[str, grt.Value]:
        image, scores, b = rest
        up = F.interpolate(image, scale_factor=2, mode="bilinear")
        y = F.softmax(scores, 1) - b
        of = {"polynomial": (x * x * k + x * k2 + k3, 3), "up": (up, 1), "gated": (y * F.sigmoid(y), 1)}
        made = {f"{name} of": v for name, (v, _) in of.items()}
        return {**made, **{name: F.argmax(v, d) for name, (v, d) in of.items()}}

    _, found = compiled(target, feeds, build)
    _, alone = compiled(target, feeds, lambda *v: {n: y for n, y in build(*v).items() if not n.endswith(" of")})
    for name, d in (("polynomial", 3), ("up", 1), ("gated", 1)):
        np.testing.assert_array_equal(found[name], found[f"{name} of"].argmax(d), err_msg=name)
        np.testing.assert_array_equal(alone[name], found[name], err_msg=name)


def test_one_kernel_and_no_position_that_nobody_asks_for(target: str, rng: np.random.Generator) -> None:
    feeds = {"x": rng.standard_normal((6, 40)).astype(np.float32)}
    program, found = compiled(target, feeds, lambda x: {"y": F.max(F.tanh(x), 1)[0], "at": F.max(F.tanh(x), 1)[1]})
    assert program.launches == 1 and str(program.graph).count("tanh(") == 1
    np.testing.assert_array_equal(found["at"], feeds["x"].argmax(1))
    program, found = compiled(target, feeds, lambda x: {"y": F.max(x, 1)[0]})
    assert not any(word in program.source() for word in ("GRT_FIND", "= argmax("))
    np.testing.assert_array_equal(found["y"], feeds["x"].max(1))


def test_the_extreme_of_a_position(target: str) -> None:
    """A row of one element: its position is what the next reduction of the same kernel compares."""
    x = np.array([-1.5], np.float32)
    _, found = compiled(target, {"x": x}, lambda x: {"y": F.max(F.argmin(x, 0).reshape((1,)), 0)[1]})
    assert found["y"] == 0


def test_positions_that_are_gathered_from(target: str, rng: np.random.Generator) -> None:
    feeds = {"x": rng.standard_normal((6, 33)).astype(np.float32), "y": rng.standard_normal((6, 33)).astype(np.float32)}
    for dim in (0, 1):

        def build(x: grt.Value, y: grt.Value, dim: int = dim) -> dict[str, grt.Value]:
            return {"taken": F.take_along_dim(y, F.argmax(x * 2.0, dim, keepdim=True), dim)}

        expected = np.take_along_axis(feeds["y"], feeds["x"].argmax(dim, keepdims=True), dim)
        np.testing.assert_array_equal(compiled(target, feeds, build)[1]["taken"], expected)


def test_long_rows_are_split(rng: np.random.Generator) -> None:
    x = rng.standard_normal(1 << 16).astype(np.float32)
    x[[40_000, 50_000]], x[[60_001, 3]] = 9.0, -9.0
    program, found = compiled("cpu", {"x": x}, lambda x: {"most": F.argmax(x), "least": F.argmin(F.reshape(x, [2, -1]), 1)})
    assert str(program.graph).count("= extremum(") == 4
    assert found["most"] == 40_000
    np.testing.assert_array_equal(found["least"], x.reshape(2, -1).argmin(1))
    x[[777, 50_000]] = np.nan
    assert program(x=x)["most"] == 777


def test_gradient_goes_to_the_first(target: str, rng: np.random.Generator) -> None:
    x = rng.integers(0, 5, (6, 20)).astype(np.float32)
    weights = rng.standard_normal((6, 1)).astype(np.float32)

    def build(x: grt.Value, w: grt.Value) -> dict[str, grt.Value]:
        return {"dx": grt.grad(F.sum(F.max(x * w, 1, keepdim=True)[0] * w), [x])[0]}

    theirs = torch.from_numpy(x).requires_grad_()
    w = torch.from_numpy(weights)
    ((theirs * w).max(1, keepdim=True)[0] * w).sum().backward()
    found = compiled(target, {"x": x, "w": weights}, build)[1]["dx"]
    np.testing.assert_allclose(found, theirs.grad.numpy(), rtol=1e-6)


def test_nothing_has_no_extreme() -> None:
    x = grt.Graph().input("x", (3, 0))
    for find in (F.argmax, F.argmin, F.max, F.min):
        with pytest.raises(ShapeError, match="empty dimension"):
            find(x, 1)

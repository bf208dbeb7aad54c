"""grid_sample and affine_grid beside torch, forward and backward, in every mode."""

from __future__ import annotations

import itertools
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
import torch.nn.functional as T
from conftest import INTERPRETED, examples
from hypothesis import given, settings
from test_functional import Call, compare, data

import graphrt as grt
from graphrt import errors
from graphrt import ops as F

pytestmark = [pytest.mark.interpret] if INTERPRETED else []
PADDINGS = ("zeros", "border", "reflection")


def call(x: np.ndarray, grid: np.ndarray, *options: Any) -> Call:
    return (lambda x, g: F.grid_sample(x, g, *options)), (lambda x, g: T.grid_sample(x, g, *options)), [x, grid]


@pytest.mark.parametrize("padding", PADDINGS)
def test_grid_sample_in_every_mode(padding: str) -> None:
    """Coordinates well inside, far outside, and at the corners, of images and volumes."""
    grid = np.concatenate([data(2, 3, 2, 2) * 1.3, np.array([-1, -1, 1, 1, 0, 1, 3, -9], np.float32).reshape(2, 1, 2, 2)], 1)
    corners = np.array([1, 1, -1, -1, 0.3, 2.5], np.float32).reshape(1, 1, 1, 2, 3)
    volume = np.concatenate([data(1, 2, 1, 2, 3), corners], 1)
    calls = {}
    for mode, align in itertools.product(("bilinear", "nearest", "bicubic"), (False, True)):
        calls[f"{mode} {align}"] = call(data(2, 2, 4, 5), grid, mode, padding, align)
        if mode != "bicubic":
            calls[f"volume {mode} {align}"] = call(data(1, 2, 3, 4, 2), volume, mode, padding, align)
    compare(calls, 16)


@given(seed=st.integers(0, 10**6), align=st.booleans(), padding=st.sampled_from(PADDINGS), rank=st.integers(2, 3))
@settings(max_examples=examples(4, 2))
def test_grid_sample_of_any_size(seed: int, align: bool, padding: str, rank: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = [int(n) for n in rng.integers(1, 5, 2 + 2 * rank)]
    x, grid = data(*sizes[: 2 + rank], seed=seed), data(sizes[0], *sizes[2 + rank :], rank, seed=seed + 1)
    mode = ("bilinear", "nearest")[int(rng.integers(2))]
    compare({"drawn": call(x, grid, mode, padding, align)}, 16)


def test_affine_grid() -> None:
    calls: dict[str, Call] = {}
    for size, align in itertools.product(((2, 1, 3, 4), (2, 1, 1, 5), (1, 2, 3, 1, 2)), (False, True)):
        rank = len(size) - 2
        calls[f"{size} {align}"] = (
            lambda t, size=size, align=align: F.affine_grid(t, size, align),
            lambda t, size=size, align=align: T.affine_grid(t, list(size), align),
            [data(size[0], rank, rank + 1)],
        )
    calls["transformer"] = (
        lambda x, t: F.grid_sample(x, F.affine_grid(t, (2, 3, 6, 5), False), align_corners=False),
        lambda x, t: T.grid_sample(x, T.affine_grid(t, [2, 3, 6, 5], False), align_corners=False),
        [data(2, 3, 6, 5), data(2, 2, 3) * 0.3 + np.eye(2, 3, dtype=np.float32)],
    )
    compare(calls, 16)


def test_positions_that_are_no_numbers_read_zero() -> None:
    graph = grt.Graph()
    x, grid = graph.input("x", (1, 1, 2, 2)), graph.input("grid", (1, 1, 3, 2))
    graph.output("y", F.grid_sample(x, grid))
    places = np.array([[[[np.nan, 0.0], [np.inf, 0.0], [0.0, 1e30]]]], np.float32)
    target = "interpret" if INTERPRETED else "cpu"
    assert grt.compile(graph, target=target)(x=np.ones((1, 1, 2, 2), np.float32), grid=places)["y"].tolist() == [[[[0.0] * 3]]]


def _sampled(g: grt.Graph, x: tuple[int, ...], grid: tuple[int, ...], *options: Any) -> grt.Value:
    return F.grid_sample(g.input("x", x), g.input("grid", grid), *options)


def _affine(g: grt.Graph, theta: tuple[int, ...], size: Any) -> grt.Value:
    return F.affine_grid(g.input("t", theta), size)


WRONG: list[tuple[str, Any, str]] = [
    ("grid_sample", lambda g: _sampled(g, (1, 1, 2, 2), (1, 2, 2, 3)), r"input \[N, C, \*spatial\] and grid \[N, \*out, 2\]"),
    ("grid_sample", lambda g: _sampled(g, (1, 1, 2, 2), (2, 2, 2, 2)), "needs input"),
    ("grid_sample", lambda g: _sampled(g, (1, 1, 0, 2), (1, 2, 2, 2)), "needs pixels"),
    (
        "grid_sample",
        lambda g: _sampled(g, (1, 1, 2, 2), (1, 2, 2, 2), "cubic"),
        "mode must be one of bilinear, nearest, bicubic",
    ),
    ("grid_sample", lambda g: _sampled(g, (1, 1, 2, 2), (1, 2, 2, 2), "nearest", "wrap"), "padding_mode must be one of"),
    ("affine_grid", lambda g: _affine(g, (1, 2, 3), (2, 1, 3, 3)), r"needs theta \[N, 2, 3\]"),
    ("affine_grid", lambda g: _affine(g, (1, 2, 3), (1, 1, 0, 3)), "each of size must be an int >= 1"),
    ("affine_grid", lambda g: F.affine_grid(g.input("t", (1, 2, 3), "int64"), (1, 1, 3, 3)), "must be floating point"),
]
BAD = [(name, call) for name, call, _ in WRONG]


@pytest.mark.parametrize(("name", "call", "message"), WRONG)
def test_what_is_refused(name: str, call: Any, message: str) -> None:
    with pytest.raises(errors.GraphrtError, match=message):
        call(grt.Graph())


def test_bicubic_of_volumes_is_what_torch_lacks() -> None:
    graph = grt.Graph()
    y = F.grid_sample(graph.input("x", (1, 1, 3, 3, 3)), graph.input("g", (1, 1, 1, 1, 3)), "bicubic", "border", True)
    graph.output("y", y)
    x = torch.arange(27.0).reshape(1, 1, 3, 3, 3).numpy()
    found = grt.compile(graph, target="reference")(x=x, g=np.zeros((1, 1, 1, 1, 3), np.float32))["y"]
    assert found.item() == 13.0  # the middle pixel

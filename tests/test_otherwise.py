"""What docs/accuracy.md says that torch does otherwise: both are tried."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from conftest import INTERPRETED

import graphrt as grt
from graphrt import ops as F

pytestmark = [pytest.mark.interpret] if INTERPRETED else []
NAN = np.full((2, 2), np.nan, np.float32)
Case = tuple[Callable[..., Any], Callable[..., Any], list[np.ndarray], Any]
CASES: dict[str, Case] = {
    "class": (F.cross_entropy, torch.nn.functional.cross_entropy, [np.zeros((1, 3), np.float32), np.array([3])], np.nan),
    "token": (F.embedding, torch.nn.functional.embedding, [np.array([-1]), np.ones((3, 1), np.float32)], [[np.nan]]),
    "position": (
        lambda x, i: F.gather(x, 0, i),
        lambda x, i: torch.gather(x, 0, i),
        [np.ones(3, np.float32), np.array([3])],
        [0.0],
    ),
    "quotient": (F.floor_divide, torch.floor_divide, [np.array([7, -7]), np.array([0, 0])], [0, 0]),
    "remainder": (F.remainder, torch.remainder, [np.array([7, -7]), np.array([0, 0])], [0, 0]),
    "singular": (F.inv, torch.linalg.inv, [np.zeros((1, 1), np.float32)], [[np.nan]]),
    "values": (lambda x: F.svd(x)[1], lambda x: torch.linalg.svd(x)[1], [NAN], [np.nan, np.nan]),
}


def run(call: Callable[..., Any], arrays: list[np.ndarray], target: str) -> np.ndarray:
    graph = grt.Graph()
    feeds = {f"x{i}": a for i, a in enumerate(arrays)}
    graph.output("y", call(*(graph.input(name, a.shape, a.dtype) for name, a in feeds.items())))
    found = grt.compile(graph, target=target)(feeds)["y"]
    return np.where(np.isfinite(found), found, np.nan)


@pytest.mark.parametrize("name", CASES)
def test_where_torch_raises_there_is_a_number(name: str, target: str) -> None:
    ours, theirs, arrays, expected = CASES[name]
    for place in (target, "reference"):
        np.testing.assert_array_equal(run(ours, arrays, place), expected)
    with pytest.raises((IndexError, RuntimeError)):
        theirs(*map(torch.from_numpy, arrays))


def test_halves_are_rounded_where_they_are_stored(target: str) -> None:
    """257 is no bfloat16."""
    one = torch.ones(4, dtype=torch.bfloat16)
    assert (((one + 256.0) * 0.5) - 128.0).tolist() == [0.0] * 4
    graph = grt.Graph()
    x = graph.input("x", (4,), "bfloat16")
    graph.output("y", (x + 256.0) * 0.5 - 128.0)
    assert grt.compile(graph, target=target)(x=one)["y"].tolist() == [0.5] * 4

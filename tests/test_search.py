"""searchsorted and bucketize beside torch."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from conftest import INTERPRETED, examples
from hypothesis import given, settings
from test_functional import Call, compare, data

import graphrt as grt
from graphrt import errors
from graphrt import ops as F

pytestmark = [pytest.mark.interpret] if INTERPRETED else []


def test_search_beside_torch() -> None:
    edges = np.array([-1.5, -0.25, -0.25, 0.0, 0.75, 2.0], np.float32)
    values = np.concatenate([data(3, 4).ravel(), edges, np.array([np.inf, -np.inf, np.nan], np.float32)]).reshape(3, 7)
    table, order = np.sort(data(2, 3, 9), -1), np.argsort(data(2, 3, 9, seed=1), -1)
    calls: dict[str, Call] = {}
    for right in (False, True):
        calls[f"bucketize {right}"] = (
            lambda x, b, r=right: F.bucketize(x, b, right=r),
            lambda x, b, r=right: torch.bucketize(x, b, right=r),
            [values, edges],
        )
        calls[f"table {right}"] = (
            lambda s, x, r=right: F.searchsorted(s, x, right=r),
            lambda s, x, r=right: torch.searchsorted(s, x, right=r),
            [table, data(2, 3, 4, seed=2)],
        )
        calls[f"number {right}"] = (
            lambda s, r=right: F.searchsorted(s, -0.25, right=r),
            lambda s, r=right: torch.searchsorted(s, -0.25, right=r),
            [edges],
        )
    calls["sorter"] = (
        lambda s, x, i: F.searchsorted(s, x, sorter=i, side="right"),
        lambda s, x, i: torch.searchsorted(s, x, sorter=i, side="right"),
        [data(2, 3, 9, seed=1), data(2, 3, 4, seed=2), order],
    )
    calls["int32"] = (
        lambda s, x: F.searchsorted(s, x, out_int32=True),
        lambda s, x: torch.searchsorted(s, x, out_int32=True),
        [np.array([1, 3, 3, 8]), np.arange(10)],
    )
    compare(calls)


@given(n=st.integers(0, 70), seed=st.integers(0, 10**6), right=st.booleans())
@settings(max_examples=examples(10, 3))
def test_sequences_of_any_length(n: int, seed: int, right: bool) -> None:
    rng = np.random.default_rng(seed)
    sequence, values = np.sort(rng.integers(-9, 9, n)), rng.integers(-10, 10, 23)
    graph = grt.Graph()
    graph.output("y", F.searchsorted(graph.input("s", (n,), "int64"), graph.input("x", (23,), "int64"), right=right))
    found = grt.compile(graph, target="interpret" if INTERPRETED else "cpu")(s=sequence, x=values)["y"]
    assert found.tolist() == np.searchsorted(sequence, values, "right" if right else "left").tolist()


def _s(g: grt.Graph) -> grt.Value:
    return g.input("s", (4,))


def _x(g: grt.Graph) -> grt.Value:
    return g.input("x", (3, 5))


WRONG: list[tuple[str, Any, str]] = [
    ("searchsorted", lambda g: F.searchsorted(_x(g), _s(g)), "sizes of sorted_sequence"),
    ("searchsorted", lambda g: F.searchsorted(_s(g), _x(g), side="middle"), "side must be"),
    ("searchsorted", lambda g: F.searchsorted(_s(g), _x(g), right=True, side="left"), "agree with right"),
    ("searchsorted", lambda g: F.searchsorted(_s(g), "a"), "a Value or a number"),
    ("searchsorted", lambda g: F.searchsorted(_s(g), g.input("b", (3,), "bool")), "got bool"),
    ("searchsorted", lambda g: F.searchsorted(_s(g), _x(g), sorter=g.input("o", (4,))), "sorter must be integers"),
    ("bucketize", lambda g: F.bucketize(_s(g), _x(g)), "boundaries must have one dimension"),
    ("bucketize", lambda g: F.bucketize("a", _s(g)), "a Value or a number"),
    ("bucketize", lambda g: F.bucketize(_x(g), g.input("b", (3,), "bool")), "got bool"),
]
BAD = [(name, call) for name, call, _ in WRONG]


@pytest.mark.parametrize(("name", "call", "message"), WRONG)
def test_what_is_refused(name: str, call: Any, message: str) -> None:
    with pytest.raises(errors.GraphrtError, match=message):
        call(grt.Graph())

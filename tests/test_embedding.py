"""Embeddings and bags of them beside torch, forward and backward."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
import torch.nn.functional as T
from conftest import INTERPRETED
from hypothesis import given, settings
from test_functional import Call, compare, data

import graphrt as grt
from graphrt import errors
from graphrt import ops as F

pytestmark = [pytest.mark.interpret] if INTERPRETED else []
OFFSETS = np.array([0, 0, 3, 7, 7])


def rows(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 9, shape)


def test_embedding_bag() -> None:
    table, flat, square = data(9, 4), rows(11), rows(3, 5, seed=1)
    calls: dict[str, Call] = {}
    for mode in ("sum", "mean", "max"):
        for padding in (None, 2):
            options: dict[str, Any] = {"mode": mode, "padding_idx": padding}
            calls[f"square {mode} {padding}"] = (
                lambda i, w, o=options: F.embedding_bag(i, w, **o),
                lambda i, w, o=options: T.embedding_bag(i, w, **o),
                [square, table],
            )
            calls[f"offsets {mode} {padding}"] = (
                lambda i, w, s, o=options: F.embedding_bag(i, w, s, **o),
                lambda i, w, s, o=options: T.embedding_bag(i, w, s, **o),
                [flat, table, OFFSETS],
            )
    calls["weighted"] = (
        lambda i, w, s, p: F.embedding_bag(i, w, s, mode="sum", per_sample_weights=p, padding_idx=3),
        lambda i, w, s, p: T.embedding_bag(i, w, s, mode="sum", per_sample_weights=p, padding_idx=3),
        [flat, table, OFFSETS, data(11)],
    )
    calls["with an end"] = (
        lambda i, w, s: F.embedding_bag(i, w, s, include_last_offset=True),
        lambda i, w, s: T.embedding_bag(i, w, s, include_last_offset=True),
        [flat, table, np.array([0, 4, 4, 11])],
    )
    calls["by frequency"] = (
        lambda i, w: F.embedding(i, w, scale_grad_by_freq=True),
        lambda i, w: T.embedding(i, w, scale_grad_by_freq=True),
        [square, table],
    )
    compare(calls, 16)


@given(sizes=st.lists(st.integers(0, 4), min_size=1, max_size=6), mode=st.sampled_from(["sum", "mean", "max"]))
@settings(max_examples=3 if INTERPRETED else 8)
def test_bags_of_any_size(sizes: list[int], mode: str) -> None:
    starts = np.cumsum([0, *sizes[:-1]])
    calls: dict[str, Call] = {
        "drawn": (
            lambda i, w, s: F.embedding_bag(i, w, s, mode=mode),
            lambda i, w, s: T.embedding_bag(i, w, s, mode=mode),
            [rows(sum(sizes), seed=len(sizes)), data(9, 3), starts],
        )
    }
    compare(calls, 16)


@pytest.mark.parametrize("p", [1.0, 2.0, float("inf")])
def test_rows_longer_than_max_norm_are_read_shortened(p: float) -> None:
    """torch scales the table itself, and gives it the gradient of the scaled rows."""
    table, index = data(9, 4) * 2, rows(3, 2)
    graph = grt.Graph()
    w, i, dy = graph.input("w", table.shape), graph.input("i", index.shape, "int64"), graph.input("dy", (3, 2, 4))
    y = F.embedding(i, w, max_norm=1.5, norm_type=p)
    graph.output("y", y)
    graph.output("dw", grt.grad(y, [w], dy)[0])
    graph.output("table", F.embedding_renorm(w, i, 1.5, p))
    dys = data(3, 2, 4, seed=3)
    found = grt.compile(graph, target="interpret" if INTERPRETED else "cpu")(w=table, i=index, dy=dys)
    theirs = torch.from_numpy(table.copy()).requires_grad_()
    expected = T.embedding(torch.from_numpy(index), theirs, max_norm=1.5, norm_type=p)
    expected.backward(torch.from_numpy(dys))
    assert theirs.grad is not None
    np.testing.assert_allclose(found["y"], expected.detach(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["dw"], theirs.grad, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["table"], theirs.detach(), rtol=1e-5, atol=1e-6)


def _i(g: grt.Graph) -> grt.Value:
    return g.input("i", (3, 2), "int64")


def _w(g: grt.Graph) -> grt.Value:
    return g.input("w", (9, 4))


def _s(g: grt.Graph) -> grt.Value:
    return g.input("s", (5,), "int64")


WRONG: list[tuple[str, Any, str]] = [
    ("embedding_bag", lambda g: F.embedding_bag(_i(g), _w(g), _s(g)), "without offsets"),
    ("embedding_bag", lambda g: F.embedding_bag(_s(g), _w(g)), "without offsets"),
    ("embedding_bag", lambda g: F.embedding_bag(_i(g), _w(g), mode="median"), "mode must be"),
    ("embedding_bag", lambda g: F.embedding_bag(_i(g), _w(g), per_sample_weights=g.input("p", (3, 2))), "mode 'sum' only"),
    ("embedding_bag", lambda g: F.embedding_bag(g.input("f", (3, 2)), _w(g)), "must hold integers"),
    ("embedding_bag", lambda g: F.embedding_bag(_i(g), g.input("v", (5,))), r"weight must be \[V, D\]"),
    ("embedding_bag", lambda g: F.embedding_bag(_s(g), _w(g), _i(g)), r"offsets must be \[B\]"),
    ("embedding_renorm", lambda g: F.embedding_renorm(g.input("v", (5,)), _i(g), 1.0), r"weight must be \[V, D\]"),
    ("embedding_renorm", lambda g: F.embedding_renorm(_w(g), g.input("f", (3,)), 1.0), "indices must hold integers"),
    ("embedding_renorm", lambda g: F.embedding_renorm(_w(g), _i(g), "a"), "max_norm must be a float"),
]
BAD = [(name, call) for name, call, _ in WRONG]


@pytest.mark.parametrize(("name", "call", "message"), WRONG)
def test_what_is_refused(name: str, call: Any, message: str) -> None:
    with pytest.raises(errors.GraphrtError, match=message):
        call(grt.Graph())

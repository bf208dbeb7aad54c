"""Reductions on the cpu: one element of a row is read instead of summed, costly values are kept; never what was overwritten."""

from __future__ import annotations

import numpy as np
import pytest

import graphrt as grt
from graphrt import ops as F


def chosen(x: grt.Value, position: grt.Value) -> grt.Value:
    """The element of each row of ``x`` at ``position``, 0 where that lies outside: as losses say it."""
    index = F.arange(x.graph, x.shape[-1])
    return F.sum(F.where(F.eq(index, F.unsqueeze(position, -1)), x, 0.0), -1)


@pytest.mark.parametrize("columns", [5, 64, 1000])
def test_a_chosen_element_is_read(columns: int, rng: np.random.Generator) -> None:
    x = rng.standard_normal((6, columns)).astype(np.float32)
    at = np.array([0, columns - 1, -1, columns, 2, 2])
    graph = grt.Graph()
    values, position = graph.input("x", x.shape), graph.input("at", (6,), "int64")
    graph.output("y", chosen(F.exp(values), position) + chosen(values, position))
    program = grt.compile(graph, target="cpu")
    expected = [np.exp(r[k]) + r[k] if 0 <= k < columns else 0 for r, k in zip(x.astype(np.float64), at, strict=True)]
    np.testing.assert_allclose(program(x=x, at=at)["y"], expected, rtol=1e-5)
    assert "for (int j" not in program.source(), "nothing is summed"


def test_nothing_is_read_after_it_was_overwritten(rng: np.random.Generator) -> None:
    start = rng.standard_normal((6, 64)).astype(np.float32)
    at = np.arange(6) * 7
    graph = grt.Graph()
    table, position = graph.parameter("table", start), graph.input("at", (6,), "int64")
    centred = table - F.amax(table, -1, keepdim=True)
    graph.output("y", chosen(centred, position))
    graph.update(table, centred)
    program = grt.compile(graph, target="cpu")
    expected = start - start.max(-1, keepdims=True)
    for _ in range(2):  # the largest is 0 from then on
        np.testing.assert_allclose(program(at=at)["y"], expected[np.arange(6), at], rtol=1e-6)


def test_costly_values_are_kept_for_the_next_pass(rng: np.random.Generator) -> None:
    x = rng.standard_normal((4, 300)).astype(np.float32)
    graph = grt.Graph()
    graph.output("y", F.softmax(graph.input("x", x.shape), -1))
    program = grt.compile(graph, target="cpu")
    assert program.source().count("grt_exp(") == 1
    powers = np.exp(x.astype(np.float64))
    np.testing.assert_allclose(program(x=x)["y"], powers / powers.sum(-1, keepdims=True), rtol=1e-5)

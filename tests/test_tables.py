"""Products of rows that are looked up in a table: the table is multiplied, forward and backward; values stay what they were."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import INTERPRETED
from hypothesis import given
from hypothesis import strategies as st

import graphrt as grt
from graphrt import ops as F
from graphrt.passes.patterns.tables import multiply_tables
from graphrt.passes.simplify import simplify

SEQUENCES, STEPS, INNER, OUT = 4, 16, 16, 24


def network(tokens: int, turned: bool = False, steps: int = STEPS) -> grt.Graph:
    """The gradients of a table's rows, looked up and multiplied, in the order of the ids or with the steps first."""
    g = grt.Graph()
    ids = g.input("ids", (SEQUENCES, steps), "int64")
    table = g.parameter("table", np.random.default_rng(0).standard_normal((tokens, INNER)).astype(np.float32))
    weight = g.parameter("weight", np.random.default_rng(1).standard_normal((OUT, INNER)).astype(np.float32))
    x = F.embedding(ids, table)
    x = F.transpose(x, 0, 1) if turned else x
    y = F.linear(x, weight)
    loss = F.mean(y * y * F.sigmoid(y))
    g.output("y", y)
    for name, d in zip(("table", "weight"), grt.grad(loss, [table, weight]), strict=True):
        g.output(f"d{name}", d)
    return g


def rows(graph: grt.Graph) -> list[int]:
    """How many rows each product of the graph has or sums over, in order of size."""
    new = multiply_tables(simplify(graph))
    new.verify()
    found = [n for n in new.nodes if n.op.name == "matmul"]
    return sorted(max(n.types[0].shape[0], n.inputs[0].shape[1]) for n in found)


def results(graph: grt.Graph, ids: np.ndarray, target: str, **settings: Any) -> dict[str, np.ndarray]:
    """What ``graph`` gives for ``ids``."""
    found = grt.compile(graph, target=target, **settings)(ids=ids)
    return {name: np.array(found[name]) for name in graph.outputs}


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("tokens", [3, 32, 33])
def test_a_table_of_few_rows_is_multiplied(tokens: int, turned: bool, target: str) -> None:
    graph = network(tokens, turned)
    few = 2 * tokens <= SEQUENCES * STEPS
    assert (max(rows(graph)) < SEQUENCES * STEPS) == few
    ids = np.random.default_rng(2).integers(0, tokens, (SEQUENCES, STEPS))
    found = results(graph, ids, target)
    table, weight = (np.asarray(graph.initial[name], np.float64) for name in ("table", "weight"))
    x = table[ids.T if turned else ids]
    y = x @ weight.T
    s = 1 / (1 + np.exp(-y))
    dy = (2 * y * s + y * y * s * (1 - s)) / y.size
    dtable = np.zeros_like(table)
    np.add.at(dtable, ids.T if turned else ids, dy @ weight)
    wanted = {"y": y, "dtable": dtable, "dweight": np.einsum("stn,stk->nk", dy, x)}
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=2e-5, atol=2e-5)


def test_ids_that_the_table_does_not_have_give_nan(target: str) -> None:
    graph = network(5)
    ids = np.random.default_rng(3).integers(0, 5, (SEQUENCES, STEPS))
    ids[1, 2] = 5
    ids[2, 3] = -7
    found, apart = (results(graph, ids, target, fusion=fusion) for fusion in ("all", "-tables"))
    assert np.isnan(found["y"][1, 2]).all() and np.isnan(found["dweight"]).all() and not np.isnan(found["y"][0]).any()
    for name, value in apart.items():
        np.testing.assert_array_equal(np.isnan(found[name]), np.isnan(value))


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_rows_that_nobody_reads_are_not_multiplied(number: float, target: str) -> None:
    graph = network(5)
    graph.initial["table"][3] = number
    ids = np.random.default_rng(5).integers(0, 3, (SEQUENCES, STEPS))
    found, apart = (results(graph, ids, target, fusion=fusion) for fusion in ("all", "-tables"))
    for name, value in apart.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6)
        assert np.isfinite(value).all()


@given(st.data())
def test_drawn_lookups_are_what_they_are_apart(data: st.DataObject) -> None:
    tokens, inner, out = (data.draw(st.integers(1, n)) for n in (6, 20, 20))
    lead = tuple(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    g = grt.Graph()
    ids = g.input("ids", lead, "int64")
    table, weight = g.input("table", (tokens, inner)), g.input("weight", (inner, out))
    x = F.embedding(ids, table)
    dims = data.draw(st.permutations(range(len(lead))))
    x = F.permute(x, (*dims, len(lead)))
    if data.draw(st.booleans()):  # as padding is
        x = F.where(F.unsqueeze(F.permute(ids, tuple(dims)) > 0, -1), x, data.draw(st.sampled_from([0.0, 1.0])))
    y = F.matmul(x, weight) if data.draw(st.booleans()) else F.matmul(F.reshape(x, (-1, inner)), weight)
    g.output("y", y)
    loss = F.sum(F.tanh(y * 0.1))
    for name, d in zip(("table", "weight"), grt.grad(loss, [table, weight]), strict=True):
        g.output(f"d{name}", d)
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    given = {"ids": rng.integers(0, tokens, lead)}
    given |= {v.node.name: rng.standard_normal(v.shape).astype(np.float32) for v in (table, weight)}
    target = "interpret" if INTERPRETED else "cpu"
    both = [grt.compile(g, target=target, fusion=fusion)(given) for fusion in ("all", "-tables")]
    for name in g.outputs:
        np.testing.assert_allclose(*(np.array(found[name]) for found in both), rtol=1e-4, atol=1e-5)


def test_any_batch(target: str) -> None:
    graph = network(5)
    program = grt.compile(graph, target=target, batch=grt.up_to(SEQUENCES))
    ids = np.random.default_rng(4).integers(0, 5, (SEQUENCES, STEPS))
    for count in (SEQUENCES, 3, 1):
        found = program(ids=ids[:count])
        np.testing.assert_allclose(np.array(found["y"]), results(graph, ids, target)["y"][:count], rtol=1e-5, atol=1e-6)

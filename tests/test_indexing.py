"""Gather, scatter and what is built on them, beside torch; and how they fuse."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
import torch.nn.functional as T
from conftest import INTERPRETED, check, examples
from hypothesis import given, settings
from test_functional import TARGET, Call, compare, data

import graphrt as grt
from graphrt import ops as F
from graphrt.ops.positions import scatter_to

pytestmark = [pytest.mark.interpret] if INTERPRETED else []


def positions(high: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, high, shape)


def test_gather_family() -> None:
    x, i = data(4, 6), positions(6, 4, 3)
    calls: dict[str, Call] = {
        "gather": (lambda x, i: F.gather(x, 1, i), lambda x, i: x.gather(1, i), [x, i]),
        "fewer rows": (lambda x, i: F.gather(x, 1, i), lambda x, i: x.gather(1, i), [x, i[:2]]),
        "gather 0": (lambda x, i: F.gather(x, 0, i), lambda x, i: x.gather(0, i), [x, positions(4, 7, 6)]),
        "along": (lambda x, i: F.take_along_dim(x, i, 1), lambda x, i: x.take_along_dim(i, 1), [x, positions(6, 1, 5)]),
        "along flat": (F.take_along_dim, torch.take_along_dim, [x, positions(24, 3, 2)]),
        "select": (lambda x, i: F.index_select(x, 1, i), lambda x, i: x.index_select(1, i), [x, positions(6, 8)]),
        "take": (F.take, torch.take, [x, positions(24, 2, 3)]),
        "embedding": (F.embedding, lambda i, w: T.embedding(i, w), [positions(9, 2, 5), data(9, 3)]),
        "padded": (
            lambda i, w: F.embedding(i, w, padding_idx=-2),
            lambda i, w: T.embedding(i, w, padding_idx=7),
            [positions(9, 2, 5), data(9, 3)],
        ),
        "one_hot": (lambda i: F.one_hot(i, 9), lambda i: T.one_hot(i, 9), [positions(9, 2, 5)]),
        "int32": (lambda i, w: F.embedding(F.cast(i, "int32"), w), lambda i, w: T.embedding(i, w), [i, data(6, 2)]),
    }
    compare(calls)


def test_scatter_family() -> None:
    x, s = data(4, 6), data(4, 3, seed=5)
    i = np.array([[0, 1, 2], [5, 4, 3], [1, 3, 5], [2, 0, 4]])  # none twice: torch does not say who wins
    many = positions(6, 4, 3, seed=1)
    rows = np.array([[0, 0, 0], [0, 0, 1], [2, 2, 2], [1, 1, 0]])

    def pair(name: str, index: np.ndarray, src: Any = s, **options: Any) -> Call:
        ours = getattr(F, name)
        if isinstance(src, float):
            return (lambda x, i: ours(x, 1, i, src, **options), lambda x, i: getattr(x, name)(1, i, src), [x, index])
        extra = list(options.values())
        return (
            lambda x, i, s: ours(x, 1, i, s, **options),
            lambda x, i, s: getattr(x, name)(1, i, s, *extra[:1], **dict(list(options.items())[1:])),
            [x, index, src],
        )

    calls = {
        "scatter": pair("scatter", i),
        "number": pair("scatter", i, 2.5),
        "fewer rows": pair("scatter", i[:2], s[:2]),
        "add": pair("scatter_add", many),
        "add all to one": pair("scatter_add", rows),
        "index_add": (
            lambda x, s: F.index_add(x, 0, x.graph.constant(np.array([2, 0, 2])), s, alpha=2.0),
            lambda x, s: x.index_add(0, torch.tensor([2, 0, 2]), s, alpha=2.0),
            [x, data(3, 6)],
        ),
    }
    zeros = np.where(np.abs(s) < 0.7, 0, s).astype(np.float32)
    for how in ("sum", "prod", "mean", "amax", "amin"):
        for own in (True, False):
            calls[f"{how} {own}"] = pair("scatter_reduce", many, reduce=how, include_self=own)
            if how != "sum":
                calls[f"slices {how} {own}"] = (
                    lambda x, s, how=how, own=own: F.index_reduce(
                        x, 0, x.graph.constant(np.array([2, 0, 2])), s, how, include_self=own
                    ),
                    lambda x, s, how=how, own=own: x.index_reduce(0, torch.tensor([2, 0, 2]), s, how, include_self=own),
                    [x, data(3, 6, seed=4)],
                )
    calls["product of zeros"] = pair("scatter_reduce", many, zeros, reduce="prod")
    calls["products of zeros only"] = pair("scatter_reduce", rows, zeros, reduce="prod", include_self=False)
    for add in (False, True):
        calls[f"put {add}"] = (
            lambda x, s, add=add: F.put(x, x.graph.constant(np.array([[3, -1], [0, 7]])), s, accumulate=add),
            lambda x, s, add=add: x.put(torch.tensor([[3, -1], [0, 7]]), s, accumulate=add),
            [x, data(2, 2)],
        )
    compare(calls, 8)


def test_a_scalar_counts_as_a_vector_of_one_element() -> None:
    """Wherever a dimension is named, of operands and positions, as in torch; and an index of nothing may have any shape."""
    x, v, s, none = data(), data(4), data(1), np.zeros((2, 0), np.int64)
    i, j = np.array(0), np.array([0])
    calls: dict[str, Call] = {
        "gather": (lambda x, i: F.gather(x, 0, i), lambda x, i: x.gather(0, i), [x, i]),
        "gather many": (lambda x, i: F.gather(x, -1, i), lambda x, i: x.gather(-1, i), [x, np.array([0, 0, 0])]),
        "gather one": (lambda x, i: F.gather(x, 0, i), lambda x, i: x.gather(0, i), [v, i]),
        "gather none": (lambda x, i: F.gather(x, 0, i), lambda x, i: x.gather(0, i), [v, none]),
        "select": (lambda x, i: F.index_select(x, 0, i), lambda x, i: x.index_select(0, i), [x, j]),
        "select by one": (lambda x, i: F.index_select(x, 0, i), lambda x, i: x.index_select(0, i), [v, i]),
        "index_add": (lambda x, i, s: F.index_add(x, 0, i, s), lambda x, i, s: x.index_add(0, i, s), [x, i, x]),
        "scatter": (lambda x, i, s: F.scatter(x, 0, i, s), lambda x, i, s: x.scatter(0, i, s), [x, i, x]),
        "scatter one": (lambda x, i, s: F.scatter(x, 0, i, s), lambda x, i, s: x.scatter(0, i, s), [v, i, x]),
        "scatter none": (lambda x, i: F.scatter(x, 0, i, 1.0), lambda x, i: x.scatter(0, i, 1.0), [v, none]),
        "scatter_add": (lambda x, i, s: F.scatter_add(x, 0, i, s), lambda x, i, s: x.scatter_add(0, i, s), [x, j, s]),
        "put": (F.put, torch.Tensor.put, [x, i, x]),
        "squeeze": (lambda x: F.squeeze(x, 0) * 2.0, lambda x: x.squeeze(0) * 2.0, [x]),
        "transpose": (lambda x: F.transpose(x, 0, -1) * 2.0, lambda x: x.transpose(0, -1) * 2.0, [x]),
        "movedim": (lambda x: F.movedim(x, 0, 0) * 2.0, lambda x: x.movedim(0, 0) * 2.0, [x]),
        "flip": (lambda x: F.flip(x, [-1]) * 2.0, lambda x: x.flip([-1]) * 2.0, [x]),
        "windows": (lambda x: F.windows(x, 0, 1, 1) * 2.0, lambda x: x.unfold(0, 1, 1) * 2.0, [x]),
        "windows of nothing": (lambda x: F.windows(x, 0, 0, 2) * 2.0, lambda x: x.unfold(0, 0, 2) * 2.0, [v]),
    }
    for how in ("prod", "mean", "amax"):
        calls[f"reduce {how}"] = (
            lambda x, i, s, how=how: F.scatter_reduce(x, 0, i, s, how),
            lambda x, i, s, how=how: x.scatter_reduce(0, i, s, how),
            [x, i, x],
        )
        calls[f"index_reduce {how}"] = (
            lambda x, i, s, how=how: F.index_reduce(x, 0, i, s, how),
            lambda x, i, s, how=how: x.index_reduce(0, i, s, how),
            [x, i, x],
        )
    compare(calls)


def test_the_last_element_scattered_stays() -> None:
    graph = grt.Graph()
    x, i, s = graph.input("x", (3,)), graph.input("i", (5,), "int64"), graph.input("s", (5,))
    graph.output("y", F.scatter(x, 0, i, s))
    feeds = {"x": np.zeros(3, np.float32), "i": np.array([0, 2, 0, 2, 0]), "s": np.arange(5, dtype=np.float32)}
    assert grt.compile(graph, target=TARGET)(feeds)["y"].tolist() == [4.0, 0.0, 3.0]


def test_positions_outside_read_zero_and_write_nowhere() -> None:
    graph = grt.Graph()
    x, i = graph.input("x", (3,)), graph.input("i", (4,), "int64")
    graph.output("read", F.gather(x, 0, i))
    graph.output("written", F.scatter_add(x, 0, i, graph.constant(np.ones(4, np.float32))))
    feeds = {"x": np.array([1, 2, 3], np.float32), "i": np.array([-1, 3, 2**40, 1])}
    outputs = grt.compile(graph, target=TARGET)(feeds)
    assert outputs["read"].tolist() == [0.0, 0.0, 0.0, 2.0] and outputs["written"].tolist() == [1.0, 3.0, 3.0]


@given(seed=st.integers(0, 10**6), rank=st.integers(1, 3))
@settings(max_examples=examples(15, 5))
def test_gather_and_scatter_of_any_shape(seed: int, rank: int) -> None:
    """Forward and gradient against the reference, views in front of the data, arithmetic on the positions."""
    rng = np.random.default_rng(seed)
    shape, dim = tuple(rng.integers(1, 6, rank)), int(rng.integers(rank))
    shape = tuple(int(n) for n in shape)
    index = rng.integers(-1, shape[dim] + 1, (*shape[:dim], int(rng.integers(0, 7)), *shape[dim + 1 :]))
    graph = grt.Graph()
    x, i = graph.input("x", shape), graph.input("i", index.shape, "int64")
    y = F.tanh(F.gather(F.flip(x, [dim]), dim, F.abs(i)))
    z = F.scatter_add(x, dim, i, y)
    graph.output("y", y)
    graph.output("z", z)
    graph.output("dx", grt.grad(F.sum(z * z), [x])[0])
    check(graph, {"x": rng.standard_normal(shape).astype(np.float32), "i": index}, TARGET, 30)


@pytest.mark.parametrize("op", ["sum", "prod", "max", "min"])
@pytest.mark.parametrize(("rows", "lines"), [(1, 1), (20, 5)] if INTERPRETED else [(1, 1), (700, 5), (513, 64), (40, 130)])
def test_rows_are_scattered_as_a_whole(op: str, rows: int, lines: int) -> None:
    """One position for all lines: it is looked up once a row, for a few hundred at a time, and the rest is the same op."""
    rng = np.random.default_rng(lines)
    graph = grt.Graph()
    x, at = graph.input("x", (rows, lines)), graph.input("at", (rows,), "int64")
    wide = F.broadcast_to(F.unsqueeze(at, 1), (rows, lines))
    graph.output("y", scatter_to(wide, x * 2.0, 0, 9, op))
    feeds = {"x": rng.uniform(0.5, 1.5, (rows, lines)).astype(np.float32), "at": rng.integers(-1, 10, rows)}
    check(graph, feeds, TARGET, rows)
    if TARGET == "cpu":
        assert "#define SHARED 1" in grt.compile(graph, target="cpu").source()


def test_gather_fuses_with_what_stands_around_it() -> None:
    graph = grt.Graph()
    w, i = graph.input("w", (50, 16)), graph.input("i", (4, 7), "int64")
    h = F.softmax(F.relu(F.embedding(i + 1, w)) * 2.0)
    graph.output("h", h)
    program = grt.compile(graph, target=TARGET)
    assert program.launches == 1, program.plan_text()


def test_an_update_that_gathers_its_own_parameter_reads_old_values() -> None:
    graph = grt.Graph()
    p = graph.parameter("p", np.arange(5, dtype=np.float32))
    graph.update(p, F.gather(p, 0, graph.constant(np.array([1, 2, 3, 4, 0]))))
    program = grt.compile(graph, target=TARGET)
    program()
    program()
    assert program.state["p"].tolist() == [2.0, 3.0, 4.0, 0.0, 1.0]


def _x(g: grt.Graph) -> grt.Value:
    return g.input("x", (3, 4))


def _i(g: grt.Graph, *shape: int) -> grt.Value:
    return g.input("i", shape or (3, 2), "int64")


BAD: list[tuple[str, Any]] = [
    ("gather", lambda g: F.gather(_x(g), 2, _i(g))),
    ("gather", lambda g: F.gather(_x(g), 1, g.input("f", (3, 2)))),
    ("gather", lambda g: F.gather(_x(g), 1, _i(g, 3))),
    ("gather", lambda g: F.gather(_x(g), 1, _i(g, 4, 2))),
    ("take_along_dim", lambda g: F.take_along_dim(_x(g), _i(g, 3), 1)),
    ("take_along_dim", lambda g: F.take_along_dim(_x(g), _i(g, 2, 2), 1)),
    ("take_along_dim", lambda g: F.take_along_dim(_x(g), g.input("f", (3, 2)), 1)),
    ("index_select", lambda g: F.index_select(_x(g), 5, _i(g, 2))),
    ("index_select", lambda g: F.index_select(_x(g), 0, _i(g))),
    ("index_select", lambda g: F.index_select(_x(g), 0, [0, 1])),
    ("take", lambda g: F.take(_x(g), g.input("f", (2,)))),
    ("take", lambda g: F.take(_x(g), 3)),
    ("take", lambda g: F.take(_i(g), None)),
    ("embedding", lambda g: F.embedding(_x(g), g.input("w", (5, 2)))),
    ("embedding", lambda g: F.embedding(_i(g), g.input("w", (5,)))),
    ("embedding", lambda g: F.embedding(_i(g), g.input("w", (5, 2)), padding_idx=5)),
    ("one_hot", lambda g: F.one_hot(_x(g), 3)),
    ("one_hot", lambda g: F.one_hot(_i(g), 0)),
    ("one_hot", lambda g: F.one_hot(_i(g), -1)),
    ("scatter", lambda g: F.scatter(_x(g), 1, _i(g, 3, 5), g.input("s", (3, 4)))),
    ("scatter", lambda g: F.scatter(_x(g), 1, _i(g), g.input("s", (3, 2), "int64"))),
    ("scatter", lambda g: F.scatter(_x(g), -3, _i(g), 1.0)),
    ("scatter", lambda g: F.scatter(_x(g), 1, _i(g), "a")),
    ("scatter_add", lambda g: F.scatter_add(_x(g), 1, _i(g), g.input("s", (2, 2)))),
    ("scatter_add", lambda g: F.scatter_add(_x(g), 9, _i(g), g.input("s", (3, 2)))),
    ("scatter_add", lambda g: F.scatter_add(_x(g), 1, g.input("f", (3, 2)), g.input("s", (3, 2)))),
    ("scatter_reduce", lambda g: F.scatter_reduce(_x(g), 1, _i(g), g.input("s", (3, 2)), "median")),
    ("scatter_reduce", lambda g: F.scatter_reduce(_x(g), 1, _i(g, 2), g.input("s", (3, 2)), "sum")),
    ("scatter_reduce", lambda g: F.scatter_reduce(_x(g), 2, _i(g), g.input("s", (3, 2)), "sum")),
    ("index_reduce", lambda g: F.index_reduce(_x(g), 0, _i(g, 2), g.input("s", (2, 4)), "sum")),
    ("index_reduce", lambda g: F.index_reduce(_x(g), 0, _i(g, 2), g.input("s", (2, 4), "int64"), "amax")),
    ("index_select", lambda g: F.index_select(g.input("o", ()), 0, _i(g, 2))),
    ("put", lambda g: F.put(_x(g), _i(g, 2), g.input("s", (3,)))),
    ("put", lambda g: F.put(_x(g), g.input("f", (2,)), g.input("s", (2,)))),
    ("put", lambda g: F.put(_x(g), _i(g, 2), g.input("s", (2,), "int64"))),
    ("index_reduce", lambda g: F.index_reduce(_x(g), 0, _i(g, 2), g.input("s", (3, 4)), "amax")),
    ("index_add", lambda g: F.index_add(_x(g), 0, _i(g, 2), g.input("s", (3, 4)))),
    ("index_add", lambda g: F.index_add(_x(g), 2, _i(g, 2), g.input("s", (2, 4)))),
    ("index_add", lambda g: F.index_add(_x(g), 0, _i(g), g.input("s", (2, 4)))),
]

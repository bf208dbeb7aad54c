"""Scans and sorting beside torch."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from conftest import INTERPRETED, check, examples
from hypothesis import given, settings
from test_functional import TARGET, Call, compare, data

import graphrt as grt
from graphrt import ops as F

pytestmark = [pytest.mark.interpret] if INTERPRETED else []


def first(f: Any, *args: Any, part: int = 0, **kwargs: Any) -> Any:
    return lambda *a: f(*a, *args, **kwargs)[part]


def test_views_behind_a_scan_or_sort_join_its_kernel() -> None:
    """A reshape keeps rows whole, folds some together, or cuts them."""
    calls: dict[str, Call] = {}
    for dim in (0, 1, 2):
        pairs = {
            "cumsum": (lambda x, d=dim: F.cumsum(x, d), lambda x, d=dim: torch.cumsum(x, d)),
            "sort": (first(F.sort, dim), first(torch.sort, dim)),
        }
        for name, (ours, theirs) in pairs.items():
            for shape in ((4, 3, 2), (8, 3), (2, 12), (3, 8), (1, 24, 1)):
                calls[f"{name} {dim} {shape}"] = (
                    lambda x, f=ours, s=shape: F.reshape(f(x) * 2.0, s) + 1.0,
                    lambda x, f=theirs, s=shape: torch.reshape(f(x) * 2.0, s) + 1.0,
                    [data(2, 4, 3)],
                )
    compare(calls)


def test_scans() -> None:
    x = data(3, 5, 4)
    zeros = np.array([[2.0, 0.0, 3.0, 0.0, 4.0], [1.0, 2.0, 3.0, 4.0, 0.0], [0.0, 1.0, 2.0, 3.0, 4.0]], np.float32)
    spread = np.array([[-200.0, 3.0, 200.0, 1.0], [-np.inf, -np.inf, 0.0, -3.0]], np.float32)
    calls: dict[str, Call] = {}
    for dim in (0, 1, -1):
        for name in ("cumsum", "cumprod", "logcumsumexp"):
            ours, theirs = getattr(F, name), getattr(torch, name)
            calls[f"{name} {dim}"] = (lambda x, f=ours, d=dim: f(x, d), lambda x, f=theirs, d=dim: f(x, d), [x])
        for name in ("cummax", "cummin"):
            for part in (0, 1):
                calls[f"{name} {dim} {part}"] = (
                    first(getattr(F, name), dim, part=part),
                    first(getattr(torch, name), dim, part=part),
                    [x],
                )
    calls["zeros"] = (lambda x: F.cumprod(x, 1), lambda x: torch.cumprod(x, 1), [zeros])
    calls["spread"] = (lambda x: F.logcumsumexp(x, 1), lambda x: torch.logcumsumexp(x, 1), [spread[:1]])
    calls["reverse"] = (
        lambda x: F.cumsum(x, 1, reverse=True),
        lambda x: x.flip(1).cumsum(1).flip(1),
        [x],
    )
    calls["exclusive"] = (lambda x: F.cumsum(x, 1, exclusive=True), lambda x: x.cumsum(1) - x, [x])
    calls["both"] = (
        lambda x: F.cumprod(x, 0, reverse=True, exclusive=True),
        lambda x: torch.cat([(x[1] * x[2])[None], x[2][None], torch.ones_like(x[:1])]),
        [x],
    )
    calls["ties"] = (first(F.cummax, 0, part=1), first(torch.cummax, 0, part=1), [np.array([1.0, 3.0, 3.0, 2.0], np.float32)])
    compare(calls, 8)


def test_scans_of_integers_and_special_values() -> None:
    graph = grt.Graph()
    i, x, empty = graph.input("i", (5,), "uint8"), graph.input("x", (2, 4)), graph.input("e", (2, 0))
    graph.output("sum", F.cumsum(i, 0))
    graph.output("product", F.cumprod(i, 0))
    graph.output("nan", F.cumsum(x, 1))
    graph.output("most", F.cummax(x, 1)[0])
    graph.output("log", F.logcumsumexp(x, 1))
    graph.output("empty", F.cumsum(empty, 1))
    special = np.array([[1.0, np.inf, 2.0, -np.inf], [0.0, np.nan, 1.0, 2.0]], np.float32)
    feeds = {"i": np.array([200, 100, 3, 0, 7], np.uint8), "x": special, "e": np.zeros((2, 0), np.float32)}
    outputs, t = grt.compile(graph, target=TARGET)(feeds), torch.from_numpy(special)
    assert outputs["sum"].tolist() == [200, 300, 303, 303, 310] and outputs["sum"].dtype == np.int64
    assert outputs["product"].tolist() == [200, 20000, 60000, 0, 0] and outputs["empty"].shape == (2, 0)
    for name, z in (("nan", t.cumsum(1)), ("most", t.cummax(1)[0]), ("log", t.logcumsumexp(1))):
        np.testing.assert_array_equal(outputs[name], z.numpy(), name)


def test_sorting() -> None:
    x = data(3, 7, 2)
    ties = np.array([[1.0, 0.0, 1.0, -0.0, 2.0, np.nan, 1.0, np.inf]], np.float32)
    calls: dict[str, Call] = {}
    for part in (0, 1):
        for descending in (False, True):
            calls[f"sort {part} {descending}"] = (
                first(F.sort, 1, descending, part=part),
                first(torch.sort, dim=1, descending=descending, stable=True, part=part),
                [x],
            )
            calls[f"ties {part} {descending}"] = (
                first(F.sort, 1, descending, part=part),
                first(torch.sort, dim=1, descending=descending, stable=True, part=part),
                [ties],
            )
            calls[f"topk {part} {descending}"] = (
                first(F.topk, 3, 1, descending, part=part),
                first(torch.topk, 3, 1, descending, part=part),
                [x],
            )
        calls[f"kth {part}"] = (first(F.kthvalue, 2, 0, part=part), first(torch.kthvalue, 2, 0, part=part), [x])
        for keep in (False, True):
            calls[f"median {part} {keep}"] = (
                first(F.median, 1, keep, part=part),
                first(torch.median, 1, keep, part=part),
                [x],
            )
    calls["median"] = (F.median, torch.median, [x])
    calls["median nan"] = (F.median, torch.median, [ties])
    compare(calls)


@given(seed=st.integers(0, 10**6), descending=st.booleans(), dtype=st.sampled_from(["float32", "int16", "float16", "bool"]))
@settings(max_examples=examples(12, 4))
def test_sort_is_stable_for_any_size(seed: int, descending: bool, dtype: str) -> None:
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(1, 4)), int(rng.integers(0, 150)), int(rng.integers(1, 4)))
    x = rng.integers(0, 2 if dtype == "bool" else 9, shape).astype(dtype)
    graph = grt.Graph()
    values, index = F.sort(graph.input("x", shape, dtype), 1, descending)
    graph.output("values", values)
    graph.output("index", index)
    check(graph, {"x": x}, TARGET)


def test_randperm_is_a_permutation_and_new_each_run() -> None:
    graph = grt.Graph()
    graph.output("p", F.randperm(graph, 40))
    program = grt.compile(graph, target=TARGET)
    one, two = program()["p"], program()["p"]
    assert sorted(one) == sorted(two) == list(range(40)) and (one != two).any()


def test_a_scan_takes_what_surrounds_it_along() -> None:
    graph = grt.Graph()
    x = graph.input("x", (8, 30))
    graph.output("y", F.relu(F.cumsum(x * 2.0 + 1.0, 1, reverse=True) - 3.0))
    assert grt.compile(graph, target=TARGET).launches == 1


def _x(g: grt.Graph) -> grt.Value:
    return g.input("x", (3, 4))


BAD: list[tuple[str, Any]] = [
    *[
        (name, call)
        for name in ("cumsum", "cumprod", "logcumsumexp", "cummax", "cummin", "sort", "argsort")
        for call in (
            lambda g, n=name: getattr(F, n)(_x(g), 2),
            lambda g, n=name: getattr(F, n)(_x(g), "rows"),
            lambda g, n=name: getattr(F, n)([1.0, 2.0], 0),
        )
    ],
    ("logcumsumexp", lambda g: F.logcumsumexp(g.input("i", (3,), "int64"), 0)),
    *[
        (name, call)
        for name in ("topk", "kthvalue")
        for call in (
            lambda g, n=name: getattr(F, n)(_x(g), 5),
            lambda g, n=name: getattr(F, n)(_x(g), -1),
            lambda g, n=name: getattr(F, n)(_x(g), 2.0),
            lambda g, n=name: getattr(F, n)(_x(g), 1, 7),
        )
    ],
    ("median", lambda g: F.median(_x(g), 3)),
    ("median", lambda g: F.median(g.input("e", (3, 0)), 1)),
    ("median", lambda g: F.median(4.0)),
    ("randperm", lambda g: F.randperm(g, -1)),
    ("randperm", lambda g: F.randperm(g, 2.5)),
    ("randperm", lambda g: F.randperm(g, None)),
]

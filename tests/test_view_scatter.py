"""Parts of a tensor replaced, beside torch, forward and backward."""

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


def both(name: str, arrays: list[np.ndarray], *options: Any) -> Call:
    return (
        lambda *a: F.FUNCTIONS[name](*a, *options),
        lambda *a: getattr(torch, name)(*a, *options),
        arrays,
    )


def test_parts_replaced() -> None:
    x, mask = data(4, 3, 5), data(4, 1, 5) > 0.2
    calls: dict[str, Call] = {}
    for shape, place in (((4, 3, 2), (2, 1, 5, 3)), ((2, 3, 5), (0, 1, 3)), ((4, 3, 5), (2,)), ((4, 0, 5), (1, 2, 2))):
        calls[f"slice {place}"] = both("slice_scatter", [x, data(*shape)], *place)
    for shape, place in (((4, 5), (1, -1)), ((3, 5), (0, 2))):
        calls[f"select {place}"] = both("select_scatter", [x, data(*shape)], *place)
    for offset, a, b in ((0, 0, 1), (1, 0, 2), (-2, 0, 2), (0, 2, 1), (3, -1, 0), (9, 0, 1)):
        src = torch.diagonal(torch.from_numpy(x), offset, a, b).shape
        calls[f"diagonal {offset} {a} {b}"] = both("diagonal_scatter", [x, data(*src)], offset, a, b)
    places = torch.tensor([[2], [33]]) + torch.arange(4) * 3
    calls["strided"] = (  # torch's own gives x the gradient of the elements replaced, and the others none
        lambda x, s: F.as_strided_scatter(x, s, (2, 4), (31, 3), 2),
        lambda x, s: x.put(places, s),
        [x, data(2, 4)],
    )
    calls["read"] = both("as_strided", [x], (3, 2, 2), (7, 1, 1), 1)
    calls["masked"] = (
        lambda x, m, s: F.masked_scatter(x, m, s),
        lambda x, m, s: x.masked_scatter(m, s),
        [x, mask, data(60, seed=1)],
    )
    compare(calls)


@given(seed=st.integers(0, 10**6), offset=st.integers(-3, 3))
@settings(max_examples=examples(8, 3))
def test_diagonals_of_any_shape(seed: int, offset: int) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(1, 5, int(rng.integers(2, 4))))
    a, b = (int(d) for d in rng.permutation(len(shape))[:2])
    count = torch.diagonal(torch.zeros(shape), offset, a, b).shape
    compare({"drawn": both("diagonal_scatter", [data(*shape), data(*count, seed=1)], offset, a, b)})


def _x(g: grt.Graph) -> grt.Value:
    return g.input("x", (4, 3))


def _y(g: grt.Graph, *shape: int) -> grt.Value:
    return g.input("y", shape)


WRONG: list[tuple[str, Any, str]] = [
    ("slice_scatter", lambda g: F.slice_scatter(_x(g), _y(g, 4, 3), 0, 1), r"shape of the slice, \[3, 3\]"),
    ("slice_scatter", lambda g: F.slice_scatter(_x(g), _y(g, 4, 3), step=0), "step must be >= 1"),
    ("slice_scatter", lambda g: F.slice_scatter(_x(g), _y(g, 4, 3), 2), "out of range"),
    ("select_scatter", lambda g: F.select_scatter(_x(g), _y(g, 3), 0, 9), "out of range"),
    ("select_scatter", lambda g: F.select_scatter(_x(g), _y(g, 3), 2, 0), "out of range"),
    ("select_scatter", lambda g: F.select_scatter(_x(g), _y(g, 4), 0, 1), "shape of the slice"),
    ("diagonal_scatter", lambda g: F.diagonal_scatter(_x(g), _y(g, 4)), r"shape of the diagonal, \[3\]"),
    ("diagonal_scatter", lambda g: F.diagonal_scatter(_x(g), _y(g, 3), 0, 1, 1), "must differ"),
    ("diagonal_scatter", lambda g: F.diagonal_scatter(_y(g, 3), _x(g)), "out of range"),
    ("as_strided", lambda g: F.as_strided(_x(g), (5,), (3,)), "stay within 12 elements"),
    ("as_strided", lambda g: F.as_strided(_x(g), (2, 2), (3,)), "stay within"),
    ("as_strided", lambda g: F.as_strided(_x(g), (2,), (1,), -1), "stay within"),
    ("as_strided_scatter", lambda g: F.as_strided_scatter(_x(g), _y(g, 4, 3), (2,), (3,)), "shape of the view"),
    ("as_strided_scatter", lambda g: F.as_strided_scatter(_x(g), _y(g, 5), (5,), (3,)), "stay within"),
    ("as_strided_scatter", lambda g: F.as_strided_scatter(_x(g), _y(g, 5), (5,), (-1,)), "each of stride must be an int >= 0"),
    ("masked_scatter", lambda g: F.masked_scatter(_x(g), _y(g, 4, 3), g.input("z", (4,))), "mask must be bool"),
    ("masked_scatter", lambda g: F.masked_scatter(_x(g), g.input("b", (5,), "bool"), _y(g, 4)), "do not broadcast"),
    (
        "masked_scatter",
        lambda g: F.masked_scatter(_x(g), g.input("b", (3,), "bool"), g.input("n", (4,), "int64")),
        "be float32",
    ),
]
BAD = [(name, call) for name, call, _ in WRONG]


@pytest.mark.parametrize(("name", "call", "message"), WRONG)
def test_what_is_refused(name: str, call: Any, message: str) -> None:
    with pytest.raises(errors.GraphrtError, match=message):
        call(grt.Graph())

"""histc, histogram and bincount beside torch."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from conftest import INTERPRETED, examples
from hypothesis import given, settings
from test_functional import TARGET, Call, compare, data

import graphrt as grt
from graphrt import errors
from graphrt import ops as F

pytestmark = [pytest.mark.interpret] if INTERPRETED else []
EDGES = np.array([-1.5, -0.25, 0.0, 0.5, 2.0], np.float32)
SPECIAL = np.array([np.inf, -np.inf, np.nan, -1.0, 1.0, 0.0, 0.5, 3e38], np.float32)  # with what lies on an edge


def _histogram(which: int, bins: Any, x: Any, **options: Any) -> tuple[Any, Any]:
    """Result ``which`` of both libraries' histograms, as functions of what ``x`` is made of."""
    return (
        lambda *a: F.histogram(a[0], bins if isinstance(bins, int) else a[-1], **options)[which],
        lambda *a: torch.histogram(a[0], bins if isinstance(bins, int) else a[-1], **options)[which],
    )


def _in_float32(theirs: Any) -> Any:
    """Where an element lies is a matter of rounding; and torch's counts have no gradient to ask for."""
    return lambda *a: theirs(*(t.detach().float() if t.is_floating_point() else t for t in a))


def test_histograms_beside_torch() -> None:
    x, special, one = data(4, 30), np.concatenate([data(40), SPECIAL]), np.full((7,), 1.25, np.float32)
    calls: dict[str, Call] = {}
    for bins, low, high in ((8, -1.0, 1.0), (1, 0.0, 0.5), (100, -2, 3)):
        options = {"bins": bins, "min": low, "max": high}
        calls[f"histc {bins}"] = (lambda v, o=options: F.histc(v, **o), lambda v, o=options: torch.histc(v, **o), [special])
    calls["histc of all"] = (lambda v: F.histc(v, 5), lambda v: torch.histc(v, 5), [x])
    calls["histc of one point"] = (lambda v: F.histc(v, 4), lambda v: torch.histc(v, 4), [one])
    calls["histc of nothing"] = (lambda v: F.histc(v, 4), lambda v: torch.histc(v, 4), [x[:0]])
    for which, name in enumerate(("counts", "edges")):
        calls[f"{name} of all"] = (*_histogram(which, 7, x), [x])
        calls[f"{name} of one point"] = (*_histogram(which, 3, one), [one])
        calls[f"{name} in a range"] = (*_histogram(which, 8, special, range=(-1.0, 1.0)), [special])
        calls[f"{name} of given edges"] = (*_histogram(which, EDGES, special), [special, EDGES])
    calls["density"] = (*_histogram(0, EDGES, x, density=True), [x, EDGES])
    numbers = np.array([3, 0, 3, 7, 1, 3])
    calls["bincount"] = (lambda i: F.bincount(i, minlength=9), lambda i: torch.bincount(i, minlength=9), [numbers])
    compare({name: (ours, _in_float32(theirs), arrays) for name, (ours, theirs, arrays) in calls.items()})


def test_weights_and_their_gradients(target: str) -> None:
    x, w, numbers = data(12), data(12, seed=1), np.arange(12) * 5 % 7
    graph = grt.Graph()
    xv, wv, iv = graph.input("x", (12,)), graph.input("w", (12,)), graph.input("i", (12,), "int64")
    found, edges = F.histogram(xv, 3, (-1.0, 1.0), wv)
    counts = F.bincount(iv, wv, 5)
    graph.output("found", found)
    graph.output("density", F.histogram(xv, edges, None, wv * wv, True)[0])
    graph.output("counts", counts)
    graph.output("wide", F.bincount(iv, iv, 7))
    graph.output("dw", grt.grad(F.sum(found * found) + F.sum(counts * counts), [wv])[0])
    got = grt.compile(graph, target=target)(x=x, w=w, i=numbers)
    inside = [(x >= a) & (x < b) for a, b in zip((-1, -1 / 3, 1 / 3), (-1 / 3, 1 / 3, 1), strict=True)]
    sums = [w[m].sum() for m in inside]
    of_numbers = np.bincount(numbers, w, 7)
    np.testing.assert_allclose(got["found"], sums, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got["density"], np.histogram(x, 3, (-1, 1), True, w * w)[0], rtol=1e-5)
    np.testing.assert_allclose(got["counts"], of_numbers[:5], rtol=1e-5, atol=1e-6)
    assert got["wide"].dtype == np.float64 and got["wide"].tolist() == np.bincount(numbers, numbers, 7).tolist()
    slope = 2 * (np.select(inside, sums) + np.where(numbers < 5, of_numbers[numbers], 0))
    np.testing.assert_allclose(got["dw"], slope, rtol=1e-5, atol=1e-5)


@given(bins=st.integers(1, 40), count=st.integers(0, 90), seed=st.integers(0, 10**6))
@settings(max_examples=examples(8, 3))
def test_every_number_is_counted_once(bins: int, count: int, seed: int) -> None:
    x = np.random.default_rng(seed).integers(-20, 20, count).astype(np.float32) / 8
    graph = grt.Graph()
    v = graph.input("x", x.shape)
    found, edges = F.histogram(v, bins)
    graph.output("found", found)
    graph.output("edges", edges)
    graph.output("histc", F.histc(v, bins))
    got = grt.compile(graph, target=TARGET)(x=x)
    assert got["found"].sum() == got["histc"].sum() == count and (np.diff(got["edges"]) > 0).all()
    assert got["found"].tolist() == np.histogram(x, got["edges"])[0].tolist()


def test_models_of_torch() -> None:
    def model(x: torch.Tensor, i: torch.Tensor) -> Any:
        hist, edges = torch.histogram(x, 4, range=(-1.0, 1.0), weight=x * x)
        share = torch.bincount(i, minlength=5) / 6
        return torch.histc(x, 6, -1, 1), hist, edges, torch.histogram(x, edges)[0], share.log1p().sum(), share

    args = torch.from_numpy(data(3, 9)), torch.tensor([0, 4, 4, 2, 0, 0])
    for mine, theirs in zip(grt.compile(model, args, target=TARGET)(*args), model(*args), strict=True):
        torch.testing.assert_close(mine, theirs)
    with pytest.raises(errors.ConversionError, match="the size of bincount depends on the data; give minlength"):
        grt.from_torch(lambda i: torch.bincount(i), args[1])


def _x(g: grt.Graph) -> grt.Value:
    return g.input("x", (3, 5))


def _i(g: grt.Graph) -> grt.Value:
    return g.input("i", (4,), "int64")


WRONG: list[tuple[str, Any, str]] = [
    ("histc", lambda g: F.histc(_i(g)), "must be floating point"),
    ("histc", lambda g: F.histc(_x(g), 0), "bins must be an int >= 1"),
    ("histc", lambda g: F.histc(_x(g), 3, 1.0, -1.0), "finite bounds in order, got 1.0 and -1.0"),
    ("histogram", lambda g: F.histogram(_x(g), _i(g)), "bins must be a number, or edges"),
    ("histogram", lambda g: F.histogram(_x(g), 3, (1.0,)), "range must be two numbers"),
    ("histogram", lambda g: F.histogram(_x(g), g.input("e", (3,)), (0.0, 1.0)), "range goes with a number of bins"),
    ("histogram", lambda g: F.histogram(_x(g), 3, weight=g.input("w", (5,))), r"weight must be f32\[3,5\] as input"),
    ("bincount", lambda g: F.bincount(_i(g)), "depends on the data; give minlength"),
    ("bincount", lambda g: F.bincount(_x(g), minlength=3), "must hold integers"),
    ("bincount", lambda g: F.bincount(_i(g), g.input("w", (5,)), 3), r"input must be \[N\], and weights too"),
]
BAD = [(name, call) for name, call, _ in WRONG]


@pytest.mark.skipif(INTERPRETED, reason="what is refused does not depend on the target")
@pytest.mark.parametrize(("name", "call", "message"), WRONG)
def test_what_is_refused(name: str, call: Any, message: str) -> None:
    with pytest.raises(errors.GraphrtError, match=message):
        call(grt.Graph())

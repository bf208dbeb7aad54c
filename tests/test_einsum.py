"""Products against torch: einsum in all its notation, its relatives, and distances."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from conftest import INTERPRETED, examples
from hypothesis import given, settings
from test_functional import Call, compare, data, same

import graphrt as grt
from graphrt import ops as F

pytestmark = [pytest.mark.interpret] if INTERPRETED else []

EQUATIONS: list[tuple[str, list[tuple[int, ...]]]] = [
    ("ij,jk->ik", [(3, 4), (4, 5)]),
    ("ij,jk", [(3, 4), (4, 5)]),
    ("ba,ca", [(3, 4), (5, 4)]),
    ("bik,bkj->bji", [(2, 3, 4), (2, 4, 5)]),
    ("bqhd,bkhd->bhqk", [(2, 3, 2, 4), (2, 5, 2, 4)]),
    ("i,j->ij", [(3,), (4,)]),
    ("i,i", [(5,), (5,)]),
    ("i,i->i", [(5,), (5,)]),
    ("ij->ji", [(3, 4)]),
    ("ij->", [(3, 4)]),
    ("ij->j", [(3, 4)]),
    ("ii", [(4, 4)]),
    ("ii->i", [(4, 4)]),
    ("iji->ij", [(3, 2, 3)]),
    ("iii->i", [(3, 3, 3)]),
    ("...ij,...jk->...ik", [(2, 1, 3, 4), (5, 4, 2)]),
    ("...ij,jk", [(2, 3, 4), (4, 5)]),
    ("i...,i...->...", [(3, 2, 4), (3, 4)]),
    ("...a->a", [(2, 3, 4)]),
    ("b...->...b", [(2, 3, 4)]),
    ("ij,ij->i", [(3, 4), (1, 4)]),
    ("ij,jk->ik", [(3, 1), (4, 5)]),
    ("ij,ij->ij", [(3, 1), (1, 4)]),
    ("ij,j->i", [(3, 1), (1,)]),
    ("ij,jk,kl->il", [(2, 3), (3, 4), (4, 5)]),
    ("bn,anm,bm->ba", [(2, 3), (5, 3, 4), (2, 4)]),
    ("a,b,c->cab", [(2,), (3,), (4,)]),
    ("ab,cd->a", [(2, 3), (4, 5)]),
    ("Ab,bA", [(2, 3), (3, 2)]),
    ("zY,Yx", [(2, 3), (3, 4)]),
    (",i->i", [(), (3,)]),
    ("ij,jk->ik", [(3, 0), (0, 2)]),
    ("ij,kj->ik", [(0, 4), (5, 4)]),
    (" i j , j k -> i k ", [(3, 4), (4, 5)]),
    ("bij,bjk->ik", [(2, 3, 4), (2, 4, 5)]),
]


def test_einsum_notation() -> None:
    calls = {
        f"{i} {e}": (lambda *a, e=e: F.einsum(e, *a) * 1.0, lambda *a, e=e: torch.einsum(e, *a) * 1.0, _arrays(shapes))
        for i, (e, shapes) in enumerate(EQUATIONS)
        if not INTERPRETED or i % 4 == 0
    }
    x, y = data(2, 3), data(3, 4)
    calls["lists"] = (
        lambda a, b: F.einsum(a, [0, 27], b, [27, 1], [1, 0]),
        lambda a, b: torch.einsum(a, [0, 27], b, [27, 1], [1, 0]),
        [x, y],
    )
    calls["lists implicit"] = (
        lambda a, b: F.einsum(a, [..., 1], b, [1, 0]),
        lambda a, b: torch.einsum(a, [..., 1], b, [1, 0]),
        [x, y],
    )
    whole = [np.arange(6).reshape(2, 3), np.arange(12).reshape(3, 4)]
    calls["integers"] = (lambda *a: F.einsum("ij,jk->ki", *a), lambda *a: torch.einsum("ij,jk->ki", *a), whole)
    compare(calls, 40)


def _arrays(shapes: list[tuple[int, ...]]) -> list[np.ndarray]:
    return [data(*s, seed=i) for i, s in enumerate(shapes)]


@st.composite
def equations(draw: Any) -> tuple[str, list[tuple[int, ...]]]:
    sizes = {c: draw(st.integers(1, 4)) for c in "abcde"}
    terms = [draw(st.permutations("abcde"))[: draw(st.integers(0, 4))] for _ in range(draw(st.integers(1, 3)))]
    used = sorted({c for t in terms for c in t})
    output = draw(st.permutations(used))[: draw(st.integers(0, len(used)))]
    shapes = [tuple(1 if draw(st.integers(0, 5)) == 0 else sizes[c] for c in t) for t in terms]
    return ",".join(map("".join, terms)) + "->" + "".join(output), shapes


@given(st.lists(equations(), min_size=6, max_size=6))
@settings(max_examples=examples(10, 2))
def test_einsum_of_any_equation(cases: list[tuple[str, list[tuple[int, ...]]]]) -> None:
    calls: dict[str, Call] = {
        f"{i} {e} {s}": (lambda *a, e=e: F.einsum(e, *a) * 1.0, lambda *a, e=e: torch.einsum(e, *a) * 1.0, _arrays(s))
        for i, (e, s) in enumerate(cases)
    }
    compare(calls, 200)


def test_products() -> None:
    a, b, v, w = data(3, 4), data(4, 5), data(4), data(3)
    x, y = data(2, 3, 4), data(2, 4, 5)
    calls: dict[str, Call] = {
        "mm": same("mm", [a, b]),
        "bmm": same("bmm", [x, y]),
        "mv": same("mv", [a, v]),
        "dot": same("dot", [v, data(4, seed=7)]),
        "inner": same("inner", [x, data(5, 4)]),
        "inner vectors": same("inner", [v, data(4, seed=7)]),
        "inner scalar": same("inner", [data(), v]),
        "outer": same("outer", [v, w]),
        "addmm": same("addmm", [data(5), a, b], beta=0.5, alpha=-2.0),
        "addmm beta 0": same("addmm", [np.full((3, 5), np.nan, np.float32), a, b], beta=0),
        "addmm plain": same("addmm", [data(3, 1), a, b]),
        "baddbmm": same("baddbmm", [data(2, 1, 5), x, y], beta=1.5, alpha=0.25),
        "tensordot 2": same("tensordot", [x, data(3, 4, 6)], dims=2),
        "tensordot 0": same("tensordot", [v, w], dims=0),
        "tensordot lists": same("tensordot", [x, data(4, 6, 2)], dims=([0, 2], [2, 0])),
        "tensordot negative": same("tensordot", [x, data(4, 6)], dims=([-1], [-2])),
        "bilinear": same("bilinear", [data(2, 3, 4), data(2, 3, 5), data(6, 4, 5), data(6)]),
        "bilinear vector": same("bilinear", [data(4), data(5), data(6, 4, 5)]),
        "kron": same("kron", [a, data(2, 2)]),
        "kron ranks": same("kron", [v, data(2, 1, 3)]),
        "cross": same("cross", [data(4, 3), data(4, 3, seed=9)], dim=1),
        "cross broadcast": same("cross", [data(3, 4, 1), data(3, 1, 5, seed=9)], dim=0),
        "empty inside": same("matmul", [data(2, 3, 0), data(0, 4)]),
        "empty linear": same("linear", [data(2, 3, 0), data(4, 0), data(4)]),
        "empty batch": same("matmul", [data(0, 3, 2), data(2, 4)]),
    }
    compare(calls, 20)


def test_distances() -> None:
    x, y, many = data(4, 6), data(5, 6, seed=3), data(30, 6, seed=4)
    calls: dict[str, Call] = {f"p {p}": same("cdist", [x, y], p=p) for p in (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, float("inf"))}
    calls["batch"] = same("cdist", [data(2, 1, 3, 4), data(3, 5, 4)])
    calls["no features"] = same("cdist", [data(3, 0), data(2, 0)])
    calls["no points"] = same("cdist", [data(0, 3), data(2, 3)])
    mode = "use_mm_for_euclid_dist"
    calls["by matmul"] = same("cdist", [x, y], compute_mode=mode)
    calls["many"] = same("cdist", [many, y])
    equal = np.concatenate([x[:2], y[:1]])  # distance 0, and gradient 0 there
    for p in (0.5, 1.0, 1.5, 2.0):
        calls[f"equal {p}"] = same("cdist", [equal, x], p=p, compute_mode=f"donot_{mode}")
    compare(calls, 400)


def test_dtypes_stay() -> None:
    graph = grt.Graph()
    a, b = graph.input("a", (3, 4), "float16"), graph.input("b", (4, 5), "float16")
    found = [F.einsum("ij,jk", a, b), F.cdist(a, a), F.addmm(b[0], a, b, alpha=0.5), F.kron(a, b), F.inner(a, a)]
    assert all(v.dtype.name == "float16" for v in found)


def _ab(g: grt.Graph) -> tuple[grt.Value, grt.Value]:
    return g.input("a", (3, 4)), g.input("b", (4, 5))


BAD: list[tuple[str, Callable[[grt.Graph], Any]]] = [
    ("einsum count", lambda g: F.einsum("ij", *_ab(g))),
    ("einsum rank", lambda g: F.einsum("ijk,kl", *_ab(g))),
    ("einsum sizes", lambda g: F.einsum("ij,ik", *_ab(g))),
    ("einsum output", lambda g: F.einsum("ij,jk->il", *_ab(g))),
    ("einsum output twice", lambda g: F.einsum("ij,jk->ii", *_ab(g))),
    ("einsum character", lambda g: F.einsum("i1,1k", *_ab(g))),
    ("einsum dots", lambda g: F.einsum("..ij,jk", *_ab(g))),
    ("einsum two ellipses", lambda g: F.einsum("...i...,jk", *_ab(g))),
    ("einsum arrows", lambda g: F.einsum("ij,jk->ik->i", *_ab(g))),
    ("einsum diagonal", lambda g: F.einsum("ii", _ab(g)[0])),
    ("einsum number", lambda g: F.einsum("ij,", _ab(g)[0], 2.0)),
    ("einsum lists", lambda g: F.einsum(_ab(g)[0], [0, 60])),
    ("einsum list of strings", lambda g: F.einsum(_ab(g)[0], ["a", "b"])),
    ("addbmm rank", lambda g: F.addbmm(g.input("x", (3, 5)), *_ab(g))),
    ("addbmm batch", lambda g: F.addbmm(g.input("x", (3, 5)), g.input("y", (2, 3, 4)), g.input("z", (3, 4, 5)))),
    ("addbmm input", lambda g: F.addbmm(g.input("x", (2, 5)), g.input("y", (2, 3, 4)), g.input("z", (2, 4, 5)))),
    ("dist shapes", lambda g: F.dist(*_ab(g))),
    ("dist integers", lambda g: F.dist(g.input("x", (3,), "int64"), g.input("y", (3,), "int64"))),
    ("dist order", lambda g: F.dist(g.input("x", (3,)), g.input("y", (3,)), "two")),
    ("mm rank", lambda g: F.mm(g.input("x", (2, 3, 4)), _ab(g)[1])),
    ("mm sizes", lambda g: F.mm(*reversed(_ab(g)))),
    ("mm number", lambda g: F.mm(_ab(g)[0], 2)),
    ("bmm batch", lambda g: F.bmm(g.input("x", (2, 3, 4)), g.input("y", (1, 4, 5)))),
    ("bmm rank", lambda g: F.bmm(*_ab(g))),
    ("bmm sizes", lambda g: F.bmm(g.input("x", (2, 3, 4)), g.input("y", (2, 3, 4)))),
    ("mv rank", lambda g: F.mv(*_ab(g))),
    ("mv sizes", lambda g: F.mv(_ab(g)[0], g.input("v", (3,)))),
    ("mv none", lambda g: F.mv(_ab(g)[0], None)),
    ("dot rank", lambda g: F.dot(*_ab(g))),
    ("dot sizes", lambda g: F.dot(g.input("v", (3,)), g.input("w", (4,)))),
    ("dot number", lambda g: F.dot(g.input("v", (3,)), 1.0)),
    ("inner sizes", lambda g: F.inner(*_ab(g))),
    ("inner number", lambda g: F.inner(_ab(g)[0], 1.0)),
    ("inner string", lambda g: F.inner("a", _ab(g)[0])),
    ("outer rank", lambda g: F.outer(*_ab(g))),
    ("outer number", lambda g: F.outer(g.input("v", (3,)), 2.0)),
    ("outer scalar", lambda g: F.outer(g.input("v", (3,)), g.input("s"))),
    ("addmm input", lambda g: F.addmm(g.input("v", (4,)), *_ab(g))),
    ("addmm wide input", lambda g: F.addmm(g.input("v", (2, 3, 5)), *_ab(g))),
    ("addmm beta", lambda g: F.addmm(g.input("v", (5,)), *_ab(g), beta="1")),
    ("baddbmm rank", lambda g: F.baddbmm(g.input("v", (5,)), *_ab(g))),
    ("baddbmm input", lambda g: F.baddbmm(g.input("v", (4,)), g.input("x", (2, 3, 4)), g.input("y", (2, 4, 5)))),
    ("baddbmm alpha", lambda g: F.baddbmm(g.input("v"), g.input("x", (2, 3, 4)), g.input("y", (2, 4, 5)), alpha=None)),
    ("tensordot many", lambda g: F.tensordot(*_ab(g), dims=3)),
    ("tensordot sizes", lambda g: F.tensordot(*_ab(g), dims=2)),
    ("tensordot lengths", lambda g: F.tensordot(*_ab(g), dims=([0, 1], [0]))),
    ("tensordot twice", lambda g: F.tensordot(*_ab(g), dims=([0, 0], [0, 0]))),
    ("tensordot string", lambda g: F.tensordot(*_ab(g), dims="2")),
    ("bilinear weight", lambda g: F.bilinear(*_ab(g), _ab(g)[0])),
    ("bilinear sizes", lambda g: F.bilinear(g.input("x", (2, 3)), g.input("y", (2, 4)), g.input("w", (5, 4, 3)))),
    ("bilinear batch", lambda g: F.bilinear(g.input("x", (2, 3)), g.input("y", (1, 4)), g.input("w", (5, 3, 4)))),
    (
        "bilinear bias",
        lambda g: F.bilinear(g.input("x", (3,)), g.input("y", (4,)), g.input("w", (5, 3, 4)), g.input("b", (4,))),
    ),
    ("kron number", lambda g: F.kron(_ab(g)[0], 2)),
    ("kron none", lambda g: F.kron(None, _ab(g)[0])),
    ("kron list", lambda g: F.kron(_ab(g)[0], [_ab(g)[1]])),
    ("cross size", lambda g: F.cross(*[_ab(g)[0]] * 2, dim=1)),
    ("cross none", lambda g: F.cross(*[g.input("x", (2, 4))] * 2)),
    ("cross shapes", lambda g: F.cross(g.input("x", (2, 3)), g.input("y", (4, 3)), dim=1)),
    ("cross ranks", lambda g: F.cross(g.input("x", (2, 3)), g.input("y", (3,)), dim=1)),
    ("cdist rank", lambda g: F.cdist(g.input("x", (3,)), g.input("y", (3,)))),
    ("cdist sizes", lambda g: F.cdist(*_ab(g))),
    ("cdist p", lambda g: F.cdist(*[_ab(g)[0]] * 2, p=-1.0)),
    ("cdist nan", lambda g: F.cdist(*[_ab(g)[0]] * 2, p=float("nan"))),
    ("cdist mode", lambda g: F.cdist(*[_ab(g)[0]] * 2, compute_mode="exact")),
    ("cdist integers", lambda g: F.cdist(*[g.input("i", (2, 3), "int32")] * 2)),
]

"""Index expressions mean what Python's integers mean, and views compose to what a hand would write."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
from hypothesis import given, settings

from graphrt.index import Expr, axes, axis, delinearize, linearize, row_major

EXTENTS = {"a": 3, "b": 5, "c": 7}
Pair = tuple[Expr, Callable[[dict[str, int]], int]]


def evaluate(e: Expr, at: dict[str, int]) -> int:
    """The value of ``e``; also checks that no quotient or remainder has a negative operand."""
    total = e.const
    for atom, k in e.terms:
        if atom[0] == "axis":
            total += k * at[atom[1]]
        else:
            inner = evaluate(atom[1], at)
            assert inner >= 0, f"{atom[1]} is {inner}: C and Python would divide differently"
            total += k * (inner // atom[2] if atom[0] == "div" else inner % atom[2])
    return total


@st.composite
def expressions(draw: Any, depth: int = 4) -> Pair:
    if depth == 0 or draw(st.integers(0, 4)) == 0:
        name = draw(st.sampled_from(sorted(EXTENTS)))
        return axis(name, EXTENTS[name]), lambda at, n=name: at[n]
    e, f = draw(expressions(depth - 1))
    match draw(st.sampled_from(["add", "scale", "div", "mod"])):
        case "add":
            e2, f2 = draw(expressions(depth - 1))
            return e + e2, lambda at: f(at) + f2(at)
        case "scale":
            k, c = draw(st.sampled_from([-3, -1, 2, 4, 6])), draw(st.integers(-9, 9))
            return e * k + c, lambda at: f(at) * k + c
        case "div":
            c = draw(st.sampled_from([2, 3, 4, 6, 12]))
            return e // c, lambda at: f(at) // c
        case _:
            c = draw(st.sampled_from([2, 3, 4, 6, 12]))
            return e % c, lambda at: f(at) % c


@given(expressions())
@settings(max_examples=300)
def test_expressions_are_integer_arithmetic(pair: Pair) -> None:
    e, f = pair
    low, high = e.range()
    for point in itertools.product(*map(range, EXTENTS.values())):
        at = dict(zip(EXTENTS, point, strict=True))
        value = evaluate(e, at)
        assert value == f(at) and low <= value <= high
        assert eval(e.render(), {}, dict(at)) == value
    assert e * 5 + e * -5 == Expr((), 0) == e * 0  # what cancels out leaves nothing behind


@given(expressions(), st.sets(st.sampled_from(sorted(EXTENTS))))
def test_axes_are_renamed(pair: Pair, some: set[str]) -> None:
    """Those that are named; what divides them is none."""
    renamed = pair[0].renamed({name: name.upper() for name in some})
    assert renamed.axes() == {name.upper() if name in some else name for name in pair[0].axes()}
    for point in itertools.product(*map(range, EXTENTS.values())):
        at = dict(zip(EXTENTS, point, strict=True))
        assert evaluate(renamed, {**at, **{name.upper(): at[name] for name in some}}) == pair[1](at)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4))
def test_delinearize_undoes_linearize(shape: list[int]) -> None:
    index = axes("i", shape)
    flat = linearize(index, row_major(shape))
    assert delinearize(flat, shape) == index


@given(st.integers(2, 6), st.integers(2, 6))
def test_what_is_the_same_is_written_in_one_way(b: int, c: int) -> None:
    """Quotients and remainders of each other, of an axis long enough that none of them is trivial."""
    x = axis("x", 1000)
    assert (x % (c * b)) // c == (x // c) % b
    assert (x // b) // c == x // (b * c) and (x % (b * c)) % c == x % c
    assert x // c * c + x % c == x and (x * c + c - 1) // c == x and (x * c + c - 1) % c == Expr((), c - 1)


def test_reshapes_compose() -> None:
    m = axis("m", 64 * 28 * 28)
    n, h, w = delinearize(m, (64, 28, 28))
    assert linearize((n, h, w), (784, 28, 1)) == m
    assert str(h) == "((m // 28) % 28)" and w.stride("m") is None and m.stride("m") == 1


def test_a_part_that_cannot_carry_is_dropped() -> None:
    i, j = axis("i", 8), axis("j", 2)
    assert (i * 2 + j) // 4 == i // 2
    assert (i * 2 + j) % 4 == (i % 2) * 2 + j

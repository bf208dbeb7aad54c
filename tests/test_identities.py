"""Updates that compute what is there already: every such graph compiles, whatever a compiler sees, and changes no bit."""

from __future__ import annotations

from collections.abc import Callable

import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import pytest
from conftest import INTERPRETED
from hypothesis import given, settings
from test_scalar import same as same_bits

import graphrt as grt
from graphrt import Value
from graphrt import ops as F
from graphrt.passes.simplify import simplify
from graphrt.types import DTYPES, DType, as_dtype

pytestmark = [pytest.mark.interpret] if INTERPRETED else []
TARGET = "interpret" if INTERPRETED else "cpu"
Step = Callable[[Value, Value], Value]  # of a value of two dimensions and a condition of its shape
SEEN: dict[str, Step] = {  # what is left out before there is a kernel
    "where": lambda x, c: F.where(c, x, x),
    "wheres": lambda x, c: F.where(c, x, F.where(F.logical_not(c), x, x)),
    "flips around a reshape": lambda x, c: F.reshape(F.flip(F.reshape(F.flip(x, (0, 1)), (x.type.size,)), (0,)), x.shape),
    "permutes around a reshape": lambda x, c: F.transpose(F.reshape(F.transpose(x, 0, 1), x.shape[::-1]), 0, 1),
    "a slice of repeats": lambda x, c: F.expand(x[None], (3, *x.shape))[1],
    "cropped again": lambda x, c: F.pad(x, (1, 2, 3, 0))[3:, 1:-2],
    "one of a stack": lambda x, c: F.stack([F.flip(x, (0,)), x])[1],
}
NUMBERS: dict[str, Step] = {
    "larger": lambda x, c: F.maximum(x, x),
    "smaller": lambda x, c: F.minimum(x, x),
    "minus minus": lambda x, c: F.neg(F.neg(x)),
    "times one": lambda x, c: x * 1 / 1 if x.dtype.is_float else x * 1,
}
BITS: dict[str, Step] = {
    "and": lambda x, c: F.bitwise_and(x, x),
    "or": lambda x, c: F.bitwise_or(x, x),
    "not not": lambda x, c: F.bitwise_not(F.bitwise_not(x)),
}
UNSEEN: dict[str, Step] = {  # kernels of which a compiler may leave nothing
    "halves": lambda x, c: F.cat([x[:1], x[1:]]),
    "rolled back": lambda x, c: F.roll(F.roll(x, 1, 1), -1, 1),
    "gathered": lambda x, c: F.index_select(x, 0, F.arange(x.graph, x.shape[0])),
    "parts": lambda x, c: F.where(c, F.where(c, x, F.flip(x, (1,))), F.where(c, F.flip(x, (0,)), x)),
}
UNSEEN_BITS: dict[str, Step] = {
    "xor": lambda x, c: F.bitwise_xor(F.bitwise_xor(x, F.cast(c, x.dtype)), F.cast(c, x.dtype)),
    "and or": lambda x, c: F.bitwise_or(F.bitwise_and(x, F.cast(c, x.dtype)), x),
}


def steps(dtype: str) -> dict[str, Step]:
    """All that give back a value of ``dtype``, by name."""
    d = as_dtype(dtype)
    wider = [w for w in DTYPES.values() if w.holds(d) and w is not d]
    casts: dict[str, Step] = {f"by {w}": lambda x, c, w=w: F.cast(F.cast(x, w), d) for w in wider}  # type: ignore[misc]
    numbers = {} if d.is_bool else NUMBERS
    bits = {} if d.is_float else BITS | UNSEEN_BITS
    return SEEN | UNSEEN | numbers | bits | casts


def numbers(dtype: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Numbers of ``dtype`` with both zeros, the ends of its range and, of floats, infinities and NaN."""
    d = as_dtype(dtype)
    if d.is_bool:
        return rng.random(shape) < 0.5
    if d.is_int:
        return rng.integers(np.iinfo(d.numpy).min, np.iinfo(d.numpy).max, shape, d.numpy, endpoint=True)
    info = ml_dtypes.finfo(d.numpy)
    unread = INTERPRETED and dtype == "bfloat16"  # Triton's interpreter takes its subnormal numbers for zeros
    least = info.tiny if unread else info.smallest_subnormal
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, info.max, info.tiny, least]
    x = rng.standard_normal(shape).astype(d.numpy)
    x.flat[: len(special)] = np.array(special, d.numpy)[: x.size]
    return x


def unchanged(chains: list[tuple[str, list[str]]], shape: tuple[int, ...]) -> None:
    """Each parameter becomes what a chain of steps makes of it, and is the same, bit for bit, behind two runs."""
    g, rng = grt.Graph(), np.random.default_rng(0)
    c = g.input("c", shape, "bool")
    for i, (dtype, names) in enumerate(chains):
        p = x = g.parameter(f"p{i}", numbers(dtype, shape, rng))
        for name in names:
            x = steps(dtype)[name](x, c)
        g.update(p, x)
        g.output(f"y{i}", F.flip(x, (0,)))
    program = grt.compile(g, target=TARGET)
    for _ in range(2):
        found = program({"c": rng.random(shape) < 0.5} if program.inputs else {})
        for i, (dtype, names) in enumerate(chains):
            before, message = g.initial[f"p{i}"], f"{dtype} {names}"
            for now in (program.state[f"p{i}"], found[f"y{i}"][::-1]):
                if as_dtype(dtype).is_float:
                    same = same_bits(now.astype(np.float64), before.astype(np.float64))
                    assert same.all(), f"{message}: {now} is not {before}"
                else:
                    np.testing.assert_array_equal(now, before, err_msg=message)


@pytest.mark.parametrize("dtype", DTYPES)
def test_each_update_that_changes_nothing(dtype: str, optimized: None) -> None:
    unchanged([(dtype, [name]) for name in steps(dtype)], (3, 5))


@settings(max_examples=3 if INTERPRETED else 8)
@given(st.data())
def test_updates_that_change_nothing(data: st.DataObject) -> None:
    dtypes = data.draw(st.lists(st.sampled_from(sorted(DTYPES)), min_size=6, max_size=6))
    chains = [(d, data.draw(st.lists(st.sampled_from(sorted(steps(d))), min_size=1, max_size=4))) for d in dtypes]
    unchanged(chains, data.draw(st.tuples(st.integers(2, 9), st.integers(2, 70))))


@pytest.mark.skipif(INTERPRETED, reason="passes are the same in both lanes")
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_gives_back_its_operand_is_left_out(dtype: str) -> None:
    unseen = UNSEEN | UNSEEN_BITS
    for name, step in steps(dtype).items():
        g = grt.Graph()
        x = g.output("y", step(g.input("x", (3, 5), dtype), g.input("c", (3, 5), "bool")))
        if name not in unseen and x.node.op.name != "input":
            assert [n for n in simplify(g).nodes if n.op.name != "input"] == [], name


@pytest.mark.skipif(INTERPRETED, reason="about dtypes")
def test_a_dtype_holds_another_where_every_number_is_kept() -> None:
    rng = np.random.default_rng(0)

    def plain(array: np.ndarray, d: DType) -> list[float | int]:
        return (array.astype(np.float64) if d.is_float else array).tolist()

    for narrow in DTYPES.values():
        some = numbers(narrow.name, (64,), rng)
        if narrow.is_int:
            some = np.array([np.iinfo(narrow.numpy).max, np.iinfo(narrow.numpy).min], narrow.numpy)
        for wide in DTYPES.values():
            with np.errstate(all="ignore"):
                pairs = zip(plain(some, narrow), plain(some.astype(wide.numpy), wide), strict=True)
            kept = all(a == b or (a != a and b != b) for a, b in pairs)
            assert wide.holds(narrow) == kept, f"{narrow} as {wide}"

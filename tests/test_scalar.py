"""Scalar functions on every target over a dense grid of special and ordinary values, against mpmath: one table of bounds.

The oracle of a result is the exact one, of infinities, NaN and the signs of zeros C's and NumPy's; of division torch's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from conftest import target_parameters

import graphrt as grt
from bench.ulp import BOUNDS, BOUNDS_OF_TWO, FLOATS, exact, exact_of_two, grid, pairs, units
from graphrt import ops as F
from graphrt.targets.scalar import c_number, triton_number
from graphrt.types import as_dtype, float32, int32, int64

TARGETS = [*target_parameters(), "reference"]


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("dtype", FLOATS)
def test_functions_of_one_number(dtype: str, target: str) -> None:
    g, x = grt.Graph(), grid(dtype)
    if (target, dtype) == ("interpret", "bfloat16"):  # whose subnormal numbers Triton's interpreter does not read
        x = x[(x == 0) | ~(np.abs(x) < np.finfo(np.float32).tiny)]
    v = g.input("x", x.shape, dtype)
    for name in BOUNDS:
        g.output(name, getattr(F, name)(v))
    found = grt.compile(g, target=target)(x=x)
    wrong = []
    for name, bounds in BOUNDS.items():
        bound = {"float32": bounds[0], "float64": bounds[1]}.get(dtype, 1)
        errors = [units(float(y), exact(name, float(a)), dtype) for a, y in zip(x, found[name], strict=True)]
        if max(errors) > bound:
            where = [(float(x[i]), float(found[name][i])) for i in np.argsort(errors)[::-1][:5] if errors[i] > bound]
            wrong.append(f"{name}: {max(errors):.3g} of {bound} units, {where}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_functions_of_two_numbers(dtype: str, target: str) -> None:
    g, (x, y) = grt.Graph(), pairs(dtype)
    a, b = g.input("x", x.shape, dtype), g.input("y", y.shape, dtype)
    for name in BOUNDS_OF_TWO:
        g.output(name, getattr(F, name)(a, b))
    found = grt.compile(g, target=target)(x=x, y=y)
    wrong = []
    for name, bounds in BOUNDS_OF_TWO.items():
        bound = bounds[dtype == "float64"]
        rows = [
            (units(float(z), exact_of_two(name, float(p), float(q)), dtype), p, q, z)
            for p, q, z in zip(x, y, found[name], strict=True)
        ]
        wrong += [f"{name}{row}" for row in rows if row[0] > bound][:5]
    assert not wrong, "\n".join(wrong)


def same(actual: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Where two arrays are the same bit for bit, but for what NaN is made of."""
    zeros = (actual == 0) & (np.signbit(actual) != np.signbit(expected))
    return ((actual == expected) & ~zeros) | (np.isnan(actual) & np.isnan(expected))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_negation_turns_the_sign_of_zero(dtype: str, target: str) -> None:
    x = np.array([0.0, -0.0, 1, -2.5, 1e-7, math.inf, -math.inf, math.nan]).astype(as_dtype(dtype).numpy)
    g = grt.Graph()
    v = g.input("x", x.shape, dtype)
    with np.errstate(all="ignore"):
        expected = {
            "alone": -x,
            "reciprocal": 1 / -x,
            "behind a copy of the sign": np.copysign(np.ones_like(x), -x),
            "of a sum": -(x + x),
            "gradient": -x,
        }
    g.output("alone", -v)
    g.output("reciprocal", 1.0 / -v)
    g.output("behind a copy of the sign", F.copysign(F.ones_like(v), -v))
    g.output("of a sum", -(v + v))
    g.output("gradient", grt.grad(1.0 - v, [v], v)[0])
    g.output("signbit", F.signbit(-v))
    found = grt.compile(g, target=target)(x=x)
    for name, right in expected.items():
        number = ~np.isnan(x)
        assert same(found[name].astype(np.float64), right.astype(np.float64))[number].all(), (
            f"{name}: {found[name]} is not {right}"
        )
    np.testing.assert_array_equal(found["signbit"][:-1], np.signbit(-x)[:-1])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_whole_division_of_floats(dtype: str, target: str) -> None:
    """Bit for bit torch's: floor_divide(1, 0.1) is 9 and floor_divide(-1, inf) is -1; remainders are exact."""
    rng, (x, y) = np.random.default_rng(2), pairs(dtype)
    many = rng.integers(1, 200, 500) * rng.choice([1, 0.1, 0.3, 1e-3], 500)  # exact multiples, and nearly so
    x, y = (
        np.concatenate([x, many, many]).astype(dtype),
        np.concatenate([y, many, rng.choice([0.1, 0.3, 3, 7], 500)]).astype(dtype),
    )
    g = grt.Graph()
    a, b = g.input("x", x.shape, dtype), g.input("y", y.shape, dtype)
    g.output("floor_divide", F.floor_divide(a, b))
    g.output("trunc", F.divide(a, b, "trunc"))
    g.output("fmod", F.fmod(a, b))
    g.output("remainder", F.remainder(a, b))
    found = grt.compile(g, target=target)(x=x, y=y)
    s, t = torch.from_numpy(x), torch.from_numpy(y)
    expected = {"floor_divide": torch.floor_divide(s, t).numpy(), "trunc": torch.div(s, t, rounding_mode="trunc").numpy()}
    with np.errstate(all="ignore"):  # torch's own remainders are NaN where the quotient overflows
        r = expected["fmod"] = np.fmod(x, y)
        expected["remainder"] = np.where((r != 0) & ((r < 0) != (y < 0)), r + y, r)
    for name, z in expected.items():
        wrong = ~same(found[name], z)
        rows = [*zip(x[wrong], y[wrong], found[name][wrong], z[wrong], strict=True)]
        assert not rows, f"{name}: {len(rows)} wrong, {rows[:8]}"


def test_numbers_are_written_in_their_width() -> None:
    """A plain 5 is an int in C, and INT64_C(5) none; infinities have no literal."""
    assert [c_number(5, dtype) for dtype in (int32, int64)] == ["5", "INT64_C(5)"]
    assert c_number(-(2**63), int64) == "INT64_MIN"
    assert [c_number(x, float32) for x in (math.inf, -math.inf, 0.5)] == ["(float)INFINITY", "(float)-INFINITY", "0.5f"]
    assert [triton_number(x, float32) for x in (math.inf, -math.inf, 0.5)] == ['float("inf")', 'float("-inf")', "0.5"]


INTEGERS = ("int8", "int16", "int32", "int64", "uint8")


def test_whole_division_of_integers(target: str) -> None:
    """Also of the smallest, by -1 and by zero, in every width."""
    g, feeds = grt.Graph(), dict[str, np.ndarray]()
    for dtype in INTEGERS:
        info = np.iinfo(dtype)
        numbers = {info.min, info.min + 1, info.max, info.max - 1, 0, 1, 2, 3, 7, 100}
        numbers |= {-n for n in numbers if info.min <= -n <= info.max}
        x, y = (np.array(n, dtype) for n in zip(*product(sorted(numbers), repeat=2), strict=True))
        feeds |= {f"{dtype}.x": x, f"{dtype}.y": y}
        a, b = g.input(f"{dtype}.x", x.shape, dtype), g.input(f"{dtype}.y", y.shape, dtype)
        g.output(f"{dtype}.floor_divide", F.floor_divide(a, b))
        g.output(f"{dtype}.remainder", F.remainder(a, b))
        g.output(f"{dtype}.fmod", F.fmod(a, b))
        g.output(f"{dtype}.trunc", F.divide(a, b, "trunc"))
        g.output(f"{dtype}.pow", F.pow(a, b))
        g.output(f"{dtype}.abs", F.abs(a))
    found = grt.compile(g, target=target)(feeds)

    def power(x: int, p: int) -> int:
        return x ** (p % 2 if x == -1 else p) if p >= 0 and abs(x) < 2 else pow(x, p, 2**64) if p >= 0 else 0

    for dtype in INTEGERS:
        x, y = ([int(n) for n in feeds[f"{dtype}.{k}"]] for k in "xy")
        trunc = [0 if q == 0 else (abs(p) // abs(q)) * (1 if (p < 0) == (q < 0) else -1) for p, q in zip(x, y, strict=True)]
        expected = {
            "floor_divide": [p // q if q else 0 for p, q in zip(x, y, strict=True)],
            "remainder": [p % q if q else 0 for p, q in zip(x, y, strict=True)],
            "fmod": [p - q * t for p, q, t in zip(x, y, trunc, strict=True)],
            "trunc": trunc,
            "pow": [power(p, q) if q >= 0 else (p if q % 2 else 1) if abs(p) == 1 else 0 for p, q in zip(x, y, strict=True)],
            "abs": [abs(p) for p in x],
        }
        expected["fmod"] = [f if q else 0 for f, q in zip(expected["fmod"], y, strict=True)]
        for name, numbers in expected.items():
            wrapped = np.array([n % 2 ** (8 * np.dtype(dtype).itemsize) for n in numbers], np.uint64).astype(dtype)
            wrong = found[f"{dtype}.{name}"] != wrapped
            rows = [*zip(np.array(x)[wrong], np.array(y)[wrong], found[f"{dtype}.{name}"][wrong], wrapped[wrong], strict=True)]
            assert not rows, f"{dtype} {name}: {rows[:8]}"


NAMES = (
    "abs sign frac exp exp2 expm1 log log2 log10 log1p sqrt rsqrt sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh"
)
NAMES += (
    " erf erfc erfinv sigmoid relu6 hardtanh leaky_relu hardshrink softshrink hardsigmoid elu selu celu softplus logsigmoid"
)
NAMES += " softsign tanhshrink silu mish square reciprocal sinc deg2rad nan_to_num"
NAMES_OF_TWO = "add mul div maximum minimum atan2 hypot logaddexp xlogy copysign fmod remainder pow"
POINTS = [0.0, 1.0, 0.5, 2.0, 3.0, 6.0, 18.0, 1e-30, 1e20, math.inf]


def clamped(low: float | None, high: float | None) -> tuple[Callable[..., Any], Callable[..., Any]]:
    return (lambda x: F.clamp(x, low, high)), (lambda x: torch.clamp(x, low, high))


def powered(p: float) -> tuple[Callable[..., Any], Callable[..., Any]]:
    return (lambda x: F.pow(x, p)), (lambda x: torch.pow(x, torch.tensor(p, dtype=x.dtype)))  # of 0.5 torch takes the root


ONE = {name: (getattr(F, name), getattr(torch, name, None) or getattr(torch.nn.functional, name)) for name in NAMES.split()}
ONE |= {f"pow {p}": powered(p) for p in (0.0, 0.5, 2.0, 3.0, -1.0, -2.0, 1.5, 4.0)}
ONE |= {f"clamp {bounds}": clamped(*bounds) for bounds in ((-1.0, 2.0), (None, 1.0), (math.nan, 1.0))}
ONE["2 to the"] = (lambda x: F.pow(2.0, x), lambda x: torch.pow(2.0, x))
TWO = {name: (getattr(F, name), getattr(torch, name)) for name in NAMES_OF_TWO.split()}
TWO["clamp"] = (F.clamp, torch.clamp)
TWO["where"] = (lambda a, b: F.where(a > 0, a, b), lambda a, b: torch.where(a > 0, a, b))

UNDEFINED: dict[str, Callable[[np.ndarray], np.ndarray]] = {"acosh": lambda x: x < 1, "rsqrt": lambda x: x == 0}
for _name in "relu6 hardtanh hardshrink softshrink hardsigmoid elu selu celu".split():
    UNDEFINED[_name] = np.isnan  # torch's gradient depends on whether the element is one of a whole vector


def test_values_and_gradients_at_special_points_are_torchs(target: str) -> None:
    points = np.array([*POINTS, *(-np.array(POINTS)), math.nan])
    g, arrays = grt.Graph(), [points, *(np.ravel(a) for a in np.meshgrid(points, points))]
    x, *xy = (g.input(n, a.shape, "float64") for n, a in zip(("x", "a", "b"), arrays, strict=True))
    calls = [(name, *pair, [x]) for name, pair in ONE.items()] + [(name, *pair, xy) for name, pair in TWO.items()]
    for name, ours, _, values in calls:
        y = ours(*values)
        for i, v in enumerate([y, *grt.grad(y, values, F.ones_like(y))]):
            g.output(f"{name}.{i}", v)
    found = grt.compile(g, target=target)(**dict(zip(("x", "a", "b"), arrays, strict=True)))
    wrong = []
    for name, _, theirs, values in calls:
        given = arrays[:1] if len(values) == 1 else arrays[1:]
        tensors = [torch.from_numpy(a.copy()).requires_grad_() for a in given]
        y = theirs(*tensors)
        y.backward(torch.ones_like(y))
        for i, z in enumerate([y.detach(), *(torch.zeros_like(t) if t.grad is None else t.grad for t in tensors)]):
            near = np.isclose(found[f"{name}.{i}"], z.numpy(), 1e-7, 0 if name != "expm1" else 1e-15, equal_nan=True)
            near |= UNDEFINED[name](given[0]) if i and name in UNDEFINED else False
            rows = [(*(float(a[j]) for a in given), float(found[f"{name}.{i}"][j]), float(z[j])) for j in np.where(~near)[0]]
            wrong += [f"{name}.{i} {rows[:4]}"] if rows else []
    assert not wrong, "\n".join(wrong)

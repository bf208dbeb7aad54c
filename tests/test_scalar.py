"""Scalar functions on every target over a dense grid of special and ordinary values, against mpmath: one table of bounds.

The oracle of a result is the exact one, of infinities, NaN and the signs of zeros C's and NumPy's; of division torch's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import ml_dtypes
import mpmath
import numpy as np
import pytest
import torch
from conftest import target_parameters

import graphrt as grt
from graphrt import ops as F
from graphrt.types import as_dtype

TARGETS = [*target_parameters(), "reference"]
mpmath.mp.dps = 50


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest) -> str:
    return request.param


# Units in the last place that a result may be off, in float32 and float64; in halves it is one.
BOUNDS: dict[str, tuple[float, float]] = {
    "exp": (2, 1), "exp2": (2, 1), "expm1": (3, 4), "log": (2, 1), "log2": (2, 1), "log10": (2, 2), "log1p": (3, 4),
    "sqrt": (0.5, 0.5), "rsqrt": (2, 2), "reciprocal": (0.5, 0.5), "square": (0.5, 0.5),
    "sin": (1, 1), "cos": (1, 1), "tan": (2, 2), "asin": (4, 4), "acos": (4, 4), "atan": (2, 2),
    "sinh": (4, 4), "cosh": (4, 4), "tanh": (3, 4), "asinh": (4, 4), "acosh": (4, 4), "atanh": (4, 4),
    "erf": (3, 2), "erfc": (5, 5), "erfinv": (4, 4), "sigmoid": (3, 3),
}  # fmt: skip
FLOATS = ("float32", "float64", "float16", "bfloat16")
EXACT: dict[str, Callable[[Any], Any]] = {
    "exp2": lambda x: mpmath.mpf(2) ** x,
    "log2": lambda x: mpmath.log(x, 2),
    "rsqrt": lambda x: 1 / mpmath.sqrt(x),
    "reciprocal": lambda x: 1 / x,
    "square": lambda x: x * x,
    "sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)),
    "erf": lambda x: mpmath.erf(min(max(x, -99), 99)) if abs(x) > 1e-30 else x * 2 / mpmath.sqrt(mpmath.pi),
    "erfc": lambda x: mpmath.erfc(min(max(x, -99), 99)) if abs(x) > 1e-30 else mpmath.mpf(1),
    "erfinv": lambda x: mpmath.erfinv(x) if abs(x) > 1e-30 else x * mpmath.sqrt(mpmath.pi) / 2,
}
SPECIAL: dict[str, Callable[[Any], Any]] = {
    **{f"a{name}": getattr(np, f"arc{name}") for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")},
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    **{name: np.vectorize(getattr(math, name)) for name in ("erf", "erfc")},
    "erfinv": lambda x: x if x == 0 else np.nan,
}


def grid(dtype: str) -> np.ndarray:
    """Zeros, infinities, NaN, subnormals, the ends of the range, one and its neighbours, numbers of all sizes."""
    info = np.finfo(np.float64 if dtype == "float64" else np.float32)
    rng = np.random.default_rng(0)
    big = math.log(float(info.max))
    positive = [0.0, np.inf, float(info.smallest_subnormal), float(info.tiny) / 3, float(info.tiny), float(info.max)]
    positive += [1.0, 1 - float(info.epsneg), 1 + float(info.eps), 0.5, 5.0, 10.0, 88.8, 89.3, 1e-30, 1e30]
    positive += (
        [10.0**k for k in range(1, 8)] + [2.0**k for k in range(-6, 12)] + [big * (1 - 1e-5), big * (1 + 1e-5), big * 1.01]
    )
    positive += [*np.linspace(0.01, 3, 60), *(10 ** rng.uniform(-8, 2.9, 80)), *(1 - 10 ** rng.uniform(-7, -1, 10))]
    x = np.array(positive)
    with np.errstate(over="ignore"):
        return np.concatenate([x, -x, [np.nan]]).astype(as_dtype(dtype).numpy)


def exact(name: str, x: float) -> Any:
    """An mpf, or a special float."""
    if x == 0 or not math.isfinite(x):
        with np.errstate(all="ignore"):
            return float((SPECIAL.get(name) or getattr(np, name))(np.float64(x)))
    try:
        y = (EXACT.get(name) or getattr(mpmath, name))(mpmath.mpf(x))
    except (ValueError, ZeroDivisionError):
        return math.nan
    return math.nan if isinstance(y, mpmath.mpc) else y


def units(actual: float, expected: Any, dtype: str) -> float:
    """The error in units in the last place; infinity where what is special is wrong."""
    info = ml_dtypes.finfo(as_dtype(dtype).numpy)
    if math.isnan(expected) or math.isnan(actual):
        return 0 if math.isnan(expected) and math.isnan(actual) else math.inf
    if expected == 0:
        return 0 if actual == 0 and math.copysign(1, actual) == math.copysign(1, expected) else math.inf
    top = mpmath.mpf(2) ** (info.maxexp)
    a, e = (max(-top, min(top, mpmath.mpf(v))) for v in (actual, expected))
    if a == 0 and math.copysign(1, actual) != mpmath.sign(e):
        return math.inf
    exponent = max(int(mpmath.floor(mpmath.log(abs(e), 2))), info.minexp)
    return float(abs(a - e) / mpmath.mpf(2) ** (exponent - info.nmant))


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


BOUNDS_OF_TWO = {"pow": (2, 2), "atan2": (3, 3), "hypot": (3, 3), "div": (0.5, 0.5)}
EXACT_OF_TWO: dict[str, Callable[[Any, Any], Any]] = {
    "pow": lambda x, p: mpmath.mpf(x) ** mpmath.mpf(p),
    "atan2": lambda y, x: mpmath.atan2(mpmath.mpf(y), mpmath.mpf(x)),
    "hypot": lambda x, y: mpmath.sqrt(mpmath.mpf(x) ** 2 + mpmath.mpf(y) ** 2),
    "div": lambda x, y: mpmath.mpf(x) / mpmath.mpf(y),
}
SPECIAL_OF_TWO = {"pow": np.float_power, "atan2": np.arctan2, "hypot": np.hypot, "div": np.divide}


def pairs(dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Every pair of special numbers, and ordinary ones of all sizes; among them large powers of what is close to 1."""
    rng = np.random.default_rng(1)
    top = 1020 if dtype == "float64" else 124
    special = [0.0, 1.0, 0.1, 0.5, 2.0, 3.0, 41.0, 2.5, 1e8, 1e30, 1e-30, 1e-37, np.inf, 2.0**53]
    special += [float(np.finfo(dtype).smallest_subnormal), float(np.finfo(dtype).tiny), float(np.finfo(dtype).max)]
    a, b = zip(*product([*special, *(-np.array(special)), np.nan], repeat=2), strict=True)
    base = np.concatenate([rng.uniform(0, 3, 100), 10 ** rng.uniform(-30, 30, 100), 1 + 10 ** rng.uniform(-5, -1, 100)])
    power = rng.uniform(-top, top, 300) / np.log2(base)
    whole = rng.integers(-50, 50, 300) * rng.uniform(0.01, 10, 300)
    x = np.concatenate([a, base, whole, rng.uniform(-50, 50, 100)])
    y = np.concatenate([b, power, np.resize(whole[::-1], 300) / 7, rng.uniform(-50, 50, 100)])
    with np.errstate(over="ignore"):
        return x.astype(dtype), y.astype(dtype)


def exact_of_two(name: str, x: float, y: float) -> Any:
    with np.errstate(all="ignore"):
        special = float(SPECIAL_OF_TWO[name](np.float64(x), np.float64(y)))
    plain = math.isfinite(x) and math.isfinite(y) and x != 0 and y != 0 and not math.isnan(special)
    if not plain:
        return special
    if name == "pow" and abs(y * math.log2(abs(x))) > 5000:  # beyond every range; the sign is NumPy's
        return special
    found = EXACT_OF_TWO[name](x, y)
    return special if isinstance(found, mpmath.mpc) else found


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

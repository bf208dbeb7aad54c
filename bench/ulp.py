"""How far are elementwise functions from the exact result? The largest errors on each target and in each dtype, in ULP.

python -m bench.ulp > docs/accuracy.md

A dense grid of special and ordinary numbers, and ordinary ones more than the tests take; the oracle is mpmath with 50 digits.
The targets are those of this machine; the interpreter stands for the kernels of a GPU that is not here.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from typing import Any

import ml_dtypes
import mpmath
import numpy as np

import graphrt as grt
from graphrt import ops as F
from graphrt.types import as_dtype

mpmath.mp.dps = 50

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


def grid(dtype: str, more: int = 0) -> np.ndarray:
    """Zeros, infinities, NaN, subnormals, the ends of the range, one and its neighbours, numbers of all sizes, and ``more``."""
    info = np.finfo(np.float64 if dtype == "float64" else np.float32)
    rng = np.random.default_rng(0)
    big = math.log(float(info.max))
    positive = [0.0, np.inf, float(info.smallest_subnormal), float(info.tiny) / 3, float(info.tiny), float(info.max)]
    positive += [1.0, 1 - float(info.epsneg), 1 + float(info.eps), 0.5, 5.0, 10.0, 88.8, 89.3, 1e-30, 1e30]
    positive += (
        [10.0**k for k in range(1, 8)] + [2.0**k for k in range(-6, 12)] + [big * (1 - 1e-5), big * (1 + 1e-5), big * 1.01]
    )
    positive += [*np.linspace(0.01, 3, 60), *(10 ** rng.uniform(-8, 2.9, 80)), *(1 - 10 ** rng.uniform(-7, -1, 10))]
    positive += [*rng.uniform(0, 10, more // 2), *(10 ** rng.uniform(-8, 2.9, more - more // 2))]
    x = np.array(positive)
    with np.errstate(over="ignore"):
        return np.concatenate([x, -x, [np.nan]]).astype(as_dtype(dtype).numpy)


def exact(name: str, x: float) -> Any:
    """The exact result as an mpf, or a special float."""
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


def exact_of_two(name: str, x: float, y: float) -> Any:
    """As ``exact``, of two numbers."""
    with np.errstate(all="ignore"):
        special = float(SPECIAL_OF_TWO[name](np.float64(x), np.float64(y)))
    plain = math.isfinite(x) and math.isfinite(y) and x != 0 and y != 0 and not math.isnan(special)
    if not plain:
        return special
    if name == "pow" and abs(y * math.log2(abs(x))) > 5000:  # beyond every range; the sign is NumPy's
        return special
    found = EXACT_OF_TWO[name](x, y)
    return special if isinstance(found, mpmath.mpc) else found


# --- the page -------------------------------------------------------------------------------------------------------


def largest(target: str, more: int) -> dict[str, dict[str, float]]:
    """The largest error of each function, by dtype."""
    found: dict[str, dict[str, float]] = {}
    for dtype in FLOATS:
        g, x, (a, b) = grt.Graph(), grid(dtype, more), pairs("float64" if dtype == "float64" else "float32")
        if (target, dtype) == ("interpret", "bfloat16"):  # whose subnormal numbers Triton's interpreter does not read
            x = x[(x == 0) | ~(np.abs(x) < np.finfo(np.float32).tiny)]
        v, feeds = g.input("x", x.shape, dtype), {"x": x}
        for name in BOUNDS:
            g.output(name, getattr(F, name)(v))
        if dtype in ("float32", "float64"):
            left, right, feeds = g.input("a", a.shape, dtype), g.input("b", b.shape, dtype), {"x": x, "a": a, "b": b}
            for name in BOUNDS_OF_TWO:
                g.output(name, getattr(F, name)(left, right))
        results = grt.compile(g, target=target)(feeds)
        for name in BOUNDS:
            rows = zip(x, results[name], strict=True)
            found.setdefault(name, {})[dtype] = max(units(float(y), exact(name, float(n)), dtype) for n, y in rows)
        for name in BOUNDS_OF_TWO if "a" in feeds else ():
            pairs_of = zip(a, b, results[name], strict=True)
            errors = (units(float(z), exact_of_two(name, float(n), float(m)), dtype) for n, m, z in pairs_of)
            found.setdefault(name, {})[dtype] = max(errors)
    return found


def page(found: dict[str, dict[str, dict[str, float]]]) -> str:
    """The tables in Markdown, of errors by target, function and dtype."""
    lines = [
        "# How exact functions are",
        "",
        "The largest errors of elementwise functions in units in the last place (ULP) of the exact result, which mpmath gives",
        "to 50 digits: on special numbers (zeros, infinities, NaN, subnormal numbers, the ends of the range) and on ordinary",
        "ones of all sizes. An error of 0.5 is correct rounding. Infinities, NaN and the signs of zeros are right everywhere.",
        "The tests (`tests/test_scalar.py`) hold the bounds in the last two columns for float32 and float64, and 1 for halves,",
        "whose numbers are computed in float32. Sums, products, comparisons and roundings are those of IEEE 754.",
        "",
        "Contractions of bfloat16 on a cpu that multiplies it in pairs (`vdpbf16ps`) are an exception: products of two numbers",
        "are exact and sums are float32, to nearest even whatever the thread's mode, but operands and sums below the normal",
        "range of float32, 1.2e-38, count as zero. `GRAPHRT_PAIRS=0` widens the operands instead, and keeps those numbers.",
        "",
        "The interpreter computes as IEEE 754 has it, and stands for the kernels; what a GPU makes of them was not",
        "measured. In what is compiled for NVIDIA, `log`, `log2`, `sin`, `cos` and `erf` of float32 are libdevice's, whose",
        "instructions take subnormal numbers for zero (`ftz` in PTX): what they give of such numbers may differ there.",
        "Quotients and roots keep them. Subnormal bfloat16 numbers, which the interpreter does not read, are left out of",
        "its table.",
        "",
        "Written by `python -m bench.ulp > docs/accuracy.md`.",
    ]
    for target, rows in found.items():
        bounded = target != "reference"  # NumPy's own errors are what they are
        heads = [*FLOATS, *(["bound, float32", "bound, float64"] * bounded)]
        lines += ["", f"## {HEADS[target]}", "", f"| function | {' | '.join(heads)} |", "|---|" + "---:|" * len(heads)]
        for name, row in rows.items():
            cells = [f"{row[d]:.2f}" if d in row else "" for d in FLOATS]
            bounds = [*map(str, (BOUNDS | BOUNDS_OF_TWO)[name])] * bounded
            lines.append(f"| `{name}` | " + " | ".join([*cells, *bounds]) + " |")
    return "\n".join([*lines, "", *COMPILERS, "", *OTHERWISE]) + "\n"


COMPILERS = [
    "## Of which compiler",
    "",
    "On the target cpu a program gives the same bits whatever GCC compiled it, at -O1, -O2 or -O3: expressions are rounded as",
    "they are written (`-ffp-contract=off`, fused multiply-adds by name), and what a template adds up has an order of its own.",
    "clang gives the same bits too, but for sums and products along a row: `omp simd reduction` leaves their order to the",
    "compiler. `make compilers` installs others (Debian's GCC 11 and clang) and compares them: `tests/test_compilers.py`.",
]
OTHERWISE = [
    "## What torch does otherwise",
    "",
    "`tests/test_otherwise.py` tries both. A kernel raises no errors, so numbers that fit nothing make NaN, or 0 of integers:",
    "",
    "| | graphrt | torch |",
    "|---|---|---|",
    "| a class, a token or a row that there is not | loss, gradient or row are NaN; `gather` reads 0 | an error |",
    "| an integer divided by 0, its remainder | 0 | an error |",
    "| the inverse of a singular matrix, singular values of NaN | infinities or NaN | an error |",
    "| several operations on halves in one kernel | computed in float32, rounded where they are stored | each rounded |",
    "| sums on a cpu | the same bits for any number of threads | an order that may depend on the threads |",
    "",
    "A float that an integer type cannot hold, or NaN, becomes a number that depends on the target in either.",
]
HEADS = {
    "cpu": "On the target cpu",
    "cuda": "On a GPU, the target cuda",
    "interpret": "In kernels of GPUs, interpreted: the target interpret",
    "reference": "On the target reference: NumPy",
}


def main(more: int = 400) -> None:
    """Prints the page, or with a target on the command line its errors as JSON."""
    if len(sys.argv) > 1:
        print(json.dumps(largest(sys.argv[1], more)))
        return
    found = {}
    for target in HEADS:
        import torch

        if target == "cuda" and not torch.cuda.is_available():
            continue
        env = {**os.environ, "TRITON_INTERPRET": "1" if target == "interpret" else "0"}
        command = [sys.executable, "-m", "bench.ulp", target]
        found[target] = json.loads(subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout)
    print(page(found), end="")


if __name__ == "__main__":
    main()

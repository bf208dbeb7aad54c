"""What float32_matmul_precision promises: the bounds in docs/gpu.md, held against a model of each level in NumPy.

Triton's interpreter multiplies exactly whatever the level, so the roundings of tensor cores are modelled here: operands of tf32
are cut to 10 bits of mantissa unless a kernel rounds them before, halves of a split are rounded, sums are float32 and cut. That
the kernels do just these products is seen from their instructions.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from conftest import INTERPRETED

import graphrt as grt
from graphrt import ops as F
from graphrt.targets.triton.emit.options import PRECISIONS

DOCS = (Path(__file__).parent.parent / "docs" / "gpu.md").read_text()
LEVELS = ("highest", "high", "medium")
CONTRACTIONS = {"matmul", "conv", "conv_dgrad", "conv_wgrad"}
TF32_BITS = 13  # of a float32's mantissa that tf32 has not


def nearest(x: np.ndarray) -> np.ndarray:
    """float32 as tf32, to nearest, ties to even."""
    bits = x.astype(np.float32).view(np.uint32)
    odd = bits >> TF32_BITS & 1
    return (bits + ((1 << TF32_BITS - 1) - 1) + odd >> TF32_BITS << TF32_BITS).astype(np.uint32).view(np.float32)


def cut(x: np.ndarray) -> np.ndarray:
    """float32 as tf32, towards zero: what tensor cores do to an operand."""
    return (x.astype(np.float32).view(np.uint32) >> TF32_BITS << TF32_BITS).view(np.float32)


def bfloat16(x: np.ndarray) -> np.ndarray:
    return x.astype(ml_dtypes.bfloat16).astype(np.float32)


def parts(x: np.ndarray, method: str) -> tuple[np.ndarray, ...]:
    """What ``x`` is multiplied as: itself, its tf32, or a large and a small part."""
    if method == "ieee":
        return (x,)
    if method == "tf32":
        return (cut(x),)
    large = bfloat16(x) if method == "bf16x3" else nearest(x)
    return large, (bfloat16 if method == "bf16x3" else cut)(x - large)


def products(a: np.ndarray, b: np.ndarray, method: str) -> list[np.ndarray]:
    """The products that are added up, exact in float64; of two small parts there is none."""
    left, right = parts(a, method), parts(b, method)
    return [x.astype(np.float64) * y for i, x in enumerate(left) for j, y in enumerate(right) if i + j < 2]


def added(sums: np.ndarray, terms: np.ndarray, whole: bool) -> np.ndarray:
    """``sums + terms`` in float32: rounded (``whole``), or cut as in a tensor core."""
    exact = sums.astype(np.float64) + terms
    found = exact.astype(np.float32)
    return found if whole else np.where(np.abs(found) > np.abs(exact), np.nextafter(found, np.float32(0)), found)


def dot(a: np.ndarray, b: np.ndarray, method: str) -> np.ndarray:
    """The dot products of rows of ``a`` and ``b``, one term after the other, the small ones first."""
    total = np.zeros(a.shape[0], np.float32)
    for terms in reversed(products(a, b, method)):
        for term in terms.T:
            total = added(total, term, method == "ieee")
    return total


def bound(level: str, length: int) -> float:
    """What docs/gpu.md allows, relative to the sum of the products' absolute values."""
    row = re.search(rf"^\| `{level}` \|.*\| ([^|]*) \|$", DOCS, re.MULTILINE)
    assert row is not None, f"docs/gpu.md has no row for {level}"
    total = 0.0
    for term in row[1].split(" + "):
        match = re.fullmatch(r"(?:(\d*)K · )?2\^-(\d+)", term)
        assert match is not None, term
        total += (1 if match[1] is None else int(match[1] or 1) * length) * 2.0 ** -int(match[2])
    return total


def hard(kind: str, rows: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Operands of normal numbers, of one sign, of very different sizes, or those that roundings and cuts hurt most."""
    rng = np.random.default_rng(length)
    a, b = rng.standard_normal((2, rows, length))
    if kind == "positive":
        a, b = np.abs(a), np.abs(b)
    elif kind == "sizes":
        a, b = a * 2.0 ** rng.integers(-40, 40, a.shape), b * 2.0 ** rng.integers(-40, 40, b.shape)
    elif kind == "worst":  # just above 1, where a unit is largest: all that is cut is ones, or all but half of what is rounded
        a = b = np.repeat([[1 + 2.0**-10 - 2.0**-23], [1 + 2.0**-11 - 2.0**-23]], length, 1)
    return a.astype(np.float32), b.astype(np.float32)


def error(a: np.ndarray, b: np.ndarray, result: np.ndarray) -> float:
    exact, scale = (a.astype(np.float64) * b).sum(1), np.abs(a.astype(np.float64) * b).sum(1)
    return float((np.abs(result - exact) / scale).max())


KINDS = ("normal", "positive", "sizes", "worst")


@pytest.mark.parametrize("rounding,unit", [(nearest, 2.0**-11), (cut, 2.0**-10)])
def test_tf32(rounding: Callable[[np.ndarray], np.ndarray], unit: float) -> None:
    x = np.random.default_rng(0).standard_normal(10000).astype(np.float32)
    y = rounding(x)
    assert not (y.view(np.uint32) & (1 << TF32_BITS) - 1).any() and np.array_equal(rounding(y), y)
    assert unit / 2 < np.abs((y - x) / x.astype(np.float64)).max() <= unit
    ties = np.array([1 + 2.0**-11, 1 + 3 * 2.0**-11, 2 - 2.0**-11, np.inf], np.float32)
    expected = [1, 1 + 2.0**-9, 2, np.inf] if rounding is nearest else [1, 1 + 2.0**-10, 2 - 2.0**-10, np.inf]
    assert rounding(ties).tolist() == expected


@pytest.mark.parametrize("length", [1, 20, 576, 4096])
@pytest.mark.parametrize("level", LEVELS)
def test_every_level_keeps_its_bound(level: str, length: int) -> None:
    errors = {kind: error(*(ab := hard(kind, 8, length)), dot(*ab, PRECISIONS[level])) for kind in KINDS}
    assert max(errors.values()) <= bound(level, length), errors


def test_bounds_are_not_loose() -> None:
    """Products alone, without their sums, come near; and split bfloat16, half as dear, would not keep the bound of ``high``."""
    found = {}
    for method in ("tf32", "tf32x3", "bf16x3"):
        pairs = [hard(kind, 8, 4096) for kind in KINDS]
        found[method] = max(float(np.abs(sum(products(a, b, method)) / (a.astype(np.float64) * b) - 1).max()) for a, b in pairs)
    assert bound("medium", 0) / 2 < found["tf32"] <= bound("medium", 0)
    assert bound("high", 0) / 8 < found["tf32x3"] <= bound("high", 0)
    assert 2.0**-16 < found["bf16x3"] <= 2.0**-14 and found["bf16x3"] > 8 * bound("high", 0)


@pytest.mark.aot
@pytest.mark.skipif(INTERPRETED, reason="compiles kernels, which cannot be under TRITON_INTERPRET=1")
@pytest.mark.parametrize("target", ["cuda:sm_80", "cuda:sm_90"])
@pytest.mark.parametrize("level", LEVELS)
def test_kernels_of_a_level(level: str, target: str) -> None:
    """Exact products are FFMA; the others are tensor cores on tf32, of all that a convolution and a product launch."""
    from graphrt.targets.triton.compile.build import compile_kernel
    from graphrt.targets.triton.compile.cubin import listings

    g = grt.Graph()
    x, w, v = g.input("x", (4, 64, 16, 16)), g.parameter("w", shape=(64, 64, 3, 3)), g.parameter("v", shape=(64, 64))
    y = F.matmul(F.mean(F.relu(F.conv2d(x, w, padding=1)), (2, 3)), v)
    for name, d in zip("xwv", grt.grad(F.sum(y * y), [x, w, v]), strict=True):
        g.output(name, d)
    made = grt.compile(g, target=target, float32_matmul_precision=level)._executable._compilation
    codes = [code for code in made.codes if code.display.split("__")[0] in CONTRACTIONS]
    assert {code.display.split("__")[0] for code in codes} == CONTRACTIONS
    kernels = [compile_kernel(code, made.module, target).asm["cubin"] for code in codes]
    for listing in listings(kernels, target.split(":")[1]):
        found = Counter(re.findall(r"\b((?:HGMMA|HMMA|DMMA|FFMA)(?:\.\w+)*)", listing))
        cores = [name for name in found if "MMA." in name and not name.startswith("FFMA")]
        if level == "highest":
            assert not cores and found["FFMA"] >= 16, found
        else:
            assert cores and all(name.endswith(".TF32") for name in cores), found
            assert sum(found[name] for name in cores) % (3 if level == "high" else 1) == 0, found

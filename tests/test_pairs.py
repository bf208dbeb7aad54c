"""bfloat16 in pairs on the cpu: products and convolutions with their gradients, beside the same without the instruction."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from conftest import INTERPRETED, assert_close

import graphrt as grt
from graphrt import ops as F
from graphrt.targets.cpu.build import has_pairs, pool
from graphrt.targets.cpu.variants import Processor, choose
from graphrt.targets.reference.evaluate import evaluate

pytestmark = pytest.mark.skipif(INTERPRETED, reason="these are loops of C")
needs_pairs = pytest.mark.skipif(not has_pairs(), reason="the processor has no avx512_bf16")
LAST = (0, 2, 3, 1)


@pytest.fixture(params=[pytest.param("1", marks=needs_pairs), "0"], ids=["pairs", "widened"])
def paired(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[bool]:
    """Both kinds of loops in turn."""
    monkeypatch.setenv("GRAPHRT_PAIRS", request.param)
    yield request.param == "1"


def _graph(x_shape: tuple[int, ...], w_shape: tuple[int, ...], order: Any = None, **options: Any) -> grt.Graph:
    """A product, or a convolution with ``options``, and both gradients, all of bfloat16 and returned as float32."""
    graph = grt.Graph()
    x, w = graph.input("x", x_shape, "bfloat16", order=order), graph.input("w", w_shape, "bfloat16")
    y = F.conv2d(x, w, **options) if len(x_shape) == 4 and order is not None or options else F.matmul(x, w)
    dy = graph.input("dy", y.shape, "bfloat16", order=order)
    for name, v in zip(("y", "dx", "dw"), (y, *grt.grad(F.sum(F.cast(y * dy, "float32")), [x, w])), strict=True):
        graph.output(name, F.cast(v, "float32"))
    return graph


CASES: dict[str, tuple[grt.Graph, list[str]]] = {  # and those of its three contractions that are computed in pairs
    "matmul": (_graph((40, 64), (64, 48)), ["y", "dx", "dw"]),
    "matmul odd": (_graph((33, 17), (17, 50)), ["y", "dx", "dw"]),
    "matmul long": (_graph((2, 20, 1100), (2, 1100, 40)), ["y", "dx", "dw"]),
    "matmul thin": (_graph((3, 64), (64, 48)), ["dw"]),
    "pointwise": (_graph((4, 32, 7, 7), (48, 32, 1, 1), LAST, stride=1), ["y", "dx", "dw"]),
    "pointwise strided": (_graph((2, 32, 8, 8), (48, 32, 1, 1), LAST, stride=2), ["y", "dx", "dw"]),
    "pointwise rows": (_graph((4, 31, 7, 7), (48, 31, 1, 1), None, stride=1), ["y", "dx", "dw"]),
    "stem": (_graph((3, 3, 20, 20), (32, 3, 7, 7), None, stride=2, padding=3), ["y", "dw"]),
    "strided": (_graph((2, 32, 9, 9), (64, 32, 3, 3), LAST, stride=2, padding=1), ["y", "dx", "dw"]),
    "groups": (_graph((2, 32, 8, 8), (64, 16, 5, 5), LAST, groups=2, padding=2), ["y", "dx", "dw"]),
    "dilated": (_graph((2, 16, 12, 12), (16, 16, 3, 3), LAST, dilation=2, padding=2), ["y", "dx", "dw"]),
    "odd groups": (_graph((2, 30, 8, 8), (48, 15, 5, 5), LAST, groups=2, padding=2), ["dx", "dw"]),
    "one image": (_graph((1, 16, 9, 9), (32, 16, 5, 5), LAST, padding=2), ["y", "dx"]),
}


@pytest.mark.parametrize("case", CASES)
def test_products_of_bfloat16(case: str, paired: bool, rng: np.random.Generator) -> None:
    """The operands are bfloat16, so their products are exact in float32; sums are float32, and rounded once at the end."""
    graph, wanted = CASES[case]
    feeds = {
        n.name: rng.standard_normal(n.types[0].shape).astype(ml_dtypes.bfloat16) for n in graph.nodes if n.op.name == "input"
    }
    program = grt.compile(graph, target="cpu")
    found, expected = program(feeds), evaluate(graph, feeds)
    for name, v in graph.outputs.items():
        assert_close(found[name].astype(ml_dtypes.bfloat16), expected[v], 1, name)
    assert program.source().count("#define PAIRS 1") == (len(wanted) if paired else 0)


@needs_pairs
def test_bits_do_not_depend_on_threads(rng: np.random.Generator) -> None:
    graph = _graph((5, 32, 13, 13), (72, 32, 3, 3), LAST, stride=2, padding=1)
    feeds = {
        n.name: rng.standard_normal(n.types[0].shape).astype(ml_dtypes.bfloat16) for n in graph.nodes if n.op.name == "input"
    }
    program, found = grt.compile(graph, target="cpu"), []
    try:
        for threads in (1, 2, 5):
            pool().grt_set_threads(threads)
            found.append(program(feeds))
    finally:
        pool().grt_set_threads(2)
    for other in found[1:]:
        for name, y in found[0].items():
            np.testing.assert_array_equal(y, other[name], name)


@needs_pairs
def test_padding_meets_no_infinity(rng: np.random.Generator) -> None:
    """The half of a last pair that is not there is zero in both operands."""
    graph, feeds = grt.Graph(), {"x": np.full((33, 17), np.inf, ml_dtypes.bfloat16), "w": np.ones((17, 50), ml_dtypes.bfloat16)}
    graph.output("y", F.matmul(*(graph.input(name, v.shape, "bfloat16") for name, v in feeds.items())))
    assert np.isposinf(grt.compile(graph, target="cpu")(feeds)["y"].astype(np.float32)).all()


def test_why_pairs_are_not_taken() -> None:
    sizes = dict.fromkeys(("STRIDE_H", "STRIDE_W", "DIL_H", "DIL_W", "PAD_H", "PAD_W", "GROUPS"), 1)
    sizes |= {"N": 8, "C": 64, "K": 64, "R": 3, "S": 3, "H": 56, "W": 56, "P": 56, "Q": 56}
    able = Processor(16, 4, pairs=True)

    def why(template: str, processor: Processor = able, **other: int) -> str:
        found = choose(template, {**sizes, **other}, True, False, processor, halves=True)
        assert found is not None and (found.macros["PAIRS"] == "1") == ("pairs of bfloat16" not in found.refused)
        return found.refused.get("pairs of bfloat16", "")

    assert why("conv") == "conv_winograd.h takes fewer products, and what it transforms is in a cache"
    assert why("conv", C=512, K=512) == why("conv", STRIDE_H=2, STRIDE_W=2, P=28, Q=28) == ""
    assert why("conv", Processor(16, 0)) == "the processor has no instruction for them, or GRAPHRT_PAIRS is 0"
    assert why("conv", C=64, K=64, GROUPS=64) == "conv_depthwise.h multiplies number by number"
    assert why("conv", C=6, K=64, GROUPS=2) == "3 numbers to sum over in a group, not two, four, six, ..."
    assert why("conv_wgrad", N=1, R=5, S=5) == "1 images to sum over in a group, not two, four, six, ..."


def test_float32_is_not_multiplied_in_pairs() -> None:
    graph = grt.Graph()
    graph.output("y", F.matmul(graph.input("x", (40, 64)), graph.input("w", (64, 48))))
    program = grt.compile(graph, target="cpu")
    assert "#define PAIRS 0" in program.source() and "pairs" not in program.explain().full()

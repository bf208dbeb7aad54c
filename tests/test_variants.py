"""Which loops compute a template on the cpu: chosen from sizes, with a reason that ``explain`` prints."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

import graphrt as grt
from graphrt import ops as F
from graphrt.compiler import lower_graph
from graphrt.passes.decision import Decision
from graphrt.targets.cpu.build import compiler, headers, options, vector_bytes
from graphrt.targets.cpu.codegen import generate
from graphrt.targets.cpu.variants import Processor, choose
from graphrt.targets.target import parse


def convolution(
    images: int = 2, inputs: int = 16, outputs: int = 16, size: int = 8, kernel: int = 3, stride: int = 1, groups: int = 1
) -> grt.Graph:
    """A convolution whose padding keeps the size, with the gradients of its input and of its filter."""
    g = grt.Graph()
    x = g.input("x", (images, inputs, size, size))
    w = g.parameter("w", shape=(outputs, inputs // groups, kernel, kernel))
    y = F.conv2d(x, w, stride=stride, padding=kernel // 2, groups=groups)
    g.output("y", y)
    dx, dw = grt.grad(F.sum(y * y), [x, w])
    g.output("dx", dx)
    g.output("dw", dw)
    return g


def product(rows: int) -> grt.Graph:
    g = grt.Graph()
    g.output("y", F.matmul(g.input("x", (rows, 40)), g.parameter("w", shape=(40, 30))))
    return g


def pooling(kernel: int, stride: int, padding: int = 0) -> grt.Graph:
    g = grt.Graph()
    y = F.avg_pool2d(x := g.input("x", (2, 3, 20, 20)), kernel, stride, padding)
    g.output("y", y)
    g.output("dx", grt.grad(F.sum(y * y), [x])[0])
    return g


def decisions(graph: grt.Graph, freeze: bool = False) -> dict[str, list[Decision]]:
    """What is decided of the templates of ``graph`` on the cpu, by op."""
    lowering = lower_graph(graph, parse("cpu"), {})
    found: dict[str, list[Decision]] = {}
    for d in generate(lowering, freeze)[0].decisions:
        node = next(n for n in lowering.graph.nodes if n.outputs[0].name == d.node)
        found.setdefault(node.op.name, []).append(d)
    return found


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        (convolution(), {"conv": "conv_winograd.h", "conv_dgrad": "conv_winograd.h", "conv_wgrad": "conv_wgrad_winograd.h"}),
        (convolution(inputs=64, outputs=64, kernel=5), {"conv": "conv_wide.h", "conv_wgrad": "conv_wgrad_wide.h"}),
        (convolution(inputs=3, outputs=2, images=1), {"conv": "conv_narrow.h", "conv_wgrad": "conv_wgrad_narrow.h"}),
        (convolution(inputs=3, outputs=2, stride=2), {"conv": "conv_wide.h", "conv_wgrad": "conv_wgrad_wide.h"}),
        (convolution(kernel=1), {"conv": "conv_pointwise.h", "conv_dgrad": "conv_pointwise.h"}),
        (convolution(images=8, inputs=1, outputs=16, kernel=7, size=9), {"conv_dgrad": "conv_dgrad_taps.h"}),
        (convolution(images=8, inputs=3, outputs=16, kernel=4, stride=2), {"conv_dgrad": "conv_dgrad_taps.h"}),
        (product(8), {"matmul": "matmul_thin.h"}),
        (product(9), {"matmul": "matmul_packed.h"}),
        (pooling(2, 2), {"sum_pool": "pool_windows.h", "sum_pool_grad": "pool_grad_apart.h"}),
        (pooling(3, 2, 1), {"sum_pool": "pool_lines.h", "sum_pool_grad": "pool_grad_sums.h"}),
        (pooling(5, 5), {"sum_pool": "pool_lines.h", "sum_pool_grad": "pool_grad_apart.h"}),
    ],
    ids=lambda value: " ".join(value.values()) if isinstance(value, dict) else "",
)
def test_each_variant_is_chosen(graph: grt.Graph, expected: dict[str, str]) -> None:
    found = decisions(graph)
    taken = {op: [d.other for d in ds if d.taken] for op, ds in found.items()}
    assert {op: taken[op] for op in expected} == {op: [file] for op, file in expected.items()}
    assert all(d.reason and (headers() / d.other).is_file() for ds in found.values() for d in ds)


def test_depthwise_lies_along_channels() -> None:
    g = grt.Graph()
    x, w = g.input("x", (2, 32, 8, 8)), g.parameter("w", shape=(32, 1, 3, 3))
    h = F.relu(F.conv2d(x, g.parameter("p", shape=(32, 32, 1, 1))))
    g.output("y", F.conv2d(h, w, padding=1, groups=32))
    assert [d.other for d in decisions(g)["conv"] if d.taken] == ["conv_pointwise.h", "conv_depthwise.h"]


def test_what_stands_in_the_way_of_winograd(monkeypatch: pytest.MonkeyPatch) -> None:
    def why(graph: grt.Graph, freeze: bool = False) -> list[str]:
        return [d.reason for d in decisions(graph, freeze)["conv"] if d.other == "conv_winograd.h" and not d.taken]

    assert why(convolution(inputs=3)) == ["3 input channels, fewer than 8"]
    assert why(convolution(stride=2)) == ["it is not 3x3 of stride 1 without dilation"]
    assert why(convolution(kernel=1)) == []
    (few,) = why(convolution(images=1))
    assert few.startswith("64 pixels, fewer than 128")
    assert why(convolution(images=1), freeze=True) == []
    monkeypatch.setenv("GRAPHRT_WINOGRAD", "0")
    assert why(convolution()) == ["GRAPHRT_WINOGRAD is 0"]


def test_what_stands_in_the_way_of_taps() -> None:
    """Of gradients of few channels, whose vectors would be columns; those of many never ask."""

    def why(**sizes: int) -> list[str]:
        found = decisions(convolution(inputs=1, kernel=7, size=9, **sizes))["conv_dgrad"]
        return [d.reason for d in found if d.other == "conv_dgrad_taps.h" and not d.taken]

    assert why(images=8) == []
    assert why(images=8, stride=2) == []
    assert why(images=1) == ["1 tasks of 16 channels of the result, fewer than 8"]


def test_side_of_a_winograd_tile() -> None:
    """The largest that GRAPHRT_WINOGRAD allows, unless smaller ones take fewer products."""
    sizes = dict.fromkeys(("STRIDE_H", "STRIDE_W", "DIL_H", "DIL_W", "PAD_H", "PAD_W", "GROUPS"), 1)
    sizes |= {"C": 16, "K": 16, "R": 3, "S": 3}

    def side(n: int, size: int, largest: int) -> str:
        of = {**sizes, "N": n, "H": size, "W": size, "P": size, "Q": size}
        found = choose("conv", of, True, True, Processor(16, largest))
        assert found is not None and found.file == "conv_winograd.h"
        return found.macros["SIDE"]

    assert (side(17, 4, 4), side(17, 4, 2), side(17, 2, 4)) == ("4", "2", "2")


def test_explain_prints_the_choice(rng: np.random.Generator) -> None:
    """Also of a program whose object was found in the cache."""
    texts = []
    for _ in range(2):
        program = grt.compile(convolution(), target="cpu")
        taken = next(d for d in program.configurations() if d.taken)
        assert str(taken) in program.explain().full() and f'#define VARIANT "{taken.other}"' in program.source()
        assert f"{taken.node} is computed by conv_winograd.h: 3x3 of stride 1: 4x4 outputs take 36 products" in str(taken)
        texts.append(program.explain().full())
    assert texts[0] == texts[1]


def test_vectors_are_those_of_the_templates(tmp_path: Path) -> None:
    text = tmp_path / "vector.c"
    text.write_text('#include "runtime.h"\n#include "tile.h"\nvector = GRT_VECTOR\n')
    command = [*compiler(), *options(), "-E", "-P", "-I", str(headers()), str(text)]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert found.rsplit("vector = ", 1)[1].strip() == str(vector_bytes())

"""Kernels over groups of channels of channels-last maps, where no tensor has the shape of their domain."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import INTERPRETED, check, examples
from hypothesis import given, settings
from hypothesis import strategies as st

import graphrt as grt
from graphrt import ops as F
from graphrt.compiler import lower_graph
from graphrt.targets.target import parse

pytestmark = [pytest.mark.interpret] if INTERPRETED else []
LAST = (0, 2, 3, 1)


def _maps(graph: grt.Graph, sizes: tuple[int, ...], order: tuple[int, ...] | None) -> tuple[grt.Value, grt.Value]:
    """A map [N, G * C, H, W] and the same as [N, G, C, H, W]."""
    n, groups, per, h, w = sizes
    x = graph.input("x", (n, groups * per, h, w), order=order)
    return x, F.reshape(x, sizes)


@pytest.mark.skipif(INTERPRETED, reason="these are loops of C")
@settings(max_examples=examples(12))
@given(st.data())
def test_groups_of_channels_last_maps(data: st.DataObject) -> None:
    sizes = tuple(data.draw(st.sampled_from(s)) for s in ((1, 2, 3), (1, 2, 5, 8), (1, 3, 8, 70, 150), (1, 5, 9), (1, 4, 8)))
    graph, (n, groups, per, h, w) = grt.Graph(), sizes
    x, grouped = _maps(graph, sizes, data.draw(st.sampled_from([LAST, None])))
    scale, own = graph.input("scale", (1, groups * per, 1, 1)), graph.input("own", (n, groups, 1, 1, 1))
    dims = data.draw(st.sampled_from([(2, 3, 4), (2, 4), (2,), (1, 2, 3, 4), (0, 2, 3, 4)]))
    fold = data.draw(st.sampled_from([F.sum, F.amax, F.mean]))
    y = fold(grouped * own, dims, keepdim=True)
    centred = grouped - y
    graph.output("spread", F.mean(centred * centred, dims, keepdim=True) + y)
    graph.output("scaled", F.sigmoid(F.reshape(centred * own, x.shape) * scale))
    count = F.sum(F.cast(F.reshape(x > 0.5, sizes), "int64"), dims)
    graph.output("count", count)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    feeds = {v.name: rng.standard_normal(v.shape).astype(np.float32) for v in (x, scale, own)}
    check(graph, feeds, "cpu", groups * per * h * w)


def test_a_parameter_is_updated_once_for_its_group(target: str) -> None:
    graph = grt.Graph()
    x, grouped = _maps(graph, (2, 4, 8, 5, 6), LAST)
    seen = graph.parameter("seen", np.arange(8, dtype=np.float32).reshape(2, 4), trainable=False)
    graph.update(seen, seen * 0.5 + F.mean(grouped, (2, 3, 4)))
    graph.output("y", F.group_norm(x, 4) * F.repeat_interleave(F.reshape(seen, (2, 4, 1, 1)), 8, 1))
    rng = np.random.default_rng(0)
    check(graph, {"x": rng.standard_normal(x.shape).astype(np.float32)}, target, 8 * 30)


@pytest.mark.skipif(INTERPRETED, reason="these are loops of C")
def test_groups_are_walked_along_memory() -> None:
    graph = grt.Graph()
    x, _ = _maps(graph, (2, 4, 8, 16, 16), LAST)
    graph.output("y", F.silu(F.group_norm(x, 4)))
    text = grt.compile(graph, target="cpu").source()
    assert "enum { SIZE = 32, LANES = 16, BLOCKS = 2, REDUCED = 256 };" in text, "32 channels side by side, 256 pixels"


@pytest.mark.skipif(INTERPRETED, reason="these are loops of C")
def test_channels_of_a_region_share_their_place() -> None:
    """RoIAlign walks channels side by side, of which none computes anew where its pixel is, and so does its gradient."""
    graph = grt.Graph()
    x, rois = graph.input("x", (2, 64, 16, 16), order=LAST), graph.input("rois", (40, 5))
    y = graph.output("y", F.roi_align(x, rois, 7))
    graph.output("dx", grt.grad(F.sum(y * y), [x])[0])
    text = grt.compile(graph, target="cpu").source()
    (gather,) = [kernel for kernel in text.split("\n/* g") if "gather_0, " in kernel.split("\n")[0]]
    assert "SIZE = 64, LANES = 64" in gather
    side_by_side = gather.split("GRT_SIMD")[1]
    assert side_by_side.count("const ") == 4, "the column, what is read there, or 0, and that by its share"
    assert "mul_8" not in side_by_side, "the shares are stored once"
    assert "#define SHARED 1" in text


@pytest.mark.skipif(INTERPRETED, reason="these are loops of C")
@pytest.mark.parametrize(("chained", "length", "stored"), [(12, 4096, True), (3, 4096, False), (12, 8, False)])
def test_what_is_read_often_is_computed_once(chained: int, length: int, stored: bool) -> None:
    """A chain of operations on 64 numbers that two kernels broadcast: it is short, or little is read, or it is stored."""
    graph = grt.Graph()
    x, y, small = graph.input("x", (64, length)), graph.input("y", (length, 64)), graph.input("small", (64,))
    chain = small
    for i in range(chained):
        chain = F.maximum(chain * 0.5, float(i))
    graph.output("rows", F.amax(x + F.unsqueeze(chain, 1), 1))
    graph.output("columns", F.amax(y * chain, 0))
    said = [d for d in grt.compile(graph, target="cpu").decisions if f"is read {length} times at each element" in d.reason]
    assert bool(said) == stored and all(d.change for d in said)
    rng = np.random.default_rng(0)
    check(graph, {v.name: rng.standard_normal(v.shape).astype(np.float32) for v in (x, y, small)}, "cpu", 1)


def test_what_convolutions_read_slices_of_lies_channels_last() -> None:
    """The gradient of a concatenation: each part is a slice that a convolution reads, and it is written as they like it."""
    graph = grt.Graph()
    x, w = graph.input("x", (2, 16, 8, 8)), [graph.parameter(f"w{i}", shape=(16, c, 3, 3)) for i, c in enumerate((16, 16, 32))]
    h = F.relu(F.conv2d(x, w[0], padding=1))
    joined = F.concat([h, F.conv2d(h, w[1], padding=1)], 1)
    loss = graph.output("loss", F.sum(F.conv2d(joined, w[2], padding=1) ** 2.0))
    for p, d in zip(w, grt.grad(loss, w), strict=True):
        graph.update(p, p - d)
    dgrads = [n.outputs[0] for n in lower_graph(graph, parse("cpu"), {}).graph.nodes if n.op.name == "conv_dgrad"]
    assert {v.shape[1]: v.type.order for v in dgrads} == {32: LAST, 16: LAST}

"""Convolutions of few channels on padded images: the same numbers on every target, where a GPU is predicted to gain."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import check

import graphrt as grt
from graphrt import nn, optim
from graphrt import ops as F
from graphrt.ops.base import apply
from graphrt.passes.channels import pad_channels
from graphrt.passes.decision import Decision
from graphrt.passes.siblings import Times


def _clocks(node: grt.Node, filters: int, channels: int | None = None) -> float:
    return float(2 * (channels or 0) % 4)  # an even number of channels takes no time


LOADS = (8, 16)
GAIN, LOSE = Times(_clocks, 0.0, 0.0, LOADS), Times(lambda node, filters, channels=None: 1.0, 0.0, 1.0, LOADS)


def _step(channels: int, dtype: str, inner: bool = False) -> grt.Graph:
    """Two convolutions of one image and the gradients of their filters; with ``inner`` the image's as well."""
    g = grt.Graph()
    x = g.input("x", (2, channels, 9, 7))
    x = F.cast(x if not inner else F.exp(x * 0.1), dtype)
    w, v = (F.cast(g.input(n, shape), dtype) for n, shape in (("w", (5, channels, 3, 3)), ("v", (4, channels, 5, 2))))
    for name, y in (("y", F.conv2d(x, w, stride=2, padding=1)), ("z", F.conv2d(x, v, padding=(2, 0)))):
        g.output(name, F.cast(y, "float32"))
    dy = F.cast(g.input("dy", (2, 5, 5, 4)), dtype)
    attrs = dict(stride=(2, 2), padding=((1, 1), (1, 1)), dilation=(1, 1), groups=1)
    g.output("dw", F.cast(apply("conv_wgrad", dy, x, shape=(3, 3), splits=0, **attrs), "float32"))
    if inner:
        g.output("dx", F.cast(apply("conv_dgrad", dy, w, shape=(9, 7), **attrs), "float32"))
    return g


def _numbers(graph: grt.Graph, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Small whole numbers, which halves hold and sums of them too."""
    return {n: rng.integers(-3, 4, v.types[0].shape).astype(np.float32) for n, v in graph.sources.items()}


@pytest.mark.parametrize("channels,dtype,inner", [(3, "bfloat16", False), (5, "float16", False), (3, "float32", True)])
def test_the_same_numbers(channels: int, dtype: str, inner: bool, target: str, rng: np.random.Generator) -> None:
    graph, decisions = _step(channels, dtype, inner), list[Decision]()
    padded = pad_channels(graph, GAIN, decisions)
    padded.verify()
    convolutions = [n for n in padded.nodes if n.op.template in ("conv", "conv_wgrad")]
    images = {n.inputs[n.op.template == "conv_wgrad"] for n in convolutions}
    assert [x.shape[1] for x in images] == [-(-channels // 4) * 4], "one image, padded once"
    assert {d.node for d in decisions if d.taken} == {n.name for n in graph.nodes if n.op.template in ("conv", "conv_wgrad")}
    assert {n: v.type.shape for n, v in padded.outputs.items()} == {n: v.type.shape for n, v in graph.outputs.items()}
    feeds = _numbers(graph, rng)
    found, plain = check(padded, feeds, target), grt.compile(graph, target=target)(feeds)
    if not inner:  # whole numbers have exact sums
        for name in found:
            np.testing.assert_array_equal(found[name], plain[name])


def test_only_where_it_is_predicted_to_gain() -> None:
    graph, decisions = _step(3, "bfloat16"), list[Decision]()
    assert pad_channels(graph, LOSE, decisions) is graph and not any(d.taken for d in decisions)
    assert str(decisions[0]).startswith("conv_0 does not pad cast_0: 3 channels padded to ")
    assert pad_channels(graph, None, decisions) is graph
    for channels in (1, 2, 8):  # that would be twice the work, or there is nothing to pad
        whole = _step(channels, "bfloat16")
        assert pad_channels(whole, GAIN, decisions := []) is whole and not decisions


def _decided(target: str, batch: int, size: int) -> set[bool]:
    """Whether the first convolution of a training step is padded."""
    net = nn.Sequential(nn.Conv2d(3, 64, 7, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    trainer = grt.Trainer(net, nn.CrossEntropyLoss(), optim.SGD(0.1), metrics=(), target=target, autocast="bfloat16")
    graph = trainer.training_graph(((batch, 3, size, size), "float32"), ((batch,), "int64"))
    return {d.taken for d in grt.compile(graph, target=target).decisions if d.stage == "channels"}


def test_who_pads() -> None:
    """The images of an ImageNet network on a GPU, not two small pictures; no image on a CPU, whose loops are over columns."""
    pytest.importorskip("triton", reason="needs the triton package, which exists for Linux only")
    assert _decided("cuda:sm_90", 256, 224) == {True} and _decided("cuda:sm_90", 2, 32) == {False}
    assert _decided("cpu", 2, 32) == set()

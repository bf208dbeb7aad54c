"""The networks: published parameter counts, and a training step of each kind beside the same network in torch."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import INTERPRETED

import graphrt as grt
from graphrt import models, nn
from graphrt.errors import ArgumentError

sys.path.insert(0, str(Path(__file__).parent.parent))
from bench.peers import Block, residual, vgg11_cifar

pytestmark = pytest.mark.skipif(INTERPRETED, reason="whole networks take too long interpreted; their parts are tested so")


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("lenet5", 61_706),
        ("mlp", 101_770),
        ("resnet18", 11_689_512),
        ("resnet20", 269_722),
        ("resnet50", 25_557_032),
        ("vgg11_cifar", 9_231_114),
    ],
)
def test_parameter_counts(name: str, count: int) -> None:
    assert nn.count_parameters(models.get(name).build()) == count


def test_vgg_counts_with_and_without_norm() -> None:
    assert nn.count_parameters(models.vgg11_cifar(batch_norm=False)) == 9_225_610
    assert nn.count_parameters(models.vgg11()) == 132_863_336


def test_unknown_model() -> None:
    with pytest.raises(ArgumentError, match="no model 'vgg'; there is lenet5, mlp, resnet18"):
        models.get("vgg")


def small_residual() -> tuple[nn.Module, torch.nn.Module]:
    """A bottleneck with a projection and a basic block without, as ResNet-50 and -18 have them."""
    from graphrt.models.resnet import BasicBlock, Bottleneck

    ours = nn.Sequential(Bottleneck(16, 8, 2), BasicBlock(32, 32))
    theirs = torch.nn.Sequential(Block(16, 8, 32, 2, (1, 3, 1), False), Block(32, 32, 32, 1, (3, 3), False))
    return ours, theirs


@pytest.mark.parametrize(
    ("pair", "shape"),
    [
        (lambda: (models.resnet20(), residual((3, 3, 3), (16, 32, 64), 1, 10, padded=True)), (3, 3, 32, 32)),
        (lambda: (models.vgg11_cifar(), vgg11_cifar()), (3, 3, 32, 32)),
        (small_residual, (3, 16, 10, 10)),
    ],
    ids=["resnet20", "vgg11", "blocks"],
)
def test_gradients_equal_torch(pair: object, shape: tuple[int, ...]) -> None:
    assert callable(pair)
    ours, theirs = pair()
    parameters = list(ours.named_parameters())
    for (name, p), q in zip(parameters, theirs.parameters(), strict=True):
        assert p.shape == tuple(q.shape), name
        q.data = torch.from_numpy(p.array.copy())
    theirs = theirs.double().train()
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    graph = grt.Graph()
    y = graph.output("y", ours(graph.input("x", shape)))
    dy = np.random.default_rng(1).standard_normal(y.shape).astype(np.float32)
    values = [graph.sources[name].outputs[0] for name, _ in parameters]
    for (name, _), g in zip(parameters, grt.grad(y, values, graph.input("dy", y.shape)), strict=True):
        graph.output(f"d {name}", g)
    outputs = grt.compile(graph, target="cpu")(x=x, dy=dy)
    expected = theirs(torch.from_numpy(x).double())
    expected.backward(torch.from_numpy(dy).double())
    np.testing.assert_allclose(outputs["y"], expected.detach(), rtol=1e-3, atol=1e-3)
    for (name, _), q in zip(parameters, theirs.parameters(), strict=True):
        assert q.grad is not None
        scale = max(float(q.grad.abs().max()), 1e-2)  # a bias before a norm has none but rounding
        np.testing.assert_allclose(outputs[f"d {name}"] / scale, q.grad / scale, atol=5e-3, err_msg=name)

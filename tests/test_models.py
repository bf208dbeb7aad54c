"""The networks: published parameter counts, and a training step of each kind beside the same network in torch."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import INTERPRETED
from torch_models import Inception as TorchInception
from torch_models import InvertedResidual as TorchInverted

import graphrt as grt
from graphrt import models, nn
from graphrt.errors import ArgumentError

sys.path.insert(0, str(Path(__file__).parent.parent))
from bench.peers import Block, alexnet, residual, vgg11_cifar, vgg_features

pytestmark = pytest.mark.skipif(INTERPRETED, reason="whole networks take too long interpreted; their parts are tested so")


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("alexnet", 61_100_840),
        ("googlenet", 6_624_904),
        ("lenet5", 61_706),
        ("mlp", 101_770),
        ("mobilenet_v2", 3_504_872),
        ("resnet18", 11_689_512),
        ("resnet20", 269_722),
        ("resnet34", 21_797_672),
        ("resnet50", 25_557_032),
        ("resnet101", 44_549_160),
        ("resnet152", 60_192_808),
        ("vgg11", 132_863_336),
        ("vgg11_cifar", 9_231_114),
        ("vgg16", 138_357_544),
        ("vgg16_bn", 138_365_992),
    ],
)
def test_parameter_counts(name: str, count: int) -> None:
    assert nn.count_parameters(models.get(name).build()) == count


def test_every_model_has_a_published_count() -> None:
    (mark,) = [m for m in test_parameter_counts.pytestmark if m.name == "parametrize"]
    assert {name for name, _ in mark.args[1]} == set(models.MODELS)
    assert nn.count_parameters(models.vgg11_cifar(batch_norm=False)) == 9_225_610


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("alexnet", ["features.0.weight", "features.10.bias", "classifier.1.weight", "classifier.6.bias"]),
        ("vgg16_bn", ["features.0.weight", "features.41.weight", "classifier.0.weight", "classifier.6.bias"]),
        ("mobilenet_v2", ["features.0.0.weight", "features.1.conv.0.0.weight", "features.17.conv.3.bias", "classifier.1.bias"]),
        ("googlenet", ["conv1.conv.weight", "inception3a.branch2.1.bn.weight", "inception5b.branch4.1.conv.weight", "fc.bias"]),
        ("resnet152", ["conv1.weight", "layer2.7.conv3.weight", "layer3.35.bn3.bias", "layer4.0.downsample.1.weight"]),
    ],
)
def test_parameters_are_called_as_in_torchvision(name: str, expected: list[str]) -> None:
    names = [n for n, _ in models.get(name).build().named_parameters()]
    assert not set(expected) - set(names)


def test_unknown_model() -> None:
    with pytest.raises(ArgumentError, match="no model 'vgg'; there is alexnet, googlenet, lenet5"):
        models.get("vgg")


def small_residual() -> tuple[nn.Module, torch.nn.Module]:
    """A bottleneck with a projection and a basic block without, as ResNet-50 and -18 have them."""
    from graphrt.models.resnet import BasicBlock, Bottleneck

    ours = nn.Sequential(Bottleneck(16, 8, 2), BasicBlock(32, 32))
    theirs = torch.nn.Sequential(Block(16, 8, 32, 2, (1, 3, 1), False), Block(32, 32, 32, 1, (3, 3), False))
    return ours, theirs


def small_inverted() -> tuple[nn.Module, torch.nn.Module]:
    """MobileNetV2's blocks: without expansion, with a stride, and with the shortcut."""
    from graphrt.models.mobilenet import InvertedResidual

    kinds = ((8, 8, 1, 1), (8, 12, 2, 6), (12, 12, 1, 6))
    theirs = (TorchInverted(*kind, torch.nn.ReLU6, None) for kind in kinds)
    return nn.Sequential(*(InvertedResidual(*kind) for kind in kinds)), torch.nn.Sequential(*theirs)


def small_inception() -> tuple[nn.Module, torch.nn.Module]:
    from graphrt.models.googlenet import Inception

    sizes = (8, 4, 6, 8, 2, 4, 3)
    return Inception(*sizes), TorchInception(*sizes)


def small_alexnet() -> tuple[nn.Module, torch.nn.Module]:
    return models.alexnet(dropout=0.0), alexnet(dropout=0.0)


def vgg16_features() -> tuple[nn.Module, torch.nn.Module]:
    theirs = vgg_features((64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0), False)
    return models.vgg16()[0], torch.nn.Sequential(*theirs)


@pytest.mark.parametrize(
    ("pair", "shape"),
    [
        (lambda: (models.resnet20(), residual((3, 3, 3), (16, 32, 64), 1, 10, padded=True)), (3, 3, 32, 32)),
        (lambda: (models.vgg11_cifar(), vgg11_cifar()), (3, 3, 32, 32)),
        (small_residual, (3, 16, 10, 10)),
        (small_inverted, (3, 8, 9, 9)),
        (small_inception, (3, 8, 9, 9)),
        (small_alexnet, (2, 3, 64, 64)),
        (vgg16_features, (2, 3, 32, 32)),
    ],
    ids=["resnet20", "vgg11", "blocks", "mobilenet", "inception", "alexnet", "vgg16"],
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

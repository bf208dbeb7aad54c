"""Densely connected networks (Huang et al., "Densely connected convolutional networks", CVPR 2017)."""

from __future__ import annotations

from collections.abc import Sequence

import graphrt.ops as F
from graphrt import nn
from graphrt.ir import Value


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
    nn.init.kaiming_normal_(conv.weight)
    return conv


class DenseLayer(nn.Module):
    """The channels that a 1x1 and a 3x3 convolution, each behind a norm, add to those that are there."""

    def __init__(self, inputs: int, growth: int) -> None:
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), _conv(inputs, 4 * growth, 1)
        self.norm2, self.conv2 = nn.BatchNorm2d(4 * growth), _conv(4 * growth, growth, 3, padding=1)

    def forward(self, input: Value) -> Value:
        return self.conv2(F.relu(self.norm2(self.conv1(F.relu(self.norm1(input))))))


class DenseBlock(nn.Module):
    """Layers of which each sees the channels of all before it."""

    def __init__(self, inputs: int, count: int, growth: int) -> None:
        for i in range(count):
            setattr(self, f"denselayer{i + 1}", DenseLayer(inputs + i * growth, growth))

    def forward(self, input: Value) -> Value:
        found = [input]
        for _, layer in self.named_children():
            found.append(layer(F.concat(found, 1)))
        return F.concat(found, 1)


def _densenet(counts: Sequence[int], num_classes: int, growth: int = 32, first: int = 64) -> nn.Module:
    features: dict[str, nn.Module] = {
        "conv0": _conv(3, first, 7, 2, 3),
        "norm0": nn.BatchNorm2d(first),
        "relu0": nn.ReLU(),
        "pool0": nn.MaxPool2d(3, 2, 1),
    }
    channels = first
    for i, count in enumerate(counts):
        features[f"denseblock{i + 1}"] = DenseBlock(channels, count, growth)
        channels += count * growth
        if i < len(counts) - 1:
            narrow = {"norm": nn.BatchNorm2d(channels), "relu": nn.ReLU(), "conv": _conv(channels, channels // 2, 1)}
            features[f"transition{i + 1}"] = nn.Sequential({**narrow, "pool": nn.AvgPool2d(2)})
            channels //= 2
    features |= {"norm5": nn.BatchNorm2d(channels), "relu5": nn.ReLU()}
    pool = {"avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
    return nn.Sequential({"features": nn.Sequential(features), **pool, "classifier": nn.Linear(channels, num_classes)})


def densenet121(num_classes: int = 1000) -> nn.Module:
    """[N, 3, H, W] -> logits [N, num_classes]; 7,978,856 parameters with 1000 classes.

    Huang et al., "Densely connected convolutional networks", CVPR 2017. Names of parameters are torchvision's.
    """
    return _densenet((6, 12, 24, 16), num_classes)


def densenet169(num_classes: int = 1000) -> nn.Module:
    """``densenet121`` with 169 layers; 14,149,480 parameters with 1000 classes; ``num_classes`` as there."""
    return _densenet((6, 12, 32, 32), num_classes)


def densenet201(num_classes: int = 1000) -> nn.Module:
    """``densenet121`` with 201 layers; 20,013,928 parameters with 1000 classes; ``num_classes`` as there."""
    return _densenet((6, 12, 48, 32), num_classes)

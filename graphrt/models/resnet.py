"""Residual networks (He et al., "Deep residual learning for image recognition", CVPR 2016)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import graphrt.ops as F
from graphrt import nn
from graphrt.ir import Value


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution without bias that keeps the image's size but for ``stride``, initialised as the paper does."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


class PaddedShortcut(nn.Module):
    """Every ``stride``-th pixel with zeros for the channels that are new: the paper's option A, without parameters."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        self.more, self.stride = outputs - inputs, stride

    def forward(self, input: Value) -> Value:
        x = input[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, self.more // 2, self.more - self.more // 2))


def _projection(inputs: int, outputs: int, stride: int) -> nn.Module:
    """A 1x1 convolution and its norm: the paper's option B."""
    return nn.Sequential(_conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int = 1, padded: bool = False) -> None:
        self.conv1, self.bn1 = _conv(inputs, width, 3, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _conv(width, width, 3), nn.BatchNorm2d(width)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != width:
            self.downsample = (PaddedShortcut if padded else _projection)(inputs, width, stride)

    def forward(self, input: Value) -> Value:
        y = F.relu(self.bn1(self.conv1(input)))
        return F.relu(self.bn2(self.conv2(y)) + self.downsample(input))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut; the 3x3 one has the stride, as torchvision has it.

    With ``groups`` the inner ones have ``groups * base`` channels for each 64 of ``width``.
    """

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int = 1, groups: int = 1, base: int = 64) -> None:
        outputs = width * self.expansion
        inner = width * base // 64 * groups
        self.conv1, self.bn1 = _conv(inputs, inner, 1), nn.BatchNorm2d(inner)
        self.conv2, self.bn2 = _conv(inner, inner, 3, stride, groups), nn.BatchNorm2d(inner)
        self.conv3, self.bn3 = _conv(inner, outputs, 1), nn.BatchNorm2d(outputs)
        self.downsample = _projection(inputs, outputs, stride) if stride != 1 or inputs != outputs else nn.Identity()

    def forward(self, input: Value) -> Value:
        y = F.relu(self.bn1(self.conv1(input)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.downsample(input))


class ResNet(nn.Module):
    """[N, 3, H, W] -> logits [N, num_classes]; names of parameters as torchvision has them."""

    def __init__(self, block: Callable[..., BasicBlock | Bottleneck], layers: Sequence[int], num_classes: int = 1000) -> None:
        self.conv1, self.bn1 = _conv(3, 64, 7, 2), nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels = 64

        def stage(width: int, count: int, stride: int) -> nn.Sequential:
            nonlocal channels
            blocks: list[BasicBlock | Bottleneck] = []
            for i in range(count):
                blocks.append(block(channels, width, stride if i == 0 else 1))
                channels = width * blocks[-1].expansion
            return nn.Sequential(*blocks)

        self.layer1, self.layer2 = stage(64, layers[0], 1), stage(128, layers[1], 2)
        self.layer3, self.layer4 = stage(256, layers[2], 2), stage(512, layers[3], 2)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, input: Value) -> Value:
        x = self.maxpool(F.relu(self.bn1(self.conv1(input))))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
        return self.fc(F.mean(x, (2, 3)))


class CifarResNet(nn.Module):
    """[N, 3, 32, 32] -> logits: the paper's networks for CIFAR-10, ``6 * depth + 2`` layers of 16, 32 and 64 channels."""

    def __init__(self, depth: int, num_classes: int = 10) -> None:
        self.conv1, self.bn1 = _conv(3, 16, 3), nn.BatchNorm2d(16)
        widths = [(16, 16, 1), (16, 32, 2), (32, 64, 2)]
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(BasicBlock(inputs, width, stride, padded=True), *(BasicBlock(width, width) for _ in range(depth - 1)))
            for inputs, width, stride in widths
        )
        self.fc = nn.Linear(64, num_classes)

    def forward(self, input: Value) -> Value:
        x = F.relu(self.bn1(self.conv1(input)))
        return self.fc(F.mean(self.layer3(self.layer2(self.layer1(x))), (2, 3)))


def resnet20(num_classes: int = 10) -> nn.Module:
    """[N, 3, 32, 32] -> logits [N, num_classes]; 269,722 parameters with 10 classes (0.27 M in the paper).

    The network for CIFAR-10 of He et al., "Deep residual learning for image recognition", CVPR 2016, with shortcuts of no
    parameters.
    """
    return CifarResNet(3, num_classes)


def resnet18(num_classes: int = 1000) -> nn.Module:
    """[N, 3, H, W] -> logits [N, num_classes]; 11,689,512 parameters with 1000 classes.

    He et al., "Deep residual learning for image recognition", CVPR 2016. Names of parameters are torchvision's.
    """
    return ResNet(BasicBlock, (2, 2, 2, 2), num_classes)


def resnet34(num_classes: int = 1000) -> nn.Module:
    """[N, 3, H, W] -> logits [N, num_classes]; 21,797,672 parameters with 1000 classes.

    He et al., "Deep residual learning for image recognition", CVPR 2016. Names of parameters are torchvision's.
    """
    return ResNet(BasicBlock, (3, 4, 6, 3), num_classes)


def resnet50(num_classes: int = 1000) -> nn.Module:
    """[N, 3, H, W] -> logits [N, num_classes]; 25,557,032 parameters with 1000 classes.

    He et al., "Deep residual learning for image recognition", CVPR 2016. Names of parameters are torchvision's.
    """
    return ResNet(Bottleneck, (3, 4, 6, 3), num_classes)


def resnet101(num_classes: int = 1000) -> nn.Module:
    """[N, 3, H, W] -> logits [N, num_classes]; 44,549,160 parameters with 1000 classes.

    He et al., "Deep residual learning for image recognition", CVPR 2016. Names of parameters are torchvision's.
    """
    return ResNet(Bottleneck, (3, 4, 23, 3), num_classes)


def resnet152(num_classes: int = 1000) -> nn.Module:
    """[N, 3, H, W] -> logits [N, num_classes]; 60,192,808 parameters with 1000 classes.

    He et al., "Deep residual learning for image recognition", CVPR 2016. Names of parameters are torchvision's.
    """
    return ResNet(Bottleneck, (3, 8, 36, 3), num_classes)


def resnet32(num_classes: int = 10) -> nn.Module:
    """``resnet20`` with 32 layers; 464,154 parameters with 10 classes (0.46 M in the paper); ``num_classes`` as there."""
    return CifarResNet(5, num_classes)


def resnet44(num_classes: int = 10) -> nn.Module:
    """``resnet20`` with 44 layers; 658,586 parameters with 10 classes (0.66 M in the paper); ``num_classes`` as there."""
    return CifarResNet(7, num_classes)


def resnet56(num_classes: int = 10) -> nn.Module:
    """``resnet20`` with 56 layers; 853,018 parameters with 10 classes (0.85 M in the paper); ``num_classes`` as there."""
    return CifarResNet(9, num_classes)


def resnet110(num_classes: int = 10) -> nn.Module:
    """``resnet20`` with 110 layers; 1,727,962 parameters with 10 classes (1.7 M in the paper); ``num_classes`` as there."""
    return CifarResNet(18, num_classes)


def resnext50_32x4d(num_classes: int = 1000) -> nn.Module:
    """[N, 3, H, W] -> logits [N, num_classes]; 25,028,904 parameters with 1000 classes.

    Xie et al., "Aggregated residual transformations for deep neural networks", CVPR 2017. Parameters are called as in
    torchvision.
    """
    return ResNet(partial(Bottleneck, groups=32, base=4), (3, 4, 6, 3), num_classes)


def resnext101_32x8d(num_classes: int = 1000) -> nn.Module:
    """[N, 3, H, W] -> logits [N, num_classes]; 88,791,336 parameters with 1000 classes.

    Xie et al., "Aggregated residual transformations for deep neural networks", CVPR 2017. Parameters are called as in
    torchvision.
    """
    return ResNet(partial(Bottleneck, groups=32, base=8), (3, 4, 23, 3), num_classes)


def wide_resnet50_2(num_classes: int = 1000) -> nn.Module:
    """[N, 3, H, W] -> logits [N, num_classes]; 68,883,240 parameters with 1000 classes.

    Zagoruyko and Komodakis, "Wide residual networks", BMVC 2016. Names of parameters are torchvision's.
    """
    return ResNet(partial(Bottleneck, groups=1, base=128), (3, 4, 6, 3), num_classes)


def wide_resnet101_2(num_classes: int = 1000) -> nn.Module:
    """[N, 3, H, W] -> logits [N, num_classes]; 126,886,696 parameters with 1000 classes.

    Zagoruyko and Komodakis, "Wide residual networks", BMVC 2016. Names of parameters are torchvision's.
    """
    return ResNet(partial(Bottleneck, groups=1, base=128), (3, 4, 23, 3), num_classes)

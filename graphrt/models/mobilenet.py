"""MobileNetV1 (Howard et al., 2017) and V2 (Sandler et al., "Inverted residuals and linear bottlenecks", CVPR 2018)."""

from __future__ import annotations

import graphrt.ops as F
from graphrt import nn
from graphrt.ir import Value

# (expansion, channels, blocks, stride of the first)
_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out")
    return conv


def _unit(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, act: type[nn.Module] = nn.ReLU6
) -> nn.Sequential:
    return nn.Sequential(_conv(inputs, outputs, kernel, stride, groups), nn.BatchNorm2d(outputs), act())


class InvertedResidual(nn.Module):
    """1x1 convolution to more channels, 3x3 in each of them, 1x1 back without activation; a shortcut where shapes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        wide = inputs * expansion
        widen = [_unit(inputs, wide, 1)] if expansion > 1 else []
        narrow = [_conv(wide, outputs, 1), nn.BatchNorm2d(outputs)]
        self.conv = nn.Sequential(*widen, _unit(wide, wide, 3, stride, wide), *narrow)
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, input: Value) -> Value:
        return input + self.conv(input) if self.shortcut else self.conv(input)


class MobileNetV2(nn.Module):
    """[N, 3, H, W] -> logits [N, num_classes]; names of parameters as torchvision has them."""

    def __init__(self, num_classes: int = 1000, dropout: float = 0.2) -> None:
        layers: list[nn.Module] = [_unit(3, 32, 3, 2)]
        channels = 32
        for expansion, width, count, stride in _STAGES:
            for i in range(count):
                layers.append(InvertedResidual(channels, width, stride if i == 0 else 1, expansion))
                channels = width
        self.features = nn.Sequential(*layers, _unit(channels, 1280, 1))
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(1280, num_classes))

    def forward(self, input: Value) -> Value:
        return self.classifier(F.mean(self.features(input), (2, 3)))


def mobilenet_v2(num_classes: int = 1000, dropout: float = 0.2) -> nn.Module:
    """[N, 3, H, W] -> logits [N, num_classes]; 3,504,872 parameters with 1000 classes.

    Sandler et al., "Inverted residuals and linear bottlenecks", CVPR 2018. ``dropout`` is before the last layer.
    """
    return MobileNetV2(num_classes, dropout)


def mobilenet_v1(num_classes: int = 1000, relu6: bool = False) -> nn.Module:
    """[N, 3, H, W] -> logits [N, num_classes]; 4,231,976 parameters with 1000 classes.

    Howard et al., "MobileNets: efficient convolutional neural networks for mobile vision applications", 2017: 3x3 convolutions
    in each channel and 1x1 ones across them. ``relu6`` has activations end at 6, as timm's weights were
    trained.
    """
    act = nn.ReLU6 if relu6 else nn.ReLU
    steps = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))
    layers: list[nn.Module] = [_unit(3, 32, 3, 2, act=act)]
    channels = 32
    for outputs, stride in steps:
        layers += [_unit(channels, channels, 3, stride, channels, act), _unit(channels, outputs, 1, act=act)]
        channels = outputs
    pool = {"avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
    return nn.Sequential({"features": nn.Sequential(*layers), **pool, "fc": nn.Linear(1024, num_classes)})

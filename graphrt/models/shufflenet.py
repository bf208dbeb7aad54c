"""ShuffleNetV2 (Ma et al., "ShuffleNet V2: practical guidelines for efficient CNN architecture design", ECCV 2018)."""

from __future__ import annotations

from collections.abc import Sequence

import graphrt.ops as F
from graphrt import nn
from graphrt.ir import Value


def _unit(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, relu: bool = True) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs), *([nn.ReLU()] if relu else [])]


class InvertedResidual(nn.Module):
    """Half of the channels pass, or with a stride through a branch of their own; channels are interleaved behind."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        half = outputs // 2
        own = [*_unit(inputs, inputs, 3, stride, inputs, False), *_unit(inputs, half, 1)] if stride > 1 else []
        self.branch1 = nn.Sequential(*own)
        first = _unit(inputs if stride > 1 else half, half, 1)
        self.branch2 = nn.Sequential(*first, *_unit(half, half, 3, stride, half, False), *_unit(half, half, 1))
        self.stride = stride

    def forward(self, input: Value) -> Value:
        kept, through = (input, input) if self.stride > 1 else F.chunk(input, 2, 1)
        return F.channel_shuffle(F.concat([self.branch1(kept), self.branch2(through)], 1), 2)


def _shufflenet(channels: Sequence[int], num_classes: int) -> nn.Module:
    layers: dict[str, nn.Module] = {"conv1": nn.Sequential(*_unit(3, channels[0], 3, 2)), "maxpool": nn.MaxPool2d(3, 2, 1)}
    for i, (inputs, outputs, count) in enumerate(zip(channels, channels[1:4], (4, 8, 4), strict=False)):
        rest = [InvertedResidual(outputs, outputs, 1) for _ in range(count - 1)]
        layers[f"stage{i + 2}"] = nn.Sequential(InvertedResidual(inputs, outputs, 2), *rest)
    layers["conv5"] = nn.Sequential(*_unit(channels[3], channels[4], 1))
    head = {"avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "fc": nn.Linear(channels[4], num_classes)}
    return nn.Sequential({**layers, **head})


def shufflenet_v2_x0_5(num_classes: int = 1000) -> nn.Module:
    """``shufflenet_v2_x1_0`` with half as many channels; 1,366,792 parameters; ``num_classes`` as there."""
    return _shufflenet((24, 48, 96, 192, 1024), num_classes)


def shufflenet_v2_x1_0(num_classes: int = 1000) -> nn.Module:
    """[N, 3, H, W] -> logits [N, num_classes]; 2,278,604 parameters with 1000 classes.

    Ma et al., "ShuffleNet V2: practical guidelines for efficient CNN architecture design", ECCV 2018. Names of parameters are
    torchvision's.
    """
    return _shufflenet((24, 116, 232, 464, 1024), num_classes)

"""MobileNetV3 (Howard et al., "Searching for MobileNetV3", ICCV 2019), and the parts that EfficientNet shares with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import graphrt.ops as F
from graphrt import nn
from graphrt.ir import Value

# kernel, channels inside, channels out, squeeze and excitation, hardswish, stride
_Row = tuple[int, int, int, bool, bool, int]
LARGE: tuple[_Row, ...] = (
    *((3, 16, 16, False, False, 1), (3, 64, 24, False, False, 2), (3, 72, 24, False, False, 1), (5, 72, 40, True, False, 2)),
    *((5, 120, 40, True, False, 1), (5, 120, 40, True, False, 1), (3, 240, 80, False, True, 2), (3, 200, 80, False, True, 1)),
    *((3, 184, 80, False, True, 1), (3, 184, 80, False, True, 1), (3, 480, 112, True, True, 1), (3, 672, 112, True, True, 1)),
    *((5, 672, 160, True, True, 2), (5, 960, 160, True, True, 1), (5, 960, 160, True, True, 1)),
)
SMALL: tuple[_Row, ...] = (
    *((3, 16, 16, True, False, 2), (3, 72, 24, False, False, 2), (3, 88, 24, False, False, 1), (5, 96, 40, True, True, 2)),
    *((5, 240, 40, True, True, 1), (5, 240, 40, True, True, 1), (5, 120, 48, True, True, 1), (5, 144, 48, True, True, 1)),
    *((5, 288, 96, True, True, 2), (5, 576, 96, True, True, 1), (5, 576, 96, True, True, 1)),
)


def divisible(channels: float) -> int:
    """The multiple of 8 that is nearest, and at least 90 % of ``channels``."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest


def unit(
    inputs: int,
    outputs: int,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    act: Callable[[], nn.Module] | None = None,
    eps: float = 1e-3,
) -> nn.Sequential:
    """Convolution, batch norm and activation."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out")
    return nn.Sequential(conv, nn.BatchNorm2d(outputs, eps), *([] if act is None else [act()]))


class SqueezeExcitation(nn.Module):
    """Channels scaled by what two layers make of their means (Hu et al., CVPR 2018)."""

    def __init__(self, inputs: int, squeeze: int, act: Callable[[Value], Value], gate: Callable[[Value], Value]) -> None:
        self.fc1, self.fc2 = nn.Conv2d(inputs, squeeze, 1), nn.Conv2d(squeeze, inputs, 1)
        self._act, self._gate = act, gate

    def forward(self, input: Value) -> Value:
        scale = self.fc2(self._act(self.fc1(F.mean(input, (2, 3), keepdim=True))))
        return input * self._gate(scale)


class InvertedResidual(nn.Module):
    """1x1 convolution to more channels, one in each of them, 1x1 back; a shortcut where shapes agree."""

    def __init__(self, inputs: int, row: _Row, eps: float) -> None:
        kernel, wide, outputs, excited, hard, stride = row
        act = nn.Hardswish if hard else nn.ReLU
        widen = [unit(inputs, wide, 1, act=act, eps=eps)] if wide != inputs else []
        scale = [SqueezeExcitation(wide, divisible(wide / 4), F.relu, F.hardsigmoid)] if excited else []
        each, narrow = unit(wide, wide, kernel, stride, wide, act, eps), unit(wide, outputs, 1, eps=eps)
        self.block = nn.Sequential(*widen, each, *scale, narrow)
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, input: Value) -> Value:
        return input + self.block(input) if self.shortcut else self.block(input)


def _mobilenet_v3(rows: Sequence[_Row], last: int, num_classes: int, dropout: float, eps: float) -> nn.Module:
    layers: list[nn.Module] = [unit(3, 16, 3, 2, act=nn.Hardswish, eps=eps)]
    channels = 16
    for row in rows:
        layers.append(InvertedResidual(channels, row, eps))
        channels = row[2]
    layers.append(unit(channels, 6 * channels, 1, act=nn.Hardswish, eps=eps))
    head = (nn.Linear(6 * channels, last), nn.Hardswish(), nn.Dropout(dropout), nn.Linear(last, num_classes))
    pool = {"avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
    return nn.Sequential({"features": nn.Sequential(*layers), **pool, "classifier": nn.Sequential(*head)})


def mobilenet_v3_large(num_classes: int = 1000, dropout: float = 0.2, eps: float = 1e-3) -> nn.Module:
    """[N, 3, H, W] -> logits [N, num_classes]; 5,483,032 parameters with 1000 classes.

    Howard et al., "Searching for MobileNetV3", ICCV 2019. ``dropout`` is before the last layer. Names of parameters are
    torchvision's, and so is the ``eps`` of its batch norms; timm's weights were trained with 1e-5.
    """
    return _mobilenet_v3(LARGE, 1280, num_classes, dropout, eps)


def mobilenet_v3_small(num_classes: int = 1000, dropout: float = 0.2, eps: float = 1e-3) -> nn.Module:
    """[N, 3, H, W] -> logits [N, num_classes]; 2,542,856 parameters; the paper and arguments as of ``mobilenet_v3_large``.

    ``num_classes``, ``dropout`` and ``eps`` as there.
    """
    return _mobilenet_v3(SMALL, 1024, num_classes, dropout, eps)

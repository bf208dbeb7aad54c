"""EfficientNet (Tan and Le, "EfficientNet: rethinking model scaling for convolutional neural networks", ICML 2019)."""

from __future__ import annotations

import math

import graphrt.ops as F
from graphrt import nn
from graphrt.ir import Value
from graphrt.models.mobilenet_v3 import SqueezeExcitation, divisible, unit

# expansion, kernel, stride, channels, blocks
_STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)


class StochasticDepth(nn.Module):
    """Leaves out the branch ``input`` [N, ...] of each example with probability ``p`` in training (Huang et al., ECCV 2016)."""

    def __init__(self, p: float) -> None:
        self.drop = nn.Dropout2d(p)

    def forward(self, input: Value) -> Value:
        if not (self.training and self.drop.p):
            return input
        return F.reshape(self.drop(F.reshape(input, (1, input.shape[0], -1, 1))), input.shape)


class MBConv(nn.Module):
    """MobileNet's inverted residual with squeeze and excitation."""

    def __init__(self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int, drop: float) -> None:
        wide = inputs * expansion
        widen = [unit(inputs, wide, 1, act=nn.SiLU, eps=1e-5)] if expansion > 1 else []
        inner = unit(wide, wide, kernel, stride, wide, nn.SiLU, 1e-5)
        scale = SqueezeExcitation(wide, max(1, inputs // 4), F.silu, F.sigmoid)
        self.block = nn.Sequential(*widen, inner, scale, unit(wide, outputs, 1, eps=1e-5))
        self.shortcut, self.stochastic_depth = stride == 1 and inputs == outputs, StochasticDepth(drop)

    def forward(self, input: Value) -> Value:
        return input + self.stochastic_depth(self.block(input)) if self.shortcut else self.block(input)


def _efficientnet(width: float, depth: float, num_classes: int, dropout: float) -> nn.Module:
    channels = divisible(32 * width)
    layers: list[nn.Module] = [unit(3, channels, 3, 2, act=nn.SiLU, eps=1e-5)]
    total, done = sum(math.ceil(count * depth) for *_, count in _STAGES), 0
    for expansion, kernel, stride, size, count in _STAGES:
        outputs, blocks = divisible(size * width), []
        for i in range(math.ceil(count * depth)):
            blocks.append(MBConv(channels, outputs, expansion, kernel, stride if i == 0 else 1, 0.2 * done / total))
            channels, done = outputs, done + 1
        layers.append(nn.Sequential(*blocks))
    layers.append(unit(channels, 4 * channels, 1, act=nn.SiLU, eps=1e-5))
    head = nn.Sequential(nn.Dropout(dropout), nn.Linear(4 * channels, num_classes))
    pool = {"avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
    return nn.Sequential({"features": nn.Sequential(*layers), **pool, "classifier": head})


def efficientnet_b0(num_classes: int = 1000, dropout: float = 0.2) -> nn.Module:
    """[N, 3, H, W] -> logits [N, num_classes]; 5,288,548 parameters with 1000 classes.

    Tan and Le, "EfficientNet: rethinking model scaling for convolutional neural networks", ICML 2019. ``dropout`` is before the
    last layer. Names of parameters are torchvision's.
    """
    return _efficientnet(1.0, 1.0, num_classes, dropout)


def efficientnet_b1(num_classes: int = 1000, dropout: float = 0.2) -> nn.Module:
    """``efficientnet_b0``, deeper, for 240 pixels; 7,794,184 parameters; ``num_classes`` and ``dropout`` as there."""
    return _efficientnet(1.0, 1.1, num_classes, dropout)


def efficientnet_b2(num_classes: int = 1000, dropout: float = 0.3) -> nn.Module:
    """``efficientnet_b0``, deeper and wider, for 260 pixels; 9,109,994 parameters; ``num_classes`` and ``dropout`` as there."""
    return _efficientnet(1.1, 1.2, num_classes, dropout)


def efficientnet_b3(num_classes: int = 1000, dropout: float = 0.3) -> nn.Module:
    """``efficientnet_b0``, deeper and wider, for 300 pixels; 12,233,232 parameters; ``num_classes``, ``dropout`` as there."""
    return _efficientnet(1.2, 1.4, num_classes, dropout)


def efficientnet_b4(num_classes: int = 1000, dropout: float = 0.4) -> nn.Module:
    """``efficientnet_b0``, deeper and wider, for 380 pixels; 19,341,616 parameters; ``num_classes``, ``dropout`` as there."""
    return _efficientnet(1.4, 1.8, num_classes, dropout)

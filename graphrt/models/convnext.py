"""ConvNeXt (Liu et al., "A ConvNet for the 2020s", CVPR 2022)."""

from __future__ import annotations

import numpy as np

import graphrt.ops as F
from graphrt import nn
from graphrt.ir import Value
from graphrt.models.efficientnet import StochasticDepth


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of [N, C, H, W]."""

    def forward(self, input: Value) -> Value:
        return F.permute(super().forward(F.permute(input, (0, 2, 3, 1))), (0, 3, 1, 2))


class Permute(nn.Module):
    """Dimensions in another order."""

    def __init__(self, *dims: int) -> None:
        self.dims = dims

    def forward(self, input: Value) -> Value:
        return F.permute(input, self.dims)


class CNBlock(nn.Module):
    """A 7x7 convolution in each channel, and two layers across them, scaled and added to the input."""

    def __init__(self, size: int, drop: float) -> None:
        conv, last = nn.Conv2d(size, size, 7, padding=3, groups=size), Permute(0, 3, 1, 2)
        across = (nn.LayerNorm(size, 1e-6), nn.Linear(size, 4 * size), nn.GELU(), nn.Linear(4 * size, size))
        self.layer_scale = nn.Parameter(np.full((size, 1, 1), 1e-6, np.float32))
        self.block, self.stochastic_depth = nn.Sequential(conv, Permute(0, 2, 3, 1), *across, last), StochasticDepth(drop)

    def forward(self, input: Value) -> Value:
        return input + self.stochastic_depth(self.block(input) * self.layer_scale)


def convnext_tiny(num_classes: int = 1000, stochastic_depth: float = 0.1) -> nn.Module:
    """[N, 3, H, W] -> logits [N, num_classes]; 28,589,128 parameters with 1000 classes.

    Liu et al., "A ConvNet for the 2020s", CVPR 2022. ``stochastic_depth`` is how often the last block is left out in training,
    those before it less. Names of parameters are torchvision's.
    """
    sizes, counts = (96, 192, 384, 768), (3, 3, 9, 3)
    features: list[nn.Module] = [nn.Sequential(nn.Conv2d(3, sizes[0], 4, 4), LayerNorm2d(sizes[0], 1e-6))]
    done = 0
    for i, (size, count) in enumerate(zip(sizes, counts, strict=True)):
        blocks = [CNBlock(size, stochastic_depth * (done + j) / (sum(counts) - 1)) for j in range(count)]
        features.append(nn.Sequential(*blocks))
        done += count
        if i < 3:
            features.append(nn.Sequential(LayerNorm2d(size, 1e-6), nn.Conv2d(size, sizes[i + 1], 2, 2)))
    net = nn.Sequential(*features)
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
            assert module.bias is not None
            nn.init.zeros_(module.bias)
    head = nn.Sequential(LayerNorm2d(768, 1e-6), nn.Flatten(), nn.Linear(768, num_classes))
    return nn.Sequential({"features": net, "avgpool": nn.AdaptiveAvgPool2d(1), "classifier": head})

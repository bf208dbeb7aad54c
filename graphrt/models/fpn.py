"""Feature pyramids and their trunks (Lin et al., "Feature pyramid networks for object detection", CVPR 2017).

map ─▶ map ─▶ map
 │1x1   │1x1   │1x1
(+)◀x2─(+)◀x2──┘
 │3x3   │3x3   │3x3
"""

from __future__ import annotations

from collections.abc import Sequence

import graphrt.ops as F
from graphrt import nn
from graphrt.ir import Value
from graphrt.models.resnet import ResNet


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """A convolution that keeps the size but for ``stride``, started as in the paper's program."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2)
    nn.init.kaiming_uniform_(layer.weight, 1.0)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


class FPN(nn.Module):
    """Maps of ``channels``, each half as large as the one before -> as many of ``width`` channels; parameters as torchvision's.

    ``extra`` "p6p7" adds two smaller maps by convolutions (RetinaNet), "pool" one by leaving out every other row and column.
    """

    def __init__(self, channels: Sequence[int], width: int, extra: str | None = None) -> None:
        self.inner_blocks = [nn.Sequential(conv(c, width, 1)) for c in channels]
        self.layer_blocks = [nn.Sequential(conv(width, width, 3)) for _ in channels]
        self.extra = extra
        if extra == "p6p7":
            self.extra_blocks = nn.Sequential({"p6": conv(width, width, 3, 2), "p7": conv(width, width, 3, 2)})

    def forward(self, maps: Sequence[Value]) -> list[Value]:
        found = list[Value]()
        above: Value | None = None
        for map, inner, layer in reversed(list(zip(maps, self.inner_blocks, self.layer_blocks, strict=True))):
            x = inner(map)
            above = x if above is None else x + F.interpolate(above, x.shape[2:], mode="nearest")
            found.insert(0, layer(above))
        if self.extra == "p6p7":
            sixth = self.extra_blocks[0](found[-1])
            found += [sixth, self.extra_blocks[1](F.relu(sixth))]
        elif self.extra == "pool":
            found.append(found[-1][:, :, ::2, ::2])
        return found


class ResNetMaps(nn.Module):
    """The maps of a ``ResNet``'s stages, from stage number ``first`` (1 to 4) on."""

    def __init__(self, net: ResNet, first: int) -> None:
        self.conv1, self.bn1, self.maxpool = net.conv1, net.bn1, net.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = net.layer1, net.layer2, net.layer3, net.layer4
        self.first = first

    def forward(self, input: Value) -> list[Value]:
        x = self.maxpool(F.relu(self.bn1(self.conv1(input))))
        maps = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            maps.append(x)
        return maps[self.first - 1 :]


class SmallMaps(nn.Module):
    """A small trunk: for each of ``widths`` two 3x3 convolutions with norms and a pool; the maps of the last ``count``."""

    def __init__(self, widths: Sequence[int], count: int) -> None:
        self.count = count
        self.stages = [_stage(a, b) for a, b in zip((3, *widths), widths, strict=False)]

    def forward(self, input: Value) -> list[Value]:
        maps, x = [], input
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps[-self.count :]


def _stage(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [nn.Conv2d(channels, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.MaxPool2d(2))


class Pyramid(nn.Module):
    """A trunk ``body`` and the ``fpn`` over its maps."""

    def __init__(self, body: nn.Module, fpn: FPN) -> None:
        self.body, self.fpn = body, fpn

    def forward(self, input: Value) -> list[Value]:
        return self.fpn(self.body(input))

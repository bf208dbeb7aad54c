"""Inception v3 (Szegedy et al., "Rethinking the inception architecture for computer vision", CVPR 2016), as torchvision has
it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import graphrt.ops as F
from graphrt import nn
from graphrt.ir import Value

Size = int | tuple[int, int]
Chains = Mapping[
    str, Sequence[Any]
]  # a convolution is (channels, kernel) or (channels, kernel, 2); a list of two are side by side


class BasicConv2d(nn.Module):
    """Convolution, batch norm, ReLU; ``padded`` keeps the picture's size."""

    def __init__(self, inputs: int, outputs: int, kernel: Size, stride: int = 1, padded: bool = True) -> None:
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (sides[0] // 2, sides[1] // 2) if padded and stride == 1 else 0
        self.conv = nn.Conv2d(inputs, outputs, sides, stride, padding, bias=False)
        nn.init.trunc_normal_(self.conv.weight, std=0.1, a=-0.2, b=0.2)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, input: Value) -> Value:
        return F.relu(self.bn(self.conv(input)))


class Mixed(nn.Module):
    """Chains of convolutions beside a pooling, concatenated; that without a chain of its own is the pooling that halves."""

    def __init__(self, inputs: int, chains: Chains) -> None:
        self.paths: dict[str, list[list[str]]] = {}  # names of the convolutions of each chain
        for name, chain in chains.items():
            size = inputs
            for i, given in enumerate(chain, 1):
                beside = given if isinstance(given, list) else [given]
                number = "" if len(chain) == 1 else f"_{i}"
                names = [f"{name}{number}{letter if len(beside) > 1 else ''}" for letter, _ in zip("ab", beside, strict=False)]
                for own, conv in zip(names, beside, strict=True):
                    setattr(self, own, BasicConv2d(size, *conv))
                self.paths.setdefault(name, []).append(names)
                size = beside[0][0]

    def forward(self, input: Value) -> Value:
        found = []
        for name, chain in self.paths.items():
            parts = [F.avg_pool2d(input, 3, 1, 1) if name == "branch_pool" else input]
            for names in chain:
                parts = [getattr(self, own)(parts[0]) for own in names]
            found += parts
        return F.concat(found if "branch_pool" in self.paths else [*found, F.max_pool2d(input, 3, 2)], 1)


def _a(inputs: int, pooled: int) -> Mixed:
    chains: Chains = {"branch1x1": [(64, 1)], "branch5x5": [(48, 1), (64, 5)], "branch3x3dbl": [(64, 1), (96, 3), (96, 3)]}
    return Mixed(inputs, {**chains, "branch_pool": [(pooled, 1)]})


def _b(inputs: int) -> Mixed:
    return Mixed(inputs, {"branch3x3": [(384, 3, 2)], "branch3x3dbl": [(64, 1), (96, 3), (96, 3, 2)]})


def _c(n: int) -> Mixed:
    row, column = (1, 7), (7, 1)
    single, double = [(n, 1), (n, row), (192, column)], [(n, 1), (n, column), (n, row), (n, column), (192, row)]
    return Mixed(768, {"branch1x1": [(192, 1)], "branch7x7": single, "branch7x7dbl": double, "branch_pool": [(192, 1)]})


def _d(inputs: int) -> Mixed:
    wide = [(192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3, 2)]
    return Mixed(inputs, {"branch3x3": [(192, 1), (320, 3, 2)], "branch7x7x3": wide})


def _e(inputs: int) -> Mixed:
    cross = [(384, (1, 3)), (384, (3, 1))]
    chains: Chains = {"branch1x1": [(320, 1)], "branch3x3": [(384, 1), cross], "branch3x3dbl": [(448, 1), (384, 3), cross]}
    return Mixed(inputs, {**chains, "branch_pool": [(192, 1)]})


class InceptionAux(nn.Module):
    """A classifier on the way."""

    def __init__(self, inputs: int, num_classes: int) -> None:
        self.conv0, self.conv1 = BasicConv2d(inputs, 128, 1), BasicConv2d(128, 768, 5, padded=False)
        self.fc = nn.Linear(768, num_classes)
        nn.init.trunc_normal_(self.conv1.conv.weight, std=0.01, a=-0.02, b=0.02)
        nn.init.trunc_normal_(self.fc.weight, std=0.001, a=-0.002, b=0.002)

    def forward(self, input: Value) -> Value:
        return self.fc(F.mean(self.conv1(self.conv0(F.avg_pool2d(input, 5, 3))), (2, 3)))


class Inception3(nn.Module):
    """[N, 3, H, W] -> logits [N, num_classes]; names of parameters as torchvision has them."""

    def __init__(self, num_classes: int = 1000, dropout: float = 0.5, aux_logits: bool = False) -> None:
        self.Conv2d_1a_3x3 = BasicConv2d(3, 32, 3, 2)
        self.Conv2d_2a_3x3, self.Conv2d_2b_3x3 = BasicConv2d(32, 32, 3, padded=False), BasicConv2d(32, 64, 3)
        self.Conv2d_3b_1x1, self.Conv2d_4a_3x3 = BasicConv2d(64, 80, 1), BasicConv2d(80, 192, 3, padded=False)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = _a(192, 32), _a(256, 64), _a(288, 64)
        self.Mixed_6a = _b(288)
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = _c(128), _c(160), _c(160), _c(192)
        self.AuxLogits = InceptionAux(768, num_classes) if aux_logits else None
        self.Mixed_7a, self.Mixed_7b, self.Mixed_7c = _d(768), _e(1280), _e(2048)
        self.dropout, self.fc = nn.Dropout(dropout), nn.Linear(2048, num_classes)
        nn.init.trunc_normal_(self.fc.weight, std=0.1, a=-0.2, b=0.2)

    def forward(self, input: Value) -> Value | tuple[Value, Value]:
        x = F.max_pool2d(self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(input))), 3, 2)
        x = F.max_pool2d(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)), 3, 2)
        x = self.Mixed_6a(self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x))))
        late = x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(x))))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        logits = self.fc(self.dropout(F.mean(x, (2, 3))))
        return logits if self.AuxLogits is None or not self.training else (logits, self.AuxLogits(late))


def inception_v3(num_classes: int = 1000, dropout: float = 0.5, aux_logits: bool = False) -> nn.Module:
    """[N, 3, H, W] -> logits [N, num_classes]; 23,834,568 parameters with 1000 classes, 27,161,264 with ``aux_logits``.

    Szegedy et al., "Rethinking the inception architecture for computer vision", CVPR 2016; pictures of 299x299. ``dropout`` is
    before the last layer. ``aux_logits`` adds the auxiliary classifier, whose logits are returned behind the others in training
    mode: ``Trainer(net, [loss, (loss, 0.4)], ...)``.
    """
    return Inception3(num_classes, dropout, aux_logits)

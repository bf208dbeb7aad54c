"""SqueezeNet (Iandola et al., "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters", 2016)."""

from __future__ import annotations

import graphrt.ops as F
from graphrt import nn
from graphrt.ir import Value


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, 1 if kernel == 3 and stride == 1 else 0)
    nn.init.kaiming_uniform_(conv.weight)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv


class Fire(nn.Module):
    """A 1x1 convolution to few channels; 1x1 and 3x3 ones from there, side by side."""

    def __init__(self, inputs: int, squeeze: int, expand: int) -> None:
        self.squeeze, self.expand1x1, self.expand3x3 = _conv(inputs, squeeze, 1), *(_conv(squeeze, expand, k) for k in (1, 3))

    def forward(self, input: Value) -> Value:
        x = F.relu(self.squeeze(input))
        return F.concat([F.relu(self.expand1x1(x)), F.relu(self.expand3x3(x))], 1)


def _squeezenet(features: list[nn.Module], num_classes: int, dropout: float) -> nn.Module:
    last = nn.Conv2d(512, num_classes, 1)
    nn.init.normal_(last.weight, std=0.01)
    assert last.bias is not None
    nn.init.zeros_(last.bias)
    head = nn.Sequential(nn.Dropout(dropout), last, nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    return nn.Sequential({"features": nn.Sequential(*features), "classifier": head, "flatten": nn.Flatten()})


def _pool() -> nn.Module:
    return nn.MaxPool2d(3, 2, ceil_mode=True)


def squeezenet1_0(num_classes: int = 1000, dropout: float = 0.5) -> nn.Module:
    """[N, 3, H, W] -> logits [N, num_classes]; 1,248,424 parameters with 1000 classes.

    Iandola et al., "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters", 2016. ``dropout`` is before the last layer.
    Names of parameters are torchvision's.
    """
    first = [nn.Conv2d(3, 96, 7, 2), nn.ReLU(), _pool(), Fire(96, 16, 64), Fire(128, 16, 64), Fire(128, 32, 128), _pool()]
    rest = [Fire(256, 32, 128), Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256), _pool(), Fire(512, 64, 256)]
    return _squeezenet([*first, *rest], num_classes, dropout)


def squeezenet1_1(num_classes: int = 1000, dropout: float = 0.5) -> nn.Module:
    """``squeezenet1_0`` that pools earlier; 1,235,496 parameters with 1000 classes; ``num_classes``, ``dropout`` as there."""
    first = [nn.Conv2d(3, 64, 3, 2), nn.ReLU(), _pool(), Fire(64, 16, 64), Fire(128, 16, 64), _pool()]
    middle = [Fire(128, 32, 128), Fire(256, 32, 128), _pool()]
    rest = [Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256), Fire(512, 64, 256)]
    return _squeezenet([*first, *middle, *rest], num_classes, dropout)

"""VGG (Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition", ICLR 2015)."""

from __future__ import annotations

from collections.abc import Sequence

from graphrt import nn

_VGG11 = ((64,), (128,), (256, 256), (512, 512), (512, 512))
_VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def _features(stages: Sequence[Sequence[int]], batch_norm: bool) -> nn.Sequential:
    """3x3 convolutions of so many channels, each stage with a pool behind it."""
    layers: list[nn.Module] = []
    channels = 3
    for stage in stages:
        for size in stage:
            layers.append(nn.Conv2d(channels, size, 3, padding=1))
            layers += [nn.BatchNorm2d(size)] if batch_norm else []
            layers.append(nn.ReLU())
            channels = size
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


def _vgg(stages: Sequence[Sequence[int]], num_classes: int, batch_norm: bool, dropout: float) -> nn.Module:
    classifier = nn.Sequential(
        *(nn.Linear(512 * 7 * 7, 4096), nn.ReLU(), nn.Dropout(dropout)),
        *(nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(dropout), nn.Linear(4096, num_classes)),
    )
    table = {"features": _features(stages, batch_norm), "avgpool": nn.AdaptiveAvgPool2d(7), "flatten": nn.Flatten()}
    return nn.Sequential({**table, "classifier": classifier})


def vgg11(num_classes: int = 1000, batch_norm: bool = False, dropout: float = 0.5) -> nn.Module:
    """[N, 3, 224, 224] -> logits [N, num_classes]; 132,863,336 parameters with 1000 classes, 132,868,840 with ``batch_norm``.

    Configuration A of Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition", ICLR 2015.
    ``dropout`` is behind each of the first two linear layers.
    """
    return _vgg(_VGG11, num_classes, batch_norm, dropout)


def vgg16(num_classes: int = 1000, batch_norm: bool = False, dropout: float = 0.5) -> nn.Module:
    """[N, 3, 224, 224] -> logits [N, num_classes]; 138,357,544 parameters with 1000 classes, 138,365,992 with ``batch_norm``.

    Configuration D; ``dropout`` and the paper as of ``vgg11``. The convolutions are initialised as torchvision does (He et al.,
    "Delving deep into rectifiers", ICCV 2015): with torch's default the signal dies out on the way through 13 of them.
    """
    net = _vgg(_VGG16, num_classes, batch_norm, dropout)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            assert module.bias is not None
            nn.init.zeros_(module.bias)
    return net


def vgg16_bn(num_classes: int = 1000, dropout: float = 0.5) -> nn.Module:
    """``vgg16`` with a batch norm behind each convolution; ``num_classes`` and ``dropout`` as there."""
    return vgg16(num_classes, True, dropout)


def vgg11_cifar(num_classes: int = 10, batch_norm: bool = True) -> nn.Module:
    """[N, 3, 32, 32] -> logits [N, num_classes]: ``vgg11``'s features, with ``batch_norm``, and one linear layer behind them.

    9,231,114 parameters with 10 classes, 9,225,610 without norm.
    """
    return nn.Sequential(
        {"features": _features(_VGG11, batch_norm), "flatten": nn.Flatten(), "classifier": nn.Linear(512, num_classes)}
    )

"""VGG (Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition", ICLR 2015)."""

from __future__ import annotations

from collections.abc import Sequence

from graphrt import nn

# Channels of each 3x3 convolution, by stage; a negative number is a 1x1 one.
_VGG11 = ((64,), (128,), (256, 256), (512, 512), (512, 512))
_VGG13 = ((64, 64), (128, 128), (256, 256), (512, 512), (512, 512))
_VGG16_C = ((64, 64), (128, 128), (256, 256, -256), (512, 512, -512), (512, 512, -512))
VGG16 = ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3)
VGG19 = ((64, 64), (128, 128), (256,) * 4, (512,) * 4, (512,) * 4)


def features(stages: Sequence[Sequence[int]], batch_norm: bool, lrn: bool = False, ceil_mode: bool = False) -> nn.Sequential:
    """Convolutions of so many channels, each stage with a pool behind it; ``lrn`` normalises behind the first."""
    layers: list[nn.Module] = []
    channels = 3
    for stage in stages:
        for width in stage:
            size = abs(width)
            layers.append(nn.Conv2d(channels, size, 3 if width > 0 else 1, padding=1 if width > 0 else 0))
            layers += [nn.BatchNorm2d(size)] if batch_norm else []
            layers.append(nn.ReLU())
            layers += [nn.LocalResponseNorm(5, 1e-4, 0.75, 2.0)] if lrn and channels == 3 else []
            channels = size
        layers.append(nn.MaxPool2d(2, ceil_mode=ceil_mode))
    return nn.Sequential(*layers)


def _vgg(stages: Sequence[Sequence[int]], num_classes: int, batch_norm: bool, dropout: float, lrn: bool = False) -> nn.Module:
    classifier = nn.Sequential(
        *(nn.Linear(512 * 7 * 7, 4096), nn.ReLU(), nn.Dropout(dropout)),
        *(nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(dropout), nn.Linear(4096, num_classes)),
    )
    table = {"features": features(stages, batch_norm, lrn), "avgpool": nn.AdaptiveAvgPool2d(7), "flatten": nn.Flatten()}
    return nn.Sequential({**table, "classifier": classifier})


def _deep(net: nn.Module) -> nn.Module:
    """Convolutions initialised as torchvision does: with torch's default the signal dies out on the way through 13 of them."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            assert module.bias is not None
            nn.init.zeros_(module.bias)
    return net


def vgg11(num_classes: int = 1000, batch_norm: bool = False, dropout: float = 0.5) -> nn.Module:
    """[N, 3, 224, 224] -> logits [N, num_classes]; 132,863,336 parameters with 1000 classes, 132,868,840 with ``batch_norm``.

    Configuration A of Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition", ICLR 2015.
    ``dropout`` is behind each of the first two linear layers.
    """
    return _vgg(_VGG11, num_classes, batch_norm, dropout)


def vgg11_lrn(num_classes: int = 1000, dropout: float = 0.5) -> nn.Module:
    """Configuration A-LRN: ``vgg11`` with local response normalisation behind the first convolution; 132,863,336 parameters.

    ``num_classes`` and ``dropout`` as of ``vgg11``.
    """
    return _vgg(_VGG11, num_classes, False, dropout, lrn=True)


def vgg13(num_classes: int = 1000, batch_norm: bool = False, dropout: float = 0.5) -> nn.Module:
    """Configuration B: 133,047,848 parameters with 1000 classes, 133,053,736 with ``batch_norm``.

    ``num_classes`` and ``dropout`` as of ``vgg11``; convolutions are initialised as of ``vgg16``.
    """
    return _deep(_vgg(_VGG13, num_classes, batch_norm, dropout))


def vgg16_c(num_classes: int = 1000, batch_norm: bool = False, dropout: float = 0.5) -> nn.Module:
    """Configuration C, the last convolution of the last three stages 1x1: 133,638,952 parameters with 1000 classes.

    ``num_classes``, ``batch_norm`` and ``dropout`` as of ``vgg11``; convolutions are initialised as of ``vgg16``.
    """
    return _deep(_vgg(_VGG16_C, num_classes, batch_norm, dropout))


def vgg16(num_classes: int = 1000, batch_norm: bool = False, dropout: float = 0.5) -> nn.Module:
    """[N, 3, 224, 224] -> logits [N, num_classes]; 138,357,544 parameters with 1000 classes, 138,365,992 with ``batch_norm``.

    Configuration D; ``dropout`` and the paper as of ``vgg11``. The convolutions are initialised as torchvision does (He et al.,
    "Delving deep into rectifiers", ICCV 2015).
    """
    return _deep(_vgg(VGG16, num_classes, batch_norm, dropout))


def vgg19(num_classes: int = 1000, batch_norm: bool = False, dropout: float = 0.5) -> nn.Module:
    """Configuration E: 143,667,240 parameters with 1000 classes, 143,678,248 with ``batch_norm``.

    ``num_classes`` and ``dropout`` as of ``vgg11``; convolutions are initialised as of ``vgg16``.
    """
    return _deep(_vgg(VGG19, num_classes, batch_norm, dropout))


def vgg11_bn(num_classes: int = 1000, dropout: float = 0.5) -> nn.Module:
    """``vgg11`` with a batch norm behind each convolution; ``num_classes`` and ``dropout`` as there."""
    return vgg11(num_classes, True, dropout)


def vgg13_bn(num_classes: int = 1000, dropout: float = 0.5) -> nn.Module:
    """``vgg13`` with a batch norm behind each convolution; ``num_classes`` and ``dropout`` as there."""
    return vgg13(num_classes, True, dropout)


def vgg16_bn(num_classes: int = 1000, dropout: float = 0.5) -> nn.Module:
    """``vgg16`` with a batch norm behind each convolution; ``num_classes`` and ``dropout`` as there."""
    return vgg16(num_classes, True, dropout)


def vgg19_bn(num_classes: int = 1000, dropout: float = 0.5) -> nn.Module:
    """``vgg19`` with a batch norm behind each convolution; ``num_classes`` and ``dropout`` as there."""
    return vgg19(num_classes, True, dropout)


def vgg11_cifar(num_classes: int = 10, batch_norm: bool = True) -> nn.Module:
    """[N, 3, 32, 32] -> logits [N, num_classes]: ``vgg11``'s features, with ``batch_norm``, and one linear layer behind them.

    9,231,114 parameters with 10 classes, 9,225,610 without norm.
    """
    return nn.Sequential(
        {"features": features(_VGG11, batch_norm), "flatten": nn.Flatten(), "classifier": nn.Linear(512, num_classes)}
    )

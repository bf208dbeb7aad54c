"""VGG (Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition", ICLR 2015)."""

from __future__ import annotations

from graphrt import nn

_VGG11 = (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool", 512, 512, "pool")


def _features(batch_norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = 3
    for item in _VGG11:
        if isinstance(item, str):
            layers.append(nn.MaxPool2d(2))
            continue
        layers.append(nn.Conv2d(channels, item, 3, padding=1))
        layers += [nn.BatchNorm2d(item)] if batch_norm else []
        layers.append(nn.ReLU())
        channels = item
    return nn.Sequential(*layers)


def vgg11(num_classes: int = 1000, batch_norm: bool = False, dropout: float = 0.5) -> nn.Module:
    """[N, 3, 224, 224] -> logits (configuration A); 132,863,336 parameters, 132,868,840 with batch norm."""
    classifier = nn.Sequential(
        *(nn.Linear(512 * 7 * 7, 4096), nn.ReLU(), nn.Dropout(dropout)),
        *(nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(dropout), nn.Linear(4096, num_classes)),
    )
    table = {"features": _features(batch_norm), "avgpool": nn.AdaptiveAvgPool2d(7), "flatten": nn.Flatten()}
    return nn.Sequential({**table, "classifier": classifier})


def vgg11_cifar(num_classes: int = 10, batch_norm: bool = True) -> nn.Module:
    """[N, 3, 32, 32] -> logits, with one linear layer behind the features; 9,231,114 parameters, 9,225,610 without norm."""
    return nn.Sequential(
        {"features": _features(batch_norm), "flatten": nn.Flatten(), "classifier": nn.Linear(512, num_classes)}
    )

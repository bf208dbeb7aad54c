"""AlexNet: as first published, in one tower, and with fewer channels as torchvision has it."""

from __future__ import annotations

from graphrt import nn


def alexnet(num_classes: int = 1000, dropout: float = 0.5) -> nn.Module:
    """[N, 3, 224, 224] -> logits [N, num_classes]; 61,100,840 parameters with 1000 classes.

    Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014. ``dropout`` is before each of the first
    two linear layers.
    """
    features = nn.Sequential(
        *(nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(), nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2)),
    )
    classifier = nn.Sequential(
        *(nn.Dropout(dropout), nn.Linear(256 * 6 * 6, 4096), nn.ReLU()),
        *(nn.Dropout(dropout), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, num_classes)),
    )
    return nn.Sequential(
        {"features": features, "avgpool": nn.AdaptiveAvgPool2d(6), "flatten": nn.Flatten(), "classifier": classifier}
    )


def alexnet_2012(num_classes: int = 1000, dropout: float = 0.5) -> nn.Sequential:
    """[N, 3, 227, 227] -> logits [N, num_classes]; 62,378,344 parameters with 1000 classes.

    Krizhevsky et al., "ImageNet classification with deep convolutional neural networks", NeurIPS 2012, without the split into
    two towers: maps of 55, 27, 27, 13, 13, 13, 13 and 6 pixels, local response normalisation behind the first two convolutions.
    ``dropout`` is before each of the first two linear layers.
    """
    features = nn.Sequential(
        *(nn.Conv2d(3, 96, 11, 4), nn.ReLU(), nn.LocalResponseNorm(5, 1e-4, 0.75, 2.0), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(96, 256, 5, padding=2), nn.ReLU(), nn.LocalResponseNorm(5, 1e-4, 0.75, 2.0), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(256, 384, 3, padding=1), nn.ReLU(), nn.Conv2d(384, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2)),
    )
    classifier = nn.Sequential(
        *(nn.Dropout(dropout), nn.Linear(256 * 6 * 6, 4096), nn.ReLU()),
        *(nn.Dropout(dropout), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, num_classes)),
    )
    return nn.Sequential({"features": features, "flatten": nn.Flatten(), "classifier": classifier})

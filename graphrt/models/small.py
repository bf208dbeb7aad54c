"""Small convolutional networks of one trunk: the place and size of a circle, and a classifier to transfer to."""

from __future__ import annotations

from graphrt import nn
from graphrt.ir import Value


def _stage(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]


def circle_regressor(size: int = 32, channels: int = 1) -> nn.Module:
    """[N, channels, size, size] -> [N, 3]: column, row and radius in pixels, as ``data.circles`` has them.

    Two convolutions, two poolings and two linear layers without a bound on their result, for the quadratic loss; 136,387
    parameters by default. ``size`` is divisible by 4.
    """
    return nn.Sequential(
        nn.Conv2d(channels, 16, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * (size // 4) ** 2, 64),
        nn.ReLU(),
        nn.Linear(64, 3),
    )


class Transferred(nn.Module):
    """``head`` on what ``trunk`` makes of pictures, with dropout between."""

    def __init__(self, trunk: nn.Module, features: int, num_classes: int, dropout: float) -> None:
        self.trunk, self.dropout, self.head = trunk, nn.Dropout(dropout), nn.Linear(features, num_classes)

    def forward(self, input: Value) -> Value:
        return self.head(self.dropout(self.trunk(input)))


def conv_trunk(channels: int = 3, width: int = 16) -> nn.Module:
    """[N, channels, H, W] -> features [N, 4 * width]: three convolutions with batch norm and pooling, then the mean."""
    stages = [*_stage(channels, width), *_stage(width, 2 * width), *_stage(2 * width, 4 * width)]
    return nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def spoof_classifier(
    trunk: nn.Module | None = None, features: int = 64, num_classes: int = 1, dropout: float = 0.5
) -> nn.Module:
    """[N, 3, H, W] -> logits [N, num_classes]: is what the camera sees alive? 23,761 parameters by default.

    ``trunk`` gives ``features`` [N, features]: that of a network which was trained for something else, or None for a new
    ``conv_trunk``. To train the head alone: ``net.trunk.requires_grad_(False).eval()``. ``dropout`` is before the head, and
    BCEWithLogitsLoss its loss.
    """
    return Transferred(conv_trunk() if trunk is None else trunk, features, num_classes, dropout)

"""LeNet-5."""

from __future__ import annotations

from graphrt import nn


def lenet5(num_classes: int = 10) -> nn.Module:
    """[N, 1, 32, 32] -> logits [N, num_classes]; 61,706 parameters with 10 classes.

    LeCun et al., "Gradient-based learning applied to document recognition", Proc. IEEE 1998, in its common modern form:
    ReLU, max pooling, every feature map connected, a linear output.
    """
    return nn.Sequential(
        nn.Conv2d(1, 6, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(400, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, num_classes),
    )

"""Linear models and perceptrons."""

from __future__ import annotations

from collections.abc import Sequence

from graphrt import nn


def mlp(num_classes: int = 10) -> nn.Module:
    """784-128-10 with ReLU: [N, 784] or [N, 1, 28, 28] -> logits [N, num_classes]; 101,770 parameters with 10 classes."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, num_classes))


def logistic(num_features: int = 784, num_classes: int = 10) -> nn.Module:
    """[N, num_features], or images of so many pixels -> logits [N, num_classes]: one linear layer.

    7,850 parameters by default: multinomial, with CrossEntropyLoss. With one class it says whether a digit is a 5, with
    BCEWithLogitsLoss, by 785 parameters; with MSELoss it is linear regression.
    """
    return nn.Sequential(nn.Flatten(), nn.Linear(num_features, num_classes))


def playground(num_features: int = 2, hidden: Sequence[int] = (4, 2), num_classes: int = 1) -> nn.Module:
    """[N, num_features] -> logits [N, num_classes]: layers of ``hidden`` neurons with tanh, 25 parameters by default.

    The network of two hidden layers with which rings, spirals and the like are separated in the plane.
    """
    sizes = [num_features, *hidden]
    layers = [part for a, b in zip(sizes, sizes[1:], strict=False) for part in (nn.Linear(a, b), nn.Tanh())]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], num_classes))

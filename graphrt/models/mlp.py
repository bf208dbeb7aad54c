"""A perceptron with one hidden layer."""

from __future__ import annotations

from graphrt import nn


def mlp() -> nn.Module:
    """784-128-10 with ReLU: [N, 784] or [N, 1, 28, 28] -> logits [N, 10]; 101,770 parameters."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))

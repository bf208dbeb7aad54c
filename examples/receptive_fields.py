"""Receptive fields: how much of a picture an element of a network's output depends on, and how much of that counts.

Weights are ones and there is no activation, so that the gradient of the middle element by the picture counts the ways from a
pixel to it: many from the middle of the field, few from its ends (Luo et al., "Understanding the effective receptive field in
deep convolutional networks", NeurIPS 2016). Returns for each network its weights, the side of its field by arithmetic and by
the gradient, and the deviation of the ways in pixels; draws the gradients to a file if one is named.
"""

from __future__ import annotations

import sys

import numpy as np

import graphrt as grt
from graphrt import nn, visualize
from graphrt import ops as F

SIZE = 64


def conv(kernel: int, dilation: int = 1) -> nn.Module:
    layer = nn.Conv2d(1, 1, kernel, padding=(kernel // 2) * dilation, dilation=dilation, bias=False)
    nn.init.constant_(layer.weight, 1.0)
    return layer


NETWORKS: dict[str, list[nn.Module]] = {
    "six 3x3": [conv(3) for _ in range(6)],
    "two 7x7": [conv(7) for _ in range(2)],
    "dilated 3x3": [conv(3, dilation) for dilation in (1, 2, 4, 8)],
    "3x3 and pools": [conv(3), nn.AvgPool2d(2), conv(3), nn.AvgPool2d(2), conv(3)],
}


def ways(net: nn.Module) -> np.ndarray:
    """The gradient of the middle element of the output by the picture."""
    g = grt.Graph()
    x = g.input("x", (1, 1, SIZE, SIZE))
    y = net(x)
    (dx,) = grt.grad(F.sum(y[0, 0, y.shape[2] // 2, y.shape[3] // 2]), [x])
    return grt.compile(dx)(x=np.zeros(x.shape, np.float32))[0, 0]


def main(path: str = "") -> dict[str, dict[str, float]]:
    found, drawn = {}, []
    for name, layers in NETWORKS.items():
        net = nn.Sequential(*layers)
        field = nn.layers(net, (1, 1, SIZE, SIZE))[-1].field
        assert field is not None
        drawn.append(ways(net))
        row = drawn[-1].sum(0) / drawn[-1].sum()  # the share of each column
        places = np.arange(SIZE) - row @ np.arange(SIZE)
        found[name] = {
            "weights": nn.count_parameters(net),
            "field": field[1],
            "seen": int((row > 0).sum()),
            "deviation": float(np.sqrt(row @ places**2)),
        }
    if path:
        visualize.image_grid(drawn, list(found), path, columns=2)
    return found


if __name__ == "__main__":
    for name, row in main(*sys.argv[1:2]).items():
        print(f"{name:<14}", "  ".join(f"{what} {value:.4g}" for what, value in row.items()))

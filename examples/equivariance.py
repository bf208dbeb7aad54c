"""Equivariance: a convolution of a shifted picture is the shifted convolution; a fully connected layer's is not.

Returns how far the two are apart; draws the picture, what each makes of it, and the same of the shifted one below, to a file if
one is named.
"""

from __future__ import annotations

import sys

import numpy as np

import graphrt as grt
from graphrt import ops as F
from graphrt import visualize


def main(path: str = "", shift: int = 2, seed: int = 0) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    x = np.zeros((1, 1, 12, 12), np.float32)
    x[..., 3:8, 3:8] = rng.standard_normal((5, 5))
    moved = np.roll(x, shift, -1)
    g = grt.Graph()
    xv = g.input("x", x.shape)
    conv = F.conv2d(xv, g.constant(rng.standard_normal((3, 1, 3, 3)).astype(np.float32)), padding=1)
    dense = F.linear(F.flatten(xv, 1), g.constant(rng.standard_normal((144, 144)).astype(np.float32)))
    program = grt.compile({"conv": conv, "pool": F.max_pool2d(F.abs(xv), 12), "dense": F.reshape(dense, x.shape)})
    here, there = program(x=x), program(x=moved)
    if path:
        rows = [[given, found["conv"][:, :1], found["dense"]] for given, found in ((x, here), (moved, there))]
        visualize.image_grid(np.concatenate(sum(rows, [])), ["picture", "convolution", "fully connected"], path, columns=3)
    return {
        "conv": float(np.abs(np.roll(here["conv"], shift, -1) - there["conv"]).max()),
        "global max pool": float(np.abs(here["pool"] - there["pool"]).max()),
        "fully connected": float(np.abs(np.roll(here["dense"], shift, -1) - there["dense"]).max()),
    }


if __name__ == "__main__":
    print(main(*sys.argv[1:2]))

"""X's and O's: one filter slides over a picture of an X; the map is pooled and rectified.

The picture is 9x9: background -1, both diagonals of the inner 7x7 at 1. The filter is a 3x3 diagonal; its response is the sum
of products divided by 9, so 1 means a perfect match.
"""

from __future__ import annotations

import numpy as np

import graphrt as grt
from graphrt import ops as F


def picture() -> np.ndarray:
    x = np.full((9, 9), -1.0, np.float32)
    for i in range(1, 8):
        x[i, i] = x[i, 8 - i] = 1.0
    return x


def main() -> dict[str, np.ndarray]:
    filter = np.where(np.eye(3), 1.0, -1.0).astype(np.float32)
    g = grt.Graph()
    x, w = g.input("x", (1, 1, 9, 9)), g.constant(filter.reshape(1, 1, 3, 3))
    response = F.conv2d(x, w) * (1 / 9)
    outputs = {"map": response, "pooled": F.max_pool2d(response, 2, ceil_mode=True), "rectified": F.relu(response)}
    results = grt.compile(outputs)(x=picture().reshape(1, 1, 9, 9))
    return {name: value[0, 0] for name, value in results.items()}


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name}\n{np.array2string(value, precision=2, suppress_small=True)}\n")

"""Activations of a deep network by initialisation: they collapse, saturate, or stay as wide as the input.

Six layers of 4096 with tanh or ReLU, weights drawn with a deviation of 0.01 or 0.05, by Xavier's rule 1 / sqrt(n) or He's
sqrt(2 / n). What counts is the deviation times sqrt(n), so fewer neurons with wider weights show the same, sooner.
Returns the deviation of each layer's activations; draws their histograms to a file if one is named.
"""

from __future__ import annotations

import math
import sys

import numpy as np

from graphrt import nn, visualize

WIDTH, DEPTH, BATCH = 4096, 6, 16
RULES = {"0.01": 0.01, "0.05": 0.05, "xavier": 1 / math.sqrt(WIDTH), "he": math.sqrt(2 / WIDTH)}
CASES = [("tanh", "0.01"), ("tanh", "0.05"), ("tanh", "xavier"), ("relu", "xavier"), ("relu", "he")]


def activations(kind: str, rule: str, width: int) -> dict[str, np.ndarray]:
    std = RULES[rule] * math.sqrt(WIDTH / width)
    layers: list[nn.Module] = []
    with nn.init.skip_init():
        for _ in range(DEPTH):
            layers += [nn.Linear(width, width, bias=False), nn.Tanh() if kind == "tanh" else nn.ReLU()]
    nn.manual_seed(0)
    for layer in layers[::2]:
        nn.init.normal_(layer.weight, std=std)
    x = np.random.default_rng(0).standard_normal((BATCH, width)).astype(np.float32)
    found = visualize.activations(nn.Sequential(*layers), x)
    return {f"{kind} {rule}, layer {i // 2 + 1}": found[str(i)] for i in range(1, 2 * DEPTH, 2)}


def main(path: str = "", width: int = 512) -> dict[str, list[float]]:
    found = {case: activations(*case, width) for case in CASES}
    if path:
        visualize.histograms({name: a for layers in found.values() for name, a in layers.items()}, path, columns=DEPTH)
    return {" ".join(case): [float(a.std()) for a in layers.values()] for case, layers in found.items()}


if __name__ == "__main__":
    for name, deviations in main(*sys.argv[1:2]).items():
        print(f"{name:<12}", *(f"{d:.5f}" for d in deviations))

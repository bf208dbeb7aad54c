"""Paths of optimizers on one surface, a valley that is steep across and flat along it: f(x, y) = x**2 / 20 + y**2.

Returns the distance from the minimum after each path; draws the paths to a file if one is named.
"""

from __future__ import annotations

import sys

import numpy as np

import graphrt as grt
from graphrt import optim
from graphrt.train.curves import figure

START, STEPS = (-9.0, 2.0), 40
OPTIMIZERS: dict[str, optim.Optimizer] = {
    "SGD": optim.SGD(0.9),
    "momentum": optim.SGD(0.1, momentum=0.9),
    "Nesterov": optim.SGD(0.1, momentum=0.9, nesterov=True),
    "Adagrad": optim.Adagrad(1.5),
    "RMSprop": optim.RMSprop(0.3),
    "Adam": optim.Adam(0.5),
}


def path(optimizer: optim.Optimizer) -> np.ndarray:
    g = grt.Graph()
    p, lr = g.parameter("p", np.array(START, np.float32)), g.input("lr")
    loss = p[0] * p[0] / 20.0 + p[1] * p[1]
    g.output("loss", loss)
    optimizer.apply([p], grt.grad(loss, [p]), lr)
    step, points = grt.compile(g), [np.array(START, np.float32)]
    for _ in range(STEPS):
        step(lr=optimizer.lr)
        points.append(step.state["p"].copy())
    return np.stack(points)


def main(file: str = "") -> dict[str, float]:
    paths = {name: path(optimizer) for name, optimizer in OPTIMIZERS.items()}
    if file:
        picture = figure((8, 4))
        axes = picture.subplots()
        x, y = np.meshgrid(np.linspace(-10, 4, 200), np.linspace(-3, 3, 200))
        axes.contour(x, y, x**2 / 20 + y**2, 20, colors="lightgrey")
        for name, points in paths.items():
            axes.plot(*points.T, marker=".", label=name)
        axes.legend(loc="upper right")
        picture.savefig(file, dpi=120)
    return {name: float(np.hypot(*points[-1])) for name, points in paths.items()}


if __name__ == "__main__":
    for name, distance in main(*sys.argv[1:2]).items():
        print(f"{name:<10} {distance:.4f}")

"""The chain rule by hand and by graph: L = -ln p, p = e^y / (e^y + 1), y = w . x, so dL/dw = (p - target) x."""

from __future__ import annotations

import numpy as np

import graphrt as grt
from graphrt import ops as F


def main() -> dict[str, np.ndarray]:
    x = np.array([0.5, -1.5, 2.0], np.float32)
    w = np.array([0.2, 0.4, -0.1], np.float32)
    found = {}
    for name, positive in (("positive", True), ("negative", False)):
        g = grt.Graph()
        xv, wv = g.input("x", (3,)), g.input("w", (3,))
        p = F.sigmoid(F.matmul(wv, xv))
        loss = -F.log(p if positive else 1.0 - p)
        (dw,) = grt.grad(loss, [wv])
        program = grt.compile({"dw": dw, "p": p})
        results = program(x=x, w=w)
        found[name] = results["dw"]
        found[f"{name}_by_hand"] = (results["p"] - float(positive)) * x
    return found


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:18} {value}")

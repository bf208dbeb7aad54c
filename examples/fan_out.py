"""Fan-out: the gradient of a value that many read is the sum of what its readers send back."""

from __future__ import annotations

import numpy as np

import graphrt as grt
from graphrt import ops as F


def main() -> dict[str, float]:
    g = grt.Graph()
    y = g.input("y")
    readers = [F.sin(y), y * y, F.exp(y) * 0.5]
    loss = readers[0] + readers[1] + readers[2]
    whole = grt.grad(loss, [y])[0]
    parts = [grt.grad(r, [y])[0] for r in readers]
    results = grt.compile([whole, *parts])(y=0.7)
    return {"whole": float(results[0]), "sum of parts": float(np.sum(results[1:]))}


if __name__ == "__main__":
    print(main())

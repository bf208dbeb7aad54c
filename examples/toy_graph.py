"""The toy graph f = (x + y) * z and its gradients: back-propagation in five nodes."""

from __future__ import annotations

import graphrt as grt


def main() -> dict[str, float]:
    g = grt.Graph()
    x, y, z = g.input("x"), g.input("y"), g.input("z")
    q = x + y
    f = q * z
    dx, dy, dz, dq = grt.grad(f, [x, y, z, q])
    program = grt.compile({"f": f, "dx": dx, "dy": dy, "dz": dz, "dq": dq})
    return {name: float(v) for name, v in program(x=-2.0, y=5.0, z=-4.0).items()}


if __name__ == "__main__":
    print(main())

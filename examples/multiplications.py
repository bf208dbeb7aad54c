"""The multiplications of a convolution, and what a 1x1 bottleneck in front of it saves (GoogLeNet, 2014)."""

from __future__ import annotations

from graphrt import Graph
from graphrt import ops as F


def multiplications(size: int, channels: int, *layers: tuple[int, int]) -> list[int]:
    """Multiplications of each of ``layers`` (filters, kernel), one behind the other at full size."""
    g = Graph()
    x = g.input("x", (1, channels, size, size))
    for i, (filters, kernel) in enumerate(layers):
        x = F.conv2d(x, g.parameter(f"w{i}", shape=(filters, x.shape[1], kernel, kernel)), padding="same")
    return [n.op.flops(n) // 2 for n in g.nodes if n.op.template]  # each multiplication comes with an addition


def main() -> dict[str, list[int]]:
    return {
        "5x5, 192 to 32 at 28x28": multiplications(28, 192, (32, 5)),
        "the same behind a 1x1 to 16": multiplications(28, 192, (16, 1), (32, 5)),
        "inception 1x1, 192 to 64": multiplications(28, 192, (64, 1)),
        "inception 3x3, 192 to 128": multiplications(28, 192, (128, 3)),
        "5x5, 64 to 128 at 32x32": multiplications(32, 64, (128, 5)),
        "5x5 behind a 1x1 to 8": multiplications(32, 64, (8, 1), (128, 5)),
    }


if __name__ == "__main__":
    for what, counts in main().items():
        print(f"{what:28} {' + '.join(f'{n:,}' for n in counts)} = {sum(counts):,}")

"""Shapes and parameter counts that every course works out by hand, read off the graph instead."""

from __future__ import annotations

from graphrt import Graph, errors, nn
from graphrt import ops as F
from graphrt.nn import count_parameters


def conv_shape(size: int, channels: int, filters: int, kernel: int, stride: int, padding: int) -> tuple[int, ...]:
    g = Graph()
    x, w = g.input("x", (1, channels, size, size)), g.parameter("w", shape=(filters, channels, kernel, kernel))
    return F.conv2d(x, w, stride=stride, padding=padding).shape[1:]


def pool_shape(size: int) -> tuple[int, ...]:
    """The shape behind a 2x2 pool with stride 2 that rounds up."""
    return F.max_pool2d(Graph().input("x", (1, 1, size, size)), 2, ceil_mode=True).shape[1:]


def main() -> dict[str, object]:
    return {
        "32x32x3, ten 5x5, stride 1, pad 2": conv_shape(32, 3, 10, 5, 1, 2),
        "32x32x3, ten 5x5, stride 2, pad 2": conv_shape(32, 3, 10, 5, 2, 2),
        "parameters of ten 5x5x3 filters": count_parameters(nn.Conv2d(3, 10, 5)),
        "7x7 with 3x3, stride 1": conv_shape(7, 1, 1, 3, 1, 0),
        "7x7 with 3x3, stride 2": conv_shape(7, 1, 1, 3, 2, 0),
        "7x7 with 3x3, stride 3, of which there is no such number": round((7 - 3) / 3 + 1, 2),
        "2x2 pool of 7x7, rounded up": pool_shape(7),
        "2x2 pool of 8x8": pool_shape(8),
        "parameters of a pool": count_parameters(nn.MaxPool2d(2)),
        "1x1 conv on 6x6x32": conv_shape(6, 32, 16, 1, 1, 0),
        "fully connected, 100x100x3 to 100x100x3": (100 * 100 * 3) ** 2,
        "3x3 conv, 3 to 3 channels, weights": count_parameters(nn.Conv2d(3, 3, 3, bias=False)),
        "MLP 784-128-10": count_parameters(nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))),
        "LeNet-5 conv2": count_parameters(nn.Conv2d(6, 16, 5)),
        "a filter larger than its input": _refused(),
    }


def _refused() -> str:
    try:
        conv_shape(2, 1, 1, 3, 1, 0)
    except errors.ShapeError as error:
        return str(error).splitlines()[0]
    return "accepted"


if __name__ == "__main__":
    for what, value in main().items():
        print(f"{what:58} {value}")

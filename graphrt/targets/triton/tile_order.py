"""The order in which the tiles of a contraction's template take the elements of its result.

The rows of a tile are pixels, or rows of a matrix. They stand as in memory, but for a strided convolution's gradient in the
input: its tiles have pixels of one phase, which meet the same taps of the filter.
"""

from __future__ import annotations

from graphrt.index import Expr, linearize, row_major
from graphrt.ir import Node
from graphrt.schedule.group import Index


def phases(node: Node) -> tuple[int, int]:
    """The distance along each axis of the pixels that a tile takes one after the other: a strided gradient's stride."""
    if node.op.template != "conv_dgrad" or any(
        n % s for n, s in zip(node.types[0].shape[2:], node.attrs["stride"], strict=True)
    ):
        return 1, 1
    return node.attrs["stride"]


def tile_row(node: Node, index: Index) -> Expr | None:
    """The number of the result's element at ``index`` among the rows of a contraction's tiles; None where there is none."""
    shape = node.types[0].shape
    if node.op.template == "matmul":
        return index[0] if len(shape) == 2 else None
    if node.op.template not in ("conv", "conv_dgrad") or node.attrs["groups"] > 1:
        return None  # groups of few channels have no tiles of pixels
    down, across = phases(node)
    if node.op.template == "conv_dgrad" and (down, across) != tuple(node.attrs["stride"]):
        return None
    n, _, h, w = index
    rows = (h % down, w % across, n, h // down, w // across)
    return linearize(rows, row_major((down, across, shape[0], shape[2] // down, shape[3] // across)))

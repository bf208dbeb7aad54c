"""Convolutions of few channels are given more, which are zero, so that a pixel is loaded at once.

    forward   y = conv(x, w)                                  y = conv(pad(x), pad(w))
    wgrad     dw = wgrad(dy, x)                               dw = wgrad(dy, pad(x)) without the last channels

A pixel of three halves is three loads of 2 bytes, one of four is a load of 8. The padded image is stored once, in place of the
one in half precision where there is one; that pass is counted against the gain. A sum has terms of zero more, and no other. A
target's predicted times decide (``siblings.Times``).
"""

from __future__ import annotations

from collections.abc import Sequence

from graphrt.ir import Graph, Node, Value
from graphrt.ops import clone, pad
from graphrt.ops.base import apply
from graphrt.ops.slicing import cut
from graphrt.passes.decision import Decision
from graphrt.passes.rewrite import pruned
from graphrt.passes.siblings import Times, filters


def pad_channels(graph: Graph, times: Times | None, decisions: list[Decision]) -> Graph:
    """``graph`` with the images padded for which that is predicted to gain; appends to ``decisions``."""
    if times is None or times.convolution is None:
        return graph
    readers: dict[Value, list[Node]] = {}
    for node in graph.nodes:
        if node.op.template in ("conv", "conv_wgrad") and node.attrs["groups"] == 1 and _image(node).type.size:
            readers.setdefault(_image(node), []).append(node)
    wanted: dict[str, int] = {}  # channels of each convolution
    for x, nodes in readers.items():
        size = x.dtype.itemsize
        widths = [-(-x.shape[1] * size // v) * v // size for v in times.loads]
        widths = [n for n in widths if x.shape[1] < n < 2 * x.shape[1]]  # not twice the work
        if widths and x.shape[1] * size < max(times.loads):
            saved, channels = max(((_saved(x, nodes, n, times), n) for n in widths), key=lambda found: (found[0], -found[1]))
            gain = f"predicted to save {1e6 * saved:.1f} us" if saved > 0 else f"predicted to lose {-1e6 * saved:.1f} us"
            reason = f"{x.shape[1]} channels padded to {channels}: {gain}"
            change = "" if saved > 0 else "the loads that it saves took longer than the pass that pads"
            decisions += [Decision("channels", n.name, x.node.name, saved > 0, reason, change=change) for n in nodes]
            wanted |= {n.name: channels for n in nodes if saved > 0}
    if not wanted:
        return graph
    padded: dict[Value, Value] = {}

    def wide(v: Value, channels: int) -> Value:
        if v not in padded:
            padded[v] = clone(pad(v, (0, 0, 0, 0, 0, channels - v.shape[1])))
        return padded[v]

    def rule(node: Node) -> Sequence[Value] | None:
        channels = wanted.get(node.name, 0)
        if node.op.template not in ("conv", "conv_wgrad") or _image(node).shape[1] >= channels:
            return None
        a, b = node.inputs
        if node.op.template == "conv":
            return (apply(node.op.name, wide(a, channels), wide(b, channels), **node.attrs),)
        return (cut(apply(node.op.name, a, wide(b, channels), **node.attrs), 1, 0, b.shape[1]),)

    return pruned(graph, rule)


def _image(node: Node) -> Value:
    return node.inputs[0] if node.op.template == "conv" else node.inputs[1]


def _saved(x: Value, nodes: Sequence[Node], channels: int, times: Times) -> float:
    """Seconds that the readers of ``x`` are predicted to save with so many channels, a pass that pads it taken off."""
    assert times.convolution is not None
    took = [(times.convolution(n, filters(n), x.shape[1]), times.convolution(n, filters(n), channels)) for n in nodes]
    gain = sum(before - after for before, after in took)
    moved = x.type.nbytes * (1 + channels / x.shape[1])
    return gain - moved * times.byte - times.launch

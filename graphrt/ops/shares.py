"""Shares of a sum of exponentials, as softmax has them, are products: ``y / s = y * (1 / s)`` for ``s = sum(exp(x - max(x)))``.

``s`` is 1 at least, so its reciprocal is as exact as any. This is said in the graph and not where a kernel is printed: a
quotient may be computed again by those who read it, and has to be the same number there.
"""

from __future__ import annotations

from graphrt.ir import Node, Value
from graphrt.ops.base import apply, broadcast_to
from graphrt.types import HALVES


def product(node: Node) -> Value | None:
    """The quotient ``node`` as a product, if it divides by such a sum, broadcast along what was summed."""
    y, s = node.inputs
    total, views = s, []
    while total.node.op.name in ("broadcast", "reshape"):
        views.append(total.node)
        total = total.node.inputs[0]
    if total.type.size == s.type.size or s.dtype in HALVES or not _is_sum_of_exponentials(total.node):
        return None  # a half that is stored would round the reciprocal
    inverse = apply("div", broadcast_to(s.graph.constant(1.0, s.dtype), total.shape), total)
    for view in reversed(views):
        inverse = apply(view.op.name, inverse, **view.attrs)
    return apply("mul", y, inverse)


def _is_sum_of_exponentials(node: Node) -> bool:
    """Whether ``node`` is ``sum(exp(x - max(x)))``, both over the same dimensions."""
    if node.op.name != "reduce" or node.attrs["op"] != "sum" or node.inputs[0].node.op.name != "exp":
        return False
    less = node.inputs[0].node.inputs[0].node
    if less.op.name != "sub":
        return False
    x, wide = less.inputs
    most = wide.node.inputs[0] if wide.node.op.name == "broadcast" else wide
    if most.shape != tuple(1 if d in node.attrs["dims"] else n for d, n in enumerate(x.shape)):
        return False  # the maxima of other rows
    peak = most.node.inputs[0].node if most.node.op.name == "reshape" else most.node
    return peak.op is node.op and peak.inputs[0] is x and dict(peak.attrs) == {**node.attrs, "op": "max"}

"""Max pooling's gradient moves each element of ``dy`` to one place of the input, so it can be looked through:

    where(x <= 0, 0, max_pool_grad(dy, at)) = max_pool_grad(where(max_pool(x) <= 0, 0, dy), at)      x is what was pooled
    sum over the pixels of max_pool_grad(dy, at) = sum over those of dy

The mask of the ReLU before a pool then reads the pooled map, and a bias's gradient no map of the full size.
"""

from __future__ import annotations

from graphrt.ir import Node, Value
from graphrt.ops.base import apply, broadcast_to, constant_of


def masked(node: Node) -> Value | None:
    """The choice ``node`` between 0 and such a gradient as one between 0 and ``dy``."""
    condition, chosen = node.inputs[0].node, node.inputs[2].node
    if chosen.op.name != "max_pool_grad" or condition.op.name != "le" or constant_of(node.inputs[1]) != 0:
        return None
    dy, at = chosen.inputs
    x, zero = condition.inputs
    if at.node.op.name != "max_pool" or at.node.inputs[0] is not x or constant_of(zero) != 0:
        return None
    y = at.node.outputs[0]
    zeros = (broadcast_to(x.graph.constant(0.0, v.dtype), y.shape) for v in (x, dy))
    small = apply("where", apply("le", y, next(zeros)), next(zeros), dy)
    return apply("max_pool_grad", small, at, **chosen.attrs)


def moved(node: Node) -> Value | None:
    """The sum ``node`` over every pixel of such a gradient as that of ``dy``."""
    x = node.inputs[0].node
    if x.op.name != "max_pool_grad" or node.attrs["op"] != "sum" or not {2, 3} <= set(node.attrs["dims"]):
        return None
    return apply("reduce", x.inputs[0], **node.attrs)

"""Max pooling's gradient moves each element of ``dy`` to one place of the input, so it can be looked through:

    where(x <= 0, 0, max_pool_grad(dy, at)) = max_pool_grad(where(max_pool(x) <= 0, 0, dy), at)      x is what was pooled
    sum over the pixels of max_pool_grad(dy, at) = sum over those of dy

The mask of the ReLU before a pool then reads the pooled map, and a bias's gradient no map of the full size.
"""

from __future__ import annotations

from graphrt.ir import Node, Value
from graphrt.ops.base import apply, broadcast_to
from graphrt.passes.patterns.match import Match, Rule, op


def _of_the_same_pool(node: Node, found: Match) -> bool:
    pool = found["at"].node
    return pool.op.name == "max_pool" and pool.inputs[0] is found["x"]


def _mask_of_the_pooled(node: Node, found: Match) -> Value:
    y, dy = found["at"].node.outputs[0], found["dy"]
    zeros = (broadcast_to(dy.graph.constant(0.0, v.dtype), y.shape) for v in (found["x"], dy))
    small = apply("where", apply("le", y, next(zeros)), next(zeros), dy)
    return apply("max_pool_grad", small, found["at"], **node.inputs[2].node.attrs)


def _over_every_pixel(node: Node, found: Match) -> bool:
    return node.attrs["op"] == "sum" and {2, 3} <= set(node.attrs["dims"])


RULES = (
    Rule(op("where", op("le", "x", 0), 0, op("max_pool_grad", "dy", "at")), _of_the_same_pool, _mask_of_the_pooled),
    Rule(
        op("reduce", op("max_pool_grad", "dy", "at")),
        _over_every_pixel,
        lambda node, found: apply("reduce", found["dy"], **node.attrs),
    ),
)

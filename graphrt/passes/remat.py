"""Rematerialisation of what a concatenation stores: the backward pass computes it again from what it reads anyway.

    y = conv(...), z = relu(norm(y)), concat(z, ...)          dz * (z > 0) needs a sign of z, and norm's gradient needs y

Elsewhere the scheduler computes such a z where it is read. A part of a concatenation is stored for those who read the whole,
so that the mask would be read from there, or stored too.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphrt.ir import Graph, Node, Value
from graphrt.op import Kind
from graphrt.ops.base import apply
from graphrt.passes.layout import follows
from graphrt.passes.rewrite import copied, rewrite


def rematerialise(graph: Graph) -> Graph:
    """``graph`` whose backward pass reads no part of a concatenation that it can compute from what it reads."""
    users = graph.users()
    cones: dict[str, set[str]] = {}  # of a part, by name: the nodes to copy
    for node in graph.nodes:
        if node.op.kind is Kind.VIEW and len(node.inputs) > 1:
            for v in node.inputs:
                cone = _cone(v)
                if cone and any(_is_backward(r) for n in cone - {v.node} for x in n.outputs for r in users[x]):
                    cones[v.node.name] = {n.name for n in cone}
    if not any(_is_backward(n) and v.node.name in cones for n in graph.nodes for v in n.inputs):
        return graph

    def rule(node: Node) -> Sequence[Value] | None:
        if not _is_backward(node) or not any(v.node.name in cones for v in node.inputs):
            return None
        again = [copied(v, cones.get(v.node.name, set()), {}) for v in node.inputs]
        return (apply(node.op.name, *again, **node.attrs),)

    return rewrite(graph, rule)


def _is_backward(node: Node) -> bool:
    return node.origin.phase == "bwd" and node.op.kind is Kind.ELEMENTWISE


def _cone(v: Value) -> set[Node]:
    """The cheap nodes between ``v`` and the contraction that it is made of; none if there is no such."""
    found, pending, ends = set[Node](), [v], False
    while pending:
        node = pending.pop().node
        if follows(node) and node.op.cheap:
            found.add(node)
            pending += [x for x in node.inputs if x.shape == v.shape and x.node not in found]
        else:
            while node.op.kind is Kind.VIEW and len(node.inputs) == 1:
                node = node.inputs[0].node
            ends |= node.op.kind is Kind.CONTRACTION
    return found if ends else set()

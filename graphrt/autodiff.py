"""Reverse-mode differentiation: appends the backward graph to the same graph.

One sweep over the nodes in reverse definition order (which is a reverse topological order): each node's cotangents, summed
over its uses (fan-out), go through its op's ``vjp``, which is graph code. Only nodes between ``wrt`` and the loss are
visited, so no dead path is built, and since a gradient is made of ops it can be differentiated again.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphrt.errors import ArgumentError, DTypeError, GraphError, ShapeError
from graphrt.ir import Node, Value
from graphrt.ops import add
from graphrt.ops.base import broadcast_to


def grad(loss: Value, wrt: Sequence[Value], dy: Value | None = None) -> list[Value]:
    """Gradients of ``loss`` with respect to each of ``wrt``, as values of the same graph.

    ``loss`` is a float scalar, unless its cotangent ``dy`` (of its shape) is given. A value the loss does not depend on
    gets zeros. Raises ShapeError for a loss that is no scalar, DTypeError, GraphError for values of another graph.
    """
    if not isinstance(loss, Value):
        raise ArgumentError(f"loss must be a Value, got {type(loss).__name__}")
    graph = loss.graph
    for v in wrt:
        if not isinstance(v, Value) or v.graph is not graph:
            raise GraphError(f"wrt must be Values of the loss's graph, got {v!r}")
        if not v.dtype.is_float:
            raise DTypeError(f"only float values have gradients; {v.node.where()} is {v.type}")
    if not loss.dtype.is_float:
        raise DTypeError(f"the loss must be floating point; {loss.node.where()} is {loss.type}")
    if dy is None and loss.shape != ():
        raise ShapeError(
            f"the loss must be a scalar; {loss.node.where()} is {loss.type}. Reduce it with mean or sum, or pass dy"
        )
    if dy is not None and not dy.type.same(loss.type):
        raise ShapeError(f"dy must be {loss.type} as the loss {loss.node.where()}, got {dy.type}")
    with graph.transaction(), graph.phase("bwd", loss.node.name):
        seed = graph.constant(1.0, loss.dtype) if dy is None else dy
        return _sweep(loss, list(wrt), seed)


def _sweep(loss: Value, wrt: list[Value], seed: Value) -> list[Value]:
    graph = loss.graph
    nodes = list(graph.nodes)
    active: set[Node] = {v.node for v in wrt}  # nodes that depend on wrt
    for node in nodes:
        if any(v.node in active for v in node.inputs):
            active.add(node)
    cotangents: dict[Value, Value] = {loss: seed}
    for node in reversed(nodes):
        if node not in active or not any(v in cotangents for v in node.outputs) or not node.inputs:
            continue
        with graph.phase("bwd", node.name):
            if node.op.vjp is None:
                if not node.op.barrier and any(v in cotangents and v.dtype.is_float for v in node.outputs):
                    raise GraphError(f"{node.where()}: op {node.op.name} has no gradient")
                continue
            dys = [cotangents[v] if v in cotangents else _zeros(v) if v.dtype.is_float else None for v in node.outputs]
            for v, g in zip(node.inputs, node.op.vjp(node, *dys), strict=True):
                if g is not None and v.node in active:
                    cotangents[v] = add(cotangents[v], g) if v in cotangents else g
    return [cotangents[v] if v in cotangents else _zeros(v) for v in wrt]


def _zeros(v: Value) -> Value:
    return broadcast_to(v.graph.constant(0.0, v.dtype), v.shape)

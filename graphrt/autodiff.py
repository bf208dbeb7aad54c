"""Reverse-mode differentiation: appends the backward graph to the same graph.

One sweep over the nodes in reverse definition order, which is a reverse topological order (``ops/reverse.py``). Since a
gradient is made of ops it can be differentiated again.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphrt.errors import ArgumentError, DTypeError, GraphError, ShapeError
from graphrt.ir import Value
from graphrt.ops.reverse import sweep


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
    if dy is None and loss.type.varying:
        axis = loss.type.varying[0]
        raise GraphError(
            f"each process has a loss of its own: {loss.node.where()} is {loss.type}; "
            f'all_reduce(loss, {axis!r}, "mean") is that of all'
        )
    with graph.transaction(), graph.phase("bwd", loss.node.name):
        seed = graph.constant(1.0, loss.dtype) if dy is None else dy
        return sweep([(loss, seed)], list(wrt))

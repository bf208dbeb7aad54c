"""The reverse sweep: cotangents of results become those of what they are made of.

Each node's cotangents, summed over its uses (fan-out), go through its op's ``vjp``, which is graph code. Only nodes between
what is asked for and the results are visited, so no dead path is built.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from graphrt.errors import GraphError
from graphrt.ir import Node, Value
from graphrt.op import Kind
from graphrt.ops.base import apply, broadcast_to
from graphrt.ops.elementwise import add


def sweep(seeds: Iterable[tuple[Value, Value]], wrt: Sequence[Value]) -> list[Value]:
    """The gradients with respect to each of ``wrt`` from ``seeds``, results with their cotangents; zeros where none arrives.

    Raises GraphError for an op on the way that has no gradient.
    """
    cotangents: dict[Value, Value] = {}
    for v, seed in seeds:
        cotangents[v] = add(cotangents[v], seed) if v in cotangents else seed
    graph = next(iter(cotangents)).graph
    nodes = list(graph.nodes)
    active: set[Node] = {v.node for v in wrt}  # nodes that depend on wrt
    for node in nodes:
        if any(v.node in active for v in node.inputs):
            active.add(node)
    learned = _of_parameters(nodes) if graph.mesh is not None else set[Node]()
    for node in reversed(nodes):
        if node not in learned or not node.inputs:  # what is made of parameters alone is summed behind that, where it is least
            for v in node.outputs:
                if v in cotangents:
                    cotangents[v] = _settled(v, cotangents[v])
        if node not in active or not any(v in cotangents for v in node.outputs) or not node.inputs:
            continue
        with graph.phase("bwd", node.name):
            if node.op.vjp is None:
                if not node.op.barrier and any(v in cotangents and v.dtype.is_float for v in node.outputs):
                    raise GraphError(f"{node.where()}: op {node.op.name} has no gradient")
                continue
            dys = [cotangents[v] if v in cotangents else zeros_like(v) if v.dtype.is_float else None for v in node.outputs]
            for v, g in zip(node.inputs, node.op.vjp(node, *dys), strict=True):
                if g is not None and v.node in active:
                    cotangents[v] = add(cotangents[v], g) if v in cotangents else g
    return [cotangents[v] if v in cotangents else zeros_like(v) for v in wrt]


def _of_parameters(nodes: Iterable[Node]) -> set[Node]:
    """The parameters among ``nodes``, and what is made of them and constants alone within each process."""
    found: set[Node] = set()
    for node in nodes:
        made = node.op.kind in (Kind.VIEW, Kind.ELEMENTWISE) and all(v.node in found for v in node.inputs)
        if node.op.name in ("parameter", "constant") or made:
            found.add(node)
    return found


def _settled(v: Value, cotangent: Value) -> Value:
    """``cotangent``, complete, of the type of ``v``: what the processes of a mesh have of one value's is summed."""
    if cotangent.type.varying:
        for axis in sorted(set(cotangent.type.varying) - set(v.type.varying)):
            assert v.graph.mesh is not None
            with v.graph.phase("bwd", v.node.name):
                cotangent = apply("all_reduce", cotangent, axis=axis, size=v.graph.mesh.axes[axis], op="sum")
    return cotangent


def zeros_like(v: Value) -> Value:
    """Zeros of the shape and dtype of ``v``."""
    return broadcast_to(v.graph.constant(0.0, v.dtype), v.shape)

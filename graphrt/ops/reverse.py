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
    cotangents: dict[Value, Value] = {}  # complete ones
    given: dict[Value, dict[tuple[str, ...], Value]] = {}  # what uses gave until now, a sum for each type

    def give(v: Value, g: Value) -> None:
        sums = given.setdefault(v, {})
        axes = g.type.varying
        sums[axes] = add(sums[axes], g) if axes in sums else g

    for v, seed in seeds:
        give(v, seed)
    graph = next(iter(given)).graph
    nodes = list(graph.nodes)
    active: set[Node] = {v.node for v in wrt}  # nodes that depend on wrt
    for node in nodes:
        if any(v.node in active for v in node.inputs):
            active.add(node)
    learned = _of_parameters(nodes) if graph.mesh is not None else set[Node]()
    for node in reversed(nodes):
        for v in node.outputs:
            if v in given:  # what is made of parameters alone is summed over processes behind that, where it is least
                later = node in learned and bool(node.inputs) and v not in wrt
                cotangents[v] = _settled(v, [*given.pop(v).values()], later)
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
                    give(v, g)
    return [cotangents[v] if v in cotangents else zeros_like(v) for v in wrt]


def _of_parameters(nodes: Iterable[Node]) -> set[Node]:
    """The parameters among ``nodes``, and what is made of them and constants alone within each process."""
    found: set[Node] = set()
    for node in nodes:
        made = node.op.kind in (Kind.VIEW, Kind.ELEMENTWISE) and all(v.node in found for v in node.inputs)
        if node.op.name in ("parameter", "constant") or made:
            found.add(node)
    return found


def _settled(v: Value, parts: Sequence[Value], later: bool = False) -> Value:
    """The sum of ``parts``, of the type of ``v``. What each process of a mesh has of the cotangent of one value is summed.

    A part that is the same in all processes came from a use that is: it counts once. The cotangent of what varies varies too,
    or the sum over processes would be missed where it is differentiated again. Where that comes ``later``, one part stays.
    """
    total: Value | None = None
    for part in parts:
        for axis in part.type.varying if not later or len(parts) > 1 else ():
            if axis not in v.type.varying:
                assert v.graph.mesh is not None
                with v.graph.phase("bwd", v.node.name):
                    part = apply("all_reduce", part, axis=axis, size=v.graph.mesh.axes[axis], op="sum")
        if more := tuple(axis for axis in v.type.varying if axis not in part.type.varying):
            part = apply("pvary", part, axes=more)
        total = part if total is None else add(total, part)
    assert total is not None
    return total


def zeros_like(v: Value) -> Value:
    """Zeros of the shape and dtype of ``v``."""
    return broadcast_to(v.graph.constant(0.0, v.dtype), v.shape)

"""Checks of a graph: names, mesh, operands defined before they are read, types as inference has them, updates that fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from graphrt.errors import ArgumentError, GraphError, ShapeError
from graphrt.mesh import Mesh
from graphrt.node import Node, Value
from graphrt.op import Kind


def verify(
    nodes: Iterable[Node],
    sources: Mapping[str, Node],
    outputs: Mapping[str, Value],
    updates: Mapping[str, Value],
    mesh: Mesh | None,
) -> None:
    """Checks types by inference, definition before use, sources, outputs and updates. Raises GraphError."""
    seen: set[Value] = set()
    for node in nodes:
        for v in node.inputs:
            if v not in seen:
                raise GraphError(f"{node.where()} reads {v!r} before it is defined in this graph")
        types = node.op.types(tuple(v.type for v in node.inputs), node.attrs)
        if [t.with_order(None) for t in types] != [t.with_order(None) for t in node.types]:
            raise GraphError(f"{node.where()} says {node.types}, inference says {types}")
        _check_mesh(node, mesh)
        if node.op.kind is Kind.SOURCE and sources.get(node.name) is not node:
            raise GraphError(f"{node.where()} is not registered under its name")
        seen.update(node.outputs)
    for name, v in [*outputs.items(), *updates.items()]:
        if v not in seen:
            raise GraphError(f"{name!r} is {v!r}, which is not in this graph")
    for name, v in updates.items():
        source = sources.get(name)
        if source is None or source.op.name != "parameter" or not source.types[0].same(v.type):
            raise GraphError(f"the update of {name!r} does not fit: {v!r}")


def _check_mesh(node: Node, mesh: Mesh | None) -> None:
    """Raises GraphError where ``node`` is about axes that the mesh has not, or about another number of processes."""
    axes = {} if mesh is None else mesh.axes
    here = f"the mesh is {mesh}" if axes else "the graph has no mesh"
    if unknown := [axis for t in node.types for axis in t.varying if axis not in axes]:
        raise GraphError(f"{node.where()} varies along {unknown[0]}, and {here}")
    if node.op.kind is Kind.COLLECTIVE and axes.get(node.attrs["axis"]) != node.attrs["size"]:
        raise GraphError(f"{node.where()} is of {node.attrs['size']} processes along {node.attrs['axis']}, and {here}")


def check_owned(value: Value, graph: object, what: str) -> None:
    """Raises ArgumentError or GraphError unless ``value``, called ``what``, is one of ``graph`` that all of it may read."""
    if not isinstance(value, Value):
        raise ArgumentError(f"{what} must be a Value of this graph, got {type(value).__name__}")
    if value.graph is not graph:
        raise GraphError(f"{what}: {value.node.where()} belongs to another Graph; build everything of one program on one Graph")
    if value.node in value.graph.of_steps:
        raise GraphError(f"{what}: {value.node.where()} is a value of a step of scan; return it as a y to have it of all")


def check_update(parameter: Value, value: Value) -> None:
    """Raises GraphError or ShapeError unless ``parameter`` is one and may become ``value``."""
    name = parameter.node.name
    if parameter.node.op.name != "parameter":
        raise GraphError(f"only parameters can be updated; {parameter.node.where()} is {parameter.node.op.name}")
    if not parameter.type.same(value.type):
        raise ShapeError(f"parameter {name!r} is {parameter.type}, its update {value.node.where()} is {value.type}")
    if own := set(value.type.varying) - set(parameter.type.varying):
        raise GraphError(
            f"parameter {name!r} is the same in all processes, its update {value.node.where()} is {value.type}: each along "
            f"{', '.join(sorted(own))} has its own; update it with all_reduce(value, axis), or make it with varying={own!r}"
        )


def check_name(name: Any, what: str) -> None:
    """Raises ArgumentError unless ``name`` of ``what`` is a string that can stand in a source file."""
    if not isinstance(name, str) or not name or any(c == "\0" or "\ud800" <= c <= "\udfff" for c in name):
        raise ArgumentError(
            f"the name of {'an' if what[0] in 'aeiou' else 'a'} {what} is a non-empty Unicode string without NUL, got {name!r}"
        )


def permutation(order: Sequence[int], rank: int, what: str) -> tuple[int, ...]:
    """``order`` of the ``rank`` dimensions of ``what`` as a tuple. Raises ArgumentError unless it lists each once."""
    if sorted(order) != list(range(rank)):
        raise ArgumentError(f"order of {what} must list its {rank} dimensions, got {tuple(order)}")
    return tuple(order)

"""Updates in place: a new parameter value is stored over the old one where nobody reads the old one later."""

from __future__ import annotations

from collections.abc import Sequence

import networkx as nx

from graphrt.index import axes
from graphrt.ir import Value
from graphrt.op import Kind
from graphrt.schedule.group import Group, pull, reads


def obstacle(
    dag: nx.DiGraph, writer: Group, v: Value, parameter: Value, readers: Sequence[Group], in_place: bool = True
) -> tuple[str, str]:
    """Why ``writer`` may not store ``v`` straight over ``parameter``, which ``readers`` read, and what would have to change.

    Both are empty where it may. Without ``in_place`` only what is a copy anyway may.
    """
    if v.node.op.kind is Kind.SOURCE:
        return "", ""  # a copy of a buffer that has no update of its own (passes.snapshot_updates sees to that)
    if not in_place:
        return "each value has bytes of its own", "the stage in_place were on (fusion)"
    if v.type.order != parameter.type.order:
        return "the new value lies in another order in memory", f"{v.name} lay as {parameter.name} does"
    if writer in readers and not (v in writer.index and _same_element(writer, parameter, v)):
        reason = "its own kernel reads the old value at other elements, or later"
        return reason, f"{writer.label} read each element of it before it stores that one, and no other"
    after = nx.descendants(dag, writer)
    late = next((g for g in readers if g is not writer and g in after), None)
    if late is None:
        return "", ""
    return f"{late.label} needs both the new value and the old one", f"{late.label} could run before {writer.label}"


def _same_element(group: Group, parameter: Value, v: Value) -> bool:
    """Whether the group reads ``parameter`` only at the element where it writes ``v``, and never after that."""
    rows = group.kind == "reduction"
    level = group.levels() if rows else {}
    if rows and group.is_full(v) and level[v.node] < max(level.values()):
        return False  # a later pass may compute again what it needs from the rows
    ready = {n: k + (n.op.kind is Kind.REDUCTION) for n, k in level.items()}
    for node in (*group.inlined, *group.nodes):
        alone = node in group.inlined or node is group.anchor or node.op.kind is Kind.REDUCTION  # reads all over the place
        alone = alone or (rows and group.index[node.outputs[0]] != group.index[v])  # or in another loop
        alone = alone or (rows and ready[node] > ready[v.node])  # or behind a later pass
        if alone:
            if any(read.value is parameter for x in node.inputs for read in pull(x, axes("i", x.shape))):
                return False
            continue
        for read in reads(node, group.index[node.outputs[0]]):
            if read.value is parameter and (read.guards or read.index != group.index[v]):
                return False
    return True

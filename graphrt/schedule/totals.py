"""Small totals: the count of a batch's labels, by which a loss is divided, is found again by each kernel that needs it.

That is a few loads for each of its programs, and saves a launch that all of them would wait for. Only totals of what lies in
memory before the run are taken, which nobody has to wait for, and only exact ones: counts and extremes are the same in
whatever order they are found.
"""

from __future__ import annotations

import math

from graphrt.ir import Node
from graphrt.op import Kind
from graphrt.schedule.fusion_state import MAX_INPUTS, FusionState, Verdict
from graphrt.schedule.group import Group
from graphrt.schedule.inline import can_be_member, common_index

SMALL = 1024  # elements of a total: a small part of what a program does anyway


def share_totals(f: FusionState) -> None:
    """Takes groups that find small totals apart: those who read of them compute it again."""
    for group in list(f.groups):
        if _is_total(f, group):
            needed = _needed(f, group)
            if needed and all(_takes(f, other, nodes) for other, nodes in needed.items()):
                _dissolve(f, group)


def _is_total(f: FusionState, group: Group) -> bool:
    """Whether ``group`` is one small exact total, and what is cheaply made of it and of what lies in memory."""
    if group.kind != "reduction" or group.copies or any(map(f.is_stored, group.values())):
        return False
    nodes = [*group.nodes, *group.inlined]
    rest = [n for n in nodes if n is not group.anchor]
    anchor, sources = group.anchor, {v.node for n in nodes for v in f.bases(n)} - {*nodes}
    assert anchor is not None
    return (
        (len(anchor.outputs), anchor.types[0].ndim) == (1, 0)
        and (not anchor.types[0].dtype.is_float or anchor.attrs["op"] in ("max", "min"))
        and 0 < math.prod(group.shape) <= SMALL
        and all(n.op.kind is Kind.ELEMENTWISE and n.op.cheap for n in rest)
        and all(n.op.kind in (Kind.SOURCE, Kind.GENERATED) for n in sources)
    )


def _computed(f: FusionState, group: Group) -> list[Node]:
    """The nodes that ``group`` computes, in reverse order."""
    return sorted({*group.nodes, *group.inlined}, key=f.position.__getitem__, reverse=True)


def _needed(f: FusionState, group: Group) -> dict[Group, list[Node]]:
    """The nodes that each reader of ``group`` needs of it, in reverse order."""
    found: dict[Group, list[Node]] = {}
    for node in _computed(f, group):
        readers = dict.fromkeys(f.reading(group, node.outputs[0]))
        readers |= {g: None for g, wanted in found.items() if any(node.outputs[0] in f.bases(n) for n in wanted)}
        for other in readers:
            found.setdefault(other, []).append(node)
    return found


def _takes(f: FusionState, other: Group, nodes: list[Node]) -> bool:
    """Whether ``other`` can compute ``nodes`` too."""
    if (
        other.kind in ("template", "loop", "collective")
        or any(f.crowded(other, n) for n in nodes)
        or f.forbidden([other], nodes)
    ):
        return False
    inside = {*nodes, *other.inlined}
    sources = {v for n in nodes for v in f.bases(n) if v.node not in inside and v.node.op.kind is Kind.SOURCE}
    return len(f.inputs(other) | sources) <= MAX_INPUTS


def _dissolve(f: FusionState, group: Group) -> None:
    """Moves what ``group`` computes to those who read it: as a member where that is one group at one element."""
    nodes = _computed(f, group)
    for node in list(group.nodes):
        f.remove(group, node)
    for node in group.inlined:
        f.inlined[node].remove(group)
    f.groups.remove(group)
    for node in nodes:
        y = node.outputs[0]
        readers = [g for g in f.reading(group, y) if node not in g.inlined]
        saved = 2 * y.type.nbytes
        index = None if node is group.anchor or f.inlined.get(node) else common_index(f, readers, node)
        if index is not None and can_be_member(f, readers[0], node, index):
            f.decide(node, readers[0], Verdict(True, "same element"), saved, "totals")
            f.add(readers[0], node, index)
            f.inlined.pop(node, None)
            continue
        for other in readers:
            f.decide(node, other, Verdict(True, "a small total is found again"), saved, "totals")
            f.inlined.setdefault(node, []).append(other)
            f.inline(other, node)
            other.inlined.sort(key=f.position.__getitem__)

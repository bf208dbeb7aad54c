"""Computing again instead of storing: when all groups stand, a cheap member that others read may move fewer bytes if they
compute it themselves from what it is made of. Batch norm's centred input is float32 and made of a half that is stored anyway.
"""

from __future__ import annotations

from graphrt.ir import Value
from graphrt.op import Kind
from graphrt.schedule.fusion_state import MAX_INPUTS, FusionState, Verdict
from graphrt.schedule.group import Group


def recompute(f: FusionState) -> None:
    """Inlines members into the groups that read them where that moves fewer bytes than storing them, last first."""
    for node in reversed(f.graph.nodes):
        group = f.owner.get(node)
        if group is None or node.op.kind is not Kind.ELEMENTWISE or not node.op.cheap or node in f.inlined:
            continue
        y = node.outputs[0]
        readers = f.reading(group, y)
        if (
            not readers
            or f.is_stored(y)
            or node not in group.nodes
            or any(map(f.closed, readers))
            or f.forbidden(readers, [node])
        ):
            continue
        stored = sum(v.type.nbytes for v in _alike(f, group, y, readers)) * (1 + len(readers))
        again = _cost(f, group, y, readers)
        if again is not None and again < stored:
            f.inlined[node] = readers
            for other in readers:
                f.decide(node, other, Verdict(True, "computed again"), stored - again, "recompute")
                f.inline(other, node)


def _alike(f: FusionState, group: Group, y: Value, readers: list[Group]) -> list[Value]:
    """``y`` and what else ``group`` stores for the same readers alone that is made of the same one tensor, if it is of one:
    who has that can compute all of them."""
    sources = _sources(f, y)
    if len(sources) != 1 or sources[0] not in group.index:
        return [y]
    made = [r for r in f.readers(sources[0]) if r in group.nodes and r.op.kind is Kind.ELEMENTWISE and r.op.cheap]
    others = (v for r in made for v in r.outputs if v is not y and _sources(f, v) == sources and not f.is_stored(v))
    return [y, *(v for v in others if f.reading(group, v) == readers)]


def _sources(f: FusionState, y: Value) -> list[Value]:
    """The tensors that ``y`` is made of."""
    return [v for v in f.bases(y.node) if v.node.op.kind is not Kind.GENERATED]


def _cost(f: FusionState, group: Group, y: Value, readers: list[Group]) -> int | None:
    """Bytes moved if ``readers`` compute ``y``; None if one cannot."""
    sources = _sources(f, y)
    if any(v.node.op.kind is not Kind.SOURCE and v.node not in f.owner for v in sources):
        return None  # itself computed on load, by those who read it so far
    cost = sum(v.type.nbytes for v in sources if v in group.index and not f.is_stored(v) and not f.reading(group, v))
    for other in readers:
        have = f.inputs(other)
        if any(v in other.index for v in sources) or len(have | set(sources)) > MAX_INPUTS or f.crowded(other, y.node):
            return None
        cost += sum(f.seen(y.node)[v] for v in sources if v not in have)
    return cost

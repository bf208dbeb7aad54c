"""Computing on load: elementwise nodes that are read by groups only move into them, as members or recomputed."""

from __future__ import annotations

import math

from graphrt.ir import Node, Value
from graphrt.op import Kind
from graphrt.schedule.fusion_state import MAX_INPUTS, FusionState, Verdict, aligned
from graphrt.schedule.group import FREE, Group, Index, read_index, reads, through
from graphrt.schedule.row_passes import dear
from graphrt.schedule.templates import TEMPLATES
from graphrt.schedule.work import COSTLY
from graphrt.types import HALVES

LITTLE = 8  # times an operation's work
OFTEN, MANY = 16, 8  # reads of an element, and operations of one, from which on it is stored
WORTH = 1 << 16  # reads in all that are worth a launch


def inline(f: FusionState) -> None:
    """Moves unowned elementwise nodes whose only readers are groups into those groups, last first."""
    for node in f.homeless() if "inline" in f.policy.fusion else ():
        readers = f.readers(node.outputs[0])
        if any(r not in f.owner and r not in f.inlined for r in reversed(readers)):  # groups are made from the first node on
            continue
        found = (g for r in readers for g in ([f.owner[r]] if r in f.owner else f.inlined[r]))
        groups = list(dict.fromkeys(found))
        if not groups or f.refused.get(node) == (situation := f.situation(groups, node)):
            continue
        many = dear(f, groups, node)
        index = common_index(f, groups, node) if many is None else None
        if index is not None and can_be_member(f, groups[0], node, index):
            saved = 2 * node.outputs[0].type.nbytes
            f.decide(node, groups[0], Verdict(True, "same element"), saved, "inline")
            f.add(groups[0], node, index)
            continue
        verdict, saved = _inlinable(f, groups, node) if many is None else (many, 0)
        for group in groups:
            f.decide(node, group, verdict, saved, "inline")
        if verdict.ok:
            f.inlined[node] = groups
            for group in groups:
                f.inline(group, node)
        else:
            f.refused[node] = situation


def common_index(f: FusionState, groups: list[Group], node: Node) -> Index | None:
    """The index in the domain of its only reading group at which ``node`` is read, if that is one element."""
    y = node.outputs[0]
    if len(groups) > 1:
        return None
    if f.is_stored(y) and (groups[0].kind != "pointwise" or y.shape != groups[0].shape):
        return None  # a result is stored along the way where that happens once: later passes of a reduction may read it again
    found = set()
    for reader in f.readers(y):
        if f.owner.get(reader) is not groups[0] or y in f.buffered(reader):
            return None
        if reader is groups[0].anchor and groups[0].kind in ("template", "loop", "collective"):
            return None
        for read in reads(reader, read_index(groups[0], reader)):
            if read.value is y:
                found.add(None if read.guards else read.index)
    return found.pop() if len(found) == 1 else None


def can_be_member(f: FusionState, group: Group, node: Node, index: Index) -> bool:
    """Whether ``node``, read by ``group`` alone at ``index``, can be a member of it."""
    sources = set(f.bases(node))
    after = f.after(group) - {node}
    outside = {v.node for v in sources if v.node.op.kind not in FREE and v not in group.index}
    repeats = math.prod(group.shape) > max(node.types[0].size, 1) and not node.op.cheap and not _is_little(group)
    return (
        not repeats
        and f.forbidden([group], [node]) is None
        and aligned(f, group, node, index)
        and len(f.inputs(group) | sources) <= MAX_INPUTS
        and not f.crowded(group, node)
        and not f.depends(after, outside)
    )


def _is_little(group: Group) -> bool:
    """Whether a costly operation for each element of ``group`` is little beside what its contraction computes for one."""
    anchor = group.anchor
    contracts = anchor is not None and anchor.op.kind is Kind.CONTRACTION
    return contracts and anchor is not None and anchor.op.flops(anchor) >= LITTLE * COSTLY * math.prod(group.shape)


def _inlinable(f: FusionState, groups: list[Group], node: Node) -> tuple[Verdict, int]:
    """Whether recomputing ``node`` wherever it is read beats storing it once."""
    y = node.outputs[0]
    if f.is_stored(y):
        if y in f.placed:
            return Verdict(False, "lies in a buffer with others", f"{f.placed[y][0].name} had no buffer (stage concat)"), 0
        return Verdict(False, "is a result and must be stored", "neither it nor a view of it were returned"), 0
    if (off := f.forbidden(groups, [node])) is not None:
        return off, 0
    if (closed := next(filter(f.closed, groups), None)) is not None:
        whose = f"a {closed.kind}" if closed.kind in ("loop", "collective") else "a library"
        return Verdict(False, f"is an operand of {whose}, which takes it as it lies", f"a template computed {closed.label}"), 0
    operands = {g: _operands(f, g, node) for g in groups if g.kind == "template"}  # True: of what is loaded again and again
    once = all(operands.get(g) == {False} for g in groups)  # by attention, which would store as many numbers as it has scores
    free = (Kind.GENERATED, Kind.RANDOM) if once else (Kind.GENERATED,)
    sources = [v for v in f.bases(node) if v.node.op.kind is not Kind.GENERATED]
    read = sum(min(f.weight(v), f.seen(node)[v]) for v in sources if v.node.op.kind not in free)
    at_hand = 0 if _is_at_hand(f, groups, node) else read  # of what stores it
    saved = y.type.nbytes * (1 + len(groups)) + at_hand - read * len(groups)
    along = [g for g in groups if operands.get(g) != {False}]
    repeats = max((math.prod(g.shape) for g in along), default=0) // max(y.type.size, 1)
    again = any(True in found for found in operands.values()) or len(groups) > 1 or repeats > 1
    # What no template loads a GPU computes faster, however dear, than it moves its bytes.
    light = f.policy.tiles and not operands and repeats <= 1 and node.op.kind is Kind.ELEMENTWISE
    if not node.op.cheap and again and node.op.kind not in free and not light:
        return Verdict(False, "costs too much to compute more than once", f"{node.op.name} were cheap, or read once"), saved
    if saved <= 0:
        return Verdict(False, "storing it once moves fewer bytes", f"it were made of fewer than {read} bytes"), saved
    if not f.policy.tiles and (dear := _repeated(f, groups, node)):
        return dear, saved
    if slow := _slow_on_load(f, groups, y, read):
        return Verdict(False, slow, "a tile loaded each element once, or from fewer bytes"), saved
    if f.policy.tiles and any(operands.values()) and _is_half_of_weight(node):
        reason = "is a weight's half: tensor cores take it as it lies"
        return Verdict(False, reason, "no contraction multiplied it"), saved
    for group in groups:
        if (buffers := len(f.inputs(group) | set(sources))) > MAX_INPUTS:
            return f.too_many(group, buffers), saved
        if f.crowded(group, node):
            return f.too_large(group), saved
        if (waits := f.blocker(group, f.after(group), {v.node for v in sources})) is not None:
            return waits, saved
        if any(v in group.index for v in sources):
            change = f"it read them where {group.label} has them"
            return Verdict(False, "reads what the group computes at other elements", change), saved
    return Verdict(True, "computed on load"), saved


def _is_at_hand(f: FusionState, groups: list[Group], node: Node) -> bool:
    """Whether one contraction, none of ``groups``, has all at hand that ``node`` is made of, so that it can store it: on a cpu,
    where an operand that is made of two tensors is packed more slowly."""
    if f.policy.tiles:
        return False
    owners, pending, seen = set[Group | None](), [node], {node}
    while pending and len(owners) < 2:
        for v in f.bases(pending.pop()):
            if v.node.op.kind is Kind.ELEMENTWISE and v.node not in f.owner and v.shape == node.outputs[0].shape:
                pending += [v.node] if v.node not in seen else []
                seen.add(v.node)
            elif v.node.op.kind is not Kind.GENERATED:
                owners.add(f.owner.get(v.node))
    owner = owners.pop() if len(owners) == 1 else None
    return owner is not None and owner.kind == "template" and owner not in groups and not f.ends(owner)


def _repeated(f: FusionState, groups: list[Group], node: Node) -> Verdict | None:
    """Why ``node`` is better stored than computed for each of its reads, of which there are many: broadcast, or gathered at.

    What is computed with it counts too: whatever is cheap, of no more elements, and has no group.
    """
    size = max(node.types[0].size, 1)
    read = max(_reads(f, group, node) for group in groups)
    if read < max(OFTEN * size, WORTH):
        return None
    found, pending = set[Node](), [node]
    while pending and len(found) < MANY:
        n = pending.pop()
        if n in found or n in f.owner or n.op.kind is not Kind.ELEMENTWISE or n.types[0].size > size:
            continue
        found.add(n)
        pending += [v.node for v in f.bases(n)]
    if len(found) < MANY:
        return None
    reason = f"is read {read // size} times at each element, and takes {MANY} operations or more"
    return Verdict(False, reason, "it were read at each element once")


def _reads(f: FusionState, group: Group, node: Node) -> int:
    """The number of elements that ``group`` reads of ``node``, an operand or what operands are made of."""
    if group.kind != "template":
        return math.prod(group.shape)
    assert group.anchor is not None
    made = {node, *(n for n in _heirs(f, node) if n in f.inlined)}
    return max((x.type.size for x in group.anchor.inputs if any(v.node in made for v in through(x))), default=0)


def _slow_on_load(f: FusionState, groups: list[Group], y: Value, read: int) -> str:
    """Why computing ``y`` from so many bytes wherever a contraction loads it takes longer than storing it, or nothing.

    A tile's operand is computed again for each tap of a filter and for each tile beside it.
    """
    predicted = f.policy.on_load
    if predicted is None or not y.type.size:
        return ""
    loads = max(round(read / y.type.size), 1)
    contractions = [g.anchor for g in groups if g.anchor is not None and g.anchor.op.kind is Kind.CONTRACTION]
    extra = sum(predicted.extra(n, i, loads) for n in contractions for i, x in enumerate(n.inputs) if y in through(x))
    stored = predicted.byte * (y.type.nbytes + read) + predicted.launch
    if extra <= stored:
        return ""
    return f"computed on load it would take {1e6 * extra:.1f} us, storing it once takes {1e6 * stored:.1f} us"


def _is_half_of_weight(node: Node) -> bool:
    """Whether ``node`` is a parameter in half precision."""
    sources = [v.node for v in node.inputs if v.dtype not in HALVES]
    return node.types[0].dtype in HALVES and [n.op.name for n in sources] == ["parameter"] and len(node.inputs) == 1


def _operands(f: FusionState, group: Group, node: Node) -> set[bool]:
    """Whether the template ``group`` loads an element more than once, for each operand that ``node`` is part of."""
    anchor, made = group.anchor, {node, *(n for n in _heirs(f, node) if n in f.inlined)}
    assert anchor is not None and anchor.op.template is not None
    spec = TEMPLATES[anchor.op.template]
    operands = zip(anchor.inputs, spec.operands, strict=True)
    return {name not in spec.once for x, name in operands if any(v.node in made for v in through(x))}


def _heirs(f: FusionState, node: Node) -> set[Node]:
    """The nodes that read ``node`` directly or through inlined nodes."""
    found: set[Node] = set()
    stack = [node]
    while stack:
        for reader in f.readers(stack.pop().outputs[0]):
            if reader not in found:
                found.add(reader)
                if reader in f.inlined:
                    stack.append(reader)
    return found

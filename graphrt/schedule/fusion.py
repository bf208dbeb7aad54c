"""Fusion: cut a graph into groups, each one kernel.

Anchors, then what follows them, then what can be computed on load, then leftover elementwise nodes (hidet's order; Ding et
al., ASPLOS 2023). ``legal`` says whether a node may be in a group, ``benefit`` what that saves in bytes; every answer is kept
as a decision with its reason.

       prologue: x -> bn, relu -\
                                 conv --> add, relu, mask  (epilogue)    one kernel
       prologue: w -> cast -----/
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

from graphrt.index import axes
from graphrt.ir import Graph, Node, Value
from graphrt.op import Kind
from graphrt.passes.decision import Decision
from graphrt.schedule.column_sums import take_column_sums
from graphrt.schedule.concat_buffers import NO_BUFFERS, ConcatBuffers
from graphrt.schedule.following import behind, left_over, returns
from graphrt.schedule.fusion_state import MAX_INPUTS, FusionState, Verdict, aligned, candidates, stage_of
from graphrt.schedule.group import FREE, FUSABLE, Group, Index, chain, pull, through
from graphrt.schedule.inline import inline
from graphrt.schedule.partial_reductions import absorb_partial_sums
from graphrt.schedule.policy import ROW_LIMIT, SchedulePolicy
from graphrt.schedule.producers import take_producers
from graphrt.schedule.recompute import recompute
from graphrt.schedule.reduction_fusion import fuse_reductions
from graphrt.schedule.totals import share_totals

FEW = 64  # bytes that no kernel should wait for


def fuse(graph: Graph, policy: SchedulePolicy, buffers: ConcatBuffers = NO_BUFFERS) -> tuple[list[Group], list[Decision]]:
    """Groups of ``graph`` in no particular order, and every decision taken; what lies in ``buffers`` is stored."""
    f = FusionState(graph, policy, buffers)
    anchors = [n for n in graph.nodes if n.op.kind not in (*FREE, *FUSABLE)]
    for node in anchors:
        if node not in f.owner:
            group = f.start(node)
            if not f.ends(group):
                if policy.tiles and "segments" in policy.fusion:
                    absorb_partial_sums(f, group)
                _grow(f, group)
    if "rows" in policy.fusion:
        fuse_reductions(f)
    inline(f)
    if "rows" in policy.fusion:
        fuse_reductions(f)  # those that read one tensor now
    for group in list(f.groups):
        if group.kind == "template" and not f.ends(group):
            _grow(f, group, late=True)
    single: list[Node] = []
    for node in graph.nodes:
        if node.op.kind in FUSABLE and node not in f.owner and node not in f.inlined:
            group = f.start(node)
            _grow(f, group)
            if len(group.nodes) == 1 and node.op.cheap and not f.is_stored(node.outputs[0]):
                single.append(f.dissolve(group))  # its readers have no groups yet that could compute it
            elif any(f.is_homeless(v.node) for n in group.nodes for v in f.bases(n)):
                inline(f)
    inline(f)
    for node in single:
        if node not in f.owner and node not in f.inlined:
            f.start(node)
    if "inline" in policy.fusion:
        take_producers(f)
    if policy.segments:
        take_column_sums(f)
    if "recompute" in policy.fusion:
        recompute(f)
    if "totals" in policy.fusion:
        share_totals(f)
    _leave_out(f)
    _copies(f, buffers)
    copied = {base for g in f.groups for v in g.copies for base in through(v)}
    for group in f.groups:
        group.inputs, group.outputs = loaded(f, group), stored(f, group, copied)
    _check(f)
    return f.groups, [*buffers.decisions, *_standing(f)]


# --- growing forward: epilogues, row operations, elementwise chains ----------------------------------------------


def _grow(f: FusionState, group: Group, late: bool = False) -> None:
    """Takes in what follows ``group``; ``late``, when others have what they compute on load, what is left over."""
    refused: set[Node] = set()
    cut: set[Node] | None = None  # what should be computed here: as long as that is done, it stays so

    def behind_it(values: Iterable[Value]) -> set[Node]:
        readers = {r for v in values for r in f.readers(v)}
        return {r for r in readers if r not in f.owner and r not in f.inlined and r not in refused}

    waiting = behind_it(group.values())
    while True:
        found = waiting & left_over(f, group, refused) if late and waiting else waiting
        if not found:
            break
        node = min(found, key=f.position.__getitem__)
        verdict, index = legal(f, group, node, late)
        if verdict.ok and group.kind == "template" and not late and cut is None:
            cut = behind(f, group, refused)
        if verdict.ok and cut is not None and node not in cut:
            also = ", ".join(v.name for v in f.bases(node) if v in group.index)
            verdict = Verdict(
                False, "is cheap and reads what is stored anyway: computed where it is read", f"nobody else read {also}"
            )
        saved = benefit(f, group, node) if verdict.ok else 0
        if verdict.ok and saved <= 0:
            verdict = Verdict(False, "saves no memory traffic", f"it read what {group.label} computes")
        elif verdict.ok and saved <= FEW and _delays(f, group, node):
            change = f"all that it is made of were known when {group.label} runs"
            verdict = Verdict(False, "would let all that waits for the group wait for more", change)
        if f.decide(node, group, verdict, saved, stage_of(group, node)) and index is not None:
            f.add(group, node, index)
            waiting |= behind_it(node.outputs)
        else:
            refused.add(node)
            cut = None
        waiting.discard(node)
    _trim(f, group)


def legal(f: FusionState, group: Group, node: Node, late: bool = False) -> tuple[Verdict, Index | None]:
    """Whether ``node`` can be computed by ``group`` behind what it has, and the node's index in the domain.

    ``late`` it is known that those who read it do not compute it again.
    """
    kind = node.op.kind
    if (off := f.parted(group, node)) is not None:
        return off, None
    if kind not in FUSABLE and not (kind is Kind.REDUCTION and group.kind == "reduction"):
        change = f"one template had the loops of {node.name} and of {group.label}"
        return Verdict(False, f"is a {kind.value}: a kernel of its own", change), None
    if not late and group.kind == "template" and returns(group, node):
        where = "is cheap: computed again" if node.op.cheap else "is computed"
        change = "what it is made of were not stored for the backward pass"
        return Verdict(False, f"{where} in the backward pass", change), None
    if f.policy.tiles and node.origin.phase == "opt" and group.kind == "reduction" and (waiting := _waiting(f, group)):
        reason = "is an update, which would keep its kernel behind all readers of the parameter"
        return Verdict(False, reason, f"{waiting} did not wait for {group.label}"), None
    if kind is Kind.REDUCTION:
        if node.inputs[0].shape != group.shape or tuple(node.attrs["dims"]) != group.reduced:
            return Verdict(False, "reduces other axes", f"it reduced axes {[*group.reduced]} of {[*group.shape]}"), None
        options = [group.domain]
    else:
        options = list(candidates(group, node))
    for index in options:
        if aligned(f, group, node, index):
            break
    else:
        if node.types[0].size != (here := math.prod(group.shape)):
            reason = f"has {'more' if node.types[0].size > here else 'fewer'} elements"
            return Verdict(False, reason, f"it had as many as {group.label}"), None
        return Verdict(False, "needs neighbours", f"each element were made of one and the same element of {group.label}"), None
    if (buffers := len(f.inputs(group) | set(f.bases(node)))) > MAX_INPUTS:
        return f.too_many(group, buffers), None
    if f.crowded(group, node):
        return f.too_large(group), None
    outside = {v.node for v in f.bases(node) if v.node.op.kind not in FREE} - set(group.nodes)
    after = f.after(group) - {node}
    if (waits := f.blocker(group, after, outside)) is not None:
        return waits, None
    if kind is Kind.REDUCTION:
        return Verdict(True, "same rows"), tuple(e for d, e in enumerate(group.domain) if d not in group.reduced)
    return Verdict(True, "same element"), index


def _delays(f: FusionState, group: Group, node: Node) -> bool:
    """Whether others wait for ``group``, and ``node`` follows from an anchor for which it does not wait."""
    members, seen, pending = set(group.nodes), {node}, [node]
    if not f.after(group) - seen:
        return False
    while pending:
        found = {v.node for v in f.bases(pending.pop()) if v.node.op.kind not in FREE} - members - seen
        if any(n.op.kind not in FUSABLE and not f.depends({n}, members) for n in found):
            return True
        pending += [n for n in found if n.op.kind in FUSABLE]
        seen |= found
    return False


def _waiting(f: FusionState, group: Group) -> str:
    """The first node that needs what ``group`` computes and is no update; empty if there is none."""
    found = [r for r in f.after(group) if r.origin.phase != "opt"]
    return min(found, key=f.position.__getitem__).name if found else ""


def benefit(f: FusionState, group: Group, node: Node) -> int:
    """Bytes of memory traffic saved by computing ``node`` in ``group``: members read from registers, not from memory."""
    saved = 0
    for v in f.bases(node):
        if v in group.index:
            alone = all(r is node or r in group.nodes for r in f.readers(v)) and not f.is_stored(v)
            saved += v.type.nbytes * (2 if alone else 1)
    return saved


def _trim(f: FusionState, group: Group) -> None:
    """Takes elementwise members out of a reduction whose rows are read again by each pass, unless a reduction needs them.

    They would save nothing there, and cost the parallelism of a kernel of their own.
    """
    if group.kind != "reduction" or group.reduced_size <= ROW_LIMIT:
        return
    needed: set[Node] = set()
    for node in reversed(group.nodes):
        if node in needed or node.op.kind is Kind.REDUCTION or not group.is_full(node.outputs[0]):
            needed.add(node)
            needed.update(v.node for v in f.bases(node))
    for node in [n for n in group.nodes if n not in needed]:
        f.remove(group, node)
        reason = f"follows a row of {group.reduced_size} elements, too long to keep on chip"
        long = Verdict(False, reason, f"rows had at most {ROW_LIMIT}")
        f.decide(node, group, long, 0, "rowops")


# --- finishing -----------------------------------------------------------------------------------------------------


def _copies(f: FusionState, buffers: ConcatBuffers) -> None:
    """Gives each result that no kernel computes (a view, a constant, an input) a group that copies it out.

    A view that only reorders is stored in its own shape by the group that computes what it shows.
    """
    for v in dict.fromkeys(f.graph.results()):
        views = chain(v)
        base = views[-1].inputs[0] if views else v
        group = f.owner.get(base.node)
        if v.node in f.owner or v in buffers.wholes:
            continue
        if group is not None and f.ends(group):
            group = None
        index = group.index.get(base) if group else None
        for view in reversed(views):
            index = view.op.push(view, index) if index is not None and view.op.push is not None else None
        taken = group is not None and f.parted(group, v.node) is None
        if group is not None and taken and index is not None and _returns(group, v, index):
            f.decide(v.node, group, Verdict(True, "a view that is returned"), 2 * v.type.nbytes, stage_of(group, v.node))
            f.add(group, v.node, index)
        else:
            f.groups.append(Group(f"g{len(f.groups)}", None, v.shape, axes("i", v.shape), copies=[v]))


def _returns(group: Group, view: Value, index: Index) -> bool:
    """Whether ``view`` at ``index`` is found to show what the group has at hand; index arithmetic may not see it."""
    return all(not read.guards and group.index.get(read.value) == read.index for read in pull(view, index))


def _leave_out(f: FusionState) -> None:
    """Takes members that all who read them compute again out of their groups, and with the last the group."""
    for group in list(f.groups):
        for node in reversed(list(group.nodes)):
            y = node.outputs[0]
            near = any(r in group.nodes or r in group.inlined for r in f.readers(y))
            if node in f.inlined and not near and not f.is_stored(y) and all(node in g.inlined for g in f.reading(group, y)):
                f.remove(group, node)
        if not group.nodes:
            f.groups.remove(group)


def loaded(f: FusionState, group: Group) -> list[Value]:
    """The values that ``group`` reads from memory."""
    members = {*group.nodes, *group.inlined}
    reads: dict[Value, None] = {}
    for node in [*group.inlined, *group.nodes]:
        reads.update(dict.fromkeys(f.bases(node)))
    for v in group.copies:
        reads.update(dict.fromkeys(through(v)))
    return [v for v in reads if v.node not in members and v.node.op.kind is not Kind.GENERATED]


def stored(f: FusionState, group: Group, copied: set[Value]) -> list[Value]:
    """The values that ``group`` must store: what others read, copy out (``copied``), or get as results."""
    return [v for v in group.values() if v in copied or f.is_stored(v) or f.is_loaded(v, group)]


def _standing(f: FusionState) -> list[Decision]:
    """The decisions but for refusals that a later one has overtaken: the two are in one kernel by way of others."""
    home = {n.name: {m.name for m in (*g.nodes, *g.inlined)} for g in f.groups for n in g.nodes}
    return [d for d in f.decisions.values() if d.taken or d.node not in home.get(d.other, ())]


def _check(f: FusionState) -> None:
    """Every computed node is in exactly one group, or inlined into at least one, or both; every group gives something."""
    owners = Counter(node for g in f.groups for node in g.nodes)
    for node in f.graph.nodes:
        if node.op.kind not in FREE:
            found = owners[node]
            assert found == 1 or (not found and f.inlined.get(node)), f"{node.where()} is in {found} groups"
    for group in f.groups:
        assert group.outputs or group.copies, f"nobody needs {group}"

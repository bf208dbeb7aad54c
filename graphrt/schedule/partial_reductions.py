"""Sums of segments as epilogues: ``passes.partial`` cuts a sum over pixels into segments, a tile of a template has whole ones.

conv --> y ---------------------> stored
          \\--> sum of each segment --> stored, one row a segment      (and through what is computed on the tile)
"""

from __future__ import annotations

import heapq

from graphrt.index import Expr
from graphrt.ir import Node
from graphrt.op import Kind
from graphrt.schedule.fusion_state import MAX_INPUTS, FusionState, Verdict, aligned, candidates
from graphrt.schedule.group import FREE, Group, Index
from graphrt.types import float32

SEGMENTS = (16, 32, 64, 128)  # rows that a tile of a large contraction may have, and no fewer


def absorb_partial_sums(f: FusionState, group: Group) -> None:
    """Takes every sum of segments into the template ``group`` whose terms it can compute, with what lies between."""
    if _tile_row(f, group) is None:
        return
    refused: set[Node] = set()
    while _absorb_one(f, group, refused):
        pass


def _absorb_one(f: FusionState, group: Group, refused: set[Node]) -> bool:
    """Takes the first sum that fits and is not in ``refused``, and adds to these what comes before it."""
    downstream, behind = _downstream(f, group)
    sums = {n for n in downstream | behind if n.op.kind is Kind.REDUCTION} - refused
    for node in sorted(sums, key=f.position.__getitem__):
        path = sorted(_path(f, node, downstream), key=f.position.__getitem__)
        change = f"all it is made of were known when {group.label} runs"
        waits = Verdict(False, f"needs what waits for {group.label}", change)
        verdict, index = (waits, {}) if node in behind else _fits(f, group, node, path)
        for n in path if verdict.ok else ():
            f.decide(n, group, Verdict(True, f"{node.name} sums it in the tile"), 0, "segments")
            f.add(group, n, index[n])
        if f.decide(node, group, verdict, node.inputs[0].type.nbytes if verdict.ok else 0, "segments"):
            group.segments[node] = index[node]
            f.add(group, node, (index[node][0], *index[node][2:]))
            return True
        refused.add(node)
    return False


def _downstream(f: FusionState, group: Group) -> tuple[set[Node], set[Node]]:
    """The nodes that can be computed from the group's values and others, up to sums of segments; and those that cannot.

    The latter reads others that wait for the group, or is made of what does: in a chain of blocks that is all but the next.
    """
    found, behind = set[Node](), set[Node]()
    members, after = set(group.nodes), f.after(group)
    seen = {r for v in group.values() for r in f.readers(v)}
    pending = [f.position[n] for n in seen]
    heapq.heapify(pending)
    while pending:  # in the graph's order: what a node is made of comes before it
        node = f.graph.nodes[heapq.heappop(pending)]
        goes_on = _is_cheap(node)
        if node in f.owner or node in f.inlined or not (goes_on or _sums_segments(node)):
            continue
        others = {v.node for v in f.bases(node) if v.node.op.kind not in FREE} - members - found
        waits = not others.isdisjoint(behind) or bool(others and f.depends(after, others))
        (behind if waits else found).add(node)
        for n in f.readers(node.outputs[0]) if goes_on else ():
            if n not in seen:
                seen.add(n)
                heapq.heappush(pending, f.position[n])
    return found, behind


def _is_cheap(node: Node) -> bool:
    return node.op.kind is Kind.ELEMENTWISE and node.op.cheap


def _sums_segments(node: Node) -> bool:
    """Whether ``node`` adds up segments of a length that a tile can have several of."""
    x = node.inputs[0]
    if node.op.kind is not Kind.REDUCTION or node.attrs["op"] != "sum" or tuple(node.attrs["dims"]) != (1,):
        return False
    return x.ndim == 3 and x.shape[1] in SEGMENTS and x.dtype is float32


def _path(f: FusionState, node: Node, downstream: set[Node]) -> set[Node]:
    """The nodes of ``downstream`` that ``node`` is made of."""
    found: set[Node] = set()
    stack = [node]
    while stack:
        for v in f.bases(stack.pop()):
            if v.node in downstream and v.node not in found:
                found.add(v.node)
                stack.append(v.node)
    return found


def _fits(f: FusionState, group: Group, node: Node, path: list[Node]) -> tuple[Verdict, dict[Node, Index]]:
    """Whether the sum can be an epilogue, and the index in the domain of each node of ``path`` and of the sum's operand."""
    if (off := f.forbidden([group], [*path, node])) is not None:
        return off, {}
    trial = Group(group.name, group.anchor, group.shape, group.domain, list(group.nodes), dict(group.index))
    found: dict[Node, Index] = {}
    for n in (*path, node):
        index = next((i for i in candidates(trial, n) if aligned(f, trial, n, i)), None)
        if index is None or (n is not node and _sums_segments(n)):
            return Verdict(False, "needs neighbours", f"its terms were made of the same elements of {group.label}"), {}
        found[n] = index
        trial.nodes.append(n)
        if n is not node:
            trial.index[n.outputs[0]] = index
    if not _is_segment(f, group, node, found[node]):
        return Verdict(False, "sums what lies in several tiles", f"segments were rows of one tile of {group.label}"), {}
    if (buffers := len(f.inputs(trial))) > MAX_INPUTS:
        return f.too_many(group, buffers), {}
    members = {*group.nodes, *path, node}
    outside = {v.node for n in (*path, node) for v in f.bases(n) if v.node.op.kind not in FREE} - members
    after = f.after(group).union(*(f.successors(n) for n in (*path, node))) - members
    if (waits := f.blocker(group, after, outside)) is not None:
        return waits, {}
    return Verdict(True, "sums of segments are in the tile"), found


def _is_segment(f: FusionState, group: Group, node: Node, index: Index) -> bool:
    """Whether ``node`` sums rows next to each other in a tile, and every sum of the group as many."""
    length = node.inputs[0].shape[1]
    alike = all(n.inputs[0].shape[1] == length for n in group.segments)
    return alike and index[0] * length + index[1] == _tile_row(f, group) and index[2:] == group.domain[1:2]


def _tile_row(f: FusionState, group: Group) -> Expr | None:
    """The row of the template's tiles in which each element of ``group`` is; None where it has no such tiles."""
    if group.anchor is None or f.policy.tile_row is None:
        return None
    return f.policy.tile_row(group.anchor, group.domain)

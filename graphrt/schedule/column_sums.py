"""Sums of columns in a kernel that has rows at hand: ``passes.columns`` cuts them into segments of rows.

    rows 0 .. 63     row by row: sums, what is made of them;  each element also added to its column's sum of rows 0 .. 63
    rows 64 .. 127   ...                                                                            of rows 64 .. 127

A task has whole segments, so nobody else adds to their sums, which stay in a cache meanwhile; another kernel sums the segments.
"""

from __future__ import annotations

import math

from graphrt.index import Expr, linearize, row_major
from graphrt.op import Kind
from graphrt.schedule.fusion_state import MAX_INPUTS, FusionState, Verdict, aligned
from graphrt.schedule.group import Group, Index, read_index
from graphrt.schedule.policy import ROW_LIMIT
from graphrt.schedule.producers import reached
from graphrt.schedule.work import MOST

LONGEST = 64  # rows of a segment: what a task adds up one after the other


def take_column_sums(f: FusionState) -> None:
    """Moves sums over segments of rows into reductions of the same rows with which they share what they read."""
    for sums in [g for g in f.groups if _sums_segments(g)]:
        near = [g for g in f.groups if g is not sums and g.kind == "reduction" and _same_rows(g, sums)]
        for group in sorted(near, key=lambda g: f.position[g.nodes[0]]):
            shared = [v for v in f.inputs(sums) if v in group.index or v in f.inputs(group)]
            shared = [v for v in shared if v.type.size == math.prod(sums.shape)]
            if not shared:
                continue
            trial, verdict = _fused(f, group, sums)
            saved = sum(v.type.nbytes for v in shared) if verdict.ok else 0
            for node in (*sums.nodes, *sums.inlined):
                f.decide(node, group, verdict, saved, "rows")
                saved = 0
            if verdict.ok:
                f.absorb(group, sums, {v: trial.index[v] for v in sums.values()})
                group.segments |= trial.segments
                break


def _sums_segments(group: Group) -> bool:
    """Whether all that ``group`` reduces is summed over segments, and nothing follows from that."""
    if group.kind != "reduction" or group.reduced != (1,) or len(group.shape) != 3:
        return False
    sums = [n for n in group.nodes if n.op.kind is Kind.REDUCTION]
    rest = {v for n in group.nodes if n not in sums for v in n.outputs}
    return all(n.attrs["op"] == "sum" for n in sums) and group.full(rest) == rest


def _same_rows(group: Group, sums: Group) -> bool:
    """Whether ``group`` reduces rows, as long as a kernel has at hand, of what ``sums`` adds up."""
    first = len(group.shape) - len(group.reduced)
    rows = group.reduced == tuple(range(first, len(group.shape)))
    size, (segments, length, columns) = group.reduced_size, sums.shape
    return rows and 1 < size == columns and size <= ROW_LIMIT and math.prod(group.shape) == segments * length * columns


def _fused(f: FusionState, group: Group, sums: Group) -> tuple[Group, Verdict]:
    """``group`` with what ``sums`` computes, and whether that can be."""
    length, first = sums.shape[1], len(group.shape) - len(group.reduced)
    row, column = (
        linearize(group.domain[a:b], row_major(group.shape[a:b])) for a, b in ((0, first), (first, len(group.shape)))
    )
    to = dict(zip(("i0", "i1", "i2"), (row // length, row % length, column), strict=True))
    trial = Group(group.name, group.anchor, group.shape, group.domain)
    trial.index = group.index | {v: _moved(index, to) for v, index in sums.index.items()}
    trial.segments = group.segments | {n: _moved(sums.domain, to) for n in sums.nodes if n.op.kind is Kind.REDUCTION}
    trial.nodes = sorted((*group.nodes, *sums.nodes), key=f.position.__getitem__)
    trial.inlined = sorted({*group.inlined, *sums.inlined}, key=f.position.__getitem__)
    return trial, _verdict(f, group, sums, trial)


def _moved(index: Index, to: dict[str, Expr]) -> Index:
    return tuple(e.substitute(to) for e in index)


def _verdict(f: FusionState, group: Group, sums: Group, trial: Group) -> Verdict:
    """Whether ``trial`` is a kernel that computes both."""
    if "rows" not in f.policy.fusion:
        return Verdict(False, "the stage rows is off", "it were on (fusion)")
    if (off := f.forbidden([group], [*sums.nodes, *sums.inlined])) is not None:
        return off
    if sums.shape[0] < f.policy.segments or sums.shape[1] > LONGEST:
        reason = f"{sums.shape[0]} sums of {sums.shape[1]} rows each are few tasks"
        return Verdict(False, reason, f"there were at least {f.policy.segments} sums, of at most {LONGEST} rows")
    if len({index[1] for index in trial.segments.values()}) > 1:
        return Verdict(False, "adds up other segments of rows", "the segments were as long as those that are added up there")
    meet = all(aligned(f, trial, n, read_index(trial, n)) for n in trial.nodes)
    if not meet or any(r.guards or r.index != trial.index[r.value] for r in reached(f, trial, {*trial.index})):
        return Verdict(False, "needs neighbours", f"each element were made of one and the same element of {group.label}")
    if not _lies_in_rows(f, trial):
        return Verdict(False, "its rows do not lie in one piece", "their elements were neighbours in memory")
    if f.work(group).operations + f.work(sums).operations > MOST:
        return f.too_large(group)
    if (buffers := len(f.inputs(trial))) > MAX_INPUTS:
        return f.too_many(group, buffers)
    members, others = {*group.nodes}, {*sums.nodes}
    on_load = {n for n in sums.inlined if n not in f.owner}
    if (waits := f.blocker(group, f.after(group) - others - on_load, others)) is not None:
        return waits
    if (waits := f.blocker(sums, f.after(sums) - members, members)) is not None:
        return waits
    return Verdict(True, "adds up the columns of the same rows")


def _lies_in_rows(f: FusionState, trial: Group) -> bool:
    """Whether all that is as large as the domain lies, and is read, in the domain's order."""
    size, there = math.prod(trial.shape), linearize(trial.domain, row_major(trial.shape))
    values = {v for v in (*f.inputs(trial), *trial.index) if v.type.size == size}
    found = [r for r in reached(f, trial, values) if r.value not in trial.index]
    in_order = all(not r.guards and linearize(r.index, row_major(r.value.shape)) == there for r in found)
    return in_order and all(v.type.order is None for v in values)

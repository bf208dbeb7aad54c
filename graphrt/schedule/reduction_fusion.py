"""Fuses reductions over the same rows: one that reads another's result, those that read one tensor, so that it is read once,
and those that read what one kernel wrote for them, such as sums of segments: that saves a launch.

Networks have hundreds of such groups, so pairs are looked for among those that share something, and none is tried twice:
fusing others never makes a pair fit that did not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from graphrt.ir import Value
from graphrt.op import Kind
from graphrt.schedule.fusion_state import MAX_INPUTS, FusionState, Verdict, aligned
from graphrt.schedule.group import Group, read_index
from graphrt.schedule.policy import ROW_LIMIT
from graphrt.schedule.work import MOST

OTHER_AXES = "reads it again: a kernel has whole rows at hand, or whole columns"


def fuse_reductions(f: FusionState) -> None:
    """Fuses groups, one pair of each kind of rows at a time, as long as there are some."""
    alike: dict[object, _SameRows] = {}
    for g in f.groups:
        if g.kind == "reduction":
            alike.setdefault((g.shape, g.reduced), _SameRows(f)).groups.append(g)
    while any([rows.fuse_two() for rows in alike.values()]):
        pass
    _say_who_reads_again(f)


def _say_who_reads_again(f: FusionState) -> None:
    """Keeps the reason why a tensor is read by a reduction of its rows and by one of its columns."""
    readers: dict[Value, Group] = {}
    for g in f.groups:
        for v in sorted(f.inputs(g), key=lambda v: f.position[v.node]) if g.kind == "reduction" else ():
            early = readers.setdefault(v, g)
            if v.type.size == math.prod(g.shape) > 1 and early.shape == g.shape and early.reduced != g.reduced:
                assert g.anchor is not None
                f.decide(g.anchor, early, Verdict(False, OTHER_AXES, f"both reduced axes {[*early.reduced]}"), 0, "rows")


class _SameRows:
    """The groups over one kind of rows, in order; what each reads, and which pairs (late, early) do not fit."""

    def __init__(self, f: FusionState) -> None:
        self.f = f
        self.groups: list[Group] = []
        self._reads: dict[Group, set[Value]] = {}
        self._large: dict[Group, set[Value]] = {}
        self._refused: set[tuple[Group, Group]] = set()

    def fuse_two(self) -> bool:
        """Fuses the first two groups for which that is legal and saves reads; False if there are no such two."""
        for late, early in self._pairs():
            trial, saved = self._fused(late, early)
            if trial is None:
                self._refused.add((late, early))
                continue
            f = self.f
            assert late.anchor is not None
            f.decide(late.anchor, early, Verdict(True, "same rows"), saved, "rows")
            trial.stopped = early.stopped + late.stopped
            trial.inlined = sorted({*early.inlined, *late.inlined}, key=f.position.__getitem__)
            for n in trial.inlined:
                f.inlined[n] = [*(g for g in f.inlined[n] if g not in (early, late)), trial]
            for groups in (f.groups, self.groups):
                groups[groups.index(early)] = trial
                groups.remove(late)
            f.owner.update(dict.fromkeys(trial.nodes, trial))
            f.merge(early.nodes[0], late.nodes[0])
            return True
        return False

    def _pairs(self) -> Iterator[tuple[Group, Group]]:
        """The pairs that share something and are not refused yet, in the order of the groups."""
        order = {g: i for i, g in enumerate(self.groups)}
        readers: dict[Value, list[Group]] = {}
        sources: dict[Group | None, list[Group]] = {}  # None: of groups that read nothing as large as their rows
        for g in self.groups:
            self._look(g)
            for v in self._large[g]:
                readers.setdefault(v, []).append(g)
            made = self._sources(g)
            if made is not None and len(made) < 2:
                sources.setdefault(next(iter(made), None), []).append(g)
        for late in self.groups:
            near = {g for v in self._large[late] for g in readers[v]}
            near |= order.keys() & {self.f.owner.get(v.node) for v in self._reads[late]}
            made = self._sources(late)
            if made is not None and len(made) < 2:
                of = [*made, None] if made else [g for g in sources if g is not None]
                near.update(g for source in of for g in sources.get(source, ()))
            yield from ((late, g) for g in sorted(near - {late}, key=order.__getitem__) if (late, g) not in self._refused)

    def _look(self, g: Group) -> None:
        if g not in self._reads:
            self._reads[g] = self.f.inputs(g)
            self._large[g] = {v for v in self._reads[g] if v.type.size == math.prod(g.shape)}

    def _sources(self, g: Group) -> set[Group] | None:
        """The groups that wrote what ``g`` reduces, if it reduces nothing but what others have reduced in part."""
        if any(v.node.op.kind is not Kind.REDUCTION for v in self._large[g]):
            return None
        return {self.f.owner[v.node] for v in self._large[g]}

    def _fused(self, late: Group, early: Group) -> tuple[Group | None, int]:
        """Both as one group, and the bytes that saves; None where that is no good."""
        f = self.f
        buffers = sum(f.owner.get(v.node) not in (late, early) for v in self._reads[late] | self._reads[early])
        if buffers > MAX_INPUTS or f.work(late).operations + f.work(early).operations > MOST:
            return None, 0
        shared = self._large[late] & self._large[early]
        follows = self._reads[late] & set(early.values())
        if not (follows and late.reduced_size <= ROW_LIMIT) and (follows or not self._apart(late, early)):
            return None, 0
        trial = Group(early.name, early.anchor, early.shape, early.domain, index={**early.index, **late.index})
        trial.nodes = sorted((*early.nodes, *late.nodes), key=f.position.__getitem__)
        meeting = [n for n in late.nodes if not early.index.keys().isdisjoint((*f.bases(n), *f.buffered(n)))]
        meet = all(aligned(f, trial, n, read_index(trial, n)) for n in meeting)
        meet = meet and f.forbidden([early], [*late.nodes, *late.inlined]) is None
        if not meet or f.depends(f.after(early) - set(late.nodes), set(late.nodes)):
            return None, 0
        return trial, sum(2 * v.type.nbytes for v in follows) + sum(v.type.nbytes for v in shared)

    def _apart(self, a: Group, b: Group) -> bool:
        """Whether neither group waits for the other."""
        f = self.f
        return not f.depends(f.after(a), set(b.nodes)) and not f.depends(f.after(b), set(a.nodes))

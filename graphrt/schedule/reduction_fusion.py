"""Fuses reductions over the same rows: one that reads another's result, those that read one tensor, so that it is read once,
and those that read what one kernel wrote for them, such as sums of segments: that saves a launch.

Networks have hundreds of such groups, so pairs are looked for among those that share something, and none is tried twice:
fusing others never makes a pair fit that did not.
"""

from __future__ import annotations

import heapq
import math
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping

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
            alike.setdefault((g.shape, g.reduced), _SameRows(f, alike)).add(g)
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
    """The groups over one kind of rows, in order; what each reads, and the pairs (late, early) that may fit.

    ``alike`` has the groups over all kinds of rows: what one reads is another's, when that has become part of a third.
    """

    def __init__(self, f: FusionState, alike: Mapping[object, _SameRows]) -> None:
        self.f, self.alike = f, alike
        self._rank: dict[Group, int] = {}  # the place of each group that is there
        self._reads: dict[Group, set[Value]] = {}
        self._large: dict[Group, set[Value]] = {}
        self._readers: dict[Value, set[Group]] = defaultdict(set)
        self._source: dict[Group, Group | None] = {}  # None: of groups that read nothing as large as their rows
        self._of: dict[Group | None, set[Group]] = defaultdict(set)
        self._waiting = deque[Group]()  # groups whose pairs, as the late one, were not looked for yet
        self._pairs: list[tuple[int, int, int, Group, Group]] = []  # a heap, by their places
        self._found: set[tuple[Group, Group]] = set()

    def add(self, g: Group, rank: int | None = None) -> None:
        """Adds ``g``, at the place ``rank`` of one that is part of it, or behind all others."""
        if rank is None:
            rank = len(self._rank)
            self._waiting.append(g)
        self._rank[g], self._reads[g] = rank, self.f.inputs(g)
        self._large[g] = {v for v in self._reads[g] if v.type.size == math.prod(g.shape)}
        for v in self._large[g]:
            self._readers[v].add(g)
        self._place(g)

    def fuse_two(self) -> bool:
        """Fuses the first two groups for which that is legal and saves reads; False if there are no such two."""
        while (pair := self._next()) is not None:
            late, early = pair
            trial, saved = self._fused(late, early)
            if trial is None:
                continue
            f = self.f
            assert late.anchor is not None
            f.decide(late.anchor, early, Verdict(True, "same rows"), saved, "rows")
            trial.stopped = early.stopped + late.stopped
            trial.inlined = sorted({*early.inlined, *late.inlined}, key=f.position.__getitem__)
            for n in trial.inlined:
                f.inlined[n] = [*(g for g in f.inlined[n] if g not in (early, late)), trial]
            f.groups[f.groups.index(early)] = trial
            f.groups.remove(late)
            f.owner.update(dict.fromkeys(trial.nodes, trial))
            f.merge(early.nodes[0], late.nodes[0])
            self._replace(early, late, trial)
            return True
        return False

    def _next(self) -> tuple[Group, Group] | None:
        """The first pair, in the order of the groups, that shares something and was not tried yet."""
        while True:
            while self._pairs:
                *_, late, early = heapq.heappop(self._pairs)
                if late in self._rank and early in self._rank:
                    return late, early
            if not self._waiting:
                return None
            late = self._waiting.popleft()
            if late in self._rank:
                self._push((late, g) for g in self._near(late))

    def _push(self, pairs: Iterable[tuple[Group, Group]]) -> None:
        """Adds those of ``pairs`` that are new."""
        for pair in pairs:
            if pair not in self._found:
                self._found.add(pair)
                late, early = pair
                heapq.heappush(self._pairs, (self._rank[late], self._rank[early], len(self._found), late, early))

    def _replace(self, early: Group, late: Group, trial: Group) -> None:
        """Puts ``trial`` in the place of the two groups that are part of it, and finds who shares something with it now."""
        self.add(trial, self._rank[early])
        if early in self._waiting:
            self._waiting[self._waiting.index(early)] = trial
        for g in (early, late):
            del self._rank[g]
            for v in self._large[g]:
                self._readers[v].discard(g)
            if g in self._source:
                self._of[self._source.pop(g)].discard(g)
        self._meet(trial)
        f = self.f
        nodes = (n for v in trial.values() for n in f.readers(v))
        for reader in dict.fromkeys(f.owner[n] for n in nodes if n in f.owner):
            rows = self.alike.get((reader.shape, reader.reduced)) if reader.kind == "reduction" else None
            if rows is not None and reader is not trial:
                rows._place(reader)
                rows._meet(reader)

    def _meet(self, g: Group) -> None:
        """Adds the pairs of ``g`` and a group that it shares something with, but those whose late one is waiting."""
        while self._waiting and self._waiting[0] not in self._rank:
            self._waiting.popleft()
        first = self._rank[self._waiting[0]] if self._waiting else math.inf
        pairs = (pair for x in self._near(g) for pair in ((g, x), (x, g)))
        self._push((late, early) for late, early in pairs if self._rank[late] < first)

    def _place(self, g: Group) -> None:
        """Notes which group wrote what ``g`` reduces, if one wrote all."""
        if g in self._source:
            self._of[self._source.pop(g)].discard(g)
        made = self._sources(g)
        if made is not None and len(made) < 2:
            self._source[g] = source = next(iter(made), None)
            self._of[source].add(g)

    def _near(self, late: Group) -> list[Group]:
        """The groups that share something with ``late``, in order."""
        near = {g for v in self._large[late] for g in self._readers[v]}
        near |= self._rank.keys() & {self.f.owner.get(v.node) for v in self._reads[late]}
        if late in self._source:
            source = self._source[late]
            near.update(*([self._of[source], self._of[None]] if source is not None else [v for k, v in self._of.items() if k]))
        return sorted(near - {late}, key=self._rank.__getitem__)

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

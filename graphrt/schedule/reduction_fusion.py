"""Fuses reductions over the same rows: one that reads another's result, those that read one tensor, so that it is read once,
and those that read what one kernel wrote for them, such as sums of segments: that saves a launch.

Networks have hundreds of such groups, so pairs are looked for among those that share something, and none is tried twice:
fusing others never makes a pair fit that did not.
"""

from __future__ import annotations

import bisect
import heapq
import itertools
import math
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping

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
    """The groups over one kind of rows, each at its place; what each reads, and the pairs (late, early) that may fit.

    A thousand groups may read one tensor, so pairs are not listed: the next one of a late group is looked for when that before
    it was tried. ``alike`` has the groups over all kinds of rows: what one reads is another's, when that is part of a third.
    """

    def __init__(self, f: FusionState, alike: Mapping[object, _SameRows]) -> None:
        self.f, self.alike = f, alike
        self._at: dict[int, Group] = {}
        self._rank: dict[Group, int] = {}  # the place of each group that is there
        self._reads: dict[Group, set[Value]] = {}
        self._large: dict[Group, set[Value]] = {}
        self._makers: dict[Group, set[Group | None]] = {}  # those that compute what each reads
        self._source: dict[Group, Group | None] = {}  # None: of groups that read nothing as large as their rows
        # Places, in order, of those that read a value as large as their rows, that have a source, and that have any.
        self._readers: dict[Value, list[int]] = defaultdict(list)
        self._of: dict[Group | None, list[int]] = defaultdict(list)
        self._made: list[int] = []
        self._waiting = deque[Group]()  # groups whose pairs, as the late one, were not looked for yet
        self._pairs: list[tuple[int, int, int, Group, Group, bool]] = []  # a heap, by places; whether the next is still to come
        self._count = itertools.count()
        self._tried: set[tuple[Group, Group]] = set()

    def add(self, g: Group) -> None:
        """Adds ``g`` behind all others."""
        self._waiting.append(g)
        self._put(g, len(self._at))

    def _put(self, g: Group, place: int) -> None:
        """Puts ``g`` in its place."""
        self._at[place], self._rank[g], self._reads[g] = g, place, self.f.inputs(g)
        self._large[g] = {v for v in self._reads[g] if v.type.size == math.prod(g.shape)}
        for v in self._large[g]:
            bisect.insort(self._readers[v], place)
        self._place(g)

    def _take(self, g: Group) -> None:
        """Takes ``g`` away, which is part of another group."""
        self._displace(g)
        place = self._rank.pop(g)
        for v in self._large[g]:
            self._readers[v].remove(place)

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
                _, place, _, late, early, more = heapq.heappop(self._pairs)
                if late not in self._rank:
                    continue
                if more:
                    self._follow(late, place)
                if early in self._rank and (late, early) not in self._tried:
                    self._tried.add((late, early))
                    return late, early
            if not self._waiting:
                return None
            late = self._waiting.popleft()
            if late in self._rank:
                self._follow(late)

    def _follow(self, late: Group, behind: int = -1) -> None:
        """Adds the first pair of ``late`` and a group at a place after ``behind``; when it is taken, the next is added."""
        if (place := next(self._near(late, behind), None)) is not None:
            self._push(late, self._at[place], more=True)

    def _push(self, late: Group, early: Group, more: bool = False) -> None:
        """Adds a pair, behind which there may be ``more`` of the same late group."""
        heapq.heappush(self._pairs, (self._rank[late], self._rank[early], next(self._count), late, early, more))

    def _replace(self, early: Group, late: Group, trial: Group) -> None:
        """Puts ``trial`` in the place of the two groups that are part of it, and finds who shares something with it now."""
        place = self._rank[early]
        if early in self._waiting:
            self._waiting[self._waiting.index(early)] = trial
        self._take(early)
        self._take(late)
        self._put(trial, place)
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
        first = self._rank[self._waiting[0]] if self._waiting else len(self._at)
        if self._rank[g] < first:
            self._follow(g)
        for place in itertools.takewhile(lambda place: place < first, self._near(g)):
            if (self._at[place], g) not in self._tried:
                self._push(self._at[place], g)

    def _place(self, g: Group) -> None:
        """Notes who computes what ``g`` reads, and which group wrote what it reduces, if one wrote all."""
        self._displace(g)
        self._makers[g] = {self.f.owner.get(v.node) for v in self._reads[g]}
        made = self._sources(g)
        if made is not None and len(made) < 2:
            self._source[g] = source = next(iter(made), None)
            bisect.insort(self._of[source], self._rank[g])
            if source is not None:
                bisect.insort(self._made, self._rank[g])

    def _displace(self, g: Group) -> None:
        """Forgets which group wrote what ``g`` reduces."""
        if g in self._source:
            source, place = self._source.pop(g), self._rank[g]
            self._of[source].remove(place)
            if source is not None:
                self._made.remove(place)

    def _near(self, g: Group, behind: int = -1) -> Iterator[int]:
        """The places after ``behind``, in order, of groups that share something with ``g`` and fit into one kernel with it."""
        places = [self._readers[v] for v in self._large[g]]
        places.append(sorted(self._rank[maker] for maker in self._makers[g] if maker in self._rank))
        if g in self._source:
            source = self._source[g]
            places += [self._of[source], self._of[None]] if source is not None else [self._made]
        while found := [p[i] for p in places if (i := bisect.bisect_right(p, behind)) < len(p)]:
            behind = min(found)
            if behind != self._rank[g] and self._fit(g, self._at[behind]):
                yield behind

    def _fit(self, a: Group, b: Group) -> bool:
        """Whether both together read no more buffers than a kernel may."""
        reads = self._reads[a] | self._reads[b]
        meet = b in self._makers[a] or a in self._makers[b]
        return len(reads) <= MAX_INPUTS or (meet and self.f.has_room(reads, (a, b)))

    def _sources(self, g: Group) -> set[Group] | None:
        """The groups that wrote what ``g`` reduces, if it reduces nothing but what others have reduced in part."""
        if any(v.node.op.kind is not Kind.REDUCTION for v in self._large[g]):
            return None
        return {self.f.owner[v.node] for v in self._large[g]}

    def _fused(self, late: Group, early: Group) -> tuple[Group | None, int]:
        """Both as one group, and the bytes that saves; None where that is no good."""
        f = self.f
        if f.work(late).operations + f.work(early).operations > MOST:
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

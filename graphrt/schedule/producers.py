"""Elementwise kernels that a reduction reads at its own elements become part of it: it stores for others what it computes.

    exp --> stored --> sum of rows              sum of rows, which computes exp and stores it
               \\-----> others         becomes         \\-----> others

What is dear, or read by others too, is not computed on load but stored by a kernel of its own, as long as not all who read it
have theirs. When all groups stand, that kernel's loop may be the first pass of a reduction: what it stores is not read again.
So may the loop of a kernel that reads what the reduction does, such as the gradient of a loss beside the loss.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from graphrt.index import Expr, linearize, row_major
from graphrt.ir import Node, Value
from graphrt.schedule.fusion_state import FusionState, Verdict, aligned
from graphrt.schedule.group import Group, Guard, Index, Read, read_index, reads
from graphrt.schedule.policy import ROW_LIMIT
from graphrt.schedule.row_passes import dear
from graphrt.schedule.work import MOST

MANY = 64  # rows that may be long: there are tasks enough without kernels of other shapes


def take_producers(f: FusionState) -> None:
    """Merges elementwise groups into reductions that read what they store, last first."""
    reductions = _Reductions(f)
    for group in sorted(f.groups, key=lambda g: -max(map(f.position.__getitem__, g.nodes), default=0)):
        if group.kind != "pointwise" or not group.nodes:
            continue
        size = math.prod(group.shape)
        inputs = f.inputs(group)
        readers = dict.fromkeys(g for v in group.values() for g in reductions.reading(v))
        shared = {v for v in inputs if v.type.size == size}
        beside = dict.fromkeys(g for v in shared for g in reductions.reading(v) if g not in readers)
        for reader in [*_ordered(f, readers), *_ordered(f, beside)]:
            if not f.has_room(inputs | reductions.inputs(reader), (group, reader)):
                continue
            if reader in beside and f.depends(f.after(reader), {*group.nodes}):
                continue
            index = _index(f, group, reader, shared if reader in beside else {*group.values()})
            if index is not None and _fits(f, group, reader, index):
                _take(f, group, reader, index)
                reductions.took(group, reader)
                break


class _Reductions:
    """The reductions that read each value, also to compute something on load, and what each reads, as they stand."""

    def __init__(self, f: FusionState) -> None:
        self.f = f
        self._reading: dict[Value, dict[Group, None]] = {}
        self._inputs: dict[Group, set[Value]] = {}

    def reading(self, v: Value) -> dict[Group, None]:
        """The reductions that read ``v``."""
        if v not in self._reading:
            self._reading[v] = dict.fromkeys(g for g in self.f.reading(None, v) if g.kind == "reduction")
        return self._reading[v]

    def inputs(self, reduction: Group) -> set[Value]:
        """The buffers that ``reduction`` reads."""
        if reduction not in self._inputs:
            self._inputs[reduction] = self.f.inputs(reduction)
        return self._inputs[reduction]

    def took(self, group: Group, reduction: Group) -> None:
        """Takes note that ``group`` is part of ``reduction`` now."""
        self._inputs.pop(reduction, None)
        for v in {v for n in (*group.nodes, *group.inlined) for v in self.f.bases(n)}:
            self.reading(v)[reduction] = None


def _ordered(f: FusionState, groups: Iterable[Group]) -> list[Group]:
    return sorted(groups, key=lambda g: f.position[g.nodes[0]])


def _take(f: FusionState, group: Group, reader: Group, index: dict[Value, Index]) -> None:
    """Makes what ``group`` computes part of ``reader``."""
    shared = sum(v.type.nbytes for v in f.inputs(group) & f.inputs(reader))
    for node in group.nodes:
        saved = sum(v.type.nbytes for v in node.outputs if reader in f.reading(group, v)) + shared
        f.decide(node, reader, Verdict(True, "same element, stored for others along the way"), saved, "inline")
        shared = 0
    f.absorb(reader, group, index)


def _index(f: FusionState, group: Group, reader: Group, values: set[Value]) -> dict[Value, Index] | None:
    """The index of each value of ``group`` in the domain of ``reader``; None if that has not each element once.

    ``values``, which the reader reads, are computed by the group or read by it too.
    """
    if math.prod(group.shape) != math.prod(reader.shape) or not (reader.reduced_size <= ROW_LIMIT or _reads_once(reader)):
        return None
    found = dict.fromkeys((r.value, r.index) for r in reached(f, reader, values) if not r.guards)
    here = {r.value: r.index for r in reached(f, group, values) if not r.guards} | group.index
    for value, at in ((value, at) for value, at in found if value in here):
        to = {_axis(e): to for e, to, n in zip(here[value], at, value.shape, strict=True) if n > 1}
        whole = "" not in to and math.prod(group.shape) == value.type.size and len(to) == sum(n > 1 for n in value.shape)
        if whole and _each_once(reader, value, at):
            return {v: tuple(e.substitute(to) for e in index) for v, index in group.index.items()}
    return None


def _reads_once(reader: Group) -> bool:
    """Whether ``reader`` has many rows, and passes over each of them once."""
    level, full = reader.levels(), reader.full(reader.values())
    inside = [n for n in reader.nodes if n in reader.folded() or not full.isdisjoint(n.outputs)]
    return math.prod(reader.shape) >= MANY * reader.reduced_size and not any(level[n] for n in inside)


def _each_once(reader: Group, value: Value, at: Index) -> bool:
    """Whether ``at`` is a different element of ``value`` for each of the domain of ``reader``, which has as many.

    It is so where dimensions are permuted, and where the elements are counted alike.
    """
    alike = linearize(at, row_major(value.shape)) == linearize(reader.domain, row_major(reader.shape))
    return alike or sorted(map(_axis, at)) == sorted(map(_axis, reader.domain))


def _axis(e: Expr) -> str:
    """The axis that ``e`` is, empty where it is anything else."""
    name = next(iter(e.axes()), "")
    return name if len(e.terms) == 1 and e.stride(name) == 1 and e.const == 0 else ""


def _fits(f: FusionState, group: Group, reader: Group, index: dict[Value, Index]) -> bool:
    """Whether ``reader`` can compute what ``group`` does at ``index`` of its domain, and store it."""
    trial = Group(reader.name, reader.anchor, reader.shape, reader.domain, index={**reader.index, **index})
    trial.nodes = sorted((*reader.nodes, *group.nodes), key=f.position.__getitem__)
    trial.inlined = sorted({*reader.inlined, *group.inlined}, key=f.position.__getitem__)
    made, values = {*group.values()}, trial.index
    buffered = {v for n in trial.inlined for v in f.buffered(n)}
    others = {n for v in made for g in f.reading(group, v) if g is not reader for n in g.nodes}
    return (
        f.forbidden([reader], [*group.nodes, *group.inlined]) is None
        and made.isdisjoint(f.updated)  # a later pass may read the parameter again
        and made.isdisjoint(buffered)
        and all(aligned(f, trial, n, read_index(trial, n)) for n in trial.nodes)
        and not any(r.guards or r.index != values[r.value] for r in reached(f, trial, made))
        and f.work(reader).operations + f.work(group).operations <= MOST
        and not f.depends(others, {*reader.nodes})
        and not any(dear(f, [reader], n, [*group.nodes, *group.inlined]) for n in group.nodes)
    )


def reached(f: FusionState, group: Group, values: set[Value]) -> Iterator[Read]:
    """The reads of ``values`` by ``group``, by way of what it computes on load too."""
    inlined, seen = {*group.inlined}, set[object]()
    pending: list[tuple[Node, Index, tuple[Guard, ...]]] = [(n, read_index(group, n), ()) for n in group.nodes]
    while pending:
        node, index, guards = pending.pop()
        for read in reads(node, index, guards):
            key = (read.value, read.index, read.guards)
            if key in seen:
                continue
            seen.add(key)
            if read.value in values:
                yield read
            if read.value.node in inlined:
                pending.append((read.value.node, read.index, read.guards))

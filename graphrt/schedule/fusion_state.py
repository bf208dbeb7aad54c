"""The state of fusion: which group owns which node, who waits for whom, and every decision so far."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from graphrt.ir import Graph, Node, Value
from graphrt.op import Kind
from graphrt.passes.decision import Decision
from graphrt.schedule.concat_buffers import NO_BUFFERS, ConcatBuffers
from graphrt.schedule.group import FUSABLE, Group, Index, chain, make_group, reads, through
from graphrt.schedule.policy import SchedulePolicy
from graphrt.schedule.reachability import Reachability
from graphrt.schedule.work import MOST, Work

MAX_INPUTS = 24  # buffers of one kernel; more only spills registers


@dataclass(frozen=True)
class Verdict:
    """Whether something may be done, and why (not); ``change`` is what would have to be otherwise, behind "if"."""

    ok: bool
    reason: str
    change: str = ""


class FusionState:
    """The state of one run of ``fuse``: who reads whom, which group owns which node, and the decisions so far."""

    def __init__(self, graph: Graph, policy: SchedulePolicy, buffers: ConcatBuffers = NO_BUFFERS) -> None:
        self.graph, self.policy, self.placed = graph, policy, buffers.place
        self.buffers = buffers.read
        self.position = {n: i for i, n in enumerate(graph.nodes)}
        self.users = graph.users()
        self._views: dict[Value, list[Node]] = {}  # of each value that has some
        for node in (n for n in graph.nodes if n.op.kind is Kind.VIEW):
            for v in node.inputs:
                self._views.setdefault(v, []).append(node)
        self.owner: dict[Node, Group] = {}
        self.inlined: dict[Node, list[Group]] = {}
        self.groups: list[Group] = []
        self.decisions: dict[tuple[str, str], Decision] = {}  # by edge; the last word counts
        self.results, self.updated = set(graph.results()), set(graph.updates.values())
        self._near: set[int] = set()  # positions of all that a node with a group reads, or that was taken out of one
        self._pending: list[int] = []  # those that ``homeless`` has still to look at, as a heap of their negatives
        self._bases: dict[Node, tuple[Value, ...]] = {}
        self._seen: dict[Node, dict[Value, int]] = {}
        self._buffered: dict[Node, frozenset[Value]] = {}
        self._weights: dict[Value, int] = {}
        self._readers: dict[Value, tuple[Node, ...]] = {}
        self.refused: dict[Node, object] = {}  # the situation in which a node could not be computed on load
        self._changes: Counter[Group | None] = Counter()  # of each group; None: what was taken out of any
        self._work: dict[Group, Work] = {}  # of groups that are asked for, until something is taken out of them
        self._reach: Reachability | None = None  # made when first asked, and after something was taken out of a group

    def readers(self, value: Value) -> tuple[Node, ...]:
        """Nodes that read ``value``, seen through views."""
        if value not in self._readers:
            found: list[Node] = []
            for node in self.users[value]:
                found += self.readers(node.outputs[0]) if node.op.kind is Kind.VIEW else (node,)
            self._readers[value] = tuple(found)
        return self._readers[value]

    def bases(self, node: Node) -> tuple[Value, ...]:
        """The values that ``node`` reads, seen through views, each once."""
        if node not in self._bases:
            self._bases[node] = tuple(dict.fromkeys(v for x in node.inputs for v in through(x)))
        return self._bases[node]

    def seen(self, node: Node) -> dict[Value, int]:
        """The bytes that ``node`` reads of each of its bases: of a slice, not those of the whole."""
        if node not in self._seen:
            found: dict[Value, int] = {}
            for x in node.inputs:
                for v, size in _elements(x).items():
                    found[v] = min(found.get(v, 0) + size, v.type.size)
            self._seen[node] = {v: size * v.dtype.itemsize for v, size in found.items()}
        return self._seen[node]

    def buffered(self, node: Node) -> frozenset[Value]:
        """The bases that ``node`` reads from a buffer in which they lie with others, wherever they are computed."""
        if node not in self._buffered:
            found, pending = set[Value](), list(node.inputs)
            while pending:
                v = pending.pop()
                if v in self.buffers:
                    found.update(through(v))
                elif v.node.op.kind is Kind.VIEW:
                    pending += v.node.inputs
            self._buffered[node] = frozenset(found)
        return self._buffered[node]

    def weight(self, value: Value) -> int:
        """Bytes to read for ``value``: its own, or those of what it may be computed from on load, if they are fewer."""
        pending, found = [value], self._weights
        while value not in found:
            v = pending[-1]
            free = v.node.op.kind is Kind.ELEMENTWISE and v.node.op.cheap and v.node not in self.owner and v not in self.results
            missing = [x for x in self.bases(v.node) if x not in found] if free else []
            if missing:
                pending += missing
                continue
            pending.pop()
            read = (min(found[x], size) for x, size in self.seen(v.node).items()) if free else ()
            found[v] = min(v.type.nbytes, sum(read)) if free else v.type.nbytes
        return found[value]

    def _moved(self, node: Node) -> None:
        """Notes that ``node`` has a group now, or none again, and forgets the weights that follow from that."""
        self._approach(node)
        pending = list(node.outputs)
        while pending:
            v = pending.pop()
            if self._weights.pop(v, None) is not None:  # else nothing that is known follows from it
                pending += [y for reader in self.readers(v) for y in reader.outputs]

    def inputs(self, group: Group) -> set[Value]:
        """The buffers ``group`` would read as it stands."""
        members = set(group.nodes)
        reads = (v for n in group.nodes for v in self.bases(n))
        return {v for v in reads if v.node not in members and v.node.op.kind is not Kind.GENERATED}

    def has_room(self, reads: Collection[Value], groups: Collection[Group]) -> bool:
        """Whether ``groups``, which have the ``inputs`` ``reads``, would as one read no more buffers than a kernel may."""
        return len(reads) <= MAX_INPUTS or sum(self.owner.get(v.node) not in groups for v in reads) <= MAX_INPUTS

    def is_stored(self, value: Value) -> bool:
        """Whether ``value`` must be stored: a run returns it, or a view of it, or it lies in a buffer with others."""
        if value in self.results or value in self.placed:
            return True
        views = self._views.get(value)
        return views is not None and any(n not in self.owner and self.is_stored(n.outputs[0]) for n in views)

    def reading(self, group: Group | None, value: Value) -> list[Group]:
        """The groups other than ``group`` that read ``value``, also to compute something on load."""
        found: dict[Group, None] = {}
        for reader in self.readers(value):
            if reader in self.owner:
                found[self.owner[reader]] = None
            found.update(dict.fromkeys(self.inlined.get(reader, ())))
        return [g for g in found if g is not group]

    def is_loaded(self, value: Value, group: Group) -> bool:
        """Whether a group other than ``group``, whose member ``value`` is, reads it and does not compute it again."""
        for reader in self.readers(value):
            owner = self.owner.get(reader)
            if owner is not None and owner is not group and value.node not in owner.inlined:
                return True
            if any(g is not group and value.node not in g.inlined for g in self.inlined.get(reader, ())):
                return True
        return False

    def closed(self, group: Group) -> bool:
        """Whether ``group`` takes nothing in: a library computes it, or it is a loop or a collective."""
        alone = self.policy.alone and group.anchor is not None and group.anchor.op.kind is Kind.CONTRACTION
        return alone or group.kind in ("loop", "collective")

    def ends(self, group: Group) -> bool:
        """Whether ``group`` takes nothing behind its anchor: a library computes it, or its template reads what it stored."""
        return self.closed(group) or (group.anchor is not None and group.anchor.op.kind is Kind.DECOMPOSITION)

    def parted(self, group: Group, node: Node) -> Verdict | None:
        """Why ``group`` may not compute ``node`` behind what it has, whatever it needs; None if nothing forbids it."""
        stage = stage_of(group, node)
        if stage not in self.policy.fusion:
            return Verdict(False, f"the stage {stage} is off", "it were on (fusion)")
        return self.forbidden([group], [node])

    def forbidden(self, groups: Iterable[Group], nodes: Iterable[Node]) -> Verdict | None:
        """Why one of ``groups`` may not compute one of ``nodes``; None if it may.

        The user keeps them apart, what is computed again to save memory would be computed with the forward pass, and stored, or
        they are of two parts.
        """
        if any(n.origin.phase == "again" for n in nodes) and any(g.phase == "fwd" for g in groups):
            return Verdict(False, "is computed again in the backward pass, to save memory", "memory_limit were higher")
        if parts := {n.origin.part for n in nodes} - {0}:
            parts |= {n.origin.part for g in groups for n in (*g.nodes, *g.inlined)} - {0}
        if len(parts) > 1:
            return Verdict(False, "is of another chunk of rows, of which one is over before the next begins", "it were of one")
        members, names = [n.name for g in groups for n in (*g.nodes, *g.inlined)], [n.name for n in nodes]
        if not self.policy.fusion.parted(members, names):
            return None
        a, b = next((a, b) for a in names for b in members if self.policy.fusion.parted([a], [b]))
        return Verdict(False, "is kept apart (forbid)", f"forbid had not {a} and {b}")

    def is_homeless(self, node: Node) -> bool:
        """Whether ``node`` could be in any group and is in none."""
        return node.op.kind in FUSABLE and node not in self.owner and node not in self.inlined

    def homeless(self) -> Iterator[Node]:
        """Fusible nodes not yet in a group that a node with one reads, last first, and those that become such meanwhile."""
        self._near = {p for p in self._near if self.is_homeless(self.graph.nodes[p])}
        self._pending = [-p for p in self._near]
        heapq.heapify(self._pending)
        while self._pending:
            node = self.graph.nodes[-heapq.heappop(self._pending)]
            if self.is_homeless(node):
                yield node

    def _approach(self, node: Node) -> None:
        """Notes that what ``node`` reads may be computed where it is, and ``node`` itself too if it has no group again."""
        for n in (node, *(v.node for v in self.bases(node))):
            if self.is_homeless(n) and (p := self.position[n]) not in self._near:
                self._near.add(p)
                heapq.heappush(self._pending, -p)

    def start(self, node: Node) -> Group:
        """Makes a group of ``node`` alone, which owns it."""
        group = make_group(f"g{len(self.groups)}", node)
        self.groups.append(group)
        self.owner[node] = group
        self._moved(node)
        return group

    def dissolve(self, group: Group) -> Node:
        """Takes back a group of one node, and returns that."""
        (node,) = group.nodes
        self.groups.remove(group)
        del self.owner[node]
        self._leave(node)
        return node

    def _leave(self, node: Node) -> None:
        """Notes that ``node`` is in no group again."""
        self._changes[None] += 1
        self._moved(node)

    def add(self, group: Group, node: Node, index: Index) -> None:
        """Makes ``node``, which lies at ``index`` of the domain, a member of ``group``."""
        self.merge(group.nodes[0], node)
        group.nodes.append(node)
        group.nodes.sort(key=self.position.__getitem__)
        group.index.update(dict.fromkeys(node.outputs, index))
        self.owner[node] = group
        self._moved(node)
        self._changes[group] += 1
        if group in self._work:
            self._work[group].take(node)

    def inline(self, group: Group, node: Node) -> None:
        """Notes that ``group`` computes ``node``, whose readers it has, on load."""
        group.inlined.insert(0, node)
        self._approach(node)
        self._changes[group] += 1
        if group in self._work:
            self._work[group].take(node)

    def situation(self, groups: list[Group], node: Node) -> object:
        """All that decides whether ``groups``, who read ``node``, can compute it on load."""
        seen = [*groups, None]
        return seen, [self._changes[g] for g in seen], [self.weight(v) for v in self.bases(node)]

    def work(self, group: Group) -> Work:
        """The work of ``group`` as it stands."""
        if group not in self._work:
            self._work[group] = Work(group, self.position.__getitem__, self.buffers)
        return self._work[group]

    def crowded(self, group: Group, node: Node) -> bool:
        """Whether ``node``, as a member of ``group`` or computed on load, would make too large a kernel of it."""
        work = self.work(group)
        return work.operations + work.more(node) > MOST

    def too_large(self, group: Group) -> Verdict:
        """The refusal of a node that makes ``group`` crowded."""
        reason = f"would make a kernel of more than {MOST} operations"
        return Verdict(False, reason, f"{group.label} computed less than {self.work(group).operations} operations")

    @staticmethod
    def too_many(group: Group, buffers: int) -> Verdict:
        """The refusal of a node with which ``group`` would read so many ``buffers``."""
        reason = f"would need more than {MAX_INPUTS} buffers"
        return Verdict(False, reason, f"it and {group.label} read {buffers - MAX_INPUTS} tensors fewer")

    def decide(self, node: Node, group: Group, verdict: Verdict, saved: int, stage: str) -> bool:
        """Keeps the verdict of ``stage`` on computing ``node`` in ``group``; returns whether it may be."""
        edge = (node.name, group.label)
        self.decisions[edge] = Decision(stage, *edge, verdict.ok, verdict.reason, saved, verdict.change)
        if not verdict.ok:
            group.stopped.append(f"{node.name} {verdict.reason}")
        return verdict.ok

    def successors(self, node: Node) -> Iterator[Node]:
        """Everything that waits for ``node``: its readers and, if it is in a group, the readers of the whole group."""
        group = self.owner.get(node)
        for member in group.nodes if group else [node]:
            for v in member.outputs:
                for reader in self.readers(v):
                    yield reader
                    for other in self.inlined.get(reader, ()):
                        yield from other.nodes

    def after(self, group: Group) -> set[Node]:
        """The nodes outside that wait for ``group``; any member's successors are those of all."""
        return set(self.successors(group.nodes[0])) - set(group.nodes)

    def depends(self, start: set[Node], goals: set[Node]) -> bool:
        """Whether a path leads from ``start`` to a node of ``goals`` in the graph with groups contracted."""
        if self._reach is None:
            self._reach = Reachability(self.graph)
            for node, group in self.owner.items():
                self._reach.merge(group.nodes[0], node)
        return self._reach.reaches(start, goals)

    def blocker(self, group: Group, start: set[Node], goals: set[Node]) -> Verdict | None:
        """Why ``group``, for which ``start`` waits, cannot compute what is made of ``goals``; None if it can."""
        if not self.depends(start, goals):
            return None
        needed = min((n for n in goals if self.depends(start, {n})), key=self.position.__getitem__)
        between = self._between(start, needed)
        change = f"{between} did not wait for this kernel: computed here it would wait for {between}"
        return Verdict(False, f"needs {needed.name}, which waits for {group.label}", change)

    def _between(self, start: set[Node], needed: Node) -> str:
        """The last kernel, on the way from ``start`` to ``needed``, of a contraction, reduction or the like: the blocker."""
        node = needed
        while node not in self.owner and node.op.kind in FUSABLE:
            before = [v.node for v in self.bases(node) if self.depends(start, {v.node})]
            if not before:
                break
            node = max(before, key=self.position.__getitem__)
        return self.owner[node].label if node in self.owner else node.name

    def merge(self, a: Node, b: Node) -> None:
        """Notes that ``a`` and ``b`` are in one group from now on."""
        if self._reach is not None:
            self._reach.merge(a, b)

    def absorb(self, group: Group, other: Group, index: Mapping[Value, Index]) -> None:
        """Makes the members of ``other``, whose values lie at ``index``, and what it computes on load, those of ``group``."""
        self.merge(group.nodes[0], other.nodes[0])
        group.nodes = sorted((*group.nodes, *other.nodes), key=self.position.__getitem__)
        group.index.update(index)
        inside = {n.name for n in (*group.nodes, *other.inlined)}
        group.stopped = [why for why in (*group.stopped, *other.stopped) if why.partition(" ")[0] not in inside]
        group.inlined = sorted({*group.inlined, *other.inlined}, key=self.position.__getitem__)
        for node in other.inlined:
            self.inlined[node] = [*(g for g in self.inlined[node] if g not in (group, other)), group]
        self.groups.remove(other)
        self.owner.update(dict.fromkeys(other.nodes, group))
        self._work.pop(group, None)
        self._changes[group] += 1

    def remove(self, group: Group, node: Node) -> None:
        """Takes ``node`` out of ``group`` again."""
        group.nodes.remove(node)
        for v in node.outputs:
            del group.index[v]
        del self.owner[node]
        self._work.pop(group, None)
        self._leave(node)
        self._reach = None  # what is merged is not parted


def stage_of(group: Group, node: Node) -> str:
    """The stage by which ``node`` would be computed by ``group`` behind what it has."""
    if node.op.kind is Kind.REDUCTION:
        return "rows"
    return {"template": "epilogue", "reduction": "rowops", "pointwise": "chain"}[group.kind]


def candidates(group: Group, node: Node) -> Iterator[Index]:
    """Guesses for the index of ``node`` in the domain: pushed along the views from a member, or the domain itself."""
    for operand in node.inputs:
        views = chain(operand)
        base = views[-1].inputs[0] if views else operand
        index: Index | None = group.index.get(base)
        for view in reversed(views):
            if index is not None:
                index = view.op.push(view, index) if view.op.push is not None else None
        drawn = node.op.kind is Kind.RANDOM and len(index or ()) != node.types[0].ndim  # of a seed, which all elements share
        if index is not None and not drawn:
            yield index
    if node.types[0].shape == group.shape:
        yield group.domain


def aligned(f: FusionState, group: Group, node: Node, index: Index) -> bool:
    """Whether every member that ``node`` reads is read at the element where the group has it, and not from a buffer."""
    return group.index.keys().isdisjoint(f.buffered(node)) and not any(
        read.value in group.index and (read.guards or read.index != group.index[read.value]) for read in reads(node, index)
    )


def _elements(value: Value) -> dict[Value, int]:
    """The number of elements that ``value`` shows of each value behind its views, at most."""
    if value.node.op.kind is not Kind.VIEW:
        return {value: value.type.size}
    found: dict[Value, int] = {}
    for x in value.node.inputs:
        for v, size in _elements(x).items():
            found[v] = min(found.get(v, 0) + size, value.type.size)
    return found

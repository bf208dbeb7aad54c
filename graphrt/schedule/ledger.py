"""The ledger of fusion: what each decision saves, in bytes that add up.

The plan without fusion has a kernel for each node. From there every decision is taken again, one after the other, and the
kernels that it changes are lowered and counted anew; what a decision saves is what the count falls by. So the entries add up
to the bytes of the plan without fusion less those of the plan itself, exactly; where a decision costs traffic, because what
is computed again is made of more, its entry is negative.

    conv_0 | add_0 | relu_0   -- add_0 into conv_0 -->   conv_0 add_0 | relu_0   -- relu_0 into conv_0 -->   conv_0 add_0 relu_0
"""

from __future__ import annotations

from bisect import insort
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from graphrt.index import axes
from graphrt.ir import Graph, Node, Value
from graphrt.op import Kind
from graphrt.passes.decision import Decision
from graphrt.schedule.concat_buffers import NO_BUFFERS, ConcatBuffers
from graphrt.schedule.fusion import loaded, stored
from graphrt.schedule.fusion_state import FusionState
from graphrt.schedule.group import FREE, Group, make_group, through
from graphrt.schedule.policy import SchedulePolicy
from graphrt.schedule.schedule import Place, Schedule, Slot
from graphrt.schedule.traffic import Traffic


def settle(
    graph: Graph,
    groups: Sequence[Group],
    buffers: ConcatBuffers,
    decisions: Iterable[Decision],
    policy: SchedulePolicy,
    traffic: Traffic,
) -> tuple[int, list[Decision]]:
    """The bytes of the plan with a kernel for each node, and ``decisions`` with what each saves on the way to ``groups``."""
    found, plan = list(decisions), _Plan(graph, groups, policy, traffic)
    start = plan.total
    plan.begin()
    taken = [(i, d) for i, d in enumerate(found) if d.taken]
    for i, d in taken:
        if d.stage == "concat":
            found[i] = replace(d, saved=plan.lay(buffers, d.node))
    edges = plan.edges([d for _, d in taken])
    for i, d in taken:
        if d.fuses:
            found[i] = replace(d, saved=sum(plan.join(node, group) for node, group in edges.get((d.node, d.other), ())))
    for i, d in taken:
        if d.stage == "in_place":
            found[i] = replace(d, saved=plan.update(d.node))
    return start, found


def unfused_bytes(graph: Graph, policy: SchedulePolicy, traffic: Traffic) -> int:
    """The bytes of the plan that has a kernel for each node of ``graph``."""
    return _Plan(graph, [], policy, traffic).total


class _Homes(dict[Value, Place]):
    """The places that values are read from: a buffer of its own for each that was given no other."""

    def __missing__(self, v: Value) -> Place:
        return self.setdefault(v, Place(Slot("arena", v.name, v.type)))

    def make(self, values: Iterable[Value]) -> None:
        """Gives each of ``values`` a place, so that ``get`` finds it."""
        for v in values:
            self[v]


class _Plan:
    """A plan on its way from one kernel a node to the ``final`` groups, with the bytes that each of its kernels moves."""

    def __init__(self, graph: Graph, final: Iterable[Group], policy: SchedulePolicy, traffic: Traffic) -> None:
        self.graph, self.traffic, self.final = graph, traffic, [g for g in final if g.nodes]
        self.members = {n: i for g in self.final for i, n in enumerate(g.nodes)}  # and where each stands in its group
        self.names = {g: {n.name for n in (*g.nodes, *g.inlined)} for g in self.final}
        self.buffers, self.f = NO_BUFFERS, FusionState(graph, policy)
        self.total, self.bytes = 0, dict[Group, int]()  # that all kernels move, and each
        self.grown: dict[Group, Group] = {}  # what there is so far of each final group
        self.counted: dict[Group, object] = {}  # what that followed from
        self.copies = {  # of results that no kernel computes
            v: Group(v.name, None, v.shape, axes("i", v.shape), copies=[v])
            for v in dict.fromkeys(graph.results())
            if v.node.op.kind in FREE
        }
        self.copied = {base for v in self.copies for base in through(v)}
        self.updates = {  # the bytes of copies of new values that are not stored in place
            name: graph.sources[name].types[0].nbytes + (0 if v.node.op.kind is Kind.GENERATED else v.type.nbytes)
            for name, v in graph.updates.items()
        }
        self.home = _Homes()
        self.returned: dict[Value, list[Place]] = defaultdict(list)  # where results are stored
        for name, v in graph.outputs.items():
            self.returned[v].append(Place(Slot("output", name, v.type)))
        self.home |= {v: places[0] for v, places in self.returned.items()}
        self.alone = {n: self._alone(n) for n in graph.nodes if n.op.kind not in FREE}  # the bytes of a kernel of each node
        self.total = sum(self.alone.values()) + sum(self.updates.values())
        self._count(self.copies.values())

    def _alone(self, node: Node) -> int:
        """The bytes that a kernel of ``node`` alone moves; those that are alike are counted once."""
        f, known = self.f, self.traffic.alone
        kept = [v in self.copied or f.is_stored(v) or bool(f.readers(v)) for v in node.outputs]
        stores = [max(len(self.returned.get(v, ())), stored) for v, stored in zip(node.outputs, kept, strict=True)]
        if (read := self.traffic.whole.node(node)) is not None:
            return read + sum([v.type.nbytes * n for v, n in zip(node.outputs, stores, strict=True)])
        key = self.traffic.kernel(node, tuple(stores))
        if key not in known:
            group = make_group(node.name, node)
            group.outputs = [v for v, stored in zip(node.outputs, kept, strict=True) if stored]
            known[key] = self._moved(group)
        return known[key]

    def begin(self) -> None:
        """Gives each node a kernel of its own."""
        for node, moved in self.alone.items():
            group = self.f.owner[node] = make_group(node.name, node)
            self.bytes[group] = moved

    # --- decisions ------------------------------------------------------------------------------------------------

    def lay(self, buffers: ConcatBuffers, name: str) -> int:
        """The bytes it saves that the concatenation ``name`` has a buffer, or lies in that of another."""
        before, f = self.total, self.f
        wholes = [v for v in buffers.wholes if v in self.buffers.wholes or v.node.name == name]
        place = {v: at for v, at in buffers.place.items() if at[0] in wholes}
        changed = [v for v in (*wholes, *place) if v not in self.buffers.place and v not in self.buffers.wholes]
        self.buffers = ConcatBuffers(place, tuple(wholes))
        f.placed, f.buffers = self.buffers.place, self.buffers.read
        for v in changed:
            self._leave(v)
            if v in place:
                self.home[v] = Place(self.home[place[v][0]].slot, place[v][1])
        bases = {base for v in changed for base in through(v)}
        groups = {g for base in bases for g in (*self._makers([base]), *f.reading(None, base))}
        self._count(groups, anew=True)
        return before - self.total

    def edges(self, taken: Iterable[Decision]) -> dict[tuple[str, str], list[tuple[Node, Group]]]:
        """The nodes and groups for which each of the decisions ``taken`` is the last word, by its two names.

        What no decision put into its group is where that began.
        """
        found: dict[tuple[Node, Group], tuple[str, str]] = {}
        into: dict[str, list[tuple[Node, Group]]] = defaultdict(list)
        for group in self.final:
            for node in (*group.nodes, *group.inlined):
                into[node.name].append((node, group))
        for d in taken:
            if d.fuses:
                found |= {(n, g): (d.node, d.other) for n, g in into[d.node] if d.other in self.names[g]}
        edges: dict[tuple[str, str], list[tuple[Node, Group]]] = defaultdict(list)
        for edge, names in found.items():
            edges[names].append(edge)
        for group in self.final:
            first = [n for n in group.nodes if (n, group) not in found]
            assert len(first) == 1, f"{group}: no decision has {', '.join(n.name for n in first) or 'a beginning'}"
            assert all((n, group) in found for n in group.inlined), f"{group}: not every prologue was decided"
            self._grow(group, first[0])
        self._count(self.grown.values())
        return edges

    def join(self, node: Node, group: Group) -> int:
        """The bytes it saves that ``group``, one of the final ones, computes ``node``."""
        f, before, into = self.f, self.total, self.grown[group]
        changed = {into, *self._makers(f.bases(node))}
        if node in group.inlined:
            into.inlined = [n for n in group.inlined if n in into.inlined or n is node]
            f.inlined.setdefault(node, []).append(into)
            changed |= {f.owner[node]} if node in f.owner else set()
        else:
            if (alone := f.owner.pop(node, None)) is not None:
                self._drop(alone)
            self._grow(group, node)
            for v in node.outputs:  # a view, if it is copied
                self._leave(v)
        self._count(changed)
        return before - self.total

    def update(self, name: str) -> int:
        """The bytes it saves that parameter ``name`` is updated in place."""
        f, before, v = self.f, self.total, self.graph.updates[name]
        self.total -= self.updates.pop(name)
        self.returned[v].append(Place(Slot("state", name, self.graph.sources[name].types[0])))
        if v not in self.buffers.place:
            self.home[v] = self.returned[v][0]
        owner = self.copies.get(v) or f.owner[v.node]
        self._count([owner, *f.reading(owner, v)], anew=True)
        return before - self.total

    # --- kernels --------------------------------------------------------------------------------------------------

    def _grow(self, group: Group, node: Node) -> None:
        """Makes ``node`` a member of what there is of ``group``."""
        into = self.grown.get(group)
        if into is None:
            self._drop(self.f.owner.pop(node))
            into = self.grown[group] = Group(group.name, group.anchor, group.shape, group.domain)
        insort(into.nodes, node, key=self.members.__getitem__)
        into.index |= {v: group.index[v] for v in node.outputs}
        into.segments = {n: index for n, index in group.segments.items() if n in into.nodes}
        self.f.owner[node] = into

    def _leave(self, v: Value) -> None:
        """Drops the kernel that copies ``v``, if there is one: another stores it."""
        if v in self.copies:
            self._drop(self.copies.pop(v))
            self.copied = {base for v in self.copies for base in through(v)}

    def _drop(self, group: Group | None) -> None:
        self.total -= self.bytes.pop(group, 0) if group is not None else 0

    def _makers(self, values: Iterable[Value]) -> set[Group]:
        """The groups that compute ``values``."""
        return {self.f.owner[v.node] for v in values if v.node in self.f.owner}

    def _count(self, changed: Iterable[Group], anew: bool = False) -> None:
        """Counts those of the groups ``changed`` that did change, or lie elsewhere (``anew``), and what changes with them."""
        pending = list(changed)
        while pending:
            group = pending.pop()
            group.outputs = stored(self.f, group, self.copied)
            node = group.nodes[0] if group.nodes else None
            if node is not None and not group.outputs and self.f.owner.get(node) is group and node not in self.members:
                self._drop(group)
                del self.f.owner[node]  # all who read it compute it again
                pending += self._makers(self.f.bases(node))
                continue
            shape = (list(group.nodes), list(group.inlined), list(group.outputs))
            if not anew and self.counted.get(group) == shape:
                continue
            self._drop(group)
            self.counted[group], self.bytes[group] = shape, self._moved(group)
            self.total += self.bytes[group]

    def _moved(self, group: Group) -> int:
        """The bytes that the kernel of ``group``, which stores its ``outputs``, moves."""
        group.inputs = loaded(self.f, group)
        self.home.make(group.inputs)
        stores = {(group, v): self._places(v) for v in (*group.outputs, *group.copies)}
        return self.traffic.bytes(Schedule(self.graph, [], self.home, stores, self.buffers.read), group)

    def _places(self, v: Value) -> list[Place]:
        """The place where the group that computes ``v`` stores it."""
        found = [*self.returned.get(v, ()), *([self.home[v]] if v in self.buffers.place else [])]
        return found or [self.home[v]]

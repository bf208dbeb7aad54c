"""Where values live, what runs side by side, and in which order.

Groups become launches: independent groups whose results nothing else waits for (all optimizer updates, the loss, running
statistics) share one launch; the rest run in definition order. A new parameter value is written in place when every reader
of the old one can run before, otherwise it is copied at the end.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from dataclasses import dataclass, field

import networkx as nx
import numpy as np

from graphrt.index import Expr, axes, linearize
from graphrt.ir import Graph, Value
from graphrt.op import Kind
from graphrt.schedule.group import Group, Index, Launch, reads
from graphrt.schedule.joined import Joined, Start
from graphrt.schedule.pairs import pair
from graphrt.schedule.policy import SchedulePolicy
from graphrt.types import TensorType

MOST = 256  # groups of a launch, of a few pointers each: CUDA takes 32,764 bytes of arguments


@dataclass(frozen=True)
class Slot:
    """A place for a tensor: in the arena, or the buffer of an input, a parameter (state) or an output, by name."""

    space: str  # arena | input | state | output
    name: str
    type: TensorType

    def __hash__(self) -> int:
        return hash(self.name)


@dataclass(frozen=True)
class Place:
    """Where a value lies: in ``slot``, with its element 0 at ``start``; empty where the value has the slot for itself."""

    slot: Slot
    start: Start = ()

    def offset(self, index: Index) -> Expr:
        """The offset in the slot, in elements, of the value's element at ``index``."""
        return linearize([e + n for e, n in zip(index, self.start or (0,) * len(index), strict=True)], self.slot.type.strides)

    def part(self, array: np.ndarray, value: Value) -> np.ndarray:
        """The elements of ``value`` in ``array``, what the slot holds in logical shape."""
        return array[tuple(slice(a, a + n) for a, n in zip(self.start, value.shape, strict=True))] if self.start else array


@dataclass
class Schedule:
    """Launches in order, the place each value is read from, and the places each group stores a value to.

    Views are looked through, but those that are ``joined`` are read from their buffer.
    """

    graph: Graph
    launches: list[Launch]
    home: dict[Value, Place] = field(default_factory=dict)
    stores: dict[tuple[Group, Value], list[Place]] = field(default_factory=dict)
    joined: set[Value] = field(default_factory=set)

    def groups(self) -> list[Group]:
        return [g for launch in self.launches for g in launch.groups]


def arrange(graph: Graph, groups: list[Group], joined: Joined, policy: SchedulePolicy) -> Schedule:
    """The schedule of ``groups``, with the values of ``joined`` in one buffer.

    Siblings share a launch if the policy fuses; where templates compute tiles those at the start do too.
    """
    groups = list(groups)
    owner = {v: g for g in groups for v in (*g.values(), *g.copies)}
    dag = nx.DiGraph()
    dag.add_nodes_from(groups)
    computed = {v: g for v, g in owner.items() if v.node.op.kind is not Kind.SOURCE}  # a copy of a buffer computes nothing
    dag.add_edges_from((computed[v], g) for g in groups for v in g.inputs if v in computed and computed[v] is not g)
    reading: dict[Value, list[Group]] = defaultdict(list)
    for g in groups:
        for v in dict.fromkeys(g.inputs):
            reading[v].append(g)
    schedule = Schedule(graph, [], joined=joined.buffers)
    for node in graph.nodes:
        if node.op.kind is Kind.SOURCE:
            space = "input" if node.op.name == "input" else "state"
            schedule.home[node.outputs[0]] = Place(Slot(space, node.name, node.types[0]))
    for v in joined.wholes:
        name = next((name for name, output in graph.outputs.items() if output is v), None)
        schedule.home[v] = Place(Slot("arena", v.name, v.type) if name is None else Slot("output", name, v.type))
    for name, v in graph.outputs.items():
        if v in joined.wholes:
            continue
        place = Place(Slot("output", name, v.type))
        schedule.stores.setdefault((owner[v], v), []).append(place)
        schedule.home.setdefault(v, place)
    for name, v in graph.updates.items():
        parameter = graph.sources[name].outputs[0]
        place = Place(Slot("state", name, parameter.type))
        readers = list(reading[parameter])
        writer = owner[v]
        if not _overwrites(dag, writer, v, parameter, readers, policy.in_place):
            writer = Group(f"g{len(groups)}", None, v.shape, axes("i", v.shape), copies=[v], inputs=[v])
            groups.append(writer)
            reading[v].append(writer)
            dag.add_edge(owner[v], writer)
        dag.add_edges_from((g, writer) for g in readers if g is not writer)
        schedule.stores.setdefault((writer, v), []).append(place)
        if writer is owner[v]:
            schedule.home.setdefault(v, place)
    for v, (whole, start) in joined.place.items():
        schedule.home[v] = Place(schedule.home[whole].slot, start)
        if v in owner:
            schedule.stores.setdefault((owner[v], v), []).append(schedule.home[v])
    for g in groups:
        for v in (*g.outputs, *g.copies):
            if any(other is not g for other in reading[v]) and v not in schedule.home and owner[v] is g:
                schedule.home[v] = Place(Slot("arena", v.name, v.type))
                schedule.stores.setdefault((g, v), []).append(schedule.home[v])
    parts = _ordered(graph, dag, _siblings(dag, policy.tiles, joined) if policy.fuse else [[g] for g in groups])
    if policy.fuse and policy.pairs:
        parts = _ordered(graph, dag, pair(dag, parts))
    schedule.launches = [Launch(part) for part in parts]
    for i, g in enumerate(schedule.groups()):
        g.name = f"g{i}"
    return schedule


def _overwrites(dag: nx.DiGraph, writer: Group, v: Value, parameter: Value, readers: list[Group], in_place: bool) -> bool:
    """Whether ``writer`` may store ``v`` straight over ``parameter``: nobody reads the old value later or elsewhere."""
    if v.node.op.kind is Kind.SOURCE:  # a copy of a buffer that has no update of its own (passes.stage sees to that)
        return True
    if not in_place or v.type.order != parameter.type.order:
        return False
    if writer in readers and not (v in writer.index and _same_element(writer, parameter, v)):
        return False
    after = nx.descendants(dag, writer)
    return not any(g in after for g in readers if g is not writer)


def _same_element(group: Group, parameter: Value, v: Value) -> bool:
    """Whether the group reads ``parameter`` only at the element where it writes ``v``, and never after that."""
    rows = group.kind == "reduction"
    level = group.levels() if rows else {}
    if rows and group.is_full(v) and level[v.node] < max(level.values()):
        return False  # a later pass may compute again what it needs from the rows
    ready = {n: k + (n.op.kind is Kind.REDUCTION) for n, k in level.items()}
    for node in (*group.inlined, *group.nodes):
        alone = node in group.inlined or node is group.anchor or node.op.kind is Kind.REDUCTION  # reads all over the place
        alone = alone or (rows and group.index[node.outputs[0]] != group.index[v])  # or in another loop
        alone = alone or (rows and ready[node] > ready[v.node])  # or behind a later pass
        at = node.inputs[-1].shape if alone and node.inputs else ()
        for read in reads(node, axes("i", at) if alone else group.index[node.outputs[0]]):
            if read.value is parameter and (alone or read.guards or read.index != group.index[v]):
                return False
    return True


def _siblings(dag: nx.DiGraph, first: bool, joined: Joined) -> list[list[Group]]:
    """Partition of the groups into launches: generated groups nothing waits for share one, as do with ``first`` the
    elementwise ones that wait for nothing, such as the halves of all weights, and those that store parts of one buffer.
    """
    sinks = [g for g in dag.nodes if g.kind != "template" and dag.out_degree(g) == 0]  # sinks never wait for each other
    sources = [g for g in dag.nodes if first and g.kind == "pointwise" and dag.in_degree(g) == 0 and g not in sinks]
    beside = [part for side in (sources, sinks) for part in _shares(side)]
    beside += _finishes(dag, {*sinks, *sources})
    for part in _parts(dag, joined, {*sinks, *sources}):
        trial = [*beside, part]
        if _acyclic(dag, trial):
            beside = trial
    shared = {g for part in beside for g in part}
    return [[g] for g in dag.nodes if g not in shared] + beside


def _shares(groups: list[Group]) -> list[list[Group]]:
    """``groups``, any of which may run side by side, as few launches of about equal size."""
    count = -(-len(groups) // MOST)
    return [groups[i * len(groups) // count : (i + 1) * len(groups) // count] for i in range(count)]


def _finishes(dag: nx.DiGraph, shared: set[Group]) -> list[list[Group]]:
    """Reductions of nothing but one template's sums of runs: with equal predecessors, none can wait for another."""
    found: dict[Group, list[Group]] = {}
    for g in dag.nodes:
        before = list(dag.predecessors(g))
        if g.kind == "reduction" and g not in shared and len(before) == 1 and before[0].runs:
            if all(v.node in before[0].runs or v.type.ndim < 2 for v in g.inputs):
                found.setdefault(before[0], []).append(g)
    return [part for part in found.values() if len(part) > 1]


def _parts(dag: nx.DiGraph, joined: Joined, shared: set[Group]) -> list[list[Group]]:
    """Elementwise groups that compute parts of one buffer."""
    found: dict[Value, list[Group]] = {whole: [] for whole in joined.wholes}
    for g in dag.nodes:
        wholes = {joined.place[v][0] for v in g.values() if v in joined.place}
        if g.kind == "pointwise" and len(wholes) == 1 and g not in shared:
            found[wholes.pop()].append(g)
    return [part for groups in found.values() for part in _shares(groups) if len(part) > 1]


def _acyclic(dag: nx.DiGraph, parts: list[list[Group]]) -> bool:
    """Whether no launch waits for itself when the groups of each of ``parts`` run side by side."""
    at = {g: i for i, part in enumerate(parts) for g in part}
    edges = ((at.get(a, a), at.get(b, b)) for a, b in dag.edges)
    return nx.is_directed_acyclic_graph(nx.DiGraph((a, b) for a, b in edges if a is not b and a != b)) and not any(
        at.get(a) == at[b] for a, b in dag.edges if b in at
    )


def _ordered(graph: Graph, dag: nx.DiGraph, parts: list[list[Group]]) -> list[list[Group]]:
    """Topological order of the launches (Kahn), the one whose first node was defined first when there is a choice."""
    position = {n: i for i, n in enumerate(graph.nodes)}
    part_of = {g: i for i, part in enumerate(parts) for g in part}
    rank = [max((position[n] for g in part for n in g.nodes), default=len(position)) for part in parts]
    after: list[set[int]] = [set() for _ in parts]
    waits = [0] * len(parts)
    for a, b in dag.edges:
        i, j = part_of[a], part_of[b]
        if i != j and j not in after[i]:
            after[i].add(j)
            waits[j] += 1
    ready = [(rank[i], i) for i in range(len(parts)) if waits[i] == 0]
    heapq.heapify(ready)
    launches = []
    while ready:
        _, i = heapq.heappop(ready)
        launches.append(parts[i])
        for j in after[i]:
            waits[j] -= 1
            if waits[j] == 0:
                heapq.heappush(ready, (rank[j], j))
    assert len(launches) == len(parts), "the groups wait for each other in a circle"
    return launches

"""Placement: the slot of every value, and who stores it there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import networkx as nx

from graphrt.index import axes
from graphrt.ir import Graph, Value
from graphrt.op import Kind
from graphrt.passes.decision import Decision
from graphrt.schedule.concat_buffers import ConcatBuffers
from graphrt.schedule.group import Group
from graphrt.schedule.in_place import obstacle
from graphrt.schedule.schedule import Place, Schedule, Slot


def place(
    graph: Graph, groups: Sequence[Group], buffers: ConcatBuffers, in_place: bool
) -> tuple[Schedule, nx.DiGraph, list[Decision]]:
    """A schedule without launches yet, who waits for whom among its groups, and which updates are in place.

    Without ``in_place`` no update is. An update that is not is a group of its own, which copies the new value at the end.
    """
    placing = _Placing(graph, groups, buffers)
    placing.sources()
    placing.wholes()
    placing.outputs()
    decisions = placing.updates(in_place)
    placing.parts()
    placing.arena()
    return placing.schedule, placing.dag, decisions


class _Placing:
    """The places given so far. ``dag`` has an edge from each group to those that wait for it."""

    def __init__(self, graph: Graph, groups: Sequence[Group], buffers: ConcatBuffers) -> None:
        self.graph, self.buffers = graph, buffers
        self.schedule = Schedule(graph, [], buffered=buffers.read)
        self.owner = {v: g for g in groups for v in (*g.values(), *g.copies)}
        self.readers: dict[Value, list[Group]] = defaultdict(list)
        self.dag = nx.DiGraph()
        self.dag.add_nodes_from(groups)
        computed = {v: g for v, g in self.owner.items() if v.node.op.kind is not Kind.SOURCE}  # a copied buffer is not
        for g in groups:
            for v in dict.fromkeys(g.inputs):
                self.readers[v].append(g)
                if v in computed and computed[v] is not g:
                    self.dag.add_edge(computed[v], g)

    def sources(self) -> None:
        """Inputs and parameters lie where the caller, or the state, has them."""
        for node in self.graph.nodes:
            if node.op.kind is Kind.SOURCE:
                space = "input" if node.op.name == "input" else "state"
                self.schedule.home[node.outputs[0]] = Place(Slot(space, node.name, node.types[0]))

    def wholes(self) -> None:
        """Buffers of concatenations, a returned one's being its output's."""
        for v in self.buffers.wholes:
            name = next((name for name, output in self.graph.outputs.items() if output is v), None)
            self.schedule.home[v] = Place(Slot("arena", v.name, v.type) if name is None else Slot("output", name, v.type))

    def outputs(self) -> None:
        """Outputs are stored in buffers of the caller's; whoever else reads one reads the first of them."""
        for name, v in self.graph.outputs.items():
            if v not in self.buffers.wholes:
                self._store(self.owner[v], v, Place(Slot("output", name, v.type)))

    def updates(self, in_place: bool) -> list[Decision]:
        """New values of parameters: stored over the old ones, or copied there behind all who read those."""
        decisions = []
        for name, v in self.graph.updates.items():
            parameter = self.graph.sources[name].outputs[0]
            writer, readers = self.owner[v], list(self.readers[parameter])
            reason, change = obstacle(self.dag, writer, v, parameter, readers, in_place)
            if reason:
                writer = self._copier(v)
            self.dag.add_edges_from((g, writer) for g in readers if g is not writer)
            place = Place(Slot("state", name, parameter.type))
            if reason:
                self.schedule.stores[writer, v] = [place]
            else:
                self._store(writer, v, place)
            why = reason or "the old value is read before"
            decisions.append(Decision("in_place", name, "in place", not reason, why, change=change))
        return decisions

    def _copier(self, v: Value) -> Group:
        """A new group that copies ``v``."""
        writer = Group(f"g{len(self.dag)}", None, v.shape, axes("i", v.shape), copies=[v], inputs=[v])
        self.readers[v].append(writer)
        self.dag.add_edge(self.owner[v], writer)
        return writer

    def parts(self) -> None:
        """Parts of concatenations are stored in the buffer of the whole."""
        for v, (whole, start) in self.buffers.place.items():
            self.schedule.home[v] = Place(self.schedule.home[whole].slot, start)
            if v in self.owner:
                self.schedule.stores.setdefault((self.owner[v], v), []).append(self.schedule.home[v])

    def arena(self) -> None:
        """The other values that another group reads lie in the arena."""
        for g in self.dag.nodes:
            for v in (*g.outputs, *g.copies):
                if self.owner[v] is g and v not in self.schedule.home and any(r is not g for r in self.readers[v]):
                    self._store(g, v, Place(Slot("arena", v.name, v.type)))

    def _store(self, group: Group, v: Value, place: Place) -> None:
        """Has ``group`` store ``v`` in ``place``, which is where it is read from unless it is in a place already."""
        self.schedule.stores.setdefault((group, v), []).append(place)
        self.schedule.home.setdefault(v, place)

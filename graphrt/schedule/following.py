"""The ops computed behind a template before its results are stored, apart from those better computed where they are read.

An activation reads its input more than once, and whether that is stored depends on all who read it. So what could follow a
template is decided together, by a minimum cut through it: above the cut is what the template computes, and what crosses the
cut is stored, and read by those below, who compute from it what they need.

    matmul --> z --> z * 0.5 ------------------------\\
                \\--> erf(z * 0.7) --> erf + 1 -----> y = * --> stored
                 \\~~ the backward pass: then z is stored too, and y is not computed from it by a kernel of its own
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Hashable

import networkx as nx

from graphrt.ir import Node, Value
from graphrt.op import Kind
from graphrt.schedule.fusion_state import FusionState
from graphrt.schedule.group import FREE, Group

LAUNCH = 64  # bytes for which no kernel of its own is worth it


def behind(f: FusionState, group: Group, refused: Collection[Node]) -> set[Node]:
    """The nodes that the template ``group`` should compute so that the fewest bytes move; none of ``refused``."""
    near = following(f, group, refused)
    return _Cut(f, group, near).here() if near else near


class _Cut:
    """The costs of computing each node of ``near`` here, behind ``group``, or there, where it is read, as a network's edges."""

    def __init__(self, f: FusionState, group: Group, near: set[Node]) -> None:
        self.f, self.near, self.members = f, near, {*group.nodes}
        self.flow = nx.DiGraph()
        self.apart = {n for n in near if _needs_a_kernel(f, n)}
        ordered = sorted(near, key=f.position.__getitem__)
        self.elsewhere: set[Node] = set()  # what could follow another template as well
        for node in ordered:
            if any(v.node in self.elsewhere or self._is_to_come(v.node) for v in f.bases(node)):
                self.elsewhere.add(node)
        self.beyond: dict[Node, int] = {}  # how often a node is computed if it is computed there
        for node in reversed(ordered):
            readers = set(f.readers(node.outputs[0])) & near
            again = len(self._outside(node.outputs[0])) + sum(self.beyond[r] for r in readers)
            self.beyond[node] = 1 if node in self.apart or node in self.elsewhere else max(1, again)
        for v in {v for n in near for v in f.bases(n) if v in group.index}:
            self._value("here", v)
        for node in ordered:
            self._node(node, {v for v in f.bases(node) if v in group.index or v.node in near})

    def here(self) -> set[Node]:
        """The nodes above the cut."""
        if "there" not in self.flow or "here" not in self.flow:
            return self.near
        _, (_, there) = nx.minimum_cut(self.flow, "here", "there")
        return self.near - there

    def _is_to_come(self, node: Node) -> bool:
        """Whether ``node`` is the anchor of a template that has no group yet."""
        return node.op.template is not None and node not in self.f.owner

    def _outside(self, y: Value) -> set[Node]:
        """The readers of ``y`` that are elsewhere in any case."""
        return set(self.f.readers(y)) - self.near - self.members

    def _node(self, node: Node, here: set[Value]) -> None:
        f, y = self.f, node.outputs[0]
        self._value(node, y)
        for v, size in f.seen(node).items():
            if self._is_to_come(v.node):
                self._add(node, "there", 2 * size)  # to be stored by the other template, or at hand there
            elif v not in here and v.node.op.kind is not Kind.GENERATED:
                self._add(node, "there", size)
                self._add("here", node, self.beyond[node] * size)
        self._add("here", node, LAUNCH if node in self.apart else 0)
        if (node in self.elsewhere or not node.op.cheap) and not f.is_stored(y) and (outside := len(self._outside(y))):
            self._add("here", node, (1 + outside) * y.type.nbytes)
        for v in here:
            if v.node in self.near:
                self.flow.add_edge(node, v.node)  # without capacity: what it is made of is computed here too

    def _value(self, node: Hashable, y: Value) -> None:
        """Adds the cost of computing ``y`` of ``node`` here and reading it there: of one store and of each load."""
        stored, memory = self.f.is_stored(y), ("memory", y)
        loads: dict[Hashable, int] = {r: self.beyond[r] * self.f.seen(r)[y] for r in set(self.f.readers(y)) & self.near}
        if outside := self._outside(y):
            loads["there"] = len(outside) * y.type.nbytes
        for reader, size in loads.items():
            self._add(node, reader, size)
            if not stored:
                self.flow.add_edge(memory, reader)
        if not stored:
            self._add(node, memory, y.type.nbytes)

    def _add(self, a: Hashable, b: Hashable, capacity: int) -> None:
        if capacity:
            before = self.flow[a][b]["capacity"] if self.flow.has_edge(a, b) else 0
            self.flow.add_edge(a, b, capacity=before + capacity)


def _needs_a_kernel(f: FusionState, node: Node) -> bool:
    """Whether ``node`` is not computed where it is read."""
    return (
        not node.op.cheap or node.op.kind is not Kind.ELEMENTWISE or f.is_stored(node.outputs[0]) or node.origin.phase == "opt"
    )


def following(f: FusionState, group: Group, refused: Collection[Node], again: bool = True) -> set[Node]:
    """The ops that could follow the template ``group`` at its elements, from its values and what does not wait for it.

    Nodes of the backward pass that follow forward ones are not among it if they are computed ``again`` there.
    """
    found, members, after = set[Node](), set(group.nodes), f.after(group)
    seen = {r for v in group.values() for r in f.readers(v)}
    pending = [f.position[n] for n in seen]
    heapq.heapify(pending)
    while pending:  # in the graph's order: what a node is made of comes before it
        node = f.graph.nodes[heapq.heappop(pending)]
        if (
            not f.is_homeless(node)
            or node in refused
            or node.types[0].size != math.prod(group.shape)
            or (again and returns(group, node))
        ):
            continue
        others = {v.node for v in f.bases(node) if v.node.op.kind not in FREE} - members - found
        if others and f.depends(after, others):
            continue
        found.add(node)
        for n in f.readers(node.outputs[0]):
            if n not in seen:
                seen.add(n)
                heapq.heappush(pending, f.position[n])
    return found


def returns(group: Group, node: Node) -> bool:
    """Whether ``node`` is of the backward pass, or computed again in it, and the template ``group`` of the forward pass."""
    return node.origin.phase in ("bwd", "again") and group.phase == "fwd"


def left_over(f: FusionState, group: Group, refused: Collection[Node]) -> set[Node]:
    """The ops that could follow the template ``group`` and would need a kernel of their own: all their readers have theirs."""
    found, near = set[Node](), following(f, group, refused, again=False)
    for node in sorted(near, key=f.position.__getitem__, reverse=True):  # first who reads, then what is read
        y = node.outputs[0]
        if f.is_stored(y) or all(r in found or not f.is_homeless(r) for r in f.readers(y)):
            found.add(node)
    return found

"""Reachability in a graph some of whose nodes are merged into groups, kept up to date as groups grow.

Each unit (a node, or nodes that are merged) has the set of what waits for it as the bits of a Python integer, so that a
query is one operation on a few hundred bytes and a merge one for each unit (an incremental transitive closure; Italiano, 1986).
"""

from __future__ import annotations

from collections.abc import Iterable

from graphrt.ir import Graph, Node


class Reachability:
    """The nodes that wait for each node of ``graph``: its readers, theirs, and all that are merged with one of them."""

    def __init__(self, graph: Graph) -> None:
        self._number = {node: i for i, node in enumerate(graph.nodes)}
        self._unit = list(range(len(graph.nodes)))  # of each node: the number of one of its nodes
        self._nodes = {i: [node] for node, i in self._number.items()}
        self._members = {i: 1 << i for i in self._unit}
        self._below: dict[int, int] = {}  # at least one node of each unit that waits
        users = graph.users()
        for i in reversed(self._unit):
            below = 0
            for value in graph.nodes[i].outputs:
                for reader in users[value]:
                    number = self._number[reader]
                    below |= self._below[number] | 1 << number
            self._below[i] = below

    def merge(self, a: Node, b: Node) -> None:
        """Makes one unit of those of ``a`` and ``b``."""
        one, other = self._unit[self._number[a]], self._unit[self._number[b]]
        if one == other:
            return
        members = self._members[one] | self._members[other]
        below = (self._below[one] | self._below[other]) & ~members
        news = [(unit, below & ~self._below[unit]) for unit in (one, other)]  # for what reaches one of them
        nodes = self._nodes.pop(other)
        for node in nodes:
            self._unit[self._number[node]] = one
        before = {unit: [v.node for n in (nodes if unit == other else self._nodes[one]) for v in n.inputs] for unit, _ in news}
        self._nodes[one] += nodes
        del self._members[other], self._below[other]
        self._members[one], self._below[one] = members, below
        for unit, new in news:
            stack = before[unit] if new else []
            while stack:
                reaching = self._unit[self._number[stack.pop()]]
                if reaching != one and new & ~self._below[reaching]:  # else all that reaches it knows, too
                    self._below[reaching] |= new
                    stack += [v.node for n in self._nodes[reaching] for v in n.inputs]

    def reaches(self, start: Iterable[Node], goals: Iterable[Node]) -> bool:
        """Whether a node of ``start`` is one of ``goals``, is merged with one, or has one wait for it."""
        wanted = 0
        for unit in {self._unit[self._number[node]] for node in goals}:
            wanted |= self._members[unit]
        if not wanted:
            return False
        units = {self._unit[self._number[node]] for node in start}
        return any((self._below[unit] | self._members[unit]) & wanted for unit in units)

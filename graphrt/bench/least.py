"""The least bytes that a graph can move: what its contractions, windows and other templates cannot do without.

Such a *primitive* is a kernel's anchor, and no kernel computes one from another's tile. All else is free: it is computed where
it is read, or behind what makes it.

    x --> conv --> + bias, relu --> pool --> y        x, w and bias are read, the activation is stored and read, y is stored

So every primitive reads the smallest set of tensors from which its operands can be computed: a minimum cut. What is cut is
stored once, and read once by all *siblings*: those that have it in the same operand, and do not wait for each other, may be one
primitive. Inputs and parameters that no primitive reads are read once, results stored once.

No kernel has at hand what it read before it waited. So what is behind a primitive, or behind a sum of longer rows than a kernel
holds, reads what it needs of the tensors in front of it once more:

    conv --> sum over all pixels --> scale --> y        the convolution is stored, and read when the sum is known
    x --> mean --> two layers --> s;  x * s --> y       x is read twice
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable

import networkx as nx

from graphrt.ir import Graph, Node, Value
from graphrt.op import Kind
from graphrt.passes.patterns.families import root
from graphrt.passes.simplify import simplify
from graphrt.schedule.policy import ROW_LIMIT

TILE = 16  # rows that a tile of a contraction has at least: of what is behind one, a kernel holds as many rows
FREE = (Kind.SOURCE, Kind.GENERATED)


def least_bytes(graph: Graph) -> int:
    """The bytes that no plan of ``graph`` whose kernels have a primitive each can do without.

    A plan may move fewer where a chain of sums of long rows is one kernel: each counts here as one that waits for the last.
    """
    return _Least(simplify(graph)).total()


class _Least:
    """The kernels that a plan cannot do without, as the nodes that they are for, and what each reads.

    ``above`` has the nodes in front of a node and itself, ``before`` those that are over when it begins, as bits; ``gone`` are
    the primitives of whose results no tile is at hand any more.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph, self.results, self.users = graph, set(graph.results()), graph.users()
        self.bit = {n: 1 << i for i, n in enumerate(graph.nodes)}
        self.above, self.before, self.gone = dict[Node, int](), dict[Node, int](), dict[Node, int]()
        anchors = 0
        for n in graph.nodes:
            inputs = {v.node for v in n.inputs}
            self.above[n] = self.bit[n] | _union(self.above[m] for m in inputs)
            self.before[n] = _union(self.above[m] if _waits(m) else self.before[m] for m in inputs)
            self.gone[n] = _union(
                self.above[m] & anchors & ~(self.bit[m] if _is_primitive(m) else 0)
                if _is_primitive(m) or _reduced(m) * TILE > ROW_LIMIT
                else self.gone[m]
                for m in inputs
            ) | _union(self.gone[m] for m in inputs)
            anchors |= self.bit[n] if _is_primitive(n) else 0
        self.readers: dict[Value, dict[Node, tuple[int, object]]] = {}  # the bytes of it that each reads, in which operands
        self.stored: set[Value] = set()  # when it was last chosen

    def total(self) -> int:
        """The bytes that are read and written: the fewest of two ways to choose what is stored, from the front and the back.

        Each is chosen again, knowing what was stored, as long as that moves fewer bytes.
        """
        return min(self._settled(last) for last in (False, True))

    def _settled(self, last: bool) -> int:
        self.stored = set()
        best = self._chosen(last)
        while True:
            self.stored = {*self.readers}
            found = self._chosen(last)
            if found >= best:
                return best
            best = found

    def _chosen(self, last: bool) -> int:
        """The bytes that are read and written if one cut is chosen after the other, the ``last`` node's first, or the first's.

        What one cut stores the next has for a read.
        """
        self.readers = {}
        pending = {n for n in self.graph.nodes if _waits(n)}
        pending |= {root(v).node for v in self.results if root(v).node.op.kind not in FREE}
        seen = set(pending)
        while pending:
            node = (max if last else min)(pending, key=self.bit.__getitem__)
            pending.remove(node)
            for v in self._cut(node):
                self.readers.setdefault(root(v), {})[node] = min(v.type.nbytes, root(v).type.nbytes), self._role(node, v)
                if v.node not in seen and v.node.op.kind not in FREE:
                    seen.add(v.node)
                    pending.add(v.node)
        given = {v for n in self.graph.sources.values() for v in n.outputs if self.users[v] or v in self.results}
        moved = sum(v.type.nbytes for v in given - self.readers.keys()) + sum(v.type.nbytes for v in self.graph.results())
        return moved + sum(self._moved(v) for v in self.readers)

    def _moved(self, v: Value) -> int:
        """The bytes of ``v`` that are stored, unless it is given or a result, and read."""
        by = self.readers[v]
        sizes = [size for size, _ in by.values()]
        stored = v.node.op.kind is not Kind.SOURCE and v not in self.results
        roles: dict[object, list[Node]] = {}
        for node, (_, role) in by.items():
            if _is_primitive(node):
                roles.setdefault(role, []).append(node)
        siblings = sum(self._chain(nodes) * min(by[n][0] for n in nodes) for nodes in roles.values())
        return max(sizes) * stored + max(siblings, min(sizes) * self._chain([*by]))

    def _chain(self, nodes: Collection[Node]) -> int:
        """The most of ``nodes`` of which each is over when the next one begins."""
        length: dict[Node, int] = {}
        for n in sorted(nodes, key=self.bit.__getitem__):
            length[n] = 1 + max((length[m] for m in length if self.before[n] & self.bit[m]), default=0)
        return max(length.values())

    def _role(self, node: Node, v: Value) -> object:
        """The op of ``node`` and the operands that ``v`` is part of: siblings have them in common."""
        return node.op.name, *((i, x) for i, x in enumerate(node.inputs) if self.above[x.node] & self.bit[v.node])

    def _cut(self, node: Node) -> set[Value]:
        """The tensors, stored and read in the fewest bytes, from which the operands of ``node`` follow.

        What is no primitive is behind one that has its tile at hand, and beside all that is not over when it begins.
        """
        flow, seen, pending = nx.DiGraph(), set[Value](), list(node.inputs)
        for v in node.inputs:
            flow.add_edge((v, "out"), "end")
        while pending:
            v = pending.pop()
            if v in seen:
                continue
            seen.add(v)
            shown, of = root(v), v.node
            over = _is_primitive(node) or bool((self.gone if _is_primitive(of) else self.before)[node] & self.bit[of])
            given = shown.node.op.kind is Kind.SOURCE or shown in self.results  # and so stored in any case
            there = given or shown in self.readers or shown in self.stored
            joins = of.op.kind is Kind.VIEW and len(of.inputs) > 1
            if of.op.kind is not Kind.GENERATED:
                lies = not joins and (over or shown.node.op.kind is Kind.SOURCE)
                flow.add_edge((v, "in"), (v, "out"), **({"capacity": v.type.nbytes * (1 if there else 2)} if lies else {}))
            if of.op.kind is Kind.SOURCE or (_waits(of) and over):
                flow.add_edge("begin", (v, "in"))
            for x in of.inputs if not _waits(of) else ():
                flow.add_edge((x, "out"), (v, "in"))
                pending.append(x)
        if "begin" not in flow:
            return set()
        _, (above, _) = nx.minimum_cut(flow, "begin", "end")
        return {v for v in seen if (v, "in") in above and (v, "out") not in above}


def _union(sets: Iterable[int]) -> int:
    found = 0
    for bits in sets:
        found |= bits
    return found


def _is_primitive(node: Node) -> bool:
    return node.op.template is not None


def _reduced(node: Node) -> int:
    """The elements of a row that ``node`` sums; 1 of what is no sum."""
    return math.prod(node.inputs[0].shape[d] for d in node.attrs["dims"]) if node.op.kind is Kind.REDUCTION else 1


def _waits(node: Node) -> bool:
    """Whether who reads ``node`` has nothing at hand any more of what that read: a primitive, or a sum of a long row."""
    return _is_primitive(node) or _reduced(node) > ROW_LIMIT

"""The least bytes that a graph can move: what its contractions, windows and other templates cannot do without.

Such a *primitive* is a kernel's anchor, and no kernel computes one from another's tile. All else is free: it is computed where
it is read, or behind what makes it.

    x --> conv --> + bias, relu --> pool --> y        x, w and bias are read, the activation is stored and read, y is stored

So every primitive reads the smallest set of tensors from which its operands can be computed: a minimum cut. What is cut is
stored once, and read once by all primitives that do not wait for each other, which might share a launch. Inputs and parameters
that no primitive reads are read once, results stored once.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Collection, Mapping

import networkx as nx

from graphrt.ir import Graph, Node, Value
from graphrt.op import Kind
from graphrt.passes.patterns.families import root
from graphrt.passes.simplify import simplify


def least_bytes(graph: Graph) -> int:
    """The bytes that no plan of ``graph`` whose kernels have a primitive each can do without; never above what one moves."""
    graph = simplify(graph)
    primitives = [n for n in graph.nodes if n.op.template is not None]
    number = {n: i for i, n in enumerate(primitives)}
    waits: dict[Node, int] = {}  # primitives, as bits, that a node waits for
    for node in graph.nodes:
        behind = functools.reduce(operator.or_, (waits[v.node] | _bit(number, v.node) for v in node.inputs), 0)
        waits[node] = behind
    results, users = set(graph.results()), graph.users()
    readers: dict[Value, dict[Node, int]] = {}  # and the bytes that each reads
    for node in primitives:
        for v in _cut(node, results):
            shown = root(v)
            readers.setdefault(shown, {})[node] = min(v.type.nbytes, shown.type.nbytes)
    given = {v for n in graph.sources.values() for v in n.outputs if users[v] or v in results}
    moved = sum(v.type.nbytes for v in given - readers.keys()) + sum(v.type.nbytes for v in graph.results())
    for v, by in readers.items():
        stored = v.node.op.kind is not Kind.SOURCE and v not in results
        moved += max(by.values()) * stored + min(by.values()) * _chain([*by], waits, number)
    return moved


def _bit(number: Mapping[Node, int], node: Node) -> int:
    return 1 << number[node] if node in number else 0


def _chain(nodes: list[Node], waits: Mapping[Node, int], number: Mapping[Node, int]) -> int:
    """The most of ``nodes``, which are in order, of which each waits for the one before."""
    length: dict[Node, int] = {}
    for n in nodes:
        length[n] = 1 + max((length[m] for m in length if waits[n] & _bit(number, m)), default=0)
    return max(length.values())


def _cut(node: Node, results: Collection[Value]) -> set[Value]:
    """The tensors, stored and read in the fewest bytes, from which the operands of ``node`` follow."""
    flow, seen, pending = nx.DiGraph(), set[Value](), list(node.inputs)
    for v in node.inputs:
        flow.add_edge((v, "out"), "end")
    while pending:
        v = pending.pop()
        if v in seen:
            continue
        seen.add(v)
        shown = root(v)
        there = shown.node.op.kind is Kind.SOURCE or shown in results  # stored in any case
        joins = v.node.op.kind is Kind.VIEW and len(v.node.inputs) > 1
        if v.node.op.kind is not Kind.GENERATED:
            flow.add_edge((v, "in"), (v, "out"), **({} if joins else {"capacity": v.type.nbytes * (1 if there else 2)}))
        if v.node.op.kind is Kind.SOURCE or v.node.op.template is not None:
            flow.add_edge("begin", (v, "in"))
        for x in v.node.inputs if v.node.op.template is None else ():
            flow.add_edge((x, "out"), (v, "in"))
            pending.append(x)
    if "begin" not in flow:
        return set()
    _, (above, _) = nx.minimum_cut(flow, "begin", "end")
    return {v for v in seen if (v, "in") in above and (v, "out") not in above}

"""The one way a pass changes a graph: copy it node by node and let a rule replace some of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from graphrt.ir import Graph, Node, Value
from graphrt.op import Kind, Order
from graphrt.ops.base import apply

Rule = Callable[[Node], Sequence[Value] | None]


def rewrite(graph: Graph, rule: Rule, keep: set[Node] | None = None, orders: Mapping[Value, Order] | None = None) -> Graph:
    """A copy of ``graph`` in which a node for which ``rule`` returns values is replaced by them.

    The rule is called with the copied node, the last of the new graph, and builds on its inputs; a node it replaces is
    taken out again if nothing was built on it. ``keep`` limits the copy to these nodes; ``orders`` is how
    their values lie in memory, if otherwise than before.
    """
    new, table = graph.like(), dict[Value, Value]()
    for node in graph.nodes:
        if keep is not None and node not in keep:
            continue
        with new.at(node.origin):
            at_hand = [table[v] for v in node.inputs]
            copy = new.adopt(node, at_hand, None if orders is None else [orders[v] for v in node.outputs])
            outputs: Sequence[Value] = copy.outputs
            if node.op.kind is not Kind.SOURCE and (found := rule(copy)) is not None:
                outputs = found
                at = new.nodes.index(copy, len(new.nodes) - 1 - _built(new, copy))
                if not any(v.node is copy for n in new.nodes[at + 1 :] for v in n.inputs) and copy not in {
                    v.node for v in found
                }:
                    del new.nodes[at]
        table.update(zip(node.outputs, outputs, strict=True))
    new.take_results(graph, table)
    return new


def pruned(graph: Graph, rule: Rule) -> Graph:
    """The graph that ``rewrite`` makes of ``graph`` by ``rule``, without what no output and no update needs; sources stay."""
    new = rewrite(graph, rule)
    new.updates = {name: v for name, v in new.updates.items() if v.node is not new.sources[name]}  # becomes what it is
    needed = live(new)
    new.nodes = [n for n in new.nodes if n in needed]
    return new


def live(graph: Graph) -> set[Node]:
    """The nodes that an output or an update of ``graph`` needs, and its inputs and parameters."""
    found = {v.node for v in graph.results()} | {n for n in graph.nodes if n.op.kind is Kind.SOURCE}
    for node in reversed(graph.nodes):
        if node in found:
            found.update(v.node for v in node.inputs)
    return found


def _built(graph: Graph, node: Node) -> int:
    """The number of nodes that were appended behind ``node``."""
    count = 0
    while graph.nodes[-1 - count] is not node:
        count += 1
    return count


def copied(x: Value, cone: set[str], copies: dict[Node, Value]) -> Value:
    """``x`` with the nodes in ``cone`` that it is made of built again."""
    if x.node.name not in cone:
        return x
    if x.node not in copies:
        copies[x.node] = apply(x.node.op.name, *(copied(v, cone, copies) for v in x.node.inputs), **x.node.attrs)
    return copies[x.node]

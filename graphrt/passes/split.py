"""Split-K as a graph pass: a long reduction becomes partial sums in parallel and a short reduction of them.

Deterministic by construction (no atomics), and the short reduction is a node like any other, so fusion folds it into
whatever follows, such as the optimizer's update.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from graphrt.ir import Graph, Node, Value
from graphrt.passes.rewrite import rewrite


def split_reductions(graph: Graph, splits: Callable[[Node], int]) -> Graph:
    """Splits each node for which ``splits`` (a target's policy) gives more than 1."""
    wanted = {n.name: splits(n) for n in graph.nodes if n.op.split is not None and not n.attrs.get("splits")}
    if all(n <= 1 for n in wanted.values()):
        return graph
    done: set[str] = set()

    def rule(node: Node) -> Sequence[Value] | None:
        if wanted.get(node.name, 1) <= 1 or node.name in done or node.op.split is None:
            return None
        done.add(node.name)
        return node.op.split(node, wanted[node.name])

    return rewrite(graph, rule)

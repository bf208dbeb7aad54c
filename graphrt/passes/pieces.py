"""Concatenations of many pieces get a buffer, into which each part is copied.

    concat(a, b, c, ..., z)    -->    concat(clone(a), clone(b), ..., clone(z))

Whoever reads a view of several pieces looks through it: a guard and a load for each, at every element. Of many, and of
concatenations of concatenations, that is more code than a compiler takes and more work than a copy. A clone is stored where
the whole has it (``schedule/concat_buffers.py``), be the part an input, a view, or in two places at once.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphrt.ir import Graph, Node, Value
from graphrt.op import Kind
from graphrt.ops import clone
from graphrt.ops.base import apply
from graphrt.passes.rewrite import rewrite
from graphrt.passes.simplify import dead_code

PIECES = 12  # of a view that is looked through, at most: reflection in two dimensions has 9


def store_pieces(graph: Graph) -> Graph:
    """``graph`` with a copy of each part of every view that shows more than ``PIECES`` pieces of what is computed or stored."""
    count: dict[Value, int] = {}
    many: set[str] = set()
    for node in graph.nodes:
        pieces = sum(count[v] for v in node.inputs) if node.op.kind is Kind.VIEW else 1
        if len(node.inputs) > 1 and pieces > PIECES:
            many.add(node.name)
            pieces = 1
        count.update(dict.fromkeys(node.outputs, pieces))
    if not many:
        return graph
    returned = list(graph.outputs.values())
    copied = {v.node.name for v in graph.results() if returned.count(v) != 1 or v in graph.updates.values()}

    def rule(node: Node) -> Sequence[Value] | None:
        if node.name not in many or node.op.kind is not Kind.VIEW or not node.types[0].size:
            return None
        whole = apply(node.op.name, *(clone(v) for v in node.inputs if v.type.size), **node.attrs)
        return (clone(whole) if node.name in copied else whole,)

    return dead_code(rewrite(graph, rule))

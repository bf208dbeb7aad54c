"""Concatenations of many pieces, and of what is computed in another shape, get a buffer, into which each part is copied.

    concat(a, b, c, ..., z)                       -->    concat(clone(a), clone(b), ..., clone(z))
    concat(reshape(permute(q)), k) @ w            -->    concat(clone(reshape(permute(q))), k) @ w

Whoever reads a view of several pieces looks through it: a guard and a load for each, at every element. Of many, and of
concatenations of concatenations, that is more code than a compiler takes and more work than a copy. So it is in a contraction,
which loads an element for each of its products, where a kernel cannot store the part in its place. A clone is stored where
the whole has it (``schedule/concat_buffers.py``), be the part an input, a view, or in two places at once.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphrt.index import axes
from graphrt.ir import Graph, Node, Value
from graphrt.op import Kind, Piece
from graphrt.ops import clone
from graphrt.ops.base import apply
from graphrt.passes.rewrite import pruned
from graphrt.passes.simplify import behind

PIECES = 12  # of a view that is looked through, at most: reflection in two dimensions has 9


def store_pieces(graph: Graph) -> Graph:
    """``graph`` with a copy of each part of every view that shows more than ``PIECES`` pieces of what is computed or stored.

    Where a contraction reads it there is a copy of those parts that are computed and lie in another order.
    """
    count: dict[Value, int] = {}
    many: set[str] = set()
    contracted = _contracted(graph)
    for node in graph.nodes:
        pieces = sum(count[v] for v in node.inputs) if node.op.kind is Kind.VIEW else 1
        if len(node.inputs) > 1 and pieces > PIECES:
            many.add(node.name)
            pieces = 1
        count.update(dict.fromkeys(node.outputs, pieces))
    few = {n.name for n in graph.nodes if n in contracted and len(n.inputs) > 1 and any(map(_reordered, n.inputs))} - many
    if not (chosen := many | few):
        return graph
    returned = list(graph.outputs.values())
    copied = {v.node.name for v in graph.results() if returned.count(v) != 1 or v in graph.updates.values()}

    def rule(node: Node) -> Sequence[Value] | None:
        if node.op.kind is not Kind.VIEW or not node.types[0].size or node.name not in chosen:
            return None
        parts = [v for v in node.inputs if v.type.size]
        whole = apply(node.op.name, *(clone(v) if node.name in many or _reordered(v) else v for v in parts), **node.attrs)
        return (clone(whole) if node.name in copied else whole,)

    return pruned(graph, rule)


def _contracted(graph: Graph) -> set[Node]:
    """The views that contractions read, maybe through others."""
    found = set[Node]()
    for node in reversed(graph.nodes):
        if node.op.kind is Kind.CONTRACTION or node in found:
            found.update(v.node for v in node.inputs if v.node.op.kind is Kind.VIEW)
    return found


def _reordered(v: Value) -> bool:
    """Whether ``v`` is a view of what a kernel computes, at an index that is not affine in its own."""
    shown = [(v, Piece(0, axes("i", v.shape))), *behind(v)]
    base, piece = shown[-1]
    computed = base.node.op.kind not in (Kind.SOURCE, Kind.GENERATED, Kind.VIEW)
    return computed and any(e.stride(f"i{d}") is None for e in piece.index for d in range(v.ndim))

"""Canonicalise a graph: constant folding, per-op identities and view algebra, common subexpressions, dead code.

Each op's own identities are its ``simplify`` rule, those of several ops are in ``patterns``; this pass only walks, folds and
numbers values (value numbering after Cocke, "Global common subexpression elimination", 1970). Runs to a fixed point, and
returns the same graph when nothing changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np

from graphrt.index import axes
from graphrt.ir import Graph, Node, Value
from graphrt.op import Kind, Piece
from graphrt.ops.base import broadcast_to, constant_of
from graphrt.passes.patterns import RULES
from graphrt.passes.rewrite import live, pruned
from graphrt.types import as_dtype

_ROUNDS = 20  # each round removes a node or stops; deep chains settle in two or three
_VIEWS = 8  # of one on the other that are looked through


def simplify(graph: Graph) -> Graph:
    """The same program with no node that another one makes superfluous."""
    for _ in range(_ROUNDS):
        before = len(graph.nodes)
        changed = False

        seen: dict[Any, Node] = {}

        def rule(node: Node, seen: dict[Any, Node] = seen) -> Sequence[Value] | None:
            nonlocal changed
            for simpler in (_folded, _unmoved, node.op.simplify, *RULES.get(node.op.name, ())):
                if simpler is not None and (found := simpler(node)) is not None:
                    changed = True
                    return (found,)
            key = (node.op.name, node.inputs, tuple(sorted((k, repr(a)) for k, a in node.attrs.items())))
            first = seen.setdefault(key, node)
            if first is not node:
                changed = True
                return first.outputs
            return None

        candidate = pruned(graph, rule)
        if not changed and len(candidate.nodes) == before:
            return graph
        graph = candidate
    return graph


def dead_code(graph: Graph) -> Graph:
    """``graph`` without the nodes that no output and no update needs; inputs and parameters stay."""
    idle = any(v.node is graph.sources[name] for name, v in graph.updates.items())  # a parameter that becomes itself
    return pruned(graph, lambda node: None) if idle or len(live(graph)) < len(graph.nodes) else graph


def _unmoved(node: Node) -> Value | None:
    """The value that a view shows as it lies there, because the views below undo what it does."""
    if node.op.kind is not Kind.VIEW:
        return None
    shape, dtype = node.types[0].shape, node.types[0].dtype
    for value, piece in islice(behind(node.outputs[0]), _VIEWS):
        if any(e.range()[0] < low or e.range()[1] >= high for e, low, high in piece.mask):
            return None
        if piece.index == axes("i", shape) and value.dtype is dtype and value.shape == shape:
            return value
    return None


def behind(v: Value) -> Iterator[tuple[Value, Piece]]:
    """The values that ``v`` shows, each through one view more, and at which index, as long as a view shows one alone."""
    index = axes("i", v.shape)
    while v.node.op.kind is Kind.VIEW and v.node.op.pull is not None:
        pieces = v.node.op.pull(v.node, index)
        if len(pieces) != 1:
            return
        v, index = v.node.inputs[pieces[0].operand], pieces[0].index
        yield v, pieces[0]


def _folded(node: Node) -> Value | None:
    """The constant that an elementwise op on constants is."""
    if node.op.kind is not Kind.ELEMENTWISE or not node.inputs:
        return None
    numbers = [constant_of(v) for v in node.inputs]
    if any(n is None for n in numbers):
        return None
    arrays = [np.asarray(n, as_dtype(v.dtype).numpy) for n, v in zip(numbers, node.inputs, strict=True)]
    with np.errstate(all="ignore"):
        result = np.asarray(node.op.reference(*arrays, **node.attrs)).astype(node.types[0].dtype.numpy)
    return broadcast_to(node.graph.constant(result.item(), node.types[0].dtype), node.types[0].shape)

"""Products of rows of a table, such as an embedding's: the table is multiplied, and the rows are looked up behind.

    E[i] @ W                    = (E @ W)[i]
    sum of (D @ W) into rows i  = (sum of D into rows i) @ W
    D.T @ E[i]                  = (sum of D into rows i).T @ E

A network over characters then multiplies the few rows of its table in place of each character of each sequence, and so do the
gradients of both matrices. Rows that are not there are what they were: what a mask puts in their place, which is NaN in an
embedding, and then so is the gradient of whatever is multiplied with one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from graphrt.ir import Graph, Node, Value
from graphrt.ops import transpose, where
from graphrt.ops.base import apply, broadcast_to, constant_of
from graphrt.ops.positions import scatter_to
from graphrt.passes.patterns.addends import untransposed
from graphrt.passes.rewrite import rewrite
from graphrt.passes.simplify import simplify
from graphrt.types import HALVES

_INNER = 16  # products of an element, below which multiplying takes no longer than looking up


@dataclass(frozen=True)
class _Rows:
    """Rows [M, K] of a ``source``, seen through ``views``, outermost last: reshapes, permutations, and masks of whole rows."""

    source: Node
    views: tuple[Node, ...]

    def seen(self, rows: Value) -> Value:
        """Other ``rows`` [M, N] through the same views."""
        for view in self.views:
            lead = view.types[0].shape[:-1]
            if view.op.name == "reshape":
                rows = apply("reshape", rows, shape=(*lead, rows.shape[-1]))
            elif view.op.name == "permute":
                rows = apply("permute", rows, dims=view.attrs["dims"])
            else:
                rows = where(_mask(view), rows, _number(view))
        return rows

    def unseen(self, seen: Value) -> Value:
        """The rows [M, N] of what is ``seen``; those that a mask hides are 0."""
        for view in reversed(self.views):
            if view.op.name == "reshape":
                seen = apply("reshape", seen, shape=(*view.inputs[0].shape[:-1], seen.shape[-1]))
            elif view.op.name == "permute":
                dims = view.attrs["dims"]
                seen = apply("permute", seen, dims=tuple(dims.index(d) for d in range(len(dims))))
            else:
                seen = where(_mask(view), seen, 0.0)
        return seen

    def hidden(self) -> list[Node]:
        """The masks."""
        return [view for view in self.views if view.op.name == "where"]


def multiply_tables(graph: Graph) -> Graph:
    """``graph`` with the rows of a table multiplied, where they are fewer than those that are looked up in it."""
    if not any(n.op.name in ("gather", "scatter") for n in graph.nodes):
        return graph
    once = {v.node.name for v, users in graph.users().items() if len(users) == 1}
    changed = False

    def rule(node: Node) -> Sequence[Value] | None:
        nonlocal changed
        found: Value | None = None
        if node.op.name == "matmul" and node.types[0].ndim == 2:
            found = _looked_up(node)
            found = _weight_gradient(node) if found is None else found
        elif node.op.name == "scatter" and node.attrs["op"] == "sum" and node.attrs["dim"] == 0:
            found = _table_gradient(node, once)
        changed = changed or found is not None
        return None if found is None else (found,)

    new = rewrite(graph, rule)
    return simplify(new) if changed else graph


def _looked_up(node: Node) -> Value | None:
    """``E[i] @ W`` as rows of a smaller product."""
    found, weight = _lookup(node.inputs[0]), node.inputs[1]
    if found is None or weight.shape[0] < _INNER:
        return None
    table, index = found.source.inputs
    product = apply("matmul", table, weight)
    return found.seen(apply("gather", product, _index(index, product.shape[1]), dim=0))


def _weight_gradient(node: Node) -> Value | None:
    """``D.T @ E[i]``, or its transpose, as a product with a sum for each row of the table."""
    first, second = node.inputs
    turned = untransposed(first)
    if turned is first:
        return None
    found, other = _lookup(second), turned
    if not (left := found is not None):
        found, other = _lookup(turned), second
    if found is None or other.shape[1] < _INNER:
        return None
    table, index = found.source.inputs
    sums = scatter_to(_index(index, other.shape[1]), found.unseen(other), 0, table.shape[0])
    table = where(_is_read(found, other.shape[0]), table, 0.0)  # rows that nobody reads may hold NaN
    product = apply("matmul", transpose(sums, 0, 1), table) if left else apply("matmul", transpose(table, 0, 1), sums)
    for view in found.hidden():
        if _number(view):  # NaN, and so is the product if there is a row that the mask hides
            missing = where(_mask(view), 0.0, _number(view))
            lost = apply("reduce", missing, op="sum", dims=tuple(range(missing.ndim)))
            product = product + broadcast_to(lost, product.shape)
    return product


def _is_read(rows: _Rows, number: int) -> Value:
    """Whether each row of the table, [V, 1], is among the ``number`` that are seen."""
    table, index = rows.source.inputs
    one = broadcast_to(table.graph.constant(1.0, table.dtype), (number, 1))
    return scatter_to(_index(index, 1), rows.unseen(one), 0, table.shape[0], "max") > 0.0


def _table_gradient(node: Node, once: set[str]) -> Value | None:
    """The sum of ``D @ W`` into the rows of a table as a product of sums."""
    index, src = node.inputs
    found = _rows(src, "matmul") if src.ndim == 2 and _column(index) is not None else None
    if found is None or not _few(node.attrs["size"], src) or not {v.name for v in (found.source, *found.views)} <= once:
        return None
    d, weight = found.source.inputs
    if weight.shape[1] < _INNER or any(map(_number, found.hidden())):
        return None
    return apply("matmul", scatter_to(_index(index, d.shape[1]), found.seen(d), 0, node.attrs["size"]), weight)


def _few(table: int, rows: Value) -> bool:
    """Whether a table of so many rows is multiplied sooner than ``rows``."""
    return 2 * table <= rows.shape[0]


def _lookup(value: Value) -> _Rows | None:
    """``value`` as rows that are looked up in a table of fewer, if a product with what a mask hides is known without it."""
    found = _rows(value, "gather") if value.ndim == 2 else None
    if (
        found is None
        or _column(found.source.inputs[1]) is None
        or found.source.attrs["dim"]
        or not _few(found.source.inputs[0].shape[0], value)
    ):
        return None
    known = all(_number(view) == 0 or math.isnan(_number(view)) for view in found.hidden())
    return found if known else None


def _rows(value: Value, name: str) -> _Rows | None:
    """``value`` as rows of a matrix that the op ``name`` gives."""
    views = list[Node]()
    while value.index == 0 and value.ndim > 1 and value.dtype not in HALVES:
        node = value.node
        if node.op.name == name:
            return _Rows(node, tuple(reversed(views))) if value.ndim == 2 else None
        if not _keeps_rows(node):
            return None
        views.append(node)
        value = node.inputs[1 if node.op.name == "where" else 0]
    return None


def _keeps_rows(node: Node) -> bool:
    """Whether ``node`` moves, or hides, whole rows of what it shows."""
    last = node.types[0].ndim - 1
    if node.op.name == "reshape":
        return node.inputs[0].ndim > 1 and node.inputs[0].shape[-1] == node.types[0].shape[-1] > 1
    if node.op.name == "permute":
        return bool(node.attrs["dims"][last] == last)
    return node.op.name == "where" and constant_of(node.inputs[2]) is not None and _column(node.inputs[0]) is not None


def _column(v: Value) -> Value | None:
    """The [..., 1] of which ``v`` has a copy in each column."""
    x = v.node.inputs[0] if v.node.op.name == "broadcast" else v
    return x if x.ndim == v.ndim and x.shape == (*v.shape[:-1], 1) else None


def _index(index: Value, columns: int) -> Value:
    """``index`` for rows of ``columns`` elements."""
    column = _column(index)
    assert column is not None
    return broadcast_to(column, (*column.shape[:-1], columns))


def _mask(view: Node) -> Value:
    """The mask [..., 1] of whole rows."""
    column = _column(view.inputs[0])
    assert column is not None
    return column


def _number(view: Node) -> float:
    """The number that stands in a row that the mask hides."""
    number = constant_of(view.inputs[2])
    assert number is not None
    return float(number)

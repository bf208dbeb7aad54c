"""Sums of many addends: what autodiff writes for a tensor that is read in slices, or a weight that is used at every step.

    slices     pad(a) + pad(b) + c = [a b] + c                     a and b lie side by side, and nothing is added to zeros
    products   a1 @ b1 + a2 @ b2 + c = [a1 a2] @ [b1; b2] + c      one product sums what each would read and write again

The gradient of a recurrent network's weight is one product of all time steps, and that of its input has a buffer into which
each step stores its part.
"""

from __future__ import annotations

import functools
import operator
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from graphrt.ir import Graph, Node, Value
from graphrt.ops import concat, transpose
from graphrt.ops.base import apply
from graphrt.passes.patterns.sums import addends, unreshaped
from graphrt.passes.simplify import simplify


@dataclass(frozen=True)
class _Slices:
    """Terms that are zero but for a part each, which lie side by side along ``dim`` from ``low`` on, with ``high`` behind."""

    terms: tuple[Value, ...]
    dim: int
    low: int
    high: int

    def build(self, table: Mapping[Value, Value]) -> Value:
        """The sum of the terms, of what ``table`` has for their parts."""
        whole = concat([table[v.node.inputs[0]] for v in self.terms], self.dim)
        none = (0,) * whole.ndim
        low, high = (tuple(n if d == self.dim else 0 for d in range(whole.ndim)) for n in (self.low, self.high))
        return apply("pad", whole, low=low, high=high, interior=none, value=0.0) if self.low or self.high else whole


@dataclass(frozen=True)
class _Products:
    """Terms that are products of matrices."""

    terms: tuple[Value, ...]

    def build(self, table: Mapping[Value, Value]) -> Value:
        """The sum of the terms, of what ``table`` has for their operands."""
        left, right = ([table[v.node.inputs[i]] for v in self.terms] for i in (0, 1))
        return apply("matmul", _side_by_side(left, 1), _side_by_side(right, 0))


_Family = _Slices | _Products


def merge_addends(graph: Graph) -> Graph:
    """``graph`` with the addends of each sum merged that are slices' gradients, or products worth merging."""
    users = graph.users()
    sums = [n.outputs[0] for n in graph.nodes if n.op.name == "add" and not _is_addend(n.outputs[0], users)]
    terms = {total: addends(total, users) for total in sums}
    slices = {total: [*_slices(found)] for total, found in terms.items() if len(found) > 1}
    orders = _orders(graph, slices)
    families: dict[Node, list[_Family]] = {}
    for total, found in slices.items():
        products = _products([v for v in terms[total] if len(users[v]) == 1], orders)
        if found or products:
            families[total.node] = [*found, *products]
    if not families:
        return graph
    new, table = graph.like(), dict[Value, Value]()
    for node in graph.nodes:
        with new.at(node.origin):
            if node in families:
                total = node.outputs[0]
                rest = Counter(terms[total])  # one may be added more than once
                rest.subtract(v for family in families[node] for v in family.terms)
                table[total] = functools.reduce(
                    operator.add, [*(f.build(table) for f in families[node]), *(table[v] for v in rest.elements())]
                )
            else:
                table.update(zip(node.outputs, new.adopt(node, [table[v] for v in node.inputs]).outputs, strict=True))
    new.take_results(graph, table)
    return simplify(new)


def _is_addend(v: Value, users: Mapping[Value, Sequence[Node]]) -> bool:
    return len(users[v]) == 1 and users[v][0].op.name == "add"


def _slices(terms: Sequence[Value]) -> Iterator[_Slices]:
    """Runs of at least two terms whose parts lie side by side."""
    along: dict[int, list[Value]] = {}
    for v in terms:
        if (dim := _padded(v)) is not None:
            along.setdefault(dim, []).append(v)
    for dim, found in along.items():
        run, end = list[Value](), 0
        for v in sorted(found, key=lambda v: v.node.attrs["low"][dim]):
            low = v.node.attrs["low"][dim]
            if run and low < end:
                continue  # overlaps: a term of its own
            if low > end:
                yield from _run(run, dim)
                run = []
            run.append(v)
            end = low + v.node.inputs[0].shape[dim]
        yield from _run(run, dim)


def _run(terms: Sequence[Value], dim: int) -> Iterator[_Slices]:
    if len(terms) > 1:
        yield _Slices(tuple(terms), dim, terms[0].node.attrs["low"][dim], terms[-1].node.attrs["high"][dim])


def _padded(v: Value) -> int | None:
    """The only dimension along which ``v`` is padded with zeros, if it is."""
    if v.node.op.name != "pad" or v.node.attrs["value"] != 0 or any(v.node.attrs["interior"]) or not v.type.size:
        return None
    dims = [d for d, widths in enumerate(zip(v.node.attrs["low"], v.node.attrs["high"], strict=True)) if any(widths)]
    return dims[0] if len(dims) == 1 else None


def _products(terms: Sequence[Value], order: Callable[[Sequence[Value]], Sequence[Value]]) -> list[_Products]:
    """The products of matrices among ``terms``, where laying their operands side by side moves less than adding them does."""
    found = [v for v in terms if v.node.op.name == "matmul" and v.ndim == 2 and v.type.size]
    operands = [{v.node.inputs[i] for v in found} for i in (0, 1)]
    if len(found) < 2 or any(len(values) < len(found) for values in operands):
        return []
    rows, columns = found[0].shape
    inner = sum(v.node.inputs[0].shape[1] for v in found)
    if inner * (rows + columns) > (len(found) - 1) * rows * columns:
        return []
    return [_Products(tuple(order(found)))]


def _orders(graph: Graph, slices: Mapping[Value, Sequence[_Slices]]) -> Callable[[Sequence[Value]], Sequence[Value]]:
    """A function that puts products in the order in which their operands lie side by side anyway."""
    laid = [n.inputs for n in graph.nodes if n.op.name == "concat"]
    laid += [tuple(v.node.inputs[0] for v in family.terms) for found in slices.values() for family in found]
    bases = [[unreshaped(v) for v in values] for values in laid]
    known = {frozenset(values): {v: i for i, v in enumerate(values)} for values in bases}

    def order(products: Sequence[Value]) -> Sequence[Value]:
        for side in (0, 1):
            base = {v: unreshaped(untransposed(v.node.inputs[side])) for v in products}
            if (place := known.get(frozenset(base.values()))) is not None:
                return sorted(products, key=lambda v: place[base[v]])
        return products

    return order


def untransposed(v: Value) -> Value:
    """The matrix of which ``v`` is the transpose; ``v`` itself if it is none."""
    return v.node.inputs[0] if v.node.op.name == "permute" and v.ndim == 2 else v


def _side_by_side(matrices: Sequence[Value], dim: int) -> Value:
    """The concatenation along ``dim``; of transposed matrices, the transposed one of what they show."""
    shown = [untransposed(v) for v in matrices]
    if all(a is not b for a, b in zip(shown, matrices, strict=True)):
        return transpose(concat(shown, 1 - dim), 0, 1)
    return concat(matrices, dim)

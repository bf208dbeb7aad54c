"""Row regions: the part of a graph from a product to all that reads what is as large, if each row is made of one row.

``row_chunks`` computes it a few rows at a time. Which dimension rows lie along is found as ``batch_rows`` finds a batch's: of
views by their index maps, of what works along dimensions by the letters of its ``axes``. Sums over rows end a region.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from graphrt.errors import GraphrtError
from graphrt.index import Expr, axes
from graphrt.ir import Graph, Node, Value
from graphrt.op import Kind
from graphrt.types import TensorType

ALONG = (Kind.CONTRACTION, Kind.REDUCTION, Kind.GATHER, Kind.SCAN, Kind.SORT)  # kinds whose letters say what a row needs


class Refusal(Exception):
    """The ``reason`` why a product is made as a whole, and the ``change`` with which it would not be."""

    def __init__(self, reason: str, change: str) -> None:
        super().__init__(reason)
        self.reason, self.change = reason, change


def _goes_along(at: Expr, extent: int, index: Sequence[Expr], dim: int, source: int) -> bool:
    """Whether equal parts of a view's ``extent``, at ``at``, are of equal parts of dimension ``dim``, of ``source`` places.

    ``index`` is where the view reads: at a row, a place of several rows, or one of several places of a row.
    """
    row, rest = index[dim], [e for d, e in enumerate(index) if d != dim]
    if not at.axes() or not extent or not source:
        return False
    if source % extent == 0:
        inner, several = row - at * (source // extent), source // extent
        apart = not any(e.axes() & at.axes() for e in (inner, *rest))
        return apart and 0 <= inner.range()[0] and inner.range()[1] < several
    several = extent // source
    return extent % source == 0 and row == at // several and all(e == at % several or not e.axes() & at.axes() for e in rest)


@dataclass
class Region:
    """The part of a graph that is computed chunk by chunk, from ``product`` to all that reads what is as large.

    ``behind`` is all that is made of the product; ``nodes`` are those of a chunk, in order, ``rows`` the dimension of each
    value along which its rows lie; of ``leaves``, and of nothing else, chunks are cut. ``sums`` are over all rows, ``stacked``
    results have some.
    """

    graph: Graph
    product: Node
    behind: set[Node] = field(default_factory=set)
    rows: dict[Value, int] = field(default_factory=dict)
    leaves: list[Value] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    sums: list[Value] = field(default_factory=list)
    stacked: list[Value] = field(default_factory=list)
    _large: dict[Value, bool] = field(default_factory=dict)

    @staticmethod
    def of(graph: Graph, product: Node) -> Region:
        """The region of ``product``. Raises Refusal where a row is not made by itself."""
        found = Region(graph, product)
        inside = found._between()
        members = set[Node]()
        for node in graph.nodes:
            if node in inside:
                found._meet(node)
            elif node in found.behind and found._ends(node, members):
                found._meet(node)
            else:
                continue
            members.add(node)
        found._leave(members)
        found.nodes = [n for n in graph.nodes if n in members or (n not in found.behind and found._is_made_again(n))]
        return found

    def _ends(self, node: Node, members: set[Node]) -> bool:
        """Whether ``node`` works on numbers of ``members``, one a row, on their way to a sum over all rows, as a loss does."""
        own = [v for v in node.inputs if v.node in self.behind]
        small = all(v.node in members and v in self.rows and v.type.size == self.product.types[0].shape[0] for v in own)
        total = node.op.kind is Kind.REDUCTION and node.attrs["op"] == "sum"
        return small and (total or node.op.kind is Kind.ELEMENTWISE)

    @property
    def count(self) -> int:
        """The number of rows, or, where views part rows, of the largest parts, such as sequences."""
        return math.gcd(*(v.shape[dim] for v, dim in self.rows.items()))

    @property
    def size(self) -> int:
        """The elements of the product: what has as many is large."""
        return self.product.types[0].size

    def _between(self) -> set[Node]:
        """The nodes on the way from the product to those that read what is as large, these too."""
        made, readers = set[Value](), set[Node]()
        for node in self.graph.nodes:
            if node is self.product or not made.isdisjoint(node.inputs):
                self.behind.add(node)
                if node is self.product or any(v in made and v.type.size >= self.size for v in node.inputs):
                    readers.add(node)
                made.update(node.outputs)
        for node in reversed(self.graph.nodes):
            if node in readers:
                readers.update(v.node for v in node.inputs if v.node in self.behind)
        return readers

    def _meet(self, node: Node) -> None:
        """Finds the rows of what ``node`` makes, and takes in what else it reads."""
        kind, own = node.op.kind, [v for v in node.inputs if v.node in self.behind]
        if (total := next((v for v in own if v not in self.rows), None)) is not None:
            raise Refusal(f"{node.name} reads {total.name}, which all rows are folded into", "its rows went their ways alone")
        if kind is Kind.ELEMENTWISE:
            (dim,) = self._one({self.rows[v] for v in own}, node)
            for v in node.inputs:
                self._take(v, dim)
            self.rows[node.outputs[0]] = dim
        elif kind is Kind.VIEW:
            self.rows[node.outputs[0]] = self._shown(node)
        elif kind in ALONG and node.op.axes is not None:
            self._along(node, own)
        else:
            raise self._mixed(node)

    def _one(self, found: set[Any], node: Node) -> set[Any]:
        if len(found) != 1:
            raise self._mixed(node)
        return found

    def _mixed(self, node: Node) -> Refusal:
        return Refusal(f"{node.name} does not make a row of one row", "it did")

    def _along(self, node: Node, own: Sequence[Value]) -> None:
        assert node.op.axes is not None
        spec = node.op.axes(node)
        if node is self.product:
            letter = spec.results[0][0]
        else:
            (letter,) = self._one({spec.operands[i][self.rows[v]] for i, v in enumerate(node.inputs) if v in own}, node)
        if letter == "_":
            raise self._mixed(node)
        for letters, v in zip(spec.operands, node.inputs, strict=True):
            if letter in letters:
                self._take(v, letters.index(letter))
            elif v in own:
                raise self._mixed(node)
        for letters, v in zip(spec.results, node.outputs, strict=True):
            if letter in letters:
                self.rows[v] = letters.index(letter)
            elif node.op.kind is Kind.CONTRACTION or node.attrs.get("op") == "sum":
                self.sums.append(v)
            else:
                raise Refusal(f"{node.name} folds all rows, and not by a sum", "it were a sum")

    def _shown(self, node: Node) -> int:
        """The dimension of rows in what a view shows of a region's value."""
        assert node.op.pull is not None
        source, *others = node.inputs
        at = axes("i", node.types[0].shape)
        pieces = list(node.op.pull(node, at))
        if others or len(pieces) != 1 or pieces[0].mask:
            raise self._mixed(node)
        dim = self.rows[source]
        found = [
            d for d in range(len(at)) if _goes_along(at[d], node.types[0].shape[d], pieces[0].index, dim, source.shape[dim])
        ]
        if not found:
            raise self._mixed(node)
        return found[0]

    def _take(self, v: Value, dim: int) -> None:
        """Has rows of ``v``, which lie along ``dim``, in each chunk: cut from it, or made again of what is smaller."""
        if self.rows.setdefault(v, dim) != dim:
            raise Refusal(f"{v.name} is read along two dimensions", "it were read along one")
        node = v.node
        if node in self.behind:
            return
        if self._is_made_again(node):
            for x, at in self._read(node, dim):
                if at is not None:
                    self._take(x, at)
        elif v.type.size >= self.size and node.op.kind is not Kind.GENERATED:
            raise Refusal(f"{v.name}, which it meets, is as large", "that were computed from something smaller")
        elif v not in self.leaves:
            self.leaves.append(v)

    def _is_made_again(self, node: Node) -> bool:
        """Whether chunks make what ``node`` does again, from what it reads: it is a view, or it is made of what is large."""
        v = node.outputs[0]
        if v not in self.rows:
            return False
        if node.op.kind is Kind.GENERATED:
            return node.attrs.get("dim") != self.rows[v]  # or it counts the rows
        if node.op.kind is Kind.VIEW:
            return next(self._read(node, self.rows[v]), None) is not None
        return node.op.kind in (Kind.ELEMENTWISE, Kind.REDUCTION) and self._is_of_large(v)

    def _is_of_large(self, v: Value) -> bool:
        """Whether ``v`` is as large as the product, or cheaply made of what is."""
        if v not in self._large:
            cheap = v.node.op.kind in (Kind.VIEW, Kind.ELEMENTWISE, Kind.REDUCTION)
            self._large[v] = v.type.size >= self.size or (cheap and any(map(self._is_of_large, v.node.inputs)))
        return self._large[v]

    def _read(self, node: Node, dim: int) -> Iterator[tuple[Value, int | None]]:
        """Yields what ``node`` reads, with the dimension of its rows if those of the result lie along ``dim``; or nothing."""
        if node.op.kind is Kind.REDUCTION and node.op.axes is not None:
            spec = node.op.axes(node)
            yield from ((x, letters.index(spec.results[0][dim])) for x, letters in zip(node.inputs, spec.operands, strict=True))
            return
        if node.op.kind is not Kind.VIEW:
            yield from ((x, dim) for x in node.inputs)
            return
        assert node.op.pull is not None
        at = axes("i", node.types[0].shape)
        pieces = list(node.op.pull(node, at))
        if len(pieces) != 1 or pieces[0].mask or len(node.inputs) != 1:
            return
        x, index, extent = node.inputs[0], pieces[0].index, node.types[0].shape[dim]
        if not any(at[dim].axes() & e.axes() for e in index):
            yield x, None
        elif found := [d for d in range(x.ndim) if _goes_along(at[dim], extent, index, d, x.shape[d])]:
            yield x, found[0]

    def shape(self, v: Value, length: int) -> tuple[int, ...]:
        """The shape of ``v`` in one of ``length`` chunks."""
        return tuple(n // length if d == self.rows.get(v) else n for d, n in enumerate(v.shape))

    def part(self, node: Node, length: int) -> dict[str, Any]:
        """The attributes of ``node`` for one of ``length`` chunks. Raises Refusal where it has no such part."""
        attrs = dict(node.attrs)
        if "shape" in attrs:
            attrs["shape"] = self.shape(node.outputs[0], length)
        try:
            types = node.op.types(tuple(TensorType(self.shape(v, length), v.dtype) for v in node.inputs), attrs)
        except GraphrtError as error:
            raise Refusal(f"{node.name} is not made of fewer rows: {error}", "it were") from None
        if [t.shape for t in types] != [self.shape(v, length) for v in node.outputs]:
            raise self._mixed(node)
        return attrs

    def _leave(self, inside: set[Node]) -> None:
        """Finds what others read of the region. Raises Refusal for what is large."""
        results, users = set(self.graph.results()), self.graph.users()
        for node in self.graph.nodes:
            for v in node.outputs if node in inside else ():
                if v in self.sums or not (v in results or any(user not in inside for user in users[v])):
                    continue
                if v.type.size >= self.size:
                    reader = "it is returned" if v in results else "it is read as a whole"
                    raise Refusal(f"{v.name} is as large, and {reader}", "nobody read it")
                self.stacked.append(v)

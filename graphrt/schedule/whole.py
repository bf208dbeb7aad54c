"""Kernels that read whole tensors: they move as many bytes as these have, which nobody has to find load by load.

    x --> [ sub, mul, reduce ] --> y     each element of x is read for some row of y, so the kernel reads x

Which operands a node reads all of, seen through views, is found out once for each node. A kernel is followed from what it
stores and folds to what it loads: where all is read whole, its bytes are known, else ``Traffic`` walks over its loads.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from graphrt.index import axes, linearize, row_major
from graphrt.ir import Node, Value
from graphrt.op import Kind
from graphrt.schedule.group import WHOLE, Group, Index
from graphrt.schedule.lower import closures, rows_of
from graphrt.schedule.policy import ROW_LIMIT
from graphrt.schedule.schedule import Schedule
from graphrt.types import Shape

Reads = dict[Value, bool]  # what is read, by whether all of it is


class Whole:
    """Finds bytes of kernels that read whole tensors; ``row_limit`` is the scheduler's (``SchedulePolicy``)."""

    def __init__(self, row_limit: int) -> None:
        self.row_limit = row_limit
        self._reads: dict[Node, Reads] = {}
        self._behind: dict[Value, Reads] = {}
        self._views: dict[Node, set[Value]] = {}
        self._covers: dict[tuple[Index, Shape], bool] = {}
        self._everywhere: dict[tuple[Group, Node], bool] = {}

    def node(self, node: Node) -> int | None:
        """The bytes that ``node`` reads in a kernel of its own; None where it does not read whole tensors."""
        reads = self.reads(node)
        return sum(v.type.nbytes for v in reads) if all(reads.values()) and node.op.kind not in WHOLE else None

    def group(self, schedule: Schedule, group: Group) -> int | None:
        """The bytes that ``group`` reads and writes; None where it does not read whole tensors, each once."""
        if group.copies or group.kind in ("loop", "collective") or self._reads_again(schedule, group):
            return None
        if any(n.op.kind is Kind.REDUCTION for n in group.inlined):  # a total, which is found beforehand
            return None
        if schedule.buffered and any(not schedule.buffered.isdisjoint(self.views(n)) for n in (*group.nodes, *group.inlined)):
            return None
        members, inlined = {*group.nodes}, {*group.inlined}
        pending, seen, read = [*self._roots(group)], dict[Node, bool](), Reads()
        while pending:
            node, everywhere = pending.pop()
            if node in seen and seen[node] >= everywhere:
                continue
            seen[node] = everywhere
            for v, whole in self.reads(node).items():
                if v.node in members:
                    pending.append((v.node, self.everywhere(group, v.node)))
                elif v.node in inlined:
                    pending.append((v.node, whole and everywhere))
                else:
                    read[v] = read.get(v, False) or (whole and everywhere)
        if not all(read.values()) or not seen.keys() >= members:
            return None
        places = [schedule.home[v] for v in read]
        if any(p.start or p.slot.type.size != v.type.size for p, v in zip(places, read, strict=True)):
            return None
        stores = ((v, p) for v in group.outputs for p in schedule.stores.get((group, v), ()))
        written = sum(v.type.size * p.slot.type.dtype.itemsize for v, p in stores)
        return sum(p.slot.type.nbytes for p in places) + written

    def reads(self, node: Node) -> Reads:
        """The values that ``node`` reads, seen through views, and whether all of its elements read all of each."""
        if (known := self._reads.get(node)) is not None:
            return known
        found = self._reads[node] = Reads()
        for x, all_of_it in self._operands(node):
            if x.node.op.kind is Kind.VIEW:
                for v, whole in self.behind(x).items():
                    found[v] = (whole and all_of_it) or found.get(v, False)
            elif x.node.op.kind is not Kind.GENERATED and x.type.size:
                found[x] = all_of_it or found.get(x, False)
        return found

    def behind(self, v: Value) -> Reads:
        """The values that ``v`` is made of if it is a view, and whether all of its elements are all of each."""
        if v not in self._behind:
            node, found = v.node, Reads()
            if node.op.push is not None and v.type.size:  # which only reorders
                found = self.behind(node.inputs[0])
            elif node.op.kind is Kind.VIEW and v.type.size:
                assert node.op.pull is not None
                for piece in node.op.pull(node, axes("i", v.shape)):
                    x = node.inputs[piece.operand]
                    all_of_it = not piece.mask and self.covers(piece.index, x.shape)
                    for base, whole in self.behind(x).items():
                        found[base] = found.get(base, False) or (whole and all_of_it)
            elif node.op.kind is not Kind.GENERATED and v.type.size:
                found[v] = True
            self._behind[v] = found
        return self._behind[v]

    def views(self, node: Node) -> set[Value]:
        """The views through which ``node`` reads."""
        if node not in self._views:
            found, pending = set[Value](), [*node.inputs]
            while pending:
                if (v := pending.pop()).node.op.kind is Kind.VIEW and v not in found:
                    found.add(v)
                    pending += v.node.inputs
            self._views[node] = found
        return self._views[node]

    def covers(self, index: Index, shape: Shape) -> bool:
        """Whether ``index`` runs over all elements of a tensor of ``shape``, each axis by itself: then no more than once."""
        key = index, shape
        if key not in self._covers:
            offset, size = linearize(index, row_major(shape)), 1
            for (kind, _, extent), step in reversed(offset.terms):
                size = size * extent if kind == "axis" and step == size else 0
            self._covers[key] = not offset.const and size == math.prod(shape)
        return self._covers[key]

    def everywhere(self, group: Group, node: Node) -> bool:
        """Whether ``group`` computes all elements of its member ``node``, and not some, or some again."""
        key = group, node
        if key not in self._everywhere:
            if node in group.segments:
                self._everywhere[key] = False
            elif node.op.kind is Kind.REDUCTION:
                self._everywhere[key] = self.covers(group.domain, node.inputs[0].shape)
            else:
                self._everywhere[key] = node is group.anchor or self.covers(group.index[node.outputs[0]], node.types[0].shape)
        return self._everywhere[key]

    def _operands(self, node: Node) -> Iterable[tuple[Value, bool]]:
        """The operands of ``node``, and whether it reads all of each."""
        if node.op.template is not None:
            return [(v, v.node is not node and self.covers(at, v.shape)) for _, _, v, at in closures(node)]
        if node.op.kind is Kind.GATHER:
            return [(node.inputs[0], False), (node.inputs[1], True)]
        return [(v, True) for v in (node.outputs if node.op.kind is Kind.VIEW else node.inputs)]

    def _roots(self, group: Group) -> Iterator[tuple[Node, bool]]:
        """The nodes for which ``group`` loads whatever it stores: the anchor, and what it folds; and what it stores."""
        outputs = {*group.outputs}
        for node in group.nodes:
            if node is group.anchor or node.op.kind is Kind.REDUCTION or not outputs.isdisjoint(node.outputs):
                yield node, self.everywhere(group, node)

    def _reads_again(self, schedule: Schedule, group: Group) -> bool:
        """Whether ``group`` passes over rows, of which each pass reads memory again."""
        if group.kind != "reduction" or group.reduced_size <= self.row_limit // 32:
            return False
        _, columns, keep = rows_of(group, schedule, self.row_limit)
        return not keep and (columns or group.reduced_size > ROW_LIMIT)

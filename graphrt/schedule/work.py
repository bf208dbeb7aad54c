"""The work of a kernel for one element: its members once, and what is computed on load for each place it is read at.

A node that is computed where it is read is computed as often as it is read at different elements, and so is what it is made
of: of ``x + shifted(x)``, taken n times, one kernel would load 2^n elements. So a group takes nothing in beyond ``MOST``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from graphrt.index import axes
from graphrt.ir import Node, Value
from graphrt.op import Kind
from graphrt.schedule.group import ANYWHERE, Group, Guard, Index, Read, pull, read_index, reads

MOST = 512  # of one kernel: a C compiler's time grows with the square
COSTLY = 16  # an operation that is not cheap, such as an exponential
GUARDED = 8  # a read under a guard: masks of many take a C compiler long

Place = tuple[Index, tuple[Guard, ...]]


class Work:
    """The operations of ``group``, and the places at which it reads each value; ``buffers`` are not looked through."""

    def __init__(self, group: Group, order: Callable[[Node], int], buffers: Collection[Value]) -> None:
        self._group, self._buffers = group, buffers
        self._places: dict[Value, set[Place]] = {}
        self.operations = 0
        for node in sorted((*group.nodes, *group.inlined), key=order, reverse=True):  # first who reads, then what is read
            self.take(node)

    def more(self, node: Node) -> int:
        """The operations that ``node`` would add, as a member or computed on load."""
        return sum(self._cost(node, self._reads(node, place)) for place in self._computed(node))

    def take(self, node: Node) -> None:
        """Counts ``node``, which is a member or computed on load from now on."""
        for place in self._computed(node):
            found = self._reads(node, place)
            self.operations += self._cost(node, found)
            for read in found:
                self._places.setdefault(read.value, set()).add((read.index, read.guards))

    def _computed(self, node: Node) -> list[Place]:
        """The places at which ``node`` is computed: all at which it is read, if it is no member and will be none."""
        member = node in self._group.segments or node.outputs[0] in self._group.index
        places = None if member else self._places.get(node.outputs[0])
        return [(self._at(node), ())] if places is None else list(places)

    def _at(self, node: Node) -> Index:
        if node in self._group.segments or node.outputs[0] in self._group.index:
            return read_index(self._group, node)
        return axes("i", node.inputs[0].shape if node.op.kind is Kind.REDUCTION else node.types[0].shape)

    def _reads(self, node: Node, place: Place) -> list[Read]:
        index, guards = place if node.op.kind is not Kind.REDUCTION else (self._at(node), ())  # a total has no place
        if node is self._group.anchor and self._group.kind == "template":  # its operands have coordinates of their own
            return [r for i, x in enumerate(node.inputs) for r in pull(x, axes(f"x{i}_", x.shape), guards, self._buffers)]
        return list(reads(node, index, guards, self._buffers))

    def _cost(self, node: Node, found: list[Read]) -> int:
        guarded = sum(any(guard is not ANYWHERE for guard in read.guards) for read in found)
        return (1 if node.op.cheap else COSTLY) + GUARDED * guarded

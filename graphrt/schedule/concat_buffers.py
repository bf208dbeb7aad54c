"""Concatenations in place: who computes a part of one stores it where the whole has it, so that nothing is copied.

    conv, bn, relu --> [ part 0 |        ]
    pool, conv ------> [        | part 1 ]  one buffer, read by whoever reads the whole, or a part

A concatenation is a view: what reads it looks through it for the part that has an element, with a guard and a load for each
part. That is right where parts are computed on load. Where they are stored anyway, or a template would compute all of them
for every element it loads, the whole gets a buffer, and each part lies in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from graphrt.index import axes
from graphrt.ir import Graph, Node, Value
from graphrt.op import Kind
from graphrt.passes.decision import Decision
from graphrt.schedule.group import FREE, WHOLE, through

Start = tuple[int, ...]


@dataclass(frozen=True)
class ConcatBuffers:
    """``place`` of each value that lies in another's buffer: the whole, and from which element on; ``wholes`` are those.

    A smaller concatenation may lie in a larger one.
    """

    place: dict[Value, tuple[Value, Start]] = field(default_factory=dict)
    wholes: tuple[Value, ...] = ()
    decisions: tuple[Decision, ...] = ()

    @property
    def read(self) -> set[Value]:
        """The views that are read from a buffer, and not looked through."""
        return {*self.wholes, *(v for v in self.place if v.node.op.kind is Kind.VIEW)}


NO_BUFFERS = ConcatBuffers()


def parts(node: Node) -> list[tuple[Value, Start]] | None:
    """The operands of a view that lays them side by side, each with where it begins; None for anything else."""
    if node.op.kind is not Kind.VIEW or len(node.inputs) < 2 or not node.types[0].size:
        return None
    assert node.op.pull is not None
    index = axes("i", tuple(n + 1 for n in node.types[0].shape))  # so that none is the constant 0
    found: dict[int, tuple[Value, Start]] = {}
    for piece in node.op.pull(node, index):
        offsets = [a - e for a, e in zip(index, piece.index, strict=True)] if len(piece.index) == len(index) else []
        if not offsets or piece.operand in found or any(e.terms for e in offsets):
            return None
        found[piece.operand] = node.inputs[piece.operand], tuple(e.const for e in offsets)
    return [found[i] for i in range(len(node.inputs))] if len(found) == len(node.inputs) else None


def _unfit(part: Value, readers: Sequence[Node]) -> tuple[str, str]:
    """Why ``part`` cannot be stored in the buffer of a whole, and what would change that; empty where it can."""
    if part.node.op.kind in FREE:
        return f"{part.name} is not computed by a kernel", "a kernel computed it"
    if whole := next((n.op.kind.value for n in (part.node, *readers) if n.op.kind in WHOLE), ""):
        return f"a {whole} has {part.name} in one piece", f"no {whole} computed or read it"
    return "", ""


def _views(v: Value, users: Mapping[Value, Sequence[Node]]) -> set[Value]:
    """``v`` and what is seen of it through views."""
    return {v}.union(*(_views(n.outputs[0], users) for n in users[v] if n.op.kind is Kind.VIEW))


def _ends_a_kernel(node: Node, users: Mapping[Value, Sequence[Node]]) -> bool:
    """Whether ``node`` is what a template computes, or what is computed of it alone: stored by its kernel, wherever it is."""
    while node.op.kind is Kind.ELEMENTWISE:
        made = [v.node for v in node.inputs if v.node.op.kind not in FREE and users[v] == [node]]
        if len(made) != 1:
            return False
        (node,) = made
    return node.op.template is not None


def _readers(v: Value, users: Mapping[Value, Sequence[Node]]) -> list[Node]:
    """The nodes that read ``v``, or a view of it."""
    return [n for view in _views(v, users) for n in users[view] if n.op.kind is not Kind.VIEW]


def find_buffers(graph: Graph) -> ConcatBuffers:
    """Finds a buffer for every concatenation whose parts may and should lie in one, the largest first."""
    users, results = graph.users(), set(graph.results())
    returned = list(graph.outputs.values())
    laid = {n.outputs[0]: found for n in graph.nodes if (found := parts(n)) is not None}
    place: dict[Value, tuple[Value, Start]] = {}
    wholes: list[Value] = []
    decisions: list[Decision] = []

    def inside(whole: Value, start: Start, found: dict[Value, Start]) -> tuple[str, str]:
        """Fills ``found`` with where the parts of ``whole`` are; returns why one cannot be there, and what would change it."""
        for v, offset in laid[whole]:
            at = tuple(a + b for a, b in zip(start, offset, strict=True))
            if v in found or v in place:
                return f"{v.name} lies elsewhere", "it were part of this alone"
            if v in results:
                return f"{v.name} is a result", "it were not returned"
            found[v] = at
            if v in laid:
                if (against := inside(v, at, found))[0]:
                    return against
            elif (against := _unfit(v, _readers(v, users)))[0]:
                return against
        return "", ""

    def within(v: Value) -> tuple[Value, Start] | None:
        """The place in another whole where the parts of ``v`` lie as in ``v``, side by side."""
        spots = set[tuple[Value, Start] | None]()
        for part, offset in laid[v]:
            at = place.get(part)
            spots.add((at[0], tuple(a - b for a, b in zip(at[1], offset, strict=True))) if at is not None else None)
        return spots.pop() if len(spots) == 1 else None

    for v in sorted(laid, key=lambda v: -v.type.nbytes):
        if v in place:
            continue
        inner: dict[Value, Start] = {}
        readers = _readers(v, users)
        computed = [x.node for x in through(v)]
        cheap = [n.name for n in computed if n.op.kind is Kind.ELEMENTWISE and n.op.cheap and not _ends_a_kernel(n, users)]
        spot = within(v)
        if not readers and _views(v, users).isdisjoint(results):
            continue
        if spot is not None:
            place[v], reason, change = spot, "", ""
        elif v in results and (returned.count(v) != 1 or v in graph.updates.values()):
            reason, change = "is returned more than once", "it were returned once, and no parameter became it"
        elif cheap and v not in results and not any(n.op.template for n in readers):
            reason, change = f"{cheap[0]} is cheap: computed where it is read", "a template read the whole"
        else:
            reason, change = inside(v, (0,) * v.ndim, inner)
            if not reason:
                wholes.append(v)
                place.update({part: (v, start) for part, start in inner.items()})
        why = reason or "each part is stored in its place"
        decisions.append(Decision("concat", v.node.name, "one buffer", not reason, why, change=change))
    return ConcatBuffers(place, tuple(wholes), tuple(decisions))

"""A fused group: data, printed as one line.

A group is the nodes of one kernel (or of one part of a horizontally fused launch). Its ``domain`` is an index space: the
output of a template, the input of a reduction, or the shape of an elementwise group; every member value has an index in it,
which is how fusion knows that two values meet at the same element.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace

from graphrt.index import Expr, axes
from graphrt.ir import Node, Value
from graphrt.op import Kind
from graphrt.ops.collective import sent
from graphrt.types import Shape

Index = tuple[Expr, ...]
Guard = tuple[Expr, int, int]
ANYWHERE: Guard = (Expr(), 0, 1)  # marks a read whose place the data decides
FREE = (Kind.SOURCE, Kind.VIEW, Kind.GENERATED)  # kinds that are never members: read, or computed where needed
WHOLE = (Kind.LOOP, Kind.COLLECTIVE)  # kinds that take their operands as they lie, each in one piece: groups of their own
FUSABLE = (Kind.ELEMENTWISE, Kind.RANDOM, Kind.GATHER)  # kinds computed element by element, in any group


@dataclass(frozen=True)
class Read:
    """An element of a view found in the value that holds it: where, and under which guards."""

    value: Value
    index: Index
    guards: tuple[Guard, ...] = ()


def pull(value: Value, index: Index, guards: tuple[Guard, ...] = (), buffers: Collection[Value] = ()) -> Iterator[Read]:
    """Follows views from ``value[index]`` under ``guards`` down to what is stored or computed, or is in ``buffers``."""
    node = value.node
    if node.op.kind is not Kind.VIEW or value in buffers:
        yield Read(value, index, guards)
        return
    assert node.op.pull is not None
    for piece in node.op.pull(node, index):
        yield from pull(node.inputs[piece.operand], piece.index, guards + piece.mask, buffers)


def reads(node: Node, index: Index, guards: tuple[Guard, ...] = (), buffers: Collection[Value] = ()) -> Iterator[Read]:
    """The reads of ``node`` for its element at ``index`` (operands have one shape, or are scalars; a stored view is pulled)."""
    if node.op.kind is Kind.VIEW:
        yield from pull(node.outputs[0], index, guards, buffers)
        return
    aligned = node.inputs[1:] if node.op.kind is Kind.GATHER else node.inputs
    for operand in aligned:
        yield from pull(operand, index if operand.ndim == len(index) else (), guards, buffers)
    for operand in node.inputs[: len(node.inputs) - len(aligned)]:
        for read in pull(operand, axes("anywhere", operand.shape), guards, buffers):
            yield replace(read, guards=(*read.guards, ANYWHERE))


def chain(value: Value) -> list[Node]:
    """The views between ``value`` and its first stored operand, nearest first."""
    nodes = []
    while value.node.op.kind is Kind.VIEW:
        nodes.append(value.node)
        value = value.node.inputs[0]
    return nodes


def through(value: Value) -> list[Value]:
    """The stored or computed values behind the views of ``value``."""
    if value.node.op.kind is not Kind.VIEW:
        return [value]
    return [v for x in value.node.inputs for v in through(x)]


@dataclass(eq=False)
class Group:
    """One kernel. ``index`` gives each member value's place in the domain; ``inlined`` nodes are computed on load."""

    name: str
    anchor: Node | None
    shape: Shape
    domain: Index
    nodes: list[Node] = field(default_factory=list)
    index: dict[Value, Index] = field(default_factory=dict)
    segments: dict[Node, Index] = field(default_factory=dict)  # sums of segments of rows: the index of what they sum
    inlined: list[Node] = field(default_factory=list)
    copies: list[Value] = field(default_factory=list)  # results that are views or inputs, copied out
    inputs: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)

    @property
    def kind(self) -> str:
        """template, loop, collective, reduction or pointwise."""
        if self.anchor is None:
            return "pointwise"
        if self.anchor.op.kind in WHOLE:
            return self.anchor.op.kind.value
        return "reduction" if self.anchor.op.kind is Kind.REDUCTION else "template"

    @property
    def label(self) -> str:
        """The name of the anchor, or of the first thing that it computes or copies: the same in every plan."""
        return self.anchor.name if self.anchor else next(v.name for v in (*self.values(), *self.copies))

    @property
    def phase(self) -> str:
        """fwd, bwd or opt: of the anchor, or of the first node."""
        return (self.anchor or self.nodes[0]).origin.phase if self.nodes else "fwd"

    @property
    def reduced(self) -> tuple[int, ...]:
        """The dimensions of the domain that a reduction group reduces."""
        return tuple(self.anchor.attrs["dims"]) if self.kind == "reduction" and self.anchor is not None else ()

    @property
    def reduced_size(self) -> int:
        """The number of elements that a reduction group reduces to one."""
        size = 1
        for d in self.reduced:
            size *= self.shape[d]
        return size

    def is_full(self, value: Value) -> bool:
        """Whether a member of a reduction group depends on a reduced axis (it lives inside the loop)."""
        return value in self.full([value])

    def full(self, values: Iterable[Value]) -> set[Value]:
        """The ones of ``values``, members of a reduction group, that live inside the loop."""
        inner = set().union(*(self.domain[d].axes() for d in self.reduced))
        return {v for v in values if any(e.runs_along(inner) for e in self.index[v])}

    def folded(self) -> list[Node]:
        """The members that a reduction group folds over its reduced axes."""
        return [n for n in self.nodes if n.op.kind is Kind.REDUCTION and n not in self.segments]

    def levels(self) -> dict[Node, int]:
        """The pass over the rows that computes each member or inlined node: how many reductions lie before it."""
        members, rows = {*self.nodes, *self.inlined}, {n for n in self.nodes if n.op.kind is Kind.REDUCTION}
        found: dict[Node, int] = {}
        pending = [*reversed(self.nodes), *reversed(self.inlined)]
        while pending:  # not recursive: a chain may be thousands of nodes long
            node = pending.pop()
            before = [v.node for x in node.inputs for v in through(x) if v.node in members]
            if missing := [n for n in before if n not in found]:
                pending += [node, *missing]
                continue
            found[node] = max([found[n] + (n in rows) for n in before], default=0)
        return found

    def values(self) -> Iterator[Value]:
        """Every result of every member, in order."""
        return (v for n in self.nodes for v in n.outputs)

    def __str__(self) -> str:
        if self.kind == "loop" and self.anchor is not None:
            ins, outs = (", ".join(v.name for v in side) for side in (self.inputs, self.outputs))
            return f"{self.name} loop of {self.anchor.attrs['length']} steps in=({ins}) out=({outs})"
        if self.kind == "collective" and self.anchor is not None:
            ins, outs = (", ".join(v.name for v in side) for side in (self.inputs, self.outputs))
            about = f"{self.anchor.op.name} over {self.anchor.attrs['axis']}, sends {sent(self.anchor):,} bytes"
            return f"{self.name} {about} in=({ins}) out=({outs})"
        head = self.anchor.op.name if self.anchor else "pointwise"
        fused = [n.name for n in self.nodes if n is not self.anchor]
        prologue = f" prologue=[{', '.join(n.name for n in self.inlined)}]" if self.inlined else ""
        stop = f" stop: {'; '.join(dict.fromkeys(self.stopped))}" if self.stopped else ""
        ins, outs = (", ".join(v.name for v in side) for side in (self.inputs, [*self.outputs, *self.copies]))
        return f"{self.name} {head}[{', '.join(fused)}]{prologue} in=({ins}) out=({outs}){stop}"


@dataclass(eq=False)
class Launch:
    """One kernel launch: of one group, or of several independent ones side by side (horizontal fusion)."""

    groups: list[Group]

    @property
    def name(self) -> str:
        """The first group's name."""
        return self.groups[0].name

    def title(self) -> str:
        """The launch without its buffers: ``g7 conv[add_4, relu_4]``."""
        return str(self).split(" in=")[0].split("\n")[0]

    def description(self) -> str:
        """The computation without names: ``conv 256x64x56x56 of 64x64x3x3 add relu`` is result, last operand, fused ops."""
        first = self.groups[0]
        if len(self.groups) > 1:
            return f"{len(self.groups)} groups side by side"
        head = [first.anchor.op.name if first.anchor else "pointwise", "x".join(map(str, first.shape)) or "1"]
        if first.kind == "template" and first.anchor is not None:
            head += ["of", "x".join(map(str, first.anchor.inputs[-1].shape)) or "1"]
        fused = dict.fromkeys(n.op.name for n in (*first.inlined, *first.nodes) if n is not first.anchor)
        return " ".join([*head, *fused])

    def __str__(self) -> str:
        if len(self.groups) == 1:
            return str(self.groups[0])
        return f"{self.name} horizontal({len(self.groups)})\n" + "\n".join(f"    {g}" for g in self.groups)


def make_group(name: str, node: Node) -> Group:
    """The group of ``node`` alone."""
    shape = node.inputs[0].shape if node.op.kind is Kind.REDUCTION else node.types[0].shape
    domain = axes("i", shape)
    anchor = None if node.op.kind in FUSABLE else node
    group = Group(name, anchor, shape, domain, [node])
    kept = domain
    if node.op.kind is Kind.REDUCTION:
        kept = tuple(e for d, e in enumerate(domain) if d not in node.attrs["dims"])
    group.index.update({v: kept[: v.ndim] for v in node.outputs})  # what has fewer dimensions lacks the last ones
    return group


def read_index(group: Group, node: Node) -> Index:
    """The index at which a member reads its operands."""
    if node in group.segments:
        return group.segments[node]
    return group.domain if node.op.kind is Kind.REDUCTION else group.index[node.outputs[0]]

"""Sibling contractions become one: equal geometry, one operand in common, and channels that lie side by side.

    forward   y1 = conv(x, w1), y2 = conv(x, w2)              y = conv(x, [w1 w2]), y1 and y2 are slices of y
    dgrad     dx = dgrad(dy1, w1) + dgrad(dy2, w2) + ...      dx = dgrad([dy1 dy2], [w1 w2]) + ...
    wgrad     dw1 = wgrad(dy1, x), dw2 = wgrad(dy2, x)        dw = wgrad([dy1 dy2], x), dw1 and dw2 are slices of dw

Products of matrices likewise, such as those for query, key and value: ``x @ w1`` and ``x @ w2`` are slices of ``x @ [w1 w2]``.
What they share is read once, and the sum over siblings is the contraction's own. What follows all of them alike, a bias or an
activation, follows the one. Gradients that are computed on load must be stored for that, and weights laid side by side, unless
the target keeps them so. A target's predicted times decide (``Times``), and every family of siblings has a decision with its
reason.
"""

from __future__ import annotations

import functools
import heapq
import operator
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from graphrt.ir import Graph, Node, Value
from graphrt.op import Kind
from graphrt.ops import clone, concat, transpose
from graphrt.ops.base import apply, broadcast_to, constant_of
from graphrt.ops.slicing import cut
from graphrt.passes.decision import Decision
from graphrt.passes.patterns.addends import untransposed
from graphrt.passes.patterns.families import ROLES, Family, Role, find_families, root
from graphrt.passes.patterns.sums import addends
from graphrt.passes.simplify import simplify


@dataclass(frozen=True)
class Times:
    """The predictions of a target, in seconds: of moving a byte, of a launch, and of contractions (None: they stay apart).

    ``convolution`` is of a convolution or gradient with so many filters on so many channels (None: its own), ``product`` of a
    matmul of so many rows, columns and terms of a sum, ``pair`` what one kernel of two with one left operand saves. ``loads``
    are bytes of loads beside which narrower ones are known to cost. A target that ``keeps`` weights packed lays them side by
    side once, for all runs.
    """

    convolution: Callable[..., float] | None
    byte: float
    launch: float
    loads: tuple[int, ...] = ()
    product: Callable[[Node, int, int, int], float] | None = None
    keeps: bool = False
    pair: Callable[[Node, int, int, int], float] | None = None

    @property
    def templates(self) -> list[str]:
        """The templates whose siblings may be merged."""
        return [t for t in ROLES if (self.product if t == "matmul" else self.convolution) is not None]

    def of(self, node: Node, role: Role, width: int) -> float:
        """The time of ``node`` where what its operands have side by side in ``role`` is so wide. Asks for what is not None."""
        if node.op.template != "matmul":
            assert self.convolution is not None
            return self.convolution(node, width)
        assert self.product is not None
        (m, k), n = node.inputs[0].shape[-2:], node.inputs[1].shape[-1]
        side = role.joined[0]
        return self.product(node, *((width, n, k) if side == (0, -2) else (m, width, k) if side == (1, -1) else (m, n, width)))


def merge_siblings(graph: Graph, times: Times | None, decisions: list[Decision]) -> Graph:
    """``graph`` with those siblings merged that are predicted to gain; appends to ``decisions``."""
    if times is None:
        return graph
    chosen = _chosen(find_families(graph, times.templates), times, decisions)
    if not chosen:
        return graph
    return simplify(_Builder(graph, times.keeps).build(_order(graph, chosen)))


# --- which ---------------------------------------------------------------------------------------------------------


def _chosen(families: Sequence[Family], times: Times, decisions: list[Decision]) -> list[Family]:
    """The families that gain, each node in one at most, those whose weights lie side by side first.

    Gradients that lie side by side serve the input's gradient and the weights' alike.
    """
    together: dict[object, list[Family]] = {}
    for family in families:
        together.setdefault(family.gradients or family, []).append(family)
    merged, laid = set[Node](), set[Value]()  # members of those chosen, and weights that lie side by side for them
    chosen: dict[Family, bool] = {}
    saved: dict[Family, float] = {}
    for weights in (True, False):
        groups = [group for group in together.values() if (group[0].role.shares == 0) == weights]
        groups = [part for group in groups for part in _parts(group, times, laid)]
        found = [(_saved(group, times, laid), group) for group in groups]
        for gain, group in sorted(found, key=lambda of: -of[0]):
            fits = merged.isdisjoint(n for family in group for n in family.members)
            for family in group:
                saved[family], chosen[family] = gain, gain > times.launch / 2 and fits
                if chosen[family]:
                    merged.update(family.members)
                    laid.update(map(root, family.parts if weights else ()))
    for family in families:
        names, gain, taken = [n.name for n in family.members], saved[family], chosen[family]
        reason = f"siblings of {names[0]}: predicted to {'save' if gain > 0 else 'lose'} {1e6 * abs(gain):.1f} us"
        change = "" if taken else "one kernel were predicted to take less time than all"
        if not taken and gain > times.launch / 2:
            reason, change = f"{reason}, and more with others", "it had no other siblings"
        elif not taken and gain > 0:
            reason = f"{reason}, less than half a launch"
        decisions += [Decision("siblings", name, f"{names[0]} (siblings)", taken, reason, change=change) for name in names[1:]]
    return [family for family in families if chosen[family]]


def _parts(group: list[Family], times: Times, laid: Collection[Value]) -> list[list[Family]]:
    """``group`` as one, or apart in sums and what shares no weight with them, if that is predicted to save more."""
    apart = [[f for f in group if (f.total is None) == alone] for alone in (True, False)]
    if not all(apart) or sum(max(_saved(part, times, laid), 0.0) for part in apart) <= _saved(group, times, laid):
        return [group]
    return apart


def _saved(group: Sequence[Family], times: Times, laid: Collection[Value]) -> float:
    """Seconds that merging the families of ``group``, whose operands lie side by side for all, is predicted to save.

    ``laid`` are weights that lie side by side anyway.
    """
    saved, moved, kernels = 0.0, 0, 0
    parts: dict[Value, bool] = {}  # what comes to lie side by side, and whether it is a weight
    for family in group:
        first, count, widths = family.members[0], len(family.members), family.widths
        saved += sum(times.of(n, family.role, w) for n, w in zip(family.members, widths, strict=True))
        saved -= times.of(first, family.role, sum(widths))
        if family.total is not None:  # terms that are read to be added
            moved -= (count - 1) * first.types[0].nbytes
        moved += family.parted
        kernels += family.parted > 0
        parts |= {n.inputs[i]: True for n in family.members for i, _ in family.role.joined}
        parts |= {v: family.role.shares == 0 for v in family.parts}
    copied, stored = set[Value](), set[Value]()
    for v, weight in parts.items():  # what is given is copied, unless it is kept so; what was computed on load is stored
        source = root(v)
        if source.node.op.kind is Kind.SOURCE and not (source in laid or (times.keeps and source.node.op.name == "parameter")):
            copied.add(source)
        elif source.node.op.kind is Kind.ELEMENTWISE and not weight:
            stored.add(source)
        elif source.node.op.kind is Kind.ELEMENTWISE and not _converted(source):
            copied.add(source)
    moved += sum(2 * v.type.nbytes for v in copied) + sum(v.type.nbytes for v in stored)
    return saved - moved * times.byte - (kernels + bool(copied)) * times.launch


def _converted(v: Value) -> bool:
    """Whether ``v`` is what is given, in another dtype at most, and not computed, as a weight of eight bits is."""
    while v.node.op.kind in (Kind.VIEW, Kind.ELEMENTWISE) and len(v.node.inputs) == 1:
        v = v.node.inputs[0]
    return v.node.op.kind is Kind.SOURCE


# --- rebuilding ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Sum:
    """A sum whose terms are of one or more families of gradients, and perhaps others."""

    total: Value
    families: tuple[Family, ...]


_Unit = Node | Family | _Sum


def _order(graph: Graph, chosen: list[Family]) -> list[_Unit]:
    """The graph's nodes, siblings as one, each behind what it reads (Kahn); families that would wait for themselves part."""
    position = {n: i for i, n in enumerate(graph.nodes)}
    while True:
        totals = dict.fromkeys(f.total for f in chosen if f.total is not None)  # built where they are summed
        sums = {v.node: _Sum(v, tuple(f for f in chosen if f.total is v)) for v in totals}
        unit_of: dict[Node, _Unit] = {n: n for n in graph.nodes}
        unit_of.update((n, f) for f in chosen if f.total is None for row in (f.members, *f.behind) for n in row)
        unit_of.update(sums)
        units = list(dict.fromkeys(unit_of.values()))
        after: dict[_Unit, list[_Unit]] = {u: [] for u in units}
        waits = dict.fromkeys(units, 0)
        for node in graph.nodes:
            for v in node.inputs:
                if unit_of[v.node] is not unit_of[node]:
                    after[unit_of[v.node]].append(unit_of[node])
                    waits[unit_of[node]] += 1
        rank = {u: min(position[n] for n in _nodes(u)) for u in units}
        ready = [(rank[u], i) for i, u in enumerate(units) if not waits[u]]
        number = {u: i for i, u in enumerate(units)}
        heapq.heapify(ready)
        order = []
        while ready:
            unit = units[heapq.heappop(ready)[1]]
            order.append(unit)
            for reader in after[unit]:
                waits[reader] -= 1
                if not waits[reader]:
                    heapq.heappush(ready, (rank[reader], number[reader]))
        if len(order) == len(units):
            return order
        chosen = [f for f in chosen if f.total is not None or not waits[f]]


def _nodes(unit: _Unit) -> Iterable[Node]:
    if isinstance(unit, Node):
        return (unit,)
    return unit.members if isinstance(unit, Family) else (unit.total.node,)


class _Builder:
    """Builds ``graph`` anew with siblings merged. Weights are copied to lie side by side, unless they are ``kept`` so."""

    def __init__(self, graph: Graph, keeps: bool) -> None:
        self.graph, self.keeps, self.users = graph, keeps, graph.users()
        self.new, self.table = graph.like(), dict[Value, Value]()
        self._wholes: dict[object, Value] = {}

    def build(self, order: Sequence[_Unit]) -> Graph:
        """The graph of the units of ``order``."""
        new, table = self.new, self.table
        for unit in order:
            first = next(iter(_nodes(unit)))
            with new.at(first.origin):
                if isinstance(unit, Node):
                    table.update(zip(unit.outputs, new.adopt(unit, [table[v] for v in unit.inputs]).outputs, strict=True))
                elif isinstance(unit, Family):
                    self._slices(unit)
                else:
                    members = {n for family in unit.families for n in family.members}
                    terms = [self._contraction(family) for family in unit.families]
                    terms += [table[v] for v in addends(unit.total, self.users) if v.node not in members]
                    table[unit.total] = functools.reduce(operator.add, terms)
        new.take_results(self.graph, table)
        return new

    def _contraction(self, family: Family) -> Value:
        """The contraction that takes the place of the members."""
        first, inputs = family.members[0], [self.table[v] for v in family.members[0].inputs]
        for i, dim in family.role.joined:
            inputs[i] = self._whole([n.inputs[i] for n in family.members], dim % inputs[i].ndim)
        return apply(first.op.name, *inputs, **first.attrs)

    def _slices(self, family: Family) -> None:
        """The members' results, and what follows them, as slices of one."""
        dim, start = family.role.result, 0
        ends = [start := start + width for width in family.widths]
        wholes: dict[Value, Value] = {}
        for row in (family.members, *family.behind):
            first = row[0]
            if row is family.members:
                y = self._contraction(family)
            elif first.op.kind is Kind.VIEW:
                y = wholes[first.inputs[0]]
                y = apply("reshape", y, shape=(*first.types[0].shape[:-1], y.shape[-1]))
            else:
                operands = [wholes.get(v) for v in first.inputs]
                shape = next(v for v in operands if v is not None).shape
                others = [[n.inputs[i] for n in row] for i in range(len(operands))]
                inputs = [self._beside(o, dim, shape) if v is None else v for v, o in zip(operands, others, strict=True)]
                y = apply(first.op.name, *inputs, **first.attrs)
            wholes[first.outputs[0]] = y
            for n, begin, end in zip(row, [0, *ends], ends, strict=False):
                self.table[n.outputs[0]] = cut(y, dim % y.ndim, begin, end)

    def _beside(self, values: Sequence[Value], dim: int, shape: Sequence[int]) -> Value:
        """The operands ``values`` of what follows, side by side; a number that all have is one of ``shape``."""
        first = self.table[values[0]]
        if (number := constant_of(first)) is not None:
            return broadcast_to(first.graph.constant(number, first.dtype), tuple(shape))
        return concat([self.table[v] for v in values], dim % first.ndim)

    def _whole(self, parts: Sequence[Value], dim: int) -> Value:
        """``parts`` side by side along ``dim``; what is given is copied, for a kernel reads one operand."""
        shown = [untransposed(v) for v in parts]
        if all(a is not b for a, b in zip(shown, parts, strict=True)):
            return transpose(self._whole(shown, 1 - dim), 0, 1)
        key = (dim, *(self.table[v] for v in parts))
        if key not in self._wholes:
            self._wholes[key] = concat([self._laid(v) for v in parts], dim)
        return self._wholes[key]

    def _laid(self, v: Value) -> Value:
        source = root(v).node
        kept = self.keeps and source.op.name == "parameter" and source.name not in self.graph.updates
        return clone(self.table[v]) if source.op.kind is Kind.SOURCE and not kept else self.table[v]


def filters(node: Node) -> int:
    """The filters of a convolution, or of a gradient of one."""
    return node.inputs[1].shape[0] if node.op.template != "conv_wgrad" else node.types[0].shape[0]

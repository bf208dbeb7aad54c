"""Sibling convolutions become one: equal geometry, one operand in common, and channels that lie side by side.

    forward   y1 = conv(x, w1), y2 = conv(x, w2)              y = conv(x, [w1 w2]), y1 and y2 are slices of y
    dgrad     dx = dgrad(dy1, w1) + dgrad(dy2, w2) + ...      dx = dgrad([dy1 dy2], [w1 w2]) + ...
    wgrad     dw1 = wgrad(dy1, x), dw2 = wgrad(dy2, x)        dw = wgrad([dy1 dy2], x), dw1 and dw2 are slices of dw

What they share is read once, and the sum over siblings is the contraction's own. Gradients that are computed on load must be
stored for that. A target's predicted times decide (``Times``), and every family of siblings has a decision with its reason.
"""

from __future__ import annotations

import functools
import heapq
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from graphrt.ir import Graph, Node, Value
from graphrt.op import Kind
from graphrt.ops import clone, concat
from graphrt.ops.base import apply
from graphrt.ops.slicing import cut
from graphrt.passes.decision import Decision
from graphrt.passes.patterns.sums import addends, total
from graphrt.passes.simplify import dead_code


@dataclass(frozen=True)
class Times:
    """The predictions of a target, in seconds: of a convolution or gradient with so many filters on so many channels (None:
    its own), of moving a byte, and of a launch. ``loads`` are bytes of loads beside which narrower ones are known to cost."""

    convolution: Callable[..., float]
    byte: float
    launch: float
    loads: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Family:
    """Siblings in the order of their channels. ``total`` is the sum whose terms they are, of gradients of one input."""

    members: tuple[Node, ...]
    total: Value | None = None

    @property
    def gradients(self) -> frozenset[Value]:
        """The gradients that must lie side by side; none of a forward family."""
        return frozenset() if self.members[0].op.template == "conv" else frozenset(n.inputs[0] for n in self.members)


def merge_siblings(graph: Graph, times: Times | None, decisions: list[Decision]) -> Graph:
    """``graph`` with those siblings merged that are predicted to gain; appends to ``decisions``."""
    if times is None:
        return graph
    chosen = _chosen(graph, _families(graph), times, decisions)
    if not chosen:
        return graph
    order = _order(graph, chosen)
    return dead_code(_rebuilt(graph, order))


# --- which ---------------------------------------------------------------------------------------------------------


def _families(graph: Graph) -> list[_Family]:
    """Siblings, gradients in the order of their forward convolutions' filters, so that all find them side by side."""
    position, users = {n: i for i, n in enumerate(graph.nodes)}, graph.users()
    rank: dict[Value, int] = {}  # of a gradient: where its filter is defined
    for node in graph.nodes:
        if node.op.template == "conv_dgrad":
            rank[node.inputs[0]] = position[node.inputs[1].node]
    found: dict[object, list[Node]] = {}
    totals: dict[object, Value] = {}
    for node in graph.nodes:
        if node.op.template not in ("conv", "conv_dgrad", "conv_wgrad") or node.attrs["groups"] > 1:
            continue
        shape = node.types[0].shape if node.op.template == "conv_wgrad" else node.inputs[1].shape
        shared: Value = node.inputs[1] if node.op.template == "conv_wgrad" else node.inputs[0]
        if node.op.template == "conv_dgrad":
            shared = total(node.outputs[0], users)
        attrs = tuple((k, str(v)) for k, v in sorted(node.attrs.items()))
        key = node.op.template, shared, shape[1:], node.types[0].dtype, attrs
        found.setdefault(key, []).append(node)
        if node.op.template == "conv_dgrad":
            totals[key] = shared

    def at(node: Node) -> int:
        if node.op.template == "conv":
            return position[node.inputs[1].node]
        return rank.get(node.inputs[0], position[node.inputs[0].node])

    families = []
    for kind, nodes in found.items():
        distinct = {n.inputs[0] if n.op.template != "conv" else n.inputs[1] for n in nodes}
        if len(nodes) == len(distinct) > 1 and all(n.types[0].size for n in nodes):
            families.append(_Family(tuple(sorted(nodes, key=at)), totals.get(kind)))
    return families


def _chosen(graph: Graph, families: Sequence[_Family], times: Times, decisions: list[Decision]) -> list[_Family]:
    """The families that gain. Gradients that lie side by side serve the input's gradient and the filters' alike."""
    together: dict[object, list[_Family]] = {}
    for family in families:
        together.setdefault(family.gradients or family, []).append(family)
    chosen = []
    for group in together.values():
        saved, moved = 0.0, 0
        for family in group:
            first, count = family.members[0], len(family.members)
            widths = [filters(n) for n in family.members]
            saved += sum(map(times.convolution, family.members, widths)) - times.convolution(first, sum(widths))
            if family.total is not None:  # terms that are read to be added
                moved -= (count - 1) * first.types[0].nbytes
            elif first.op.template == "conv":
                moved += sum(2 * n.inputs[1].type.nbytes for n in family.members if n.inputs[1].node.op.kind is Kind.SOURCE)
        moved += sum(v.type.nbytes for v in group[0].gradients if v.node.op.kind is Kind.ELEMENTWISE)
        saved -= moved * times.byte
        for family in group:
            names = [n.name for n in family.members]
            gain = f"predicted to save {1e6 * saved:.1f} us" if saved > 0 else f"predicted to lose {-1e6 * saved:.1f} us"
            reason = f"siblings of {names[0]}: {gain}"
            change = "" if saved > 0 else "one kernel were predicted to take less time than all"
            decisions += [
                Decision("siblings", name, f"{names[0]} (siblings)", saved > 0, reason, change=change) for name in names[1:]
            ]
        if saved > 0:
            chosen += group
    return chosen


def filters(node: Node) -> int:
    """The filters of a convolution, or of a gradient of one."""
    return node.inputs[1].shape[0] if node.op.template != "conv_wgrad" else node.types[0].shape[0]


# --- rebuilding ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Sum:
    """A sum whose terms are of one or more families of gradients, and perhaps others."""

    total: Value
    families: tuple[_Family, ...]


_Unit = Node | _Family | _Sum


def _order(graph: Graph, chosen: list[_Family]) -> list[_Unit]:
    """The graph's nodes, siblings as one, each behind what it reads (Kahn); families that would wait for themselves part."""
    position = {n: i for i, n in enumerate(graph.nodes)}
    while True:
        totals = dict.fromkeys(f.total for f in chosen if f.total is not None)  # built where they are summed
        sums = {v.node: _Sum(v, tuple(f for f in chosen if f.total is v)) for v in totals}
        unit_of: dict[Node, _Unit] = {n: n for n in graph.nodes}
        unit_of.update((n, f) for f in chosen if f.total is None for n in f.members)
        unit_of.update(sums)
        units = list(dict.fromkeys(unit_of.values()))
        after: dict[_Unit, list[_Unit]] = {u: [] for u in units}
        waits = dict.fromkeys(units, 0)
        for node in graph.nodes:
            for v in node.inputs:
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
    return unit.members if isinstance(unit, _Family) else (unit.total.node,)


def _rebuilt(graph: Graph, order: Sequence[_Unit]) -> Graph:
    new, table = graph.like(), dict[Value, Value]()
    wholes: dict[tuple[Value, ...], Value] = {}
    users = graph.users()

    def whole(parts: Sequence[Value], dim: int) -> Value:
        """``parts`` side by side along ``dim``; what is in a buffer already is copied, for a kernel reads one operand."""
        key = tuple(table[v] for v in parts)
        if key not in wholes:
            wholes[key] = concat([clone(v) if v.node.op.kind is Kind.SOURCE else v for v in key], dim)
        return wholes[key]

    for unit in order:
        first = next(iter(_nodes(unit)))
        with new.at(first.origin):
            if isinstance(unit, Node):
                table.update(zip(unit.outputs, new.adopt(unit, [table[v] for v in unit.inputs]).outputs, strict=True))
            elif isinstance(unit, _Family):
                table.update(_merged(unit, table, whole))
            else:
                members = {n for family in unit.families for n in family.members}
                terms = [_gradient(family, whole) for family in unit.families]
                terms += [table[v] for v in addends(unit.total, users) if v.node not in members]
                table[unit.total] = functools.reduce(operator.add, terms)
    new.take_results(graph, table)
    return new


def _gradient(family: _Family, whole: Callable[[Sequence[Value], int], Value]) -> Value:
    """The sum of the members' results."""
    first, inputs = family.members[0], [n.inputs for n in family.members]
    return apply(first.op.name, whole([dy for dy, _ in inputs], 1), whole([w for _, w in inputs], 0), **first.attrs)


def _merged(
    family: _Family, table: Mapping[Value, Value], whole: Callable[[Sequence[Value], int], Value]
) -> dict[Value, Value]:
    """The members' results as slices of one."""
    members = family.members
    first, inputs = members[0], [n.inputs for n in members]
    if first.op.template == "conv":
        y, dim = apply(first.op.name, table[first.inputs[0]], whole([w for _, w in inputs], 0), **first.attrs), 1
    else:
        y, dim = apply(first.op.name, whole([dy for dy, _ in inputs], 1), table[first.inputs[1]], **first.attrs), 0
    found, start = {}, 0
    for n in members:
        found[n.outputs[0]] = cut(y, dim, start, start + filters(n))
        start += filters(n)
    return found

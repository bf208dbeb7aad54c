"""Families of sibling contractions: equal geometry, one operand in common, and parts of the others that may lie side by side.

x @ w1, x @ w2     share x, and the weights come to lie side by side; what follows both alike, as a bias, goes with them
dy1 @ v1 + dy2 @ v2     are terms of one sum: all operands come to lie side by side
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from graphrt.ir import Graph, Node, Value
from graphrt.op import Kind
from graphrt.ops.base import constant_of
from graphrt.passes.patterns.sums import total


@dataclass(frozen=True)
class Role:
    """How siblings meet: the operand that they ``share`` (None: they are terms of a sum), and those that come to lie side by
    side, each with its dimension; ``result`` is the dimension of the result of which theirs are slices."""

    shares: int | None
    joined: tuple[tuple[int, int], ...]
    result: int = 0


ROLES: Mapping[str, tuple[Role, ...]] = {
    "conv": (Role(0, ((1, 0),), 1),),
    "conv_dgrad": (Role(None, ((0, 1), (1, 0))),),
    "conv_wgrad": (Role(1, ((0, 1),), 0),),
    "matmul": (Role(0, ((1, -1),), -1), Role(1, ((0, -2),), -2), Role(None, ((0, -1), (1, -2)))),
}


@dataclass(frozen=True)
class Family:
    """Siblings in the order of their channels. ``total`` is the sum whose terms they are, of gradients of one input.

    ``behind`` are nodes that follow all members alike, one of each in a row; ``parted`` are bytes of what followed some of them
    in their kernels, and cannot follow the one.
    """

    members: tuple[Node, ...]
    role: Role
    total: Value | None = None
    behind: tuple[tuple[Node, ...], ...] = ()
    parted: int = 0

    @property
    def widths(self) -> list[int]:
        """The members' parts of what lies side by side."""
        (operand, dim), *_ = self.role.joined
        return [n.inputs[operand].shape[dim] for n in self.members]

    @property
    def parts(self) -> tuple[Value, ...]:
        """The values that come to lie side by side."""
        return tuple(n.inputs[self.role.joined[0][0]] for n in self.members)

    @property
    def gradients(self) -> frozenset[Value]:
        """The values of which ``parts`` are views, if they are no weights."""
        return frozenset() if self.role.shares == 0 else frozenset(map(_base, self.parts))


def find_families(graph: Graph, templates: Collection[str]) -> list[Family]:
    """Siblings among the contractions of ``templates``.

    Gradients are in the order of their forward contractions' weights, so that all who read them find them side by side.
    """
    position, users = {n: i for i, n in enumerate(graph.nodes)}, graph.users()
    rank: dict[Value, int] = {}  # of a gradient: where its weight is defined
    found: dict[tuple[object, ...], list[Node]] = {}
    about: dict[tuple[object, ...], tuple[Role, Value]] = {}
    for node in graph.nodes:
        template = node.op.template or ""
        if template not in templates or node.attrs.get("groups", 1) > 1 or not node.types[0].size:
            continue
        for role in ROLES[template]:
            shared = total(node.outputs[0], users) if role.shares is None else node.inputs[role.shares]
            if role.shares is None:
                rank[_base(node.inputs[0])] = position[_base(node.inputs[1]).node]
            shapes = [_without(node.inputs[i].shape, d) for i, d in role.joined]
            attrs = tuple((k, str(v)) for k, v in sorted(node.attrs.items()))
            key = template, role, shared, *shapes, node.types[0].dtype, attrs
            found.setdefault(key, []).append(node)
            about[key] = role, shared
    laid = [[_base(v) for v in n.inputs] for n in graph.nodes if n.op.name == "concat"]
    side_by_side = {frozenset(values): {v: i for i, v in enumerate(values)} for values in laid}
    alone = _independent(graph, [nodes for nodes in found.values() if len(nodes) > 1])
    families = []
    for key, nodes in found.items():
        role, shared = about[key]
        (operand, _), *_ = role.joined
        nodes = alone(nodes)
        parts = {n: _base(n.inputs[operand]) for n in nodes}
        if len(nodes) == len({n.inputs[operand] for n in nodes}) > 1:
            order = side_by_side.get(frozenset(parts.values()), rank if role.shares != 0 else {})
            members = tuple(sorted(nodes, key=lambda n: order.get(parts[n], position[parts[n].node])))
            families.append(Family(members, role, shared if role.shares is None else None))
    given, results = _given(graph), set(graph.results())
    return [_followed(f, users, given, results) if f.role.shares == 0 else f for f in families]


def root(v: Value) -> Value:
    """The value that ``v`` is a view of, through views of one operand."""
    while v.node.op.kind is Kind.VIEW and len(v.node.inputs) == 1:
        v = v.node.inputs[0]
    return v


def _base(v: Value) -> Value:
    """The same, through views of all its elements alone."""
    while v.node.op.kind is Kind.VIEW and len(v.node.inputs) == 1 and v.node.inputs[0].type.size == v.type.size:
        v = v.node.inputs[0]
    return v


def _without(shape: Sequence[int], dim: int) -> tuple[int, ...]:
    """``shape`` without the dimension ``dim``, which may count from the end."""
    dim %= len(shape)
    return (*shape[:dim], *shape[dim + 1 :])


def _independent(graph: Graph, groups: Sequence[Sequence[Node]]) -> Callable[[Sequence[Node]], list[Node]]:
    """A function that drops from one of ``groups`` the nodes that wait for others that stay."""
    bit = {n: 1 << i for i, n in enumerate(dict.fromkeys(n for nodes in groups for n in nodes))}
    behind: dict[Node, int] = {}  # what a node waits for, itself included
    for node in graph.nodes if bit else ():
        waits = functools.reduce(operator.or_, (behind[v.node] for v in node.inputs), 0)
        behind[node] = waits | bit.get(node, 0)

    def alone(nodes: Sequence[Node]) -> list[Node]:
        kept, stay = list[Node](), 0
        for n in nodes:
            if not behind.get(n, 0) & stay:
                kept.append(n)
                stay |= bit.get(n, 0)
        return kept

    return alone


def _given(graph: Graph) -> set[Value]:
    """The values that wait for no kernel: what the graph is given, constants, and views of those."""
    found: set[Value] = set()
    for node in graph.nodes:
        if node.op.kind in (Kind.SOURCE, Kind.GENERATED) or (node.op.kind is Kind.VIEW and found.issuperset(node.inputs)):
            found.update(node.outputs)
    return found


def _followed(family: Family, users: Mapping[Value, Sequence[Node]], given: set[Value], results: Collection[Value]) -> Family:
    """``family`` with what follows all members alike: elementwise ops whose other operands are broadcast, and views of rows.

    And with the bytes of what follows several of them at once, as a product of two of them does.
    """
    lanes = {n.outputs[0]: (0, i) for i, n in enumerate(family.members)}  # which row a value is of, and whose

    def sign(node: Node, lane: int) -> object:
        """The text that partners have in common; None where ``node`` cannot be of a row."""
        signs = list[object]()
        for v in node.inputs:
            if v in lanes and lanes[v][1] == lane:
                signs.append(lanes[v][0])
            elif v in given and root(v).type.size < v.type.size:
                signs.append((_without(v.shape, dim), v.dtype, constant_of(v)))
            else:
                return None
        reshapes = node.op.name == "reshape" and dim == -1 and node.types[0].shape[-1:] == node.inputs[0].shape[-1:]
        if len(node.outputs) > 1 or not (reshapes or node.op.kind is Kind.ELEMENTWISE):
            return None
        attrs = [] if reshapes else sorted(node.attrs.items())
        return node.op.name, _without(node.types[0].shape, dim), node.types[0].dtype, str(attrs), *signs

    def placed(v: Value) -> bool:
        """Whether ``v`` is stored in a place of its own: computed there, it need not be copied."""
        return v in results or any(n.op.kind is Kind.VIEW and len(n.inputs) > 1 for n in users[v])

    dim = family.role.result
    rows: list[tuple[Node, ...]] = []
    pending = [[n.outputs[0] for n in family.members]]
    while pending:
        values = pending.pop()
        partners = [{s: n for n in users[v] if (s := sign(n, i)) is not None} for i, v in enumerate(values)]
        for s, node in partners[0].items():
            row = tuple(found[s] for found in partners if s in found)
            if node.outputs[0] not in lanes and len(row) == len(partners) and not any(placed(n.outputs[0]) for n in row):
                rows.append(row)
                lanes.update((n.outputs[0], (len(rows), i)) for i, n in enumerate(row))
                pending.append([n.outputs[0] for n in row])

    of = {v: 1 << lane for v, (_, lane) in lanes.items()}  # members, as bits, of which elementwise ops alone make a value
    meeting, pending = dict[Node, None](), [[*lanes]]
    while pending:
        for n in {n: None for v in pending.pop() for n in users[v] if n.outputs[0] not in of}:
            alone = n.op.kind is Kind.VIEW and len(n.inputs) == 1
            if (alone or n.op.kind is Kind.ELEMENTWISE) and all(v in of or v in given for v in n.inputs):
                of[n.outputs[0]] = made = functools.reduce(operator.or_, (of[v] for v in n.inputs if v in of))
                if made.bit_count() == 1:
                    pending.append([n.outputs[0]])
                else:
                    meeting[n] = None
    parted = 0
    for (
        n
    ) in meeting:  # the last of its members would have computed it from its tile: that is stored, unless it is anyway, and read
        kept = any(r.outputs[0] not in of for v in n.inputs for r in users[v])
        parted += n.types[0].nbytes * (1 if kept else 2)
    return replace(family, behind=tuple(rows), parted=parted)

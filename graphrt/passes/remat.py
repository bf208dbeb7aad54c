"""Rematerialisation: the backward pass computes again what the forward pass would store for it.

    y = conv(...), z = relu(norm(y)), concat(z, ...)          dz * (z > 0) needs a sign of z, and norm's gradient needs y
    y = matmul(...), z = y * 0.5 * (erf(y * 0.7) + 1)         dz * (erf(y * 0.7) + 1) + ... needs y, and no erf that is stored

What is cheap the scheduler computes where it is read, unless it is a part of a concatenation, which is stored for those who
read the whole, so that the mask would be read from there, or stored too. Behind a contraction a minimum cut says what the
backward pass is given (Chen et al., "Training deep nets with sublinear memory cost", 2016, for elementwise ops): the fewest
bytes from which it can compute what it reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import networkx as nx

from graphrt.ir import Graph, Node, Value
from graphrt.op import Kind
from graphrt.ops.base import apply
from graphrt.passes.layout import follows
from graphrt.passes.rewrite import copied, pruned


def rematerialise(graph: Graph) -> Graph:
    """``graph`` whose backward pass reads less of what it can compute itself."""
    return _activations(_parts(graph))


def _activations(graph: Graph) -> Graph:
    """``graph`` whose backward pass computes again what follows contractions, from the fewest bytes."""
    users, results = graph.users(), set(graph.results())
    cone: set[str] = set()  # the nodes to copy, by name
    for node in graph.nodes:
        if node.op.kind is Kind.CONTRACTION and node.origin.phase == "fwd":
            cone |= {n.name for n in _again(node.outputs[0], users, results)}
    if not cone:
        return graph
    copies: dict[Node, Value] = {}

    def rule(node: Node) -> Sequence[Value] | None:
        if not _is_backward(node) or not any(v.node.name in cone for v in node.inputs):
            return None
        return (apply(node.op.name, *(copied(v, cone, copies) for v in node.inputs), **node.attrs),)

    return pruned(graph, rule)


def _again(z: Value, users: Mapping[Value, Sequence[Node]], results: set[Value]) -> set[Node]:
    """The values made of ``z`` element by element that the backward pass should compute again; none if nothing is saved."""

    def lies(v: Value) -> bool:
        """Whether ``v`` is stored for somebody else."""
        return v in results or any(r.op.kind is not Kind.ELEMENTWISE for r in _readers(v, users))

    near, pending = dict[Node, None](), [z]
    while pending:
        for n in users[pending.pop()]:
            if n.op.kind is Kind.ELEMENTWISE and n.origin.phase == "fwd" and n.types[0].shape == z.shape and n not in near:
                near[n] = None
                pending.append(n.outputs[0])
    read = {v for n in near for v in n.outputs if any(_is_backward(r) for r in users[v])}
    made = [z, *(v for n in near for v in n.outputs)]
    normalised = all(n.op.cheap for n in near) and (  # then the scheduler computes again what is cheap
        lies(z) or any(r.op.kind is Kind.REDUCTION for v in made for r in _readers(v, users))
    )
    if normalised or not _follows_a_contraction([r for v in read for r in users[v]], users):
        return set()
    flow = nx.DiGraph()
    for v in {z, *(v for n in near for v in (*n.inputs, *n.outputs))}:
        flow.add_edge(("made", v), ("kept", v), capacity=0 if lies(v) else _size(v))
        for n in users[v]:
            if n in near:
                flow.add_edge(("kept", v), ("made", n.outputs[0]))
        if v.node not in near:
            flow.add_edge("given", ("made", v))
        if v in read:
            flow.add_edge(("kept", v), "read")
    size, (given, _) = nx.minimum_cut(flow, "given", "read")
    if size >= sum(v.type.nbytes for v in read if not lies(v)):
        return set()
    return {n for n in near if ("made", n.outputs[0]) not in given}


def _follows_a_contraction(nodes: Sequence[Node], users: Mapping[Value, Sequence[Node]]) -> bool:
    """Whether what ``nodes`` of the backward pass are a part of is computed behind a contraction, and not where it is read."""
    found, pending = set[Node](), [n for n in nodes if _is_backward(n)]
    while pending:
        node = pending.pop()
        if node not in found:
            found.add(node)
            around = [v.node for v in node.inputs] + [r for v in node.outputs for r in users[v]]
            if any(v.node.op.kind is Kind.CONTRACTION and v.node.origin.phase == "bwd" for v in node.inputs):
                return True
            pending += [n for n in around if _is_backward(n) and n.types[0].shape == node.types[0].shape]
    return False


def _size(v: Value) -> int:
    """The bytes that must be stored for ``v``: of a broadcast, those of what it shows; none of what is there anyway."""
    base = v
    while base.node.op.kind is Kind.VIEW and len(base.node.inputs) == 1:
        base = base.node.inputs[0]
    return 0 if base.node.op.kind in (Kind.SOURCE, Kind.GENERATED) else min(v.type.nbytes, base.type.nbytes)


def _readers(v: Value, users: Mapping[Value, Sequence[Node]]) -> Iterator[Node]:
    """The readers of ``v``, seen through views."""
    for n in users[v]:
        if n.op.kind is Kind.VIEW:
            yield from _readers(n.outputs[0], users)
        else:
            yield n


def _parts(graph: Graph) -> Graph:
    """``graph`` whose backward pass reads no part of a concatenation that it can compute from what it reads."""
    users = graph.users()
    cones: dict[str, set[str]] = {}  # of a part, by name: the nodes to copy
    for node in graph.nodes:
        if node.op.kind is Kind.VIEW and len(node.inputs) > 1 and node.origin.phase == "fwd":
            for v in node.inputs:
                cone = _cone(v)
                if cone and any(_is_backward(r) for n in cone - {v.node} for x in n.outputs for r in users[x]):
                    cones[v.node.name] = {n.name for n in cone}
    if not any(_is_backward(n) and v.node.name in cones for n in graph.nodes for v in n.inputs):
        return graph

    def rule(node: Node) -> Sequence[Value] | None:
        if not _is_backward(node) or not any(v.node.name in cones for v in node.inputs):
            return None
        again = [copied(v, cones.get(v.node.name, set()), {}) for v in node.inputs]
        return (apply(node.op.name, *again, **node.attrs),)

    return pruned(graph, rule)


def _is_backward(node: Node) -> bool:
    return node.origin.phase == "bwd" and node.op.kind is Kind.ELEMENTWISE


def _cone(v: Value) -> set[Node]:
    """The cheap nodes between ``v`` and the contraction that it is made of; none if there is no such."""
    found, pending, ends = set[Node](), [v], False
    while pending:
        node = pending.pop().node
        if follows(node) and node.op.cheap:
            found.add(node)
            pending += [x for x in node.inputs if x.shape == v.shape and x.node not in found]
        else:
            while node.op.kind is Kind.VIEW and len(node.inputs) == 1:
                node = node.inputs[0].node
            ends |= node.op.kind is Kind.CONTRACTION
    return found if ends else set()

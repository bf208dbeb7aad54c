"""Shards what each process of a mesh would keep a copy of: optimizer state (zero1), gradients (zero2), parameters (fsdp).

    all_reduce   g = all_reduce(x)       p, m of all    p = p - f(g, m)
    zero1        g = shard(all_reduce(x))     m of 1/n       p = all_gather(shard(p) - f(g, m))
    zero2        g = reduce_scatter(x)        m of 1/n       the same
    fsdp         g = reduce_scatter(x)     p, m of 1/n       p = p - f(g, m), all_gather(p) where it is read, again backward

An update is cut where it is arithmetic element by element, or asks for the sum of all elements, which is then summed over
processes. What it computes of a parameter is decided by its shape alone. Rajbhandari et al., "ZeRO", SC 2020; Zhao et al.,
"PyTorch FSDP", VLDB 2023.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from graphrt.errors import ArgumentError
from graphrt.ir import Graph, Node, Value
from graphrt.mesh import Mesh
from graphrt.op import REGISTRY, Kind
from graphrt.ops.base import apply, broadcast_to
from graphrt.ops.collective import axis_index, shard
from graphrt.ops.elementwise import lt, where
from graphrt.ops.slicing import pad
from graphrt.ops.source import iota
from graphrt.ops.view import reshape
from graphrt.passes.decision import Decision
from graphrt.sharding import Cut, cut_of, part_shape

POLICIES = ("all_reduce", "zero1", "zero2", "fsdp")


def shard_updates(graph: Graph, policy: str, held: Mapping[str, bool], decisions: list[Decision]) -> Graph:
    """``graph`` with its updates, and what they need, sharded as ``policy`` says along the axis of the data.

    ``held`` says of state that exists already whether it is sharded. Verdicts are added to ``decisions``. The same object where
    there is nothing to do. Raises ArgumentError for a mesh without that axis.
    """
    mesh = graph.mesh
    if mesh is None or policy == "all_reduce":
        return graph
    if not mesh.data:
        raise ArgumentError(f"policy={policy!r} is for processes that share a batch, along an axis dp; the mesh is {mesh}")
    if mesh.axes[mesh.data] == 1:
        return graph
    plan = _plan(graph, mesh, policy, held)
    decisions += plan.verdicts
    return _Sharded(graph, mesh, policy, plan).graph() if plan.parts or plan.params else graph


@dataclass
class _Plan:
    """The fate of each value: ``can`` be made of parts, is needed ``whole``, as ``parts``, or both.

    ``params`` are the parameters that fsdp shards, ``roots`` the names of updates that are made of parts.
    """

    can: set[Value]
    whole: set[Value] = field(default_factory=set)
    parts: set[Value] = field(default_factory=set)
    params: set[Value] = field(default_factory=set)
    roots: set[str] = field(default_factory=set)
    verdicts: list[Decision] = field(default_factory=list)


def _plan(graph: Graph, mesh: Mesh, policy: str, held: Mapping[str, bool]) -> _Plan:
    blocked: set[Value] = set()
    sums = [n for n in graph.nodes if n.origin.phase == "bwd" and _is_sum(n, mesh.data)]
    scattered = set() if policy == "zero1" else set(sums)
    while True:
        plan = _Plan(_can(graph, mesh, blocked))
        for name, v in graph.updates.items():
            if v in plan.can and v.node.origin.phase == "opt" and graph.sources[name].outputs[0] in plan.can:
                plan.roots.add(name)
        pending = [*graph.outputs.values(), *(v for name, v in graph.updates.items() if name not in plan.roots)]
        _mark(plan, scattered, pending, [graph.updates[name] for name in plan.roots])
        state = {v for v in plan.can if _is_state(v)}
        late = {v for v in state if v in plan.whole or v.name not in plan.roots} - blocked
        if not late:
            break
        blocked |= late
    trained = [v for v in graph.parameters() if v in plan.can]
    if policy == "fsdp":
        plan.params = {v for v in trained if held.get(v.name, v.name in plan.roots or v.name not in graph.updates)}
    for v in graph.parameters():
        taken = v.name in plan.roots or v in plan.params
        why = "each process has a part of it" if policy == "fsdp" else "each process updates a part of it"
        change = "" if taken else "its update were made element by element, of whole sums, and of its gradient"
        reason = why if taken else "its update needs all of it"
        plan.verdicts.append(Decision("shard", v.name, policy, taken, reason, change=change))
    return plan


def _is_state(v: Value) -> bool:
    return v.node.op.name == "parameter" and not v.node.attrs["trainable"]


def _can(graph: Graph, mesh: Mesh, blocked: set[Value]) -> set[Value]:
    """The values that can be made of parts, each by its process."""
    found: set[Value] = set()
    for node in graph.nodes:
        y = node.outputs[0]
        if not y.ndim or y in blocked or mesh.data in y.type.varying or not y.type.size:
            continue
        if node.op.name == "parameter":
            if node.attrs["trainable"] or node.name in graph.updates:
                found.add(y)
        elif node.origin.phase == "bwd":
            found.add(y)  # a gradient
        elif node.origin.phase == "opt" and _by_element(node) and all(_is_number(x) or x in found for x in node.inputs):
            if node.inputs and (_is_number(y) or any(x in found for x in node.inputs)):
                found.add(y)
    return found


def _is_sum(node: Node, axis: str) -> bool:
    """Whether ``node`` is the sum of what the processes along ``axis`` have of a gradient."""
    return node.op.name == "all_reduce" and node.attrs["axis"] == axis and node.attrs["op"] == "sum"


def _by_element(node: Node) -> bool:
    """Whether each element is made of the same elements of the operands, or of a number."""
    if node.op.kind is Kind.ELEMENTWISE or node.op.name == "widen":
        return all(x.shape == node.types[0].shape for x in node.inputs)
    return _is_number(node.outputs[0])


def _is_number(v: Value) -> bool:
    """Whether ``v`` is one number, broadcast to some shape."""
    node = v.node
    return node.op.name == "broadcast" and node.inputs[0].type.size == 1


def _is_fold(node: Node, can: set[Value]) -> bool:
    """Whether ``node`` is the sum of all elements of what can be made of parts."""
    whole = node.op.name == "reduce" and len(node.attrs["dims"]) == node.inputs[0].ndim
    return whole and node.origin.phase == "opt" and node.attrs["op"] == "sum" and node.inputs[0] in can


def _mark(plan: _Plan, scattered: set[Node], whole: list[Value], parts: list[Value]) -> None:
    """Fills in what is needed whole and as parts, from what is; ``scattered`` sums of gradients are made as parts."""
    pending = [*((v, plan.whole) for v in whole), *((v, plan.parts) for v in parts)]
    while pending:
        v, marked = pending.pop()
        if v in marked:
            continue
        marked.update(v.node.outputs)
        if marked is plan.whole:
            needed = plan.parts if _is_fold(v.node, plan.can) else plan.whole
        elif v.node in scattered or _is_number(v):
            needed = plan.whole
        elif v.node.origin.phase == "bwd":  # cut when all have it
            pending.append((v, plan.whole))
            continue
        else:
            needed = plan.parts
        pending += [(x, needed) for x in v.node.inputs]


class _Sharded:
    """Builds the graph of ``plan``."""

    def __init__(self, graph: Graph, mesh: Mesh, policy: str, plan: _Plan) -> None:
        self.old, self.mesh, self.policy, self.plan = graph, mesh, policy, plan
        self.axis, self.size = mesh.data, mesh.axes[mesh.data]
        self.new = graph.like()
        self.table: dict[Value, Value] = {}
        self.parts: dict[Value, Value] = {}
        self.again: dict[Value, Value] = {}  # parameters gathered for the backward pass

    def graph(self) -> Graph:
        """The sharded graph."""
        for node in self.old.nodes:
            with self.new.at(node.origin):
                if node.op.kind is Kind.SOURCE:
                    self._source(node)
                    continue
                if any(v in self.plan.whole for v in node.outputs):
                    self._whole(node)
                if node.outputs[0] in self.plan.parts:
                    self.parts[node.outputs[0]] = self._part(node)
        self.new.outputs = {name: self.table[v] for name, v in self.old.outputs.items()}
        self.new.orders = self.old.orders
        self.new.updates = {name: self._update(name, v) for name, v in self.old.updates.items()}
        return self.new

    def _cut(self, v: Value) -> Cut:
        return cut_of(self.axis, self.size, v.shape)

    def _source(self, node: Node) -> None:
        y = node.outputs[0]
        sharded = y in self.plan.params or (_is_state(y) and node.name in self.plan.roots)
        if not sharded:
            self.table[y] = self.new.adopt(node, []).outputs[0]
            return
        cut = self._cut(y)
        cuts = (*node.attrs.get("cuts", ()), cut)
        attrs = {**node.attrs, "shape": part_shape(cut, self.size), "cuts": cuts}
        self.parts[y] = self.new.append(node.op, (), attrs, node.name).outputs[0]
        if y in self.plan.params:
            self.table[y] = self._gathered(self.parts[y], y)

    def _whole(self, node: Node) -> None:
        if _is_fold(node, self.plan.can):
            part, whole = self.parts[node.inputs[0]], node.inputs[0]
            if self._cut(whole)[1] is None and whole.type.size % self.size:
                inside = lt(iota(part, 0) + axis_index(self.new, self.axis) * part.shape[0], whole.type.size)
                part = where(inside, part, 0)
            mine = apply("reduce", part, op="sum", dims=tuple(range(part.ndim)))
            total = apply("all_reduce", mine, axis=self.axis, size=self.size, op="sum")
            self.table[node.outputs[0]] = reshape(total, node.types[0].shape)
            return
        backward = node.origin.phase == "bwd"
        inputs = [self._again(v) if backward else self.table[v] for v in node.inputs]
        self.table.update(zip(node.outputs, self.new.adopt(node, inputs).outputs, strict=True))

    def _again(self, v: Value) -> Value:
        """``v``; a parameter, or what is seen of one, gathered once more, so that nobody keeps it until the backward pass."""
        seen = v.node.op.name in ("permute", "reshape", "cast", "widen")
        if v not in self.plan.params and not seen:
            return self.table[v]
        if v not in self.again:
            if v in self.plan.params:
                self.again[v] = self._gathered(self.parts[v], v, again=True)
            else:
                before = self._again(v.node.inputs[0])
                same = before is self.table.get(v.node.inputs[0])
                self.again[v] = self.table[v] if same else self.new.append(v.node.op, [before], v.node.attrs).outputs[0]
        return self.again[v]

    def _part(self, node: Node) -> Value:
        """This process's part of the result of ``node``."""
        y = node.outputs[0]
        if node.origin.phase == "bwd":
            if self.policy == "zero1" or not _is_sum(node, self.axis):
                return self._own(self.table[y])
            return apply(
                "reduce_scatter", self._laid(self.table[node.inputs[0]]), axis=self.axis, size=self.size, dim=self._dim(y)
            )
        if _is_number(y):
            return broadcast_to(reshape(self.table[node.inputs[0]], ()), part_shape(self._cut(y), self.size))
        for x in node.inputs:
            if x not in self.parts:  # a parameter that all have: cut behind what it is updated by, with which it then fuses
                self.parts[x] = self._own(self.table[x])
        return apply(node.op.name, *(self.parts[x] for x in node.inputs), **node.attrs)

    def _dim(self, v: Value) -> int:
        return self._cut(v)[1] or 0

    def _laid(self, v: Value) -> Value:
        """``v`` as it is cut: itself, or flat and filled up with zeros."""
        cut = self._cut(v)
        if cut[1] is not None:
            return v
        flat, missing = reshape(v, (v.type.size,)), part_shape(cut, self.size)[0] * self.size - v.type.size
        return pad(flat, (0, missing)) if missing else flat

    def _own(self, v: Value) -> Value:
        """This process's part of ``v``."""
        return shard(self._laid(v), self.axis, self._dim(v))

    def _gathered(self, part: Value, like: Value, again: bool = False) -> Value:
        """The tensor like ``like`` of which each process has a ``part``."""
        attrs = {"axis": self.axis, "size": self.size, "dim": self._dim(like), "varies": False, "again": again}
        whole = self.new.append(REGISTRY["all_gather"], (part,), attrs).outputs[0]
        return whole if self._cut(like)[1] is not None else reshape(whole[: like.type.size], like.shape)

    def _update(self, name: str, v: Value) -> Value:
        if name not in self.plan.roots:
            return self.table[v]
        parameter = self.old.sources[name].outputs[0]
        if _is_state(parameter) or parameter in self.plan.params:
            return self.parts[v]
        with self.new.at(v.node.origin):
            return self._gathered(self.parts[v], parameter)

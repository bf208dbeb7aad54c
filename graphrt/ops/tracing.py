"""Tracing: a step of a loop is built on the graph around it, from stands of what it is given, and then cut out as a body."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphrt.errors import ArgumentError, DTypeError, GraphError, ShapeError
from graphrt.ir import Graph, Node, Value
from graphrt.op import REGISTRY, Kind
from graphrt.ops.base import apply
from graphrt.ops.body import Loop
from graphrt.ops.elementwise import add
from graphrt.ops.reverse import zeros_like
from graphrt.ops.slicing import getitem
from graphrt.ops.view import permute, reshape

KEPT = (Kind.CONTRACTION, Kind.ATTENTION, Kind.WINDOW, Kind.SCATTER, Kind.SCAN, Kind.SORT, Kind.DECOMPOSITION, Kind.LOOP)
_FOLLOWS = ("permute", "reshape", "widen")  # views of which a sum of views is the view of a sum


class Trace:
    """A body in the making: a step is built on the graph of the loop, from stands of what it is given, and then cut out.

    What is built inside and does not depend on a step stays outside, and what a step uses of the graph is given to it at each.
    ``known`` values need not be computed: a stand has each.
    """

    def __init__(self, graph: Graph, length: int, reverse: bool) -> None:
        self.graph, self.length, self.reverse = graph, length, reverse
        self.known: dict[Value, Value] = {}
        self._operands: dict[Value, Value] = {}  # of each stand
        self._states: dict[Value, bool] = {}  # whether the history of each is kept
        self._next: dict[Value, Value] = {}
        self._sequences: list[Value] = []
        self._unknown: list[Value] = []
        self._stacked: dict[Value, None] = {}

    def __enter__(self) -> Trace:
        self._transaction = self.graph.transaction()
        self._transaction.__enter__()
        self._begin, self._updates = len(self.graph.nodes), dict(self.graph.updates)
        return self

    def __exit__(self, *error: Any) -> None:
        for stand in self._operands:
            self.graph.sources.pop(stand.node.name, None)
        self._transaction.__exit__(*error)

    def state(self, initial: Value, history: bool = True) -> Value:
        """The stand of a state that begins as ``initial``; of all that it becomes only the last is kept without ``history``."""
        self._states[stand := self._stand("state", initial, initial.shape)] = history
        return stand

    def sequence(self, x: Value) -> Value:
        """The stand of the element of ``x`` [length, ...] that belongs to the step."""
        self._sequences.append(stand := self._stand("element", x, x.shape[1:]))
        return stand

    def constant(self, x: Value) -> Value:
        """The stand of ``x``, which is the same at each step."""
        return self._stand("constant", x, x.shape)

    def unknown(self, like: Value) -> Value:
        """The stand of a state, such as ``like``, that nobody has kept."""
        self._unknown.append(stand := self._stand("state not kept", like, like.shape))
        return stand

    def _stand(self, what: str, of: Value, shape: Sequence[int]) -> Value:
        attrs = {"shape": tuple(shape), "dtype": of.dtype.name}
        numbers = itertools.count()
        name = next(name for i in numbers if (name := f"{what} {i} of a step") not in self.graph.sources)
        stand = self.graph.append(REGISTRY["input"], (), attrs, name).outputs[0]
        self._operands[stand] = of
        return stand

    def become(self, state: Value, value: Value) -> None:
        """Says that ``state`` is ``value`` at the next step."""
        self._next[state] = value

    def stack(self, v: Value) -> Value:
        """Has ``v`` of each step stacked; returns ``v``, by which ``Outputs.stacked`` knows it."""
        self._stacked[v] = None
        return v

    def total(self, v: Value) -> Callable[[Outputs], Value]:
        """A function of the outputs that gives the sum of ``v`` over the steps.

        A sum of products is one product of what is stacked; any other sum is a state.
        """
        node = v.node
        if node.op.name == "add" and all(x.shape == v.shape for x in node.inputs):
            first, second = map(self.total, node.inputs)
            return lambda outputs: add(first(outputs), second(outputs))
        if node.op.name in _FOLLOWS:
            inner = self.total(node.inputs[0])
            return lambda outputs: apply(node.op.name, inner(outputs), **node.attrs)
        if node.op.name == "matmul" and v.ndim == 2:
            left, right = (_untransposed(x) for x in node.inputs)
            a, b = self.stack(left[0]), self.stack(right[0])
            return lambda outputs: apply(
                "matmul", _side_by_side(outputs.stacked(a), 1, left[1]), _side_by_side(outputs.stacked(b), 0, right[1])
            )
        if node.op.kind is Kind.REDUCTION and node.attrs["op"] == "sum":
            x, dims = self.stack(node.inputs[0]), (0, *(d + 1 for d in node.attrs["dims"]))
            return lambda outputs: apply("reduce", outputs.stacked(x), op="sum", dims=dims)
        state = self.state(zeros_like(v), history=False)
        self.become(state, add(state, v))
        return lambda outputs: outputs.final(state)

    def close(self) -> Outputs:
        """Cuts the step out of the graph and appends the loop. Raises ArgumentError, ShapeError."""
        graph = self.graph
        region = graph.nodes[self._begin :]
        self._check(region)
        inside = set[Node]()  # what depends on a step
        for node in region:
            if node.outputs[0] in self._operands or any(v.node in inside for v in node.inputs):
                inside.add(node)
        asked = [self._next[s] for s in self._states]
        asked += [v for v in map(self._resolved, self._stacked) if v not in self._sequences]
        live = self._live(asked, inside)
        if any(s.node in live for s in self._unknown):
            raise GraphError("this gradient needs states of a loop that keeps only the last one")
        kept = [v for n in region if n in live and n.op.kind in KEPT for v in n.outputs]
        stacked = list(dict.fromkeys([*asked[len(self._states) :], *kept]))
        sequences = [s for s in self._sequences if s.node in live]
        body = _Body(self.known, self._operands)
        for name, stands in (("state", list(self._states)), ("element", sequences)):
            for i, stand in enumerate(stands):
                body.take(stand, f"{name}{i}")
        for node in region:
            if node in live and node.outputs[0] not in self._operands:
                body.adopt(node)
        for i, s in enumerate(self._states):
            body.graph.output(f"state{i}", body.value(self._next[s]))
        for i, v in enumerate(stacked):
            body.graph.output(f"result{i}", body.value(v))
        operands = [*(self._operands[s] for s in (*self._states, *sequences)), *body.constants]
        needed = self._live(operands, set(region) - inside)
        graph.nodes[self._begin :] = [n for n in region if n not in inside and (n in needed or n.op.kind is Kind.SOURCE)]
        attrs = {
            "body": body.text(),
            "history": tuple(self._states.values()),
            "sequences": len(sequences),
            "length": self.length,
            "reverse": self.reverse,
        }
        graph.of_steps.update(inside)
        node = graph.append(REGISTRY["loop"], operands, attrs)
        count = len(self._states)
        states = dict(zip(self._states, node.outputs[:count], strict=True))
        results = {s: self._operands[s] for s in self._sequences} | dict(zip(stacked, node.outputs[count:], strict=True))
        return Outputs(Loop.of(node), states, results, self._resolved)

    def _resolved(self, v: Value) -> Value:
        return self.known.get(v, v)

    def _live(self, roots: Iterable[Value], among: set[Node]) -> set[Node]:
        """The nodes of ``among`` that ``roots`` are made of."""
        found, pending = set[Node](), [self._resolved(v).node for v in roots]
        while pending:
            node = pending.pop()
            if node in among and node not in found:
                found.add(node)
                pending += [self._resolved(v).node for v in node.inputs]
        return found

    def _check(self, region: Sequence[Node]) -> None:
        graph = self.graph
        if drawn := next((n for n in region if n.op.kind is Kind.RANDOM), None):
            raise ArgumentError(f"{drawn.where()} draws in a step: draw for all steps before, and pass that as a sequence")
        if sent := next((n for n in region if n.op.kind is Kind.COLLECTIVE or n.op.name == "pvary"), None):
            raise ArgumentError(f"{sent.where()} is about other processes in a step: exchange before the scan, or behind it")
        if changed := [name for name, v in graph.updates.items() if self._updates.get(name) is not v]:
            raise ArgumentError(
                f"a step cannot update {changed[0]!r}: only states go from step to step, and what is to be kept is updated "
                "with the last one, behind the loop. Where a layer counts batches, as BatchNorm does in training: call it on "
                "all steps at once, put it into eval mode, make it with track_running_stats=False, or take LayerNorm"
            )
        for i, state in enumerate(self._states):
            begins, becomes = state.type, self._next[state].type
            if not begins.same(becomes):
                raise (ShapeError if begins.shape != becomes.shape else DTypeError)(
                    f"state {i} begins as {begins} and a step makes {becomes} of it"
                )


class _Body:
    """The graph of a body: nodes of another graph in one of their own; ``known`` and ``operands`` as a ``Trace`` has them."""

    def __init__(self, known: Mapping[Value, Value], operands: Mapping[Value, Value]) -> None:
        self.graph, self.known, self.operands = Graph(), known, operands
        self.constants: dict[Value, Value] = {}  # what is the same at each step, and the input that has it
        self._table: dict[Value, Value] = {}

    def take(self, stand: Value, name: str) -> None:
        """Makes ``stand`` an input."""
        self._table[stand] = self.graph.input(name, stand.shape, stand.dtype)

    def adopt(self, node: Node) -> None:
        """Adds ``node``."""
        inputs = [self.value(v) for v in node.inputs]
        self._table.update(zip(node.outputs, self.graph.adopt(node, inputs).outputs, strict=True))

    def value(self, v: Value) -> Value:
        """``v`` in the body; views of what does not change are in it too, and what they show is an input."""
        v = self.known.get(v, v)
        if v not in self._table:
            outside = self.operands.get(v, v)
            if outside is not v:
                self._table[v] = self.value(outside)
            elif v.node.op.kind in (Kind.VIEW, Kind.GENERATED):
                self._table[v] = self.graph.adopt(v.node, [self.value(x) for x in v.node.inputs]).outputs[v.index]
            else:
                self._table[v] = self.constants[v] = self.graph.input(f"constant{len(self.constants)}", v.shape, v.dtype)
        return self._table[v]

    def text(self) -> str:
        """The body as a text: its inputs first, in their order."""
        nodes = self.graph.nodes
        self.graph.nodes = [n for n in nodes if n.op.kind is Kind.SOURCE] + [n for n in nodes if n.op.kind is not Kind.SOURCE]
        return self.graph.text()


@dataclass(frozen=True)
class Outputs:
    """The results of a loop by what they stand for in its step."""

    loop: Loop
    states: Mapping[Value, Value]
    results: Mapping[Value, Value]
    resolved: Callable[[Value], Value]

    def history(self, state: Value) -> Value:
        """All that ``state`` was, or the last of it."""
        return self.states[state]

    def final(self, state: Value) -> Value:
        """The last of what ``state`` was."""
        found = self.states[state]
        return getitem(found, self.loop.last) if found.ndim > state.ndim else found

    def stacked(self, v: Value) -> Value:
        """``v`` of each step."""
        return self.results[self.resolved(v)]


def _untransposed(v: Value) -> tuple[Value, bool]:
    """The matrix that ``v`` shows transposed, and that it does; else ``v``."""
    turned = False
    while v.node.op.name == "permute" and v.ndim == 2:
        turned ^= tuple(v.node.attrs["dims"]) == (1, 0)
        v = v.node.inputs[0]
    return v, turned


def _side_by_side(x: Value, dim: int, turned: bool) -> Value:
    """The matrices ``x`` [T, m, n], transposed if ``turned``, side by side along ``dim``."""
    along = 1 - dim if turned else dim
    t, m, n = x.shape
    matrix = reshape(x, (t * m, n)) if along == 0 else reshape(permute(x, (1, 0, 2)), (m, t * n))
    return permute(matrix, (1, 0)) if turned else matrix

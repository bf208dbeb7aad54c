"""Loops: a graph of its own, the body, run once for each step, with states that one step hands to the next.

    states [K]  --+--> body --+--> states of the next step          result: every state that was met, and each step's results
    x[t]        --+           +--> results of the step, stacked
    what does not change  ----+

As ``jax.lax.scan``. The gradient is a loop from the other end. The body is a text, which is what a graph prints as, so that an
attribute is all there is to a loop. Results of contractions are stacked too: the gradient reads them and does not compute them
again; what nobody reads is taken out by the passes.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphrt.errors import ArgumentError, DTypeError, GraphError, ShapeError
from graphrt.ir import Graph, Node, Value
from graphrt.op import REGISTRY, Kind, OpDef, Sample, Types, register
from graphrt.ops.base import apply, cast, constant_of, function, integer, tensor
from graphrt.ops.elementwise import add
from graphrt.ops.reverse import sweep, zeros_like
from graphrt.ops.slicing import getitem
from graphrt.ops.view import permute, reshape
from graphrt.reference import walk
from graphrt.types import TensorType

KEPT = (Kind.CONTRACTION, Kind.ATTENTION, Kind.WINDOW, Kind.SCATTER, Kind.SCAN, Kind.SORT, Kind.DECOMPOSITION, Kind.LOOP)
_FOLLOWS = ("permute", "reshape", "widen")  # views of which a sum of views is the view of a sum


@functools.lru_cache(1024)
def parse_body(text: str) -> Graph:
    """The graph that a body's ``text`` is; nobody may change it."""
    return Graph.parse(text)


@dataclass(frozen=True)
class Loop:
    """A loop as its node says: its body, whose inputs are ``states``, an element of each of ``sequences`` and ``constants``.

    A body's outputs are the next states, then the results that are stacked over ``length`` steps. ``history`` says of which
    states all are kept: those before each step and, at the end where the loop arrives, the last; of the others only the last.
    """

    body: Graph
    states: tuple[Value, ...]
    sequences: tuple[Value, ...]
    constants: tuple[Value, ...]
    history: tuple[bool, ...]
    length: int
    reverse: bool

    @staticmethod
    def of(node: Node) -> Loop:
        """The loop that ``node`` is."""
        a = node.attrs
        states, sequences = len(a["history"]), a["sequences"]
        return Loop(
            parse_body(a["body"]),
            node.inputs[:states],
            node.inputs[states : states + sequences],
            node.inputs[states + sequences :],
            tuple(a["history"]),
            a["length"],
            a["reverse"],
        )

    @property
    def arguments(self) -> list[Value]:
        """The inputs of the body."""
        return [n.outputs[0] for n in self.body.nodes if n.op.kind is Kind.SOURCE]

    @property
    def results(self) -> list[Value]:
        """The outputs of the body."""
        return list(self.body.outputs.values())

    @property
    def met(self) -> slice:
        """The places in a history of the states that steps begin with, in the order of the sequences."""
        return slice(1, None) if self.reverse else slice(None, -1)

    @property
    def left(self) -> slice:
        """The places in a history of the states that steps end with."""
        return slice(None, -1) if self.reverse else slice(1, None)

    @property
    def last(self) -> int:
        """The place in a history of the last state."""
        return 0 if self.reverse else self.length


# --- the op --------------------------------------------------------------------------------------------------------------


def _infer(*types: TensorType, body: str, history: Sequence[bool], sequences: int, length: int, reverse: bool) -> Types:
    graph, states = parse_body(body), len(history)
    inputs = [n.types[0] for n in graph.nodes if n.op.kind is Kind.SOURCE]
    if length < 1 or len(types) != len(inputs) or states + sequences > len(types) or len(graph.outputs) < states:
        raise ShapeError(f"a loop of {length} steps has {len(types)} operands, its body takes {len(inputs)}")
    for i, (given, wanted) in enumerate(zip(types, inputs, strict=True)):
        whole = TensorType((length, *wanted.shape), wanted.dtype) if 0 <= i - states < sequences else wanted
        if not given.same(whole):
            raise ShapeError(f"operand {i} of a loop is {given}, its body takes {whole}")
    results = [v.type for v in graph.outputs.values()]
    for i, kept in enumerate(history):
        if not results[i].same(types[i]):
            raise ShapeError(f"a state begins as {types[i]} and becomes {results[i]}")
        results[i] = TensorType((length + 1, *types[i].shape) if kept else types[i].shape, types[i].dtype)
    stacked = [TensorType((length, *t.shape), t.dtype) for t in results[states:]]
    return (*results[:states], *stacked)


def _reference(*arrays: np.ndarray, body: str, history: Sequence[bool], sequences: int, length: int, reverse: bool) -> Any:
    graph = parse_body(body)
    sources = [n.outputs[0] for n in graph.nodes if n.op.kind is Kind.SOURCE]
    wide = any(a.dtype == np.float64 and v.dtype.numpy != np.float64 for a, v in zip(arrays, sources, strict=True))
    count = len(history)
    states, outputs = [list(arrays[:count])], list[list[np.ndarray]]()
    for t in reversed(range(length)) if reverse else range(length):
        slices = [a[t] for a in arrays[count : count + sequences]]
        table = dict(zip(sources, [*states[-1], *slices, *arrays[count + sequences :]], strict=True))
        walk((n for n in graph.nodes if n.op.kind is not Kind.SOURCE), table, "float64" if wide else "float32")
        found = [table[v] for v in graph.outputs.values()]
        states.append(found[:count])
        outputs.append(found[count:])
    step = -1 if reverse else 1
    histories = [np.stack([s[i] for s in states][::step]) if kept else states[-1][i] for i, kept in enumerate(history)]
    return (*histories, *(np.stack(each[::step]) for each in zip(*outputs, strict=True)))


def _flops(node: Node) -> int:
    loop = Loop.of(node)
    return loop.length * sum(n.op.flops(n) for n in loop.body.nodes if n.op.kind not in (Kind.SOURCE, Kind.VIEW))


def contracted(node: Node) -> int:
    """The flops of contractions in ``node``, of a loop those of all its steps."""
    if node.op.kind is Kind.LOOP:
        loop = Loop.of(node)
        return loop.length * sum(map(contracted, loop.body.nodes))
    return node.op.flops(node) if node.op.kind is Kind.CONTRACTION else 0


def _vjp(node: Node, *dys: Value | None) -> list[Value | None]:
    loop, graph = Loop.of(node), node.graph
    count = len(loop.history)
    histories, stacked = node.outputs[:count], node.outputs[count:]
    last, arriving = list[Value | None](), list[Value | None]()  # at the last state, and at those that steps begin with
    for dy, kept in zip(dys[:count], loop.history, strict=True):
        last.append(getitem(dy, loop.last) if dy is not None and kept else dy)
        arriving.append(getitem(dy, loop.met) if dy is not None and kept and constant_of(dy) != 0 else None)
    met = [getitem(h, loop.met) if kept else None for h, kept in zip(histories, loop.history, strict=True)]
    left = [getitem(h, loop.left) if kept else None for h, kept in zip(histories, loop.history, strict=True)]
    with Trace(graph, loop.length, not loop.reverse) as trace:
        carried = [None if dy is None else trace.state(dy) for dy in last]
        states = [trace.unknown(v) if h is None else trace.sequence(h) for v, h in zip(loop.states, met, strict=True)]
        steps, constants = [*map(trace.sequence, loop.sequences)], [*map(trace.constant, loop.constants)]
        given = [*states, *steps, *constants]
        table = dict(zip(loop.arguments, given, strict=True))
        for n in loop.body.nodes:
            if n.op.kind is not Kind.SOURCE:
                table.update(zip(n.outputs, graph.append(n.op, [table[v] for v in n.inputs], n.attrs).outputs, strict=True))
        results = [table[v] for v in loop.results]
        for v, there in zip(results, [*left, *stacked], strict=True):
            if there is not None and v not in given:
                trace.known[v] = trace.sequence(there)
        seeds = [(v, d) for v, d in zip(results, carried, strict=False) if d is not None]
        seeds += [
            (v, trace.sequence(dy))
            for v, dy in zip(results[count:], dys[count:], strict=True)
            if dy is not None and constant_of(dy) != 0
        ]
        wrt = [v for v in given if v.dtype.is_float]
        found = dict(zip(wrt, sweep(seeds, wrt), strict=True))
        for state, carry, there in zip(states, carried, arriving, strict=True):
            if carry is not None:
                trace.become(carry, found[state] if there is None else add(found[state], trace.sequence(there)))
        for v in steps:
            if v in found:
                trace.stack(found[v])
        totals = [trace.total(found[v]) if v in found else None for v in constants]
        outputs = trace.close()
    gradients = [None if carry is None else outputs.final(carry) for carry in carried]
    gradients += [outputs.stacked(found[v]) if v in found else None for v in steps]
    return gradients + [None if total is None else total(outputs) for total in totals]


def _samples(rng: np.random.Generator) -> list[Sample]:
    graph = Graph()
    h, x, w = graph.input("h", (3, 4)), graph.input("x", (5, 3, 4)), graph.input("w", (4, 4))
    found = []
    for reverse in (False, True):
        _, y = scan(lambda h, x: ((h @ w + x).tanh(), (h * x).sum()), h, x, reverse=reverse)
        found.append(Sample(tuple(_drawn(rng, v) for v in y.node.inputs), dict(y.node.attrs)))
    return found


def _drawn(rng: np.random.Generator, v: Value) -> np.ndarray:
    return rng.uniform(-1, 1, v.shape).astype(v.dtype.numpy)


register(
    OpDef(
        name="loop",
        kind=Kind.LOOP,
        infer=_infer,
        vjp=_vjp,
        reference=_reference,
        samples=_samples,
        flops=_flops,
    )
)


# --- building a body -------------------------------------------------------------------------------------------------------


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
        if changed := [name for name, v in graph.updates.items() if self._updates.get(name) is not v]:
            raise ArgumentError(f"a step cannot update {changed[0]!r}: make it a state, and update it with the last one")
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


# --- the public function -----------------------------------------------------------------------------------------------------


@function
def scan(f: Callable[..., Any], init: Any, xs: Any = None, length: int | None = None, reverse: bool = False) -> tuple[Any, Any]:
    """``carry, y = f(carry, x)`` for each element x of ``xs``: the last carry, and the y of all steps stacked.

    As ``jax.lax.scan``: ``init`` and ``xs`` are Values, or tuples, lists or dicts of them; each Value of ``xs`` is [T, ...], of
    which ``f`` gets element t at step t, from the last to the first if ``reverse``. The carry keeps its shapes and dtypes. The
    results y are Values, a structure of them, or None. ``length`` is T where ``xs`` is None. ``f`` may use any Value of the
    graph, and is traced once: on the cpu a program runs one body T times, and more steps do not take longer to compile. Raises
    ArgumentError (also for an ``f`` that updates a parameter or draws random numbers), ShapeError, DTypeError.
    """
    states, rebuild = _flat(init)
    sequences, slices = _flat(xs)
    sizes = {tensor(x, "xs").shape[:1] for x in sequences}
    if len(sizes) > 1 or () in sizes:
        raise ShapeError(f"each of xs needs the same first dimension, got {[list(x.shape) for x in sequences]}")
    if not callable(f) or not all(isinstance(v, Value) for v in (*states, *sequences)):
        raise ArgumentError("scan takes a function f(carry, x), and init and xs as structures of Values")
    if length is None and not sizes:
        raise ArgumentError("scan needs xs, or the number of steps as length")
    steps = integer(length, "length", 1) if length is not None else next(iter(sizes))[0]
    if sizes and sizes != {(steps,)}:
        raise ShapeError(f"length is {steps}, xs have {next(iter(sizes))[0]} elements")
    if steps < 1:
        raise ShapeError("scan needs at least one step, got xs without elements")
    graph = (states + sequences)[0].graph
    with Trace(graph, steps, reverse) as trace:
        begin = [trace.state(v) for v in states]
        result = f(rebuild(begin), slices([trace.sequence(x) for x in sequences]))
        if not isinstance(result, tuple) or len(result) != 2:
            raise ArgumentError(f"f must return (carry, y), got {type(result).__name__}")
        (after, _), (ys, together) = _flat(result[0]), _flat(result[1])
        if len(after) != len(states) or not all(isinstance(v, Value) and v.graph is graph for v in (*after, *ys)):
            raise ArgumentError(f"f must return a carry of {len(states)} Values like init, and ys that are Values")
        for state, value in zip(begin, after, strict=True):
            half = graph.half is not None and value.dtype is graph.half  # autocast made it so: the carry keeps its dtype
            trace.become(state, cast(value, state.dtype) if half else value)
        for y in ys:
            if y not in after:
                trace.stack(y)
        outputs = trace.close()
    left = outputs.loop.left
    stacked = [getitem(outputs.history(begin[after.index(y)]), left) if y in after else outputs.stacked(y) for y in ys]
    return rebuild([outputs.final(s) for s in begin]), together(stacked)


def _flat(structure: Any) -> tuple[list[Any], Callable[[Sequence[Any]], Any]]:
    """The leaves of a structure of tuples, lists and dicts, and what makes the same structure of others; None has none."""
    leaves = list[Any]()

    def walked(x: Any) -> Any:
        if isinstance(x, list | tuple):
            return type(x), [walked(e) for e in x]
        if isinstance(x, Mapping):
            return dict, {k: walked(e) for k, e in x.items()}
        if x is not None:
            leaves.append(x)
        return None if x is None else ...

    shape = walked(structure)

    def rebuilt(values: Sequence[Any]) -> Any:
        rest: Iterator[Any] = iter(values)

        def made(x: Any) -> Any:
            if x is ...:
                return next(rest)
            if x is None:
                return None
            kind, inner = x
            return {k: made(e) for k, e in inner.items()} if kind is dict else kind(made(e) for e in inner)

        return made(shape)

    return leaves, rebuilt

"""Loops: a graph of its own, the body, run once for each step, with states that one step hands to the next.

    states [K]  --+--> body --+--> states of the next step          result: every state that was met, and each step's results
    x[t]        --+           +--> results of the step, stacked
    what does not change  ----+

As ``jax.lax.scan``. The gradient is a loop from the other end. The body is a text, which is what a graph prints as, so that an
attribute is all there is to a loop. Results of contractions are stacked too: the gradient reads them and does not compute them
again; what nobody reads is taken out by the passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from graphrt.errors import ArgumentError, ShapeError
from graphrt.ir import Graph, Node, Value
from graphrt.op import Kind, OpDef, Sample, Types, register
from graphrt.ops.base import cast, constant_of, function, integer, tensor
from graphrt.ops.body import Loop, parse_body
from graphrt.ops.elementwise import add
from graphrt.ops.reverse import sweep
from graphrt.ops.slicing import getitem
from graphrt.ops.tracing import Trace
from graphrt.reference import walk
from graphrt.types import TensorType

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


# --- the public function -----------------------------------------------------------------------------------------------------


@function
def scan(f: Callable[..., Any], init: Any, xs: Any = None, length: int | None = None, reverse: bool = False) -> tuple[Any, Any]:
    """``carry, y = f(carry, x)`` for each element x of ``xs``: the last carry, and the y of all steps stacked.

    As ``jax.lax.scan``: ``init`` and ``xs`` are Values, or tuples, lists or dicts of them; each Value of ``xs`` is [T, ...], of
    which ``f`` gets element t at step t, from the last to the first if ``reverse``. The carry keeps its shapes and dtypes. The
    results y are Values, a structure of them, or None. ``length`` is T where ``xs`` is None. ``f`` may use any Value of the
    graph, and is traced once: on the cpu a program runs one body T times, and more steps do not take longer to compile. Raises
    ArgumentError (also for an ``f`` that updates a parameter, draws random numbers, or exchanges something with other
    processes), ShapeError, DTypeError.
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

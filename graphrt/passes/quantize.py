"""Weights of eight bits: a weight of products becomes integers and, for each of its output channels, a scale.

    y = x @ w            w [C, K] float32                          w.scale [1, K] = max |w| over C, / 127
    y = x @ (w.int8 * w.scale)                                     w.int8 [C, K] = w / w.scale, rounded

Activations stay what they were. The rounding is symmetric and to nearest, with a scale for each channel (Krishnamoorthi,
"Quantizing deep convolutional networks for efficient inference: a whitepaper", 2018, section 3.1.1): no element moves by more
than half a scale. How far a scale goes is found by following a weight to those that read it, through views, conversions and
the bodies of loops.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import numpy as np

from graphrt.errors import ArgumentError, InputError
from graphrt.index import Expr, axes, axis
from graphrt.ir import Graph, Node, Value
from graphrt.op import Kind
from graphrt.ops.base import broadcast_to, cast
from graphrt.ops.body import Loop
from graphrt.ops.elementwise import mul
from graphrt.ops.view import reshape
from graphrt.types import Shape, float32, float64

LARGEST, EIGHT = 127, ".int8"
Blocks = tuple[int, ...]  # of each dimension of a weight, how many neighbours have one scale
Index = tuple[Expr, ...]


def quantize_weights(graph: Graph, least: int = 1024, state: Mapping[str, np.ndarray] | None = None) -> Graph:
    """``graph``, which is for inference, with the weights of its matrix products and convolutions in int8.

    A weight is a parameter of ``least`` elements or more that nothing but such products reads, whole or in slices, at each step
    of a loop or once, all of them with the same dimensions as output channels; it becomes the parameters ``NAME.int8`` and
    ``NAME.scale``, one for each channel. Embeddings, biases and norms stay as they are. All parameters start with what
    ``state``, such as a trainer's, has for them, else as those of ``graph`` do; a program of the result has a state of its
    own. Raises ArgumentError for a graph that trains, that is of several processes, or in which nothing is such a weight, for
    a weight that is not finite, and for a ``state`` that does not fit.
    """
    _check(graph, least, state)
    chosen = {n: blocks for n, blocks in _scales(graph).items() if graph.sources[n].types[0].size >= max(least, 1)}
    if not chosen:
        names = [n for n, s in graph.sources.items() if s.op.name == "parameter"]
        raise ArgumentError(
            f"no parameter of {least} elements or more is only read as the weight of matrix products and convolutions; the "
            f"parameters are {', '.join(names) or 'none'}"
        )
    held = state if state is not None else graph.state if isinstance(graph.state, Mapping) else {}
    new, table = graph.like(), dict[Value, Value]()
    new.state, new.initial = None, graph.initial | {n: _given(graph.sources[n], held[n]) for n in graph.sources if n in held}
    for node in graph.nodes:
        with new.at(node.origin):
            if node.name in chosen and node.name in graph.sources:
                table[node.outputs[0]] = _restored(new, node, new.initial.pop(node.name), chosen[node.name])
            else:
                copy = new.adopt(node, [table[v] for v in node.inputs])
                table.update(zip(node.outputs, copy.outputs, strict=True))
    new.take_results(graph, table)
    return new


def _check(graph: Graph, least: int, state: Mapping[str, np.ndarray] | None) -> None:
    """Raises ArgumentError unless ``graph`` is for inference on one process, and the other arguments are of their kinds."""
    if not isinstance(graph, Graph):
        raise ArgumentError(
            f"quantize_weights takes a Graph, got {type(graph).__name__}; build g = Graph(), g.output('y', net(x))"
        )
    if isinstance(least, bool) or not isinstance(least, int) or least < 0:
        raise ArgumentError(f"least is a number of elements, got {least!r}")
    if state is not None and not isinstance(state, Mapping):
        raise ArgumentError(f"state has arrays by the names of parameters, got {type(state).__name__}")
    if trained := [name for name in graph.updates if graph.sources[name].attrs.get("trainable")]:
        raise ArgumentError(f"this graph trains {trained[0]!r}: weights of eight bits are for inference")
    if graph.mesh is not None and graph.mesh.size > 1:
        raise ArgumentError("quantize_weights takes a graph of one process; this one is built on a mesh")
    if twice := [name for name in graph.sources if name.endswith(EIGHT)]:
        raise ArgumentError(f"{twice[0]!r} is of eight bits already")


def check_apart(graph: Graph, held: Collection[str]) -> None:
    """Raises InputError where a state that has ``held`` is to be that of a quantized ``graph``, whose weights it has in float.

    They would stay as they were when they were rounded while others train, or load, those that they were made of.
    """
    names = [name.removesuffix(EIGHT) for name in graph.sources if name.endswith(EIGHT)]
    if both := [name for name in names if name in held]:
        raise InputError(
            f"the state has {both[0]!r}, and this graph the same in eight bits, which would not change with it: compile a "
            "quantized graph with a state of its own, by leaving state out"
        )


def _given(node: Node, value: np.ndarray) -> np.ndarray:
    """The ``value`` of a state for the parameter ``node``. Raises ArgumentError."""
    array, type = np.asarray(value), node.types[0]
    if array.shape != type.shape or array.dtype != type.dtype.numpy:
        raise ArgumentError(f"the state has {array.dtype} {list(array.shape)} for {node.name!r}, which is {type}")
    return array


def _restored(new: Graph, node: Node, array: np.ndarray, blocks: Blocks) -> Value:
    """The parameter ``node``, whose values are ``array``, from eight bits on the graph ``new``, a scale for each block."""
    if not np.isfinite(array).all():
        raise ArgumentError(f"the weight {node.name!r} has elements that are not finite: they have no scale")
    dtype, shape = node.types[0].dtype, node.types[0].shape
    wide = dtype if dtype is float64 else float32
    counts = [n // b for n, b in zip(shape, blocks, strict=True)]
    apart = [n for pair in zip(counts, blocks, strict=True) for n in pair]
    parts = np.broadcast_to(array, shape).astype(wide.numpy).reshape(apart)
    largest = np.abs(parts).max(tuple(range(1, parts.ndim, 2)), keepdims=True)
    scale = np.maximum(largest / wide.numpy.type(LARGEST), np.finfo(wide.numpy).tiny)
    eight = new.parameter(f"{node.name}{EIGHT}", np.rint(parts / scale).astype(np.int8).reshape(shape), trainable=False)
    scales = new.parameter(f"{node.name}.scale", scale.reshape(counts), trainable=False)
    return cast(mul(cast(eight, wide), _spread(scales, shape, blocks)), dtype)


def _spread(scales: Value, shape: Shape, blocks: Blocks) -> Value:
    """``scales`` in a shape that broadcasts to ``shape``: each is that of a block of neighbours."""
    inner = [n if 1 < b < n else n // b for n, b in zip(shape, blocks, strict=True)]
    if list(scales.shape) == inner:
        return scales
    apart = [n for count in scales.shape for n in (count, 1)]
    beside = [n for count, full in zip(scales.shape, inner, strict=True) for n in (count, full // count)]
    return reshape(broadcast_to(reshape(scales, apart), tuple(beside)), inner)


def _scales(graph: Graph) -> Mapping[str, Blocks]:
    """The blocks of each weight that have a scale: the largest over which one adds up that reads it."""
    readers, found = _Readers(graph), dict[str, Blocks]()
    for name, node in graph.sources.items():
        value = node.outputs[0]
        if node.op.name == "parameter" and value.dtype.is_float and value.ndim > 1:
            blocks = readers.blocks(value, value.shape, lambda index: index)
            most = None if None in blocks else tuple(map(max, *filter(None, blocks), (1,) * value.ndim))
            if most in blocks and most is not None:  # what is a channel to one is none that another adds up over
                found[name] = most
    return found


class _Readers:
    """The readers of each value of a graph, which may be a loop's body, and the scales that a weight has for them."""

    def __init__(self, graph: Graph) -> None:
        self.users, self.results = graph.users(), set(graph.results())

    def blocks(self, value: Value, shape: Shape, at: Callable[[Index], Index]) -> list[Blocks | None]:
        """The blocks of a weight of ``shape`` to each product that reads ``value``, None for any other reader.

        ``at`` gives the place in the weight of the element of ``value`` at an index.
        """
        found: list[Blocks | None] = [None] if value in self.results or not self.users[value] else []
        for user in self.users[value]:
            found += self._by(user, value, shape, at)
        return found

    def _by(self, user: Node, value: Value, shape: Shape, at: Callable[[Index], Index]) -> list[Blocks | None]:
        """``blocks`` by one of those who read ``value``."""
        if user.inputs.count(value) > 1:
            return [None]
        if user.op.kind is Kind.CONTRACTION:
            return [_of_product(user, user.inputs.index(value), shape, at)]
        if user.op.kind is Kind.LOOP:
            return _of_loop(user, user.inputs.index(value), shape, at)
        if len(user.inputs) == 1 and user.op.kind is Kind.VIEW and (pull := user.op.pull) is not None:
            piece, *others = pull(user, axes("v", user.types[0].shape))
            if not others and not piece.mask:
                return self.blocks(user.outputs[0], shape, lambda index: at(pull(user, index)[0].index))
        if len(user.inputs) == 1 and user.op.kind is Kind.ELEMENTWISE and user.types[0].dtype != value.dtype:  # a conversion
            return self.blocks(user.outputs[0], shape, at)
        return [None]


def _of_product(user: Node, operand: int, shape: Shape, at: Callable[[Index], Index]) -> Blocks | None:
    """The blocks of a weight of ``shape`` over which ``user`` adds up, which reads it at ``at``; None where it has none."""
    if user.op.axes is None:
        return None
    spec, own = user.op.axes(user), user.inputs[operand].shape
    kept = [c != "_" and c in spec.results[0] for c in spec.operands[operand]]
    grouped = spec.blocks if operand == len(user.inputs) - 1 else ()
    if not any(kept) and not grouped:
        return None
    blocks = grouped or tuple(1 if k else n for k, n in zip(kept, own, strict=True))
    index, found = axes("v", own), list[int]()
    for e, n in zip(at(index), shape, strict=True):
        folded = [d for d, block in enumerate(blocks) if block > 1 and f"v{d}" in e.axes()]
        whole = len(folded) == 1 and e == index[folded[0]] and own[folded[0]] == n
        found.append(1 if not folded else blocks[folded[0]] if whole else n)
    return tuple(found)


def _of_loop(user: Node, operand: int, shape: Shape, at: Callable[[Index], Index]) -> list[Blocks | None]:
    """The blocks of a weight to each product of the loop ``user`` that reads it, or at each step another part of it."""
    loop = Loop.of(user)
    first = operand - len(loop.states)
    if first < 0:
        return [None]
    step = (axis(f"step of {user.name}", loop.length),) if first < len(loop.sequences) else ()
    return _Readers(loop.body).blocks(loop.arguments[operand], shape, lambda index: at((*step, *index)))

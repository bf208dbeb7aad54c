"""Weights of eight bits: a weight of products becomes integers and, for each of its output channels, a scale.

    y = x @ w            w [C, K] float32                          w.scale [1, K] = max |w| over C, / 127
    y = x @ (w.int8 * w.scale)                                     w.int8 [C, K] = w / w.scale, rounded

Activations stay what they were. The rounding is symmetric and to nearest, with a scale for each channel (Krishnamoorthi,
"Quantizing deep convolutional networks for efficient inference: a whitepaper", 2018, section 3.1.1): no element moves by more
than half a scale.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from graphrt.errors import ArgumentError
from graphrt.index import Expr, axes
from graphrt.ir import Graph, Node, Value
from graphrt.op import Kind
from graphrt.ops.base import cast
from graphrt.ops.elementwise import mul
from graphrt.types import float32, float64

LARGEST = 127
Channels = frozenset[int]


def quantize_weights(graph: Graph, least: int = 1024, state: Mapping[str, np.ndarray] | None = None) -> Graph:
    """``graph``, which is for inference, with the weights of its matrix products and convolutions in int8.

    A weight is a parameter of ``least`` elements or more that nothing but such products reads, all of them with the same
    dimensions as output channels; it becomes the parameters ``NAME.int8`` and ``NAME.scale``, one for each channel.
    Embeddings, biases, norms and what a loop reads stay as they are. All parameters start with what ``state``, such as a
    trainer's, has for them, else as those of ``graph`` do: compile the result with a state of its own. Raises ArgumentError
    for a graph that trains, that is of several processes, or in which nothing is such a weight, for a weight that is not
    finite, and for a ``state`` that does not fit or has such weights already.
    """
    _check(graph, least, state)
    chosen = {n: dims for n, dims in _channels(graph).items() if graph.sources[n].types[0].size >= max(least, 1)}
    if not chosen:
        names = [n for n, s in graph.sources.items() if s.op.name == "parameter"]
        raise ArgumentError(
            f"no parameter of {least} elements or more is only read, whole, as the weight of matrix products and convolutions "
            f"of one group; the parameters are {', '.join(names) or 'none'}"
        )
    new, table = graph.like(), dict[Value, Value]()
    new.initial = graph.initial | {n: _given(graph.sources[n], state[n]) for n in graph.sources if state and n in state}
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
    if twice := [name for name in graph.sources if name.endswith(".int8")]:
        raise ArgumentError(f"{twice[0]!r} is of eight bits already")
    if held := [name for name in graph.sources if state and f"{name}.int8" in state]:
        raise ArgumentError(
            f"the state has {held[0]}.int8, of an earlier quantize_weights, which a program compiled on it would read: "
            "compile quantized graphs with a state of their own, and take the weights from one that has none"
        )


def _given(node: Node, value: np.ndarray) -> np.ndarray:
    """The ``value`` of a state for the parameter ``node``. Raises ArgumentError."""
    array, type = np.asarray(value), node.types[0]
    if array.shape != type.shape or array.dtype != type.dtype.numpy:
        raise ArgumentError(f"the state has {array.dtype} {list(array.shape)} for {node.name!r}, which is {type}")
    return array


def _restored(new: Graph, node: Node, array: np.ndarray, channels: Channels) -> Value:
    """The parameter ``node``, whose values are ``array``, from eight bits on the graph ``new``."""
    if not np.isfinite(array).all():
        raise ArgumentError(f"the weight {node.name!r} has elements that are not finite: they have no scale")
    dtype = node.types[0].dtype
    wide = dtype if dtype is float64 else float32
    array = np.broadcast_to(array, node.types[0].shape).astype(wide.numpy)
    largest = np.abs(array).max(tuple(d for d in range(array.ndim) if d not in channels), keepdims=True)
    scale = np.maximum(largest / wide.numpy.type(LARGEST), np.finfo(wide.numpy).tiny)
    eight = new.parameter(f"{node.name}.int8", np.rint(array / scale).astype(np.int8), trainable=False)
    return cast(mul(cast(eight, wide), new.parameter(f"{node.name}.scale", scale, trainable=False)), dtype)


def _channels(graph: Graph) -> Mapping[str, Channels]:
    """The dimensions of each weight that are output channels of all that reads it."""
    users, results, found = graph.users(), set(graph.results()), dict[str, Channels]()
    for name, node in graph.sources.items():
        value = node.outputs[0]
        if node.op.name != "parameter" or not value.dtype.is_float or value.ndim < 2 or value in results:
            continue
        places = _read(users, value, value, axes("w", value.shape))
        if places and len(set(places)) == 1 and places[0]:
            found[name] = places[0]
    return found


def _read(users: Mapping[Value, list[Node]], weight: Value, value: Value, index: tuple[Expr, ...]) -> list[Channels]:
    """The dimensions of ``weight`` that are channels to each product that reads ``value``, none for any other reader.

    ``index`` is the place in ``value`` of the weight's element ``w0, w1, ...``.
    """
    found = list[Channels]()
    for user in users[value]:
        if user.op.kind is Kind.CONTRACTION and user.op.axes is not None and user.inputs.count(value) == 1:
            spec = user.op.axes(user)
            letters = spec.operands[user.inputs.index(value)]
            kept = [c != "_" and c in spec.results[0] for c in letters]
            folded = set().union(*(e.axes() for e, own in zip(index, kept, strict=True) if not own))
            channels = (d for d in range(len(weight.shape)) if f"w{d}" not in folded)
            found.append(frozenset(channels if any(kept) else ()))
        elif user.op.kind is Kind.VIEW and user.op.push is not None and len(user.inputs) == 1:
            found += _read(users, weight, user.outputs[0], user.op.push(user, index)) or [frozenset()]
        elif user.op.kind is Kind.ELEMENTWISE and len(user.inputs) == 1 and user.types[0].dtype != value.dtype:
            found += _read(users, weight, user.outputs[0], index) or [frozenset()]  # a conversion
        else:
            found.append(frozenset())
    return found

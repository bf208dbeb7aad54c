"""Collectives: what the processes of a mesh exchange, each along one of its axes.

    types         all_reduce          f32[4]@dp  -> f32[4]       each process has the sum
                  all_gather          f32[4]@dp  -> f32[8]@dp    their parts side by side
                  reduce_scatter      f32[8]@dp  -> f32[4]@dp    its part of the sum
    gradients     all_reduce <-> pvary,   all_gather <-> reduce_scatter,   all_to_all, ppermute <-> themselves, the other way

What is the same in all processes may be used beside what varies; its gradient is then the sum of what all of them give, and the
reverse sweep writes that ``all_reduce`` (``reverse.py``). So data parallel training is a graph whose inputs vary, and tensor
parallelism one whose weights do: the typing of JAX's shard_map (JEP 17111).

``reference`` of these ops takes and returns lists: an array for each process along the axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from graphrt.errors import ArgumentError, GraphError, ShapeError
from graphrt.index import Expr
from graphrt.ir import Graph, Node, Value
from graphrt.op import REGISTRY, Attrs, Kind, OpDef, Piece, Sample, Types, register
from graphrt.ops.base import apply, cast, creation, dim_index, function, widened
from graphrt.ops.elementwise import eq, where
from graphrt.ops.indexing import gather
from graphrt.types import HALVES, Shape, TensorType, int32

Ranks = Sequence[np.ndarray]  # what each process along the axis has
REDUCTIONS: dict[str, Any] = {"sum": np.add, "max": np.maximum, "min": np.minimum}


def _define(
    name: str,
    infer: Callable[..., Types],
    vjp: Callable[..., Sequence[Value | None]] | None,
    reference: Callable[..., Any],
    varies: bool | None = True,
    in_place: bool = False,
) -> None:
    """Registers a collective along the attribute ``axis``; its results vary along it (None: where ``varies`` says so)."""

    def varying(types: Types, attrs: Attrs) -> tuple[str, ...]:
        others = {axis for t in types for axis in t.varying} - {attrs["axis"]}
        return tuple(sorted(others | ({attrs["axis"]} if (attrs["varies"] if varies is None else varies) else set())))

    def alone(node: Node) -> Value | None:
        """The result for a process that is alone along the axis: its own."""
        if node.attrs["size"] > 1 or len(node.outputs) > 1:
            return None
        return node.inputs[0] if node.inputs else node.graph.constant(0, node.types[0].dtype)

    rules: dict[str, Any] = {"simplify": alone, "flops": lambda node: 0, "varying": varying, "in_place": in_place}
    register(OpDef(name, Kind.COLLECTIVE, infer, vjp, reference, lambda rng: [], **rules))


def _each(types: Types, shape: Callable[[Shape], Shape]) -> Types:
    return tuple(TensorType(shape(t.shape), t.dtype) for t in types)


def _scaled(shape: Shape, dim: int, times: int, parts: int = 1) -> Shape:
    """``shape`` with dimension ``dim`` multiplied by ``times`` and cut into ``parts``. Raises ShapeError."""
    if shape[dim] * times % parts:
        raise ShapeError(f"dimension {dim} of {list(shape)} must be a multiple of {parts}, the processes along the axis")
    return tuple(n * times // parts if d == dim else n for d, n in enumerate(shape))


def _folded(ranks: Ranks, op: str) -> np.ndarray:
    """The sum, maximum or minimum over processes, in the order of their ranks."""
    total = ranks[0]
    for array in ranks[1:]:
        total = np.asarray(REDUCTIONS[op](total, array), array.dtype)
    return total


# --- all_reduce, pvary --------------------------------------------------------------------------------------------------


def _all_reduce_infer(*types: TensorType, axis: str, size: int, op: str) -> Types:
    return _each(types, lambda shape: shape)


def _all_reduce_vjp(node: Node, *dys: Value) -> list[Value | None]:
    if node.attrs["op"] == "sum":
        return list(dys)
    found: list[Value | None] = []
    for x, y, dy in zip(node.inputs, node.outputs, dys, strict=True):
        won = eq(x, y)  # all that reach the extreme share its gradient
        count = _reduced(cast(won, dy.dtype), node.attrs["axis"], node.attrs["size"])
        found.append(where(won, dy / count, 0.0))
    return found


def _all_reduce_reference(*operands: Ranks, axis: str, size: int, op: str) -> tuple[list[np.ndarray], ...]:
    return tuple([_folded(ranks, op)] * size for ranks in operands)


_define("all_reduce", _all_reduce_infer, _all_reduce_vjp, _all_reduce_reference, varies=False, in_place=True)


def _reduced(x: Value, axis: str, size: int, op: str = "sum") -> Value:
    return apply("all_reduce", x, axis=axis, size=size, op=op)


def _pvary_pull(node: Node, index: tuple[Expr, ...]) -> Sequence[Piece]:
    return [Piece(0, index)]


register(
    OpDef(
        name="pvary",
        kind=Kind.VIEW,
        infer=lambda input, *, axes: (TensorType(input.shape, input.dtype),),
        vjp=lambda node, dy: [dy],  # the reverse sweep sums what varies where its value does not
        reference=lambda input, axes: input,
        samples=lambda rng: [Sample((rng.standard_normal((2, 3)).astype(np.float32),), {"axes": ()})],  # there is no mesh
        pull=_pvary_pull,
        push=lambda node, index: index,
        varying=lambda types, attrs: tuple(sorted({*types[0].varying, *attrs["axes"]})),
    )
)


# --- all_gather, reduce_scatter -----------------------------------------------------------------------------------------


# Of two gathers of one tensor, the one ``again`` is not that before, which would have to be kept until then.
def _all_gather_vjp(node: Node, *dys: Value) -> list[Value | None]:
    attrs = node.attrs
    rest = {name: attrs[name] for name in ("axis", "size", "dim")}
    if attrs["varies"]:
        return [apply("reduce_scatter", dy, **rest) for dy in dys]
    return [_own_part(dy, **rest) for dy in dys]


_define(
    "all_gather",
    lambda *types, axis, size, dim, varies, again=False: _each(types, lambda shape: _scaled(shape, dim, size)),
    _all_gather_vjp,
    lambda *operands, axis, size, dim, varies, again=False: tuple([np.concatenate(ranks, dim)] * size for ranks in operands),
    varies=None,
)


def _reduce_scatter_vjp(node: Node, *dys: Value) -> list[Value | None]:
    return [apply("all_gather", dy, **node.attrs, varies=True) for dy in dys]


_define(
    "reduce_scatter",
    lambda *types, axis, size, dim: _each(types, lambda shape: _scaled(shape, dim, 1, size)),
    _reduce_scatter_vjp,
    lambda *operands, axis, size, dim: tuple(np.split(_folded(ranks, "sum"), size, dim) for ranks in operands),
)


# --- all_to_all, ppermute, broadcast_from, axis_index --------------------------------------------------------------------


def _all_to_all_reference(ranks: Ranks, axis: str, size: int, split_dim: int, concat_dim: int) -> list[np.ndarray]:
    parts = [np.split(array, size, split_dim) for array in ranks]
    return [np.concatenate([parts[sender][me] for sender in range(size)], concat_dim) for me in range(size)]


def _all_to_all_vjp(node: Node, dy: Value) -> list[Value | None]:
    attrs = node.attrs
    return [apply("all_to_all", dy, **{**attrs, "split_dim": attrs["concat_dim"], "concat_dim": attrs["split_dim"]})]


_define(
    "all_to_all",
    lambda input, *, axis, size, split_dim, concat_dim: _each(
        (input,), lambda shape: _scaled(_scaled(shape, split_dim, 1, size), concat_dim, size)
    ),
    _all_to_all_vjp,
    _all_to_all_reference,
)


def _ppermute_reference(ranks: Ranks, axis: str, size: int, perm: Sequence[tuple[int, int]]) -> list[np.ndarray]:
    senders = {receiver: sender for sender, receiver in perm}
    return [ranks[senders[me]] if me in senders else np.zeros_like(ranks[me]) for me in range(size)]


def _ppermute_vjp(node: Node, dy: Value) -> list[Value | None]:
    return [apply("ppermute", dy, **{**node.attrs, "perm": tuple((b, a) for a, b in node.attrs["perm"])})]


_define(
    "ppermute",
    lambda input, *, axis, size, perm: _each((input,), lambda shape: shape),
    _ppermute_vjp,
    _ppermute_reference,
)


def _broadcast_vjp(node: Node, dy: Value) -> list[Value | None]:
    axis, size = node.attrs["axis"], node.attrs["size"]
    mine = eq(_index(node.graph, axis, size), node.attrs["source"])
    return [where(mine, dy, 0.0)]


_define(
    "broadcast_from",
    lambda input, *, axis, size, source: _each((input,), lambda shape: shape),
    _broadcast_vjp,
    lambda ranks, axis, size, source: [ranks[source]] * size,
    varies=False,
)

_define(
    "axis_index",
    lambda *, axis, size: (TensorType((), int32),),
    lambda node, dy: [],
    lambda axis, size: [np.asarray(i, np.int32) for i in range(size)],
)


def _index(graph: Graph, axis: str, size: int) -> Value:
    return graph.append(REGISTRY["axis_index"], (), {"axis": axis, "size": size}).outputs[0]


def _own_part(x: Value, axis: str, size: int, dim: int) -> Value:
    """The part of ``x`` along ``dim`` that belongs to this process, of as many as there are along ``axis``."""
    length = _scaled(x.shape, dim, 1, size)[dim]
    parts = apply("reshape", x, shape=(*x.shape[:dim], size, length, *x.shape[dim + 1 :]))
    shape = tuple(1 if d == dim else n for d, n in enumerate(parts.shape))
    mine = apply("broadcast", apply("cast", _index(x.graph, axis, size), dtype="int64"), shape=shape)
    return apply("reshape", gather(parts, dim, mine), shape=(*x.shape[:dim], length, *x.shape[dim + 1 :]))


def sent(node: Node) -> int:
    """The bytes that each process must send, at least, on average, for the collective ``node``.

    Chan, Heimlich, Purkayastha and van de Geijn, "Collective communication: theory, practice, and experience", 2007.
    """
    name, size, total = node.op.name, node.attrs["size"], sum(v.type.nbytes for v in node.inputs)
    if name == "all_reduce":
        return math.ceil(2 * total * (size - 1) / size)
    if name == "all_gather":
        return total * (size - 1)
    if name == "ppermute":
        return math.ceil(total * len(node.attrs["perm"]) / size)
    return math.ceil(total * (size - 1) / size)


# --- public functions ---------------------------------------------------------------------------------------------------


def _along(graph: Graph, axis: str) -> dict[str, Any]:
    """The attributes of a collective along ``axis``. Raises GraphError, ArgumentError."""
    if graph.mesh is None:
        raise GraphError("collectives are for the processes of a mesh: build on Graph(mesh=Mesh(dp=4))")
    graph.mesh.varying(axis)
    return {"axis": axis, "size": graph.mesh.axes[axis]}


def _varied(input: Value, axis: str) -> dict[str, Any]:
    """``_along`` for an ``input`` that varies along it. Raises GraphError."""
    attrs = _along(input.graph, axis)
    if axis not in input.type.varying:
        about = f"the same in all processes along {axis}, or of a step of scan, in which nothing can be exchanged"
        raise GraphError(f"{input.node.where()} is {input.type}, {about}")
    return attrs


@function
def pvary(input: Value, axis: str) -> Value:
    """``input``, the same in all processes, as one that varies along ``axis`` of the mesh; it costs nothing.

    Arithmetic does it unasked. The gradient is ``all_reduce``. Raises GraphError without a mesh, ArgumentError.
    """
    _along(input.graph, axis)
    return input if axis in input.type.varying else apply("pvary", input, axes=(axis,))


@function
def all_reduce(input: Value, axis: str, op: str = "sum") -> Value:
    """The sum (mean, max or min, by ``op``) of ``input`` over the processes along ``axis`` of the mesh, in all of them.

    ``input`` must vary along it; the result does not. Halves are summed as such. Gradients: each process's is that of the
    result, of a maximum where it was reached. Raises GraphError, ArgumentError.
    """
    attrs = _varied(input, axis)
    if op not in (*REDUCTIONS, "mean"):
        raise ArgumentError(f"op must be sum, mean, max or min, got {op!r}")
    if op == "mean":
        total = _reduced(widened(input), axis, attrs["size"]) * (1.0 / attrs["size"])
        return cast(total, input.dtype) if input.dtype in HALVES else total
    return apply("all_reduce", input, **attrs, op=op)


@function
def all_gather(input: Value, axis: str, dim: int = 0, varying: bool = True) -> Value:
    """The ``input`` of all processes along ``axis`` of the mesh, in order, side by side along ``dim``.

    The result is typed as ``varying`` along the axis, which makes the gradient ``reduce_scatter``; False says what it is, the
    same in all of them. Raises GraphError, ArgumentError.
    """
    attrs = _varied(input, axis)
    return apply("all_gather", input, **attrs, dim=dim_index(dim, input.ndim), varies=varying)


@function
def reduce_scatter(input: Value, axis: str, dim: int = 0) -> Value:
    """The part of the sum of ``input`` over the processes along ``axis`` that belongs to each: cut along ``dim``, in order.

    ``dim`` must be a multiple of their number. The gradient is ``all_gather``. Raises GraphError, ShapeError, ArgumentError.
    """
    return apply("reduce_scatter", input, **_varied(input, axis), dim=dim_index(dim, input.ndim))


@function
def all_to_all(input: Value, axis: str, split_dim: int = 0, concat_dim: int = 0) -> Value:
    """Cuts ``input`` along ``split_dim``, sends part i to process i along ``axis``, and lays what comes along ``concat_dim``.

    Raises GraphError, ShapeError, ArgumentError.
    """
    dims = {"split_dim": dim_index(split_dim, input.ndim), "concat_dim": dim_index(concat_dim, input.ndim)}
    return apply("all_to_all", input, **_varied(input, axis), **dims)


@function
def ppermute(input: Value, axis: str, perm: Sequence[Sequence[int]]) -> Value:
    """The ``input`` of the process that sends to this one along ``axis``; ``perm`` has pairs (sender, receiver).

    Zeros where nobody sends. Raises GraphError, and ArgumentError where a process sends, or receives, twice.
    """
    attrs = _varied(input, axis)
    pairs = tuple(tuple(int(n) for n in pair) for pair in perm)
    numbers = range(attrs["size"])
    if any(len(pair) != 2 or not all(n in numbers for n in pair) for pair in pairs):
        raise ArgumentError(f"perm has pairs (sender, receiver) of numbers below {attrs['size']}, got {perm!r}")
    for side in (0, 1):
        if len({pair[side] for pair in pairs}) < len(pairs):
            raise ArgumentError(f"no process may {('send', 'receive')[side]} twice, got {perm!r}")
    return apply("ppermute", input, **attrs, perm=pairs)


@function
def broadcast_from(input: Value, axis: str, source: int = 0) -> Value:
    """The ``input`` of process number ``source`` along ``axis`` of the mesh, in all of them.

    Raises GraphError, ArgumentError.
    """
    attrs = _varied(input, axis)
    if not 0 <= source < attrs["size"]:
        raise ArgumentError(f"source must be below {attrs['size']}, the processes along {axis}, got {source}")
    return apply("broadcast_from", input, **attrs, source=int(source))


@function
def shard(input: Value, axis: str, dim: int = 0) -> Value:
    """This process's part of ``input``, which all along ``axis`` of the mesh have: cut along ``dim``, in order.

    ``dim`` must be a multiple of their number. Raises GraphError, ShapeError, ArgumentError.
    """
    return _own_part(input, **_along(input.graph, axis), dim=dim_index(dim, input.ndim))


def everywhere(v: Value, op: str = "mean") -> Value:
    """``v`` reduced over all axes along which it varies."""
    for axis in v.type.varying:
        v = all_reduce(v, axis, op)
    return v


@creation
def axis_index(graph: Graph, axis: str) -> Value:
    """The number of this process along ``axis`` of the mesh of ``graph``, from 0: int32. Raises GraphError, ArgumentError."""
    attrs = _along(graph, axis)
    return _index(graph, attrs["axis"], attrs["size"])

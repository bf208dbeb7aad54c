"""Views that keep every element. A view moves no data: it is an index map, folded into its reader.

``pull(node, index)`` says for an element of the view's output where it is read from: pieces of operands, each with an
index and the ranges in which it holds; elements that no piece covers take ``attrs["value"]`` (padding) or 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from graphrt.errors import ArgumentError, DTypeError, ShapeError
from graphrt.index import Expr, as_expr, renumbered
from graphrt.ir import Node, Value
from graphrt.op import Kind, OpDef, Piece, Sample, Types, register
from graphrt.ops.base import alias, apply, broadcast_shape, cast, dim_index, dim_indices, function, integers, unbroadcast
from graphrt.ops.base import broadcast_to as _broadcast_to
from graphrt.types import HALVES, Shape, TensorType, float32

Index = tuple[Expr, ...]


def arrays(rng: np.random.Generator, *calls: tuple[Sequence[int], dict[str, Any]]) -> list[Sample]:
    """Samples of one random float32 array each, from (shape, attributes) pairs."""
    return [Sample((np.asarray(rng.standard_normal(shape), np.float32),), attrs) for shape, attrs in calls]


# --- reshape -----------------------------------------------------------------------------------------------------


def _infer_reshape(input: TensorType, *, shape: Shape) -> Types:
    if any(n < 0 for n in shape) or math.prod(shape) != input.size:
        raise ShapeError(f"cannot reshape {list(input.shape)} ({input.size} elements) to {list(shape)}")
    return (TensorType(tuple(shape), input.dtype),)


def _simplify_reshape(node: Node) -> Value | None:
    x, shape = node.inputs[0], node.types[0].shape
    inner = x.node
    if x.shape == shape:
        return x
    if inner.op is node.op:
        return reshape(inner.inputs[0], shape)
    return None


def _pull_reshape(node: Node, index: Index) -> list[Piece]:
    x = node.inputs[0]
    return [Piece(0, renumbered(index, node.types[0].shape, x.shape))]


register(
    OpDef(
        name="reshape",
        kind=Kind.VIEW,
        infer=_infer_reshape,
        vjp=lambda n, dy: [reshape(dy, n.inputs[0].shape)],
        reference=lambda x, shape: np.reshape(x, shape),
        samples=lambda rng: arrays(
            rng, ((2, 6), {"shape": (3, 4)}), ((4,), {"shape": (2, 1, 2)}), ((1,), {"shape": ()}), ((0, 3), {"shape": (3, 0)})
        ),
        pull=_pull_reshape,
        push=lambda node, index: renumbered(index, node.inputs[0].shape, node.types[0].shape),
        simplify=_simplify_reshape,
        flops=lambda n: 0,
    )
)


@function
def reshape(input: Value, shape: Sequence[int]) -> Value:
    """``input`` with its elements, in row-major order, in ``shape``; one size may be -1. Raises ShapeError."""
    shape = integers(shape, "shape")
    if shape.count(-1) > 1:
        raise ArgumentError(f"only one size of shape can be -1, got {shape}")
    if -1 in shape:
        known = math.prod(n for n in shape if n != -1)
        if known == 0 or input.type.size % known:
            raise ShapeError(f"cannot reshape {list(input.shape)} ({input.type.size} elements) to {shape}")
        shape[shape.index(-1)] = input.type.size // known
    return input if input.shape == tuple(shape) else apply("reshape", input, shape=tuple(shape))


@function
def flatten(input: Value, start_dim: int = 0, end_dim: int = -1) -> Value:
    """Dimensions ``start_dim`` to ``end_dim`` joined into one."""
    if input.ndim == 0:
        return reshape(input, (1,))
    a, b = dim_index(start_dim, input.ndim, "start_dim"), dim_index(end_dim, input.ndim, "end_dim")
    if a > b:
        raise ArgumentError(f"start_dim {start_dim} lies behind end_dim {end_dim}")
    return reshape(input, (*input.shape[:a], math.prod(input.shape[a : b + 1]), *input.shape[b + 1 :]))


@function
def squeeze(input: Value, dim: int | Sequence[int] | None = None) -> Value:
    """``input`` without its dimensions of size 1, or without those in ``dim`` that have size 1."""
    dims = dim_indices(dim, max(input.ndim, 1))  # a scalar counts as a vector
    return reshape(input, [n for i, n in enumerate(input.shape) if not (i in dims and n == 1)])


@function
def unsqueeze(input: Value, dim: int) -> Value:
    """``input`` with a new dimension of size 1 at ``dim``."""
    at = dim_index(dim, input.ndim + 1)
    return reshape(input, (*input.shape[:at], 1, *input.shape[at:]))


# --- permute -----------------------------------------------------------------------------------------------------


def _infer_permute(input: TensorType, *, dims: Shape) -> Types:
    if sorted(dims) != list(range(input.ndim)):
        raise ArgumentError(f"dims must name each of the {input.ndim} dimensions once, got {list(dims)}")
    return (TensorType(tuple(input.shape[d] for d in dims), input.dtype),)


def _inverse(dims: Sequence[int]) -> tuple[int, ...]:
    return tuple(sorted(range(len(dims)), key=lambda i: dims[i]))


def _simplify_permute(node: Node) -> Value | None:
    x, dims = node.inputs[0], node.attrs["dims"]
    if dims == tuple(range(x.ndim)):
        return x
    if x.node.op is node.op:
        return permute(x.node.inputs[0], [x.node.attrs["dims"][d] for d in dims])
    return None


register(
    OpDef(
        name="permute",
        kind=Kind.VIEW,
        infer=_infer_permute,
        vjp=lambda n, dy: [apply("permute", dy, dims=_inverse(n.attrs["dims"]))],
        reference=lambda x, dims: np.transpose(x, dims),
        samples=lambda rng: arrays(rng, ((2, 3, 4), {"dims": (2, 0, 1)}), ((5, 2), {"dims": (1, 0)})),
        pull=lambda node, index: [Piece(0, tuple(index[i] for i in _inverse(node.attrs["dims"])))],
        push=lambda node, index: tuple(index[d] for d in node.attrs["dims"]),
        simplify=_simplify_permute,
        flops=lambda n: 0,
    )
)


@function
def permute(input: Value, dims: Sequence[int]) -> Value:
    """Dimension ``i`` of the result is dimension ``dims[i]`` of ``input``."""
    order = tuple(dim_index(d, input.ndim, "dims") for d in integers(dims, "dims"))
    return input if order == tuple(range(input.ndim)) else apply("permute", input, dims=order)


@function
def transpose(input: Value, dim0: int, dim1: int) -> Value:
    """``input`` with dimensions ``dim0`` and ``dim1`` exchanged; a scalar counts as a vector."""
    a, b = (dim_index(d, max(input.ndim, 1), what) for d, what in ((dim0, "dim0"), (dim1, "dim1")))
    if not input.ndim:
        return input
    order = list(range(input.ndim))
    order[a], order[b] = b, a
    return permute(input, order)


@function
def movedim(input: Value, source: int | Sequence[int], destination: int | Sequence[int]) -> Value:
    """``input`` with each dimension of ``source`` moved to its place in ``destination``; the others keep their order."""
    pairs = list[list[int]]()
    for dims, what in ((source, "source"), (destination, "destination")):
        named: Any = dims if isinstance(dims, list | tuple) else [dims]
        pairs.append([dim_index(d, max(input.ndim, 1), what) for d in named])
        if len(set(pairs[-1])) != len(pairs[-1]):
            raise ArgumentError(f"{what} {dims} names a dimension twice")
    if len(pairs[0]) != len(pairs[1]):
        raise ArgumentError(f"source and destination need equally many entries, got {source} and {destination}")
    if not input.ndim:
        return input
    order = [d for d in range(input.ndim) if d not in pairs[0]]
    for to, dim in sorted(zip(pairs[1], pairs[0], strict=True)):
        order.insert(to, dim)
    return permute(input, order)


swapaxes = alias("swapaxes", transpose)
swapdims = alias("swapdims", transpose)
moveaxis = alias("moveaxis", movedim)


# --- broadcast ---------------------------------------------------------------------------------------------------


def _infer_broadcast(input: TensorType, *, shape: Shape) -> Types:
    if len(shape) < input.ndim or broadcast_shape(input.shape, shape) != tuple(shape):
        raise ShapeError(f"cannot broadcast {list(input.shape)} to {list(shape)}")
    return (TensorType(tuple(shape), input.dtype),)


def _simplify_broadcast(node: Node) -> Value | None:
    x, shape = node.inputs[0], node.types[0].shape
    if x.shape == shape:
        return x
    return _broadcast_to(x.node.inputs[0], shape) if x.node.op is node.op else None


def _pull_broadcast(node: Node, index: Index) -> list[Piece]:
    shape = node.inputs[0].shape
    tail = index[len(index) - len(shape) :]
    return [Piece(0, tuple(as_expr(0) if n == 1 else e for n, e in zip(shape, tail, strict=True)))]


register(
    OpDef(
        name="broadcast",
        kind=Kind.VIEW,
        infer=_infer_broadcast,
        vjp=lambda n, dy: [unbroadcast(dy, n.inputs[0].shape)],
        reference=lambda x, shape: np.broadcast_to(x, shape),
        samples=lambda rng: arrays(rng, ((3, 1), {"shape": (2, 3, 4)}), ((), {"shape": (2,)}), ((1,), {"shape": (0,)})),
        pull=_pull_broadcast,
        simplify=_simplify_broadcast,
        flops=lambda n: 0,
    )
)


@function
def expand(input: Value, shape: Sequence[int]) -> Value:
    """``input`` repeated along dimensions of size 1 (and new leading ones) up to ``shape``; -1 keeps a size."""
    shape = integers(shape, "shape", -1)
    lead = len(shape) - input.ndim
    if lead < 0:
        raise ShapeError(f"cannot expand {list(input.shape)} to fewer dimensions {list(shape)}")
    final = [input.shape[i - lead] if n == -1 and i >= lead else n for i, n in enumerate(shape)]
    return _broadcast_to(input, final)


# --- widen -------------------------------------------------------------------------------------------------------


def _infer_widen(input: TensorType) -> Types:
    if input.dtype not in HALVES:
        raise DTypeError(f"only float16 and bfloat16 are widened, got {input.dtype}")
    return (TensorType(input.shape, float32, input.order),)


def _simplify_widen(node: Node) -> Value | None:
    x = node.inputs[0].node
    return node.graph.constant(x.attrs["value"], float32) if x.op.name == "constant" else None


def _widen_samples(rng: np.random.Generator) -> list[Sample]:
    numbers = (np.array([0.0, -0.0, 1e-7, 30000.0]), rng.standard_normal((2, 3)))
    return [Sample((x.astype(half.numpy),), {}) for x in numbers for half in HALVES]


register(  # halves are computed in float32 and only stored as what they are, so nothing happens here
    OpDef(
        name="widen",
        kind=Kind.VIEW,
        infer=_infer_widen,
        vjp=lambda n, dy: [cast(dy, n.inputs[0].dtype)],
        reference=lambda x: x if x.dtype == np.float64 else x.astype(np.float32),
        samples=_widen_samples,
        pull=lambda node, index: [Piece(0, index)],
        push=lambda node, index: index,
        simplify=_simplify_widen,
        flops=lambda n: 0,
    )
)

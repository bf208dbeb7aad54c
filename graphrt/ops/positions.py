"""The ops gather and scatter: elements read from, and sent to, positions that the data decides.

A gather reads zeros outside, a scatter drops what is sent there. Scattered elements meet in a fixed order, so results are the
same bits run after run.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from graphrt.errors import ArgumentError, DTypeError, ShapeError
from graphrt.ir import Node, Value
from graphrt.op import LETTERS, Axes, Kind, OpDef, Sample, Types, register
from graphrt.ops.base import apply, cast, dim_index, identity, widened
from graphrt.ops.elementwise import eq, leads, where
from graphrt.types import TensorType, int64

_SCATTER: dict[str, Any] = {"sum": np.add, "prod": np.multiply, "max": np.maximum, "min": np.minimum}


def _check_index(index: TensorType, like: TensorType, dim: int, what: str) -> None:
    dim_index(dim, like.ndim)
    if index.dtype != int64:
        raise DTypeError(f"index must be int64, got {index.dtype}")
    others = [d for d in range(like.ndim) if d != dim]
    if index.ndim != like.ndim or any(index.shape[d] != like.shape[d] for d in others):
        raise ShapeError(f"index must have the sizes of {what} {list(like.shape)} but along {dim}, got {list(index.shape)}")


def _gather_axes(node: Node) -> Axes:
    letters, dim = LETTERS[: node.inputs[0].ndim], node.attrs["dim"]
    return Axes((letters[:dim] + "_" + letters[dim + 1 :], letters), (letters,))


def _infer_gather(input: TensorType, index: TensorType, *, dim: int) -> Types:
    _check_index(index, input, dim, "input")
    return (TensorType(index.shape, input.dtype),)


def _reference_gather(x: np.ndarray, index: np.ndarray, dim: int) -> np.ndarray:
    inside = (index >= 0) & (index < x.shape[dim])
    if not x.size:
        return np.zeros(index.shape, x.dtype)
    return np.where(inside, np.take_along_axis(x, np.where(inside, index, 0), dim), np.zeros((), x.dtype))


def _gather_samples(rng: np.random.Generator) -> list[Sample]:
    found = []
    for shape, count, dim in (((4, 5), 7, 0), ((4, 5), 3, 1), ((2, 6, 3), 4, 1), ((3,), 1, 0), ((0, 2), 2, 0)):
        index = rng.integers(0, max(shape[dim], 1), (*shape[:dim], count, *shape[dim + 1 :]))
        found.append(Sample((rng.standard_normal(shape).astype(np.float32), index), {"dim": dim}))
    outside = np.array([-1, 2, 9, 0])
    return [*found, Sample((rng.standard_normal(3).astype(np.float32), outside), {"dim": 0})]


register(
    OpDef(
        name="gather",
        kind=Kind.GATHER,
        infer=_infer_gather,
        vjp=lambda n, dy: [scatter_to(n.inputs[1], dy, n.attrs["dim"], n.inputs[0].shape[n.attrs["dim"]]), None],
        reference=_reference_gather,
        samples=_gather_samples,
        axes=_gather_axes,
        cheap=False,
    )
)


def _infer_scatter(index: TensorType, src: TensorType, *, dim: int, size: int, op: str) -> Types:
    _check_index(index, src, dim, "src")
    if index.shape != src.shape:
        raise ShapeError(f"index and src must have one shape, got {list(index.shape)} and {list(src.shape)}")
    if op not in _SCATTER:
        raise ArgumentError(f"op must be one of {', '.join(_SCATTER)}, got {op!r}")
    if src.dtype.is_bool:
        raise DTypeError("src must be a number, got bool; cast it first")
    if size < 0:
        raise ArgumentError(f"size must be >= 0, got {size}")
    return (TensorType((*src.shape[:dim], size, *src.shape[dim + 1 :]), src.dtype),)


def _scatter_axes(node: Node) -> Axes:
    letters, dim = LETTERS[: node.inputs[0].ndim], node.attrs["dim"]
    return Axes((letters, letters), (letters[:dim] + "_" + letters[dim + 1 :],), (-1, None))  # what is sent nowhere is dropped


def _reference_scatter(index: np.ndarray, src: np.ndarray, dim: int, size: int, op: str) -> np.ndarray:
    wide = np.float64 if src.dtype.kind == "f" else src.dtype
    y = np.full((*src.shape[:dim], size, *src.shape[dim + 1 :]), identity(op, src.dtype), wide)
    at = np.indices(index.shape)
    inside = (index >= 0) & (index < size)
    place = tuple(index[inside] if d == dim else at[d][inside] for d in range(src.ndim))
    _SCATTER[op].at(y, place, src[inside])
    return y.astype(src.dtype)


def _scatter_vjp(node: Node, dy: Value) -> list[Value | None]:
    index, src = node.inputs
    dim, size, op = node.attrs["dim"], node.attrs["size"], node.attrs["op"]
    if op == "sum":
        return [None, apply("gather", dy, index, dim=dim)]
    if op == "prod":
        return [None, cast(apply("gather", widened(dy), index, dim=dim) * _others(index, widened(src), dim, size), src.dtype)]
    dy = widened(dy)
    winner = cast(leads(src, apply("gather", node.outputs[0], index, dim=dim)), dy.dtype)  # equal extremes share
    share = dy / scatter_to(index, winner, dim, size)
    return [None, cast(where(winner > 0.0, apply("gather", share, index, dim=dim), 0.0), src.dtype)]


def _others(index: Value, src: Value, dim: int, size: int) -> Value:
    """For each element the product of the others that land where it does, right also where zeros are among them.

    One zero among the others is written as their sum, which has the product's gradient.
    """
    zero = eq(src, 0.0)
    one, nothing = cast(zero, src.dtype), where(zero, src, 0.0)
    ones = where(zero, 1.0, src)
    landed = (
        scatter_to(index, one, dim, size),
        scatter_to(index, nothing, dim, size),
        scatter_to(index, ones, dim, size, "prod"),
    )
    zeros, total, product = (apply("gather", v, index, dim=dim) for v in landed)
    others = zeros - one
    return where(eq(others, 0.0), 1.0, where(eq(others, 1.0), total - nothing, 0.0)) * (product / ones)


def _scatter_samples(rng: np.random.Generator) -> list[Sample]:
    found = []
    for op in _SCATTER:
        for shape, size, dim in (((6, 5), 4, 0), ((2, 7), 3, 1), ((2, 5, 3), 4, 1)):
            src = (rng.permutation(math.prod(shape)).reshape(shape).astype(np.float32) + (op == "prod")) / 8
            index = rng.permuted(np.indices(shape)[dim] % size, axis=dim)  # every position is met
            found.append(Sample((index, src), {"dim": dim, "size": size, "op": op}))
    some = rng.standard_normal((6, 5)).astype(np.float32)
    found.append(Sample((rng.integers(-1, 5, (6, 5)), some), {"dim": 0, "size": 4, "op": "sum"}))
    empty = np.zeros((0, 2), np.float32)
    return [*found, Sample((np.zeros((0, 2), np.int64), empty), {"dim": 0, "size": 2, "op": "sum"})]


register(
    OpDef(
        name="scatter",
        kind=Kind.SCATTER,
        infer=_infer_scatter,
        vjp=_scatter_vjp,
        reference=_reference_scatter,
        samples=_scatter_samples,
        template="scatter",
        axes=_scatter_axes,
    )
)


def scatter_to(index: Value, src: Value, dim: int, size: int, op: str = "sum") -> Value:
    """The ``op`` of the elements of ``src`` that ``index`` sends to each of ``size`` positions along ``dim``."""
    return apply("scatter", index, src, dim=dim, size=size, op=op)

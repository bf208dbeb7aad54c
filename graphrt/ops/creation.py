"""Tensors from nothing: constants and sequences, computed wherever they are read and never stored.

Names and arguments follow torch, with the graph in front; the ``*_like`` forms take a Value's shape, dtype and graph.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from graphrt.errors import ArgumentError
from graphrt.ir import Graph, Value
from graphrt.op import REGISTRY
from graphrt.ops.base import broadcast_to, cast, creation, function, integer, integers, tensor
from graphrt.ops.elementwise import abs, eq, sign, where
from graphrt.ops.transcendental import floor_divide
from graphrt.types import DType, DTypeLike, as_dtype, float32, float64, int64


def _indices(graph: Graph, shape: Sequence[int], dim: int = 0) -> Value:
    return graph.append(REGISTRY["iota"], (), {"shape": tuple(shape), "dim": dim}).outputs[0]


def _wide(dtype: DType) -> DType:
    """The dtype that sequences of ``dtype`` are computed in."""
    return float64 if dtype == float64 else float32 if dtype.is_float else int64


@creation
def full(graph: Graph, size: int | Sequence[int], fill_value: bool | int | float, dtype: DTypeLike | None = None) -> Value:
    """``fill_value`` everywhere; its dtype when ``dtype`` is None (bool, int64 or float32)."""
    shape = integers([size] if isinstance(size, int) else size, "size", 0)
    value = graph.constant(fill_value, None if dtype is None else as_dtype(dtype))
    return broadcast_to(value, shape)


@creation
def zeros(graph: Graph, size: Sequence[int], dtype: DTypeLike = float32) -> Value:
    """Zeros of shape ``size``."""
    return full(graph, size, 0, dtype)


@creation
def ones(graph: Graph, size: Sequence[int], dtype: DTypeLike = float32) -> Value:
    """Ones of shape ``size``."""
    return full(graph, size, 1, dtype)


@creation
def arange(
    graph: Graph,
    start: int | float,
    end: int | float | None = None,
    step: int | float = 1,
    dtype: DTypeLike | None = None,
) -> Value:
    """``start``, ``start + step``, ... below ``end`` (with one bound from 0 to it): int64, float32 if a bound is a float."""
    if end is None:
        start, end = 0, start
    bounds = (start, end, step)
    if step == 0 or not all(map(math.isfinite, bounds)) or (end - start) * step < 0:
        raise ArgumentError(f"step {step} does not lead from {start} to {end}; it must be finite, not 0 and of their sign")
    floating = any(isinstance(v, float) for v in bounds)
    final = as_dtype(dtype) if dtype is not None else float32 if floating else int64
    wide = _wide(final) if floating else int64
    if floating and not final.is_float:
        wide = float32
    count = math.ceil((end - start) / step) if floating else -((start - end) // step)
    return cast(cast(_indices(graph, (int(count),)), wide) * step + start, final)


@creation
def linspace(graph: Graph, start: float, end: float, steps: int, dtype: DTypeLike = float32) -> Value:
    """``steps`` numbers evenly from ``start`` to ``end``, both exact: the second half is counted from ``end``."""
    low, high, count = start, end, integer(steps, "steps", 0)
    final = as_dtype(dtype)
    i, last = _indices(graph, (count,)), max(count - 1, 1)
    if not final.is_float:  # as torch: bounds and results are cut to integers; in integers, so that no rounding moves one
        low, high = int(low), int(high)
        total = i * (high - low) + low * last
        return cast(sign(total) * floor_divide(abs(total), last), final)
    gap, wide = (high - low) / last, _wide(final)
    up, down = cast(i, wide) * gap + low, cast(i - (count - 1), wide) * gap + high
    return cast(where(i < max(count // 2, 1), up, down), final)


@creation
def eye(graph: Graph, n: int, m: int | None = None, dtype: DTypeLike = float32) -> Value:
    """[n, m]: ones on the diagonal, else zeros."""
    rows = integer(n, "n", 0)
    shape = (rows, rows if m is None else integer(m, "m", 0))
    return cast(eq(_indices(graph, shape, 0), _indices(graph, shape, 1)), as_dtype(dtype))


@function
def full_like(input: Value, fill_value: bool | int | float, dtype: DTypeLike | None = None) -> Value:
    """``fill_value`` in the shape and dtype of ``input``."""
    return full(tensor(input).graph, input.shape, fill_value, input.dtype if dtype is None else dtype)


@function
def zeros_like(input: Value, dtype: DTypeLike | None = None) -> Value:
    """Zeros in the shape and dtype of ``input``."""
    return full_like(input, 0, dtype)


@function
def ones_like(input: Value, dtype: DTypeLike | None = None) -> Value:
    """Ones in the shape and dtype of ``input``."""
    return full_like(input, 1, dtype)

"""Histograms: the bin of each element, found by arithmetic or by binary search, and a scatter that counts."""

from __future__ import annotations

import math
from collections.abc import Sequence

from graphrt.errors import ArgumentError, DTypeError, ShapeError
from graphrt.ir import Value
from graphrt.ops.base import apply, broadcast_to, cast, function, in_float32, integer, require_float, tensor
from graphrt.ops.elementwise import eq, floor, ge, le, logical_and, minimum, where
from graphrt.ops.reduction import amax, amin, sum
from graphrt.ops.search import searchsorted
from graphrt.ops.slicing import getitem
from graphrt.ops.source import iota
from graphrt.ops.view import reshape
from graphrt.types import float32, float64, int64


def _counted(bin: Value, weight: Value | None, bins: int) -> Value:
    """For each of ``bins`` how many of the 1-D ``bin`` name it, or the sum of their weights."""
    each = broadcast_to(bin.graph.constant(1, int64), bin.shape) if weight is None else weight
    return apply("scatter", bin, each, dim=0, size=bins, op="sum")


def _bounds(x: Value, low: float, high: float, wanted: bool, margin: float) -> tuple[Value, Value]:
    """The start of the first bin and the end of the last one: those of ``x``, unless others are ``wanted``.

    They are never one point, from which both move by ``margin``.
    """
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ArgumentError(f"a histogram needs finite bounds in order, got {low} and {high}")
    if wanted or not x.shape[0]:
        low, high = (low, high) if wanted else (0.0, 1.0)
        low, high = (low - margin, high + margin) if low == high else (low, high)
        return x.graph.constant(low, x.dtype), x.graph.constant(high, x.dtype)
    least, most = amin(x), amax(x)
    one_point = eq(least, most)
    return where(one_point, least - margin, least), where(one_point, most + margin, most)


@function
@in_float32
def histc(input: Value, bins: int = 100, min: float = 0.0, max: float = 0.0) -> Value:
    """The number of elements in each of ``bins`` equal parts of [min, max], as [bins] in the dtype of ``input``.

    Elements outside and NaN count nowhere; ``max`` itself lies in the last part. Where ``min`` and ``max`` are equal they are
    the least and the largest element. Raises ArgumentError, DTypeError.
    """
    require_float(tensor(input).dtype, "input")
    count, x = integer(bins, "bins", 1), reshape(input, (-1,))
    low, high = _bounds(x, min, max, min != max, 1.0)
    inside = logical_and(ge(x, low), le(x, high))
    bin = minimum(floor((x - low) * float(count) / (high - low)), count - 1.0)
    return cast(_counted(cast(where(inside, bin, -1.0), int64), None, count), x.dtype)


@function
@in_float32
def histogram(
    input: Value,
    bins: int | Value = 100,
    range: Sequence[float] | None = None,
    weight: Value | None = None,
    density: bool = False,
) -> tuple[Value, Value]:
    """(counts [bins], edges [bins + 1]) of the elements of ``input`` in bins that include their left edge, the last one both.

    ``bins`` is a number of equal bins over ``range``, by default from the least to the largest element, or a Value: the
    edges, 1-D and ascending. Elements outside and NaN count nowhere. ``weight``, of the shape of ``input``, is summed in place
    of the counts; ``density`` makes the integral 1. Both results have the dtype of ``input``. Raises ArgumentError, ShapeError,
    DTypeError.
    """
    require_float(tensor(input).dtype, "input")
    if weight is not None and (weight.shape != input.shape or weight.dtype != input.dtype):
        raise ShapeError(f"weight must be {input.type} as input, got {weight.type}")
    x = reshape(input, (-1,))
    edges = bins if isinstance(bins, Value) else _edges(x, integer(bins, "bins", 1), range)
    if edges.ndim != 1 or edges.shape[0] < 2 or edges.dtype != x.dtype:
        raise ShapeError(f"bins must be a number, or edges of type {x.dtype} [2 or more], got {edges.type}")
    if isinstance(bins, Value) and range is not None:
        raise ArgumentError("range goes with a number of bins, not with their edges")
    count = edges.shape[0] - 1
    bin = searchsorted(edges, x, right=True) - 1
    bin = where(eq(x, getitem(edges, count)), count - 1, bin)  # one below the first edge is dropped, as one above the last
    found = cast(_counted(bin, None if weight is None else reshape(weight, (-1,)), count), x.dtype)
    if density:
        found = found / sum(found) / (edges[1:] - edges[:-1])
    return found, edges


def _edges(x: Value, bins: int, range: Sequence[float] | None) -> Value:
    """``bins + 1`` numbers evenly over ``range``, or over that of ``x``; the second half is counted from the end."""
    if range is not None and len(range) != 2:
        raise ArgumentError(f"range must be two numbers, got {range!r}")
    first, last = range or (0.0, 0.0)
    low, high = _bounds(x, first, last, range is not None, 0.5)
    gap, shape = (high - low) / float(bins), (bins + 1,)
    i = iota(broadcast_to(x.graph.constant(0, int64), shape), 0)
    return where(i < (bins + 1) // 2, low + cast(i, x.dtype) * gap, high - cast(bins - i, x.dtype) * gap)


@function
def bincount(input: Value, weights: Value | None = None, minlength: int = 0) -> Value:
    """How often each of 0, 1 ... minlength - 1 occurs in the 1-D integers ``input``, int64; or the sum of their ``weights``.

    Sums are float32 for weights of that type, else float64, as torch's. Unlike torch's, ``minlength`` must be given and is the
    length of the result: integers outside count nowhere. Raises ArgumentError, ShapeError, DTypeError.
    """
    if not tensor(input).dtype.is_int:
        raise DTypeError(f"input must hold integers, got {input.dtype}")
    if input.ndim != 1 or (weights is not None and weights.shape != input.shape):
        raise ShapeError(
            f"input must be [N], and weights too, got {[list(v.shape) for v in (input, weights) if v is not None]}"
        )
    if integer(minlength, "minlength", 0) == 0:
        raise ArgumentError(
            "the size of bincount depends on the data; give minlength, one more than the largest integer there is"
        )
    if weights is not None and weights.dtype is not float32:
        weights = cast(weights, float64)
    return _counted(cast(input, int64), weights, minlength)

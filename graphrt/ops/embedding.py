"""Rows of a table by number: embeddings, bags of them that are added up as they are read, and one-hot vectors."""

from __future__ import annotations

import math

from graphrt.errors import ArgumentError, DTypeError, ShapeError
from graphrt.ir import Value
from graphrt.ops.base import apply, broadcast_to, cast, dim_index, function, in_float32, tensor
from graphrt.ops.elementwise import eq, ge, gt, lt, maximum, ne, stop_gradient, straight_through, where
from graphrt.ops.indexing import index_select, scatter_add
from graphrt.ops.reduction import amax, mean, norm, sum
from graphrt.ops.search import searchsorted
from graphrt.ops.source import iota
from graphrt.ops.view import reshape, unsqueeze
from graphrt.types import int64

_MODES = ("sum", "mean", "max")


def _numbers(input: Value, what: str = "input") -> Value:
    if not tensor(input, what).dtype.is_int:
        raise DTypeError(f"{what} must hold integers, got {input.dtype}")
    return cast(input, int64)


def _table(weight: Value, padding_idx: int | None) -> int | None:
    """``padding_idx`` from the front. Raises ShapeError unless ``weight`` is a table of rows."""
    if tensor(weight, "weight").ndim != 2:
        raise ShapeError(f"weight must be [V, D], got {list(weight.shape)}")
    return None if padding_idx is None else dim_index(padding_idx, weight.shape[0], "padding_idx")


def _shortened(rows: Value, max_norm: float, norm_type: float) -> Value:
    """``rows`` longer than ``max_norm`` scaled down to it."""
    length = norm(rows, norm_type, -1, keepdim=True)
    long = gt(length, max_norm)
    return where(long, rows * (max_norm / (where(long, length, 1.0) + 1e-7)), rows)


@function
@in_float32
def embedding_renorm(weight: Value, indices: Value, max_norm: float, norm_type: float = 2.0) -> Value:
    """``weight`` [V, D] with those rows that ``indices`` names scaled down to a norm of ``max_norm`` where they exceed it.

    ``norm_type`` is the p of the norm.
    """
    _table(weight, None)
    positions = reshape(_numbers(indices, "indices"), (-1,))
    ones = broadcast_to(weight.graph.constant(1, int64), positions.shape)
    named = scatter_add(broadcast_to(weight.graph.constant(0, int64), weight.shape[:1]), 0, positions, ones)
    return where(unsqueeze(gt(named, 0), 1), _shortened(weight, max_norm, norm_type), weight)


@function
def embedding(
    input: Value,
    weight: Value,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
) -> Value:
    """Rows of ``weight`` [V, D] that the integers ``input`` [...] name, as [..., D]; NaN for an integer that names none.

    One that is negative, or V or more, names none: torch raises an error there, which a kernel cannot, so its row is NaN (of
    integers 0) and gives no row a gradient. The row ``padding_idx`` gets no gradient. Rows whose ``norm_type`` norm exceeds
    ``max_norm`` are read scaled down to it; unlike torch's, the table itself stays (``embedding_renorm`` gives what it would
    become), and the gradient is, as torch's, that of the row as read. With ``scale_grad_by_freq`` the gradient of a row is
    divided by how often it is read.
    """
    positions = _numbers(input)
    padding = _table(weight, padding_idx)
    if padding is not None:
        weight = where(eq(iota(weight, 0), padding), stop_gradient(weight), weight)
    flat = reshape(positions, (-1,))
    rows = index_select(weight, 0, flat)
    if scale_grad_by_freq:
        rows = straight_through(rows, rows * unsqueeze(_shares(flat, weight), 1))
    if max_norm is not None:
        rows = straight_through(_shortened(rows, max_norm, norm_type), rows)
    rows = reshape(rows, (*positions.shape, weight.shape[1]))
    if not weight.dtype.is_float:
        return rows
    inside = ge(positions, 0) & lt(positions, weight.shape[0])
    return where(unsqueeze(inside, -1), rows, math.nan)


def _shares(positions: Value, weight: Value) -> Value:
    """For each of the 1-D ``positions`` one over how often it occurs there."""
    ones = broadcast_to(weight.graph.constant(1.0, weight.dtype), positions.shape)
    counts = scatter_add(broadcast_to(weight.graph.constant(0.0, weight.dtype), weight.shape[:1]), 0, positions, ones)
    return stop_gradient(1.0 / maximum(index_select(counts, 0, positions), 1.0))


@function
@in_float32
def embedding_bag(
    input: Value,
    weight: Value,
    offsets: Value | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    per_sample_weights: Value | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Value:
    """Sums, means or maxima (``mode`` sum, mean, max) of bags of rows of ``weight`` [V, D], as [B, D]; an empty bag gives 0.

    ``input`` is [B, L], bags of one size, or [N] with ``offsets`` [B], where each bag starts (with ``include_last_offset`` one
    more, the end). ``per_sample_weights``, for "sum" only, is one factor for each element of ``input``. The row ``padding_idx``
    takes no part. ``max_norm``, ``norm_type`` and ``scale_grad_by_freq`` as in ``embedding``.
    """
    positions = _numbers(input)
    padding = _table(weight, padding_idx)
    if mode not in _MODES:
        raise ArgumentError(f"mode must be sum, mean or max, got {mode!r}")
    if per_sample_weights is not None and (mode != "sum" or per_sample_weights.shape != input.shape):
        raise ArgumentError("per_sample_weights, of the shape of input, go with mode 'sum' only")
    if input.ndim not in (1, 2) or (input.ndim == 1) != (offsets is not None):
        raise ShapeError(f"input must be [B, L] without offsets or [N] with them, got {list(input.shape)}")
    takes_part = None if padding is None else ne(positions, padding)
    rows = embedding(positions, weight, padding_idx, max_norm, norm_type, scale_grad_by_freq)
    if per_sample_weights is not None:
        rows = rows * unsqueeze(cast(per_sample_weights, rows.dtype), -1)
    if offsets is None:
        return _pooled(rows, takes_part, mode)
    return _pooled_by(rows, takes_part, bags(positions, offsets), offsets.shape[0] - int(include_last_offset), mode)


def bags(positions: Value, offsets: Value) -> Value:
    """The number of the bag that each of the 1-D ``positions`` lies in."""
    if offsets.ndim != 1:
        raise ShapeError(f"offsets must be [B], got {list(offsets.shape)}")
    return searchsorted(_numbers(offsets, "offsets"), iota(positions, 0), right=True) - 1


def _least(rows: Value, takes_part: Value | None) -> Value:
    return rows if takes_part is None else where(unsqueeze(takes_part, -1), rows, -math.inf)


def _pooled(rows: Value, takes_part: Value | None, mode: str) -> Value:
    """[B, L, D] over L."""
    if not rows.shape[1]:
        return sum(rows, 1)
    if mode == "max":
        found = amax(_least(rows, takes_part), 1)
        return where(eq(found, -math.inf), 0.0, found)
    if takes_part is None:
        return sum(rows, 1) if mode == "sum" else mean(rows, 1)
    total = sum(where(unsqueeze(takes_part, -1), rows, 0.0), 1)
    return total if mode == "sum" else total / cast(maximum(sum(takes_part, 1, keepdim=True), 1), rows.dtype)


def _pooled_by(rows: Value, takes_part: Value | None, bag: Value, count: int, mode: str) -> Value:
    """[N, D] over the elements of each bag."""
    wide = broadcast_to(unsqueeze(bag, 1), rows.shape)
    if mode == "max":
        found = apply("scatter", wide, _least(rows, takes_part), dim=0, size=count, op="max")
        return where(eq(found, -math.inf), 0.0, found)
    kept = rows if takes_part is None else where(unsqueeze(takes_part, -1), rows, 0.0)
    total = apply("scatter", wide, kept, dim=0, size=count, op="sum")
    if mode == "sum":
        return total
    ones = broadcast_to(bag.graph.constant(1, int64), bag.shape) if takes_part is None else cast(takes_part, int64)
    sizes = apply("scatter", bag, ones, dim=0, size=count, op="sum")
    return total / unsqueeze(cast(maximum(sizes, 1), rows.dtype), 1)


@function
def one_hot(input: Value, num_classes: int) -> Value:
    """int64 [..., num_classes]: 1 where the class is ``input``'s, which is nowhere for one outside.

    Unlike torch's, ``num_classes`` must be given.
    """
    positions = _numbers(input)
    if not isinstance(num_classes, int) or isinstance(num_classes, bool) or num_classes < 1:
        raise ArgumentError(f"num_classes must be an int >= 1, got {num_classes!r}")
    wide = broadcast_to(unsqueeze(positions, -1), (*positions.shape, num_classes))
    return cast(eq(iota(wide, wide.ndim - 1), wide), int64)

"""Binary search in sorted sequences: as many steps as the length has bits, each a gather, all of them in one kernel."""

from __future__ import annotations

from typing import Any

from graphrt.errors import ArgumentError, DTypeError, ShapeError
from graphrt.ir import Value
from graphrt.ops.base import apply, broadcast_to, cast, function, tensor
from graphrt.ops.elementwise import ge, gt, logical_and, logical_not, lt, where
from graphrt.ops.view import reshape
from graphrt.types import int32, int64, promote


def _count_below(sequence: Value, values: Value, right: bool) -> Value:
    """The number of elements of ``sequence`` [..., n] that lie below each of ``values`` [..., m]; NaN is above all."""
    n, dtype = sequence.shape[-1], promote(sequence.dtype, values.dtype)
    at = broadcast_to(values.graph.constant(0, int64), values.shape)
    wanted = cast(values, dtype)
    for bit in reversed(range(n.bit_length())):
        probe = at + ((1 << bit) - 1)
        met = cast(apply("gather", sequence, probe, dim=sequence.ndim - 1), dtype)
        below = logical_not((gt if right else ge)(met, wanted))
        at = where(logical_and(lt(probe, n), below), at + (1 << bit), at)
    return at


@function
def searchsorted(
    sorted_sequence: Value,
    input: Any,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Value | None = None,
) -> Value:
    """The position in ``sorted_sequence`` [..., n] at which each of ``input`` [..., m], or a number, would be put.

    Before its equals, or behind them with ``right`` (``side`` "right"); int64, or int32 with ``out_int32``. A 1-D sequence
    serves any ``input``; else all sizes but the last are equal. ``sorter`` holds the positions that put the sequence in order.
    """
    sequence = tensor(sorted_sequence, "sorted_sequence")
    if side not in (None, "left", "right") or (right and side == "left"):
        raise ArgumentError(f"side must be 'left' or 'right', and agree with right, got {side!r} with right={right}")
    if not isinstance(input, Value):
        if not isinstance(input, int | float):
            raise ArgumentError(f"input must be a Value or a number, got {type(input).__name__}")
        input = sequence.graph.constant(input, sequence.dtype if sequence.dtype.is_float else None)
    if sequence.dtype.is_bool or input.dtype.is_bool:
        raise DTypeError("sorted_sequence and input must be numbers, got bool; cast them first")
    if sequence.ndim == 0 or (sequence.ndim > 1 and (input.ndim != sequence.ndim or input.shape[:-1] != sequence.shape[:-1])):
        raise ShapeError(
            f"input must have the sizes of sorted_sequence {list(sequence.shape)} but the last, or that be a vector, "
            f"got {list(input.shape)}"
        )
    if sorter is not None:
        if sorter.shape != sequence.shape or not sorter.dtype.is_int:
            raise ShapeError(f"sorter must be integers {list(sequence.shape)}, got {sorter.dtype} {list(sorter.shape)}")
        sequence = apply("gather", sequence, cast(sorter, int64), dim=sequence.ndim - 1)
    values = input if sequence.ndim > 1 else reshape(input, (-1,))
    found = reshape(_count_below(sequence, values, right or side == "right"), input.shape)
    return cast(found, int32) if out_int32 else found


@function
def bucketize(input: Any, boundaries: Value, out_int32: bool = False, right: bool = False) -> Value:
    """The number of the bucket between the sorted 1-D ``boundaries`` that each element of ``input`` lies in.

    b[i-1] < input <= b[i], or with ``right`` b[i-1] <= input < b[i]. int64, or int32 with ``out_int32``.
    """
    if tensor(boundaries, "boundaries").ndim != 1:
        raise ShapeError(f"boundaries must have one dimension, got {list(boundaries.shape)}")
    return searchsorted(boundaries, input, out_int32, right)

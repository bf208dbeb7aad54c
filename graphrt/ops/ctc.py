"""The loss of sequences whose alignment is not known: connectionist temporal classification."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from graphrt.errors import ArgumentError, DTypeError, ShapeError
from graphrt.ir import Value
from graphrt.ops.base import broadcast_to, cast, full_precision, function, require_float, tensor
from graphrt.ops.creation import arange
from graphrt.ops.elementwise import exp, gt, log, lt, maximum, ne, stop_gradient, where
from graphrt.ops.indexing import gather
from graphrt.ops.loop import scan
from graphrt.ops.loss import reduced
from graphrt.ops.reduction import mean
from graphrt.ops.slicing import pad
from graphrt.ops.view import reshape, unsqueeze
from graphrt.types import int64

_NEVER = -1e30  # the logarithm of no chance: a number, so that no gradient is NaN


@function
@full_precision
def ctc_loss(
    log_probs: Value,
    targets: Value,
    input_lengths: Value | Sequence[int],
    target_lengths: Value | Sequence[int],
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> Value:
    """The negative logarithm of the probability of all alignments of ``targets`` (Graves et al., ICML 2006).

    ``log_probs`` [T, N, C] are logarithms of probabilities, ``targets`` integers [N, S] of classes other than ``blank``, padded
    with anything; ``input_lengths`` and ``target_lengths`` [N] say how many of T and S count. Without N, or with each length in
    a list, as well. ``reduction`` mean divides by the targets' lengths before. A target that no alignment has, as its input is
    too short, has the loss infinity, or with ``zero_infinity`` 0, and no gradient. The gradient of ``log_probs`` is that of
    any numbers; torch adds the probabilities, which a log-softmax in front takes away again, so that its operand has the same
    gradient, and gives NaN where the loss is infinite. Raises ArgumentError, ShapeError and DTypeError.
    """
    require_float(tensor(log_probs, "log_probs").dtype, "log_probs")
    if not tensor(targets, "targets").dtype.is_int:
        raise DTypeError(f"targets must be integers, got {targets.dtype}")
    if log_probs.ndim == 2 and targets.ndim == 1:
        ends, sizes = (reshape(_lengths(log_probs, n, ()), (1,)) for n in (input_lengths, target_lengths))
        alone = ctc_loss(unsqueeze(log_probs, 1), unsqueeze(targets, 0), ends, sizes, blank, reduction, zero_infinity)
        return reshape(alone, ())
    if log_probs.ndim != 3 or targets.ndim != 2 or targets.shape[0] != log_probs.shape[1]:
        given = f"{list(log_probs.shape)} and {list(targets.shape)}"
        raise ShapeError(f"ctc_loss needs log_probs [T, N, C] and targets [N, S], padded where they are shorter, got {given}")
    _, count, classes = log_probs.shape
    if not 0 <= blank < classes:
        raise ArgumentError(f"blank must be one of {classes} classes, got {blank}")
    ends, sizes = (_lengths(log_probs, n, (count,)) for n in (input_lengths, target_lengths))
    last = _alignments(log_probs, cast(targets, int64), ends, blank)
    place = unsqueeze(2 * sizes, 1)
    final = _log_sum(gather(last, 1, place), where(gt(place, 0), gather(last, 1, maximum(place - 1, 0)), _NEVER))
    loss = -reshape(final, (count,))
    loss = where(lt(loss, -_NEVER / 2), loss, 0.0 if zero_infinity else math.inf)
    return mean(loss / cast(maximum(sizes, 1), loss.dtype)) if reduction == "mean" else reduced(loss, reduction)


def _lengths(like: Value, given: Any, shape: tuple[int, ...]) -> Value:
    """Lengths as int64 of ``shape``. Raises ShapeError, DTypeError."""
    found = given if isinstance(given, Value) else like.graph.constant(np.asarray(given, np.int64), "int64")
    if not found.dtype.is_int:
        raise DTypeError(f"lengths must be integers, got {found.dtype}")
    if found.shape != shape:
        raise ShapeError(f"lengths must be {list(shape)}, one a sequence, got {list(found.shape)}")
    return cast(found, int64)


def _alignments(log_probs: Value, targets: Value, ends: Value, blank: int) -> Value:
    """Logarithms [N, 2S + 1] of the chances to be at each place of a target with blanks around its classes at its end."""
    steps, count, _ = log_probs.shape
    graph, wide = log_probs.graph, 2 * targets.shape[1] + 1
    classes = pad(reshape(pad(unsqueeze(targets, 2), (1, 0), value=blank), (count, wide - 1)), (0, 1), value=blank)
    at = gather(log_probs, 2, broadcast_to(unsqueeze(classes, 0), (steps, count, wide)))
    before = pad(classes, (2, 0), value=blank)[:, :wide]
    over = ne(classes, blank) & ne(classes, before)  # a blank between two classes may be left out
    going = lt(unsqueeze(arange(graph, steps), 1), unsqueeze(ends, 0))

    def step(chance: Value, seen: tuple[Value, Value]) -> tuple[Value, None]:
        now, on = seen
        one = pad(chance, (1, 0), value=_NEVER)[:, :wide]
        two = where(over, pad(chance, (2, 0), value=_NEVER)[:, :wide], _NEVER)
        return where(unsqueeze(on, 1), _log_sum(chance, one, two) + now, chance), None

    start = np.full((count, wide), _NEVER)
    start[:, 0] = 0.0
    last, _ = scan(step, cast(graph.constant(start, "float64"), log_probs.dtype), (at, going))
    return last


def _log_sum(first: Value, *others: Value) -> Value:
    """``log(exp(first) + exp(others[0]) + ...)``."""
    top = first
    for v in others:
        top = maximum(top, v)
    top = stop_gradient(top)
    total = exp(first - top)
    for v in others:
        total = total + exp(v - top)
    return top + log(total)

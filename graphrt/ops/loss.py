"""Losses: plain code over the ops. Names, arguments and defaults follow torch.nn.functional."""

from __future__ import annotations

from graphrt.errors import ArgumentError, DTypeError, ShapeError
from graphrt.ir import Value
from graphrt.ops.activation import _softplus, log_softmax
from graphrt.ops.base import cast, function
from graphrt.ops.elementwise import abs, eq, maximum, ne, where
from graphrt.ops.reduction import mean, sum
from graphrt.ops.source import iota
from graphrt.ops.view import unsqueeze


def _reduced(loss: Value, reduction: str) -> Value:
    if reduction == "none":
        return loss
    if reduction in ("mean", "sum"):
        return mean(loss) if reduction == "mean" else sum(loss)
    raise ArgumentError(f"reduction must be 'none', 'mean' or 'sum', got {reduction!r}")


def _same_shape(input: Value, target: Value) -> None:
    if input.shape != target.shape:
        raise ShapeError(f"input and target must have one shape, got {list(input.shape)} and {list(target.shape)}")


def _one_hot_like(input: Value, target: Value) -> Value:
    """bool [N, C, ...]: whether the class (dimension 1, or 0 without a batch) is the target's."""
    dim = 1 if input.ndim > 1 else 0
    expected = tuple(n for d, n in enumerate(input.shape) if d != dim)
    if target.shape != expected:
        raise ShapeError(f"input {list(input.shape)} needs class indices of shape {list(expected)}, got {list(target.shape)}")
    if not target.dtype.is_int:
        raise DTypeError(f"class indices must be integers, got {target.dtype}")
    index = iota(input, dim)
    return eq(index, unsqueeze(cast(target, index.dtype), dim))


@function
def nll_loss(input: Value, target: Value, reduction: str = "mean", ignore_index: int = -100) -> Value:
    """``-input[target]`` for log-probabilities [N, C, ...] and class indices [N, ...]; the mean is over what counts."""
    hit = _one_hot_like(input, target)
    loss = -sum(where(hit, input, 0.0), 1 if input.ndim > 1 else 0)
    counts = ne(target, ignore_index)
    loss = where(counts, loss, 0.0)
    if reduction != "mean":
        return _reduced(loss, reduction)
    return sum(loss) / sum(cast(counts, input.dtype))


@function
def cross_entropy(
    input: Value, target: Value, reduction: str = "mean", ignore_index: int | None = None, label_smoothing: float = 0.0
) -> Value:
    """Softmax cross-entropy of logits [N, C, ...] with class indices [N, ...] or probabilities [N, C, ...].

    Class indices outside [0, C) contribute zero loss, so they must not occur; ``ignore_index`` names one that may, and
    takes it out of the mean. Raises ShapeError, DTypeError, ArgumentError.
    """
    if input.ndim == 0:
        raise ShapeError("cross_entropy needs a class dimension, got a scalar")
    if not 0.0 <= label_smoothing <= 1.0:
        raise ArgumentError(f"label_smoothing must lie in [0, 1], got {label_smoothing}")
    dim = 1 if input.ndim > 1 else 0
    logp = log_softmax(input, dim)
    classes = input.shape[dim]
    if target.dtype.is_float:
        _same_shape(input, target)
        goal = target * (1.0 - label_smoothing) + label_smoothing / classes if label_smoothing else target
        loss = -sum(goal * logp, dim)
        rows = max(input.type.size // classes, 1)
        return sum(loss) * (1.0 / rows) if reduction == "mean" else _reduced(loss, reduction)
    loss = -sum(where(_one_hot_like(input, target), logp, 0.0), dim)
    if label_smoothing:
        loss = loss * (1.0 - label_smoothing) - mean(logp, dim) * label_smoothing
    if ignore_index is None:
        return _reduced(loss, reduction)
    counts = ne(target, ignore_index)
    loss = where(counts, loss, 0.0)
    return sum(loss) / sum(cast(counts, input.dtype)) if reduction == "mean" else _reduced(loss, reduction)


@function
def binary_cross_entropy_with_logits(input: Value, target: Value, reduction: str = "mean") -> Value:
    """Binary cross-entropy of ``sigmoid(input)`` with ``target`` in [0, 1], stable for large logits."""
    _same_shape(input, target)
    loss = _softplus(input) - input * cast(target, input.dtype)
    return _reduced(loss, reduction)


@function
def mse_loss(input: Value, target: Value, reduction: str = "mean") -> Value:
    """Squared difference."""
    _same_shape(input, target)
    d = input - target
    return _reduced(d * d, reduction)


@function
def l1_loss(input: Value, target: Value, reduction: str = "mean") -> Value:
    """Absolute difference."""
    _same_shape(input, target)
    return _reduced(abs(input - target), reduction)


@function
def hinge_loss(input: Value, target: Value, reduction: str = "mean") -> Value:
    """``max(0, 1 - target * input)`` for targets -1 and 1."""
    _same_shape(input, target)
    return _reduced(maximum(1.0 - input * cast(target, input.dtype), 0.0), reduction)

"""Losses but for those over classes: plain code over the ops. Names, arguments and defaults follow torch.nn.functional."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from graphrt.errors import ArgumentError, ShapeError
from graphrt.ir import Node, Value
from graphrt.node import Factor
from graphrt.ops.activation import _softplus
from graphrt.ops.base import apply, broadcast_shape, cast, full_precision, function, lift
from graphrt.ops.definition import define
from graphrt.ops.elementwise import abs, eq, exp, log, maximum, minimum, ne, rsqrt, straight_through, where
from graphrt.ops.reduction import mean, norm, sum
from graphrt.ops.transcendental import xlogy
from graphrt.ops.view import unsqueeze


def reduced(loss: Value, reduction: str) -> Value:
    """The mean or sum of the elements of ``loss``, or all of them. Raises ArgumentError for another ``reduction``."""
    if reduction == "none":
        return loss
    if reduction in ("mean", "sum"):
        return mean(loss) if reduction == "mean" else sum(loss)
    raise ArgumentError(f"reduction must be 'none', 'mean' or 'sum', got {reduction!r}")


def same_shape(input: Value, target: Value) -> None:
    """Raises ShapeError unless ``input`` and ``target`` have one shape."""
    if input.shape != target.shape:
        raise ShapeError(f"input and target must have one shape, got {list(input.shape)} and {list(target.shape)}")


# --- two classes ---------------------------------------------------------------------------------------------------


def _scaled(loss: Value, scale: Value | None, what: str = "weight") -> Value:
    """``loss`` times ``scale``, which must broadcast to it."""
    if scale is None:
        return loss
    if broadcast_shape(loss.shape, scale.shape) != loss.shape:
        raise ShapeError(f"{what} must broadcast to {list(loss.shape)}, got {list(scale.shape)}")
    return loss * scale


def _weighted(loss: Value, weight: Value | None, reduction: str) -> Value:
    return reduced(_scaled(loss, weight), reduction)


def _binary_cross_entropy(s: Any, p: Any, y: Any) -> Any:
    one, least = s.const(1.0, p), s.const(-100.0, p)
    hit, miss = s.maximum(s.log(p), least), s.maximum(s.log(s.sub(one, p)), least)
    return s.neg(s.add(s.mul(y, hit), s.mul(s.sub(one, y), miss)))


def _reference_binary_cross_entropy(p: np.ndarray, y: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return -(y * np.maximum(np.log(p), -100.0) + (1.0 - y) * np.maximum(np.log(1.0 - p), -100.0))


def _binary_cross_entropy_vjp(node: Node, dy: Value) -> list[Value | None]:
    p, y = node.inputs
    rest = 1.0 - p
    return [dy * (p - y) / maximum(p * rest, 1e-12), dy * (log(rest) - log(p))]


define(
    "binary_cross_entropy",
    _binary_cross_entropy,
    _reference_binary_cross_entropy,
    _binary_cross_entropy_vjp,
    names=("input", "target"),
    domain=(0.05, 0.95),
    cheap=False,
)


@function
@full_precision
def binary_cross_entropy(input: Value, target: Value, weight: Value | None = None, reduction: str = "mean") -> Value:
    """Binary cross-entropy of probabilities with ``target`` in [0, 1], times ``weight``.

    As torch's, logarithms end at -100 and the gradient is (input - target) / max(input * (1 - input), 1e-12).
    """
    same_shape(input, target)
    return _weighted(apply("binary_cross_entropy", input, cast(target, input.dtype)), weight, reduction)


@function
@full_precision
def binary_cross_entropy_with_logits(
    input: Value,
    target: Value,
    weight: Value | None = None,
    reduction: str = "mean",
    pos_weight: Value | None = None,
) -> Value:
    """Binary cross-entropy of ``sigmoid(input)`` with ``target`` in [0, 1], stable for large logits.

    ``weight`` scales elements, ``pos_weight`` the positive ones; both broadcast.
    """
    same_shape(input, target)
    goal = cast(target, input.dtype)
    rest = 1.0 - goal
    share = None if pos_weight is None else _scaled(goal, pos_weight, "pos_weight") + rest
    loss = rest * input + _scaled(_softplus(-input), share)
    return _weighted(loss, weight, reduction)


@function
@full_precision
def soft_margin_loss(input: Value, target: Value, reduction: str = "mean") -> Value:
    """``log(1 + exp(-target * input))`` for targets -1 and 1."""
    same_shape(input, target)
    return reduced(_softplus(-(input * cast(target, input.dtype))), reduction)


@function
@full_precision
def multilabel_soft_margin_loss(input: Value, target: Value, weight: Value | None = None, reduction: str = "mean") -> Value:
    """Binary cross-entropy of logits with ``target``, averaged over the classes, the last dimension.

    ``weight`` [C] scales the classes.
    """
    same_shape(input, target)
    loss = _softplus(input) - input * cast(target, input.dtype)
    return reduced(mean(_scaled(loss, weight), -1), reduction)


@function
@full_precision
def hinge_loss(input: Value, target: Value, reduction: str = "mean") -> Value:
    """``max(0, 1 - target * input)`` for targets -1 and 1."""
    same_shape(input, target)
    return reduced(maximum(1.0 - input * cast(target, input.dtype), 0.0), reduction)


@function
@full_precision
def hinge_embedding_loss(input: Value, target: Value, margin: float = 1.0, reduction: str = "mean") -> Value:
    """``input`` where ``target`` is 1, ``max(0, margin - input)`` where it is -1."""
    same_shape(input, target)
    loss = where(ne(target, 1), maximum(margin - input, 0.0), 0.0) + where(ne(target, -1), input, 0.0)
    return reduced(loss, reduction)


# --- differences ---------------------------------------------------------------------------------------------------


@function
@full_precision
def mse_loss(input: Value, target: Value, reduction: str = "mean", weight: Value | None = None) -> Value:
    """Squared difference of ``input`` and ``target``, times ``weight``; the mean is then over the weights."""
    same_shape(input, target)
    d = input - target
    return _weighted_mean(d * d, weight, reduction)


@function
@full_precision
def l1_loss(input: Value, target: Value, reduction: str = "mean", weight: Value | None = None) -> Value:
    """Absolute difference of ``input`` and ``target``, times ``weight``; the mean is then over the weights."""
    same_shape(input, target)
    return _weighted_mean(abs(input - target), weight, reduction)


def _weighted_mean(loss: Value, weight: Value | None, reduction: str) -> Value:
    if weight is None:
        return reduced(loss, reduction)
    if weight.shape != loss.shape:
        raise ShapeError(f"weight must be {list(loss.shape)}, got {list(weight.shape)}")
    return sum(loss * weight) / sum(weight) if reduction == "mean" else reduced(loss * weight, reduction)


@function
@full_precision
def smooth_l1_loss(input: Value, target: Value, reduction: str = "mean", beta: float = 1.0) -> Value:
    """``0.5 * d**2 / beta`` for differences d of ``input`` and ``target`` below ``beta``, else ``d - 0.5 * beta``.

    Girshick, "Fast R-CNN", 2015.
    """
    if beta < 0:
        raise ArgumentError(f"beta must be >= 0, got {beta}")
    same_shape(input, target)
    d = abs(input - target)
    if not beta:
        return reduced(d, reduction)
    near = where(d >= beta, 0.0, d)  # an infinite difference has a finite slope, NaN has none
    return reduced(where(d < beta, near * near * (0.5 / beta), d - 0.5 * beta), reduction)


@function
@full_precision
def huber_loss(input: Value, target: Value, reduction: str = "mean", delta: float = 1.0, weight: Value | None = None) -> Value:
    """``0.5 * d**2`` for differences d of ``input`` and ``target`` up to ``delta``, else ``delta * (d - 0.5 * delta)``.

    Huber, 1964. ``weight`` scales elements; unlike that of ``mse_loss`` its mean is over the elements, as in torch.
    """
    if delta <= 0:
        raise ArgumentError(f"delta must be positive, got {delta}")
    same_shape(input, target)
    d = abs(input - target)
    near = where(d > delta, 0.0, d)  # an infinite difference has a finite slope, NaN has none
    return _weighted(where(d <= delta, near * near * 0.5, (d - 0.5 * delta) * delta), weight, reduction)


# --- distributions -------------------------------------------------------------------------------------------------


def _per_example(input: Value) -> Factor:
    count = input.shape[0]
    return Factor.make(1.0 / count if count else math.nan, input, (0,), lambda count: 1.0 / count)


@function
@full_precision
def kl_div(input: Value, target: Value, reduction: str = "mean", log_target: bool = False) -> Value:
    """``target * (log(target) - input)`` for log-probabilities ``input``, and with ``log_target`` for such targets.

    ``reduction`` is also "batchmean", the sum over N, which is the divergence.
    """
    same_shape(input, target)
    loss = exp(target) * (target - input) if log_target else xlogy(target, target) - target * input
    if reduction == "batchmean":
        return sum(loss) * _per_example(input) if input.ndim else sum(loss)
    return reduced(loss, reduction)


@function
@full_precision
def poisson_nll_loss(
    input: Value, target: Value, log_input: bool = True, full: bool = False, eps: float = 1e-8, reduction: str = "mean"
) -> Value:
    """Poisson negative log-likelihood of counts ``target`` for rates ``input`` (their logarithms with ``log_input``).

    ``full`` adds Stirling's approximation of ``log(target!)``; ``eps`` is added to rates before their logarithm.
    """
    same_shape(input, target)
    goal = cast(target, input.dtype)
    loss = exp(input) - goal * input if log_input else input - goal * log(input + eps)
    if full:
        large = where(goal > 1.0, goal, 1.0)
        loss = loss + where(goal > 1.0, large * log(large) - large + log(large * (2 * math.pi)) * 0.5, 0.0)
    return reduced(loss, reduction)


@function
@full_precision
def gaussian_nll_loss(
    input: Value, target: Value, var: Value | float, full: bool = False, eps: float = 1e-6, reduction: str = "mean"
) -> Value:
    """``0.5 * (log(var) + (input - target)**2 / var)`` with ``var`` at least ``eps``; ``full`` adds ``0.5 * log(2 pi)``.

    ``var`` is a number, or has the shape of ``input``, or that with one size 1 or without the last dimension.
    """
    if eps <= 0:
        raise ArgumentError(f"eps must be positive, got {eps}")
    same_shape(input, target)
    v = var if isinstance(var, Value) else input.graph.constant(var, input.dtype)
    if v.ndim == input.ndim - 1 and v.ndim and v.shape == input.shape[:-1]:
        v = unsqueeze(v, -1)
    if not isinstance(var, Value) and var < 0:
        raise ArgumentError(f"var must be >= 0, got {var}")
    differing = [a for a, b in zip(v.shape, input.shape, strict=False) if a != b]
    if isinstance(var, Value) and (v.ndim != input.ndim or differing not in ([], [1])):
        raise ShapeError(f"var must be {list(input.shape)}, with one size 1 or without the last, got {list(var.shape)}")
    v = straight_through(maximum(v, eps), v)  # the bound does not stop the gradient, as in torch
    d = input - target
    loss = (log(v) + d * d / v) * 0.5
    return reduced(loss + 0.5 * math.log(2 * math.pi) if full else loss, reduction)


# --- distances -----------------------------------------------------------------------------------------------------


@function
@full_precision
def pairwise_distance(x1: Value, x2: Value, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Value:
    """The p-norm of ``x1 - x2 + eps`` over the last dimension."""
    return norm(x1 - x2 + eps, p, -1, keepdim)


@function
@full_precision
def cosine_similarity(x1: Value, x2: Value, dim: int = 1, eps: float = 1e-8) -> Value:
    """The cosine of the angle between ``x1`` and ``x2`` along ``dim``; lengths are at least ``eps``."""
    a, b = lift(x1, x2)
    return sum(a * b, dim) / (maximum(norm(a, 2.0, dim), eps) * maximum(norm(b, 2.0, dim), eps))


@function
@full_precision
def cosine_embedding_loss(input1: Value, input2: Value, target: Value, margin: float = 0.0, reduction: str = "mean") -> Value:
    """``1 - cos(input1, input2)`` where ``target`` is 1, ``max(0, cos - margin)`` where it is -1; vectors are [N, D] or [D]."""
    if input1.ndim not in (1, 2) or input1.shape != input2.shape or target.shape != input1.shape[:-1]:
        raise ShapeError(
            f"input1 and input2 must both be [N, D] or [D] and target [N] or a scalar, got {list(input1.shape)}, "
            f"{list(input2.shape)}, {list(target.shape)}"
        )
    cosine = sum(input1 * input2, -1) * rsqrt((sum(input1 * input1, -1) + 1e-12) * (sum(input2 * input2, -1) + 1e-12))
    loss = where(eq(target, 1), 1.0 - cosine, where(eq(target, -1), maximum(cosine - margin, 0.0), 0.0))
    return reduced(loss, reduction)


@function
@full_precision
def margin_ranking_loss(input1: Value, input2: Value, target: Value, margin: float = 0.0, reduction: str = "mean") -> Value:
    """``max(0, -target * (input1 - input2) + margin)``: target 1 wants input1 above input2, -1 below."""
    return reduced(maximum(-(cast(target, input1.dtype) * (input1 - input2)) + margin, 0.0), reduction)


@function
@full_precision
def triplet_margin_loss(
    anchor: Value,
    positive: Value,
    negative: Value,
    margin: float = 1.0,
    p: float = 2.0,
    eps: float = 1e-6,
    swap: bool = False,
    reduction: str = "mean",
) -> Value:
    """``max(0, d(anchor, positive) - d(anchor, negative) + margin)``, d the ``p``-norm of the difference plus ``eps``.

    ``swap`` takes the smaller of the distances of the negative to anchor and to positive (Balntas et al., BMVC 2016).
    """
    if margin <= 0:
        raise ArgumentError(f"margin must be positive, got {margin}")
    near, far = pairwise_distance(anchor, positive, p, eps), pairwise_distance(anchor, negative, p, eps)
    if swap:
        far = minimum(far, pairwise_distance(positive, negative, p, eps))
    return reduced(maximum(near - far + margin, 0.0), reduction)

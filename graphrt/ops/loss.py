"""Losses: plain code over the ops. Names, arguments and defaults follow torch.nn.functional."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from graphrt.errors import ArgumentError, DTypeError, ShapeError
from graphrt.ir import Node, Value
from graphrt.ops.activation import _softplus, log_softmax
from graphrt.ops.base import apply, broadcast_shape, broadcast_to, cast, full_precision, function, lift, require_float
from graphrt.ops.elementwise import abs, define, eq, exp, ge, log, lt, maximum, minimum, ne, rsqrt, stop_gradient, where
from graphrt.ops.indexing import take
from graphrt.ops.reduction import mean, norm, sum
from graphrt.ops.scan import cumsum
from graphrt.ops.source import iota
from graphrt.ops.transcendental import xlogy
from graphrt.ops.view import reshape, unsqueeze
from graphrt.types import int64


def _reduced(loss: Value, reduction: str) -> Value:
    if reduction == "none":
        return loss
    if reduction in ("mean", "sum"):
        return mean(loss) if reduction == "mean" else sum(loss)
    raise ArgumentError(f"reduction must be 'none', 'mean' or 'sum', got {reduction!r}")


def _same_shape(input: Value, target: Value) -> None:
    if input.shape != target.shape:
        raise ShapeError(f"input and target must have one shape, got {list(input.shape)} and {list(target.shape)}")


def _labels(input: Value, target: Value) -> tuple[Value, Value]:
    """Class indices as int64 [N, ...], and as bool [N, C, ...] whether a class is the target's; one outside has the nearest."""
    dim = _class_dim(input)
    expected = tuple(n for d, n in enumerate(input.shape) if d != dim)
    if target.shape != expected:
        raise ShapeError(f"input {list(input.shape)} needs class indices of shape {list(expected)}, got {list(target.shape)}")
    if not target.dtype.is_int:
        raise DTypeError(f"class indices must be integers, got {target.dtype}")
    index = iota(input, dim)
    label = cast(target, index.dtype)
    return label, eq(index, unsqueeze(_nearest(label, input), dim))


def _nearest(label: Value, input: Value) -> Value:
    return minimum(maximum(label, 0), input.shape[_class_dim(input)] - 1)


def _known(label: Value, input: Value) -> Value:
    """1 where ``label`` is a class of ``input``, else NaN: a factor of the loss that makes it and its gradient NaN."""
    inside = ge(label, 0) & lt(label, input.shape[_class_dim(input)])
    return where(inside, input.graph.constant(1.0, input.dtype), math.nan)


def _class_dim(input: Value) -> int:
    """The dimension of the classes: 1, or 0 without a batch. Raises ShapeError when there are none."""
    dim = 1 if input.ndim > 1 else 0
    if input.ndim == 0 or input.shape[dim] == 0:
        raise ShapeError(f"input must be [N, C, ...] or [C] with a class or more, got {list(input.shape)}")
    return dim


def _over_classes(logp: Value, target: Value, weight: Value | None, ignore: int | None, reduction: str, smooth: float) -> Value:
    """The loss of log-probabilities [N, C, ...] and class indices; the mean is over the weights of what counts."""
    dim, (label, hit) = _class_dim(logp), _labels(logp, target)
    loss = -sum(where(hit, logp, 0.0), dim)
    share = own = None if weight is None else _own_weight(weight, logp, label)
    if own is not None:
        loss = loss * own
    if smooth:
        others = mean(logp, dim) if weight is None else mean(logp * _class_weight(weight, logp, dim), dim)
        loss = loss * (1.0 - smooth) - others * smooth
    factor, counts = _known(label, logp), None if ignore is None else ne(label, ignore)
    if counts is not None:
        share = cast(counts, int64) if own is None else where(counts, own, 0.0)
    total = cast(sum(share), logp.dtype) if share is not None and reduction == "mean" else None
    if total is not None:  # the targets alone decide it: it is there before the logits are
        factor = factor / total
    if counts is not None:
        factor = where(counts, factor, 0.0)
        loss = where(ne(factor, 0.0), loss, 0.0)  # whatever the logits are
    if total is None:
        return _reduced(loss * factor, reduction)
    return sum(loss * factor) + where(eq(total, 0.0), logp.graph.constant(math.nan, logp.dtype), 0.0)


def _own_weight(weight: Value, input: Value, label: Value) -> Value:
    """The element of ``weight`` [C] for each target."""
    dim = _class_dim(input)
    _class_weight(weight, input, dim)
    return cast(take(weight, _nearest(label, input)), input.dtype)


def _class_weight(weight: Value, input: Value, dim: int) -> Value:
    """``weight`` [C] in the shape of ``input``."""
    if weight.shape != (input.shape[dim],):
        raise ShapeError(f"weight must be [{input.shape[dim]}], one for each class, got {list(weight.shape)}")
    wide = reshape(weight, [-1 if d == dim else 1 for d in range(input.ndim)])
    return broadcast_to(cast(wide, input.dtype), input.shape)


@function
@full_precision
def nll_loss(
    input: Value, target: Value, weight: Value | None = None, ignore_index: int | None = -100, reduction: str = "mean"
) -> Value:
    """``-weight[target] * input[target]`` for log-probabilities [N, C, ...] and class indices [N, ...].

    Targets that are ``ignore_index`` contribute zero; the mean is over the weights of the others. Any other target outside
    [0, C) makes loss and gradient NaN. Raises ShapeError, DTypeError.
    """
    require_float(input.dtype, "input")
    return _over_classes(input, target, weight, ignore_index, reduction, 0.0)


@function
@full_precision
def cross_entropy(
    input: Value,
    target: Value,
    weight: Value | None = None,
    ignore_index: int | None = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Value:
    """Softmax cross-entropy of logits [N, C, ...] with ``target``, class indices [N, ...] or probabilities [N, C, ...].

    Targets that are the index ``ignore_index`` (None: none are) contribute zero and are out of the mean. Any other index
    outside [0, C) makes loss and gradient NaN. ``weight`` [C] scales classes; the mean over indices is then weighted.
    ``label_smoothing`` e takes ``1 - e`` of the target and e of the uniform distribution (Szegedy et al., CVPR 2016). Raises
    ShapeError, DTypeError, ArgumentError.
    """
    if not 0.0 <= label_smoothing <= 1.0:
        raise ArgumentError(f"label_smoothing must lie in [0, 1], got {label_smoothing}")
    dim = _class_dim(input)
    logp = log_softmax(input, dim)
    if not target.dtype.is_float:
        return _over_classes(logp, target, weight, ignore_index, reduction, label_smoothing)
    _same_shape(input, target)
    if ignore_index is not None and ignore_index >= 0:
        raise ArgumentError("ignore_index needs class indices, and target holds probabilities")
    classes = input.shape[dim]
    goal = target * (1.0 - label_smoothing) + label_smoothing / classes if label_smoothing else target
    loss = -sum(goal * logp if weight is None else goal * logp * _class_weight(weight, input, dim), dim)
    return _reduced(loss, reduction)


@function
@full_precision
def multi_margin_loss(
    input: Value,
    target: Value,
    p: int = 1,
    margin: float = 1.0,
    weight: Value | None = None,
    reduction: str = "mean",
) -> Value:
    """``sum_j weight[y] * max(0, margin - input[y] + input[j])**p / C`` over the classes j that are not the target y.

    A target outside [0, C) makes loss and gradient NaN.
    """
    if p not in (1, 2):
        raise ArgumentError(f"p must be 1 or 2, got {p}")
    if input.ndim not in (1, 2):
        raise ShapeError(f"multi_margin_loss needs [N, C] or [C], got {list(input.shape)}")
    (label, hit), dim = _labels(input, target), input.ndim - 1
    own = sum(where(hit, input, 0.0), dim, keepdim=True)
    gap = maximum(input - own + margin, 0.0)
    gap = gap if p == 1 else gap * gap
    if weight is not None:
        gap = gap * unsqueeze(_own_weight(weight, input, label), dim)
    loss = sum(where(hit, 0.0, gap), dim) * (1.0 / input.shape[dim])
    return _reduced(loss * _known(label, input), reduction)


@function
@full_precision
def multilabel_margin_loss(input: Value, target: Value, reduction: str = "mean") -> Value:
    """``max(0, 1 - input[t] + input[c]) / C`` summed over targets t and the classes c that are none; both are [N, C] or [C].

    ``target`` lists class indices up to the first negative one; one that is C or more makes loss and gradient NaN.
    """
    _same_shape(input, target)
    if input.ndim > 2:
        raise ShapeError(f"multilabel_margin_loss needs [N, C] or [C], got {list(input.shape)}")
    classes = input.shape[_class_dim(input)]
    if not target.dtype.is_int:
        raise DTypeError(f"class indices must be integers, got {target.dtype}")
    listed = eq(cumsum(lt(target, 0), -1), 0)
    wide = unsqueeze(input, -2)  # [N, 1, C], beside targets [N, C, 1]
    index = iota(wide, -1)
    label = cast(target, index.dtype)
    hit = unsqueeze(listed, -1) & eq(unsqueeze(label, -1), index)
    own = sum(where(hit, wide, 0.0), -1, keepdim=True)
    counts = unsqueeze(listed, -1) & eq(sum(hit, -2, keepdim=True), 0)
    loss = sum(where(counts, maximum(1.0 - own + wide, 0.0), 0.0), (-2, -1)) * (1.0 / classes)
    outside = sum(where(listed & ge(label, classes), input.graph.constant(math.nan, input.dtype), 0.0), -1)
    return _reduced(loss * (1.0 + outside), reduction)


# --- two classes ---------------------------------------------------------------------------------------------------


def _scaled(loss: Value, scale: Value | None, what: str = "weight") -> Value:
    """``loss`` times ``scale``, which must broadcast to it."""
    if scale is None:
        return loss
    if broadcast_shape(loss.shape, scale.shape) != loss.shape:
        raise ShapeError(f"{what} must broadcast to {list(loss.shape)}, got {list(scale.shape)}")
    return loss * scale


def _weighted(loss: Value, weight: Value | None, reduction: str) -> Value:
    return _reduced(_scaled(loss, weight), reduction)


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
    _same_shape(input, target)
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
    _same_shape(input, target)
    goal = cast(target, input.dtype)
    rest = 1.0 - goal
    share = None if pos_weight is None else _scaled(goal, pos_weight, "pos_weight") + rest
    loss = rest * input + _scaled(_softplus(-input), share)
    return _weighted(loss, weight, reduction)


@function
@full_precision
def soft_margin_loss(input: Value, target: Value, reduction: str = "mean") -> Value:
    """``log(1 + exp(-target * input))`` for targets -1 and 1."""
    _same_shape(input, target)
    return _reduced(_softplus(-(input * cast(target, input.dtype))), reduction)


@function
@full_precision
def multilabel_soft_margin_loss(input: Value, target: Value, weight: Value | None = None, reduction: str = "mean") -> Value:
    """Binary cross-entropy of logits with ``target``, averaged over the classes, the last dimension.

    ``weight`` [C] scales the classes.
    """
    _same_shape(input, target)
    loss = _softplus(input) - input * cast(target, input.dtype)
    return _reduced(mean(_scaled(loss, weight), -1), reduction)


@function
@full_precision
def hinge_loss(input: Value, target: Value, reduction: str = "mean") -> Value:
    """``max(0, 1 - target * input)`` for targets -1 and 1."""
    _same_shape(input, target)
    return _reduced(maximum(1.0 - input * cast(target, input.dtype), 0.0), reduction)


@function
@full_precision
def hinge_embedding_loss(input: Value, target: Value, margin: float = 1.0, reduction: str = "mean") -> Value:
    """``input`` where ``target`` is 1, ``max(0, margin - input)`` where it is -1."""
    _same_shape(input, target)
    loss = where(ne(target, 1), maximum(margin - input, 0.0), 0.0) + where(ne(target, -1), input, 0.0)
    return _reduced(loss, reduction)


# --- differences ---------------------------------------------------------------------------------------------------


@function
@full_precision
def mse_loss(input: Value, target: Value, reduction: str = "mean", weight: Value | None = None) -> Value:
    """Squared difference of ``input`` and ``target``, times ``weight``; the mean is then over the weights."""
    _same_shape(input, target)
    d = input - target
    return _weighted_mean(d * d, weight, reduction)


@function
@full_precision
def l1_loss(input: Value, target: Value, reduction: str = "mean", weight: Value | None = None) -> Value:
    """Absolute difference of ``input`` and ``target``, times ``weight``; the mean is then over the weights."""
    _same_shape(input, target)
    return _weighted_mean(abs(input - target), weight, reduction)


def _weighted_mean(loss: Value, weight: Value | None, reduction: str) -> Value:
    if weight is None:
        return _reduced(loss, reduction)
    if weight.shape != loss.shape:
        raise ShapeError(f"weight must be {list(loss.shape)}, got {list(weight.shape)}")
    return sum(loss * weight) / sum(weight) if reduction == "mean" else _reduced(loss * weight, reduction)


@function
@full_precision
def smooth_l1_loss(input: Value, target: Value, reduction: str = "mean", beta: float = 1.0) -> Value:
    """``0.5 * d**2 / beta`` for differences d of ``input`` and ``target`` below ``beta``, else ``d - 0.5 * beta``.

    Girshick, "Fast R-CNN", 2015.
    """
    if beta < 0:
        raise ArgumentError(f"beta must be >= 0, got {beta}")
    _same_shape(input, target)
    d = abs(input - target)
    if not beta:
        return _reduced(d, reduction)
    near = where(d >= beta, 0.0, d)  # an infinite difference has a finite slope, NaN has none
    return _reduced(where(d < beta, near * near * (0.5 / beta), d - 0.5 * beta), reduction)


@function
@full_precision
def huber_loss(input: Value, target: Value, reduction: str = "mean", delta: float = 1.0, weight: Value | None = None) -> Value:
    """``0.5 * d**2`` for differences d of ``input`` and ``target`` up to ``delta``, else ``delta * (d - 0.5 * delta)``.

    Huber, 1964. ``weight`` scales elements; unlike that of ``mse_loss`` its mean is over the elements, as in torch.
    """
    if delta <= 0:
        raise ArgumentError(f"delta must be positive, got {delta}")
    _same_shape(input, target)
    d = abs(input - target)
    near = where(d > delta, 0.0, d)  # an infinite difference has a finite slope, NaN has none
    return _weighted(where(d <= delta, near * near * 0.5, (d - 0.5 * delta) * delta), weight, reduction)


# --- distributions -------------------------------------------------------------------------------------------------


@function
@full_precision
def kl_div(input: Value, target: Value, reduction: str = "mean", log_target: bool = False) -> Value:
    """``target * (log(target) - input)`` for log-probabilities ``input``, and with ``log_target`` for such targets.

    ``reduction`` is also "batchmean", the sum over N, which is the divergence.
    """
    _same_shape(input, target)
    loss = exp(target) * (target - input) if log_target else xlogy(target, target) - target * input
    if reduction == "batchmean":
        return sum(loss) / float(input.shape[0]) if input.ndim else sum(loss)
    return _reduced(loss, reduction)


@function
@full_precision
def poisson_nll_loss(
    input: Value, target: Value, log_input: bool = True, full: bool = False, eps: float = 1e-8, reduction: str = "mean"
) -> Value:
    """Poisson negative log-likelihood of counts ``target`` for rates ``input`` (their logarithms with ``log_input``).

    ``full`` adds Stirling's approximation of ``log(target!)``; ``eps`` is added to rates before their logarithm.
    """
    _same_shape(input, target)
    goal = cast(target, input.dtype)
    loss = exp(input) - goal * input if log_input else input - goal * log(input + eps)
    if full:
        large = where(goal > 1.0, goal, 1.0)
        loss = loss + where(goal > 1.0, large * log(large) - large + log(large * (2 * math.pi)) * 0.5, 0.0)
    return _reduced(loss, reduction)


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
    _same_shape(input, target)
    v = var if isinstance(var, Value) else input.graph.constant(var, input.dtype)
    if v.ndim == input.ndim - 1 and v.ndim and v.shape == input.shape[:-1]:
        v = unsqueeze(v, -1)
    if not isinstance(var, Value) and var < 0:
        raise ArgumentError(f"var must be >= 0, got {var}")
    differing = [a for a, b in zip(v.shape, input.shape, strict=False) if a != b]
    if isinstance(var, Value) and (v.ndim != input.ndim or differing not in ([], [1])):
        raise ShapeError(f"var must be {list(input.shape)}, with one size 1 or without the last, got {list(var.shape)}")
    v = v + stop_gradient(maximum(v, eps) - v)  # the bound does not stop the gradient, as in torch
    d = input - target
    loss = (log(v) + d * d / v) * 0.5
    return _reduced(loss + 0.5 * math.log(2 * math.pi) if full else loss, reduction)


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
    return _reduced(loss, reduction)


@function
@full_precision
def margin_ranking_loss(input1: Value, input2: Value, target: Value, margin: float = 0.0, reduction: str = "mean") -> Value:
    """``max(0, -target * (input1 - input2) + margin)``: target 1 wants input1 above input2, -1 below."""
    return _reduced(maximum(-(cast(target, input1.dtype) * (input1 - input2)) + margin, 0.0), reduction)


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
    return _reduced(maximum(near - far + margin, 0.0), reduction)

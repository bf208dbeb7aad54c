"""Losses over classes, whose targets are indices or probabilities. Names, arguments and defaults follow torch.nn.functional.

An index outside the classes makes loss and gradient NaN, never a number.
"""

from __future__ import annotations

import math

from graphrt.errors import ArgumentError, DTypeError, ShapeError
from graphrt.ir import Value
from graphrt.ops.activation import log_softmax
from graphrt.ops.base import broadcast_to, cast, full_precision, function, require_float
from graphrt.ops.cumulative import cumsum
from graphrt.ops.elementwise import eq, ge, lt, maximum, minimum, ne, where
from graphrt.ops.indexing import take
from graphrt.ops.loss import reduced, same_shape
from graphrt.ops.reduction import mean, sum
from graphrt.ops.source import iota
from graphrt.ops.view import reshape, unsqueeze
from graphrt.types import int64


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
        return reduced(loss * factor, reduction)
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
    if target.shape == input.shape[:dim] + input.shape[dim + 1 :]:
        raise DTypeError(f"class indices are integers, got {target.type}; probabilities are {list(input.shape)} as the input")
    same_shape(input, target)
    if ignore_index is not None and ignore_index >= 0:
        raise ArgumentError("ignore_index needs class indices, and target holds probabilities")
    classes = input.shape[dim]
    goal = target * (1.0 - label_smoothing) + label_smoothing / classes if label_smoothing else target
    loss = -sum(goal * logp if weight is None else goal * logp * _class_weight(weight, input, dim), dim)
    return reduced(loss, reduction)


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
    return reduced(loss * _known(label, input), reduction)


@function
@full_precision
def multilabel_margin_loss(input: Value, target: Value, reduction: str = "mean") -> Value:
    """``max(0, 1 - input[t] + input[c]) / C`` summed over targets t and the classes c that are none; both are [N, C] or [C].

    ``target`` lists class indices up to the first negative one; one that is C or more makes loss and gradient NaN.
    """
    same_shape(input, target)
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
    return reduced(loss * (1.0 + outside), reduction)

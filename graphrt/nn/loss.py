"""Losses as modules, with torch's names and arguments. ``reduction`` is "mean", "sum" or "none"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import graphrt.ops as F
from graphrt.ir import Value
from graphrt.nn.module import Buffer, Module, optional


def _buffer(array: Any) -> Buffer | None:
    return None if array is None else Buffer(np.asarray(array, np.float32))


class _OverClasses(Module):
    """A loss of class indices [N, ...], which ``weight`` [C] scales and of which ``ignore_index`` is none."""

    weight: Buffer | None
    ignore_index: int | None

    def denominator(self, input: Value, target: Value) -> Value | None:
        """The divisor of "mean", the weights of the targets that count; None where it is the number of elements."""
        if target.dtype.is_float:
            return None
        certain = F.full_like(input, -1.0)  # each target that counts loses its weight
        return F.nll_loss(certain, target, optional(self.weight, input), self.ignore_index, "sum")


class CrossEntropyLoss(_OverClasses):
    """Softmax cross-entropy of logits [N, C, ...] with class indices [N, ...] or probabilities [N, C, ...].

    ``-log(softmax(input)[target])``, in nats. ``weight`` [C] scales classes; the mean over indices is then weighted. An index
    equal to ``ignore_index`` does not count (None: all do); others outside [0, C) make the loss NaN. ``label_smoothing`` e in
    [0, 1] takes ``1 - e`` of the target and e of the uniform distribution (Szegedy et al., CVPR 2016). Raises ShapeError,
    DTypeError, ArgumentError when called.
    """

    def __init__(
        self, weight: Any = None, *, ignore_index: int | None = -100, reduction: str = "mean", label_smoothing: float = 0.0
    ) -> None:
        self.weight, self.ignore_index = _buffer(weight), ignore_index
        self.reduction, self.label_smoothing = reduction, label_smoothing

    def forward(self, input: Value, target: Value) -> Value:
        weight = optional(self.weight, input)
        return F.cross_entropy(input, target, weight, self.ignore_index, self.reduction, self.label_smoothing)


class NLLLoss(_OverClasses):
    """Negative log-likelihood of log-probabilities [N, C, ...] and class indices [N, ...].

    Behind a ``LogSoftmax`` it is the ``CrossEntropyLoss``, which says what ``weight`` [C] and ``ignore_index`` are.
    """

    def __init__(self, weight: Any = None, *, ignore_index: int | None = -100, reduction: str = "mean") -> None:
        self.weight, self.ignore_index, self.reduction = _buffer(weight), ignore_index, reduction

    def forward(self, input: Value, target: Value) -> Value:
        return F.nll_loss(input, target, optional(self.weight, input), self.ignore_index, self.reduction)


class BCELoss(Module):
    """Binary cross-entropy of probabilities with targets in [0, 1], of one shape; ``weight`` broadcasts and scales elements.

    Logarithms end at -100, as torch's.
    """

    def __init__(self, weight: Any = None, *, reduction: str = "mean") -> None:
        self.weight, self.reduction = _buffer(weight), reduction

    def forward(self, input: Value, target: Value) -> Value:
        return F.binary_cross_entropy(input, target, optional(self.weight, input), self.reduction)


class BCEWithLogitsLoss(Module):
    """Binary cross-entropy of ``sigmoid(input)`` with targets in [0, 1] of the same shape, stable for large logits.

    ``weight`` scales elements, ``pos_weight`` the positive ones; both broadcast.
    """

    def __init__(self, weight: Any = None, *, reduction: str = "mean", pos_weight: Any = None) -> None:
        self.weight, self.reduction, self.pos_weight = _buffer(weight), reduction, _buffer(pos_weight)

    def forward(self, input: Value, target: Value) -> Value:
        weight, positive = optional(self.weight, input), optional(self.pos_weight, input)
        return F.binary_cross_entropy_with_logits(input, target, weight, self.reduction, positive)


class MultiMarginLoss(Module):
    """Multi-class hinge loss of [N, C] with class indices [N].

    ``sum_j weight[y] * max(0, margin - input[y] + input[j])**p / C`` over the classes j that are not the target y. A target
    outside [0, C) makes the loss NaN.
    """

    def __init__(self, p: int = 1, margin: float = 1.0, weight: Any = None, *, reduction: str = "mean") -> None:
        self.p, self.margin, self.weight, self.reduction = p, margin, _buffer(weight), reduction

    def forward(self, input: Value, target: Value) -> Value:
        return F.multi_margin_loss(input, target, self.p, self.margin, optional(self.weight, input), self.reduction)


class MultiLabelMarginLoss(Module):
    """Hinge loss between the classes that [N, C] targets list, up to the first negative index, and all others."""

    def __init__(self, *, reduction: str = "mean") -> None:
        self.reduction = reduction

    def forward(self, input: Value, target: Value) -> Value:
        return F.multilabel_margin_loss(input, target, self.reduction)


class MultiLabelSoftMarginLoss(Module):
    """Binary cross-entropy with logits averaged over the classes, the last dimension; ``weight`` [C] scales them."""

    def __init__(self, weight: Any = None, *, reduction: str = "mean") -> None:
        self.weight, self.reduction = _buffer(weight), reduction

    def forward(self, input: Value, target: Value) -> Value:
        return F.multilabel_soft_margin_loss(input, target, optional(self.weight, input), self.reduction)


class MSELoss(Module):
    """Squared difference of two tensors of one shape."""

    def __init__(self, *, reduction: str = "mean") -> None:
        self.reduction = reduction

    def forward(self, input: Value, target: Value) -> Value:
        return F.mse_loss(input, target, reduction=self.reduction)


class L1Loss(Module):
    """Absolute difference of two tensors of one shape."""

    def __init__(self, *, reduction: str = "mean") -> None:
        self.reduction = reduction

    def forward(self, input: Value, target: Value) -> Value:
        return F.l1_loss(input, target, reduction=self.reduction)


class SmoothL1Loss(Module):
    """``0.5 * d**2 / beta`` for differences d below ``beta``, else ``d - 0.5 * beta`` (Girshick, Fast R-CNN, ICCV 2015)."""

    def __init__(self, beta: float = 1.0, *, reduction: str = "mean") -> None:
        self.beta, self.reduction = beta, reduction

    def forward(self, input: Value, target: Value) -> Value:
        return F.smooth_l1_loss(input, target, beta=self.beta, reduction=self.reduction)


class HuberLoss(Module):
    """``0.5 * d**2`` for differences d up to ``delta``, else ``delta * (d - 0.5 * delta)`` (Huber, 1964)."""

    def __init__(self, delta: float = 1.0, *, reduction: str = "mean") -> None:
        self.delta, self.reduction = delta, reduction

    def forward(self, input: Value, target: Value) -> Value:
        return F.huber_loss(input, target, delta=self.delta, reduction=self.reduction)


class SoftMarginLoss(Module):
    """``log(1 + exp(-target * input))`` for targets -1 and 1."""

    def __init__(self, *, reduction: str = "mean") -> None:
        self.reduction = reduction

    def forward(self, input: Value, target: Value) -> Value:
        return F.soft_margin_loss(input, target, reduction=self.reduction)


class HingeEmbeddingLoss(Module):
    """``input`` where the target is 1, ``max(0, margin - input)`` where it is -1."""

    def __init__(self, margin: float = 1.0, *, reduction: str = "mean") -> None:
        self.margin, self.reduction = margin, reduction

    def forward(self, input: Value, target: Value) -> Value:
        return F.hinge_embedding_loss(input, target, margin=self.margin, reduction=self.reduction)


class KLDivLoss(Module):
    """Kullback-Leibler divergence ``target * (log(target) - input)`` of log-probabilities ``input``.

    With ``log_target`` targets are log-probabilities too. ``reduction`` is also "batchmean", the sum over N, which is the
    divergence; "mean" divides by all elements.
    """

    def __init__(self, log_target: bool = False, *, reduction: str = "mean") -> None:
        self.log_target, self.reduction = log_target, reduction

    def forward(self, input: Value, target: Value) -> Value:
        return F.kl_div(input, target, log_target=self.log_target, reduction=self.reduction)


class PoissonNLLLoss(Module):
    """Poisson negative log-likelihood of counts, for rates or, with ``log_input``, their logarithms.

    ``full`` adds Stirling's approximation of ``log(target!)``; ``eps`` is added to rates before their logarithm.
    """

    def __init__(self, log_input: bool = True, full: bool = False, eps: float = 1e-8, *, reduction: str = "mean") -> None:
        self.log_input, self.full, self.eps, self.reduction = log_input, full, eps, reduction

    def forward(self, input: Value, target: Value) -> Value:
        return F.poisson_nll_loss(
            input, target, log_input=self.log_input, full=self.full, eps=self.eps, reduction=self.reduction
        )


class GaussianNLLLoss(Module):
    """``0.5 * (log(var) + (input - target)**2 / var)`` with ``var`` at least ``eps``; called with input, target and variance.

    ``full`` adds ``0.5 * log(2 pi)``.
    """

    def __init__(self, *, full: bool = False, eps: float = 1e-6, reduction: str = "mean") -> None:
        self.full, self.eps, self.reduction = full, eps, reduction

    def forward(self, input: Value, target: Value, var: Value | float) -> Value:
        return F.gaussian_nll_loss(input, target, var, self.full, self.eps, self.reduction)


class CTCLoss(Module):
    """The loss of sequences whose alignment is not known (Graves et al., ICML 2006).

    It is called with log-probabilities [T, N, C], targets [N, S] and the lengths of both, as ``ops.ctc_loss`` is. ``blank`` is
    the class of no class; with ``zero_infinity`` a target that is too long for its input has the loss 0, not infinity.
    """

    def __init__(self, blank: int = 0, reduction: str = "mean", zero_infinity: bool = False) -> None:
        self.blank, self.reduction, self.zero_infinity = blank, reduction, zero_infinity

    def forward(
        self, log_probs: Value, targets: Value, input_lengths: Value | Sequence[int], target_lengths: Value | Sequence[int]
    ) -> Value:
        lengths = (input_lengths, target_lengths)
        return F.ctc_loss(log_probs, targets, *lengths, self.blank, self.reduction, self.zero_infinity)


class CosineEmbeddingLoss(Module):
    """``1 - cos`` of vectors [N, D] where the target is 1, ``max(0, cos - margin)`` where it is -1."""

    def __init__(self, margin: float = 0.0, *, reduction: str = "mean") -> None:
        self.margin, self.reduction = margin, reduction

    def forward(self, input1: Value, input2: Value, target: Value) -> Value:
        return F.cosine_embedding_loss(input1, input2, target, self.margin, self.reduction)


class MarginRankingLoss(Module):
    """``max(0, -target * (input1 - input2) + margin)``: target 1 wants input1 above input2, -1 below."""

    def __init__(self, margin: float = 0.0, *, reduction: str = "mean") -> None:
        self.margin, self.reduction = margin, reduction

    def forward(self, input1: Value, input2: Value, target: Value) -> Value:
        return F.margin_ranking_loss(input1, input2, target, self.margin, self.reduction)


class TripletMarginLoss(Module):
    """``max(0, d(anchor, positive) - d(anchor, negative) + margin)``, d the ``p``-norm of the difference plus ``eps``.

    ``swap`` takes the smaller of the distances of the negative to anchor and to positive (Balntas et al., BMVC 2016).
    """

    def __init__(
        self, margin: float = 1.0, p: float = 2.0, eps: float = 1e-6, swap: bool = False, *, reduction: str = "mean"
    ) -> None:
        self.margin, self.p, self.eps, self.swap, self.reduction = margin, p, eps, swap, reduction

    def forward(self, anchor: Value, positive: Value, negative: Value) -> Value:
        return F.triplet_margin_loss(anchor, positive, negative, self.margin, self.p, self.eps, self.swap, self.reduction)


class CosineSimilarity(Module):
    """The cosine of the angle between two tensors along ``dim``; lengths are at least ``eps``."""

    def __init__(self, dim: int = 1, eps: float = 1e-8) -> None:
        self.dim, self.eps = dim, eps

    def forward(self, x1: Value, x2: Value) -> Value:
        return F.cosine_similarity(x1, x2, self.dim, self.eps)


class PairwiseDistance(Module):
    """The ``p``-norm of ``x1 - x2 + eps`` over the last dimension, which ``keepdim`` keeps with size 1."""

    def __init__(self, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> None:
        self.p, self.eps, self.keepdim = p, eps, keepdim

    def forward(self, x1: Value, x2: Value) -> Value:
        return F.pairwise_distance(x1, x2, self.p, self.eps, self.keepdim)

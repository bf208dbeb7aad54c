"""Losses as modules, with torch's names. All take (input, target) and reduce by "mean", "sum" or "none"."""

from __future__ import annotations

import graphrt.ops as F
from graphrt.ir import Value
from graphrt.nn.module import Module


class CrossEntropyLoss(Module):
    """Softmax cross-entropy of logits [N, C, ...] with class indices [N, ...] or probabilities [N, C, ...].

    ``ignore_index`` names a class index that does not count; by default there is none.
    """

    def __init__(self, *, ignore_index: int | None = None, reduction: str = "mean", label_smoothing: float = 0.0) -> None:
        self.ignore_index, self.reduction, self.label_smoothing = ignore_index, reduction, label_smoothing

    def forward(self, input: Value, target: Value) -> Value:
        return F.cross_entropy(input, target, self.reduction, self.ignore_index, self.label_smoothing)


class NLLLoss(Module):
    """Negative log-likelihood of log-probabilities [N, C, ...] and class indices [N, ...]."""

    def __init__(self, *, ignore_index: int = -100, reduction: str = "mean") -> None:
        self.ignore_index, self.reduction = ignore_index, reduction

    def forward(self, input: Value, target: Value) -> Value:
        return F.nll_loss(input, target, self.reduction, self.ignore_index)


class BCEWithLogitsLoss(Module):
    """Binary cross-entropy of logits with targets in [0, 1] of the same shape."""

    def __init__(self, *, reduction: str = "mean") -> None:
        self.reduction = reduction

    def forward(self, input: Value, target: Value) -> Value:
        return F.binary_cross_entropy_with_logits(input, target, self.reduction)


class MSELoss(Module):
    """Squared difference of two tensors of one shape."""

    def __init__(self, *, reduction: str = "mean") -> None:
        self.reduction = reduction

    def forward(self, input: Value, target: Value) -> Value:
        return F.mse_loss(input, target, self.reduction)


class L1Loss(Module):
    """Absolute difference of two tensors of one shape."""

    def __init__(self, *, reduction: str = "mean") -> None:
        self.reduction = reduction

    def forward(self, input: Value, target: Value) -> Value:
        return F.l1_loss(input, target, self.reduction)

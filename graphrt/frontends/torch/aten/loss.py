"""ATen losses whose decomposition in torch gives other numbers or gradients than eager mode, or no sign of bad labels."""

from __future__ import annotations

import graphrt.ops as F
from graphrt.frontends.torch.table import aten, pullback
from graphrt.ir import Value

REDUCTIONS = ("none", "mean", "sum")  # by torch's numbers


@aten("multilabel_margin_loss.default")
def multilabel_margin_loss(input: Value, target: Value, reduction: int = 1) -> Value:
    return F.multilabel_margin_loss(input, target, REDUCTIONS[reduction])


@aten("multi_margin_loss.default")
def multi_margin_loss(
    input: Value, target: Value, p: float = 1, margin: float = 1, weight: Value | None = None, reduction: int = 1
) -> Value:
    return F.multi_margin_loss(input, target, int(p), float(margin), weight, REDUCTIONS[reduction])


@aten("nll_loss_forward.default", "nll_loss2d_forward.default")
def nll_loss_forward(
    input: Value, target: Value, weight: Value | None, reduction: int, ignore_index: int
) -> tuple[Value, Value]:
    """The loss, and the weight of the targets that count, by which the mean has divided."""
    loss = F.nll_loss(input, target, weight, ignore_index, REDUCTIONS[reduction])
    if REDUCTIONS[reduction] == "none":
        return loss, F.zeros(input.graph, (), input.dtype)
    ones = F.full_like(input, -1.0)
    return loss, F.nll_loss(ones, target, weight, ignore_index, "sum")


@aten("nll_loss_backward.default", "nll_loss2d_backward.default")
def nll_loss_backward(
    dy: Value,
    input: Value,
    target: Value,
    weight: Value | None,
    reduction: int,
    ignore_index: int,
    total_weight: Value,
) -> Value:
    (dx,) = pullback(lambda x: F.nll_loss(x, target, weight, ignore_index, REDUCTIONS[reduction]), [input], dy)
    return dx


@aten("binary_cross_entropy.default")
def binary_cross_entropy(input: Value, target: Value, weight: Value | None = None, reduction: int = 1) -> Value:
    return F.binary_cross_entropy(input, target, weight, REDUCTIONS[reduction])


@aten("smooth_l1_loss.default")
def smooth_l1_loss(input: Value, target: Value, reduction: int = 1, beta: float = 1.0) -> Value:
    return F.smooth_l1_loss(input, target, REDUCTIONS[reduction], beta)


@aten("huber_loss.default")
def huber_loss(input: Value, target: Value, reduction: int = 1, delta: float = 1.0) -> Value:
    return F.huber_loss(input, target, REDUCTIONS[reduction], delta)


@aten("binary_cross_entropy_backward.default")
def binary_cross_entropy_backward(
    dy: Value, input: Value, target: Value, weight: Value | None = None, reduction: int = 1
) -> Value:
    return pullback(lambda x: binary_cross_entropy(x, target, weight, reduction), [input], dy)[0]


@aten("smooth_l1_loss_backward.default")
def smooth_l1_loss_backward(dy: Value, input: Value, target: Value, reduction: int, beta: float) -> Value:
    return pullback(lambda x: smooth_l1_loss(x, target, reduction, beta), [input], dy)[0]


@aten("huber_loss_backward.default")
def huber_loss_backward(dy: Value, input: Value, target: Value, reduction: int, delta: float) -> Value:
    return pullback(lambda x: huber_loss(x, target, reduction, delta), [input], dy)[0]

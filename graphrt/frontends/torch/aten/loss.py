"""ATen operators that are losses and do not decompose, or whose decomposition in torch gives other numbers than eager mode."""

from __future__ import annotations

import graphrt.ops as F
from graphrt.frontends.torch.table import aten, pullback
from graphrt.ir import Value

_REDUCTIONS = ("none", "mean", "sum")


@aten("multilabel_margin_loss_forward.default")
def multilabel_margin_loss(input: Value, target: Value, reduction: int) -> tuple[Value, Value]:
    """The loss, and for each class whether it is among the targets, which end at the first -1."""
    classes = target.shape[-1]
    position = F.arange(input.graph, classes)
    count = F.amin(F.where(F.eq(target, -1), position, classes), -1, True)
    valid = F.where(position < count, target, -1)
    hit = F.any(F.eq(F.unsqueeze(valid, -1), position), -2)
    return F.multilabel_margin_loss(input, target, _REDUCTIONS[reduction]), F.cast(hit, input.dtype)


@aten("multilabel_margin_loss_backward.default")
def multilabel_margin_loss_backward(dy: Value, input: Value, target: Value, reduction: int, is_target: Value) -> Value:
    return pullback(lambda x: multilabel_margin_loss(x, target, reduction)[0], [input], dy)[0]

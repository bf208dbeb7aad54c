"""Augmentations that make one picture, and one target, of two: mixup and CutMix."""

from __future__ import annotations

import math
from typing import Any

import graphrt.ops as F
from graphrt.errors import ArgumentError
from graphrt.ir import Graph, Value
from graphrt.nn.augment.base import Augmentation, box, each


class MixUp(Augmentation):
    """Each picture and its neighbour in the batch, and their targets, in shares drawn from Beta(alpha, alpha).

    Zhang et al., "mixup: Beyond empirical risk minimization", ICLR 2018. Targets that are class indices [N] become shares of
    ``num_classes`` classes, [N, num_classes], as CrossEntropyLoss takes them; other targets [N, ...] are mixed as they are.
    Raises ArgumentError for an ``alpha`` that is not above 0, a call without target, and class indices without ``num_classes``.
    """

    def __init__(self, alpha: float = 1.0, num_classes: int | None = None) -> None:
        if not 0 < alpha < math.inf:
            raise ArgumentError(f"alpha must be above 0, got {alpha}")
        self.alpha, self.num_classes = float(alpha), num_classes

    def draw(self, input: Value) -> dict[str, Value]:
        return {"share": _beta(input.graph, input.shape[0], self.alpha)}

    def share(self, input: Value, **drawn: Value) -> Value:
        """How much of each picture stays, [N]."""
        return drawn["share"]

    def change(self, input: Value, **drawn: Value) -> Value:
        return _mixed(input, drawn["share"])

    def retarget(self, input: Value, target: Any, **drawn: Value) -> Value:
        if not isinstance(target, Value):
            raise ArgumentError(f"{type(self).__name__} mixes one target [N, ...], got {type(target).__name__}")
        if target.dtype.is_float:
            return _mixed(target, self.share(input, **drawn))
        if self.num_classes is None or target.ndim != 1:
            raise ArgumentError(
                f"{type(self).__name__} of class indices needs num_classes and a target [N], got {self.num_classes} and "
                f"{list(target.shape)}"
            )
        number = F.unsqueeze(target, 1)
        hot = F.cast(F.eq(number, F.arange(target.graph, self.num_classes, dtype=target.dtype)), "float32")
        known = F.ge(number, 0) & F.lt(number, self.num_classes)
        return _mixed(F.where(known, hot, math.nan), self.share(input, **drawn))  # a class that is none makes the loss NaN

    def forward(self, input: Value, target: Any = None) -> Any:
        if target is None and self.training:
            raise ArgumentError(
                f"{type(self).__name__} changes targets too: call it with (input, target), as Trainer(augment=...) does"
            )
        return super().forward(input, target)


class CutMix(MixUp):
    """A rectangle of each picture comes from its neighbour in the batch, and as large a share of its target.

    Yun et al., "CutMix: Regularization strategy to train strong classifiers with localizable features", ICCV 2019. The share
    that stays is drawn from Beta(alpha, alpha), the rectangle's centre from all pixels, and what lies beyond the picture is cut
    off. ``num_classes`` and errors as of ``MixUp``.
    """

    def draw(self, input: Value) -> dict[str, Value]:
        half = F.sqrt(1.0 - _beta(input.graph, input.shape[0], self.alpha)) * 0.5
        sides = {}
        for n, low, high in zip(input.shape[2:], ("top", "left"), ("bottom", "right"), strict=True):
            centre, reach = F.floor(F.uniform(input.graph, input.shape[:1]) * float(n)), F.floor(half * float(n))
            sides[low], sides[high] = F.maximum(centre - reach, 0.0), F.minimum(centre + reach, float(n))
        return sides

    def share(self, input: Value, **drawn: Value) -> Value:
        area = (drawn["bottom"] - drawn["top"]) * (drawn["right"] - drawn["left"])
        return 1.0 - area * (1.0 / (input.shape[2] * input.shape[3]))

    def change(self, input: Value, **drawn: Value) -> Value:
        sides = [drawn[name] for name in ("top", "bottom", "left", "right")]
        return F.where(box(input, *sides), F.roll(input, 1, 0), input)


_TRIES = 16  # each is accepted with a probability of at least 0.95


def _beta(graph: Graph, count: int, alpha: float) -> Value:
    """Numbers [count] from Beta(alpha, alpha): a share of two Gamma variates."""
    if alpha == 1.0:
        return F.uniform(graph, (count,))
    return F.sigmoid(_log_gamma(graph, count, alpha) - _log_gamma(graph, count, alpha))


def _log_gamma(graph: Graph, count: int, alpha: float) -> Value:
    """Logarithms [count] of numbers from Gamma(alpha): Marsaglia and Tsang, ACM TOMS 26 (2000), the first of some tries."""
    d = alpha + 1.0 - 1.0 / 3.0
    z = F.normal(graph, (count, _TRIES))
    cube = F.pow(1.0 + z * (9.0 * d) ** -0.5, 3)
    v = F.maximum(cube, 1e-30)
    accepted = F.gt(cube, 0.0) & F.lt(F.log(1.0 - F.uniform(graph, z.shape)), z * z * 0.5 + d - v * d + F.log(v) * d)
    first = F.squeeze(F.gather(v, 1, F.argmax(F.cast(accepted, "float32"), 1, keepdim=True)), 1)
    return F.log(first * d) + F.log(1.0 - F.uniform(graph, (count,))) * (1.0 / alpha)


def _mixed(input: Value, share: Value) -> Value:
    """``share`` [N] of ``input``, and the rest of its neighbour."""
    wide = each(F.cast(share, input.dtype), input.ndim)
    return input * wide + F.roll(input, 1, 0) * (1.0 - wide)

"""Dropout layers with torch's names, arguments and defaults. ``inplace`` is accepted and ignored."""

from __future__ import annotations

import graphrt.ops as F
from graphrt.errors import ArgumentError
from graphrt.ir import Value
from graphrt.nn.module import Module


class _Dropout(Module):
    function = staticmethod(F.dropout)

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        if not isinstance(p, int | float) or not 0.0 <= p <= 1.0:
            raise ArgumentError(f"p is a probability, got {p!r}")
        self.p = p

    def forward(self, input: Value) -> Value:
        return self.function(input, self.p, self.training)


class Dropout(_Dropout):
    """Zeroes each element with probability ``p`` in training, scaling the rest by ``1 / (1 - p)``; the identity in evaluation.

    Srivastava et al., JMLR 2014. New elements are drawn at each step of a program, from the seed of the graph
    (``ops.manual_seed``, the Trainer's ``seed``). Raises ArgumentError for a ``p`` outside [0, 1].
    """


class Dropout1d(_Dropout):
    """``Dropout`` of whole channels of [N, C, L] or [C, L], with probability ``p``."""

    function = staticmethod(F.dropout1d)


class Dropout2d(_Dropout):
    """``Dropout`` of whole channels of [N, C, H, W] or [C, H, W], with probability ``p`` (Tompson et al., CVPR 2015)."""

    function = staticmethod(F.dropout2d)


class Dropout3d(_Dropout):
    """``Dropout`` of whole channels of [N, C, D, H, W] or [C, D, H, W], with probability ``p``."""

    function = staticmethod(F.dropout3d)


class AlphaDropout(_Dropout):
    """Sets elements to SELU's lowest value with probability ``p`` in training, and keeps mean and variance.

    Klambauer et al., NeurIPS 2017.
    """

    function = staticmethod(F.alpha_dropout)


class FeatureAlphaDropout(_Dropout):
    """``AlphaDropout`` of whole channels of [N, C, ...], with probability ``p``."""

    function = staticmethod(F.feature_alpha_dropout)

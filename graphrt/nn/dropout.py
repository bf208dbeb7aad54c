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
    """Zeroes elements with probability ``p`` in training, scaling the rest (Srivastava et al., JMLR 2014)."""


class Dropout1d(_Dropout):
    """Zeroes whole channels of [N, C, L] or [C, L] in training."""

    function = staticmethod(F.dropout1d)


class Dropout2d(_Dropout):
    """Zeroes whole channels of [N, C, H, W] or [C, H, W] in training (Tompson et al., 2015)."""

    function = staticmethod(F.dropout2d)


class Dropout3d(_Dropout):
    """Zeroes whole channels of [N, C, D, H, W] or [C, D, H, W] in training."""

    function = staticmethod(F.dropout3d)


class AlphaDropout(_Dropout):
    """Dropout that keeps SELU's mean and variance (Klambauer et al., 2017)."""

    function = staticmethod(F.alpha_dropout)


class FeatureAlphaDropout(_Dropout):
    """Alpha dropout of whole channels of [N, C, ...]."""

    function = staticmethod(F.feature_alpha_dropout)

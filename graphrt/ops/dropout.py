"""Dropout of elements and of channels. The mask is a function of the counter: the same on every target and backward."""

from __future__ import annotations

from graphrt.errors import ArgumentError, ShapeError
from graphrt.ir import Value
from graphrt.ops.base import broadcast_to, function, in_float32, require_float
from graphrt.ops.elementwise import ge, where
from graphrt.ops.random import uniform


def _keep(input: Value, p: float, channels: bool) -> Value:
    """bool: what stays, decided for each element, or for each channel as a whole."""
    if channels and input.ndim < 2:
        raise ShapeError(f"dropout of channels needs [N, C, ...], got {list(input.shape)}")
    shape = tuple(n if d < 2 or not channels else 1 for d, n in enumerate(input.shape))
    return broadcast_to(ge(uniform(input.graph, shape), p), input.shape)


def _checked(input: Value, p: float, training: bool) -> bool:
    """Whether there is anything to drop."""
    require_float(input.dtype, "input")
    if not 0.0 <= p <= 1.0:
        raise ArgumentError(f"p is a probability, got {p}")
    return training and p > 0.0


def _dropout(input: Value, p: float, training: bool, channels: bool) -> Value:
    if not _checked(input, p, training):
        return input
    return where(_keep(input, p, channels), input * (1.0 / (1.0 - p) if p < 1.0 else 0.0), 0.0)


def _alpha_dropout(input: Value, p: float, training: bool, channels: bool) -> Value:
    if not _checked(input, p, training):
        return input
    low = -1.0507009873554805 * 1.6732632423543772  # what SELU gives far below zero
    scale = ((1.0 - p) * (1.0 + p * low * low)) ** -0.5 if p < 1.0 else 0.0
    return where(_keep(input, p, channels), input, low) * scale - scale * low * p


@function
@in_float32
def dropout(input: Value, p: float = 0.5, training: bool = True) -> Value:
    """Zeroes each element with probability ``p`` and scales the rest by ``1/(1-p)``; the identity unless ``training``.

    Srivastava et al., "Dropout", JMLR 2014, in the inverted form.
    """
    return _dropout(input, p, training, False)


@function
@in_float32
def feature_dropout(input: Value, p: float = 0.5, training: bool = True) -> Value:
    """``dropout`` of whole channels of [N, C, ...], with probability ``p`` (Tompson et al., 2015)."""
    return _dropout(input, p, training, True)


@function
@in_float32
def dropout1d(input: Value, p: float = 0.5, training: bool = True) -> Value:
    """``dropout`` of whole channels of [N, C, L] or [C, L], with probability ``p``."""
    return _of_rank(input, p, training, 1)


@function
@in_float32
def dropout2d(input: Value, p: float = 0.5, training: bool = True) -> Value:
    """``dropout`` of whole channels of [N, C, H, W] or [C, H, W], with probability ``p``."""
    return _of_rank(input, p, training, 2)


@function
@in_float32
def dropout3d(input: Value, p: float = 0.5, training: bool = True) -> Value:
    """``dropout`` of whole channels of [N, C, D, H, W] or [C, D, H, W], with probability ``p``."""
    return _of_rank(input, p, training, 3)


def _of_rank(input: Value, p: float, training: bool, rank: int) -> Value:
    if input.ndim not in (rank + 1, rank + 2):
        raise ShapeError(f"dropout{rank}d needs {rank + 1} or {rank + 2} dimensions, got {list(input.shape)}")
    if input.ndim == rank + 2:
        return feature_dropout(input, p, training)
    return feature_dropout(input[None], p, training)[0]


@function
@in_float32
def alpha_dropout(input: Value, p: float = 0.5, training: bool = False) -> Value:
    """Dropout to SELU's lowest value with probability ``p``, with mean and variance kept (Klambauer et al., 2017)."""
    return _alpha_dropout(input, p, training, False)


@function
@in_float32
def feature_alpha_dropout(input: Value, p: float = 0.5, training: bool = False) -> Value:
    """``alpha_dropout`` of whole channels of [N, C, ...], with probability ``p``."""
    return _alpha_dropout(input, p, training, True)

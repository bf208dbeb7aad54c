"""Losses: reductions of rows to one number each, and of those to their mean."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch.nn.functional as T
from torch import Tensor

import graphrt.ops as F
from graphrt.bench.builder import Builder, Pattern, Sizes
from graphrt.ir import Value

LOGITS = {"n": (5, 512, 8192), "v": (11, 1000, 32000)}


def _target(b: Builder) -> Value:
    return b.input("target", "n", dtype="int64", high=b["v"])


def _cross_entropy(b: Builder, **options: Any) -> Value:
    return F.cross_entropy(b.input("x", "n", "v", kind="normal"), _target(b), **options)


def _torch_cross_entropy(_: Sizes, x: Tensor, target: Tensor, **options: Any) -> Tensor:
    return T.cross_entropy(x, target, **options)


def _linear_cross_entropy(b: Builder) -> Value:
    return F.cross_entropy(F.linear(b.input("x", "n", "c", kind="normal"), b.parameter("w", "v", "c")), _target(b))


def _torch_linear_cross_entropy(_: Sizes, x: Tensor, w: Tensor, target: Tensor) -> Tensor:
    return T.cross_entropy(T.linear(x, w), target)


def _bce_with_logits(b: Builder) -> Value:
    x = b.input("x", "n", "v", kind="normal")
    return F.binary_cross_entropy_with_logits(x, b.input("target", "n", "v", low=0.0, differentiable=False))


PATTERNS = (
    Pattern(
        "cross_entropy",
        "loss",
        "softmax cross-entropy with classes by number: rows are read once forward and once backward",
        _cross_entropy,
        LOGITS,
        _torch_cross_entropy,
    ),
    Pattern(
        "label_smoothing",
        "loss",
        "softmax cross-entropy with smoothed labels: one more sum over the rows, in the same launch",
        partial(_cross_entropy, label_smoothing=0.1),
        LOGITS,
        partial(_torch_cross_entropy, label_smoothing=0.1),
    ),
    Pattern(
        "linear_cross_entropy",
        "loss",
        "the last layer of a language model and its cross-entropy: logits are written once at most",
        _linear_cross_entropy,
        {"n": (5, 64, 4096), "c": (7, 256, 2048), "v": (11, 2000, 32000)},
        _torch_linear_cross_entropy,
    ),
    Pattern(
        "bce_with_logits",
        "loss",
        "mean binary cross-entropy with logits: one pass to a number, one for the gradient",
        _bce_with_logits,
        {"n": (5, 128, 8192), "v": (11, 512, 4096)},
        lambda _, x, target: T.binary_cross_entropy_with_logits(x, target),
    ),
)

"""Softmax over rows, plain, masked, and with its largest element's position."""

from __future__ import annotations

import math

import torch
from torch import Tensor

import graphrt.ops as F
from graphrt.bench.builder import Builder, Pattern, Sizes
from graphrt.ir import Value

ROWS = {"n": (5, 512, 16384), "c": (21, 1024, 4096)}


def _masked_softmax(b: Builder) -> Value:
    length = b["l"]
    x = b.input("x", "n", "h", length, length, kind="normal")
    keep = b.input("keep", "n", 1, 1, length, dtype="bool")
    return F.softmax(F.where(keep, x, -1e9), -1)


def _torch_masked_softmax(_: Sizes, x: Tensor, keep: Tensor) -> Tensor:
    return x.masked_fill(~keep, -1e9).softmax(-1)


def _softmax_argmax(b: Builder) -> tuple[Value, Value]:
    y = F.softmax(b.input("x", "n", "c", kind="normal"), -1)
    return y, F.argmax(y, -1)


def _torch_softmax_argmax(_: Sizes, x: Tensor) -> tuple[Tensor, Tensor]:
    y = x.softmax(-1)
    return y, y.argmax(-1)


def _causal_softmax(b: Builder) -> Value:
    length = b["l"]
    x = b.input("x", "n", length, length, kind="normal")
    return F.softmax(F.where(F.tril(F.ones(x.graph, (length, length), "bool")), x * 0.125, -math.inf), -1)


def _torch_causal_softmax(sizes: Sizes, x: Tensor) -> Tensor:
    keep = torch.ones(sizes["l"], sizes["l"], dtype=torch.bool, device=x.device).tril()
    return (x * 0.125).masked_fill(~keep, -math.inf).softmax(-1)


PATTERNS = (
    Pattern(
        "softmax",
        "softmax",
        "softmax of rows: one launch that reads them once",
        lambda b: F.softmax(b.input("x", "n", "c", kind="normal"), -1),
        ROWS,
        lambda _, x: x.softmax(-1),
    ),
    Pattern(
        "log_softmax",
        "softmax",
        "logarithm of a softmax of rows: one launch that reads them once",
        lambda b: F.log_softmax(b.input("x", "n", "c", kind="normal"), -1),
        ROWS,
        lambda _, x: x.log_softmax(-1),
    ),
    Pattern(
        "masked_softmax",
        "softmax",
        "softmax of scores where a mask keeps some of the keys: the mask is read inside",
        _masked_softmax,
        {"n": (2, 2, 16), "h": (3, 4, 16), "l": (7, 128, 1024)},
        _torch_masked_softmax,
    ),
    Pattern(
        "causal_softmax",
        "softmax",
        "softmax of scaled scores at or below the diagonal: the mask is computed inside, and nothing stored for it",
        _causal_softmax,
        {"n": (2, 32, 256), "l": (7, 128, 1024)},
        _torch_causal_softmax,
    ),
    Pattern(
        "softmax_argmax",
        "softmax",
        "softmax of rows and the position of its largest element: one launch that gives both",
        _softmax_argmax,
        ROWS,
        _torch_softmax_argmax,
        backward=False,
    ),
)

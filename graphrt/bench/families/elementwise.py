"""Elementwise operations: what should be one launch, however many they are."""

from __future__ import annotations

import torch
from torch import Tensor

import graphrt.ops as F
from graphrt.bench.builder import Builder, Pattern, Sizes
from graphrt.ir import Value

MATRIX = {"n": (5, 512, 8192), "m": (9, 1024, 8192)}


def _chain(b: Builder) -> Value:
    x, y = b.input("x", "n", "m"), b.input("y", "n", "m")
    for _ in range(5):
        x = F.sigmoid(x * 1.5 + y) - 0.5
    return x


def _torch_chain(_: Sizes, x: Tensor, y: Tensor) -> Tensor:
    for _i in range(5):
        x = torch.sigmoid(x * 1.5 + y) - 0.5
    return x


def _broadcast_tree(b: Builder) -> Value:
    x, row, column = b.input("x", "n", "m"), b.input("row", "m"), b.input("column", "n", 1)
    return F.tanh(row + column) * (x - row) + F.sigmoid(column) * (x + column)


def _torch_broadcast_tree(_: Sizes, x: Tensor, row: Tensor, column: Tensor) -> Tensor:
    return (row + column).tanh() * (x - row) + column.sigmoid() * (x + column)


def _transpose_add(b: Builder) -> Value:
    return b.input("x", "n", "m") + F.transpose(b.input("y", "m", "n"), 0, 1)


PATTERNS = (
    Pattern(
        "elementwise_chain_20",
        "elementwise",
        "twenty elementwise operations in a row: one launch that reads two tensors and writes one",
        _chain,
        {"n": (5, 128, 8192), "m": (9, 1024, 8192)},
        _torch_chain,
    ),
    Pattern(
        "broadcast_tree",
        "elementwise",
        "a matrix with a row and a column, broadcast in several places: one launch; backward, sums over both",
        _broadcast_tree,
        MATRIX,
        _torch_broadcast_tree,
    ),
    Pattern(
        "transpose_add",
        "elementwise",
        "a matrix plus the transpose of another: one launch, tiled so that both are read in order",
        _transpose_add,
        MATRIX,
        lambda _, x, y: x + y.mT,
    ),
)

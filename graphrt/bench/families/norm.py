"""Normalisations and other reductions over rows, columns and groups."""

from __future__ import annotations

import torch.nn.functional as T
from torch import Tensor

import graphrt.ops as F
from graphrt.bench.builder import Builder, Pattern, Sizes
from graphrt.ir import Value

ROWS = {"n": (5, 1024, 16384), "c": (21, 1024, 4096)}


def _scale_and_shift(b: Builder, size: str) -> tuple[Value, Value]:
    return b.parameter("gamma", size, low=0.5, high=1.5), b.parameter("beta", size)


def _layer_norm(b: Builder) -> Value:
    return F.layer_norm(b.input("x", "n", "c", kind="normal"), b["c"], *_scale_and_shift(b, "c"))


def _rms_norm(b: Builder) -> Value:
    return F.rms_norm(b.input("x", "n", "c", kind="normal"), b["c"], b.parameter("gamma", "c", low=0.5, high=1.5), 1e-6)


def _group_norm(b: Builder) -> Value:
    return F.group_norm(b.input("x", "n", "c", "h", "h", kind="normal"), b["g"], *_scale_and_shift(b, "c"))


def _torch_group_norm(sizes: Sizes, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    return T.group_norm(x, sizes["g"], gamma, beta)


def _dropout_add_layer_norm(b: Builder) -> Value:
    x = b.input("shortcut", "n", "c", kind="normal") + F.dropout(b.input("x", "n", "c", kind="normal"), 0.1)
    return F.layer_norm(x, b["c"], *_scale_and_shift(b, "c"))


def _torch_dropout_add_layer_norm(sizes: Sizes, shortcut: Tensor, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    return T.layer_norm(shortcut + T.dropout(x, 0.1), (sizes["c"],), gamma, beta)


def _add_rms_norm(b: Builder) -> tuple[Value, Value]:
    x = b.input("shortcut", "n", "c", kind="normal") + b.input("x", "n", "c", kind="normal")
    return x, F.rms_norm(x, b["c"], b.parameter("gamma", "c", low=0.5, high=1.5), 1e-6)


def _torch_add_rms_norm(sizes: Sizes, shortcut: Tensor, x: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor]:
    y = shortcut + x
    return y, T.rms_norm(y, (sizes["c"],), gamma, 1e-6)


def _mean_var_max(b: Builder) -> tuple[Value, Value, Value]:
    x = b.input("x", "n", "c", kind="normal")
    return F.mean(x, -1), F.var(x, -1), F.amax(x, -1)


def _torch_mean_var_max(_: Sizes, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return x.mean(-1), x.var(-1), x.amax(-1)


def _row_and_column_sums(b: Builder) -> tuple[Value, Value]:
    x = b.input("x", "n", "c")
    return F.sum(x, 1), F.sum(x, 0)


def _embedding_add_layer_norm(b: Builder) -> Value:
    words = F.embedding(b.input("token", "n", "l", dtype="int64", high=b["v"]), b.parameter("words", "v", "c"))
    return F.layer_norm(words + b.parameter("positions", "l", "c"), b["c"], *_scale_and_shift(b, "c"))


def _torch_embedding_add_layer_norm(
    sizes: Sizes, token: Tensor, words: Tensor, positions: Tensor, gamma: Tensor, beta: Tensor
) -> Tensor:
    return T.layer_norm(T.embedding(token, words) + positions, (sizes["c"],), gamma, beta)


PATTERNS = (
    Pattern(
        "layer_norm",
        "norm",
        "layer norm with scale and shift: one launch that reads its rows once",
        _layer_norm,
        ROWS,
        lambda sizes, x, gamma, beta: T.layer_norm(x, (sizes["c"],), gamma, beta),
    ),
    Pattern(
        "rms_norm",
        "norm",
        "RMS norm with a scale: one launch that reads its rows once",
        _rms_norm,
        ROWS,
        lambda sizes, x, gamma: T.rms_norm(x, (sizes["c"],), gamma, 1e-6),
    ),
    Pattern(
        "group_norm",
        "norm",
        "group norm of a feature map with scale and shift: statistics and result of a group in one launch",
        _group_norm,
        {"n": (2, 8, 64), "c": (6, 128, 256), "g": (3, 32, 32), "h": (5, 28, 56)},
        _torch_group_norm,
    ),
    Pattern(
        "group_norm_silu",
        "norm",
        "group norm and SiLU, as in diffusion networks: the activation belongs to the norm's launch",
        lambda b: F.silu(_group_norm(b)),
        {"n": (2, 4, 16), "c": (6, 64, 320), "g": (3, 32, 32), "h": (5, 28, 64)},
        lambda *operands: T.silu(_torch_group_norm(*operands)),
    ),
    Pattern(
        "dropout_add_layer_norm",
        "norm",
        "a shortcut plus what dropout leaves, and layer norm of that: one launch, no stored mask",
        _dropout_add_layer_norm,
        {"n": (5, 256, 16384), "c": (21, 768, 1024)},
        _torch_dropout_add_layer_norm,
    ),
    Pattern(
        "add_rms_norm",
        "norm",
        "a shortcut's sum and its RMS norm, both of them results (Llama): one launch",
        _add_rms_norm,
        ROWS,
        _torch_add_rms_norm,
    ),
    Pattern(
        "mean_var_max",
        "norm",
        "mean, variance and largest element of the same rows: one launch that reads them once",
        _mean_var_max,
        ROWS,
        _torch_mean_var_max,
    ),
    Pattern(
        "row_and_column_sums",
        "norm",
        "sums of a matrix over both of its dimensions: one launch that reads it once",
        _row_and_column_sums,
        ROWS,
        lambda _, x: (x.sum(1), x.sum(0)),
    ),
    Pattern(
        "embedding_add_layer_norm",
        "norm",
        "rows of a table plus those of positions, and layer norm of that (BERT): rows are read where they lie",
        _embedding_add_layer_norm,
        {"n": (2, 4, 64), "l": (5, 128, 512), "v": (11, 1000, 30522), "c": (9, 256, 768)},
        _torch_embedding_add_layer_norm,
    ),
)

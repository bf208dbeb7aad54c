"""Attention, and what is done to queries and keys before it."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as T
from torch import Tensor

import graphrt.ops as F
from graphrt.bench.builder import Builder, Pattern, Sizes
from graphrt.ir import Value

HEADS = {"n": (2, 2, 8), "h": (3, 4, 16), "l": (7, 128, 2048), "e": (5, 32, 64)}


def _query_key_value(b: Builder, heads: str = "h") -> list[Value]:
    names = {"query": "h", "key": heads, "value": heads}
    return [b.input(name, "n", h, "l", "e", kind="normal") for name, h in names.items()]


def _attention(b: Builder, **options: Any) -> Value:
    query, key, value = _query_key_value(b)
    return F.scaled_dot_product_attention(query, key, value, **options)


def _torch_attention(_: Sizes, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None, **options: Any) -> Tensor:
    return T.scaled_dot_product_attention(query, key, value, bias, **options)


def _attention_biased(b: Builder) -> Value:
    query, key, value = _query_key_value(b)
    return F.scaled_dot_product_attention(query, key, value, b.parameter("bias", "h", "l", "l", low=-1.0, high=1.0))


def _attention_grouped(b: Builder) -> Value:
    query, key, value = _query_key_value(b, "g")
    return F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)


def _attention_layers(b: Builder) -> Value:
    n, length, heads, size = b["n"], b["l"], b["h"], b["e"]
    width = heads * size
    x = b.input("x", n, length, width)
    layers = [F.linear(x, b.parameter(name, width, width)) for name in ("query", "key", "value")]
    query, key, value = (F.transpose(F.reshape(y, (n, length, heads, size)), 1, 2) for y in layers)
    return F.scaled_dot_product_attention(query, key, value)


def _torch_attention_layers(sizes: Sizes, x: Tensor, *weights: Tensor) -> Tensor:
    layers = [T.linear(x, w).unflatten(-1, (sizes["h"], sizes["e"])).transpose(1, 2) for w in weights]
    return T.scaled_dot_product_attention(*layers)


def _rope_scores(b: Builder) -> Value:
    query, key = (b.input(name, "n", "h", "l", "e", kind="normal") for name in ("query", "key"))
    cos, sin = b.input("cos", "l", "e", differentiable=False), b.input("sin", "l", "e", differentiable=False)

    def turned(x: Value) -> Value:
        low, high = F.chunk(x, 2, -1)
        return x * cos + F.cat([-high, low], -1) * sin

    return F.matmul(turned(query), F.transpose(turned(key), -1, -2)) * b["e"] ** -0.5


def _torch_rope_scores(sizes: Sizes, query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    def turned(x: Tensor) -> Tensor:
        low, high = x.chunk(2, -1)
        return x * cos + torch.cat([-high, low], -1) * sin

    return (turned(query) @ turned(key).mT) * sizes["e"] ** -0.5


PATTERNS = (
    Pattern(
        "attention",
        "attention",
        "scaled dot-product attention (Vaswani et al., 2017): no scores are stored",
        _attention,
        HEADS,
        _torch_attention,
    ),
    Pattern(
        "attention_causal",
        "attention",
        "attention to earlier positions only: no scores and no mask are stored",
        partial(_attention, is_causal=True),
        HEADS,
        partial(_torch_attention, is_causal=True),
    ),
    Pattern(
        "attention_biased",
        "attention",
        "attention whose scores get a learned bias (T5): read inside, its gradient a sum over the batch",
        _attention_biased,
        HEADS,
        _torch_attention,
    ),
    Pattern(
        "attention_grouped",
        "attention",
        "causal attention where several query heads share a key head (Ainslie et al., 2023): keys are not repeated",
        _attention_grouped,
        {**HEADS, "h": (6, 4, 32), "g": (3, 2, 8)},
        partial(_torch_attention, is_causal=True, enable_gqa=True),
    ),
    Pattern(
        "attention_layers",
        "attention",
        "attention whose queries, keys and values are three layers of one input: one product where that is faster",
        _attention_layers,
        {"n": (2, 2, 8), "h": (3, 4, 12), "l": (7, 64, 512), "e": (5, 32, 64)},
        _torch_attention_layers,
    ),
    Pattern(
        "rope_scores",
        "attention",
        "queries and keys turned by their positions (Su et al., 2021), and their product: turned as they are read",
        _rope_scores,
        {**HEADS, "e": (6, 64, 128)},
        _torch_rope_scores,
    ),
)

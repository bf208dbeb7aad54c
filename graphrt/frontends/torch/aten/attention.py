"""Attention, which torch.export leaves whole and torch.compile makes one operator of on a CPU.

And ATen operators that are whole layers of a transformer: torch's fast path of encoder layers in eval mode.
"""

from __future__ import annotations

import math

import graphrt.ops as F
from graphrt.frontends.torch.table import aten, same
from graphrt.ir import Value
from graphrt.ops.attention import attend, attend_backward

same([F.scaled_dot_product_attention])


def _grouped(query: Value, key: Value) -> bool:
    """Whether several query heads share a key head, of which the operator itself says nothing."""
    return query.shape[-3] != key.shape[-3]


@aten("_scaled_dot_product_flash_attention_for_cpu.default")
def flash_attention(
    query: Value,
    key: Value,
    value: Value,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    attn_mask: Value | None = None,
    scale: float | None = None,
) -> tuple[Value, Value]:
    return attend(query, key, value, attn_mask, dropout_p, is_causal, scale, _grouped(query, key))


@aten("_scaled_dot_product_flash_attention_for_cpu_backward.default")
def flash_attention_backward(
    grad_out: Value,
    query: Value,
    key: Value,
    value: Value,
    out: Value,
    logsumexp: Value,
    dropout_p: float,
    is_causal: bool,
    attn_mask: Value | None = None,
    scale: float | None = None,
) -> tuple[Value, Value, Value]:
    options = (attn_mask, dropout_p, is_causal, scale, _grouped(query, key))
    return attend_backward(grad_out, query, key, value, out, logsumexp, *options)


def _heads(x: Value, heads: int) -> Value:
    """[N, L, E] as [N, heads, L, E / heads]."""
    return F.permute(F.reshape(x, [*x.shape[:2], heads, x.shape[2] // heads]), [0, 2, 1, 3])


def _mask(mask: Value, mask_type: int | None) -> Value:
    """True where a key takes no part, beside [N, heads, L, S]: of a mask of pairs, keys, or all four (types 0, 1, 2)."""
    hidden = mask if mask.dtype.is_bool else F.ne(mask, 0)
    if mask_type == 1 or (mask_type is None and mask.ndim == 2 and mask.shape[0] != mask.shape[1]):
        return F.reshape(hidden, [hidden.shape[0], 1, 1, hidden.shape[1]])
    return hidden


@aten("_native_multi_head_attention.default")
def multi_head_attention(
    query: Value,
    key: Value,
    value: Value,
    embed_dim: int,
    num_heads: int,
    qkv_weight: Value,
    qkv_bias: Value,
    proj_weight: Value,
    proj_bias: Value,
    mask: Value | None = None,
    need_weights: bool = True,
    average_attn_weights: bool = True,
    mask_type: int | None = None,
) -> tuple[Value, Value]:
    """[N, L, E] attending to key and value [N, S, E]; and the weights [N, L, S], or of nothing where they are not needed."""
    inputs, weights, biases = (query, key, value), F.chunk(qkv_weight, 3), F.chunk(qkv_bias, 3)
    q, k, v = (_heads(F.linear(x, w, b), num_heads) for x, w, b in zip(inputs, weights, biases, strict=True))
    if mask is None and not need_weights:
        y, shares = F.scaled_dot_product_attention(q, k, v), F.zeros(query.graph, [0], query.dtype)
    else:
        scores = F.matmul(q, F.transpose(k, -1, -2)) * (1 / math.sqrt(q.shape[-1]))
        if mask is not None:
            scores = F.where(_mask(mask, mask_type), -math.inf, scores)
        shares = F.softmax(scores, -1)
        y = F.matmul(shares, v)
        shares = F.mean(shares, 1) if average_attn_weights else shares
    y = F.reshape(F.permute(y, [0, 2, 1, 3]), [*query.shape[:2], embed_dim])
    return F.linear(y, proj_weight, proj_bias), shares


@aten("_transformer_encoder_layer_fwd.default")
def transformer_encoder_layer(
    src: Value,
    embed_dim: int,
    num_heads: int,
    qkv_weight: Value,
    qkv_bias: Value,
    proj_weight: Value,
    proj_bias: Value,
    use_gelu: bool,
    norm_first: bool,
    eps: float,
    norm_weight_1: Value,
    norm_bias_1: Value,
    norm_weight_2: Value,
    norm_bias_2: Value,
    ffn_weight_1: Value,
    ffn_bias_1: Value,
    ffn_weight_2: Value,
    ffn_bias_2: Value,
    mask: Value | None = None,
    mask_type: int | None = None,
) -> Value:
    """An encoder layer without dropout: attention and a feed-forward network, normalised before or behind each."""

    def first(x: Value) -> Value:
        return F.layer_norm(x, [embed_dim], norm_weight_1, norm_bias_1, eps)

    def second(x: Value) -> Value:
        return F.layer_norm(x, [embed_dim], norm_weight_2, norm_bias_2, eps)

    x = first(src) if norm_first else src
    packed = (embed_dim, num_heads, qkv_weight, qkv_bias, proj_weight, proj_bias)
    x = src + multi_head_attention(x, x, x, *packed, mask, False, True, mask_type)[0]
    x = x if norm_first else first(x)
    h = F.linear(second(x) if norm_first else x, ffn_weight_1, ffn_bias_1)
    y = x + F.linear(F.gelu(h) if use_gelu else F.relu(h), ffn_weight_2, ffn_bias_2)
    return y if norm_first else second(y)

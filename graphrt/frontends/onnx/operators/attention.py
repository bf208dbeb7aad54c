"""Attention as ONNX has had it since opset 23, as the template that stores no scores."""

from __future__ import annotations

import graphrt.ops as F
from graphrt.frontends.onnx.table import Call, Expand, operator
from graphrt.ir import Value


@operator("Attention", folds=False)
def attention(
    q: Value,
    k: Value,
    v: Value,
    attn_mask: Value | None = None,
    past_key: Value | None = None,
    past_value: Value | None = None,
    nonpad_kv_seqlen: Value | None = None,
    *,
    is_causal: int = 0,
    kv_num_heads: int = 0,
    left_window_size: int = -1,
    q_num_heads: int = 0,
    qk_matmul_output_mode: int = 0,
    right_window_size: int = -1,
    scale: float | None = None,
    softcap: float = 0.0,
    softmax_precision: int = 0,
    call: Call,
) -> list[Value]:
    """Fused, unless scores are returned or capped, keys padded or in windows, or a causal mask meets another, or past keys."""
    flat = q.ndim == 3
    if flat:
        q, k, v = (_heads(x, count) for x, count in ((q, q_num_heads), (k, kv_num_heads), (v, kv_num_heads)))
    if past_key is not None and past_value is not None:
        k, v = F.concat([past_key, k], 2), F.concat([past_value, v], 2)
    short = attn_mask is not None and attn_mask.shape[-1] not in (1, k.shape[2])
    meets = is_causal and (attn_mask is not None or past_key is not None)
    windowed = left_window_size >= 0 or right_window_size >= 0
    if softcap or short or meets or windowed or nonpad_kv_seqlen is not None or any(call.outputs[3:]):
        raise Expand
    grouped = q.shape[1] != k.shape[1]
    y = F.scaled_dot_product_attention(q, k, v, attn_mask, is_causal=bool(is_causal), scale=scale, enable_gqa=grouped)
    if flat:
        y = F.reshape(F.transpose(y, 1, 2), (y.shape[0], y.shape[2], y.shape[1] * y.shape[3]))
    return [y, k, v][: len(call.outputs)]


def _heads(x: Value, count: int) -> Value:
    """``x`` [N, L, heads * E] as [N, heads, L, E]."""
    return F.transpose(F.reshape(x, (*x.shape[:2], count, x.shape[2] // count)), 1, 2)

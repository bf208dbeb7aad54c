"""Attention: a masked softmax between two matmuls. Scale, mask, softmax and dropout fuse into one kernel.

Vaswani et al., "Attention Is All You Need", NeurIPS 2017.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from graphrt.errors import ArgumentError, DTypeError, ShapeError
from graphrt.ir import Value
from graphrt.ops.activation import softmax
from graphrt.ops.base import broadcast_shape, cast, function, in_float32, require_float, tensor
from graphrt.ops.dropout import dropout
from graphrt.ops.elementwise import eq, exp, ge, stop_gradient, where
from graphrt.ops.matmul import matmul
from graphrt.ops.reduction import amax, sum
from graphrt.ops.source import iota
from graphrt.ops.view import reshape, transpose
from graphrt.types import HALVES


def masked(scores: Value, mask: Value, what: str = "attn_mask") -> Value:
    """``scores`` with -inf where a bool ``mask`` is False, or plus a float one. Raises DTypeError, ShapeError."""
    if broadcast_shape(tensor(mask, what).shape, scores.shape) != scores.shape:
        raise ShapeError(f"{what} {list(mask.shape)} does not broadcast to the scores {list(scores.shape)}")
    if mask.dtype.is_bool:
        return where(mask, scores, -math.inf)
    if not mask.dtype.is_float:
        raise DTypeError(f"{what} must be bool or floating point, got {mask.dtype}")
    return scores + cast(mask, scores.dtype)


@in_float32
def masked_softmax(scores: Value) -> Value:
    """softmax over the last dimension, but 0 in a row that is -inf everywhere."""
    top = stop_gradient(amax(scores, -1, keepdim=True))
    e = exp(scores - where(eq(top, -math.inf), 0.0, top))
    total = sum(e, -1, keepdim=True)
    return e / where(eq(total, 0.0), 1.0, total)


def _check(query: Value, key: Value, value: Value, enable_gqa: bool) -> int:
    """Query heads to a key head. Raises ShapeError, DTypeError."""
    shapes = [list(v.shape) for v in (query, key, value)]
    require_float(query.dtype, "query")
    if not query.dtype == key.dtype == value.dtype:
        raise DTypeError(f"query, key and value must have one dtype, got {query.dtype}, {key.dtype}, {value.dtype}")
    if min(map(len, shapes)) < 2 or query.shape[-1] != key.shape[-1] or key.shape[-2] != value.shape[-2]:
        raise ShapeError(f"attention needs query [..., L, E], key [..., S, E] and value [..., S, V], got {shapes}")
    if not enable_gqa:
        return 1
    if min(map(len, shapes)) < 3 or key.shape[-3] != value.shape[-3] or query.shape[-3] % max(key.shape[-3], 1):
        raise ShapeError(f"enable_gqa needs query heads (dimension -3) a multiple of key and value heads, got {shapes}")
    return query.shape[-3] // max(key.shape[-3], 1)


def _heads(x: Value, group: int, merge: bool) -> Value:
    """[..., heads, L, n] as [..., heads / group, group * L, n], or back: heads that share a key become rows of one product."""
    *batch, heads, rows, n = x.shape
    return reshape(x, (*batch, heads // group, group * rows, n) if merge else (*batch, heads * group, rows // group, n))


@function
def scaled_dot_product_attention(
    query: Value,
    key: Value,
    value: Value,
    attn_mask: Value | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Value:
    """``softmax(query @ key.T * scale + mask) @ value``: [..., L, E], [..., S, E], [..., S, V] -> [..., L, V].

    ``attn_mask`` broadcasts to [..., L, S]: bool, True where a key takes part, or float, added. ``is_causal`` lets row i see
    keys 0 to i. A row that sees no key gives 0, as torch does. ``scale`` is 1/sqrt(E) by default. With ``enable_gqa`` several
    query heads share a key head (Ainslie et al., "GQA", EMNLP 2023). Weights are dropped with probability ``dropout_p``,
    always: pass 0 to evaluate.
    """
    group = _check(query, key, value, enable_gqa)
    if is_causal and attn_mask is not None:
        raise ArgumentError("is_causal must not be True together with attn_mask; make the mask causal")
    factor = 1 / math.sqrt(max(query.shape[-1], 1)) if scale is None else float(scale)
    q = query if group == 1 else _heads(query, group, True)
    if q.dtype in HALVES:  # whose range the products could leave
        q, factor = q * factor, 1.0
    scores = matmul(q, transpose(key, -1, -2)) * factor
    if group > 1:
        scores = _heads(scores, group, False)
    masks = [] if attn_mask is None else [attn_mask]
    if is_causal:
        masks = [ge(iota(scores, -2), iota(scores, -1))]
    weights = attention_weights(scores, masks, dropout_p)
    return matmul(weights, value) if group == 1 else _heads(matmul(_heads(weights, group, True), value), group, False)


def attention_weights(scores: Value, masks: Sequence[Value], dropout_p: float, safe: bool = True) -> Value:
    """The softmax of masked scores, with dropout; a row of which nothing is left gives 0, or NaN unless ``safe``."""
    for mask in masks:
        scores = masked(scores, mask)
    if scores.shape[-1]:
        scores = (masked_softmax if safe else softmax)(scores)
    return dropout(scores, dropout_p)

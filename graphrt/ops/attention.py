"""Attention: a masked softmax between two products (Vaswani et al., "Attention Is All You Need", NeurIPS 2017).

The op ``attention`` is both products and what lies between them in one kernel, which stores no score (Dao et al.,
"FlashAttention", 2022); its second result, the logarithm of each row's sum of exponentials, gives the weights back.
Masks are a bias of the scores, dropout a factor of the weights: both are computed where the kernel loads them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from graphrt.errors import ArgumentError, DTypeError, ShapeError
from graphrt.ir import Value
from graphrt.op import Kind, OpDef, Sample, Types, leading, register
from graphrt.ops.activation import softmax
from graphrt.ops.attention_grad import check_operands, weights_again, wide
from graphrt.ops.base import apply, broadcast_shape, broadcast_to, cast, function, in_float32, require_float, tensor
from graphrt.ops.creation import zeros_like
from graphrt.ops.dropout import dropout
from graphrt.ops.elementwise import eq, exp, stop_gradient, where
from graphrt.ops.matmul import matmul
from graphrt.ops.movement import narrow
from graphrt.ops.reduction import amax, sum
from graphrt.ops.slicing import pad
from graphrt.ops.view import reshape, squeeze, transpose, unsqueeze
from graphrt.types import TensorType, float32


def _infer(query: TensorType, key: TensorType, value: TensorType, bias: TensorType, keep: TensorType, **attrs: float) -> Types:
    (*batch, m, k), (n, v) = query.shape, value.shape[-2:]
    small, large = query.dtype, wide(query.dtype)
    check_operands(
        "attention",
        small,
        key=(key, (*batch, n, k), small),
        value=(value, (*batch, n, v), small),
        bias=(bias, (*batch, m, n), large),
        keep=(keep, (*batch, m, n), large),
    )
    return TensorType((*batch, m, v), small), TensorType((*batch, m), large)


def gradients(operands: Sequence[Value], results: Sequence[Value], dy: Value, dlse: Value, **attrs: Any) -> list[Value]:
    """The gradients of the five ``operands`` of attention, by its ``results`` and the gradients of these.

    Kernels that store no score find those of queries, keys, values and a bias, products that of ``keep``, which nobody learns.
    One kernel finds the gradients of keys and values, which it takes to be equally long: zeros stand behind the shorter.
    """
    query, key, value, bias, keep = operands
    y, lse = results
    size = max(query.shape[-1], value.shape[-1], 1)

    def long(x: Value, size: int = size) -> Value:
        return pad(x, (0, max(size - x.shape[-1], 0)))

    at = (long(query, 1), long(key, 1), value, dy, bias, keep, y, lse, dlse)
    d_query, delta = apply("attention_dq", *at, **attrs).node.outputs
    known = (long(query), long(key), long(value), long(dy), bias, keep, lse, delta)
    d_key, d_value = apply("attention_dkv", *known, **attrs).node.outputs
    d_query, d_key = (narrow(x, -1, 0, query.shape[-1]) for x in (d_query, d_key))
    d_scores = apply("attention_dscores", *known, **attrs)
    weights = weights_again(query, key, bias, lse, **attrs)
    d_keep = weights * matmul(cast(dy, bias.dtype), transpose(cast(value, bias.dtype), -1, -2))
    return [d_query, d_key, narrow(d_value, -1, 0, value.shape[-1]), d_scores, d_keep]


def _reference(
    query: np.ndarray, key: np.ndarray, value: np.ndarray, bias: np.ndarray, keep: np.ndarray, scale: float, rows: int
) -> tuple[np.ndarray, np.ndarray]:
    q, k, v = (x.astype(np.float64) for x in (query, key, value))
    scores = np.einsum("...mk,...nk->...mn", q, k) * scale + bias
    m, n = scores.shape[-2:]
    if rows:
        scores = np.where(np.arange(n) <= np.arange(m)[:, None] % rows, scores, -np.inf)
    top = scores.max(-1, keepdims=True, initial=-np.inf)
    e = np.exp(scores - np.where(np.isneginf(top), 0, top))
    total = e.sum(-1, keepdims=True)
    share = np.where(total == 0, 1, total)
    lse = np.where(total == 0, np.inf, top + np.log(share))[..., 0]
    return np.einsum("...mn,...nv->...mv", e / share * keep, v).astype(query.dtype), lse.astype(bias.dtype)


def _samples(rng: np.random.Generator) -> list[Sample]:
    found = []
    for batch, m, n, k, v, rows in (((2,), 3, 4, 5, 2, 0), ((), 5, 7, 3, 3, 5), ((1, 2), 6, 3, 1, 1, 3), ((2,), 2, 0, 3, 2, 0)):
        shapes = (*batch, m, k), (*batch, n, k), (*batch, n, v), (*batch, m, n)
        q, key, value, bias = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
        keep = rng.integers(0, 2, bias.shape).astype(np.float32) * 2
        found.append(Sample((q, key, value, bias, keep), {"scale": 0.5, "rows": rows}))
    return found


register(
    OpDef(
        name="attention",
        kind=Kind.ATTENTION,
        infer=_infer,
        vjp=lambda node, dy, dlse: gradients(node.inputs, node.outputs, dy, dlse, **node.attrs),
        reference=_reference,
        samples=_samples,
        template="attention",
        stores_any=True,
        axes=leading,
        flops=lambda n: 2 * n.inputs[3].type.size * (n.inputs[0].shape[-1] + n.inputs[2].shape[-1] + 8),
    )
)


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
    return attend(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)[0]


def attend(query: Value, key: Value, value: Value, *options: Any) -> tuple[Value, Value]:
    """The result of ``scaled_dot_product_attention`` of the same arguments, and the logarithm of each row's sum, [..., L]."""
    operands, attrs, group = _operands(query, key, value, *options)
    y, lse = apply("attention", *operands, **attrs).node.outputs
    return (y, lse) if group == 1 else (_heads(y, group, False), squeeze(_heads(unsqueeze(lse, -1), group, False), -1))


def attend_backward(
    dy: Value, query: Value, key: Value, value: Value, y: Value, lse: Value, *options: Any
) -> tuple[Value, Value, Value]:
    """Gradients of query, key and value, which have the same batch, by the results of ``attend``."""
    operands, attrs, group = _operands(query, key, value, *options)
    if group > 1:
        y, lse, dy = _heads(y, group, True), squeeze(_heads(unsqueeze(lse, -1), group, True), -1), _heads(dy, group, True)
    d_query, d_key, d_value, *_ = gradients(operands, (y, lse), dy, zeros_like(lse), **attrs)
    return d_query if group == 1 else _heads(d_query, group, False), d_key, d_value


def _operands(
    query: Value,
    key: Value,
    value: Value,
    attn_mask: Value | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> tuple[list[Value], dict[str, Any], int]:
    """Operands and attributes of the op, and the number of query heads that are rows of one of its heads."""
    if (half := query.graph.half) is not None:
        query, key, value = (cast(x, half) if x.dtype is float32 else x for x in (query, key, value))
    group = _check(query, key, value, enable_gqa)
    if is_causal and attn_mask is not None:
        raise ArgumentError("is_causal must not be True together with attn_mask; make the mask causal")
    *heads, rows, size = query.shape
    columns = key.shape[-2]
    batch = broadcast_shape(tuple(heads), key.shape[:-2] if group == 1 else tuple(heads))
    batch = broadcast_shape(batch, value.shape[:-2] if group == 1 else batch)

    def each(number: float) -> Value:
        """``number`` for each score."""
        return broadcast_to(query.graph.constant(number, wide(query.dtype)), (*batch, rows, columns))

    bias = each(0.0) if attn_mask is None else masked(each(0.0), attn_mask)
    keep = dropout(each(1.0), dropout_p)
    q = broadcast_to(query, (*batch, rows, size))
    if group > 1:
        q, bias, keep = (_heads(x, group, True) for x in (q, bias, keep))
    k, v = (broadcast_to(x, (*q.shape[:-2], *x.shape[-2:])) for x in (key, value))
    factor = 1 / math.sqrt(max(size, 1)) if scale is None else float(scale)
    return [q, k, v, bias, keep], {"scale": factor, "rows": rows if is_causal else 0}, group


def attention_weights(scores: Value, masks: Sequence[Value], dropout_p: float, safe: bool = True) -> Value:
    """The softmax of masked scores, with dropout; a row of which nothing is left gives 0, or NaN unless ``safe``."""
    for mask in masks:
        scores = masked(scores, mask)
    if scores.shape[-1]:
        scores = (masked_softmax if safe else softmax)(scores)
    return dropout(scores, dropout_p)

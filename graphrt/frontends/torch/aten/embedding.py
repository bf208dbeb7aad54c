"""ATen operators that read rows of a table: embeddings, bags of them, and their gradients."""

from __future__ import annotations

import graphrt.ops as F
from graphrt.frontends.torch.table import aten, pullback, same
from graphrt.ir import Value
from graphrt.ops.embedding import bags

same([F.embedding_renorm])

_MODES = ("sum", "mean", "max")
Four = tuple[Value, Value, Value, Value]


def _row(padding_idx: int) -> int | None:
    return None if padding_idx < 0 else padding_idx


@aten("embedding.default")
def embedding(
    weight: Value, indices: Value, padding_idx: int = -1, scale_grad_by_freq: bool = False, sparse: bool = False
) -> Value:
    return F.embedding(indices, weight, _row(padding_idx), scale_grad_by_freq=scale_grad_by_freq)


@aten("embedding_dense_backward.default")
def embedding_dense_backward(dy: Value, indices: Value, num_weights: int, padding_idx: int, scale_grad_by_freq: bool) -> Value:
    """The rows of ``dy`` added up by the index they belong to."""
    table = F.zeros(dy.graph, [num_weights, dy.shape[-1]], dy.dtype)  # it is linear: where it is taken does not matter
    return pullback(lambda w: embedding(w, indices, padding_idx, scale_grad_by_freq), [table], dy)[0]


@aten("_embedding_bag.default", "_embedding_bag_forward_only.default")
def embedding_bag(
    weight: Value,
    indices: Value,
    offsets: Value,
    scale_grad_by_freq: bool = False,
    mode: int = 0,
    sparse: bool = False,
    per_sample_weights: Value | None = None,
    include_last_offset: bool = False,
    padding_idx: int = -1,
) -> Four:
    """The bags; and what torch keeps for their gradients: each element's bag, the bags' sizes, where the maxima were."""
    y = F.embedding_bag(
        indices,
        weight,
        offsets,
        scale_grad_by_freq=scale_grad_by_freq,
        mode=_MODES[mode],
        per_sample_weights=per_sample_weights,
        include_last_offset=include_last_offset,
        padding_idx=_row(padding_idx),
    )
    bag = bags(indices, offsets)
    ones = F.ones_like(bag) if padding_idx < 0 else F.cast(F.ne(indices, padding_idx), bag.dtype)
    sizes = F.index_add(F.zeros(y.graph, [y.shape[0]], bag.dtype), 0, bag, ones)
    return y, bag, sizes, _maxima(weight, indices, bag, y, padding_idx) if mode == 2 else F.zeros_like(sizes)


def _maxima(weight: Value, indices: Value, bag: Value, y: Value, padding_idx: int) -> Value:
    """For each element of ``y`` [B, D] the row of ``weight`` that it is from; -1 of a bag of nothing."""
    count, wide = indices.shape[0], F.expand(F.unsqueeze(bag, 1), [indices.shape[0], y.shape[1]])
    hit = F.eq(F.index_select(weight, 0, indices), F.index_select(y, 0, bag))
    if padding_idx >= 0:
        hit = hit & F.unsqueeze(F.ne(indices, padding_idx), 1)
    place = F.where(hit, F.unsqueeze(F.arange(y.graph, count), 1), count)
    first = F.scatter_reduce(F.full_like(F.cast(y, "int64"), count), 0, wide, place, "amin")
    return F.where(first < count, F.take(indices, first), -1)


@aten("_embedding_bag_dense_backward.default")
def embedding_bag_dense_backward(
    dy: Value,
    indices: Value,
    bag: Value,
    sizes: Value,
    maxima: Value,
    num_weights: int,
    scale_grad_by_freq: bool,
    mode: int,
    per_sample_weights: Value | None,
    padding_idx: int = -1,
) -> Value:
    """The gradient of the table [V, D]: for each row the sum over the bags that it is in."""
    table = F.zeros(dy.graph, [num_weights, dy.shape[1]], dy.dtype)
    if mode == 2:
        return F.scatter_add(table, 0, maxima, dy)
    share = dy if mode == 0 else dy / F.unsqueeze(F.cast(F.maximum(sizes, 1), dy.dtype), 1)
    rows = F.index_select(share, 0, bag)
    if per_sample_weights is not None:
        rows = rows * F.unsqueeze(per_sample_weights, 1)
    return embedding_dense_backward(rows, indices, num_weights, padding_idx, scale_grad_by_freq)


@aten("_embedding_bag_backward.default")
def embedding_bag_backward(
    dy: Value,
    indices: Value,
    offsets: Value,
    bag: Value,
    sizes: Value,
    maxima: Value,
    num_weights: int,
    scale_grad_by_freq: bool,
    mode: int,
    sparse: bool,
    per_sample_weights: Value | None,
    padding_idx: int = -1,
) -> Value:
    """Torch may keep no ``bag``, which ``offsets`` say again."""
    rest = (num_weights, scale_grad_by_freq, mode, per_sample_weights, padding_idx)
    return embedding_bag_dense_backward(dy, indices, bags(indices, offsets), sizes, maxima, *rest)


@aten("_embedding_bag_per_sample_weights_backward.default")
def embedding_bag_per_sample_weights_backward(
    dy: Value, weight: Value, indices: Value, offsets: Value, bag: Value, mode: int, padding_idx: int = -1
) -> Value:
    products = F.sum(F.index_select(dy, 0, bags(indices, offsets)) * F.index_select(weight, 0, indices), 1)
    return products if padding_idx < 0 else F.where(F.ne(indices, padding_idx), products, 0.0)

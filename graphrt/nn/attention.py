"""Attention layers with torch's names, arguments and defaults."""

from __future__ import annotations

import math

import numpy as np

import graphrt.ops as F
from graphrt.errors import ArgumentError, ShapeError
from graphrt.ir import Value
from graphrt.nn.dropout import Dropout
from graphrt.nn.init import xavier_normal_, xavier_uniform_, zeros_
from graphrt.nn.layers import Linear
from graphrt.nn.module import Module, Parameter, optional
from graphrt.ops.attention import attention_weights
from graphrt.ops.base import integer, tensor
from graphrt.ops.slicing import cut


def _rows(parameter: Value, at: int, size: int) -> Value:
    """The ``at``-th of equal slices of a packed weight or bias."""
    return cut(parameter, 0, at * size, (at + 1) * size)


class MultiheadAttention(Module):
    """Attention in several subspaces at once (Vaswani et al., NeurIPS 2017).

    query [L, N, embed_dim], key [S, N, kdim], value [S, N, vdim] ([N, L, embed_dim] ... with ``batch_first``, no N unbatched)
    give the output, and with ``need_weights`` the weights [N, L, S] (averaged over heads) or [N, heads, L, S]; else None.
    ``num_heads`` must divide ``embed_dim``; ``dropout`` is the probability with which weights are dropped in training. A bool
    mask is True where a key must NOT be seen, a float mask is added. A query that sees no key gives NaN with ``need_weights``
    and 0 without, as in torch. ``add_bias_kv`` appends a learned key and value, ``add_zero_attn`` zero ones, which every query
    sees. Raises ArgumentError, ShapeError.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
    ) -> None:
        self.embed_dim, self.num_heads = integer(embed_dim, "embed_dim", 1), integer(num_heads, "num_heads", 1)
        if embed_dim % num_heads:
            raise ArgumentError(f"embed_dim {embed_dim} must be a multiple of num_heads {num_heads}")
        self.kdim = embed_dim if kdim is None else integer(kdim, "kdim", 1)
        self.vdim = embed_dim if vdim is None else integer(vdim, "vdim", 1)
        self.dropout, self.batch_first = Dropout(dropout).p, batch_first
        sizes = (embed_dim, self.kdim, self.vdim)
        self.packed = len(set(sizes)) == 1

        def weight(*shape: int) -> Parameter:
            return xavier_uniform_(Parameter(np.empty(shape, np.float32)))

        if self.packed:
            self.in_proj_weight = weight(3 * embed_dim, embed_dim)
        else:
            self.q_proj_weight, self.k_proj_weight, self.v_proj_weight = (weight(embed_dim, n) for n in sizes)
        self.in_proj_bias = Parameter(np.zeros(3 * embed_dim, np.float32)) if bias else None
        self.bias_k = xavier_normal_(Parameter(np.empty((1, 1, embed_dim), np.float32))) if add_bias_kv else None
        self.bias_v = xavier_normal_(Parameter(np.empty((1, 1, embed_dim), np.float32))) if add_bias_kv else None
        self.add_zero_attn = add_zero_attn
        self.out_proj = Linear(embed_dim, embed_dim, bias)
        if self.out_proj.bias is not None:
            zeros_(self.out_proj.bias)

    def _project(self, query: Value, key: Value, value: Value) -> list[Value]:
        """Queries, keys and values; what comes from one tensor comes from one matmul."""
        n, bias = self.embed_dim, optional(self.in_proj_bias, query)
        if self.packed:
            whole = self.in_proj_weight.value(query.graph)
            if query is key and key is value:
                return [*F.chunk(F.linear(query, whole, bias), 3, -1)]
            weights = [_rows(whole, i, n) for i in range(3)]
        else:
            weights = [w.value(query.graph) for w in (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)]
        biases = [None if bias is None else _rows(bias, i, n) for i in range(3)]
        return [F.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True)]

    def _append(self, x: Value, bias: Parameter | None, at: int) -> Value:
        """Keys or values with those that no input has, in dimension ``at``."""
        shape = tuple(1 if d == at else n for d, n in enumerate(x.shape))
        more = [F.expand(bias.value(x.graph), shape)] if bias is not None else []
        more += [F.zeros(x.graph, shape, x.dtype)] if self.add_zero_attn else []
        return F.concat([x, *more], at) if more else x

    def forward(
        self,
        query: Value,
        key: Value,
        value: Value,
        key_padding_mask: Value | None = None,
        need_weights: bool = True,
        attn_mask: Value | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Value, Value | None]:
        if is_causal and attn_mask is None:
            raise ArgumentError("is_causal is a hint about attn_mask, which must be given with it")
        rank = tensor(query, "query").ndim
        widths = (self.embed_dim, self.kdim, self.vdim)
        given = (query, tensor(key, "key"), tensor(value, "value"))
        if rank not in (2, 3) or any(v.ndim != rank or v.shape[-1] != n for v, n in zip(given, widths, strict=True)):
            raise ShapeError(f"query, key and value must have 3 (unbatched 2) dimensions, the last {widths}, got {given}")
        batch_at = 0 if self.batch_first and rank == 3 else 1
        q, k, v = self._project(query, key, value)
        if rank == 2:
            q, k, v = (F.unsqueeze(x, 1) for x in (q, k, v))
        batch, keys = q.shape[batch_at], k.shape[1 - batch_at]
        k, v = (self._append(x, bias, 1 - batch_at) for x, bias in ((k, self.bias_k), (v, self.bias_v)))
        q, k, v = (
            F.permute(F.unflatten(x, -1, (self.num_heads, self.embed_dim // self.num_heads)), (batch_at, 2, 1 - batch_at, 3))
            for x in (q, k, v)
        )
        if k.shape[0] != batch or v.shape[:3] != k.shape[:3]:
            raise ShapeError(f"query, key and value must have one batch size, key and value one length, got {given}")
        length, more = q.shape[2], (0, k.shape[2] - keys)
        masks = list[Value]()
        if attn_mask is not None:
            each = tensor(attn_mask, "attn_mask").ndim == 3
            seen = self._fit(attn_mask, "attn_mask", (batch * self.num_heads, length, keys) if each else (length, keys))
            seen = F.pad(seen, more, value=float(seen.dtype.is_bool))
            masks.append(F.unflatten(seen, 0, (batch, self.num_heads)) if each else seen)
        if key_padding_mask is not None:
            seen = self._fit(key_padding_mask, "key_padding_mask", (batch, keys) if rank == 3 else (keys,))
            masks.append(F.reshape(F.pad(seen, more, value=float(seen.dtype.is_bool)), (batch, 1, 1, -1)))
        scores = F.matmul(q, F.transpose(k, -1, -2)) * (1 / math.sqrt(q.shape[-1]))
        weights = attention_weights(scores, masks, self.dropout if self.training else 0.0, safe=not need_weights)
        y = F.permute(F.matmul(weights, v), (0, 2, 1, 3) if batch_at == 0 else (2, 0, 1, 3))
        y = self.out_proj(F.flatten(y, 2))
        if not need_weights:
            return (F.squeeze(y, 1) if rank == 2 else y), None
        if average_attn_weights:
            weights = F.mean(weights, 1)
        return (F.squeeze(y, 1), F.squeeze(weights, 0)) if rank == 2 else (y, weights)

    @staticmethod
    def _fit(mask: Value, what: str, shape: tuple[int, ...]) -> Value:
        """A mask of ``shape``, if bool turned to be True where a key is seen."""
        if tensor(mask, what).shape != shape:
            raise ShapeError(f"{what} must be {list(shape)}, got {list(mask.shape)}")
        return ~mask if mask.dtype.is_bool else mask

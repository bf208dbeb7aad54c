"""Attention: softmax(Q K' * scale + bias) V, row by row, and no score is stored.

Takes ``LOAD_Q(b, m, k, mask, ARGS)``, ``LOAD_K(b, n, k, mask, ARGS)`` and ``LOAD_V(b, n, v, mask, ARGS)``, ``LOAD_BIAS(b, m,
n, mask, ARGS)``, which is added to scores, ``LOAD_KEEP(b, m, n, mask, ARGS)``, by which weights are multiplied when they are
summed up, and ``EPILOGUE(acc, lse, b, m, v, mask, ARGS)``, which stores; lse is the logarithm of the row's sum of exponentials.
With ROWS a query sees no key behind its own number, counted anew after so many. A row of which no key is seen is 0.

A program has BM queries and BV columns of the values, and walks over blocks of BN keys: by what the largest score of a block is
larger than all before, it shrinks what these have added up to (Milakov and Gimelshein, "Online normalizer calculation for
softmax", 2018; Dao et al., "FlashAttention", 2022). Grid: ``attention_config.blocks``.
"""

import triton
import triton.language as tl

from .scalar import grt_div
from .tiles import INTERPRETED, cast, dot, inside, program


@triton.jit(repr=lambda s: s.constants["NAME"])
def attention(
    ARGS,
    LOAD_Q: tl.constexpr,
    LOAD_K: tl.constexpr,
    LOAD_V: tl.constexpr,
    LOAD_BIAS: tl.constexpr,
    LOAD_KEEP: tl.constexpr,
    EPILOGUE: tl.constexpr,
    BATCH: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
    V: tl.constexpr,
    SCALE: tl.constexpr,
    ROWS: tl.constexpr,
    INPUT_PRECISION: tl.constexpr,
    ACC: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    BV: tl.constexpr,
    NAME: tl.constexpr,
    PID=None,
):
    TILES_M: tl.constexpr = (M + BM - 1) // BM
    TILES_V: tl.constexpr = (V + BV - 1) // BV
    b = program(PID) // (TILES_M * TILES_V)
    tile_m = program(PID) // TILES_V % TILES_M
    if INTERPRETED:  # where a mask of a tensor and a scalar has no type
        b += tl.zeros((1, 1), tl.int32)
    m = (tile_m * BM + tl.arange(0, BM))[:, None]
    v = (program(PID) % TILES_V * BV + tl.arange(0, BV))[None, :]
    m_ok = inside(m, M, BM)
    v_ok = inside(v, V, BV)
    top = tl.full((BM, 1), float("-inf"), ACC)
    total = tl.zeros((BM, 1), ACC)
    acc = tl.zeros((BM, BV), ACC)
    end = N
    if ROWS == M:
        end = tl.minimum(N, (tile_m + 1) * BM)
    for start in range(0, end, BN):
        n = start + tl.arange(0, BN)
        n_ok = inside(n, N, BN)
        scores = tl.zeros((BM, BN), ACC)
        for first in range(0, K, BK):
            k = first + tl.arange(0, BK)
            k_ok = inside(k, K, BK)
            query = LOAD_Q(b, m, k[None, :], m_ok & k_ok[None, :], ARGS)
            key = LOAD_K(b, n[None, :], k[:, None], k_ok[:, None] & n_ok[None, :], ARGS)
            scores = dot(query, key, scores, INPUT_PRECISION)
        mask = m_ok & n_ok[None, :]
        scores = scores * SCALE + LOAD_BIAS(b, m, n[None, :], mask, ARGS)
        seen = n_ok[None, :]
        if ROWS:
            seen = seen & (n[None, :] <= m % ROWS)
        scores = tl.where(seen, scores, float("-inf"))
        high = tl.maximum(top, tl.max(scores, 1)[:, None])
        base = tl.where(high == float("-inf"), 0.0, high)
        weights = tl.exp(scores - base)
        shrink = tl.exp(top - base)
        total = total * shrink + tl.sum(weights, 1)[:, None]
        value = LOAD_V(b, n[:, None], v, n_ok[:, None] & v_ok, ARGS)
        weights = cast(weights * LOAD_KEEP(b, m, n[None, :], mask, ARGS), value.dtype)
        acc = dot(weights, value, acc * shrink, INPUT_PRECISION)
        top = high
    empty = total == 0
    share = tl.where(empty, 1.0, total)
    lse = tl.where(empty, float("inf"), top + tl.log(share))
    EPILOGUE(grt_div(acc, share), tl.broadcast_to(lse, (BM, BV)), b, m, v, m_ok & v_ok, ARGS)

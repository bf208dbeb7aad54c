"""The gradients of attention, which store no score either.

Beside the closures of ``attention`` they take ``LOAD_DY(b, m, v, mask, ARGS)`` and, of each query, ``LOAD_LSE(b, m, mask,
ARGS)`` and the like. With the weights P = exp(scores - lse), found again, scores get P * (dY V' * keep - delta), where delta is
the sum of a row of dy * y less the gradient of lse (Dao et al., "FlashAttention", 2022). ``attention_dq`` walks over blocks of
keys and finds delta, ``attention_dkv`` over blocks of queries; ``attention_dscores`` stores what the scores get, for a bias
that is learned. Grid: ``attention_config.blocks``.
"""

import triton
import triton.language as tl

from .tiles import INTERPRETED, cast, dot, inside, program


@triton.jit
def product(
    b,
    left,
    right,
    left_ok,
    right_ok,
    LOAD_LEFT: tl.constexpr,
    LOAD_RIGHT: tl.constexpr,
    ARGS,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    INPUT_PRECISION: tl.constexpr,
    ACC: tl.constexpr,
):
    """The products of rows ``left``, a column, of one operand and rows ``right``, a row, of another, SIZE long."""
    acc = tl.zeros((left.shape[0], right.shape[1]), ACC)
    for first in range(0, SIZE, BLOCK):
        k = first + tl.arange(0, BLOCK)
        k_ok = inside(k, SIZE, BLOCK)
        rows = LOAD_LEFT(b, left, k[None, :], left_ok & k_ok[None, :], ARGS)
        columns = LOAD_RIGHT(b, right, k[:, None], k_ok[:, None] & right_ok, ARGS)
        acc = dot(rows, columns, acc, INPUT_PRECISION)
    return acc


@triton.jit
def weigh(scores, lse, m, n, seen, SCALE: tl.constexpr, ROWS: tl.constexpr, BIAS):
    """The weights of a tile of ``scores``, 0 where ``seen`` is false or a query does not see a key."""
    if ROWS:
        seen = seen & (n <= m % ROWS)
    return tl.where(seen, tl.exp(tl.where(seen, scores * SCALE + BIAS - lse, 0.0)), 0.0)


@triton.jit(repr=lambda s: s.constants["NAME"])
def attention_dq(
    ARGS,
    LOAD_Q: tl.constexpr,
    LOAD_K: tl.constexpr,
    LOAD_V: tl.constexpr,
    LOAD_DY: tl.constexpr,
    LOAD_BIAS: tl.constexpr,
    LOAD_KEEP: tl.constexpr,
    LOAD_Y: tl.constexpr,
    LOAD_LSE: tl.constexpr,
    LOAD_DLSE: tl.constexpr,
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
    BD: tl.constexpr,
    NAME: tl.constexpr,
    PID=None,
):
    """BM queries, BD columns of their gradients; ``EPILOGUE(acc, delta, b, m, k, mask, ARGS)``."""
    TILES_M: tl.constexpr = (M + BM - 1) // BM
    TILES_D: tl.constexpr = (K + BD - 1) // BD
    b = program(PID) // (TILES_M * TILES_D)
    tile_m = program(PID) // TILES_D % TILES_M
    if INTERPRETED:  # where a mask of a tensor and a scalar has no type
        b += tl.zeros((1, 1), tl.int32)
    m = (tile_m * BM + tl.arange(0, BM))[:, None]
    d = (program(PID) % TILES_D * BD + tl.arange(0, BD))[None, :]
    m_ok = inside(m, M, BM)
    d_ok = inside(d, K, BD)
    lse = LOAD_LSE(b, m, m_ok, ARGS)
    delta = tl.zeros((BM, 1), ACC) - LOAD_DLSE(b, m, m_ok, ARGS)
    for first in range(0, V, BV):
        v = (first + tl.arange(0, BV))[None, :]
        mask = m_ok & inside(v, V, BV)
        delta += tl.sum(LOAD_DY(b, m, v, mask, ARGS).to(ACC) * LOAD_Y(b, m, v, mask, ARGS).to(ACC), 1)[:, None]
    acc = tl.zeros((BM, BD), ACC)
    end = N
    if ROWS == M:
        end = tl.minimum(N, (tile_m + 1) * BM)
    for start in range(0, end, BN):
        n = start + tl.arange(0, BN)
        n_ok = inside(n, N, BN)
        across = n[None, :]
        mask = m_ok & n_ok[None, :]
        scores = product(b, m, across, m_ok, n_ok[None, :], LOAD_Q, LOAD_K, ARGS, K, BK, INPUT_PRECISION, ACC)
        outer = product(b, m, across, m_ok, n_ok[None, :], LOAD_DY, LOAD_V, ARGS, V, BV, INPUT_PRECISION, ACC)
        weights = weigh(scores, lse, m, across, mask, SCALE, ROWS, LOAD_BIAS(b, m, across, mask, ARGS))
        gradient = weights * (outer * LOAD_KEEP(b, m, across, mask, ARGS) - delta)
        key = LOAD_K(b, n[:, None], d, n_ok[:, None] & d_ok, ARGS)
        acc = dot(cast(gradient, key.dtype), key, acc, INPUT_PRECISION)
    EPILOGUE(acc * SCALE, tl.broadcast_to(delta, (BM, BD)), b, m, d, m_ok & d_ok, ARGS)


@triton.jit(repr=lambda s: s.constants["NAME"])
def attention_dkv(
    ARGS,
    LOAD_Q: tl.constexpr,
    LOAD_K: tl.constexpr,
    LOAD_V: tl.constexpr,
    LOAD_DY: tl.constexpr,
    LOAD_BIAS: tl.constexpr,
    LOAD_KEEP: tl.constexpr,
    LOAD_LSE: tl.constexpr,
    LOAD_DELTA: tl.constexpr,
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
    BD: tl.constexpr,
    NAME: tl.constexpr,
    PID=None,
):
    """BN keys, BD columns of their gradients and of the values', which are as long; tiles have a row for each key.

    ``EPILOGUE(of the key, of the value, b, n, k, mask, ARGS)``."""
    TILES_N: tl.constexpr = (N + BN - 1) // BN
    TILES_D: tl.constexpr = (K + BD - 1) // BD
    b = program(PID) // (TILES_N * TILES_D)
    tile_n = program(PID) // TILES_D % TILES_N
    if INTERPRETED:  # where a mask of a tensor and a scalar has no type
        b += tl.zeros((1, 1), tl.int32)
    n = (tile_n * BN + tl.arange(0, BN))[:, None]
    d = (program(PID) % TILES_D * BD + tl.arange(0, BD))[None, :]
    n_ok = inside(n, N, BN)
    d_ok = inside(d, K, BD)
    of_key = tl.zeros((BN, BD), ACC)
    of_value = tl.zeros((BN, BD), ACC)
    begin = 0
    if ROWS == M:
        begin = tile_n * BN // BM * BM
    for start in range(begin, M, BM):
        m = start + tl.arange(0, BM)
        m_ok = inside(m, M, BM)
        across = m[None, :]
        mask = n_ok & m_ok[None, :]
        scores = product(b, n, across, n_ok, m_ok[None, :], LOAD_K, LOAD_Q, ARGS, K, BK, INPUT_PRECISION, ACC)
        outer = product(b, n, across, n_ok, m_ok[None, :], LOAD_V, LOAD_DY, ARGS, V, BV, INPUT_PRECISION, ACC)
        lse = LOAD_LSE(b, across, m_ok[None, :], ARGS)
        weights = weigh(scores, lse, across, n, mask, SCALE, ROWS, LOAD_BIAS(b, across, n, mask, ARGS))
        keep = LOAD_KEEP(b, across, n, mask, ARGS)
        gradient = weights * (outer * keep - LOAD_DELTA(b, across, m_ok[None, :], ARGS))
        dy = LOAD_DY(b, m[:, None], d, m_ok[:, None] & d_ok, ARGS)
        of_value = dot(cast(weights * keep, dy.dtype), dy, of_value, INPUT_PRECISION)
        query = LOAD_Q(b, m[:, None], d, m_ok[:, None] & d_ok, ARGS)
        of_key = dot(cast(gradient, query.dtype), query, of_key, INPUT_PRECISION)
    EPILOGUE(of_key * SCALE, of_value, b, n, d, n_ok & d_ok, ARGS)


@triton.jit(repr=lambda s: s.constants["NAME"])
def attention_dscores(
    ARGS,
    LOAD_Q: tl.constexpr,
    LOAD_K: tl.constexpr,
    LOAD_V: tl.constexpr,
    LOAD_DY: tl.constexpr,
    LOAD_BIAS: tl.constexpr,
    LOAD_KEEP: tl.constexpr,
    LOAD_LSE: tl.constexpr,
    LOAD_DELTA: tl.constexpr,
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
    BD: tl.constexpr,
    NAME: tl.constexpr,
    PID=None,
):
    """A tile of what the scores get: ``EPILOGUE(acc, b, m, n, mask, ARGS)``. BD is not used."""
    TILES_M: tl.constexpr = (M + BM - 1) // BM
    TILES_N: tl.constexpr = (N + BN - 1) // BN
    b = program(PID) // (TILES_M * TILES_N)
    if INTERPRETED:  # where a mask of a tensor and a scalar has no type
        b += tl.zeros((1, 1), tl.int32)
    m = (program(PID) // TILES_N % TILES_M * BM + tl.arange(0, BM))[:, None]
    n = (program(PID) % TILES_N * BN + tl.arange(0, BN))[None, :]
    m_ok = inside(m, M, BM)
    n_ok = inside(n, N, BN)
    mask = m_ok & n_ok
    scores = product(b, m, n, m_ok, n_ok, LOAD_Q, LOAD_K, ARGS, K, BK, INPUT_PRECISION, ACC)
    outer = product(b, m, n, m_ok, n_ok, LOAD_DY, LOAD_V, ARGS, V, BV, INPUT_PRECISION, ACC)
    lse, delta = LOAD_LSE(b, m, m_ok, ARGS), LOAD_DELTA(b, m, m_ok, ARGS)
    weights = weigh(scores, lse, m, n, mask, SCALE, ROWS, LOAD_BIAS(b, m, n, mask, ARGS))
    EPILOGUE(weights * (outer * LOAD_KEEP(b, m, n, mask, ARGS) - delta), b, m, n, mask, ARGS)

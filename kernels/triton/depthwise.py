"""2-D convolution with few channels in a group, and its two gradients, as vector kernels over channels-last maps.

A group of one to four channels leaves tensor cores idle, so here every lane owns one channel: a tile is BM pixels x BN
channels, the taps are a loop of multiply-adds, and a load is a run of neighbouring channels. A row of up to UNROLLED of them
is written out; a compiler's time would grow with a longer one. Closures, geometry and results are those of ``conv``; so is the
split of ``depthwise_wgrad``. Grids: ``config.conv_grid``.
"""

import triton
import triton.language as tl

from .tiles import inside, program

UNROLLED = tl.constexpr(32)


@triton.jit(repr=lambda s: s.constants["NAME"])
def depthwise_fwd(
    ARGS,
    LOAD_X: tl.constexpr,
    LOAD_W: tl.constexpr,
    EPILOGUE: tl.constexpr,
    G: tl.constexpr,
    ACC: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    NAME: tl.constexpr,
    PID=None,
):
    """``conv_fwd`` for few channels in a group."""
    S: tl.constexpr = G.S  # static_range takes no field (Triton 3.7)
    CG: tl.constexpr = G.C // G.GROUPS
    TILES_N: tl.constexpr = (G.K + BN - 1) // BN
    m = program(PID) // TILES_N * BM + tl.arange(0, BM)
    m_ok = inside(m, G.N * G.P * G.Q, BM)[:, None]
    q = (m % G.Q)[:, None]
    p = (m // G.Q % G.P)[:, None]
    n = (m // (G.P * G.Q))[:, None]
    k = (program(PID) % TILES_N * BN + tl.arange(0, BN))[None, :]
    k_ok = inside(k, G.K, BN)
    one = tl.zeros((1, 1), tl.int32)
    acc = tl.zeros((BM, BN), ACC)
    for r in range(G.R):
        if S * CG <= UNROLLED:
            for s in tl.static_range(S):
                acc = _fwd_tap(acc, n, k, p, q, one + r, one + s, m_ok & k_ok, k_ok, ARGS, LOAD_X, LOAD_W, G, ACC)
        else:
            for s in range(S):
                acc = _fwd_tap(acc, n, k, p, q, one + r, one + s, m_ok & k_ok, k_ok, ARGS, LOAD_X, LOAD_W, G, ACC)
    EPILOGUE(acc, n, k, p, q, m_ok & k_ok, ARGS)


@triton.jit
def _fwd_tap(
    acc, n, k, p, q, r, s, mask, k_ok, ARGS, LOAD_X: tl.constexpr, LOAD_W: tl.constexpr, G: tl.constexpr, ACC: tl.constexpr
):
    """``acc`` with the products of the tap (r, s)."""
    CG: tl.constexpr = G.C // G.GROUPS
    KG: tl.constexpr = G.K // G.GROUPS
    h = p * G.STRIDE_H - G.PAD_H + r * G.DIL_H
    w = q * G.STRIDE_W - G.PAD_W + s * G.DIL_W
    ok = mask & (h >= 0) & (h < G.H) & (w >= 0) & (w < G.W)
    for i in tl.static_range(CG):
        x = LOAD_X(n, k // KG * CG + i, h, w, ok, ARGS)
        weight = LOAD_W(k, r * 0 + i, r, s, k_ok, ARGS)
        acc = tl.fma(x.to(ACC), weight.to(ACC), acc)
    return acc


@triton.jit(repr=lambda s: s.constants["NAME"])
def depthwise_dgrad(
    ARGS,
    LOAD_DY: tl.constexpr,
    LOAD_W: tl.constexpr,
    EPILOGUE: tl.constexpr,
    G: tl.constexpr,
    ACC: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    NAME: tl.constexpr,
    PID=None,
):
    """``conv_dgrad`` for few channels in a group; taps that fall between the outputs of a stride are masked."""
    S: tl.constexpr = G.S  # static_range takes no field (Triton 3.7)
    KG: tl.constexpr = G.K // G.GROUPS
    TILES_N: tl.constexpr = (G.C + BN - 1) // BN
    m = program(PID) // TILES_N * BM + tl.arange(0, BM)
    m_ok = inside(m, G.N * G.H * G.W, BM)[:, None]
    w = (m % G.W)[:, None]
    h = (m // G.W % G.H)[:, None]
    n = (m // (G.H * G.W))[:, None]
    c = (program(PID) % TILES_N * BN + tl.arange(0, BN))[None, :]
    c_ok = inside(c, G.C, BN)
    one = tl.zeros((1, 1), tl.int32)
    acc = tl.zeros((BM, BN), ACC)
    for r in range(G.R):
        if S * KG <= UNROLLED:
            for s in tl.static_range(S):
                acc = _dgrad_tap(acc, n, c, h, w, one + r, one + s, m_ok & c_ok, c_ok, ARGS, LOAD_DY, LOAD_W, G, ACC)
        else:
            for s in range(S):
                acc = _dgrad_tap(acc, n, c, h, w, one + r, one + s, m_ok & c_ok, c_ok, ARGS, LOAD_DY, LOAD_W, G, ACC)
    EPILOGUE(acc, n, c, h, w, m_ok & c_ok, ARGS)


@triton.jit
def _dgrad_tap(
    acc,
    n,
    c,
    h,
    w,
    r,
    s,
    mask,
    c_ok,
    ARGS,
    LOAD_DY: tl.constexpr,
    LOAD_W: tl.constexpr,
    G: tl.constexpr,
    ACC: tl.constexpr,
):
    """``acc`` with the products of the tap (r, s)."""
    CG: tl.constexpr = G.C // G.GROUPS
    KG: tl.constexpr = G.K // G.GROUPS
    up = h + G.PAD_H - r * G.DIL_H
    left = w + G.PAD_W - s * G.DIL_W
    p = up // G.STRIDE_H
    q = left // G.STRIDE_W
    ok = mask & (up >= 0) & (p < G.P) & (left >= 0) & (q < G.Q)
    ok &= (up % G.STRIDE_H == 0) & (left % G.STRIDE_W == 0)
    for i in tl.static_range(KG):
        k = c // CG * KG + i
        dy = LOAD_DY(n, k, p, q, ok, ARGS)
        weight = LOAD_W(k, c % CG, r, s, c_ok, ARGS)
        acc = tl.fma(dy.to(ACC), weight.to(ACC), acc)
    return acc


@triton.jit(repr=lambda s: s.constants["NAME"])
def depthwise_wgrad(
    ARGS,
    LOAD_DY: tl.constexpr,
    LOAD_X: tl.constexpr,
    EPILOGUE: tl.constexpr,
    G: tl.constexpr,
    ACC: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    NAME: tl.constexpr,
    PID=None,
):
    """``conv_wgrad`` for few channels in a group: a program adds up one tap of BN filters over one split's pixels.

    Programs of one split's taps are neighbours, so that they find dy and x in L2.
    """
    CG: tl.constexpr = G.C // G.GROUPS
    KG: tl.constexpr = G.K // G.GROUPS
    TAPS: tl.constexpr = G.R * G.S * CG
    TILES_N: tl.constexpr = (G.K + BN - 1) // BN
    PARTS: tl.constexpr = max(1, G.SPLITS // max(1, G.N))  # parts of one image's rows
    ENTRIES: tl.constexpr = (G.N + G.SPLITS - 1) // G.SPLITS if PARTS == 1 else 1
    SHARE: tl.constexpr = max(1, ENTRIES * ((G.P + PARTS - 1) // PARTS) * G.Q)  # pixels of one split
    WHOLE: tl.constexpr = (G.N if PARTS == 1 else 1) * G.P * G.Q  # pixels that one set of splits shares out
    pid = program(PID)
    tap = pid % TAPS + tl.zeros((1, 1), tl.int32)
    i, s, r = tap % CG, tap // CG % G.S, tap // (CG * G.S)
    k = (pid // TAPS % TILES_N * BN + tl.arange(0, BN))[None, :]
    k_ok = inside(k, G.K, BN)
    split = pid // (TAPS * TILES_N) + tl.zeros((1, 1), tl.int32)
    number = pid // (TAPS * TILES_N)
    first = 0 if PARTS == 1 else number // PARTS * WHOLE
    begin = first + (number if PARTS == 1 else number % PARTS) * SHARE
    end = tl.minimum(begin + SHARE, first + WHOLE)
    acc = tl.zeros((BM, BN), ACC)
    for start in range(begin, end, BM):
        m = (start + tl.arange(0, BM))[:, None]
        q = m % G.Q
        p = m // G.Q % G.P
        n = m // (G.P * G.Q)
        h = p * G.STRIDE_H - G.PAD_H + r * G.DIL_H
        w = q * G.STRIDE_W - G.PAD_W + s * G.DIL_W
        dy_ok = (m < end) & k_ok
        dy = LOAD_DY(n, k, p, q, dy_ok, ARGS)
        x = LOAD_X(n, k // KG * CG + i, h, w, dy_ok & (h >= 0) & (h < G.H) & (w >= 0) & (w < G.W), ARGS)
        acc = tl.fma(dy.to(ACC), x.to(ACC), acc)
    EPILOGUE(tl.sum(acc, 0)[None, :], split, k, i, r, s, k_ok, ARGS)

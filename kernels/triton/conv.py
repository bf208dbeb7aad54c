"""2-D convolution and its two gradients as implicit GEMMs; the im2col matrix exists only as index arithmetic.

Each kernel takes two loader closures, which return tiles of one element type that are 0 where mask is false (indices
may be out of range there), and an epilogue that stores the accumulated tile; k and c given to closures are channels of
the whole tensor, except the c of a filter and of ``conv_wgrad``'s epilogue, which counts within the group. G is the
``geometry.Geometry``, one constant. Reduction lanes: taps (r, s) outside and blocks of channels inside, or, when a group
has fewer channels than a block, taps and channels flattened into one axis so that no lane idles. Algorithms: implicit
GEMM (cuDNN); ``conv_dgrad`` is its gather form split into stride phases, so that no multiply meets an inserted zero;
``conv_wgrad`` is split-K over parts of the batch or of its images, with partial results: deterministic, without atomics.
Grids: ``config.conv_grid``.
"""

import triton
import triton.language as tl

from .tiles import dot, grouped_tile, inside, program


@triton.jit(repr=lambda s: s.constants["NAME"])
def conv_fwd(
    ARGS,
    LOAD_X: tl.constexpr,
    LOAD_W: tl.constexpr,
    EPILOGUE: tl.constexpr,
    G: tl.constexpr,
    INPUT_PRECISION: tl.constexpr,
    ACC: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    NAME: tl.constexpr,
    PID=None,
):
    """y[n,k,p,q] = sum over c,r,s of x[n,c,p*stride-pad+r*dil, ...] * w[k,c,r,s].

    GEMM rows are (n, p, q), columns the group's output channels. Closures: ``LOAD_X(n, c, h, w, mask, ARGS)``,
    ``LOAD_W(k, c, r, s, mask, ARGS)``, ``EPILOGUE(acc, n, k, p, q, mask, ARGS)``.
    """
    CG: tl.constexpr = G.C // G.GROUPS
    KG: tl.constexpr = G.K // G.GROUPS
    TILES_M: tl.constexpr = (G.N * G.P * G.Q + BM - 1) // BM
    TILES_N: tl.constexpr = (KG + BN - 1) // BN
    pid = program(PID)
    group = pid // (TILES_M * TILES_N)
    tile_m, tile_n = grouped_tile(pid % (TILES_M * TILES_N), TILES_M, TILES_N, 8)

    m = tile_m * BM + tl.arange(0, BM)
    m_ok = inside(m, G.N * G.P * G.Q, BM)[:, None]
    q = (m % G.Q)[:, None]
    p = (m // G.Q % G.P)[:, None]
    n = (m // (G.P * G.Q))[:, None]
    h0 = p * G.STRIDE_H - G.PAD_H
    w0 = q * G.STRIDE_W - G.PAD_W
    kg = tile_n * BN + tl.arange(0, BN)
    k_ok = inside(kg, KG, BN)[None, :]
    k = group * KG + kg[None, :]

    acc = tl.zeros((BM, BN), ACC)
    if CG < BK:
        for start in range(0, G.R * G.S * CG, BK):
            j = start + tl.arange(0, BK)
            j_ok = inside(j, G.R * G.S * CG, BK)
            c = j % CG
            s = j // CG % G.S
            r = j // (CG * G.S)
            h = h0 + (r * G.DIL_H)[None, :]
            w = w0 + (s * G.DIL_W)[None, :]
            x_ok = m_ok & j_ok[None, :] & (h >= 0) & (h < G.H) & (w >= 0) & (w < G.W)
            left = LOAD_X(n, group * CG + c[None, :], h, w, x_ok, ARGS)
            right = LOAD_W(k, c[:, None], r[:, None], s[:, None], j_ok[:, None] & k_ok, ARGS)
            acc = dot(left, right, acc, INPUT_PRECISION)
    else:
        BLOCKS: tl.constexpr = (CG + BK - 1) // BK
        for t in range(0, G.R * G.S * BLOCKS):
            r = t // (G.S * BLOCKS)
            s = t // BLOCKS % G.S
            c = t % BLOCKS * BK + tl.arange(0, BK)
            c_ok = inside(c, CG, BK)
            h = h0 + r * G.DIL_H
            w = w0 + s * G.DIL_W
            x_ok = m_ok & (h >= 0) & (h < G.H) & (w >= 0) & (w < G.W) & c_ok[None, :]
            left = LOAD_X(n, group * CG + c[None, :], h, w, x_ok, ARGS)
            right = LOAD_W(k, c[:, None], r, s, c_ok[:, None] & k_ok, ARGS)
            acc = dot(left, right, acc, INPUT_PRECISION)
    EPILOGUE(acc, n, k, p, q, m_ok & k_ok, ARGS)


@triton.jit
def stride_phase(phase, R: tl.constexpr, STRIDE: tl.constexpr, PAD: tl.constexpr, DIL: tl.constexpr):
    """The taps that meet the input coordinates x with (x + PAD) % STRIDE == phase along one axis.

    Returns the first such coordinate, the first filter tap that reaches them, the step from tap to tap and how many
    taps do (none when the dilation skips the phase). Everything but ``phase`` is constant, so the loops fold away.
    """
    if STRIDE == 1:
        return 0, 0, 1, R
    else:
        first = (phase + (STRIDE - PAD % STRIDE)) % STRIDE
        tap = phase * 0
        step = phase * 0 + STRIDE
        taps = phase * 0
        for i in tl.static_range(R):
            tap = tl.where(((R - 1 - i) * DIL) % STRIDE == phase, R - 1 - i, tap)
            taps += tl.where((i * DIL) % STRIDE == phase, 1, 0)
        for i in tl.static_range(1, STRIDE):
            step = tl.where(((STRIDE - i) * DIL) % STRIDE == 0, STRIDE - i, step)
        return first, tap, step, taps


@triton.jit(repr=lambda s: s.constants["NAME"])
def conv_dgrad(
    ARGS,
    LOAD_DY: tl.constexpr,
    LOAD_W: tl.constexpr,
    EPILOGUE: tl.constexpr,
    G: tl.constexpr,
    INPUT_PRECISION: tl.constexpr,
    ACC: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    NAME: tl.constexpr,
    PID=None,
):
    """dx[n,c,h,w] = sum over k,r,s of dy[n,k,p,q] * w[k,c,r,s] with p*stride = h + pad - r*dil, and so for q.

    An output coordinate's phase (h + pad) % stride decides which taps reach it, so each program takes the pixels of one
    phase pair: within it the division by the stride is exact and every tap of the loop contributes. Closures:
    ``LOAD_DY(n, k, p, q, mask, ARGS)``, ``LOAD_W(k, c, r, s, mask, ARGS)``, ``EPILOGUE(acc, n, c, h, w, mask, ARGS)``.
    """
    CG: tl.constexpr = G.C // G.GROUPS
    KG: tl.constexpr = G.K // G.GROUPS
    HP: tl.constexpr = (G.H + G.STRIDE_H - 1) // G.STRIDE_H  # rows of the largest phase; the others mask their last
    WP: tl.constexpr = (G.W + G.STRIDE_W - 1) // G.STRIDE_W
    TILES_M: tl.constexpr = (G.N * HP * WP + BM - 1) // BM
    TILES_N: tl.constexpr = (CG + BN - 1) // BN
    pid = program(PID)
    outer = pid // (TILES_M * TILES_N)
    group = outer % G.GROUPS
    phase = outer // G.GROUPS
    tile_m, tile_n = grouped_tile(pid % (TILES_M * TILES_N), TILES_M, TILES_N, 8)
    h_first, r_first, r_step, r_taps = stride_phase(phase // G.STRIDE_W, G.R, G.STRIDE_H, G.PAD_H, G.DIL_H)
    w_first, s_first, s_step, s_taps = stride_phase(phase % G.STRIDE_W, G.S, G.STRIDE_W, G.PAD_W, G.DIL_W)

    m = tile_m * BM + tl.arange(0, BM)
    w_in_phase = (m % WP)[:, None]
    h_in_phase = (m // WP % HP)[:, None]
    n = (m // (HP * WP))[:, None]
    h = h_first + h_in_phase * G.STRIDE_H
    w = w_first + w_in_phase * G.STRIDE_W
    m_ok = inside(m, G.N * HP * WP, BM)[:, None] & (h < G.H) & (w < G.W)
    cg = tile_n * BN + tl.arange(0, BN)
    c_ok = inside(cg, CG, BN)[None, :]

    acc = tl.zeros((BM, BN), ACC)
    if KG < BK:
        for start in range(0, r_taps * s_taps * KG, BK):
            j = start + tl.arange(0, BK)
            j_ok = j < r_taps * s_taps * KG
            k = group * KG + j % KG
            r = r_first + j // KG // s_taps * r_step
            s = s_first + j // KG % s_taps * s_step
            p = h_in_phase + ((h_first + G.PAD_H - r * G.DIL_H) // G.STRIDE_H)[None, :]
            q = w_in_phase + ((w_first + G.PAD_W - s * G.DIL_W) // G.STRIDE_W)[None, :]
            dy_ok = m_ok & j_ok[None, :] & (p >= 0) & (p < G.P) & (q >= 0) & (q < G.Q)
            left = LOAD_DY(n, k[None, :], p, q, dy_ok, ARGS)
            right = LOAD_W(k[:, None], cg[None, :], r[:, None], s[:, None], j_ok[:, None] & c_ok, ARGS)
            acc = dot(left, right, acc, INPUT_PRECISION)
    else:
        BLOCKS: tl.constexpr = (KG + BK - 1) // BK
        for t in range(0, r_taps * s_taps * BLOCKS):
            r = r_first + t // BLOCKS // s_taps * r_step
            s = s_first + t // BLOCKS % s_taps * s_step
            kg = t % BLOCKS * BK + tl.arange(0, BK)
            kg_ok = inside(kg, KG, BK)
            p = h_in_phase + (h_first + G.PAD_H - r * G.DIL_H) // G.STRIDE_H
            q = w_in_phase + (w_first + G.PAD_W - s * G.DIL_W) // G.STRIDE_W
            dy_ok = m_ok & (p >= 0) & (p < G.P) & (q >= 0) & (q < G.Q) & kg_ok[None, :]
            k = group * KG + kg
            left = LOAD_DY(n, k[None, :], p, q, dy_ok, ARGS)
            right = LOAD_W(k[:, None], cg[None, :], r, s, kg_ok[:, None] & c_ok, ARGS)
            acc = dot(left, right, acc, INPUT_PRECISION)
    EPILOGUE(acc, n, group * CG + cg[None, :], h, w, m_ok & c_ok, ARGS)


@triton.jit(repr=lambda s: s.constants["NAME"])
def conv_wgrad(
    ARGS,
    LOAD_DY: tl.constexpr,
    LOAD_X: tl.constexpr,
    EPILOGUE: tl.constexpr,
    G: tl.constexpr,
    INPUT_PRECISION: tl.constexpr,
    ACC: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    NAME: tl.constexpr,
    PID=None,
):
    """dw[k,c,r,s] = sum over n,p,q of dy[n,k,p,q] * x[n,c,p*stride-pad+r*dil, ...], in SPLITS partial sums.

    The group's output channels are the GEMM's rows and the filter's (r, s, c) its columns with K_AXIS 0, the other way round
    with 1, where a tile lies as filters do. Split i of up to N sums batch entries
    [i * ceil(N / SPLITS), (i+1) * ceil(N / SPLITS)). More than N splits are a multiple of N: they cut the rows p of each
    entry into SPLITS / N parts in the same way. The last splits may be empty and store zeros. Closures:
    ``LOAD_DY(n, k, p, q, mask, ARGS)``, ``LOAD_X(n, c, h, w, mask, ARGS)``,
    ``EPILOGUE(acc, split, k, c, r, s, mask, ARGS)``, whose c counts within the group.
    """
    CG: tl.constexpr = G.C // G.GROUPS
    KG: tl.constexpr = G.K // G.GROUPS
    BLOCK_K: tl.constexpr = BN if G.K_AXIS else BM
    BLOCK_J: tl.constexpr = BM if G.K_AXIS else BN
    FLAT: tl.constexpr = CG < BLOCK_J
    BLOCKS: tl.constexpr = (CG + BLOCK_J - 1) // BLOCK_J  # tiles of one tap when not flat
    TILES_K: tl.constexpr = (KG + BLOCK_K - 1) // BLOCK_K
    TILES_J: tl.constexpr = (G.R * G.S * CG + BLOCK_J - 1) // BLOCK_J if FLAT else G.R * G.S * BLOCKS
    PARTS: tl.constexpr = max(1, G.SPLITS // max(1, G.N))  # parts of one image's rows
    ENTRIES: tl.constexpr = (G.N + G.SPLITS - 1) // G.SPLITS if PARTS == 1 else 1
    SHARE: tl.constexpr = max(1, ENTRIES * ((G.P + PARTS - 1) // PARTS) * G.Q)  # pixels of one split
    WHOLE: tl.constexpr = (G.N if PARTS == 1 else 1) * G.P * G.Q  # pixels that one set of splits shares out
    pid = program(PID)
    outer = pid // (TILES_K * TILES_J)
    group = outer % G.GROUPS
    split = outer // G.GROUPS
    tile_k, tile_j = grouped_tile(pid % (TILES_K * TILES_J), TILES_K, TILES_J, 8)

    kg = tile_k * BLOCK_K + tl.arange(0, BLOCK_K)
    k = group * KG + tl.expand_dims(kg, 1 - G.K_AXIS)
    k_ok = tl.expand_dims(inside(kg, KG, BLOCK_K), 1 - G.K_AXIS)
    if FLAT:
        j = tl.expand_dims(tile_j * BLOCK_J + tl.arange(0, BLOCK_J), G.K_AXIS)
        j_ok = inside(j, G.R * G.S * CG, BLOCK_J)
        c = j % CG
        s = j // CG % G.S
        r = j // (CG * G.S)
    else:  # one tap per tile: r and s are scalars, so the loop's h and w stay vectors
        c = tl.expand_dims(tile_j % BLOCKS * BLOCK_J + tl.arange(0, BLOCK_J), G.K_AXIS)
        j_ok = inside(c, CG, BLOCK_J)
        s = tile_j // BLOCKS % G.S
        r = tile_j // (BLOCKS * G.S)
    dh = r * G.DIL_H - G.PAD_H
    dw = s * G.DIL_W - G.PAD_W

    acc = tl.zeros((BM, BN), ACC)
    first = 0 if PARTS == 1 else split // PARTS * WHOLE
    begin = first + (split if PARTS == 1 else split % PARTS) * SHARE
    end = tl.minimum(begin + SHARE, first + WHOLE)
    for start in range(begin, end, BK):
        m = start + tl.arange(0, BK)
        if WHOLE % SHARE == 0:
            m_ok = inside(m - begin, SHARE, BK)
        else:
            m_ok = m < end
        q = m % G.Q
        p = m // G.Q % G.P
        n = m // (G.P * G.Q)
        h = tl.expand_dims(p * G.STRIDE_H, 1 - G.K_AXIS) + dh
        w = tl.expand_dims(q * G.STRIDE_W, 1 - G.K_AXIS) + dw
        x_ok = tl.expand_dims(m_ok, 1 - G.K_AXIS) & j_ok & (h >= 0) & (h < G.H) & (w >= 0) & (w < G.W)
        dy_ok = k_ok & tl.expand_dims(m_ok, G.K_AXIS)
        dy = LOAD_DY(tl.expand_dims(n, G.K_AXIS), k, tl.expand_dims(p, G.K_AXIS), tl.expand_dims(q, G.K_AXIS), dy_ok, ARGS)
        x = LOAD_X(tl.expand_dims(n, 1 - G.K_AXIS), group * CG + c, h, w, x_ok, ARGS)
        acc = dot(x, dy, acc, INPUT_PRECISION) if G.K_AXIS else dot(dy, x, acc, INPUT_PRECISION)
    EPILOGUE(acc, split, k, c, r, s, k_ok & j_ok, ARGS)

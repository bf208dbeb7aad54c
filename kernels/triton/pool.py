"""2-D pooling, its gradients, and the gradient of max pooling's gradient, each in gather form.

Every kernel computes BLOCK consecutive output elements per program, in memory order (channel innermost when
CHANNELS_LAST, else column innermost), and hands them to the epilogue; loaders return 0 where mask is false. Max
pooling: NaN wins over everything, the first tap wins a tie, padding never wins; the winner is named by its tap ``r * S
+ s`` (int32, 0 for a window that lies wholly in padding, whose maximum is -inf). Gradients visit, for each input pixel,
the windows that cover it and add in a fixed order: deterministic, no atomics. With PHASES, those of the stride, a program
has pixels of one phase, whose windows all take it at the same taps: nothing is divided, and no window is looked at in vain.
Up to UNROLLED taps are written out, more are taken AT_ONCE in a loop: a compiler's time would grow with the window. ACC is the
type of comparison and accumulation. G is the ``geometry.Geometry``. Grids: ``cdiv(outputs, BLOCK)`` programs
(``config.pool_grid``), outputs being N*C*P*Q, for gradients N*C*H*W.
"""

import triton
import triton.language as tl

from .tiles import inside

UNROLLED = tl.constexpr(64)
AT_ONCE = tl.constexpr(8)


@triton.jit
def element(pid, N: tl.constexpr, C: tl.constexpr, H: tl.constexpr, W: tl.constexpr, LAST: tl.constexpr, BLOCK: tl.constexpr):
    """(n, c, h, w, mask) of the elements of block ``pid`` in memory order."""
    i = pid * BLOCK + tl.arange(0, BLOCK)
    mask = inside(i, N * C * H * W, BLOCK)
    if LAST:
        return i // (H * W * C), i % C, i // (W * C) % H, i // C % W, mask
    else:
        return i // (C * H * W), i // (H * W) % C, i // W % H, i % W, mask


@triton.jit
def covering(x, i, R: tl.constexpr, OUT: tl.constexpr, STRIDE: tl.constexpr, PAD: tl.constexpr, DIL: tl.constexpr):
    """(window, tap, valid) of the i-th candidate window over coordinate x of one axis, i below min of both counts."""
    if (R - 1) * DIL // STRIDE < R:  # from the last window that covers x backwards, (R - 1) * DIL // STRIDE + 1
        window = (x + PAD) // STRIDE - i
        offset = x + PAD - window * STRIDE
        tap = offset // DIL
        valid = (offset % DIL == 0) & (tap < R)
    else:  # wide dilation: fewer taps than windows
        offset = x + PAD - i * DIL
        window = offset // STRIDE
        tap = x * 0 + i
        valid = (offset >= 0) & (offset % STRIDE == 0)
    return window, tap, valid & (window >= 0) & (window < OUT)


@triton.jit
def phase_element(pid, G: tl.constexpr, PHASE_H: tl.constexpr, PHASE_W: tl.constexpr, BLOCK: tl.constexpr):
    """(n, c, row, column, h, w, mask) of the elements of block ``pid`` among the pixels with (h + PAD) % STRIDE == PHASE.

    Channels are innermost; row and column count within the phase.
    """
    HP: tl.constexpr = (G.H + G.STRIDE_H - 1) // G.STRIDE_H
    WP: tl.constexpr = (G.W + G.STRIDE_W - 1) // G.STRIDE_W
    i = pid * BLOCK + tl.arange(0, BLOCK)
    row = i // (WP * G.C) % HP
    column = i // G.C % WP
    h = row * G.STRIDE_H + (PHASE_H + G.STRIDE_H - G.PAD_H % G.STRIDE_H) % G.STRIDE_H
    w = column * G.STRIDE_W + (PHASE_W + G.STRIDE_W - G.PAD_W % G.STRIDE_W) % G.STRIDE_W
    mask = inside(i, G.N * HP * WP * G.C, BLOCK)
    if G.H % G.STRIDE_H:
        mask = mask & (h < G.H)
    if G.W % G.STRIDE_W:
        mask = mask & (w < G.W)
    return i // (HP * WP * G.C), i % G.C, row, column, h, w, mask


@triton.jit
def met(row, TAP: tl.constexpr, PHASE: tl.constexpr, STRIDE: tl.constexpr, PAD: tl.constexpr, DIL: tl.constexpr):
    """The window that takes pixel ``row`` of a phase at its tap TAP, one of the phase's."""
    FIRST: tl.constexpr = (PHASE + STRIDE - PAD % STRIDE) % STRIDE
    return row + (FIRST + PAD - TAP * DIL) // STRIDE  # without a rest


@triton.jit(repr=lambda s: s.constants["NAME"])
def pool(
    ARGS,
    LOAD_X: tl.constexpr,
    EPILOGUE: tl.constexpr,
    G: tl.constexpr,
    OP: tl.constexpr,
    ACC: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BLOCK: tl.constexpr,
    NAME: tl.constexpr,
):
    """y[n,c,p,q] = max or sum (OP) of the window's x. ``LOAD_X(n, c, h, w, mask, ARGS)``,
    ``EPILOGUE(acc, index, n, c, p, q, mask, ARGS)``; for "sum" the index is 0."""
    R: tl.constexpr = G.R  # static_range takes no field (Triton 3.7)
    S: tl.constexpr = G.S
    n, c, p, q, mask = element(tl.program_id(0), G.N, G.C, G.P, G.Q, CHANNELS_LAST, BLOCK)
    index = tl.full((BLOCK,), -1, tl.int32)
    if OP == "max":
        acc = tl.full((BLOCK,), float("-inf"), ACC)
    else:
        acc = tl.zeros((BLOCK,), ACC)
    if R * S <= UNROLLED:
        for r in tl.static_range(R):
            for s in tl.static_range(S):
                acc, index = pooled(acc, index, n, c, p, q, r, s, mask, ARGS, LOAD_X, G, OP, ACC)
    else:
        for start in range(0, R * S, AT_ONCE):
            for i in tl.static_range(AT_ONCE):
                tap = start + i
                ok = mask & (tap < R * S)
                acc, index = pooled(acc, index, n, c, p, q, tap // S, tap % S, ok, ARGS, LOAD_X, G, OP, ACC)
    EPILOGUE(acc, tl.maximum(index, 0), n, c, p, q, mask, ARGS)


@triton.jit
def pooled(
    acc, index, n, c, p, q, r, s, mask, ARGS, LOAD_X: tl.constexpr, G: tl.constexpr, OP: tl.constexpr, ACC: tl.constexpr
):
    """``acc`` and ``index`` of the windows (p, q) with their tap (r, s)."""
    h = p * G.STRIDE_H - G.PAD_H + r * G.DIL_H
    w = q * G.STRIDE_W - G.PAD_W + s * G.DIL_W
    ok = mask & (h >= 0) & (h < G.H) & (w >= 0) & (w < G.W)
    x = LOAD_X(n, c, h, w, ok, ARGS).to(ACC)
    if OP == "max":
        # A window of -inf only must still name a tap that it has, hence index < 0.
        wins = ok & ((x > acc) | ((x != x) & (acc == acc)) | (index < 0))
        return tl.where(wins, x, acc), tl.where(wins, r * G.S + s, index)
    else:
        return acc + tl.where(ok, x, 0), index


@triton.jit(repr=lambda s: s.constants["NAME"])
def max_pool_grad(
    ARGS,
    LOAD_DY: tl.constexpr,
    LOAD_INDEX: tl.constexpr,
    EPILOGUE: tl.constexpr,
    G: tl.constexpr,
    ACC: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BLOCK: tl.constexpr,
    NAME: tl.constexpr,
    PHASES: tl.constexpr = 1,
):
    """dx[n,c,h,w] = sum of dy over the windows that chose (h, w). ``LOAD_DY(n, c, p, q, mask, ARGS)``,
    ``LOAD_INDEX(n, c, p, q, mask, ARGS)`` of any integer type, ``EPILOGUE(acc, n, c, h, w, mask, ARGS)``."""
    if PHASES > 1:
        pid = tl.program_id(0)
        for phase in tl.static_range(PHASES):
            if pid % PHASES == phase:
                max_pool_grad_phase(pid // PHASES, phase, ARGS, LOAD_DY, LOAD_INDEX, EPILOGUE, G, ACC, BLOCK)
    else:
        max_pool_grad_block(ARGS, LOAD_DY, LOAD_INDEX, EPILOGUE, G, ACC, CHANNELS_LAST, BLOCK)


@triton.jit
def max_pool_grad_phase(
    pid,
    PHASE: tl.constexpr,
    ARGS,
    LOAD_DY: tl.constexpr,
    LOAD_INDEX: tl.constexpr,
    EPILOGUE: tl.constexpr,
    G: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """``max_pool_grad`` of block ``pid`` of a phase."""
    R: tl.constexpr = G.R
    S: tl.constexpr = G.S
    PHASE_H: tl.constexpr = PHASE // G.STRIDE_W
    PHASE_W: tl.constexpr = PHASE % G.STRIDE_W
    n, c, row, column, h, w, mask = phase_element(pid, G, PHASE_H, PHASE_W, BLOCK)
    acc = tl.zeros((BLOCK,), ACC)
    for r in tl.static_range(R):
        if r * G.DIL_H % G.STRIDE_H == PHASE_H:
            p = met(row, r, PHASE_H, G.STRIDE_H, G.PAD_H, G.DIL_H)
            for s in tl.static_range(S):
                if s * G.DIL_W % G.STRIDE_W == PHASE_W:
                    q = met(column, s, PHASE_W, G.STRIDE_W, G.PAD_W, G.DIL_W)
                    ok = mask & (p >= 0) & (p < G.P) & (q >= 0) & (q < G.Q)
                    index = LOAD_INDEX(n, c, p, q, ok, ARGS).to(tl.int32)
                    dy = LOAD_DY(n, c, p, q, ok, ARGS).to(ACC)
                    acc += tl.where(ok & (index == r * S + s), dy, 0)
    EPILOGUE(acc, n, c, h, w, mask, ARGS)


@triton.jit
def max_pool_grad_block(
    ARGS,
    LOAD_DY: tl.constexpr,
    LOAD_INDEX: tl.constexpr,
    EPILOGUE: tl.constexpr,
    G: tl.constexpr,
    ACC: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """``max_pool_grad`` of a block of pixels in memory order."""
    n, c, h, w, mask = element(tl.program_id(0), G.N, G.C, G.H, G.W, CHANNELS_LAST, BLOCK)
    COVER_H: tl.constexpr = min(G.R, (G.R - 1) * G.DIL_H // G.STRIDE_H + 1)
    COVER_W: tl.constexpr = min(G.S, (G.S - 1) * G.DIL_W // G.STRIDE_W + 1)
    acc = tl.zeros((BLOCK,), ACC)
    if COVER_H * COVER_W <= UNROLLED:
        for i in tl.static_range(COVER_H):
            for j in tl.static_range(COVER_W):
                acc += chosen(n, c, h, w, i, j, mask, ARGS, LOAD_DY, LOAD_INDEX, G, ACC)
    else:
        for start in range(0, COVER_H * COVER_W, AT_ONCE):
            for i in tl.static_range(AT_ONCE):
                at = start + i
                ok = mask & (at < COVER_H * COVER_W)
                acc += chosen(n, c, h, w, at // COVER_W, at % COVER_W, ok, ARGS, LOAD_DY, LOAD_INDEX, G, ACC)
    EPILOGUE(acc, n, c, h, w, mask, ARGS)


@triton.jit
def chosen(n, c, h, w, i, j, mask, ARGS, LOAD_DY: tl.constexpr, LOAD_INDEX: tl.constexpr, G: tl.constexpr, ACC: tl.constexpr):
    """dy of the windows of numbers i and j that cover the pixels (h, w), where these were the largest."""
    p, r, p_ok = covering(h, i, G.R, G.P, G.STRIDE_H, G.PAD_H, G.DIL_H)
    q, s, q_ok = covering(w, j, G.S, G.Q, G.STRIDE_W, G.PAD_W, G.DIL_W)
    ok = mask & p_ok & q_ok
    index = LOAD_INDEX(n, c, p, q, ok, ARGS).to(tl.int32)
    dy = LOAD_DY(n, c, p, q, ok, ARGS).to(ACC)
    return tl.where(ok & (index == r * G.S + s), dy, 0)


@triton.jit(repr=lambda s: s.constants["NAME"])
def sum_pool_grad(
    ARGS,
    LOAD_DY: tl.constexpr,
    EPILOGUE: tl.constexpr,
    G: tl.constexpr,
    ACC: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BLOCK: tl.constexpr,
    NAME: tl.constexpr,
):
    """dx[n,c,h,w] = sum of dy over the windows that cover (h, w). ``LOAD_DY(n, c, p, q, mask, ARGS)``,
    ``EPILOGUE(acc, n, c, h, w, mask, ARGS)``. Average pooling divides in LOAD_DY."""
    n, c, h, w, mask = element(tl.program_id(0), G.N, G.C, G.H, G.W, CHANNELS_LAST, BLOCK)
    COVER_H: tl.constexpr = min(G.R, (G.R - 1) * G.DIL_H // G.STRIDE_H + 1)
    COVER_W: tl.constexpr = min(G.S, (G.S - 1) * G.DIL_W // G.STRIDE_W + 1)
    acc = tl.zeros((BLOCK,), ACC)
    if COVER_H * COVER_W <= UNROLLED:
        for i in tl.static_range(COVER_H):
            for j in tl.static_range(COVER_W):
                acc += covered(n, c, h, w, i, j, mask, ARGS, LOAD_DY, G, ACC)
    else:
        for start in range(0, COVER_H * COVER_W, AT_ONCE):
            for i in tl.static_range(AT_ONCE):
                at = start + i
                ok = mask & (at < COVER_H * COVER_W)
                acc += covered(n, c, h, w, at // COVER_W, at % COVER_W, ok, ARGS, LOAD_DY, G, ACC)
    EPILOGUE(acc, n, c, h, w, mask, ARGS)


@triton.jit
def covered(n, c, h, w, i, j, mask, ARGS, LOAD_DY: tl.constexpr, G: tl.constexpr, ACC: tl.constexpr):
    """dy of the windows of numbers i and j that cover the pixels (h, w)."""
    p, _, p_ok = covering(h, i, G.R, G.P, G.STRIDE_H, G.PAD_H, G.DIL_H)
    q, _, q_ok = covering(w, j, G.S, G.Q, G.STRIDE_W, G.PAD_W, G.DIL_W)
    ok = mask & p_ok & q_ok
    return tl.where(ok, LOAD_DY(n, c, p, q, ok, ARGS).to(ACC), 0)


@triton.jit(repr=lambda s: s.constants["NAME"])
def max_pool_gather(
    ARGS,
    LOAD_X: tl.constexpr,
    LOAD_INDEX: tl.constexpr,
    EPILOGUE: tl.constexpr,
    G: tl.constexpr,
    ACC: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BLOCK: tl.constexpr,
    NAME: tl.constexpr,
):
    """y[n,c,p,q] = x at the tap that the window chose, 0 if that is padding: the transpose of ``max_pool_grad``.

    ``LOAD_X(n, c, h, w, mask, ARGS)``, ``LOAD_INDEX(n, c, p, q, mask, ARGS)``,
    ``EPILOGUE(acc, n, c, p, q, mask, ARGS)``."""
    n, c, p, q, mask = element(tl.program_id(0), G.N, G.C, G.P, G.Q, CHANNELS_LAST, BLOCK)
    index = LOAD_INDEX(n, c, p, q, mask, ARGS).to(tl.int32)
    h = p * G.STRIDE_H - G.PAD_H + index // G.S * G.DIL_H
    w = q * G.STRIDE_W - G.PAD_W + index % G.S * G.DIL_W
    ok = mask & (index < G.R * G.S) & (h >= 0) & (h < G.H) & (w >= 0) & (w < G.W)
    EPILOGUE(tl.where(ok, LOAD_X(n, c, h, w, ok, ARGS).to(ACC), 0), n, c, p, q, mask, ARGS)

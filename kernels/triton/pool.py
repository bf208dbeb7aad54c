"""2-D pooling, its gradients, and the gradient of max pooling's gradient, each in gather form.

Every kernel computes BLOCK elements per program and hands them to the epilogue; loaders return 0 where mask is false. With
CHANNELS, where these are innermost, a block is a tile of BLOCK // CHANNELS pixels by CHANNELS channels, and a pixel's place is
found once for all the channels that a thread has of it. With 0 it is a run in memory order (channel innermost when
CHANNELS_LAST, else column innermost). Max pooling: NaN wins over everything, the first tap wins a tie, padding never wins; the
winner is named by its tap ``r * S + s`` (int32, 0 for a window that lies wholly in padding, whose maximum is -inf). Gradients
visit, for each input pixel, the windows that cover it and add in a fixed order: deterministic, no atomics. With CHANNELS a
program has cells of STRIDE_H x STRIDE_W pixels, which the same windows cover: each window is loaded once for a cell, nothing is
divided, and none is looked at in vain. Up to UNROLLED taps are written out, more are taken AT_ONCE in a loop: a compiler's time
would grow with the window. ACC is the type of comparison and accumulation. G is the ``geometry.Geometry``. Grids:
``config.pool_grid``.
"""

import triton
import triton.language as tl

from .tiles import inside, program

UNROLLED = tl.constexpr(64)
AT_ONCE = tl.constexpr(8)


@triton.jit
def element(
    pid,
    N: tl.constexpr,
    C: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    LAST: tl.constexpr,
    BLOCK: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """(n, c, h, w, mask) of the elements of block ``pid``: in memory order, or of a tile, whose channels are columns."""
    if CHANNELS:
        TILES: tl.constexpr = (C + CHANNELS - 1) // CHANNELS
        PIXELS: tl.constexpr = BLOCK // CHANNELS
        i = (pid // TILES * PIXELS + tl.arange(0, PIXELS))[:, None]
        c = (pid % TILES * CHANNELS + tl.arange(0, CHANNELS))[None, :]
        return i // (H * W), c, i // W % H, i % W, inside(i, N * H * W, PIXELS) & inside(c, C, CHANNELS)
    else:
        i = pid * BLOCK + tl.arange(0, BLOCK)
        mask = inside(i, N * C * H * W, BLOCK)
        if LAST:
            return i // (H * W * C), i % C, i // (W * C) % H, i // C % W, mask
        else:
            return i // (C * H * W), i // (H * W) % C, i // W % H, i % W, mask


@triton.jit
def place(
    p,
    tap,
    mask,
    FIRST: tl.constexpr,
    LAST: tl.constexpr,
    SIZE: tl.constexpr,
    OUT: tl.constexpr,
    STRIDE: tl.constexpr,
    PAD: tl.constexpr,
    DIL: tl.constexpr,
):
    """(x, mask) of the taps of windows ``p``, of OUT, along one axis of SIZE; taps from FIRST to LAST need no other bounds."""
    x = p * STRIDE - PAD + tap * DIL
    if FIRST * DIL < PAD:
        mask = mask & (x >= 0)
    if (OUT - 1) * STRIDE - PAD + LAST * DIL >= SIZE:
        mask = mask & (x < SIZE)
    return x, mask


@triton.jit
def first_tap(
    p, R: tl.constexpr, SIZE: tl.constexpr, OUT: tl.constexpr, STRIDE: tl.constexpr, PAD: tl.constexpr, DIL: tl.constexpr
):
    """The first tap along one axis of windows ``p`` that is not padding, R or more where there is none."""
    tap = p * 0
    if PAD > 0:
        tap = tl.maximum(PAD - p * STRIDE + DIL - 1, 0) // DIL
    if (OUT - 1) * STRIDE - PAD >= SIZE or DIL > SIZE:
        tap = tl.where(p * STRIDE - PAD + tap * DIL < SIZE, tap, R)
    return tap


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
    CHANNELS: tl.constexpr = 0,
    PID=None,
):
    """y[n,c,p,q] = max or sum (OP) of the window's x. ``LOAD_X(n, c, h, w, mask, ARGS)``,
    ``EPILOGUE(acc, index, n, c, p, q, mask, ARGS)``; for "sum" the index is 0."""
    R: tl.constexpr = G.R  # static_range takes no field (Triton 3.7)
    S: tl.constexpr = G.S
    n, c, p, q, mask = element(program(PID), G.N, G.C, G.P, G.Q, CHANNELS_LAST, BLOCK, CHANNELS)
    index = tl.zeros(mask.shape, tl.int32)
    if OP == "max":  # a window of -inf only must still name a tap that it has
        acc = tl.full(mask.shape, float("-inf"), ACC)
        first_r = first_tap(p, G.R, G.H, G.P, G.STRIDE_H, G.PAD_H, G.DIL_H)
        first_s = first_tap(q, G.S, G.W, G.Q, G.STRIDE_W, G.PAD_W, G.DIL_W)
        index += tl.where((first_r < R) & (first_s < S), first_r * S + first_s, 0)
    else:
        acc = tl.zeros(mask.shape, ACC)
    if R * S <= UNROLLED:
        for r in tl.static_range(R):
            for s in tl.static_range(S):
                acc, index = pooled(acc, index, n, c, p, q, r, s, mask, ARGS, LOAD_X, G, OP, ACC, True)
    else:
        for start in range(0, R * S, AT_ONCE):
            for i in tl.static_range(AT_ONCE):
                tap = start + i
                ok = mask & (tap < R * S)
                acc, index = pooled(acc, index, n, c, p, q, tap // S, tap % S, ok, ARGS, LOAD_X, G, OP, ACC, False)
    EPILOGUE(acc, index, n, c, p, q, mask, ARGS)


@triton.jit
def pooled(
    acc,
    index,
    n,
    c,
    p,
    q,
    r,
    s,
    mask,
    ARGS,
    LOAD_X: tl.constexpr,
    G: tl.constexpr,
    OP: tl.constexpr,
    ACC: tl.constexpr,
    KNOWN: tl.constexpr,
):
    """``acc`` and ``index`` of the windows (p, q) with their tap (r, s), KNOWN to the compiler or not."""
    h, ok = place(p, r, mask, r if KNOWN else 0, r if KNOWN else G.R - 1, G.H, G.P, G.STRIDE_H, G.PAD_H, G.DIL_H)
    w, ok = place(q, s, ok, s if KNOWN else 0, s if KNOWN else G.S - 1, G.W, G.Q, G.STRIDE_W, G.PAD_W, G.DIL_W)
    x = LOAD_X(n, c, h, w, ok, ARGS).to(ACC)
    if OP == "max":
        wins = ok & (acc == acc) & ~(x <= acc)  # so that NaN wins, and stays
        return tl.where(wins, x, acc), tl.where(wins, r * G.S + s, index)
    else:
        return acc + x, index


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
    CHANNELS: tl.constexpr = 0,
    PID=None,
):
    """dx[n,c,h,w] = sum of dy over the windows that chose (h, w). ``LOAD_DY(n, c, p, q, mask, ARGS)``,
    ``LOAD_INDEX(n, c, p, q, mask, ARGS)`` of any integer type, ``EPILOGUE(acc, n, c, h, w, mask, ARGS)``."""
    if CHANNELS:
        grad_of_cells(program(PID), ARGS, LOAD_DY, LOAD_INDEX, EPILOGUE, G, "max", ACC, BLOCK, CHANNELS)
    else:
        grad_of_pixels(program(PID), ARGS, LOAD_DY, LOAD_INDEX, EPILOGUE, G, "max", ACC, CHANNELS_LAST, BLOCK)


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
    CHANNELS: tl.constexpr = 0,
    PID=None,
):
    """dx[n,c,h,w] = sum of dy over the windows that cover (h, w). ``LOAD_DY(n, c, p, q, mask, ARGS)``,
    ``EPILOGUE(acc, n, c, h, w, mask, ARGS)``. Average pooling divides in LOAD_DY."""
    if CHANNELS:
        grad_of_cells(program(PID), ARGS, LOAD_DY, LOAD_DY, EPILOGUE, G, "sum", ACC, BLOCK, CHANNELS)
    else:
        grad_of_pixels(program(PID), ARGS, LOAD_DY, LOAD_DY, EPILOGUE, G, "sum", ACC, CHANNELS_LAST, BLOCK)


@triton.jit
def grad_of_cells(
    pid,
    ARGS,
    LOAD_DY: tl.constexpr,
    LOAD_INDEX: tl.constexpr,
    EPILOGUE: tl.constexpr,
    G: tl.constexpr,
    OP: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """The gradient of ``pool`` for a tile of cells; the pixels of one are counted row by row."""
    ROWS: tl.constexpr = (G.H - 1 + G.PAD_H % G.STRIDE_H) // G.STRIDE_H + 1
    COLUMNS: tl.constexpr = (G.W - 1 + G.PAD_W % G.STRIDE_W) // G.STRIDE_W + 1
    DOWN: tl.constexpr = (G.R - 1) * G.DIL_H // G.STRIDE_H + 1  # windows that cover a cell
    ACROSS: tl.constexpr = (G.S - 1) * G.DIL_W // G.STRIDE_W + 1
    STRIDE_H: tl.constexpr = G.STRIDE_H
    STRIDE_W: tl.constexpr = G.STRIDE_W
    n, c, row, column, mask = element(pid, G.N, G.C, ROWS, COLUMNS, True, BLOCK, CHANNELS)
    sums = ()
    for _ in tl.static_range(STRIDE_H * STRIDE_W):
        sums += (tl.zeros(mask.shape, ACC),)
    for i in tl.static_range(DOWN):
        p, above = place(row, -i, mask, -i, -i, G.P, ROWS, 1, -(G.PAD_H // STRIDE_H), 1)
        for j in tl.static_range(ACROSS):
            q, ok = place(column, -j, above, -j, -j, G.Q, COLUMNS, 1, -(G.PAD_W // STRIDE_W), 1)
            dy = LOAD_DY(n, c, p, q, ok, ARGS).to(ACC)
            index = LOAD_INDEX(n, c, p, q, ok, ARGS).to(tl.int32) if OP == "max" else 0
            more = ()
            for y in tl.static_range(STRIDE_H):
                for x in tl.static_range(STRIDE_W):
                    more += (met(sums[y * STRIDE_W + x], dy, index, i * STRIDE_H + y, j * STRIDE_W + x, G, OP),)
            sums = more
    for y in tl.static_range(STRIDE_H):
        h, below = place(row, y, mask, y, y, G.H, ROWS, STRIDE_H, G.PAD_H % STRIDE_H, 1)
        for x in tl.static_range(STRIDE_W):
            w, ok = place(column, x, below, x, x, G.W, COLUMNS, STRIDE_W, G.PAD_W % STRIDE_W, 1)
            EPILOGUE(sums[y * STRIDE_W + x], n, c, h, w, ok, ARGS)


@triton.jit
def met(acc, dy, index, BELOW: tl.constexpr, BESIDE: tl.constexpr, G: tl.constexpr, OP: tl.constexpr):
    """``acc`` of pixels with dy of the windows that begin so many above and before them, where a tap meets them."""
    if BELOW % G.DIL_H == 0 and BESIDE % G.DIL_W == 0 and BELOW // G.DIL_H < G.R and BESIDE // G.DIL_W < G.S:
        if OP == "max":
            acc += tl.where(index == BELOW // G.DIL_H * G.S + BESIDE // G.DIL_W, dy, 0)
        else:
            acc += dy
    return acc


@triton.jit
def grad_of_pixels(
    pid,
    ARGS,
    LOAD_DY: tl.constexpr,
    LOAD_INDEX: tl.constexpr,
    EPILOGUE: tl.constexpr,
    G: tl.constexpr,
    OP: tl.constexpr,
    ACC: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The gradient of ``pool`` for a block of pixels in memory order."""
    n, c, h, w, mask = element(pid, G.N, G.C, G.H, G.W, CHANNELS_LAST, BLOCK, 0)
    COVER_H: tl.constexpr = min(G.R, (G.R - 1) * G.DIL_H // G.STRIDE_H + 1)
    COVER_W: tl.constexpr = min(G.S, (G.S - 1) * G.DIL_W // G.STRIDE_W + 1)
    acc = tl.zeros(mask.shape, ACC)
    if COVER_H * COVER_W <= UNROLLED:
        for i in tl.static_range(COVER_H):
            for j in tl.static_range(COVER_W):
                acc += covered(n, c, h, w, i, j, mask, ARGS, LOAD_DY, LOAD_INDEX, G, OP, ACC)
    else:
        for start in range(0, COVER_H * COVER_W, AT_ONCE):
            for i in tl.static_range(AT_ONCE):
                at = start + i
                ok = mask & (at < COVER_H * COVER_W)
                acc += covered(n, c, h, w, at // COVER_W, at % COVER_W, ok, ARGS, LOAD_DY, LOAD_INDEX, G, OP, ACC)
    EPILOGUE(acc, n, c, h, w, mask, ARGS)


@triton.jit
def covered(
    n,
    c,
    h,
    w,
    i,
    j,
    mask,
    ARGS,
    LOAD_DY: tl.constexpr,
    LOAD_INDEX: tl.constexpr,
    G: tl.constexpr,
    OP: tl.constexpr,
    ACC: tl.constexpr,
):
    """dy of the windows of numbers i and j that cover the pixels (h, w); of "max" where these were the largest."""
    p, r, p_ok = covering(h, i, G.R, G.P, G.STRIDE_H, G.PAD_H, G.DIL_H)
    q, s, q_ok = covering(w, j, G.S, G.Q, G.STRIDE_W, G.PAD_W, G.DIL_W)
    ok = mask & p_ok & q_ok
    dy = LOAD_DY(n, c, p, q, ok, ARGS).to(ACC)
    if OP == "max":
        dy = tl.where(LOAD_INDEX(n, c, p, q, ok, ARGS).to(tl.int32) == r * G.S + s, dy, 0)
    return dy


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
    CHANNELS: tl.constexpr = 0,
    PID=None,
):
    """y[n,c,p,q] = x at the tap that the window chose, 0 if that is padding: the transpose of ``max_pool_grad``.

    ``LOAD_X(n, c, h, w, mask, ARGS)``, ``LOAD_INDEX(n, c, p, q, mask, ARGS)``,
    ``EPILOGUE(acc, n, c, p, q, mask, ARGS)``."""
    n, c, p, q, mask = element(program(PID), G.N, G.C, G.P, G.Q, CHANNELS_LAST, BLOCK, CHANNELS)
    index = LOAD_INDEX(n, c, p, q, mask, ARGS).to(tl.int32)
    h = p * G.STRIDE_H - G.PAD_H + index // G.S * G.DIL_H
    w = q * G.STRIDE_W - G.PAD_W + index % G.S * G.DIL_W
    ok = mask & (index < G.R * G.S) & (h >= 0) & (h < G.H) & (w >= 0) & (w < G.W)
    EPILOGUE(LOAD_X(n, c, h, w, ok, ARGS).to(ACC), n, c, p, q, mask, ARGS)

"""``conv_fwd``, and ``conv_dgrad`` of stride 1, with operands through the tensor memory accelerator of sm_90 and newer.

For dense maps, channels innermost, and dense filters [R, S, C, K] or (W_ROWS false) [K, R, S, C]; X_PLACES (one to three maps
that a prologue makes one operand of) and W_PLACE are the places in ARGS of their pointers. A tile's rows are a box of pixels,
BM / (BH * BW) images x BH x BW, so each tap of a block of channels is one box of the map: one instruction of one thread,
without masks or addresses, and what lies outside, the padding, reads 0. ``PREPARE_X(x, n, c, h, w, mask, ARGS)`` is given the
tuple of loaded blocks and returns what to multiply: 0 where mask is false (``unprepared`` takes the one block as it is). The
gradient is the same walk the other way: GRADIENT takes dy for x and turns the filter. ``EPILOGUE`` is that of the kernel it
stands for. Strides other than 1: only of forward, with one tap and no padding, whose descriptor leaves out the pixels between.
Groups: one. Sizes that can be taken: ``config.conv_takes_tma``. PROGRAMS, and the allocator that descriptors want, as in
``matmul_tma``. Grid: ``config.conv_tma_grid``.
"""

import triton
import triton.language as tl

from .tiles import dot, grouped_tile, inside, program


@triton.jit
def unprepared(x, n, c, h, w, mask, ARGS):
    """The one block as it was loaded."""
    return x[0]


@triton.jit(repr=lambda s: s.constants["NAME"])
def conv_tma(
    ARGS,
    PREPARE_X: tl.constexpr,
    EPILOGUE: tl.constexpr,
    X_PLACES: tl.constexpr,
    W_PLACE: tl.constexpr,
    W_ROWS: tl.constexpr,
    GRADIENT: tl.constexpr,
    G: tl.constexpr,
    INPUT_PRECISION: tl.constexpr,
    ACC: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    BH: tl.constexpr,
    BW: tl.constexpr,
    PROGRAMS: tl.constexpr,
    NAME: tl.constexpr,
    PID=None,
):
    # What is read, summed over and written: x, c, y; of the gradient dy, k, dx.
    DEPTH: tl.constexpr = G.K if GRADIENT else G.C
    COLUMNS: tl.constexpr = G.C if GRADIENT else G.K
    IN_H: tl.constexpr = G.P if GRADIENT else G.H
    IN_W: tl.constexpr = G.Q if GRADIENT else G.W
    OUT_H: tl.constexpr = G.H if GRADIENT else G.P
    OUT_W: tl.constexpr = G.W if GRADIENT else G.Q
    # Images, rows and pixels as boxes see them: those that meet only themselves are one long row, without edges.
    POINTWISE: tl.constexpr = G.R * G.S * G.STRIDE_H * G.STRIDE_W == 1 and G.H * G.W == G.P * G.Q
    IMAGES: tl.constexpr = 1 if POINTWISE else G.N
    ROWS: tl.constexpr = 1 if POINTWISE else (IN_H + G.STRIDE_H - 1) // G.STRIDE_H
    PIXELS: tl.constexpr = G.N * G.H * G.W if POINTWISE else (IN_W + G.STRIDE_W - 1) // G.STRIDE_W
    OUT_ROWS: tl.constexpr = 1 if POINTWISE else OUT_H
    OUT_PIXELS: tl.constexpr = G.N * G.H * G.W if POINTWISE else OUT_W
    BB: tl.constexpr = BM // (BH * BW)
    DOWN: tl.constexpr = (OUT_ROWS + BH - 1) // BH
    ACROSS: tl.constexpr = (OUT_PIXELS + BW - 1) // BW
    TILES_M: tl.constexpr = (IMAGES + BB - 1) // BB * DOWN * ACROSS
    TILES_N: tl.constexpr = (COLUMNS + BN - 1) // BN
    TILES: tl.constexpr = TILES_M * TILES_N
    BLOCKS: tl.constexpr = (DEPTH + BK - 1) // BK

    first_map = maps_in_memory(
        ARGS[X_PLACES[0]], IMAGES, ROWS, PIXELS, DEPTH, IN_H, IN_W, G.STRIDE_H, G.STRIDE_W, BB, BH, BW, BK
    )
    if len(X_PLACES) > 1:
        second_map = maps_in_memory(
            ARGS[X_PLACES[1]], IMAGES, ROWS, PIXELS, DEPTH, IN_H, IN_W, G.STRIDE_H, G.STRIDE_W, BB, BH, BW, BK
        )
    if len(X_PLACES) > 2:
        third_map = maps_in_memory(
            ARGS[X_PLACES[2]], IMAGES, ROWS, PIXELS, DEPTH, IN_H, IN_W, G.STRIDE_H, G.STRIDE_W, BB, BH, BW, BK
        )
    filters = filters_in_memory(ARGS[W_PLACE], G.C, G.K, G.R * G.S, BN if GRADIENT else BK, BK if GRADIENT else BN, W_ROWS)
    for tile in tl.range(program(PID), TILES, PROGRAMS if PROGRAMS else TILES, flatten=PROGRAMS > 0):
        tile_m, tile_n = grouped_tile(tile, TILES_M, TILES_N, 8)
        n0 = tile_m // (DOWN * ACROSS) * BB
        p0 = tile_m // ACROSS % DOWN * BH
        q0 = tile_m % ACROSS * BW
        m = tl.arange(0, BM)[:, None]
        n = n0 + m // (BH * BW)
        p = p0 + m // BW % BH
        q = q0 + m % BW
        n_ok = inside(n, IMAGES, BB)
        acc = tl.zeros((BM, BN), ACC)
        for t in range(0, G.R * G.S * BLOCKS):
            tap = t // BLOCKS
            first = t % BLOCKS * BK
            # Tap 0 of forward meets the row PAD above; the gradient goes the other way.
            dh = G.PAD_H - tap // G.S * G.DIL_H if GRADIENT else tap // G.S * G.DIL_H - G.PAD_H
            dw = G.PAD_W - tap % G.S * G.DIL_W if GRADIENT else tap % G.S * G.DIL_W - G.PAD_W
            x = (first_map.load([n0, p0 + dh, q0 + dw, first]).reshape(BM, BK),)
            if len(X_PLACES) > 1:
                x += (second_map.load([n0, p0 + dh, q0 + dw, first]).reshape(BM, BK),)
            if len(X_PLACES) > 2:
                x += (third_map.load([n0, p0 + dh, q0 + dw, first]).reshape(BM, BK),)
            c = first + tl.arange(0, BK)
            h = p + dh
            w = q + dw
            x_ok = n_ok & (h >= 0) & (h < ROWS) & (w >= 0) & (w < PIXELS) & inside(c, DEPTH, BK)[None, :]
            if POINTWISE:
                left = PREPARE_X(x, w // (G.H * G.W), c[None, :], w // G.W % G.H, w % G.W, x_ok, ARGS)
            else:
                left = PREPARE_X(x, n, c[None, :], h * G.STRIDE_H, w * G.STRIDE_W, x_ok, ARGS)
            if GRADIENT:
                right = filter_block(filters, tap, tile_n * BN, first, BN, BK, W_ROWS).trans()
            else:
                right = filter_block(filters, tap, first, tile_n * BN, BK, BN, W_ROWS)
            acc = dot(left, right, acc, INPUT_PRECISION)
        k = tile_n * BN + tl.arange(0, BN)
        y_ok = n_ok & inside(p, OUT_ROWS, BH) & inside(q, OUT_PIXELS, BW) & inside(k, COLUMNS, BN)[None, :]
        if POINTWISE:
            EPILOGUE(acc, q // (G.H * G.W), k[None, :], q // G.W % G.H, q % G.W, y_ok, ARGS)
        else:
            EPILOGUE(acc, n, k[None, :], p, q, y_ok, ARGS)


@triton.jit
def maps_in_memory(
    base,
    IMAGES: tl.constexpr,
    ROWS: tl.constexpr,
    PIXELS: tl.constexpr,
    C: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    BB: tl.constexpr,
    BH: tl.constexpr,
    BW: tl.constexpr,
    BC: tl.constexpr,
):
    """The descriptor of every STRIDE-th pixel of maps H x W x C, for boxes."""
    return tl.make_tensor_descriptor(
        base, [IMAGES, ROWS, PIXELS, C], [H * W * C, STRIDE_H * W * C, STRIDE_W * C, 1], [BB, BH, BW, BC]
    )


@triton.jit
def filters_in_memory(
    base, C: tl.constexpr, K: tl.constexpr, TAPS: tl.constexpr, BC: tl.constexpr, BF: tl.constexpr, W_ROWS: tl.constexpr
):
    """The descriptor of filters, for blocks of BC x BF channels of one tap."""
    if W_ROWS:
        return tl.make_tensor_descriptor(base, [TAPS, C, K], [C * K, K, 1], [1, BC, BF])
    else:
        return tl.make_tensor_descriptor(base, [K, TAPS, C], [TAPS * C, C, 1], [BF, 1, BC])


@triton.jit
def filter_block(filters, tap, c, k, BC: tl.constexpr, BF: tl.constexpr, W_ROWS: tl.constexpr):
    """The BC x BF block of tap ``tap`` from channels c and k on."""
    if W_ROWS:
        return filters.load([tap, c, k]).reshape(BC, BF)
    else:
        return filters.load([k, tap, c]).reshape(BF, BC).trans()

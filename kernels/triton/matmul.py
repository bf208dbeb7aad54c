"""Matrix product C[b] = A[b] @ B[b], tiled, with closures in place of the operands and of the result.

Takes ``LOAD_A(b, m, k, mask, ARGS)`` and ``LOAD_B(b, k, n, mask, ARGS)``, which return tiles of one element type that
are 0 where mask is false (there the indices may be out of range), and ``EPILOGUE(acc, b, m, n, mask, ARGS)``, which
stores. Returns nothing: the epilogue owns the result. A tile is BM x BN of one batch entry, accumulated over blocks of
BK in ACC (float32, or float64 for float64 operands); tiles are at least 16 wide and masked, so every size is taken.
Algorithm: blocked GEMM on tensor cores with grouped ("swizzled") tile order for L2 reuse. PROGRAMS 0: each program
computes one tile; else that many programs walk the tiles ("persistent"), and the loads of a tile overlap the epilogue of
the one before. Split-K is a batch of partial products (the graph's business). Grid: ``config.matmul_grid``.

``matmul_pair`` computes A[b] @ B[b] and A[b] @ C[b] (``LOAD_C`` as ``LOAD_B``): a program has a tile of both, and the epilogue
``EPILOGUE(acc, acc1, b, m, n, mask, ARGS)`` gets both.
"""

import triton
import triton.language as tl

from .tiles import INTERPRETED, dot, grouped_tile, inside, program


@triton.jit(repr=lambda s: s.constants["NAME"])
def matmul(
    ARGS,
    LOAD_A: tl.constexpr,
    LOAD_B: tl.constexpr,
    EPILOGUE: tl.constexpr,
    BATCH: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
    INPUT_PRECISION: tl.constexpr,
    ACC: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    PROGRAMS: tl.constexpr,
    NAME: tl.constexpr,
    PID=None,
):
    pid = program(PID)
    if PROGRAMS:
        TILES: tl.constexpr = BATCH * ((M + BM - 1) // BM) * ((N + BN - 1) // BN)
        for tile in tl.range(pid, TILES, PROGRAMS, flatten=True):
            matmul_tile(tile, ARGS, LOAD_A, LOAD_B, EPILOGUE, M, N, K, INPUT_PRECISION, ACC, BM, BN, BK)
    else:
        matmul_tile(pid, ARGS, LOAD_A, LOAD_B, EPILOGUE, M, N, K, INPUT_PRECISION, ACC, BM, BN, BK)


@triton.jit
def matmul_tile(
    tile,
    ARGS,
    LOAD_A: tl.constexpr,
    LOAD_B: tl.constexpr,
    EPILOGUE: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
    INPUT_PRECISION: tl.constexpr,
    ACC: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """Tile number ``tile`` of all batch entries."""
    b, m, n, m_ok, n_ok = coordinates(tile, M, N, BM, BN)
    acc = tl.zeros((BM, BN), ACC)
    for start in range(0, K, BK):
        k = start + tl.arange(0, BK)
        k_ok = inside(k, K, BK)
        left = LOAD_A(b, m, k[None, :], m_ok & k_ok[None, :], ARGS)
        right = LOAD_B(b, k[:, None], n, k_ok[:, None] & n_ok, ARGS)
        acc = dot(left, right, acc, INPUT_PRECISION)
    EPILOGUE(acc, b, m, n, m_ok & n_ok, ARGS)


@triton.jit
def coordinates(tile, M: tl.constexpr, N: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    """Tile number ``tile`` of all batch entries: its entry, its rows [BM, 1] and columns [1, BN], and which of each exist."""
    TILES_M: tl.constexpr = (M + BM - 1) // BM
    TILES_N: tl.constexpr = (N + BN - 1) // BN
    b = tile // (TILES_M * TILES_N)
    if INTERPRETED:  # where a mask of a tensor and a scalar has no type
        b += tl.zeros((1, 1), tl.int32)
    tile_m, tile_n = grouped_tile(tile % (TILES_M * TILES_N), TILES_M, TILES_N, 8)
    m = tile_m * BM + tl.arange(0, BM)
    n = tile_n * BN + tl.arange(0, BN)
    return b, m[:, None], n[None, :], inside(m, M, BM)[:, None], inside(n, N, BN)[None, :]


@triton.jit(repr=lambda s: s.constants["NAME"])
def matmul_pair(
    ARGS,
    LOAD_A: tl.constexpr,
    LOAD_B: tl.constexpr,
    LOAD_C: tl.constexpr,
    EPILOGUE: tl.constexpr,
    BATCH: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
    INPUT_PRECISION: tl.constexpr,
    ACC: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    NAME: tl.constexpr,
    PID=None,
):
    b, m, n, m_ok, n_ok = coordinates(program(PID), M, N, BM, BN)
    first = tl.zeros((BM, BN), ACC)
    second = tl.zeros((BM, BN), ACC)
    for start in range(0, K, BK):
        k = start + tl.arange(0, BK)
        k_ok = inside(k, K, BK)
        left = LOAD_A(b, m, k[None, :], m_ok & k_ok[None, :], ARGS)
        right = LOAD_B(b, k[:, None], n, k_ok[:, None] & n_ok, ARGS)
        first = dot(left, right, first, INPUT_PRECISION)
        right = LOAD_C(b, k[:, None], n, k_ok[:, None] & n_ok, ARGS)
        second = dot(left, right, second, INPUT_PRECISION)
    EPILOGUE(first, second, b, m, n, m_ok & n_ok, ARGS)

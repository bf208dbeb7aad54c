"""``matmul`` whose operands come through the tensor memory accelerator of sm_90 and newer, as they lie in memory.

For dense operands that nothing has to be done to on load: A and B are the places in ARGS of their pointers, A_ROWS and
B_ROWS say whether they lie [BATCH, M, K] and [BATCH, K, N], or with the last two dimensions exchanged. The innermost size
must be a multiple of 16 bytes, and so must the address (``config.takes_tma``). A load is then one instruction of one
thread, from a descriptor that each program makes once, and what lies outside the tensor reads 0: no masks, no addresses
in registers. ``EPILOGUE`` and the grid are those of ``matmul``; PROGRAMS, too, but it should not be 0 where tiles are
many, since making descriptors takes about a microsecond. With SPECIALIZED a group of warps loads and does nothing else, where
the compiler can do that: on sm_90 with BATCH 1 and num_warps 4, which are then 12. The launcher must give Triton an
allocator for descriptors (``triton.set_allocator``).
"""

import triton
import triton.language as tl

from .tiles import INTERPRETED, dot, grouped_tile, inside, program


@triton.jit(repr=lambda s: s.constants["NAME"])
def matmul_tma(
    ARGS,
    EPILOGUE: tl.constexpr,
    A: tl.constexpr,
    B: tl.constexpr,
    A_ROWS: tl.constexpr,
    B_ROWS: tl.constexpr,
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
    SPECIALIZED: tl.constexpr = 0,
):
    TILES_M: tl.constexpr = (M + BM - 1) // BM
    TILES_N: tl.constexpr = (N + BN - 1) // BN
    TILES: tl.constexpr = BATCH * TILES_M * TILES_N
    left_in_memory = matrices(ARGS[A], BATCH, M, K, BM, BK, A_ROWS)
    right_in_memory = matrices(ARGS[B], BATCH, K, N, BK, BN, B_ROWS)
    for tile in tl.range(program(PID), TILES, PROGRAMS if PROGRAMS else TILES, flatten=PROGRAMS > 0):
        b = tile // (TILES_M * TILES_N)
        tile_m, tile_n = grouped_tile(tile % (TILES_M * TILES_N), TILES_M, TILES_N, 8)
        acc = tl.zeros((BM, BN), ACC)
        for start in tl.range(0, K, BK, warp_specialize=SPECIALIZED > 0):
            left = read(left_in_memory, b, tile_m * BM, start, BATCH, BM, BK, A_ROWS)
            right = read(right_in_memory, b, start, tile_n * BN, BATCH, BK, BN, B_ROWS)
            acc = dot(left, right, acc, INPUT_PRECISION)
        m = tile_m * BM + tl.arange(0, BM)
        n = tile_n * BN + tl.arange(0, BN)
        if INTERPRETED:  # where a mask of a tensor and a scalar has no type
            b += tl.zeros((1, 1), tl.int32)
        EPILOGUE(acc, b, m[:, None], n[None, :], inside(m, M, BM)[:, None] & inside(n, N, BN)[None, :], ARGS)


@triton.jit
def matrices(
    base,
    BATCH: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BR: tl.constexpr,
    BC: tl.constexpr,
    BY_ROWS: tl.constexpr,
):
    """The descriptor of BATCH matrices of ROWS x COLUMNS, for blocks of BR x BC; transposed in memory unless BY_ROWS.

    One matrix has two dimensions: with three Triton 3.7 specializes no warps.
    """
    DOWN: tl.constexpr = ROWS if BY_ROWS else COLUMNS
    ACROSS: tl.constexpr = COLUMNS if BY_ROWS else ROWS
    HIGH: tl.constexpr = BR if BY_ROWS else BC
    WIDE: tl.constexpr = BC if BY_ROWS else BR
    if BATCH == 1:
        return tl.make_tensor_descriptor(base, [DOWN, ACROSS], [ACROSS, 1], [HIGH, WIDE])
    else:
        return tl.make_tensor_descriptor(base, [BATCH, DOWN, ACROSS], [DOWN * ACROSS, ACROSS, 1], [1, HIGH, WIDE])


@triton.jit
def read(matrix, b, row, column, BATCH: tl.constexpr, BR: tl.constexpr, BC: tl.constexpr, BY_ROWS: tl.constexpr):
    """The BR x BC block of matrix b at (row, column)."""
    if BATCH == 1:
        if BY_ROWS:
            return matrix.load([row, column])
        else:
            return matrix.load([column, row]).trans()
    else:
        if BY_ROWS:
            return matrix.load([b, row, column]).reshape(BR, BC)
        else:
            return matrix.load([b, column, row]).reshape(BC, BR).trans()

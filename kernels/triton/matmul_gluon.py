"""``matmul_tma`` in Gluon, for sm_90: loads, barriers and products stand where this file puts them, not where a compiler does.

Takes what ``matmul_tma`` does, of halves, with BATCH 1 and float32 sums. There are STAGES blocks of both operands, each in
shared memory or on its way there, and each with a barrier that counts the bytes that came. A product (wgmma) is under way while
the next block is waited for; once that is begun and the one before is done, the latter's block is free to be loaded again:

    wait for block i | begin product i | product i - 1 is done | begin to load block i + STAGES - 1 where block i - 1 was

The tile then goes through shared memory, so that each thread holds 8 elements of a row, and is stored by ``EPILOGUE``: the same
closure as elsewhere, compiled as Gluon, whose vectors of coordinates lie as the tile does. Triton 3.6 and 3.7 have all this
(``config.matmul_gluon``); the interpreter has no Gluon. As for ``matmul_tma`` there must be room for descriptors.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from .tiles import grouped_tile, program


@gluon.jit(repr=lambda s: s.constants["NAME"])
def matmul_gluon(
    ARGS,
    EPILOGUE: gl.constexpr,
    A: gl.constexpr,
    B: gl.constexpr,
    A_ROWS: gl.constexpr,
    B_ROWS: gl.constexpr,
    BATCH: gl.constexpr,
    M: gl.constexpr,
    N: gl.constexpr,
    K: gl.constexpr,
    INPUT_PRECISION: gl.constexpr,
    ACC: gl.constexpr,
    BM: gl.constexpr,
    BN: gl.constexpr,
    BK: gl.constexpr,
    STAGES: gl.constexpr,
    NAME: gl.constexpr,
    PID=None,
):
    gl.static_assert(BATCH == 1)
    WARPS: gl.constexpr = gl.num_warps()
    STEPS: gl.constexpr = (K + BK - 1) // BK
    TYPE: gl.constexpr = ARGS[A].dtype.element_ty
    BYTES: gl.constexpr = (BM + BN) * BK * 2  # of a block of both
    LEFT: gl.constexpr = [BM, BK] if A_ROWS else [BK, BM]
    RIGHT: gl.constexpr = [BK, BN] if B_ROWS else [BN, BK]
    LEFT_LIES: gl.constexpr = gl.NVMMASharedLayout.get_default_for(LEFT, TYPE)
    RIGHT_LIES: gl.constexpr = gl.NVMMASharedLayout.get_default_for(RIGHT, TYPE)
    SUMS: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [WARPS, 1], [16, BN, 16])

    tile_m, tile_n = grouped_tile(program(PID), (M + BM - 1) // BM, (N + BN - 1) // BN, 8)
    row, column = tile_m * BM, tile_n * BN
    left_in_memory = matrix(ARGS[A], M, K, A_ROWS, LEFT, LEFT_LIES)
    right_in_memory = matrix(ARGS[B], K, N, B_ROWS, RIGHT, RIGHT_LIES)
    lefts = gl.allocate_shared_memory(TYPE, [STAGES, LEFT[0], LEFT[1]], LEFT_LIES)
    rights = gl.allocate_shared_memory(TYPE, [STAGES, RIGHT[0], RIGHT[1]], RIGHT_LIES)
    loaded = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(STAGES):
        mbarrier.init(loaded.index(i), count=1)
    fence_async_shared()

    for i in gl.static_range(STAGES - 1):
        mbarrier.expect(loaded.index(i), BYTES, pred=i < STEPS)
        load(left_in_memory, row, i * BK, A_ROWS, loaded.index(i), lefts.index(i), i < STEPS)
        load(right_in_memory, i * BK, column, B_ROWS, loaded.index(i), rights.index(i), i < STEPS)
    acc = gl.full([BM, BN], 0.0, gl.float32, SUMS)
    for step in range(STEPS):
        stage = step % STAGES
        mbarrier.wait(loaded.index(stage), step // STAGES & 1)
        left, right = lefts.index(stage), rights.index(stage)
        if not A_ROWS:
            left = left.permute([1, 0])
        if not B_ROWS:
            right = right.permute([1, 0])
        acc = warpgroup_mma(left, right, acc, is_async=True)
        acc = warpgroup_mma_wait(1, deps=[acc])
        ahead = step + STAGES - 1
        free = ahead % STAGES
        mbarrier.expect(loaded.index(free), BYTES, pred=ahead < STEPS)
        load(left_in_memory, row, ahead * BK, A_ROWS, loaded.index(free), lefts.index(free), ahead < STEPS)
        load(right_in_memory, ahead * BK, column, B_ROWS, loaded.index(free), rights.index(free), ahead < STEPS)
    acc = warpgroup_mma_wait(0, deps=[acc])
    for i in gl.static_range(STAGES):
        mbarrier.invalidate(loaded.index(i))

    ACROSS: gl.constexpr = min(BN // 8, 32)
    ROWS: gl.constexpr = gl.BlockedLayout([1, 8], [32 // ACROSS, ACROSS], [WARPS, 1], [1, 0])
    m = (row + gl.arange(0, BM, gl.SliceLayout(1, ROWS)))[:, None]
    n = (column + gl.arange(0, BN, gl.SliceLayout(0, ROWS)))[None, :]
    EPILOGUE(gl.convert_layout(acc, ROWS), 0, m, n, (m < M) & (n < N), ARGS)


@gluon.jit
def matrix(base, ROWS: gl.constexpr, COLUMNS: gl.constexpr, BY_ROWS: gl.constexpr, BLOCK: gl.constexpr, LIES: gl.constexpr):
    """The descriptor of a matrix of ROWS x COLUMNS, transposed in memory unless BY_ROWS, for a BLOCK as it lies in memory."""
    if BY_ROWS:
        return tma.make_tensor_descriptor(base, [ROWS, COLUMNS], [COLUMNS, 1], BLOCK, LIES)
    else:
        return tma.make_tensor_descriptor(base, [COLUMNS, ROWS], [ROWS, 1], BLOCK, LIES)


@gluon.jit
def load(matrix, row, column, BY_ROWS: gl.constexpr, barrier, block, more):
    """Begins to load the block at (row, column) of ``matrix`` where there is one ``more``; ``barrier`` counts its bytes."""
    if BY_ROWS:
        tma.async_copy_global_to_shared(matrix, [row, column], barrier, block, pred=more)
    else:
        tma.async_copy_global_to_shared(matrix, [column, row], barrier, block, pred=more)

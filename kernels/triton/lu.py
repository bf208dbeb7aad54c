"""Square matrices as products of triangular ones, and systems of equations solved by them.

Takes ``LOAD_A(b, m, n, mask, ARGS)``, ``LOAD_B(b, m, r, mask, ARGS)``, ``EPILOGUE(acc, b, k, n, mask, ARGS)``, which stores,
and ``LOAD_Y(b, k, n, mask, ARGS)`` to load what was stored: of rows 0 to N - 1 the first N columns are L under the diagonal and
U from it on, the others the solutions; row N says which row was exchanged with each in turn, counted from 1, and the last one
where each row was at first. Gaussian elimination with partial pivoting, of the matrix with its R right-hand sides beside it.

One program has one matrix, and works where the result lies, with a barrier between what is stored and what reads it. Grid:
``BATCH``.
"""

import triton
import triton.language as tl

from .scalar import grt_div
from .tiles import program


@triton.jit
def _exchange(
    b, j, pivot, ARGS, LOAD_Y: tl.constexpr, EPILOGUE: tl.constexpr, N: tl.constexpr, R: tl.constexpr, BN: tl.constexpr
):
    """Lets rows ``j`` and ``pivot`` change places, and notes it."""
    zero = tl.zeros((1, 1), tl.int32)
    for start in range(0, N + R, BN):
        n = start + tl.arange(0, BN)[None, :]
        upper, lower = LOAD_Y(b, zero + j, n, n < N + R, ARGS), LOAD_Y(b, zero + pivot, n, n < N + R, ARGS)
        tl.debug_barrier()
        EPILOGUE(lower, b, zero + j, n, n < N + R, ARGS)
        EPILOGUE(upper, b, zero + pivot, n, n < N + R, ARGS)
    one, two = LOAD_Y(b, zero + N + 1, zero + j, zero == 0, ARGS), LOAD_Y(b, zero + N + 1, zero + pivot, zero == 0, ARGS)
    tl.debug_barrier()
    EPILOGUE((zero + pivot + 1).to(one.dtype), b, zero + N, zero + j, zero == 0, ARGS)
    EPILOGUE(two, b, zero + N + 1, zero + j, zero == 0, ARGS)
    EPILOGUE(one, b, zero + N + 1, zero + pivot, pivot != j + zero, ARGS)
    tl.debug_barrier()


@triton.jit(repr=lambda s: s.constants["NAME"])
def lu(
    ARGS,
    LOAD_A: tl.constexpr,
    LOAD_B: tl.constexpr,
    LOAD_Y: tl.constexpr,
    EPILOGUE: tl.constexpr,
    BATCH: tl.constexpr,
    N: tl.constexpr,
    R: tl.constexpr,
    ACC: tl.constexpr,
    BK: tl.constexpr,
    BN: tl.constexpr,
    NAME: tl.constexpr,
    PID=None,
):
    b = program(PID) + tl.zeros((1, 1), tl.int32)
    zero = tl.zeros((1, 1), tl.int32)
    rows = tl.arange(0, BK)[:, None]
    columns = tl.arange(0, BN)[None, :]
    for start in range(0, N + R, BN):
        n = start + columns
        for block in range(0, N + 2, BK):
            k = block + rows
            x = LOAD_A(b, k, n, (k < N) & (n < N), ARGS)
            y = LOAD_B(b, k, n - N, (k < N) & (n >= N) & (n < N + R), ARGS)
            place = tl.where((k == N + 1) & (n < N), n, 0).to(ACC)
            value = tl.where(k < N, tl.where(n < N, x, y), place)
            EPILOGUE(value, b, k, n, (k < N + 2) & (n < N + R), ARGS)
    tl.debug_barrier()
    for j in range(N):
        most, pivot = tl.sum(tl.zeros((1,), ACC), 0) - 1.0, j
        for block in range(0, N, BK):
            k = block + rows
            size = tl.abs(LOAD_Y(b, k, zero + j, (k >= j) & (k < N), ARGS))
            size = tl.where((k >= j) & (k < N) & (size == size), size, -1.0)
            high = tl.max(tl.max(size, 1), 0)
            at = tl.min(tl.min(tl.where(size == high, k, N), 1), 0)
            pivot = tl.where((high > most) & (high >= 0), at, pivot)
            most = tl.maximum(high, most)
        _exchange(b, j, pivot, ARGS, LOAD_Y, EPILOGUE, N, R, BN)
        corner = LOAD_Y(b, zero + j, zero + j, zero == 0, ARGS)
        for block in range(0, N, BK):
            k = block + rows
            below = (k > j) & (k < N)
            first = LOAD_Y(b, k, zero + j, below, ARGS)
            factor = tl.where(corner == 0, first * 0.0, grt_div(first, tl.where(corner == 0, 1.0, corner)))
            for start in range(0, N + R, BN):
                n = start + columns
                mask = below & (n > j) & (n < N + R)
                y = LOAD_Y(b, k, n, mask, ARGS) - factor * LOAD_Y(b, zero + j, n, (n > j) & (n < N + R), ARGS)
                tl.debug_barrier()
                EPILOGUE(y, b, k, n, mask, ARGS)
            tl.debug_barrier()
            EPILOGUE(factor, b, k, zero + j, below, ARGS)
        tl.debug_barrier()
    for back in range(N if R > 0 else 0):
        j = N - 1 - back
        corner = LOAD_Y(b, zero + j, zero + j, zero == 0, ARGS)
        for start in range(N, N + R, BN):
            n = start + columns
            row = grt_div(LOAD_Y(b, zero + j, n, n < N + R, ARGS), corner)
            tl.debug_barrier()
            EPILOGUE(row, b, zero + j, n, n < N + R, ARGS)
            for block in range(0, N, BK):
                k = block + rows
                mask = (k < j) & (n < N + R)
                y = LOAD_Y(b, k, n, mask, ARGS) - LOAD_Y(b, k, zero + j, k < j, ARGS) * row
                tl.debug_barrier()
                EPILOGUE(y, b, k, n, mask, ARGS)
        tl.debug_barrier()

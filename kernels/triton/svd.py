"""The singular value decomposition of matrices that are no wider than high, by rotations of pairs of columns.

Takes ``LOAD_X(b, m, n, mask, ARGS)``, ``EPILOGUE(acc, b, k, n, mask, ARGS)``, which stores, and ``LOAD_Y(b, k, n, mask, ARGS)``
to load what was stored: rows 0 to M - 1 of the result are U, row M the singular values, those behind it V. One-sided Jacobi
(Hestenes, 1958): rotations from the right make the columns of the matrix orthogonal, so that its norms are the values, and are
gathered in V; of two columns the longer comes first, so that they end in order (de Rijk, 1989). The pairs of a sweep are a
tournament: in each of its rounds every column is in one pair, and a barrier stands between rounds.

One program decomposes one matrix, scaled by a power of two, where the result lies, so no size is too large. Grid: ``BATCH``.
"""

import triton
import triton.language as tl

from .scalar import grt_div
from .tiles import program

SWEEPS = tl.constexpr(60)


@triton.jit
def _root(x):
    if x.dtype == tl.float64:
        return tl.sqrt(x)
    else:
        return tl.sqrt_rn(x)


@triton.jit
def _powers(x):
    """The power of two at or under ``x``, as far as its inverse is a normal number too, and that inverse."""
    if x.dtype == tl.float64:
        e = tl.minimum(tl.maximum(x.to(tl.int64, bitcast=True) >> 52, 23), 2023)
        return (e << 52).to(tl.float64, bitcast=True), ((2046 - e) << 52).to(tl.float64, bitcast=True)
    else:
        e = tl.minimum(tl.maximum(x.to(tl.int32, bitcast=True) >> 23, 27), 227)
        return (e << 23).to(tl.float32, bitcast=True), ((254 - e) << 23).to(tl.float32, bitcast=True)


@triton.jit
def _sweep(
    b,
    ARGS,
    LOAD_Y: tl.constexpr,
    EPILOGUE: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    ACC: tl.constexpr,
    EPSILON: tl.constexpr,
    NULL: tl.constexpr,
    BK: tl.constexpr,
    BN: tl.constexpr,
):
    """One round of the tournament for each partner of a column; how many pairs were rotated or exchanged."""
    ROUNDS: tl.constexpr = (N + 1) // 2 * 2 - 1
    moved = tl.zeros((1, BN), tl.int32)
    rows = tl.arange(0, BK)[:, None]
    for turn in range(ROUNDS):
        for start in range(0, ROUNDS // 2 + 1, BN):
            pair = start + tl.arange(0, BN)[None, :]
            one = (turn + pair) % ROUNDS
            two = tl.where(pair == 0, ROUNDS, (turn - pair + ROUNDS) % ROUNDS)  # the last column stays in its place
            i, j = tl.minimum(one, two), tl.maximum(one, two)
            there = (pair <= ROUNDS // 2) & (j < N)
            alpha = tl.zeros((1, BN), ACC)
            beta = tl.zeros((1, BN), ACC)
            gamma = tl.zeros((1, BN), ACC)
            for block in range(0, M, BK):
                k = block + rows
                mask = (k < M) & there
                x, y = LOAD_Y(b, k, i, mask, ARGS), LOAD_Y(b, k, j, mask, ARGS)
                alpha += tl.sum(x * x, 0)[None, :]
                beta += tl.sum(y * y, 0)[None, :]
                gamma += tl.sum(x * y, 0)[None, :]
            small = EPSILON * M**0.5 * _root(alpha) * _root(beta)
            rotated = there & (alpha > NULL) & (beta > NULL) & (tl.abs(gamma) > small)
            zeta = grt_div(beta - alpha, tl.where(rotated, 2 * gamma, 1.0))
            t = grt_div(tl.where(zeta < 0, -1.0, 1.0).to(ACC), tl.abs(zeta) + _root(1.0 + zeta * zeta))
            t = tl.where(rotated, t, 0.0)
            c = grt_div(t * 0.0 + 1.0, _root(1.0 + t * t))
            s = c * t
            # 1 - c is s times this: what is rounded is the change, not the element (Rutishauser, 1966)
            lean = grt_div(s, 1.0 + c)
            exchanged = there & (alpha - t * gamma < beta + t * gamma)
            touched = rotated | exchanged
            for block in range(0, M + 1 + N, BK):
                k = block + rows
                mask = (k < M + 1 + N) & (k != M) & touched
                x, y = LOAD_Y(b, k, i, mask, ARGS), LOAD_Y(b, k, j, mask, ARGS)
                first, second = x - s * (y + lean * x), y + s * (x - lean * y)
                tl.debug_barrier()  # a thread may hold what another one stores
                EPILOGUE(tl.where(exchanged, second, first), b, k, i, mask, ARGS)
                EPILOGUE(tl.where(exchanged, first, second), b, k, j, mask, ARGS)
            moved |= touched.to(tl.int32)
        tl.debug_barrier()
    return tl.max(tl.max(moved, 1), 0)


@triton.jit
def _square(
    b,
    n,
    there,
    ARGS,
    LOAD_Y: tl.constexpr,
    FIRST: tl.constexpr,
    LAST: tl.constexpr,
    ACC: tl.constexpr,
    BK: tl.constexpr,
    BN: tl.constexpr,
):
    """The sum of squares of rows FIRST to LAST - 1 of columns ``n``."""
    total = tl.zeros((1, BN), ACC)
    for block in range(FIRST, LAST, BK):
        k = block + tl.arange(0, BK)[:, None]
        y = LOAD_Y(b, k, n, (k < LAST) & there, ARGS)
        total += tl.sum(y * y, 0)[None, :]
    return total


@triton.jit
def _finish(
    b,
    up,
    broken,
    ARGS,
    LOAD_Y: tl.constexpr,
    EPILOGUE: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    ACC: tl.constexpr,
    NULL: tl.constexpr,
    BK: tl.constexpr,
    BN: tl.constexpr,
):
    """Norms become the singular values, columns unit vectors with a sign; how many columns are no zeros."""
    rank = tl.zeros((1, BN), tl.int32)
    rows = tl.arange(0, BK)[:, None]
    for start in range(0, N, BN):
        n = start + tl.arange(0, BN)[None, :]
        there = n < N
        square = _square(b, n, there, ARGS, LOAD_Y, 0, M, ACC, BK, BN)
        length = tl.where(square > NULL, _root(square), 0.0)
        spread = _root(_square(b, n, there, ARGS, LOAD_Y, M + 1, M + 1 + N, ACC, BK, BN))
        top = tl.zeros((1, BN), ACC)
        for block in range(M + 1, M + 1 + N, BK):
            k = block + rows
            top = tl.maximum(top, tl.max(tl.abs(LOAD_Y(b, k, n, (k < M + 1 + N) & there, ARGS)), 0)[None, :])
        lead = tl.full((1, BN), M + 1 + N, tl.int32)
        for block in range(M + 1, M + 1 + N, BK):
            k = block + rows
            y = LOAD_Y(b, k, n, (k < M + 1 + N) & there, ARGS)
            lead = tl.minimum(lead, tl.min(tl.where(tl.abs(y) >= 0.9 * top, k, M + 1 + N), 0)[None, :])
        sign = tl.where(LOAD_Y(b, lead, n, there, ARGS) < 0, -1.0, 1.0).to(ACC)
        under = tl.where(length > 0, length, 1.0)
        above = grt_div(sign, tl.where(there, spread, 1.0))
        for block in range(0, M + 1 + N, BK):
            k = block + rows
            mask = (k < M + 1 + N) & there
            y = LOAD_Y(b, k, n, mask, ARGS)
            unit = tl.where(length > 0, grt_div(sign * y, under), 0.0)
            y = tl.where(k < M, unit, tl.where(k == M, length * up, y * above))
            tl.debug_barrier()
            EPILOGUE(tl.where(broken, float("nan"), y), b, k, n, mask, ARGS)
        rank += (there & ((length > 0) | broken)).to(tl.int32)
    tl.debug_barrier()
    return tl.sum(tl.sum(rank, 1), 0)


@triton.jit
def _farthest(
    b,
    j,
    ARGS,
    LOAD_Y: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    ACC: tl.constexpr,
    BK: tl.constexpr,
    BN: tl.constexpr,
):
    """The axis that is farthest from the columns before ``j``: the first whose elements there have the least squares."""
    least, axis = 2.0, 0
    for block in range(0, M, BK):
        k = block + tl.arange(0, BK)[:, None]
        total = tl.zeros((BK, 1), ACC)
        for start in range(0, N, BN):
            n = start + tl.arange(0, BN)[None, :]
            y = LOAD_Y(b, k, n, (k < M) & (n < j), ARGS)
            total += tl.sum(y * y, 1)[:, None]
        total = tl.where(k < M, total, 4.0).to(tl.float32)
        low = tl.min(tl.min(total, 1), 0)
        at = tl.min(tl.min(tl.where(total == low, k, M), 1), 0)
        axis = tl.where(low < least, at, axis)
        least = tl.minimum(low, least)
    return axis


@triton.jit
def _complete(
    b,
    rank,
    ARGS,
    LOAD_Y: tl.constexpr,
    EPILOGUE: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    ACC: tl.constexpr,
    BK: tl.constexpr,
    BN: tl.constexpr,
):
    """Makes columns ``rank`` and on of U unit vectors that are orthogonal to all before them."""
    rows = tl.arange(0, BK)[:, None]
    j = rank
    while j < N:
        own = j + tl.zeros((1, 1), tl.int32)
        axis = _farthest(b, j, ARGS, LOAD_Y, M, N, ACC, BK, BN)
        for block in range(0, M, BK):
            k = block + rows
            EPILOGUE((k == axis).to(ACC), b, k, own, k < M, ARGS)
        tl.debug_barrier()
        for _ in range(2):
            for start in range(0, N, BN):
                n = start + tl.arange(0, BN)[None, :]
                part = tl.zeros((1, BN), ACC)
                for block in range(0, M, BK):
                    k = block + rows
                    u = LOAD_Y(b, k, own, k < M, ARGS)
                    part += tl.sum(u * LOAD_Y(b, k, n, (k < M) & (n < j), ARGS), 0)[None, :]
                for block in range(0, M, BK):
                    k = block + rows
                    u = LOAD_Y(b, k, own, k < M, ARGS)
                    u -= tl.sum(part * LOAD_Y(b, k, n, (k < M) & (n < j), ARGS), 1)[:, None]
                    tl.debug_barrier()
                    EPILOGUE(u, b, k, own, k < M, ARGS)
                tl.debug_barrier()
        length = _root(_square(b, own, own >= 0, ARGS, LOAD_Y, 0, M, ACC, BK, 1))
        for block in range(0, M, BK):
            k = block + rows
            u = grt_div(LOAD_Y(b, k, own, k < M, ARGS), length)
            tl.debug_barrier()
            EPILOGUE(u, b, k, own, k < M, ARGS)
        tl.debug_barrier()
        j += 1


@triton.jit(repr=lambda s: s.constants["NAME"])
def svd(
    ARGS,
    LOAD_X: tl.constexpr,
    LOAD_Y: tl.constexpr,
    EPILOGUE: tl.constexpr,
    BATCH: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    ACC: tl.constexpr,
    BK: tl.constexpr,
    BN: tl.constexpr,
    NAME: tl.constexpr,
    PID=None,
):
    EPSILON: tl.constexpr = 2.0**-52 if ACC == tl.float64 else 2.0**-23
    NULL: tl.constexpr = 2.0**-960 if ACC == tl.float64 else 2.0**-100  # squared, of a column in which nothing is left
    b = program(PID) + tl.zeros((1, 1), tl.int32)
    rows = tl.arange(0, BK)[:, None]
    largest = tl.zeros((BK, BN), ACC)
    wrong = tl.zeros((BK, BN), tl.int32)
    for start in range(0, N, BN):
        n = start + tl.arange(0, BN)[None, :]
        for block in range(0, M, BK):
            m = block + rows
            size = tl.abs(LOAD_X(b, m, n, (m < M) & (n < N), ARGS))
            wrong |= (size * 0 != 0).to(tl.int32)
            largest = tl.maximum(largest, size)
    broken = tl.max(tl.max(wrong, 1), 0) != 0
    up, down = _powers(tl.max(tl.max(largest, 1), 0))
    for start in range(0, N, BN):
        n = start + tl.arange(0, BN)[None, :]
        for block in range(0, M + 1 + N, BK):
            k = block + rows
            x = LOAD_X(b, k, n, (k < M) & (n < N), ARGS) * down
            y = tl.where(k < M, tl.where(broken, 0.0, x), (k - M - 1 == n).to(ACC))
            EPILOGUE(y, b, k, n, (k < M + 1 + N) & (n < N), ARGS)
    tl.debug_barrier()
    sweep = 0
    moved = 1
    while (moved != 0) & (sweep < SWEEPS):
        moved = _sweep(b, ARGS, LOAD_Y, EPILOGUE, M, N, ACC, EPSILON, NULL, BK, BN)
        sweep += 1
    rank = _finish(b, up, broken, ARGS, LOAD_Y, EPILOGUE, M, N, ACC, NULL, BK, BN)
    _complete(b, rank, ARGS, LOAD_Y, EPILOGUE, M, N, ACC, BK, BN)

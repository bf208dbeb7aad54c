"""Greedy non-maximum suppression of boxes in order of their scores.

Takes ``LOAD_X(b, m, n, mask, ARGS)``, whether box m would suppress box n, and ``EPILOGUE(acc, b, n, mask, ARGS)``, which stores
whether box n is kept. One program walks the boxes of one batch entry; a box that is kept suppresses those behind it. Grid:
``BATCH``.
"""

import triton
import triton.language as tl

from .tiles import program


@triton.jit(repr=lambda s: s.constants["NAME"])
def nms(
    ARGS,
    LOAD_X: tl.constexpr,
    EPILOGUE: tl.constexpr,
    BATCH: tl.constexpr,
    N: tl.constexpr,
    ACC: tl.constexpr,
    BN: tl.constexpr,
    NAME: tl.constexpr,
    PID=None,
):
    b = program(PID) + tl.zeros((1,), tl.int32)
    n = tl.arange(0, BN)
    keep = (n < N).to(tl.int32)
    for m in range(N):
        later = (n > m) & (n < N)
        suppressed = (LOAD_X(b, m, n, later, ARGS) != 0) & later
        alive = tl.sum(tl.where(n == m, keep, 0), 0)
        keep = tl.where(suppressed & (alive != 0), 0, keep)
    EPILOGUE(keep != 0, b, n, n < N, ARGS)

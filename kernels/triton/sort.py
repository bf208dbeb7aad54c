"""Stable sorting along one dimension, by rank.

Takes ``LOAD_X(o, r, i, mask, ARGS)`` and ``EPILOGUE(acc, index, o, r, i, mask, ARGS)``, which stores the element and where it
was at its place r of the result. An element's place is the number of those before it: smaller ones (NaN is largest), and equal
ones that come earlier. That is quadratic work without a single exchange, which fills a GPU; coordinates are as in ``scan``.
Grid: ``cdiv(O * I, BX) * cdiv(R, BR)``.
"""

import triton
import triton.language as tl

from .tiles import program


@triton.jit(repr=lambda s: s.constants["NAME"])
def sort(
    ARGS,
    LOAD_X: tl.constexpr,
    EPILOGUE: tl.constexpr,
    O: tl.constexpr,  # noqa: E741 - the letter of the family
    R: tl.constexpr,
    I: tl.constexpr,  # noqa: E741
    DESCENDING: tl.constexpr,
    ACC: tl.constexpr,
    BX: tl.constexpr,
    BR: tl.constexpr,
    BK: tl.constexpr,
    NAME: tl.constexpr,
    PID=None,
):
    BLOCKS: tl.constexpr = (R + BR - 1) // BR
    x = program(PID) // BLOCKS * BX + tl.arange(0, BX)[:, None]
    r = program(PID) % BLOCKS * BR + tl.arange(0, BR)[None, :]
    mask = (x < O * I) & (r < R)
    value = LOAD_X(x // I, r, x % I, mask, ARGS)
    own, at, line = value[:, :, None], r[:, :, None], x[:, :, None]
    rank = tl.zeros((BX, BR), tl.int32)
    for start in range(0, R, BK):
        k = start + tl.arange(0, BK)[None, None, :]
        inside = (line < O * I) & (k < R)
        other = LOAD_X(line // I, k, line % I, inside, ARGS)
        if DESCENDING:
            first = (other > own) | ((other != other) & (own == own))
        else:
            first = (other < own) | ((own != own) & (other == other))
        equal = (other == own) | ((other != other) & (own != own))
        rank += tl.sum((inside & (first | (equal & (k < at)))).to(tl.int32), 2)
    EPILOGUE(value, r + rank * 0, x // I, rank, x % I, mask, ARGS)

"""Tile helpers shared by the templates: which tile a program computes, and which of a tile's rows are inside.

``grouped_tile`` is the usual grouped ordering of output tiles: programs that run at the same time share rows of the left
operand and columns of the right one, so both stay in L2. ``inside`` compares an index with a bound, or returns all true when
the blocks divide the size exactly: the compiler then drops the mask and everything computed from it.
"""

import triton
import triton.language as tl


@triton.jit
def grouped_tile(pid, TILES_M: tl.constexpr, TILES_N: tl.constexpr, GROUP: tl.constexpr):
    """(row, column) of tile number ``pid``; GROUP rows of tiles are walked column by column."""
    first = pid // (GROUP * TILES_N) * GROUP
    rows = tl.minimum(TILES_M - first, GROUP)
    offset = pid % (GROUP * TILES_N)
    return first + offset % rows, offset // rows


@triton.jit
def inside(index, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    """``index < SIZE`` for an index that runs over whole blocks of BLOCK from 0."""
    if SIZE % BLOCK == 0:
        return tl.full(index.shape, 1, tl.int1)
    else:
        return index < SIZE

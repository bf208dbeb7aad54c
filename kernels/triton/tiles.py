"""Tile helpers shared by the templates: number and order of tiles, bounds, the product of two tiles, casts.

``grouped_tile`` is the usual grouped ordering of output tiles: programs that run at the same time share rows of the
left operand and columns of the right one, so both stay in L2. ``inside`` compares an index with a bound, or returns all
true when the blocks divide the size exactly: the compiler then drops the mask and everything computed from it. ``dot``
is ``tl.dot`` with an accumulator, and ``cast`` is ``.to``; both are correct for bfloat16 also under Triton's
interpreter, which multiplies its bits as integers and rounds towards zero.
"""

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def program(PID):
    """The number of this program: PID, where a kernel that calls the template gives it one, else its place in the grid."""
    if PID is None:
        return tl.program_id(0)
    else:
        return PID


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


@triton.jit
def dot(left, right, acc, PRECISION: tl.constexpr):
    """``acc + left @ right`` in acc's type."""
    if INTERPRETED and left.dtype == tl.bfloat16:
        left = left.to(tl.float32)
        right = right.to(tl.float32)
    return tl.dot(left, right, acc, input_precision=PRECISION, out_dtype=acc.dtype)


@triton.jit
def cast(value, TYPE: tl.constexpr):
    """``value`` as TYPE, rounded to nearest even."""
    if INTERPRETED and TYPE == tl.bfloat16 and value.dtype != tl.bfloat16:
        wide = value.to(tl.float32)
        bits = wide.to(tl.uint32, bitcast=True)
        bits = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
        bits = tl.where(wide != wide, 0x7FC0, bits)
        return bits.to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        return value.to(TYPE)


@triton.jit
def segment_sum(tile, mask, SEGMENT: tl.constexpr):
    """The sums over each segment of SEGMENT rows of ``tile``, of what mask has: a row for each. SEGMENT divides the rows."""
    ROWS: tl.constexpr = tile.shape[0]
    COLUMNS: tl.constexpr = tile.shape[1]
    return tl.sum(tl.reshape(tl.where(mask, tile, 0.0), (ROWS // SEGMENT, SEGMENT, COLUMNS)), 1)


@triton.jit
def spread_segments(sums, SEGMENT: tl.constexpr):
    """``sums`` of segments for each of their SEGMENT rows."""
    SEGMENTS: tl.constexpr = sums.shape[0]
    COLUMNS: tl.constexpr = sums.shape[1]
    return tl.reshape(tl.broadcast_to(sums[:, None, :], (SEGMENTS, SEGMENT, COLUMNS)), (SEGMENTS * SEGMENT, COLUMNS))


@triton.jit
def most_of_segments(column, SEGMENT: tl.constexpr):
    """The largest number in each segment of SEGMENT rows of ``column``."""
    ROWS: tl.constexpr = column.shape[0]
    return tl.max(tl.reshape(column, (ROWS // SEGMENT, SEGMENT)), 1)[:, None]

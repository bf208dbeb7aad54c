"""Elements sent to computed positions along one dimension, joined by sum, prod, max or min.

Takes ``LOAD_INDEX(o, r, i, mask, ARGS)`` and ``LOAD_X(o, r, i, mask, ARGS)`` and ``EPILOGUE(acc, o, j, i, mask, ARGS)``, which
stores. Each program owns BJ positions of BI lines and looks at every element in order: no atomics, the same bits run after
run. Indices outside [0, J) match nothing. Coordinates o, r, i as in ``scan``. Grid: ``O * cdiv(J, BJ) * cdiv(I, BI)``.
"""

import triton
import triton.language as tl

from .reduce import maximum, minimum, multiply
from .tiles import program


@triton.jit(repr=lambda s: s.constants["NAME"])
def scatter(
    ARGS,
    LOAD_INDEX: tl.constexpr,
    LOAD_X: tl.constexpr,
    EPILOGUE: tl.constexpr,
    O: tl.constexpr,  # noqa: E741 - the letter of the family
    R: tl.constexpr,
    I: tl.constexpr,  # noqa: E741
    J: tl.constexpr,
    OP: tl.constexpr,
    START: tl.constexpr,
    ACC: tl.constexpr,
    BJ: tl.constexpr,
    BR: tl.constexpr,
    BI: tl.constexpr,
    NAME: tl.constexpr,
    PID=None,
):
    TILES_J: tl.constexpr = (J + BJ - 1) // BJ
    TILES_I: tl.constexpr = (I + BI - 1) // BI
    pid = program(PID)
    outer = pid // (TILES_J * TILES_I)
    o = outer + tl.zeros((1, 1, 1), tl.int32)
    j = pid // TILES_I % TILES_J * BJ + tl.arange(0, BJ)
    i = pid % TILES_I * BI + tl.arange(0, BI)
    acc = tl.full((BJ, BI), START, ACC)
    for start in range(0, R, BR):
        r = start + tl.arange(0, BR)[None, :, None]
        mask = (r < R) & (i < I)[None, None, :]
        index = LOAD_INDEX(o, r, i[None, None, :], mask, ARGS)
        value = LOAD_X(o, r, i[None, None, :], mask, ARGS).to(ACC)
        hit = mask & (index == j[:, None, None])
        value = tl.where(hit, value, tl.full((1, 1, 1), START, ACC))
        if OP == "sum":
            acc += tl.sum(value, 1).to(ACC)
        elif OP == "prod":
            acc *= tl.reduce(value, 1, multiply)
        elif OP == "max":
            acc = maximum(acc, tl.reduce(value, 1, maximum))
        else:
            acc = minimum(acc, tl.reduce(value, 1, minimum))
    EPILOGUE(acc, outer + tl.zeros((1, 1), tl.int32), j[:, None], i[None, :], (j < J)[:, None] & (i < I)[None, :], ARGS)

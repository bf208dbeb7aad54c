"""A linear recurrence along one dimension: ``y[r] = a[r] * y[r - 1] + x[r]``.

Takes ``LOAD_A(o, r, i, mask, ARGS)``, ``LOAD_X(o, r, i, mask, ARGS)`` and ``EPILOGUE(acc, o, r, i, mask, ARGS)``, which stores.
One step is a pair (a, x), and two steps one behind the other are a pair again (Blelloch, 1990), so a block is an associative
scan. Coordinates and grid as in ``scan``; the last result of a block is the carry of the next.
"""

import triton
import triton.language as tl

from .tiles import program


@triton.jit
def both(a, x, b, y):
    return a * b, b * x + y


@triton.jit(repr=lambda s: s.constants["NAME"])
def recurrence(
    ARGS,
    LOAD_A: tl.constexpr,
    LOAD_X: tl.constexpr,
    EPILOGUE: tl.constexpr,
    O: tl.constexpr,  # noqa: E741 - the letter of the family
    R: tl.constexpr,
    I: tl.constexpr,  # noqa: E741
    ACC: tl.constexpr,
    BX: tl.constexpr,
    BR: tl.constexpr,
    NAME: tl.constexpr,
    PID=None,
):
    x = program(PID) * BX + tl.arange(0, BX)[:, None]
    o, i = x // I, x % I
    carry = tl.zeros((BX, 1), ACC)
    for start in range(0, R, BR):
        r = start + tl.arange(0, BR)[None, :]
        mask = (x < O * I) & (r < R)
        one = tl.full((1, 1), 1, ACC)
        step = tl.where(mask, LOAD_A(o, r, i, mask, ARGS).to(ACC), one)
        value = tl.where(mask, LOAD_X(o, r, i, mask, ARGS).to(ACC), one - one)
        decay, total = tl.associative_scan((step, value), 1, both)
        acc = decay * carry + total
        EPILOGUE(acc, o, r, i, mask, ARGS)
        carry = tl.sum(tl.where(r == start + BR - 1, acc, 0), 1)[:, None].to(ACC)

"""Scans along one dimension: sum, prod, max and logaddexp.

Takes ``LOAD_X(o, r, i, mask, ARGS)`` and ``EPILOGUE(acc, o, r, i, mask, ARGS)``, which stores; o counts what lies before the
dimension, r runs along it, i counts what lies behind. One program walks BX lines in blocks of BR with the last result as
carry, so results are the same bits whatever the grid. Grid: ``cdiv(O * I, BX)``.
"""

import triton
import triton.language as tl

from .tiles import program


@triton.jit
def larger(a, b):
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def logaddexp(a, b):
    top = tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)
    gap = tl.minimum(a, b) - top
    return tl.where(tl.abs(top) == float("inf"), top, top + tl.log(1 + tl.exp(gap)))


@triton.jit(repr=lambda s: s.constants["NAME"])
def scan(
    ARGS,
    LOAD_X: tl.constexpr,
    EPILOGUE: tl.constexpr,
    O: tl.constexpr,  # noqa: E741 - the letter of the family
    R: tl.constexpr,
    I: tl.constexpr,  # noqa: E741
    OP: tl.constexpr,
    START: tl.constexpr,
    ACC: tl.constexpr,
    BX: tl.constexpr,
    BR: tl.constexpr,
    NAME: tl.constexpr,
    PID=None,
):
    x = program(PID) * BX + tl.arange(0, BX)[:, None]
    o, i = x // I, x % I
    carry = tl.full((BX, 1), START, ACC)
    for start in range(0, R, BR):
        r = start + tl.arange(0, BR)[None, :]
        mask = (x < O * I) & (r < R)
        value = tl.where(mask, LOAD_X(o, r, i, mask, ARGS).to(ACC), tl.full((1, 1), START, ACC))
        if OP == "sum":
            acc = (tl.cumsum(value, 1) + carry).to(ACC)
        elif OP == "prod":
            acc = (tl.cumprod(value, 1) * carry).to(ACC)
        elif OP == "max":
            acc = larger(tl.associative_scan(value, 1, larger), carry).to(ACC)
        else:
            acc = logaddexp(tl.associative_scan(value, 1, logaddexp), carry)
        EPILOGUE(acc, o, r, i, mask, ARGS)
        carry = tl.sum(tl.where(r == start + BR - 1, acc, 0), 1)[:, None].to(ACC)

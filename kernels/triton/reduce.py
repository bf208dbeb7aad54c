"""Combine functions for ``tl.reduce`` and arg-reductions with torch's treatment of NaN, for generated reduction code.

``maximum`` and ``minimum`` return NaN if either operand is NaN; ``add`` and ``multiply`` complete the set.
``argmax_combine`` and ``argmin_combine`` take and return (value, index) pairs, for ``tl.reduce`` over a tuple or for
joining blocks in a loop; ``argmax`` and ``argmin`` reduce one axis and return (value, index): the first index wins a
tie, and NaN counts as the largest, respectively smallest, value. All are commutative and associative, so any reduction
tree gives the same arg-reduction. Reduce in float32 or wider: ``maximum`` promotes bfloat16, and ``tl.reduce`` needs
the type kept.
"""

import triton
import triton.language as tl


@triton.jit
def add(a, b):
    return a + b


@triton.jit
def multiply(a, b):
    return a * b


@triton.jit
def maximum(a, b):
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def minimum(a, b):
    return tl.minimum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def argmax_combine(a, i, b, j):
    beats = (a > b) | ((a != a) & (b == b))
    ties = (a == b) | ((a != a) & (b != b))
    left = beats | (ties & (i < j))
    return tl.where(left, a, b), tl.where(left, i, j)


@triton.jit
def argmin_combine(a, i, b, j):
    beats = (a < b) | ((a != a) & (b == b))
    ties = (a == b) | ((a != a) & (b != b))
    left = beats | (ties & (i < j))
    return tl.where(left, a, b), tl.where(left, i, j)


@triton.jit
def argmax(value, index, axis: tl.constexpr):
    """Reduces ``axis`` of value and of the index of each; mask lanes off with -inf and the largest index."""
    return tl.reduce((value, index), axis, argmax_combine)


@triton.jit
def argmin(value, index, axis: tl.constexpr):
    """Reduces ``axis`` of value and of the index of each; mask lanes off with inf and the largest index."""
    return tl.reduce((value, index), axis, argmin_combine)

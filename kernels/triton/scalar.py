"""Scalar functions that Triton's language lacks, for generated code: tanh and pow.

``grt_tanh(x)`` is 1 - 2 / (exp(2|x|) + 1) with the sign of x, and x itself near zero, where that form cancels (error below
one part in 2**22 in float32). ``grt_pow(x, p)`` is exp(p * log|x|) with the signs and special cases of IEEE 754 pow.
"""

import triton
import triton.language as tl


@triton.jit
def grt_tanh(x):
    a = tl.abs(x)
    far = 1 - 2 / (tl.exp(2 * a) + 1)
    x2 = x * x
    near = a * (1 + x2 * (-0.3333333333333333 + x2 * (0.13333333333333333 + x2 * (-0.05396825396825397))))
    y = tl.where(a < 0.15, near, far)
    return tl.where(x < 0, -y, y)


@triton.jit
def grt_pow(x, p):
    a = tl.abs(x)
    y = tl.exp(p * tl.log(a))
    whole = tl.floor(p) == p
    odd = whole & (tl.floor(p * 0.5) * 2 != p)
    y = tl.where((x < 0) & odd, -y, y)
    y = tl.where((x < 0) & (whole == 0), float("nan"), y)
    y = tl.where((x == 0) & (p > 0), 0.0, y)
    return tl.where((p == 0) | (x == 1), 1.0, y)

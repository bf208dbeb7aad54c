"""Scalar functions that Triton's language lacks, for generated code. Accurate to a few units in the last place of float32.

``grt_tanh(x)`` is 1 - 2 / (exp(2|x|) + 1) with the sign of x, and its series near zero, where that form cancels; expm1 and
log1p likewise. ``grt_pow(x, p)`` is exp(p * log|x|) with the signs and special cases of IEEE 754 pow. ``grt_atan`` is
Cephes's atanf; ``grt_erfinv`` is Giles, "Approximating the erfinv function", GPU Computing Gems 2011. ``grt_round`` rounds
ties to even. Division and remainder round down, as Python's and torch's do; integers divided by zero give 0.
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


@triton.jit
def grt_trunc(x):
    return tl.where(x < 0, tl.ceil(x), tl.floor(x))


@triton.jit
def grt_round(x):
    low = tl.floor(x)
    rest = x - low
    odd = tl.floor(low * 0.5) * 2 != low
    return tl.where((rest > 0.5) | ((rest == 0.5) & odd), low + 1, tl.where(x == low, x, low))


@triton.jit
def grt_expm1(x):
    near = x * (1 + x * (1 / 2 + x * (1 / 6 + x * (1 / 24 + x * (1 / 120 + x * (1 / 720 + x * (1 / 5040)))))))
    return tl.where(tl.abs(x) < 0.35, near, tl.exp(x) - 1)


@triton.jit
def grt_log1p(x):
    s = x / (2 + x)
    s2 = s * s
    near = 2 * s * (1 + s2 * (1 / 3 + s2 * (1 / 5 + s2 * (1 / 7 + s2 * (1 / 9)))))
    return tl.where(tl.abs(x) < 0.3, near, tl.log(1 + x))


@triton.jit
def grt_atan(x):
    a = tl.abs(x)
    large = a > 2.414213562373095
    middle = (a > 0.4142135623730950) & (large == 0)
    t = tl.where(large, -1 / a, tl.where(middle, (a - 1) / (a + 1), a))
    z = t * t
    y = (((8.05374449538e-2 * z - 1.38776856032e-1) * z + 1.99777106478e-1) * z - 3.33329491539e-1) * z * t + t
    y += tl.where(large, 1.5707963267948966, tl.where(middle, 0.7853981633974483, 0.0))
    return tl.where(x < 0, -y, tl.where(x == 0, x, y))


@triton.jit
def grt_atan2(y, x):
    both = (tl.abs(y) == float("inf")) & (tl.abs(x) == float("inf"))
    ratio = tl.where(both, 1.0, tl.where((x == 0) & (y == 0), 0.0, tl.abs(y) / tl.abs(x)))
    angle = grt_atan(ratio)
    left = (x < 0) | ((x == 0) & (1 / x < 0))
    angle = tl.where(left, 3.141592653589793 - angle, angle)
    down = (y < 0) | ((y == 0) & (1 / y < 0))
    return tl.where(down, -angle, angle)


@triton.jit
def grt_erfinv(x):
    w = -tl.log((1 - x) * (1 + x))
    near = w - 2.5
    p = 2.81022636e-08
    p = 3.43273939e-07 + p * near
    p = -3.5233877e-06 + p * near
    p = -4.39150654e-06 + p * near
    p = 0.00021858087 + p * near
    p = -0.00125372503 + p * near
    p = -0.00417768164 + p * near
    p = 0.246640727 + p * near
    p = 1.50140941 + p * near
    if x.dtype == tl.float64:  # for which sqrt is the rounded one
        far = tl.sqrt(tl.where(w > 5, w, 5.0)) - 3
    else:
        far = tl.sqrt_rn(tl.where(w > 5, w, 5.0)) - 3
    q = -0.000200214257
    q = 0.000100950558 + q * far
    q = 0.00134934322 + q * far
    q = -0.00367342844 + q * far
    q = 0.00573950773 + q * far
    q = -0.0076224613 + q * far
    q = 0.00943887047 + q * far
    q = 1.00167406 + q * far
    q = 2.83297682 + q * far
    y = tl.where(w < 5, p, q) * x
    return tl.where(tl.abs(x) == 1, x * float("inf"), tl.where(tl.abs(x) < 1, y, float("nan")))


@triton.jit
def grt_floor_divide(a, b):
    if a.dtype.is_floating():
        return tl.floor(a / b)
    else:
        divisor = tl.where(b == 0, 1, b)
        quotient = tl.abs(a) // tl.abs(divisor)
        exact = quotient * tl.abs(divisor) == tl.abs(a)
        below = (a < 0) != (divisor < 0)
        return tl.where(b == 0, 0, tl.where(below, -quotient - tl.where(exact, 0, 1), quotient)).to(a.dtype)


@triton.jit
def grt_remainder(a, b):
    if a.dtype.is_floating():
        r = a - tl.floor(a / b) * b
        return tl.where(
            (tl.abs(b) == float("inf")) & (tl.abs(a) < float("inf")), tl.where((a == 0) | ((a < 0) == (b < 0)), a, b), r
        )
    else:
        return tl.where(b == 0, 0, a - grt_floor_divide(a, b) * b).to(a.dtype)

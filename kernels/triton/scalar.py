"""Scalar functions that Triton's language lacks, for generated code: float32 and float64, and integers where they are whole.

Within a few units in the last place over the whole range, with the special cases of C's math.h; ``grt_fmod``, division and
the roundings are exact. Nothing here needs a fused multiply-add or is hurt by one, so the interpreter and every GPU agree.
"""

import triton
import triton.language as tl

_ERFC32 = tl.constexpr((
    0.000842882018, 0.00690645461, -0.0159890129, 0.0364255631, -0.0666024213, 0.0938259612, -0.100994527, 0.0680926533,
    0.0153775138, -0.139621045, 1.23299513,
))  # fmt: skip
_ERFC64 = tl.constexpr((
    -1.8206098680308683e-9, -1.3670989863347382e-8, -7.7154186144178301e-9, 1.1534943745754157e-7, 6.2707271571983109e-8,
    -8.3516196886968471e-7, 3.0135049944875395e-7, 5.7178872846321852e-6, -1.1224789135154701e-5, -2.4403169244974075e-5,
    0.00015062224394830299, -0.00019925550755614952, -0.00075777334141333004, 0.0050319697558954261, -0.016197734059115007,
    0.037167515562492866, -0.066330365811529384, 0.093732834996794116, -0.10103906603635213, 0.068097054254737324,
    0.015379652102620741, -0.13962111684056289, 1.2329951186255525,
))  # fmt: skip
_ATAN32 = tl.constexpr((8.05374449538e-2, -1.38776856032e-1, 1.99777106478e-1, -3.33329491539e-1, 1.0))
_ATAN64 = tl.constexpr((
    0.021135373157693245, -0.043480522157164625, 0.056883492268090105, -0.066402339304294086, 0.076899534963068578,
    -0.090907730748084138, 0.11111106180455945, -0.14285714180976467, 0.1999999999885511, -0.33333333333328439, 1.0,
))  # fmt: skip
_TANH32 = tl.constexpr((0.00224931655, -0.00830510072, 0.0217569266, -0.0539577752, 0.133332968, -0.333333343, 1.0))
_LOG32 = tl.constexpr((3 / 13, 3 / 11, 3 / 9, 3 / 7, 3 / 5))
_LOG64 = tl.constexpr((3 / 25, 3 / 23, 3 / 21, 3 / 19, 3 / 17, 3 / 15, 3 / 13, 3 / 11, 3 / 9, 3 / 7, 3 / 5))
_INVERSE_NEAR = tl.constexpr((
    2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087, -0.00125372503, -0.00417768164,
    0.246640727, 1.50140941,
))  # fmt: skip
_INVERSE_FAR = tl.constexpr((
    -0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773, -0.0076224613, 0.00943887047, 1.00167406,
    2.83297682,
))  # fmt: skip


# --- parts of floats ---------------------------------------------------------------------------------------------------


@triton.jit
def _polynomial(x, FACTORS: tl.constexpr, LENGTH: tl.constexpr):
    """Horner's rule, the highest power first."""
    y = x * FACTORS[0] + FACTORS[1]
    for i in tl.static_range(2, LENGTH):
        y = y * x + FACTORS[i]
    return y


@triton.jit
def _bits(x):
    if x.dtype == tl.float64:
        return x.to(tl.int64, bitcast=True)
    else:
        return x.to(tl.int32, bitcast=True)


@triton.jit
def _head(x):
    """``x`` with half of its digits: the product of two heads is exact."""
    if x.dtype == tl.float64:
        return (_bits(x) & -134217728).to(tl.float64, bitcast=True)
    else:
        return (_bits(x) & -4096).to(tl.float32, bitcast=True)


@triton.jit
def _scale(x, n):
    """``x * 2**n``, n an int32, rounded once; by two powers, because one may lie outside the normal range."""
    half = n >> 1
    rest = n - half
    if x.dtype == tl.float64:
        return (
            x
            * ((half + 1023).to(tl.int64) << 52).to(tl.float64, bitcast=True)
            * ((rest + 1023).to(tl.int64) << 52).to(tl.float64, bitcast=True)
        )
    else:
        return x * ((half + 127) << 23).to(tl.float32, bitcast=True) * ((rest + 127) << 23).to(tl.float32, bitcast=True)


@triton.jit
def _whole(x):
    """(m, e) with |x| = m * 2**e, up to a constant in e: m is a whole number, as uint64."""
    bits = _bits(tl.abs(x))
    if x.dtype == tl.float64:
        DIGITS: tl.constexpr = 52
    else:
        DIGITS: tl.constexpr = 23
    e = (bits >> DIGITS).to(tl.int32)
    m = (bits - (e.to(bits.dtype) << DIGITS)).to(tl.uint64) + tl.where(e > 0, 1 << DIGITS, 0).to(tl.uint64)
    return m, tl.maximum(e, 1)


@triton.jit
def grt_copysign(x, sign):
    return tl.where(_bits(sign) < 0, tl.abs(x) * -1.0, tl.abs(x))  # a minus is 0 - x, which loses the sign of 0


@triton.jit
def grt_not(x):
    """Every bit of an integer turned; the interpreter has no -1 of an unsigned type, of which there is one."""
    if x.dtype.is_int_unsigned():
        return (255 - x).to(x.dtype)
    else:
        return ~x


# --- division, remainder, roundings --------------------------------------------------------------------------------------


@triton.jit
def grt_div(a, b):
    """Correctly rounded. What ``a / b`` is in float32 on NVIDIA is not: floor(41 / 41) may be 0."""
    if a.dtype == tl.float64:
        return a / b
    else:
        return tl.div_rn(a, b)


@triton.jit
def grt_fmod(a, b):
    """Long division: with |a| = x 2^i and |b| = y 2^j, x 2^(i-j) mod y, by as many binary digits at a time as 64 bits hold."""
    a, b = tl.broadcast(a, b)
    if a.dtype == tl.float64:
        DIGITS: tl.constexpr = 52
        BIAS: tl.constexpr = 1023
    else:
        DIGITS: tl.constexpr = 23
        BIAS: tl.constexpr = 127
    STEP: tl.constexpr = 63 - DIGITS
    x, i = _whole(a)
    y, j = _whole(b)
    y = tl.where(b == 0, 1, y).to(tl.uint64)
    shift = tl.maximum(i - j, 0)
    r = x % y
    left = tl.max(shift) if shift.type.is_block() else shift
    while left > 0:
        step = tl.minimum(shift, STEP)
        r = (r << step.to(tl.uint64)) % y
        shift -= step
        left -= STEP
    z = tl.where(tl.abs(a) < tl.abs(b), tl.abs(a), _scale(r.to(tl.int64).to(a.dtype), j - (BIAS + DIGITS)))
    return tl.where((tl.abs(a) < float("inf")) & (b != 0) & (b == b), grt_copysign(z, a), float("nan"))


@triton.jit
def grt_quotient(a, b):
    """Integers divided towards zero; by zero gives 0, and the smallest by -1 itself."""
    if a.dtype.is_int_unsigned():
        return tl.where(b == 0, 0, a // tl.where(b == 0, 1, b)).to(a.dtype)
    else:
        plain = (b == 0) | (b == -1)
        return tl.where(plain, tl.where(b == 0, 0, -a), a // tl.where(plain, 1, b)).to(a.dtype)


@triton.jit
def grt_trunc(x):
    return tl.where(x < 0, tl.ceil(x), tl.floor(x))


@triton.jit
def grt_round(x):
    """Ties to even."""
    low = tl.floor(x)
    rest = x - low
    odd = tl.floor(low * 0.5) * 2 != low
    return tl.where(x == low, x, grt_copysign(tl.where((rest > 0.5) | ((rest == 0.5) & odd), low + 1, low), x))


# --- powers and logarithms -----------------------------------------------------------------------------------------------


@triton.jit
def _exp(x):
    """e^x within the range of normal and subnormal results; float32's own loses digits where |x| is large."""
    if x.dtype == tl.float64:
        return tl.exp(x)
    else:
        n = tl.floor(x * 1.4426950408889634 + 0.5)
        return _scale(tl.exp((x - n * 0.693359375) + n * 2.12194440e-4), n.to(tl.int32))


@triton.jit
def grt_exp2(x):
    if x.dtype == tl.float64:
        return tl.exp2(x)
    else:  # float32's own may give 0 for results below the normal range
        a = tl.minimum(tl.maximum(x, -200.0), 200.0)
        n = tl.floor(a + 0.5)
        return tl.where(x != x, x, _scale(tl.exp2(a - n), n.to(tl.int32)))


@triton.jit
def _log2(a):
    """log2 of positive ``a`` as a head and a rest: e + log2 m, with log m = 2 s (3 + s^2 + ...) / 3, s = (m - 1) / (m + 1).

    The method of fdlibm's pow (Sun Microsystems, 1993): what decides is kept in heads, whose products are exact.
    """
    if a.dtype == tl.float64:
        small = a < 2.2250738585072014e-308
        bits = _bits(tl.where(small, a * 18014398509481984.0, a))
        e = (bits >> 52) - tl.where(small, 1077, 1023)
        m = ((bits & 0xFFFFFFFFFFFFF) | 0x3FF0000000000000).to(tl.float64, bitcast=True)
    else:
        small = a < 1.1754943508222875e-38
        bits = _bits(tl.where(small, a * 16777216.0, a))
        e = (bits >> 23) - tl.where(small, 151, 127)
        m = ((bits & 0x7FFFFF) | 0x3F800000).to(tl.float32, bitcast=True)
    large = m > 1.4142135623730951
    m = tl.where(large, m * 0.5, m)
    e = (e + tl.where(large, 1, 0)).to(a.dtype)
    above, below = m - 1, m + 1
    s = above / below
    s_head, below_head = _head(s), _head(below)
    s_rest = ((above - s_head * below_head) - s_head * (m - (below_head - 1))) / below
    z = s * s
    square = s_head * s_head
    if a.dtype == tl.float64:
        rest = z * z * _polynomial(z, _LOG64, 11) + s_rest * (s_head + s)
    else:
        rest = z * z * _polynomial(z, _LOG32, 5) + s_rest * (s_head + s)
    t_head = _head((3 + square) + rest)
    t_rest = rest - ((t_head - 3) - square)
    product = s_head * t_head
    rest = s_rest * t_head + t_rest * s
    w_head = _head(product + rest)
    w_rest = rest - (w_head - product)
    if a.dtype == tl.float64:  # 2 / (3 log 2)
        y = 0.9617966860532761 * w_head
        rest = 7.8726995428948977e-9 * w_head + w_rest * 0.9617966939259756
    else:
        y = 0.961669921875 * w_head
        rest = 1.2677205097559998e-4 * w_head + w_rest * 0.9617966939259756
    head = _head((y + rest) + e)
    return head, rest - ((head - e) - y)


@triton.jit
def _power(x, p):
    """|x|^p = 2^n 2^f with n + f = p log2 |x|."""
    LIMIT: tl.constexpr = 1200 if x.dtype == tl.float64 else 200
    a = tl.abs(x)
    head, rest = _log2(a)
    y = tl.where(a == 0, float("-inf"), tl.where(a == float("inf"), a, head)) * p
    y = tl.where(a == 1, 0, y)
    far = tl.abs(y) > LIMIT
    n = tl.where(far, tl.where(y > 0, LIMIT, -LIMIT), tl.floor(y + 0.5))
    p_head = _head(p)
    f = (p_head * head - n) + ((p - p_head) * head + p * rest)
    return _scale(tl.exp2(tl.where(far | (a == 1), 0.0, f)), n.to(tl.int32))


@triton.jit
def _whole_power(x, p):
    """Wraps around; a negative exponent leaves 0 but of 1 and -1."""
    x, p = tl.broadcast(x, p)
    square, y = x, x * 0 + 1
    for i in range(x.dtype.primitive_bitwidth):
        y = tl.where((p >> i) & 1 != 0, y * square, y)
        square *= square
    if not x.dtype.is_int_unsigned():
        y = tl.where(p < 0, tl.where(x == 1, 1, tl.where(x == -1, 1 - 2 * (p & 1), 0)), y).to(x.dtype)
    return y


@triton.jit
def grt_pow(x, p):
    if not x.dtype.is_floating():
        return _whole_power(x, p)
    else:
        y = _power(x, p)
        whole = tl.floor(p) == p
        odd = whole & (tl.floor(p * 0.5) * 2 != p)
        y = tl.where((_bits(x) < 0) & odd, y * -1.0, y)
        y = tl.where((x < 0) & (x > float("-inf")) & (whole == 0) | (x != x) | (p != p), float("nan"), y)
        return tl.where((p == 0) | (x == 1), 1.0, y)


@triton.jit
def grt_expm1(x):
    if x.dtype == tl.float64:  # Kahan's: what exp rounds off is in its logarithm too
        u = tl.exp(x)
        y = u - 1
        return tl.where(y == 0, x, tl.where(tl.abs(x) < 1, y * (x / tl.log(u)), y))
    else:
        near = x * (1 + x * (1 / 2 + x * (1 / 6 + x * (1 / 24 + x * (1 / 120 + x * (1 / 720 + x * (1 / 5040)))))))
        return tl.where(tl.abs(x) < 0.35, near, tl.exp(x) - 1)


@triton.jit
def grt_log1p(x):
    u = 1 + x
    y = tl.where(u < float("inf"), tl.log(u) * (x / (u - 1)), u)  # Kahan's: x / (u - 1) is what the addition rounded off
    if x.dtype == tl.float64:
        return tl.where(u == 1, x, y)
    else:
        s = x / (2 + x)
        s2 = s * s
        near = 2 * s * (1 + s2 * (1 / 3 + s2 * (1 / 5 + s2 * (1 / 7 + s2 * (1 / 9)))))
        return tl.where(tl.abs(x) < 0.3, near, y)


@triton.jit
def grt_log10(x):
    """In double, so that powers of ten have whole logarithms in float32."""
    return (tl.log(x.to(tl.float64)) * 0.43429448190325183).to(x.dtype)


# --- trigonometric, hyperbolic, error function -------------------------------------------------------------------------------


@triton.jit
def grt_tanh(x):
    a = tl.minimum(tl.abs(x), 30.0)
    if x.dtype == tl.float64:
        e = grt_expm1(2 * a)
        y = e / (e + 2)
    else:
        y = tl.where(a < 0.64, a * _polynomial(a * a, _TANH32, 7), 1 - 2 / (tl.exp(2 * a) + 1))
    return tl.where(x != x, x, grt_copysign(y, x))


@triton.jit
def grt_atan(x):
    """Reduced to |t| <= tan(pi / 8); the polynomial of float32 is Cephes's."""
    a = tl.abs(x)
    large = a > 2.414213562373095
    middle = (a > 0.4142135623730950) & (large == 0)
    t = tl.where(large, -1 / a, tl.where(middle, (a - 1) / (a + 1), a))
    if x.dtype == tl.float64:
        y = t * _polynomial(t * t, _ATAN64, 11)
    else:
        y = t * _polynomial(t * t, _ATAN32, 5)
    y = tl.where(large, y + 1.5707963267948966, tl.where(middle, y + 0.7853981633974483, y))
    return grt_copysign(y, x)


@triton.jit
def grt_atan2(y, x):
    both = (tl.abs(y) == float("inf")) & (tl.abs(x) == float("inf"))
    angle = grt_atan(tl.where(both, 1.0, tl.where((x == 0) & (y == 0), 0.0, tl.abs(y) / tl.abs(x))))
    angle = tl.where(_bits(x) < 0, 3.141592653589793 - angle, angle)
    return grt_copysign(angle, y)


@triton.jit
def grt_erfc(x):
    """e^(-a^2) (erfcx(a) (1 + 2 a)) / (1 + 2 a) of a = |x|; the middle is a polynomial in (a - 4) / (a + 4) (Shepherd and
    Laframboise, "Chebyshev approximation of (1 + 2x) exp(x^2) erfc x", 1981). a^2 is split, its rounding would be magnified.
    """
    if x.dtype == tl.float64:
        a = tl.minimum(tl.abs(x), 28.0)
        p = _polynomial((a - 4) / (a + 4), _ERFC64, 23)
    else:
        a = tl.minimum(tl.abs(x), 10.2)
        p = _polynomial((a - 4) / (a + 4), _ERFC32, 11)
    head = _head(a)
    y = _exp(-(head * head)) * (tl.exp((head - a) * (head + a)) * p / (1 + 2 * a))
    return tl.where(x != x, x, tl.where(x < 0, 2 - y, y))


@triton.jit
def grt_erfinv(x):
    """Giles, "Approximating the erfinv function", GPU Computing Gems 2011; in double with Halley's iteration behind it."""
    w = -tl.log((1 - x) * (1 + x))
    if x.dtype == tl.float64:
        root = tl.sqrt(tl.where(w > 5, w, 5.0))
    else:
        root = tl.sqrt_rn(tl.where(w > 5, w, 5.0))
    a = tl.abs(x)
    y = a * tl.where(w < 5, _polynomial(w - 2.5, _INVERSE_NEAR, 9), _polynomial(root - 3, _INVERSE_FAR, 9))
    if x.dtype == tl.float64:
        y = tl.where(w > 16, root - tl.log(root * 0.886226925452758) / (2 * root), y)  # far out: of erfc's asymptote
        for _ in range(3):
            off = tl.where(a < 0.5, tl.erf(y) - a, (1 - a) - grt_erfc(y)) * 0.886226925452758 * tl.exp(y * y)
            y -= off / (1 + y * off)
    return grt_copysign(tl.where(a == 1, float("inf"), tl.where(a < 1, y, float("nan"))), x)

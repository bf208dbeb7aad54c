/* Scalar helpers of generated code: minimum, maximum and absolute value by type, and Philox random numbers.
 *
 * grt_max and grt_min propagate NaN as torch does. grt_uniform is Philox4x32-10 (Salmon et al., SC'11): counter words
 * (element, counter, stream, 0) under the 64-bit seed; the top 24 bits of the first word make a float in [0, 1).
 */
#ifndef GRAPHRT_ELEMENTWISE_H
#define GRAPHRT_ELEMENTWISE_H
#include <math.h>
#include <stdint.h>

#define GRT_INLINE static inline __attribute__((always_inline, unused))
#define GRT_SIMD _Pragma("omp simd") /* not "GCC ivdep": a short loop would be unrolled before it is vectorised */
/* a * b + c, rounded once where the processor does that. Nothing else is contracted (-ffp-contract=off), so that an expression
 * is the same number in every loop that computes it. */
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
#define GRT_FMA(a, b, c) _Generic((a) * (b) + (c), float: __builtin_fmaf, default: __builtin_fma)(a, b, c)
#else
#define GRT_FMA(a, b, c) ((a) * (b) + (c))
#endif
#include "vmath.h"

/* As OpenMP's max and min, which may begin with the largest finite number (clang does) and so miss a row of infinities. */
#pragma omp declare reduction(grt_most : float, double : omp_out = omp_out > omp_in ? omp_out : omp_in) \
    initializer(omp_priv = -INFINITY)
#pragma omp declare reduction(grt_least : float, double : omp_out = omp_out < omp_in ? omp_out : omp_in) \
    initializer(omp_priv = INFINITY)

GRT_INLINE float grt_max_f32(float a, float b) { return (a > b || a != a) ? a : b; }
GRT_INLINE double grt_max_f64(double a, double b) { return (a > b || a != a) ? a : b; }
GRT_INLINE int64_t grt_max_i64(int64_t a, int64_t b) { return a > b ? a : b; }
GRT_INLINE float grt_min_f32(float a, float b) { return (a < b || a != a) ? a : b; }
GRT_INLINE double grt_min_f64(double a, double b) { return (a < b || a != a) ? a : b; }
GRT_INLINE int64_t grt_min_i64(int64_t a, int64_t b) { return a < b ? a : b; }
GRT_INLINE int64_t grt_abs_i64(int64_t a) { return a < 0 ? (int64_t)(0 - (uint64_t)a) : a; }

#define grt_max(a, b) _Generic((a), float: grt_max_f32, double: grt_max_f64, default: grt_max_i64)(a, b)
#define grt_min(a, b) _Generic((a), float: grt_min_f32, double: grt_min_f64, default: grt_min_i64)(a, b)
#define grt_abs(a) _Generic((a), float: fabsf, double: fabs, default: grt_abs_i64)(a)

GRT_INLINE double grt_logaddexp(double a, double b) {
  const double top = grt_max_f64(a, b);
  return isinf(top) ? top : top + log1p(exp(-fabs(a - b)));
}

/* The best of a block of a row, whose elements `of` begin with number `first`, becomes that of the row, found `at`, if it beats
 * (> or <) what was before; the first NaN beats all numbers. */
#define GRT_FIND(beats, row, at, of, best, nan, first)        \
  if (nan ? row == row : best beats row) {                    \
    int k = 0;                                                \
    while (nan ? of[k] == of[k] : of[k] != best) k++;         \
    row = of[k], at = first + k;                              \
  }

/* bfloat16 is the upper half of a float, rounded to nearest even. */
typedef uint16_t grt_bf16;
GRT_INLINE float grt_from_bf16(grt_bf16 x) {
  union { uint32_t bits; float value; } u = {.bits = (uint32_t)x << 16};
  return u.value;
}
GRT_INLINE grt_bf16 grt_upper_half(float x) { /* of a number that is a bfloat16 */
  union { float value; uint32_t bits; } u = {.value = x};
  return (grt_bf16)(u.bits >> 16);
}
GRT_INLINE grt_bf16 grt_to_bf16(float x) {
  union { float value; uint32_t bits; } u = {.value = x};
  return (grt_bf16)(x != x ? 0x7FC0 : (u.bits + 0x7FFF + (u.bits >> 16 & 1)) >> 16);
}

/* Towards zero, as in C, but defined for all: by zero it is 0, and the smallest by -1 wraps around. */
GRT_INLINE int64_t grt_quotient(int64_t a, int64_t b) {
  return b == 0 ? 0 : b == -1 ? (int64_t)(0 - (uint64_t)a) : a / b;
}

/* Integer powers wrap around; a negative exponent leaves 0 but of 1 and -1. */
GRT_INLINE int64_t grt_pow_i64(int64_t x, int64_t p) {
  if (p < 0) return x == 1 ? 1 : x == -1 ? (p & 1 ? -1 : 1) : 0;
  uint64_t y = 1;
  for (uint64_t square = (uint64_t)x; p; p >>= 1, square *= square) y *= p & 1 ? square : 1;
  return (int64_t)y;
}
/* A power of 0.5 that is known would become a plain square root in a vectorised loop (GCC 12), which is NaN of -inf and -0 of -0. */
GRT_INLINE float grt_pow_f32(float x, float p) {
  if (__builtin_constant_p(p) && p == 0.5f) return x == -INFINITY ? INFINITY : sqrtf(x + 0.0f);
  return powf(x, p);
}
GRT_INLINE double grt_pow_f64(double x, double p) {
  if (__builtin_constant_p(p) && p == 0.5) return x == -INFINITY ? INFINITY : sqrt(x + 0.0);
  return pow(x, p);
}
#define grt_pow(a, b) _Generic((a), float: grt_pow_f32, double: grt_pow_f64, default: grt_pow_i64)(a, b)

/* Giles, "Approximating the erfinv function", GPU Computing Gems 2011; in double with Halley's iteration behind it. */
GRT_INLINE float grt_erfinv_f32(float x) {
  static const float p[] = {2.81022636e-08f, 3.43273939e-07f, -3.5233877e-06f, -4.39150654e-06f, 0.00021858087f,
                            -0.00125372503f, -0.00417768164f, 0.246640727f, 1.50140941f};
  static const float q[] = {-0.000200214257f, 0.000100950558f, 0.00134934322f, -0.00367342844f, 0.00573950773f,
                            -0.0076224613f, 0.00943887047f, 1.00167406f, 2.83297682f};
  const float w = -logf((1 - x) * (1 + x)), t = w < 5 ? w - 2.5f : sqrtf(w) - 3;
  float y = 0;
  for (int i = 0; i < 9; i++) y = GRT_FMA(y, t, w < 5 ? p[i] : q[i]);
  return fabsf(x) == 1 ? x * INFINITY : y * x;
}
GRT_INLINE double grt_erfinv_f64(double x) {
  double y = grt_erfinv_f32((float)x);
  if (!(fabs(x) < 1)) return fabs(x) == 1 ? x * INFINITY : NAN;
  if (isinf(y)) {
    const double root = sqrt(-log((1 - x) * (1 + x)));
    y = copysign(root - log(root * 0.886226925452758) / (2 * root), x); /* of erfc's asymptote */
  }
  for (int i = 0; i < 5; i++) {
    const double off = fabs(x) < 0.5 ? erf(y) - x : x > 0 ? (1 - x) - erfc(y) : erfc(-y) - (1 + x);
    const double u = off * 0.886226925452758 * exp(y * y);
    y -= u / (1 + y * u);
  }
  return y;
}
#define grt_erfinv(a) _Generic((a), float: grt_erfinv_f32, default: grt_erfinv_f64)(a)

#ifdef __AVX512DQ__ /* multiplies lanes of 64 bits: words in such are not packed and unpacked around each product */
typedef uint64_t grt_word;
#else
typedef uint32_t grt_word;
#endif
GRT_INLINE float grt_uniform(int64_t seed, int64_t counter, uint32_t stream, uint32_t element) {
  grt_word c0 = element, c1 = (uint32_t)counter, c2 = stream, c3 = 0;
  grt_word k0 = (uint32_t)(uint64_t)seed, k1 = (uint32_t)((uint64_t)seed >> 32);
  for (int round = 0; round < 10; round++) {
    const uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
    const grt_word n0 = (grt_word)(p1 >> 32) ^ c1 ^ k0, n2 = (grt_word)(p0 >> 32) ^ c3 ^ k1;
    c1 = (uint32_t)p1, c3 = (uint32_t)p0, c0 = n0, c2 = n2;
    k0 = (uint32_t)(k0 + 0x9E3779B9u), k1 = (uint32_t)(k1 + 0xBB67AE85u);
  }
  return (float)((uint32_t)c0 >> 8) * 0x1p-24f;
}
#endif

/* Elementary functions of floats without branches or calls, so that loops over them vectorise; within 2 ULP of the exact value
 * over the whole range, with the special cases of C's math.h. Reductions after Cody and Waite ("Software manual for the
 * elementary functions", 1980); polynomials fitted at Chebyshev nodes. Doubles go to the C library.
 */
#ifndef GRAPHRT_VMATH_H
#define GRAPHRT_VMATH_H
#include <math.h>
#include <stdint.h>

GRT_INLINE float grt_bits_to_float(uint32_t bits) {
  union { uint32_t bits; float value; } u = {.bits = bits};
  return u.value;
}
GRT_INLINE uint32_t grt_float_to_bits(float value) {
  union { float value; uint32_t bits; } u = {.value = value};
  return u.bits;
}

/* e^x = 2^n e^r, n = round(x / ln 2), |r| <= ln 2 / 2. Adding 1.5 * 2^23 rounds and leaves n in the low bits, from where it goes
 * into the exponent. Returns e^r; *power is to be added to its bits. */
GRT_INLINE float grt_exp_reduced(float x, uint32_t *power) {
  const float t = GRT_FMA(x, 1.44269504f, 12582912.0f), n = t - 12582912.0f;
  const float r = GRT_FMA(n, 2.12194440e-4f, GRT_FMA(n, -0.693359375f, x));
  float p = 0.0013934545f;
  p = GRT_FMA(p, r, 0.00836377684f), p = GRT_FMA(p, r, 0.0416664556f), p = GRT_FMA(p, r, 0.166665733f), p = GRT_FMA(p, r, 0.5f);
  *power = grt_float_to_bits(t) << 23;
  return GRT_FMA(p * r, r, r) + 1.0f;
}
/* Below the normal range 2^64 times the result is made first, so that it is rounded once. */
GRT_INLINE float grt_exp_f32(float x) {
  uint32_t power;
  const float y = grt_exp_reduced(x, &power);
  const int small = x < -87.0f;
  const float z = grt_bits_to_float(grt_float_to_bits(y) + power + (small ? 64u << 23 : 0)), w = small ? z * 0x1p-64f : z;
  const float u = x <= 88.72283f ? w : x + INFINITY; /* infinity, or x if that is no number */
  return x < -104.0f ? 0.0f : u;
}
/* e^x of x <= 88, and 0 instead of results below the normal range; NaN of infinity. Here the power is a factor: n + 127, left in
 * the low bits, is its exponent, and NaN stays NaN. */
GRT_INLINE float grt_exp_bounded_f32(float x) {
  const float t = GRT_FMA(x, 1.44269504f, 12583039.0f), n = t - 12583039.0f;
  const float r = GRT_FMA(n, 2.12194440e-4f, GRT_FMA(n, -0.693359375f, x));
  float p = 0.00138145988f;
  p = GRT_FMA(p, r, 0.00836871658f), p = GRT_FMA(p, r, 0.041668389f), p = GRT_FMA(p, r, 0.166665211f), p = GRT_FMA(p, r, 0.49999994f);
  p = GRT_FMA(p, r, 1.0f), p = GRT_FMA(p, r, 1.0f);
  return x < -87.3f ? 0.0f : p * grt_bits_to_float(grt_float_to_bits(t) << 23);
}

/* log x = e ln 2 + log m, m within sqrt 2 of 1 */
GRT_INLINE float grt_log_f32(float x) {
  const int small = x < 1.17549435e-38f;
  const uint32_t bits = grt_float_to_bits(small ? x * 8388608.0f : x);
  const float m = grt_bits_to_float((bits & 0x7fffff) | 0x3f000000);
  const int low = m < 0.707106781f;
  const float e = (float)((int32_t)(bits >> 23 & 255) - 126 - (small ? 23 : 0) - low), r = (low ? m + m : m) - 1.0f;
  float p = 0.0714975372f;
  p = GRT_FMA(p, r, -0.115712009f), p = GRT_FMA(p, r, 0.116615109f), p = GRT_FMA(p, r, -0.124110505f), p = GRT_FMA(p, r, 0.142499372f);
  p = GRT_FMA(p, r, -0.166684806f), p = GRT_FMA(p, r, 0.200007081f), p = GRT_FMA(p, r, -0.249999896f), p = GRT_FMA(p, r, 0.333333313f);
  const float z = r * r;
  float y = GRT_FMA(e, -2.12194440e-4f, r * z * p);
  y = GRT_FMA(e, 0.693359375f, r + GRT_FMA(z, -0.5f, y));
  y = x == 0.0f ? -INFINITY : y;
  y = x < 0.0f ? NAN : y;
  return (x == INFINITY) | (x != x) ? x : y;
}

/* an odd polynomial near 0, else 1 - 2 / (e^2x + 1) */
GRT_INLINE float grt_tanh_f32(float x) {
  const float a = fabsf(x), z = x * x;
  float p = 0.00224931655f;
  p = GRT_FMA(p, z, -0.00830510072f), p = GRT_FMA(p, z, 0.0217569266f), p = GRT_FMA(p, z, -0.0539577752f), p = GRT_FMA(p, z, 0.133332968f);
  p = GRT_FMA(p, z, -0.333333343f);
  const float near = GRT_FMA(a, z * p, a), far = 1.0f - 2.0f / (grt_exp_f32(2.0f * a) + 1.0f);
  return copysignf(a < 0.64f ? near : far, x);
}

/* an odd polynomial near 0, else 1 - e^(-a q(a)) */
GRT_INLINE float grt_erf_f32(float x) {
  const float a = fabsf(x), z = x * x, t = a > 4.0f ? 4.0f : a;
  float p = 8.33997183e-05f;
  p = GRT_FMA(p, z, -0.000813607476f), p = GRT_FMA(p, z, 0.00520050153f), p = GRT_FMA(p, z, -0.0268592108f), p = GRT_FMA(p, z, 0.112836927f);
  p = GRT_FMA(p, z, -0.376126349f), p = GRT_FMA(p, z, 0.128379166f);
  float q = -3.19684005e-07f;
  q = GRT_FMA(q, t, 5.34637638e-06f), q = GRT_FMA(q, t, -2.00283102e-05f), q = GRT_FMA(q, t, -0.000241907444f), q = GRT_FMA(q, t, 0.00356995221f);
  q = GRT_FMA(q, t, -0.023844542f), q = GRT_FMA(q, t, 0.106480345f), q = GRT_FMA(q, t, 0.634950101f), q = GRT_FMA(q, t, 1.12870657f);
  const float near = GRT_FMA(x, p, x), far = 1.0f - grt_exp_bounded_f32(-t * q);
  return (a < 0.93f) | (x != x) ? near : copysignf(far, x);
}

/* e^(-a^2) (erfcx(a) (1 + 2 a)) / (1 + 2 a) of a = |x|; the middle is a polynomial in (a - 4) / (a + 4) (Shepherd and Laframboise,
 * "Chebyshev approximation of (1 + 2x) exp(x^2) erfc x", 1981). a^2 is split: its rounding would be magnified. */
GRT_INLINE float grt_erfc_f32(float x) {
  const float b = fabsf(x), a = b < 10.2f ? b : 10.2f, t = (a - 4.0f) / (a + 4.0f);
  const float head = grt_bits_to_float(grt_float_to_bits(a) & 0xfffff000);
  float p = 0.000842882018f;
  p = GRT_FMA(p, t, 0.00690645461f), p = GRT_FMA(p, t, -0.0159890129f);
  p = GRT_FMA(p, t, 0.0364255631f), p = GRT_FMA(p, t, -0.0666024213f);
  p = GRT_FMA(p, t, 0.0938259612f), p = GRT_FMA(p, t, -0.100994527f);
  p = GRT_FMA(p, t, 0.0680926533f), p = GRT_FMA(p, t, 0.0153775138f);
  p = GRT_FMA(p, t, -0.139621045f), p = GRT_FMA(p, t, 1.23299513f);
  const float y = grt_exp_f32(-head * head) * (grt_exp_f32((head - a) * (head + a)) * p / (1.0f + 2.0f * a));
  const float z = x < 0.0f ? 2.0f - y : y;
  return x != x ? x : z;
}

#define grt_exp(a) _Generic((a), float: grt_exp_f32, default: exp)(a)
#define grt_exp_bounded(a) _Generic((a), float: grt_exp_bounded_f32, default: exp)(a)
#define grt_log(a) _Generic((a), float: grt_log_f32, default: log)(a)
#define grt_tanh(a) _Generic((a), float: grt_tanh_f32, default: tanh)(a)
#define grt_erf(a) _Generic((a), float: grt_erf_f32, default: erf)(a)
#define grt_erfc(a) _Generic((a), float: grt_erfc_f32, default: erfc)(a)
#endif

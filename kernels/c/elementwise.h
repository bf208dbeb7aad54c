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

GRT_INLINE float grt_max_f32(float a, float b) { return (a > b || a != a) ? a : b; }
GRT_INLINE double grt_max_f64(double a, double b) { return (a > b || a != a) ? a : b; }
GRT_INLINE int64_t grt_max_i64(int64_t a, int64_t b) { return a > b ? a : b; }
GRT_INLINE float grt_min_f32(float a, float b) { return (a < b || a != a) ? a : b; }
GRT_INLINE double grt_min_f64(double a, double b) { return (a < b || a != a) ? a : b; }
GRT_INLINE int64_t grt_min_i64(int64_t a, int64_t b) { return a < b ? a : b; }
GRT_INLINE int64_t grt_abs_i64(int64_t a) { return a < 0 ? -a : a; }

#define grt_max(a, b) _Generic((a), float: grt_max_f32, double: grt_max_f64, default: grt_max_i64)(a, b)
#define grt_min(a, b) _Generic((a), float: grt_min_f32, double: grt_min_f64, default: grt_min_i64)(a, b)
#define grt_abs(a) _Generic((a), float: fabsf, double: fabs, default: grt_abs_i64)(a)

GRT_INLINE float grt_uniform(int64_t seed, int64_t counter, uint32_t stream, uint32_t element) {
  uint32_t c0 = element, c1 = (uint32_t)counter, c2 = stream, c3 = 0;
  uint32_t k0 = (uint32_t)(uint64_t)seed, k1 = (uint32_t)((uint64_t)seed >> 32);
  for (int round = 0; round < 10; round++) {
    const uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
    const uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
    c1 = (uint32_t)p1, c3 = (uint32_t)p0, c0 = n0, c2 = n2;
    k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
  }
  return (float)(c0 >> 8) * 0x1p-24f;
}
#endif

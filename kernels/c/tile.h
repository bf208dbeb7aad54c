/* Vector types and register-tile sizes shared by the templates.
 *
 * GRT_LANES(T) lanes to a vector, whatever the machine has (64 bytes with AVX-512, 32 with AVX, else 16). A tile of
 * TILE_ROWS(v) rows by v vectors keeps every accumulator in a register: 32 registers with AVX-512 and NEON, 16 otherwise.
 */
#ifndef GRAPHRT_TILE_H
#define GRAPHRT_TILE_H
#if defined(__AVX512F__)
#define GRT_VECTOR 64
#elif defined(__AVX__)
#define GRT_VECTOR 32
#else
#define GRT_VECTOR 16
#endif
typedef float grt_vec_float __attribute__((vector_size(GRT_VECTOR), aligned(4)));
typedef double grt_vec_double __attribute__((vector_size(GRT_VECTOR), aligned(8)));
#define GRT_JOIN_(a, b) a##b
#define GRT_JOIN(a, b) GRT_JOIN_(a, b)
#define GRT_VEC(T) GRT_JOIN(grt_vec_, T)
#define GRT_BYTES_float 4 /* for the preprocessor, which knows no sizeof */
#define GRT_BYTES_double 8
#define GRT_BYTES(T) GRT_JOIN(GRT_BYTES_, T)
#define GRT_LANES(T) (GRT_VECTOR / GRT_BYTES(T))
/* GRT_FMA of vectors: GRT_MADD(T, a, b, c), where a may be a number for all lanes. */
#if defined(__clang__)
#define GRT_FUSED(T, kind, one) _Pragma("clang fp contract(fast)") return a * b + c;
#elif defined(__AVX512F__)
#define GRT_FUSED(T, kind, one) return (GRT_VEC(T))__builtin_ia32_vfmadd##kind##512_mask(a, b, c, -1, 4); /* 4: rounds as set */
#elif defined(__FMA__)
#define GRT_FUSED(T, kind, one) return (GRT_VEC(T))__builtin_ia32_vfmadd##kind##256(a, b, c);
#elif defined(__ARM_FEATURE_FMA)
#define GRT_FUSED(T, kind, one)                                       \
  for (int i = 0; i < GRT_LANES(T); i++) c[i] = one(a[i], b[i], c[i]); \
  return c;
#else
#define GRT_FUSED(T, kind, one) return a * b + c;
#endif
#define GRT_FUSES(T, kind, one) \
  GRT_INLINE GRT_VEC(T) GRT_JOIN(grt_madd_, T)(GRT_VEC(T) a, GRT_VEC(T) b, GRT_VEC(T) c) { GRT_FUSED(T, kind, one) }
GRT_FUSES(float, ps, __builtin_fmaf)
GRT_FUSES(double, pd, __builtin_fma)
#define GRT_MADD(T, a, b, c) GRT_JOIN(grt_madd_, T)((a) - (GRT_VEC(T)){0}, b, c)
/* Two bfloat16 numbers in the room of a float, which nothing but GRT_ADD_1 computes with: templates with PAIRS 1 are handed such
 * operands, half as many along the coordinate that they sum over, and move them as they would floats. */
GRT_INLINE float grt_pair(grt_bf16 first, grt_bf16 second) {
  union { uint32_t bits; float pair; } u = {.bits = (uint32_t)second << 16 | first};
  return u.pair;
}
GRT_INLINE float grt_pair_at(const grt_bf16 *x) {
  float pair;
  __builtin_memcpy(&pair, x, sizeof pair);
  return pair;
}
#if defined(__AVX512BF16__)
GRT_INLINE grt_vec_float grt_dot(float a, grt_vec_float b, grt_vec_float c) { /* c + products of pair a and the pairs of b */
  typedef int32_t lanes __attribute__((vector_size(GRT_VECTOR)));
  union { float pair; int32_t bits; } u = {.pair = a};
  const lanes all = u.bits - (lanes){0};
  __asm__("vdpbf16ps %2, %1, %0" : "+v"(c) : "v"(all), "v"(b));
  return c;
}
#define GRT_ADD_1(T, a, b, c) grt_dot(a, b, c)
#endif
#define GRT_ADD_0(T, a, b, c) GRT_MADD(T, a, b, c)
#define GRT_ADD(T, a, b, c) GRT_JOIN(GRT_ADD_, PAIRS)(T, a, b, c)
#if defined(__AVX512F__) || defined(__aarch64__)
#define TILE_ROWS(v) ((v) == 1 ? 12 : (v) == 2 ? 12 : (v) == 3 ? 8 : 6)
#define TILE_VECTORS 4
#else
#define TILE_ROWS(v) ((v) == 1 ? 8 : 5)
#define TILE_VECTORS 2
#endif
/* Keeps vector x in a register: GCC would read it again from memory at each use, and two loads a cycle are all there are. */
#if defined(__x86_64__)
#define GRT_REGISTER(x) __asm__("" : "+v"(x))
#elif defined(__aarch64__)
#define GRT_REGISTER(x) __asm__("" : "+w"(x))
#else
#define GRT_REGISTER(x) (void)0
#endif
/* Brings what is read soon into the second cache; an address that is not there does no harm. */
#define GRT_FETCH(address) __builtin_prefetch(address, 0, 2)
/* r[i][j] <-> r[j][i] of GRT_LANES vectors, in registers: blocks off the diagonal change places, halving (Eklundh, 1972). */
#if defined(__clang__)
#define GRT_TRANSPOSE(T, word)                                                                                         \
  GRT_INLINE void GRT_JOIN(grt_transpose_, T)(GRT_VEC(T) * r) {                                                        \
    for (int i = 0; i < GRT_LANES(T); i++)                                                                             \
      for (int j = 0; j < i; j++) {                                                                                    \
        const T x = r[i][j];                                                                                           \
        r[i][j] = r[j][i], r[j][i] = x;                                                                                \
      }                                                                                                                \
  }
#else
#define GRT_TRANSPOSE(T, word)                                                                                         \
  GRT_INLINE void GRT_JOIN(grt_transpose_, T)(GRT_VEC(T) * r) {                                                        \
    enum { L = GRT_LANES(T) };                                                                                         \
    typedef word lanes __attribute__((vector_size(GRT_VECTOR)));                                                       \
    static const word count[16] __attribute__((aligned(64))) = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}; \
    const lanes lane = *(const lanes *)count;                                                                          \
    _Pragma("GCC unroll 4") for (int d = L / 2; d > 0; d /= 2) {                                                       \
      const lanes low = lane + (((lane & d) != 0) & (L - d)), high = low + d; /* of a, then from L on of b */          \
      _Pragma("GCC unroll 16") for (int i = 0; i < L; i++) {                                                           \
        if (i & d) continue;                                                                                           \
        const GRT_VEC(T) a = r[i], b = r[i + d];                                                                       \
        r[i] = __builtin_shuffle(a, b, low), r[i + d] = __builtin_shuffle(a, b, high);                                 \
      }                                                                                                                \
    }                                                                                                                  \
  }
#endif
GRT_TRANSPOSE(float, int32_t)
GRT_TRANSPOSE(double, int64_t)

/* a op b; integers wrap around. */
#define GRT_WRAPPED(a, op, b) \
  _Generic((a)op(b), float: (a)op(b), double: (a)op(b), default: (int64_t)((uint64_t)(a)op(uint64_t)(b)))
/* What a type is summed in. */
typedef double grt_wide_float, grt_wide_double;
typedef int64_t grt_wide_uint8_t, grt_wide_int8_t, grt_wide_int16_t, grt_wide_int32_t, grt_wide_int64_t;
#define GRT_WIDE(T) GRT_JOIN(grt_wide_, T)
#define GRT_COMBINE_sum(a, b) GRT_WRAPPED(a, +, b)
#define GRT_COMBINE_prod(a, b) GRT_WRAPPED(a, *, b)
#define GRT_COMBINE_max(a, b) grt_max(a, b)
#define GRT_COMBINE_min(a, b) grt_min(a, b)
#define GRT_COMBINE_logaddexp(a, b) grt_logaddexp(a, b)
#define CEIL_DIV(a, b) (((a) + (b)-1) / (b))
#define MIN_OF(a, b) ((a) < (b) ? (a) : (b))
#define MAX_OF(a, b) ((a) > (b) ? (a) : (b))
#define FN(suffix) GRT_JOIN(NAME, suffix)
#endif

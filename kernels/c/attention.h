/* Attention: softmax(Q K' * scale + bias) V, row by row, and no score is stored.
 *
 * Macros: NAME, T, BATCH, CM CN CK CV (queries, keys, size of a key, of a value), SCALE, ROWS (a query sees no key behind its own
 * number, counted anew after so many; 0: it sees all), LOAD_Q(buf, b, m, k), LOAD_K(buf, b, n, k), LOAD_V(buf, b, n, v),
 * LOAD_BIAS(buf, b, m, n), which is added to scores, LOAD_KEEP(buf, b, m, n), by which weights are multiplied when they are summed
 * up, and STORE(buf, b, m, v, value, lse), where lse is the logarithm of the row's sum of exponentials. A row of which no key is
 * seen is 0.
 *
 * A task has BLOCK_M queries and walks over blocks of keys: what a block's largest score is larger by than all before, it shrinks
 * what these have added up to (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018; Dao et al.,
 * "FlashAttention", 2022).
 */
#include "tile.h"
enum {
  FN(_VECTORS_N) = CEIL_DIV(MAX_OF(MIN_OF(CN, 128), 1), GRT_LANES(T)),
  FN(_TILES_N) = CEIL_DIV(FN(_VECTORS_N), TILE_VECTORS),
  FN(_TILE_N) = CEIL_DIV(FN(_VECTORS_N), FN(_TILES_N)), /* vectors */
  FN(_BLOCK_N) = FN(_TILES_N) * FN(_TILE_N) * GRT_LANES(T),
  FN(_VECTORS_V) = CEIL_DIV(MAX_OF(CV, 1), GRT_LANES(T)),
  FN(_TILES_V) = CEIL_DIV(FN(_VECTORS_V), TILE_VECTORS),
  FN(_TILE_V) = CEIL_DIV(FN(_VECTORS_V), FN(_TILES_V)),
  FN(_PITCH_V) = FN(_TILES_V) * FN(_TILE_V) * GRT_LANES(T),
  FN(_WANTED) = CEIL_DIV(16, MAX_OF(BATCH, 1)), /* blocks of queries, so that there are 16 tasks */
  FN(_BLOCK_M) = MAX_OF(MIN_OF(CEIL_DIV(MAX_OF(CM, 1), FN(_WANTED)), 120), MIN_OF(MAX_OF(CM, 1), 24)),
  FN(_BLOCKS_M) = CEIL_DIV(CM, FN(_BLOCK_M)),
  FN(_PITCH_K) = CK + 16 /* no power of two, which would crowd one set of a cache */
};
/* c[rows][VECTORS] <- (c or 0) + a[rows][depth] * b[depth][VECTORS] */
#define ATTENTION_PRODUCT(name, VECTORS)                                                                                          \
  GRT_INLINE void FN(name)(const T *a, const int pitch, const T *b, const int width, T *c, const int more, int depth, const int rows) { \
    typedef GRT_VEC(T) vec;                                                                                                        \
    enum { L = GRT_LANES(T) };                                                                                                     \
    vec acc[TILE_ROWS(VECTORS)][VECTORS];                                                                                          \
    _Pragma("GCC unroll 16") for (int i = 0; i < TILE_ROWS(VECTORS); i++)                                                          \
      _Pragma("GCC unroll 4") for (int v = 0; v < VECTORS; v++)                                                                    \
        acc[i][v] = more ? *(const vec *)(c + MIN_OF(i, rows - 1) * width + v * L) : (vec){0};                                     \
    for (int k = 0; k < depth; k++) {                                                                                              \
      vec w[VECTORS];                                                                                                              \
      _Pragma("GCC unroll 4") for (int v = 0; v < VECTORS; v++) w[v] = *(const vec *)(b + k * width + v * L);                      \
      _Pragma("GCC unroll 16") for (int i = 0; i < TILE_ROWS(VECTORS); i++) {                                                      \
        const T x = a[MIN_OF(i, rows - 1) * pitch + k];                                                                            \
        _Pragma("GCC unroll 4") for (int v = 0; v < VECTORS; v++) acc[i][v] = GRT_MADD(T, x, w[v], acc[i][v]);                     \
      }                                                                                                                            \
    }                                                                                                                              \
    for (int i = 0; i < rows; i++)                                                                                                 \
      _Pragma("GCC unroll 4") for (int v = 0; v < VECTORS; v++) *(vec *)(c + i * width + v * L) = acc[i][v];                       \
  }                                                                                                                                \
  GRT_INLINE void FN(name##s)(const T *a, const int pitch, const T *b, const int width, T *c, const int more, int depth, int rows) { \
    enum { MR = TILE_ROWS(VECTORS), NR = VECTORS * GRT_LANES(T) };                                                                 \
    for (int j = 0; j < width; j += NR)                                                                                            \
      for (int i = 0; i < rows; i += MR)                                                                                           \
        if (i + MR <= rows)                                                                                                        \
          FN(name)(a + i * pitch, pitch, b + j, width, c + i * width + j, more, depth, MR);                                        \
        else                                                                                                                       \
          FN(name)(a + i * pitch, pitch, b + j, width, c + i * width + j, more, depth, rows - i);                                  \
  }
ATTENTION_PRODUCT(_score, FN(_TILE_N))
ATTENTION_PRODUCT(_mix, FN(_TILE_V))

/* to[k][BLOCK_N] <- keys n0 ..., 0 behind the last */
GRT_INLINE void FN(_keys)(const FN(_buffers) buf, T *to, int b, int n0, int width) {
  enum { L = GRT_LANES(T), BN = FN(_BLOCK_N) };
  int k = 0;
  for (; k + L <= CK; k += L) { /* a transposition, in registers */
    int j = 0;
    for (; j + L <= width; j += L) {
      GRT_VEC(T) r[L];
      for (int l = 0; l < L; l++) {
        T row[L] __attribute__((aligned(64)));
        GRT_SIMD for (int i = 0; i < L; i++) row[i] = LOAD_K(buf, b, n0 + j + l, k + i);
        r[l] = *(const GRT_VEC(T) *)row;
      }
      GRT_JOIN(grt_transpose_, T)(r);
      for (int i = 0; i < L; i++) *(GRT_VEC(T) *)(to + (k + i) * BN + j) = r[i];
    }
    for (int i = 0; i < L; i++)
      for (int l = j; l < BN; l++) to[(k + i) * BN + l] = l < width ? LOAD_K(buf, b, n0 + l, k + i) : 0;
  }
  for (; k < CK; k++)
    for (int j = 0; j < BN; j++) to[k * BN + j] = j < width ? LOAD_K(buf, b, n0 + j, k) : 0;
}

/* Scores of a row, `s`, become weights; what was added up before is to be multiplied by what this returns. */
GRT_INLINE T FN(_weigh)(const FN(_buffers) buf, T *s, T *top, T *total, int b, int m, int n0, int width) {
  const int seen = ROWS ? MIN_OF(width, m % MAX_OF(ROWS, 1) + 1 - n0) : width;
  T high = *top, sum = 0;
  GRT_SIMD for (int j = 0; j < seen; j++) s[j] += LOAD_BIAS(buf, b, m, n0 + j);
  enum { L = GRT_LANES(T) };
  T part[L] __attribute__((aligned(64)));
  for (int l = 0; l < L; l++) part[l] = high;
  int j = 0;
  for (; j + L <= seen; j += L)
    GRT_SIMD for (int l = 0; l < L; l++) part[l] = s[j + l] > part[l] ? s[j + l] : part[l];
  for (; j < seen; j++) part[0] = s[j] > part[0] ? s[j] : part[0];
  for (int l = 0; l < L; l++) high = part[l] > high ? part[l] : high;
  const T base = high == -INFINITY ? 0 : high, shrink = grt_exp(*top - base);
  GRT_SIMD for (int i = 0; i < seen; i++) s[i] = grt_exp(s[i] - base);
  for (int l = 0; l < L; l++) part[l] = 0;
  for (j = 0; j + L <= seen; j += L)
    GRT_SIMD for (int l = 0; l < L; l++) part[l] += s[j + l];
  for (; j < seen; j++) part[0] += s[j];
  for (int l = 0; l < L; l++) sum += part[l];
  GRT_SIMD for (int i = 0; i < seen; i++) s[i] *= LOAD_KEEP(buf, b, m, n0 + i);
  for (int i = MAX_OF(seen, 0); i < width; i++) s[i] = 0;
  *total = *total * shrink + sum, *top = high;
  return shrink;
}

static void FN(_task)(long task, void **table) {
  const FN(_buffers) buf = FN(_open)(table);
  enum { BM = FN(_BLOCK_M), BN = FN(_BLOCK_N), PK = FN(_PITCH_K), PV = FN(_PITCH_V) };
  const int b = (int)(task / FN(_BLOCKS_M)), m0 = (int)(task % FN(_BLOCKS_M)) * BM, rows = MIN_OF(CM - m0, BM);
  T *const q = grt_scratch(sizeof(T) * ((size_t)BM * (PK + BN + PV + 2) + (size_t)BN * (CK + PV) + 64));
  T *const keys = q + BM * PK, *const values = keys + CK * BN, *const s = values + BN * PV, *const y = s + BM * BN;
  T *const top = y + BM * PV, *const total = top + BM;
  int last = ROWS ? 0 : CN - 1;
  for (int i = 0; i < rows; i++) {
    GRT_SIMD for (int k = 0; k < CK; k++) q[i * PK + k] = LOAD_Q(buf, b, m0 + i, k) * (T)SCALE;
    GRT_SIMD for (int v = 0; v < PV; v++) y[i * PV + v] = 0;
    top[i] = -INFINITY, total[i] = 0;
    if (ROWS) last = MAX_OF(last, (m0 + i) % MAX_OF(ROWS, 1));
  }
  for (int n0 = 0; n0 < CN && n0 <= last; n0 += BN) {
    const int width = MIN_OF(CN - n0, BN);
    FN(_keys)(buf, keys, b, n0, width);
    for (int j = 0; j < width; j++) {
      GRT_SIMD for (int v = 0; v < CV; v++) values[j * PV + v] = LOAD_V(buf, b, n0 + j, v);
      for (int v = CV; v < PV; v++) values[j * PV + v] = 0;
    }
    FN(_scores)(q, PK, keys, BN, s, 0, CK, rows);
    for (int i = 0; i < rows; i++) {
      const T shrink = FN(_weigh)(buf, s + i * BN, top + i, total + i, b, m0 + i, n0, width);
      GRT_SIMD for (int v = 0; v < PV; v++) y[i * PV + v] *= shrink;
    }
    FN(_mixs)(s, BN, values, PV, y, 1, width, rows);
  }
  for (int i = 0; i < rows; i++) {
    const int empty = total[i] == 0;
    const T share = empty ? 1 : total[i], lse = empty ? INFINITY : top[i] + grt_log(total[i]);
    GRT_SIMD for (int v = 0; v < CV; v++) STORE(buf, b, m0 + i, v, y[i * PV + v] / share, lse);
  }
}
GRT_LAUNCH void NAME(void **table) { GRT_PARALLEL(FN(_task), CV ? (long)BATCH * FN(_BLOCKS_M) : 0, table); }

/* Batched matrix product, blocked and packed (Goto and van de Geijn, "Anatomy of high-performance matrix multiplication").
 *
 *            N                 Macros: NAME, T, BATCH, M, N, K, LOAD_A(buf, b, m, k), LOAD_B(buf, b, k, n),
 *        K [ B ]               STORE(buf, b, m, n, value), A_FAST_M and B_FAST_N (1 if that is the unit stride), A_DIRECT
 *   K                          (1 if LOAD_A is no more than a load along k: then A is read where it lies).
 * M[ A ] [ C ]                 A task owns one BM x BN block of C. It packs panels of A and B through the loaders (so a
 *                              transposed, cast or computed operand costs nothing more), multiplies them in register tiles
 *                              and hands every element to STORE once, when its sum is complete.
 */
#include "tile.h"
enum {
  FN(_NV) = MIN_OF(2, CEIL_DIV(MAX_OF(N, 1), GRT_LANES(T))),
  FN(_NR) = FN(_NV) * GRT_LANES(T),
  FN(_MR) = CEIL_DIV(MAX_OF(M, 1), CEIL_DIV(MAX_OF(M, 1), TILE_ROWS(FN(_NV)))), /* even tiles */
  FN(_TM) = CEIL_DIV(MAX_OF(M, 1), FN(_MR)), /* register tiles, dealt evenly to blocks */
  FN(_TN) = CEIL_DIV(MAX_OF(N, 1), FN(_NR)),
  FN(_MB) = CEIL_DIV(FN(_TM), 8),
  FN(_NB) = CEIL_DIV(FN(_TN), 3),
  FN(_BM) = CEIL_DIV(FN(_TM), FN(_MB)) * FN(_MR),
  FN(_BN) = CEIL_DIV(FN(_TN), FN(_NB)) * FN(_NR),
  FN(_KC) = MIN_OF(MAX_OF(K, 1), 384)
};

/* c[MR][NR] (+)= A[m ...][k0 ...] * B; rows from `rows` on repeat the last one, and their sums are not used */
GRT_INLINE void FN(_tile)(const FN(_buffers) buf, const T *a, const T *panel, T *c, int b, int m, int k0, int depth,
                          const int rows) {
  typedef GRT_VEC(T) vec;
  enum { L = GRT_LANES(T), NV = FN(_NV), MR = FN(_MR) };
  vec acc[MR][NV];
#pragma GCC unroll 16
  for (int i = 0; i < MR; i++)
#pragma GCC unroll 4
    for (int v = 0; v < NV; v++) acc[i][v] = k0 ? *(const vec *)(c + i * FN(_BN) + v * L) : (vec){0};
  for (int k = 0; k < depth; k++) {
    vec w[NV];
#pragma GCC unroll 4
    for (int v = 0; v < NV; v++) w[v] = *(const vec *)(panel + (k * NV + v) * L);
#pragma GCC unroll 16
    for (int i = 0; i < MR; i++) {
#if A_DIRECT
      const T x = LOAD_A(buf, b, m + MIN_OF(i, rows - 1), k0 + k);
#else
      const T x = a[k * MR + i];
#endif
#pragma GCC unroll 4
      for (int v = 0; v < NV; v++) acc[i][v] += x * w[v];
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < MR; i++)
#pragma GCC unroll 4
    for (int v = 0; v < NV; v++) *(vec *)(c + i * FN(_BN) + v * L) = acc[i][v];
  (void)buf, (void)a, (void)b, (void)m, (void)rows;
}

static void FN(_task)(long task, void **table) {
  const FN(_buffers) buf = FN(_open)(table);
  enum { L = GRT_LANES(T), NV = FN(_NV), MR = FN(_MR), NR = FN(_NR), MB = FN(_MB), NB = FN(_NB), BM = FN(_BM), BN = FN(_BN), KC = FN(_KC) };
  const int b = (int)(task / (MB * NB)), m0 = (int)(task / NB % MB) * BM, n0 = (int)(task % NB) * BN;
  const int rows = MIN_OF(M - m0, BM), cols = MIN_OF(N - n0, BN);
  T *pa = grt_scratch(sizeof(T) * ((A_DIRECT ? 0 : BM * KC) + KC * BN + BM * BN));
  T *pb = pa + (A_DIRECT ? 0 : BM * KC), *c = pb + KC * BN;
  for (int k0 = 0; k0 == 0 || k0 < K; k0 += KC) {
    const int depth = MIN_OF(K - k0, KC);
#if !A_DIRECT
    for (int t = 0; t < BM; t += MR) { /* A panels: [k][MR], zero below the last row */
      T *p = pa + t * KC;
      const int height = MAX_OF(MIN_OF(rows - t, MR), 0);
      if (height < MR) memset(p, 0, sizeof(T) * MR * depth);
#if A_FAST_M
      for (int k = 0; k < depth; k++)
        for (int i = 0; i < height; i++) p[k * MR + i] = LOAD_A(buf, b, m0 + t + i, k0 + k);
#else
      for (int k1 = 0; k1 < depth; k1 += 32) /* a transposition, in pieces that stay in the first cache */
        for (int i = 0; i < height; i++)
          for (int k = k1; k < MIN_OF(k1 + 32, depth); k++) p[k * MR + i] = LOAD_A(buf, b, m0 + t + i, k0 + k);
#endif
    }
#endif
    for (int t = 0; t < BN; t += NR) { /* B panels: [k][NR], zero right of the last column */
      T *p = pb + t * KC;
      const int width = MIN_OF(cols - t, NR);
#if B_FAST_N
      for (int k = 0; k < depth; k++) {
        GRT_SIMD for (int j = 0; j < width; j++) p[k * NR + j] = LOAD_B(buf, b, k0 + k, n0 + t + j);
        for (int j = MAX_OF(width, 0); j < NR; j++) p[k * NR + j] = 0;
      }
#else
      int k1 = 0;
      if (width >= NR)
        for (; k1 + L <= depth; k1 += L) /* a transposition, in registers */
          for (int v = 0; v < NV; v++) {
            GRT_VEC(T) r[L];
            for (int j = 0; j < L; j++) {
              T row[L] __attribute__((aligned(64)));
              GRT_SIMD for (int k = 0; k < L; k++) row[k] = LOAD_B(buf, b, k0 + k1 + k, n0 + t + v * L + j);
              r[j] = *(const GRT_VEC(T) *)row;
            }
            GRT_JOIN(grt_transpose_, T)(r);
            for (int k = 0; k < L; k++) *(GRT_VEC(T) *)(p + ((k1 + k) * NV + v) * L) = r[k];
          }
      for (; k1 < depth; k1++) {
        for (int j = 0; j < width; j++) p[k1 * NR + j] = LOAD_B(buf, b, k0 + k1, n0 + t + j);
        for (int j = MAX_OF(width, 0); j < NR; j++) p[k1 * NR + j] = 0;
      }
#endif
    }
    for (int tn = 0; tn < cols; tn += NR)
      for (int tm = 0; tm < rows; tm += MR) {
        T *at = c + tm * BN + tn;
        if (tm + MR <= rows) {
          FN(_tile)(buf, pa + tm * KC, pb + tn * KC, at, b, m0 + tm, k0, depth, MR);
        } else {
          FN(_tile)(buf, pa + tm * KC, pb + tn * KC, at, b, m0 + tm, k0, depth, rows - tm);
        }
        if (k0 + KC < K) continue; /* the sums go on */
        for (int i = 0; i < MIN_OF(rows - tm, MR); i++, at += BN) {
          if (cols - tn >= NR) {
            GRT_SIMD for (int j = 0; j < NR; j++) STORE(buf, b, m0 + tm + i, n0 + tn + j, at[j]);
          } else {
            GRT_SIMD for (int j = 0; j < cols - tn; j++) STORE(buf, b, m0 + tm + i, n0 + tn + j, at[j]);
          }
        }
      }
  }
}
static void NAME(void **table) { if (M > 0 && N > 0) GRT_PARALLEL(FN(_task), (long)BATCH * FN(_MB) * FN(_NB), table); }
#undef NAME
#undef T
#undef ACC
#undef BATCH
#undef M
#undef N
#undef K
#undef LOAD_A
#undef LOAD_B
#undef STORE
#undef A_FAST_M
#undef B_FAST_N
#undef A_DIRECT

/* Batched matrix product, blocked and packed (Goto and van de Geijn, "Anatomy of high-performance matrix multiplication").
 *
 *            N                 Macros: NAME, T, BATCH, M, N, K, LOAD_A(buf, b, m, k), LOAD_B(buf, b, k, n),
 *        K [ B ]               STORE(buf, b, m, n, value), A_FAST_M and B_FAST_N (1 if that is the unit stride).
 *   K                          A task owns one BM x BN block of C. It packs panels of A and B through the loaders (so a
 * M[ A ] [ C ]                 transposed, cast or computed operand costs nothing more), multiplies them in register tiles
 *                              and hands every element to STORE once, when its sum is complete.
 */
#include "tile.h"
static void FN(_task)(long task, void **table) {
  const FN(_buffers) buf = FN(_open)(table);
  typedef GRT_VEC(T) vec;
  enum {
    L = GRT_LANES(T), NV = MIN_OF(2, CEIL_DIV(MAX_OF(N, 1), L)), NR = NV * L, MR = TILE_ROWS(NV),
    TM = CEIL_DIV(MAX_OF(M, 1), MR), TN = CEIL_DIV(MAX_OF(N, 1), NR), /* register tiles, dealt evenly to blocks */
    MB = CEIL_DIV(TM, 8), NB = CEIL_DIV(TN, 3), BM = CEIL_DIV(TM, MB) * MR, BN = CEIL_DIV(TN, NB) * NR,
    KC = MIN_OF(MAX_OF(K, 1), 384)
  };
  const int b = (int)(task / (MB * NB)), m0 = (int)(task / NB % MB) * BM, n0 = (int)(task % NB) * BN;
  const int rows = MIN_OF(M - m0, BM), cols = MIN_OF(N - n0, BN);
  T *pa = grt_scratch(sizeof(T) * (BM * KC + KC * BN + BM * BN));
  T *pb = pa + BM * KC, *c = pb + KC * BN;
  for (int k0 = 0; k0 == 0 || k0 < K; k0 += KC) {
    const int depth = MIN_OF(K - k0, KC);
    for (int t = 0; t < BM; t += MR) { /* A panels: [k][MR], zero below the last row */
      T *p = pa + t * KC;
#if A_FAST_M
      for (int k = 0; k < depth; k++)
        for (int i = 0; i < MR; i++) p[k * MR + i] = t + i < rows ? LOAD_A(buf, b, m0 + t + i, k0 + k) : 0;
#else
      for (int k1 = 0; k1 < depth; k1 += 32) /* a transposition, in pieces that stay in the first cache */
        for (int i = 0; i < MR; i++)
          for (int k = k1; k < MIN_OF(k1 + 32, depth); k++)
            p[k * MR + i] = t + i < rows ? LOAD_A(buf, b, m0 + t + i, k0 + k) : 0;
#endif
    }
    for (int t = 0; t < BN; t += NR) { /* B panels: [k][NR], zero right of the last column */
      T *p = pb + t * KC;
      const int width = MIN_OF(cols - t, NR);
#if B_FAST_N
      for (int k = 0; k < depth; k++) {
        GRT_SIMD for (int j = 0; j < width; j++) p[k * NR + j] = LOAD_B(buf, b, k0 + k, n0 + t + j);
        for (int j = MAX_OF(width, 0); j < NR; j++) p[k * NR + j] = 0;
      }
#else
      for (int k1 = 0; k1 < depth; k1 += 32)
        for (int j = 0; j < NR; j++)
          for (int k = k1; k < MIN_OF(k1 + 32, depth); k++) p[k * NR + j] = j < width ? LOAD_B(buf, b, k0 + k, n0 + t + j) : 0;
#endif
    }
    for (int tn = 0; tn < BN; tn += NR)
      for (int tm = 0; tm < BM; tm += MR) {
        const T *a = pa + tm * KC, *bb = pb + tn * KC;
        vec acc[MR][NV];
        for (int i = 0; i < MR; i++)
          for (int v = 0; v < NV; v++) acc[i][v] = k0 ? *(const vec *)(c + (tm + i) * BN + tn + v * L) : (vec){0};
        for (int k = 0; k < depth; k++) {
          vec w[NV];
#pragma GCC unroll 4
          for (int v = 0; v < NV; v++) w[v] = *(const vec *)(bb + k * NR + v * L);
#pragma GCC unroll 16
          for (int i = 0; i < MR; i++)
#pragma GCC unroll 4
            for (int v = 0; v < NV; v++) acc[i][v] += a[k * MR + i] * w[v];
        }
        if (k0 + KC < K) { /* to be continued */
          for (int i = 0; i < MR; i++)
            for (int v = 0; v < NV; v++) *(vec *)(c + (tm + i) * BN + tn + v * L) = acc[i][v];
          continue;
        }
        for (int i = 0; i < MIN_OF(rows - tm, MR); i++) {
          T out[NR] __attribute__((aligned(64)));
#pragma GCC unroll 4
          for (int v = 0; v < NV; v++) *(vec *)(out + v * L) = acc[i][v];
          if (cols - tn >= NR) {
            GRT_SIMD for (int j = 0; j < NR; j++) STORE(buf, b, m0 + tm + i, n0 + tn + j, out[j]);
          } else {
            GRT_SIMD for (int j = 0; j < cols - tn; j++) STORE(buf, b, m0 + tm + i, n0 + tn + j, out[j]);
          }
        }
      }
  }
}
static void NAME(void **table) {
  enum {
    L = GRT_LANES(T), NV = MIN_OF(2, CEIL_DIV(MAX_OF(N, 1), L)), NR = NV * L, MR = TILE_ROWS(NV),
    TM = CEIL_DIV(MAX_OF(M, 1), MR), TN = CEIL_DIV(MAX_OF(N, 1), NR)
  };
  if (M > 0 && N > 0) GRT_PARALLEL(FN(_task), (long)BATCH * CEIL_DIV(TM, 8) * CEIL_DIV(TN, 3), table);
}
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

/* The gradients of attention's keys and values, which are as long as each other, key by key, and no score is stored.
 *
 * Macros: those of attention.h, LOAD_DY(buf, b, m, v), LOAD_LSE(buf, b, m), LOAD_DELTA(buf, b, m), which attention_dq.h has found,
 * and STORE(buf, b, n, k, of the key, of the value).
 *
 * A task has BLOCK_I keys and walks over the queries: what attention_dq.h does, with rows and columns changed round.
 */
#define ALONG CN
#define ACROSS CM
#define DEPTH CK
#include "attention_core.h"
ATTENTION_TURNED(_queries, LOAD_Q, CK)
ATTENTION_TURNED(_outer, LOAD_DY, CV)

/* s[width], scores of a key, <- the weights that were summed up, and a[width], the gradients of the weights, <- the scores'. */
GRT_INLINE void FN(_gradients)(const FN(_buffers) buf, T *s, T *a, const T *lse, const T *delta, int b, int m0, int n, int width) {
  GRT_SIMD for (int j = 0; j < width; j++) {
    const T weight = n <= FN(_last)(m0 + j) ? grt_exp_bounded(s[j] + LOAD_BIAS(buf, b, m0 + j, n) - lse[j]) : 0;
    const T keep = LOAD_KEEP(buf, b, m0 + j, n);
    s[j] = weight * keep, a[j] = weight * (a[j] * keep - delta[j]);
  }
}

static void FN(_task)(long task, void **table) {
  const FN(_buffers) buf = FN(_open)(table);
  enum { BN = FN(_BLOCK_I), BM = FN(_BLOCK_J), PK = FN(_PITCH_K), PV = FN(_PITCH_V), PD = FN(_PITCH_D) };
  const int b = (int)(task / FN(_BLOCKS_I)), n0 = (int)(task % FN(_BLOCKS_I)) * BN, rows = MIN_OF(CN - n0, BN);
  T *const k = grt_scratch(sizeof(T) * ((size_t)BN * (PK + PV + 2 * BM + 2 * PD) + (size_t)BM * (CK + CV + 2 * PD + 2) + 64));
  T *const v = k + BN * PK, *const queries = v + BN * PV, *const outer = queries + CK * BM, *const q = outer + CV * BM;
  T *const dy = q + BM * PD, *const s = dy + BM * PD, *const a = s + BN * BM, *const dk = a + BN * BM, *const dv = dk + BN * PD;
  T *const lse = dv + BN * PD, *const delta = lse + BM;
  ATTENTION_ROWS(k, PK, LOAD_K, CK, n0, rows, (T)SCALE)
  ATTENTION_ROWS(v, PV, LOAD_V, CV, n0, rows, 1)
  GRT_SIMD for (int i = 0; i < rows * PD; i++) dk[i] = dv[i] = 0;
  for (int m0 = ATTENTION_FIRST(n0); m0 < CM; m0 += BM) {
    const int width = MIN_OF(CM - m0, BM);
    int last = 0;
    for (int j = 0; j < width; j++) {
      lse[j] = LOAD_LSE(buf, b, m0 + j), delta[j] = LOAD_DELTA(buf, b, m0 + j);
      last = MAX_OF(last, FN(_last)(m0 + j));
    }
    if (last < n0) continue;
    FN(_queries)(buf, queries, b, m0, width);
    FN(_outer)(buf, outer, b, m0, width);
    ATTENTION_ROWS(q, PD, LOAD_Q, CK, m0, width, (T)SCALE)
    ATTENTION_ROWS(dy, PD, LOAD_DY, CV, m0, width, 1)
    FN(_scores)(k, PK, queries, BM, s, 0, CK, rows, width);
    FN(_scores)(v, PV, outer, BM, a, 0, CV, rows, width);
    for (int i = 0; i < rows; i++) FN(_gradients)(buf, s + i * BM, a + i * BM, lse, delta, b, m0, n0 + i, width);
    FN(_sums)(s, BM, dy, PD, dv, 1, width, rows, PD);
    FN(_sums)(a, BM, q, PD, dk, 1, width, rows, PD);
  }
  for (int i = 0; i < rows; i++)
    GRT_SIMD for (int d = 0; d < CK; d++) STORE(buf, b, n0 + i, d, dk[i * PD + d], dv[i * PD + d]);
}
GRT_LAUNCH void NAME(void **table) { GRT_PARALLEL(FN(_task), CK ? (long)BATCH * FN(_BLOCKS_I) : 0, table); }

/* The gradient of attention's queries, row by row, and no score is stored.
 *
 * Macros: those of attention.h, LOAD_DY(buf, b, m, v), LOAD_Y(buf, b, m, v), LOAD_LSE(buf, b, m), LOAD_DLSE(buf, b, m), and
 * STORE(buf, b, m, k, value, delta), where delta, the sum of a row of dy * y less the gradient of lse, is what attention_dkv.h takes.
 *
 * A task has BLOCK_I queries: with the weights P = exp(scores - lse) of a block of keys, scores get P * (dy V' * keep - delta),
 * whose product with the keys is added up (Dao et al., "FlashAttention", 2022).
 */
#define ALONG CM
#define ACROSS CN
#define DEPTH CK
#include "attention_core.h"
ATTENTION_TURNED(_keys, LOAD_K, CK)
ATTENTION_TURNED(_values, LOAD_V, CV)

/* s[width], scores, <- their gradients, where a[width] are those of the weights. */
GRT_INLINE void FN(_gradients)(const FN(_buffers) buf, T *s, const T *a, T delta, int b, int m, int n0, int width) {
  const T lse = LOAD_LSE(buf, b, m);
  const int seen = MIN_OF(width, FN(_last)(m) + 1 - n0);
  GRT_SIMD for (int j = 0; j < seen; j++)
    s[j] = grt_exp_bounded(s[j] + LOAD_BIAS(buf, b, m, n0 + j) - lse) * (a[j] * LOAD_KEEP(buf, b, m, n0 + j) - delta);
  for (int j = MAX_OF(seen, 0); j < width; j++) s[j] = 0;
}

static void FN(_task)(long task, void **table) {
  const FN(_buffers) buf = FN(_open)(table);
  enum { L = GRT_LANES(T), BM = FN(_BLOCK_I), BN = FN(_BLOCK_J), PK = FN(_PITCH_K), PV = FN(_PITCH_V), PD = FN(_PITCH_D) };
  const int b = (int)(task / FN(_BLOCKS_I)), m0 = (int)(task % FN(_BLOCKS_I)) * BM, rows = MIN_OF(CM - m0, BM);
  T *const q = grt_scratch(sizeof(T) * ((size_t)BM * (PK + PV + 2 * BN + PD + 1) + (size_t)BN * (CK + CV + PD) + 64));
  T *const dy = q + BM * PK, *const keys = dy + BM * PV, *const values = keys + CK * BN, *const k = values + CV * BN;
  T *const s = k + BN * PD, *const a = s + BM * BN, *const dq = a + BM * BN, *const delta = dq + BM * PD;
  int last = 0;
  ATTENTION_ROWS(q, PK, LOAD_Q, CK, m0, rows, (T)SCALE)
  ATTENTION_ROWS(dy, PV, LOAD_DY, CV, m0, rows, 1)
  for (int i = 0; i < rows; i++) {
    T part[L] __attribute__((aligned(64)));
    for (int l = 0; l < L; l++) part[l] = 0;
    int v = 0;
    for (; v + L <= CV; v += L)
      GRT_SIMD for (int l = 0; l < L; l++) part[l] += dy[i * PV + v + l] * LOAD_Y(buf, b, m0 + i, v + l);
    for (; v < CV; v++) part[0] += dy[i * PV + v] * LOAD_Y(buf, b, m0 + i, v);
    ATTENTION_FOLD(part, ATTENTION_SUM)
    GRT_SIMD for (int d = 0; d < PD; d++) dq[i * PD + d] = 0;
    delta[i] = part[0] - LOAD_DLSE(buf, b, m0 + i), last = MAX_OF(last, FN(_last)(m0 + i));
  }
  for (int n0 = 0; n0 < CN && n0 <= last; n0 += BN) {
    const int width = ATTENTION_WIDTH(n0, last);
    FN(_keys)(buf, keys, b, n0, width);
    FN(_values)(buf, values, b, n0, width);
    ATTENTION_ROWS(k, PD, LOAD_K, CK, n0, width, (T)SCALE)
    FN(_scores)(q, PK, keys, BN, s, 0, CK, rows, width);
    FN(_scores)(dy, PV, values, BN, a, 0, CV, rows, width);
    for (int i = 0; i < rows; i++) FN(_gradients)(buf, s + i * BN, a + i * BN, delta[i], b, m0 + i, n0, width);
    FN(_sums)(s, BN, k, PD, dq, 1, width, rows, PD);
  }
  for (int i = 0; i < rows; i++)
    GRT_SIMD for (int d = 0; d < CK; d++) STORE(buf, b, m0 + i, d, dq[i * PD + d], delta[i]);
}
GRT_LAUNCH void NAME(void **table) { GRT_PARALLEL(FN(_task), CK ? (long)BATCH * FN(_BLOCKS_I) : 0, table); }

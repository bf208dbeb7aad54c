/* The gradient of attention's scores, for a bias that is learned: P * (dy V' * keep - delta), with the weights P = exp(scores - lse).
 *
 * Macros: those of attention.h, LOAD_DY(buf, b, m, v), LOAD_LSE(buf, b, m), LOAD_DELTA(buf, b, m), which attention_dq.h has found,
 * and STORE(buf, b, m, n, value).
 */
#define ALONG CM
#define ACROSS CN
#define DEPTH 1
#include "attention_core.h"
ATTENTION_TURNED(_keys, LOAD_K, CK)
ATTENTION_TURNED(_values, LOAD_V, CV)

static void FN(_task)(long task, void **table) {
  const FN(_buffers) buf = FN(_open)(table);
  enum { BM = FN(_BLOCK_I), BN = FN(_BLOCK_J), PK = FN(_PITCH_K), PV = FN(_PITCH_V) };
  const int b = (int)(task / FN(_BLOCKS_I)), m0 = (int)(task % FN(_BLOCKS_I)) * BM, rows = MIN_OF(CM - m0, BM);
  T *const q = grt_scratch(sizeof(T) * ((size_t)BM * (PK + PV + 2 * BN) + (size_t)BN * (CK + CV) + 64));
  T *const dy = q + BM * PK, *const keys = dy + BM * PV, *const values = keys + CK * BN, *const s = values + CV * BN;
  T *const a = s + BM * BN;
  ATTENTION_ROWS(q, PK, LOAD_Q, CK, m0, rows, (T)SCALE)
  ATTENTION_ROWS(dy, PV, LOAD_DY, CV, m0, rows, 1)
  for (int n0 = 0; n0 < CN; n0 += BN) {
    const int width = MIN_OF(CN - n0, BN);
    FN(_keys)(buf, keys, b, n0, width);
    FN(_values)(buf, values, b, n0, width);
    FN(_scores)(q, PK, keys, BN, s, 0, CK, rows, width);
    FN(_scores)(dy, PV, values, BN, a, 0, CV, rows, width);
    for (int i = 0; i < rows; i++) {
      const int m = m0 + i, last = FN(_last)(m);
      const T lse = LOAD_LSE(buf, b, m), delta = LOAD_DELTA(buf, b, m);
      GRT_SIMD for (int j = 0; j < width; j++) {
        const T weight = n0 + j <= last ? grt_exp_bounded(s[i * BN + j] + LOAD_BIAS(buf, b, m, n0 + j) - lse) : 0;
        STORE(buf, b, m, n0 + j, weight * (a[i * BN + j] * LOAD_KEEP(buf, b, m, n0 + j) - delta));
      }
    }
  }
}
GRT_LAUNCH void NAME(void **table) { GRT_PARALLEL(FN(_task), CN ? (long)BATCH * FN(_BLOCKS_I) : 0, table); }

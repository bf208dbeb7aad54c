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
#define ALONG CM
#define ACROSS CN
#define DEPTH CV
#include "attention_core.h"
ATTENTION_TURNED(_keys, LOAD_K, CK)

/* Scores of a row, `s`, become weights; what was added up before is to be multiplied by what this returns. */
GRT_INLINE T FN(_weigh)(const FN(_buffers) buf, T *s, T *top, T *total, int b, int m, int n0, int width) {
  const int seen = MIN_OF(width, FN(_last)(m) + 1 - n0);
  T high = *top;
  GRT_SIMD for (int j = 0; j < seen; j++) s[j] += LOAD_BIAS(buf, b, m, n0 + j);
  enum { L = GRT_LANES(T) };
  T part[L] __attribute__((aligned(64)));
  for (int l = 0; l < L; l++) part[l] = high;
  int j = 0;
  for (; j + L <= seen; j += L)
    GRT_SIMD for (int l = 0; l < L; l++) part[l] = s[j + l] > part[l] ? s[j + l] : part[l];
  for (; j < seen; j++) part[0] = s[j] > part[0] ? s[j] : part[0];
  ATTENTION_FOLD(part, ATTENTION_LARGER)
  high = part[0];
  const T base = high == -INFINITY ? 0 : high, shrink = grt_exp_bounded(*top - base);
  GRT_SIMD for (int i = 0; i < seen; i++) s[i] = grt_exp_bounded(s[i] - base);
  for (int l = 0; l < L; l++) part[l] = 0;
  for (j = 0; j + L <= seen; j += L)
    GRT_SIMD for (int l = 0; l < L; l++) part[l] += s[j + l];
  for (; j < seen; j++) part[0] += s[j];
  ATTENTION_FOLD(part, ATTENTION_SUM)
  GRT_SIMD for (int i = 0; i < seen; i++) s[i] *= LOAD_KEEP(buf, b, m, n0 + i);
  for (int i = MAX_OF(seen, 0); i < width; i++) s[i] = 0;
  *total = *total * shrink + part[0], *top = high;
  return shrink;
}

static void FN(_task)(long task, void **table) {
  const FN(_buffers) buf = FN(_open)(table);
  enum { BM = FN(_BLOCK_I), BN = FN(_BLOCK_J), PK = FN(_PITCH_K), PD = FN(_PITCH_D) };
  const int b = (int)(task / FN(_BLOCKS_I)), m0 = (int)(task % FN(_BLOCKS_I)) * BM, rows = MIN_OF(CM - m0, BM);
  T *const q = grt_scratch(sizeof(T) * ((size_t)BM * (PK + BN + PD + 2) + (size_t)BN * (CK + PD) + 64));
  T *const keys = q + BM * PK, *const values = keys + CK * BN, *const s = values + BN * PD, *const y = s + BM * BN;
  T *const top = y + BM * PD, *const total = top + BM;
  int last = 0;
  ATTENTION_ROWS(q, PK, LOAD_Q, CK, m0, rows, (T)SCALE)
  for (int i = 0; i < rows; i++) {
    GRT_SIMD for (int v = 0; v < PD; v++) y[i * PD + v] = 0;
    top[i] = -INFINITY, total[i] = 0, last = MAX_OF(last, FN(_last)(m0 + i));
  }
  for (int n0 = 0; n0 < CN && n0 <= last; n0 += BN) {
    const int width = ATTENTION_WIDTH(n0, last);
    FN(_keys)(buf, keys, b, n0, width);
    ATTENTION_ROWS(values, PD, LOAD_V, CV, n0, width, 1)
    FN(_scores)(q, PK, keys, BN, s, 0, CK, rows, width);
    for (int i = 0; i < rows; i++) {
      const T shrink = FN(_weigh)(buf, s + i * BN, top + i, total + i, b, m0 + i, n0, width);
      GRT_SIMD for (int v = 0; v < PD; v++) y[i * PD + v] *= shrink;
    }
    FN(_sums)(s, BN, values, PD, y, 1, width, rows, PD);
  }
  for (int i = 0; i < rows; i++) {
    const int empty = total[i] == 0;
    const T share = empty ? 1 : total[i], lse = empty ? INFINITY : top[i] + grt_log(total[i]);
    GRT_SIMD for (int v = 0; v < CV; v++) STORE(buf, b, m0 + i, v, y[i * PD + v] / share, lse);
  }
}
GRT_LAUNCH void NAME(void **table) { GRT_PARALLEL(FN(_task), CV ? grt_share(BATCH) * FN(_BLOCKS_I) : 0, table); }

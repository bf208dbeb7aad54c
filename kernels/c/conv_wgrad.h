/* Gradient of a convolution with respect to its filter, split over the batch into partial sums.
 *
 *   dw[split,k,c,r,s] = sum over the split's n and all p,q of dy[n,k,p,q] * x[n, c, p*stride - pad + r*dil, ...]
 *
 * A task owns one split and one block of output channels: per image it packs dy and the input patch, then sums register tiles
 * of taps x channels over every position. With few channels the vectors run over columns instead, and are added across at the
 * end. Partial sums do not depend on the number of threads. Macros as conv.h, with LOAD_DY, LOAD_X, SPLITS and
 * STORE(buf, split, k, c, r, s, value).
 */
#include "tile.h"
enum {
  FN(_L) = GRT_LANES(T),
  FN(_GC) = CC / GROUPS,
  FN(_GK) = CK / GROUPS,
  FN(_BY_K) = CK / GROUPS >= (GRT_LANES(T) * 3) / 4 || STRIDE_W != 1,
  FN(_NV) = MIN_OF(TILE_VECTORS, CEIL_DIV(CK / GROUPS, GRT_LANES(T))),
  FN(_NK) = FN(_BY_K) ? FN(_NV) * GRT_LANES(T) : CEIL_DIV(CK / GROUPS, CEIL_DIV(CK / GROUPS, 6)),
  FN(_KB) = CEIL_DIV(CK / GROUPS, FN(_NK)),
  FN(_TAPS) = CC / GROUPS * CR * CS,
  FN(_QP) = CEIL_DIV(CQ, GRT_LANES(T)) * GRT_LANES(T),
  FN(_WIDTH) = (FN(_BY_K) ? CQ - 1 : FN(_QP) - 1) * STRIDE_W + (CS - 1) * DIL_W + 1,
  FN(_HEIGHT) = (CP - 1) * STRIDE_H + (CR - 1) * DIL_H + 1
};
#define TAP_OFFSET(j) \
  ((((j) / (CR * CS)) * FN(_HEIGHT) + ((j) / CS % CR) * DIL_H) * FN(_WIDTH) + ((j) % CS) * DIL_W)

GRT_INLINE void FN(_taps)(const T *dy, const T *x, T *sum, int j0, const int jt) {
  typedef GRT_VEC(T) vec;
  enum { L = FN(_L), NV = FN(_NV), JT = TILE_ROWS(FN(_NV)) };
  vec acc[JT][NV];
  const T *row[JT];
#pragma GCC unroll 16
  for (int j = 0; j < jt; j++) {
    row[j] = x + TAP_OFFSET(j0 + j);
#pragma GCC unroll 4
    for (int v = 0; v < NV; v++) acc[j][v] = *(const vec *)(sum + (j0 + j) * NV * L + v * L);
  }
  for (int p = 0; p < CP; p++)
    for (int q = 0; q < CQ; q++, dy += NV * L) {
      const int at = p * STRIDE_H * FN(_WIDTH) + q * STRIDE_W;
      vec g[NV];
#pragma GCC unroll 4
      for (int v = 0; v < NV; v++) g[v] = *(const vec *)(dy + v * L);
#pragma GCC unroll 16
      for (int j = 0; j < jt; j++)
#pragma GCC unroll 4
        for (int v = 0; v < NV; v++) acc[j][v] += row[j][at] * g[v];
    }
#pragma GCC unroll 16
  for (int j = 0; j < jt; j++)
#pragma GCC unroll 4
    for (int v = 0; v < NV; v++) *(vec *)(sum + (j0 + j) * NV * L + v * L) = acc[j][v];
}

GRT_INLINE void FN(_few)(const T *dy, const T *x, T *sum, int j0, const int jt) {
  typedef GRT_VEC(T) vec;
  enum { L = FN(_L), NK = FN(_NK), QP = FN(_QP) };
  vec acc[4][6];
#pragma GCC unroll 4
  for (int j = 0; j < jt; j++)
#pragma GCC unroll 8
    for (int k = 0; k < NK; k++) acc[j][k] = *(const vec *)(sum + ((j0 + j) * NK + k) * L);
  for (int p = 0; p < CP; p++)
    for (int q = 0; q < QP; q += L) {
      vec g[6];
#pragma GCC unroll 8
      for (int k = 0; k < NK; k++) g[k] = *(const vec *)(dy + (k * CP + p) * QP + q);
#pragma GCC unroll 4
      for (int j = 0; j < jt; j++) {
        const vec f = *(const vec *)(x + TAP_OFFSET(j0 + j) + p * STRIDE_H * FN(_WIDTH) + q);
#pragma GCC unroll 8
        for (int k = 0; k < NK; k++) acc[j][k] += f * g[k];
      }
    }
#pragma GCC unroll 4
  for (int j = 0; j < jt; j++)
#pragma GCC unroll 8
    for (int k = 0; k < NK; k++) *(vec *)(sum + ((j0 + j) * NK + k) * L) = acc[j][k];
}

static void FN(_task)(long task, void **buf) {
  enum { NK = FN(_NK), TAPS = FN(_TAPS), JT = TILE_ROWS(FN(_NV)), CHUNK = CEIL_DIV(CN, SPLITS), QP = FN(_QP) };
  enum { WIDE = FN(_BY_K) ? 1 : FN(_L) }; /* numbers that make one sum: with few channels, one per lane */
  const int split = (int)(task / (GROUPS * FN(_KB))), g = (int)(task / FN(_KB) % GROUPS), k0 = (int)(task % FN(_KB)) * NK;
  const int first = split * CHUNK, last = MIN_OF(first + CHUNK, CN);
  T *sum = grt_scratch(sizeof(T) * (TAPS * NK * WIDE + CP * QP * NK + FN(_GC) * FN(_HEIGHT) * FN(_WIDTH) + 64));
  T *dy = sum + TAPS * NK * WIDE, *x = dy + CP * QP * NK;
  memset(sum, 0, sizeof(T) * TAPS * NK * WIDE);
  for (int n = first; n < last; n++) {
    for (int c = 0; c < FN(_GC); c++)
      for (int h = 0; h < FN(_HEIGHT); h++) {
        T *row = x + (c * FN(_HEIGHT) + h) * FN(_WIDTH);
        const int hh = h - PAD_H, first = MIN_OF(PAD_W, FN(_WIDTH)), last = MIN_OF(CW + PAD_W, FN(_WIDTH));
        if (hh < 0 || hh >= CH || last <= first) {
          memset(row, 0, sizeof(T) * FN(_WIDTH));
          continue;
        }
        for (int w = 0; w < first; w++) row[w] = 0;
        _Pragma("GCC ivdep") for (int w = first; w < last; w++) row[w] = LOAD_X(buf, n, g * FN(_GC) + c, hh, w - PAD_W);
        for (int w = last; w < FN(_WIDTH); w++) row[w] = 0;
      }
    if (FN(_BY_K)) {
      for (int p = 0; p < CP; p++)
        for (int q = 0; q < CQ; q++)
          _Pragma("GCC ivdep") for (int k = 0; k < NK; k++)
              dy[(p * CQ + q) * NK + k] = k0 + k < FN(_GK) ? LOAD_DY(buf, n, g * FN(_GK) + k0 + k, p, q) : 0;
      int j = 0;
      for (; j + JT <= TAPS; j += JT) FN(_taps)(dy, x, sum, j, JT);
      if (TAPS % JT) FN(_taps)(dy, x, sum, j, TAPS % JT);
    } else {
      for (int k = 0; k < NK; k++)
        for (int p = 0; p < CP; p++)
          _Pragma("GCC ivdep") for (int q = 0; q < QP; q++)
              dy[(k * CP + p) * QP + q] = q < CQ && k0 + k < FN(_GK) ? LOAD_DY(buf, n, g * FN(_GK) + k0 + k, p, q) : 0;
      int j = 0;
      for (; j + 4 <= TAPS; j += 4) FN(_few)(dy, x, sum, j, 4);
      if (TAPS % 4) FN(_few)(dy, x, sum, j, TAPS % 4);
    }
  }
  for (int j = 0; j < TAPS; j++)
    for (int k = 0; k < NK && k0 + k < FN(_GK); k++) {
      T total = 0;
      for (int l = 0; l < WIDE; l++) total += sum[(j * NK + k) * WIDE + l];
      STORE(buf, split, g * FN(_GK) + k0 + k, j / (CR * CS), j / CS % CR, j % CS, total);
    }
}
static void NAME(void **buf) { GRT_PARALLEL(FN(_task), (long)SPLITS * GROUPS * FN(_KB), buf); }
#undef TAP_OFFSET
#include "undef.h"

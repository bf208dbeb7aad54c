/* Direct convolution in register tiles: the loops that conv.h and conv_dgrad.h share.
 *
 * A task computes PB rows of one image and one group. It copies the input it needs into a patch (zero padding included, so the
 * inner loops never branch) and runs tiles over it; filters are packed once per launch. Two shapes of tile, and none:
 *   many output channels: [columns] x [vectors of channels], patch [row][column][channel], one input element broadcast;
 *   few output channels:  [channels] x [rows x vectors of columns], patch [channel][row][column], one weight broadcast.
 *   depthwise in channels-last memory: vectors of channels, read where they lie (a patch per channel would be all gathers).
 * Macros: V_G groups, V_C and V_K channels of a group, V_P V_Q output, V_R V_S filter, V_SH V_SW V_DH V_DW, V_N batch,
 * V_INSIDE(h, w) whether h, w >= 0 of the padded input is inside, V_X(buf, n, g, c, h, w) what is there, V_CHANNELS_LAST (a
 * hint on how it is stored), V_W(buf, g, k, c, r, s), V_STORE(buf, n, g, k, p, q, value); V_MEETS_H(h), V_MEETS_W(w)
 * whether row h, column w of the padded input holds more than zeros, V_PHASES after how many columns that repeats: a tile
 * takes columns of one phase, so that all of them skip the same taps.
 */
#include "tile.h"
#if V_C == 1 && V_K == 1 && V_G > 1 && V_CHANNELS_LAST
static void FN(_pack)(long task, void **launch) { /* [tap][group] */
  const int r = (int)task / V_S, s = (int)task % V_S;
  for (int g = 0; g < V_G; g++) ((T *)launch[0])[task * V_G + g] = V_W((void **)launch[1], g, 0, 0, r, s);
}

static void FN(_task)(long task, void **launch) { /* one row of output, read where it lies */
  enum { GB = MIN_OF(V_G, 2 * GRT_LANES(T)) };
  void **buf = launch[1];
  const int n = (int)(task / V_P), p = (int)(task % V_P);
  for (int q = 0; q < V_Q; q++)
    for (int g0 = 0; g0 < V_G; g0 += GB) {
      T sum[GB] __attribute__((aligned(64))) = {0};
      const int last = MIN_OF(V_G - g0, GB);
      for (int r = 0; r < V_R; r++)
        for (int s = 0; s < V_S; s++) {
          const int h = p * V_SH + r * V_DH, w = q * V_SW + s * V_DW;
          const T *f = (const T *)launch[0] + (r * V_S + s) * V_G + g0;
          if (!V_INSIDE(h, w)) continue;
          if (last == GB) {
            _Pragma("GCC ivdep") for (int g = 0; g < GB; g++) sum[g] += f[g] * V_X(buf, n, g0 + g, 0, h, w);
          } else {
            _Pragma("GCC ivdep") for (int g = 0; g < last; g++) sum[g] += f[g] * V_X(buf, n, g0 + g, 0, h, w);
          }
        }
      _Pragma("GCC ivdep") for (int g = 0; g < last; g++) V_STORE(buf, n, g0 + g, 0, p, q, sum[g]);
    }
}
static void NAME(void **buf) {
  void *launch[2] = {grt_workspace(sizeof(T) * V_G * V_R * V_S), buf};
  GRT_PARALLEL(FN(_pack), V_R * V_S, launch);
  GRT_PARALLEL(FN(_task), (long)V_N * V_P, launch);
}
#else
enum {
  FN(_L) = GRT_LANES(T),
  FN(_BY_K) = V_K >= (GRT_LANES(T) * 3) / 4 || V_SW != 1,
  FN(_NV) = MIN_OF(TILE_VECTORS, CEIL_DIV(V_K, GRT_LANES(T))),
  FN(_NK) = FN(_BY_K) ? FN(_NV) * GRT_LANES(T) : CEIL_DIV(V_K, CEIL_DIV(V_K, 6)), /* even blocks; 1 if depthwise */
  FN(_KB) = CEIL_DIV(V_K, FN(_NK)),
  FN(_TAPS) = V_C * V_R * V_S,
  FN(_COLS) = (V_Q - 1) * V_SW + (V_S - 1) * V_DW + 1,
  FN(_CT) = MIN_OF(2, CEIL_DIV(V_Q, GRT_LANES(T))), /* few channels: a tile of vectors, columns x rows, four in all */
  FN(_RT) = 4 / FN(_CT),
  FN(_STEP) = FN(_CT) * GRT_LANES(T),
  FN(_WIDTH) = FN(_BY_K) ? FN(_COLS) : CEIL_DIV(V_Q, FN(_STEP)) * FN(_STEP) + (V_S - 1) * V_DW,
  FN(_FIT) = (24576 / (V_C * FN(_WIDTH)) - (V_R - 1) * V_DH) / V_SH,
  FN(_SHARE) = V_N * V_G >= 8 ? V_P : CEIL_DIV(V_P, CEIL_DIV(8, MAX_OF(V_N * V_G, 1))),
  FN(_PB) = MAX_OF(1, MIN_OF(FN(_SHARE), FN(_FIT))),
  FN(_ROWS) = (FN(_PB) - 1) * V_SH + (V_R - 1) * V_DH + 1
};

/* [group][block][tap][lane], taps in the order the tiles meet them; launch[0] is the packed filter, launch[1] the buffers */
static void FN(_pack)(long task, void **launch) {
  void **buf = launch[1];
  const int g = (int)task / FN(_KB), kb = (int)task % FN(_KB);
  T *out = (T *)launch[0] + task * FN(_TAPS) * FN(_NK);
  for (int r = 0; r < V_R; r++)
    for (int s = 0; s < V_S; s++)
      for (int c = 0; c < V_C; c++) {
        const int tap = FN(_BY_K) ? (r * V_S + s) * V_C + c : (c * V_R + r) * V_S + s;
        for (int i = 0; i < FN(_NK); i++) {
          const int k = kb * FN(_NK) + i;
          out[tap * FN(_NK) + i] = k < V_K ? V_W(buf, g, k, c, r, s) : 0;
        }
      }
}

GRT_INLINE void FN(_columns)(void **buf, const T *patch, const T *w, int n, int g, int kb, int p, int row, int q, const int wb) {
  typedef GRT_VEC(T) vec;
  enum { L = FN(_L), NV = FN(_NV), WB = TILE_ROWS(FN(_NV)), PITCH = FN(_WIDTH) * V_C };
  vec acc[WB][NV];
#pragma GCC unroll 16
  for (int i = 0; i < wb; i++)
#pragma GCC unroll 4
    for (int v = 0; v < NV; v++) acc[i][v] = (vec){0};
  for (int r = 0; r < V_R; r++)
    for (int s = 0; s < V_S; s++) {
      if (!V_MEETS_H(p * V_SH + r * V_DH) || !V_MEETS_W(q * V_SW + s * V_DW)) {
        w += V_C * NV * L;
        continue;
      }
      const T *x = patch + (row * V_SH + r * V_DH) * PITCH + (q * V_SW + s * V_DW) * V_C;
      for (int c = 0; c < V_C; c++, w += NV * L) {
        vec f[NV];
#pragma GCC unroll 4
        for (int v = 0; v < NV; v++) f[v] = *(const vec *)(w + v * L);
#pragma GCC unroll 16
        for (int i = 0; i < wb; i++)
#pragma GCC unroll 4
          for (int v = 0; v < NV; v++) acc[i][v] += x[i * V_PHASES * V_SW * V_C + c] * f[v];
      }
    }
  const int width = MIN_OF(V_K - kb * NV * L, NV * L);
  for (int i = 0; i < wb; i++) {
    T out[NV * L] __attribute__((aligned(64)));
#pragma GCC unroll 4
    for (int v = 0; v < NV; v++) *(vec *)(out + v * L) = acc[i][v];
    if (width == NV * L) {
      _Pragma("GCC ivdep") for (int k = 0; k < NV * L; k++) V_STORE(buf, n, g, kb * NV * L + k, p, q + i * V_PHASES, out[k]);
    } else {
      _Pragma("GCC ivdep") for (int k = 0; k < width; k++) V_STORE(buf, n, g, kb * NV * L + k, p, q + i * V_PHASES, out[k]);
    }
  }
}

GRT_INLINE void FN(_channels)(void **buf, const T *patch, const T *w, int n, int g, int kb, int p, int row, int q, const int rt) {
  typedef GRT_VEC(T) vec;
  enum { L = FN(_L), NK = FN(_NK), WIDTH = FN(_WIDTH), CT = FN(_CT) };
  vec acc[6][4];
#pragma GCC unroll 8
  for (int k = 0; k < NK; k++)
#pragma GCC unroll 4
    for (int v = 0; v < rt * CT; v++) acc[k][v] = (vec){0};
  for (int c = 0; c < V_C; c++)
    for (int r = 0; r < V_R; r++) {
      const T *x = patch + (c * FN(_ROWS) + row * V_SH + r * V_DH) * WIDTH + q;
      for (int s = 0; s < V_S; s++, w += NK) {
        vec f[4];
#pragma GCC unroll 4
        for (int v = 0; v < rt * CT; v++) f[v] = *(const vec *)(x + v / CT * V_SH * WIDTH + v % CT * L + s * V_DW);
#pragma GCC unroll 8
        for (int k = 0; k < NK; k++)
#pragma GCC unroll 4
          for (int v = 0; v < rt * CT; v++) acc[k][v] += w[k] * f[v];
      }
    }
  const int width = MIN_OF(V_Q - q, CT * L), height = MIN_OF(V_K - kb * NK, NK);
#pragma GCC unroll 8
  for (int k = 0; k < NK; k++) {
    if (k >= height) break;
#pragma GCC unroll 4
    for (int i = 0; i < rt; i++) {
      T out[2 * GRT_LANES(T)] __attribute__((aligned(64)));
#pragma GCC unroll 2
      for (int v = 0; v < CT; v++) *(vec *)(out + v * L) = acc[k][i * CT + v];
      _Pragma("GCC ivdep") for (int j = 0; j < width; j++) V_STORE(buf, n, g, kb * NK + k, p + i, q + j, out[j]);
    }
  }
}

static void FN(_task)(long task, void **launch) {
  void **buf = launch[1];
  enum { PARTS = CEIL_DIV(V_P, FN(_PB)), WB = TILE_ROWS(FN(_NV)), LESS = V_Q / V_PHASES, MORE = LESS + 1, WIDTH = FN(_WIDTH) };
  const int n = (int)(task / (V_G * PARTS)), g = (int)(task / PARTS % V_G), p0 = (int)(task % PARTS) * FN(_PB);
  const int rows = MIN_OF(V_P - p0, FN(_PB)), height = (rows - 1) * V_SH + (V_R - 1) * V_DH + 1;
  T *patch = grt_scratch(sizeof(T) * V_C * FN(_ROWS) * WIDTH);
  if (!FN(_BY_K) && V_CHANNELS_LAST) memset(patch, 0, sizeof(T) * V_C * FN(_ROWS) * WIDTH);
  for (int h = 0; h < height; h++) {
    const int row = p0 * V_SH + h;
    if (FN(_BY_K)) { /* [row][column][channel] */
      T *to = patch + h * WIDTH * V_C;
      for (int x = 0; x < WIDTH; x++, to += V_C) {
        if (V_INSIDE(row, x)) {
          _Pragma("GCC ivdep") for (int c = 0; c < V_C; c++) to[c] = V_X(buf, n, g, c, row, x);
        } else {
          memset(to, 0, sizeof(T) * V_C);
        }
      }
    } else if (V_CHANNELS_LAST) { /* [channel][row][column], read channel by channel */
      for (int x = 0; x < WIDTH; x++) {
        T *to = patch + h * WIDTH + x;
        if (!V_INSIDE(row, x)) continue;
        _Pragma("GCC ivdep") for (int c = 0; c < V_C; c++) to[c * FN(_ROWS) * WIDTH] = V_X(buf, n, g, c, row, x);
      }
    } else {
      for (int c = 0; c < V_C; c++) {
        T *to = patch + (c * FN(_ROWS) + h) * WIDTH;
        _Pragma("GCC ivdep") for (int x = 0; x < WIDTH; x++) to[x] = V_INSIDE(row, x) ? V_X(buf, n, g, c, row, x) : 0;
      }
    }
  }
  for (int kb = 0; kb < FN(_KB); kb++) {
    const T *w = (const T *)launch[0] + (size_t)(g * FN(_KB) + kb) * FN(_TAPS) * FN(_NK);
    if (FN(_BY_K)) {
      for (int row = 0; row < rows; row++) {
        for (int phase = 0; phase < MIN_OF(V_PHASES, V_Q); phase++) { /* the first V_Q % V_PHASES have a column MORE */
          const int columns = phase < V_Q % V_PHASES ? MORE : LESS;
          int i = 0, q = phase;
          for (; i + WB <= columns; i += WB, q += WB * V_PHASES)
            FN(_columns)(buf, patch, w, n, g, kb, p0 + row, row, q, WB);
          if (i == columns) continue;
          if (columns == LESS) {
            FN(_columns)(buf, patch, w, n, g, kb, p0 + row, row, q, LESS % WB);
          } else {
            FN(_columns)(buf, patch, w, n, g, kb, p0 + row, row, q, V_PHASES > 1 ? MORE % WB : 0);
          }
        }
      }
    } else {
      int row = 0;
      for (; row + FN(_RT) <= rows; row += FN(_RT))
        for (int q = 0; q < V_Q; q += FN(_STEP)) FN(_channels)(buf, patch, w, n, g, kb, p0 + row, row, q, FN(_RT));
      for (; row < rows; row++)
        for (int q = 0; q < V_Q; q += FN(_STEP)) FN(_channels)(buf, patch, w, n, g, kb, p0 + row, row, q, 1);
    }
  }
}
static void NAME(void **buf) {
  void *launch[2] = {grt_workspace(sizeof(T) * V_G * FN(_KB) * FN(_TAPS) * FN(_NK)), buf};
  GRT_PARALLEL(FN(_pack), V_G * FN(_KB), launch);
  GRT_PARALLEL(FN(_task), (long)V_N * V_G * CEIL_DIV(V_P, FN(_PB)), launch);
}
#endif
#undef V_N
#undef V_G
#undef V_C
#undef V_K
#undef V_P
#undef V_Q
#undef V_R
#undef V_S
#undef V_SH
#undef V_SW
#undef V_DH
#undef V_DW
#undef V_X
#undef V_INSIDE
#undef V_MEETS_H
#undef V_MEETS_W
#undef V_PHASES
#undef V_CHANNELS_LAST
#undef V_W
#undef V_STORE
#include "undef.h"

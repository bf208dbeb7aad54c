/* Depthwise convolution in channels-last memory: tiles of columns, whose vectors are channels, read where they lie (macros:
 * conv_core.h). A column of input is loaded once for all the columns of a tile that it meets in a row of taps.
 */
enum {
  FN(_TILE_COLUMNS) = CEIL_DIV(CEIL_DIV(V_Q, CEIL_DIV(V_Q, 8)), V_PHASES) * V_PHASES, /* even tiles, whole phases */
  FN(_TILE_INPUTS) = (FN(_TILE_COLUMNS) - 1) * V_STRIDE_W + (V_S - 1) * V_DIL_W + 1,
  FN(_BLOCK) = GRT_LANES(T), /* channels of a vector */
  FN(_BLOCKS) = CEIL_DIV(V_G, FN(_BLOCK))
};

static void FN(_pack)(long task, void **launch) { /* [block][tap][channel], zero where there is none */
  const FN(_buffers) buf = FN(_open)(launch[1]);
  enum { L = FN(_BLOCK) };
  for (int i = 0; i < V_R * V_S; i++)
    for (int l = 0; l < L; l++) {
      const int g = (int)task * L + l;
      ((T *)launch[0])[(task * V_R * V_S + i) * L + l] = g < V_G ? V_W(buf, g, 0, 0, i / V_S, i % V_S) : 0;
    }
}

GRT_INLINE GRT_VEC(T) FN(_load)(const FN(_buffers) buf, int n, int g, int h, int w, const int channels) {
  T x[FN(_BLOCK)] __attribute__((aligned(64))) = {0};
  GRT_SIMD for (int l = 0; l < channels; l++) x[l] = V_X(buf, n, g + l, 0, h, w);
  return *(const GRT_VEC(T) *)x;
}

/* Outputs of row p from column q on, of `channels` from g. */
GRT_INLINE void FN(_tile)(const FN(_buffers) buf, const T *w, int n, int g, int p, int q, const int channels) {
  typedef GRT_VEC(T) vec;
  enum { L = FN(_BLOCK), QT = FN(_TILE_COLUMNS), FEW = FN(_TILE_INPUTS) <= 24 && V_S <= 8 };
  vec acc[QT];
#pragma GCC unroll 12
  for (int i = 0; i < QT; i++) acc[i] = (vec){0};
  for (int r = 0; r < V_R; r++) {
    const int h = p * V_STRIDE_H + r * V_DIL_H, w0 = q * V_STRIDE_W;
    if (!V_REACHES(h)) continue;
    const vec *taps = (const vec *)(w + r * V_S * L);
    if (FEW) {
#pragma GCC unroll 24
      for (int y = 0; y < FN(_TILE_INPUTS); y++) {
        if (!V_MEETS_W(y) || !V_INSIDE(h, w0 + y)) continue; /* the former is known to the compiler */
        const vec x = FN(_load)(buf, n, g, h, w0 + y, channels);
#pragma GCC unroll 12
        for (int i = 0; i < QT; i++) {
          const int across = y - i * V_STRIDE_W;
          if (across >= 0 && across % V_DIL_W == 0 && across / V_DIL_W < V_S)
            acc[i] = GRT_MADD(T, taps[across / V_DIL_W], x, acc[i]);
        }
      }
    } else {
      for (int s = 0; s < V_S; s++)
#pragma GCC unroll 12
        for (int i = 0; i < QT; i++) {
          const int x = w0 + i * V_STRIDE_W + s * V_DIL_W;
          if (V_INSIDE(h, x)) acc[i] = GRT_MADD(T, taps[s], FN(_load)(buf, n, g, h, x, channels), acc[i]);
        }
    }
  }
#pragma GCC unroll 12
  for (int i = 0; i < QT; i++) {
    if (q + i >= V_Q) break;
    T out[L] __attribute__((aligned(64)));
    *(vec *)out = acc[i];
    GRT_SIMD for (int l = 0; l < channels; l++) V_STORE(buf, n, g + l, 0, p, q + i, out[l]);
  }
}

static void FN(_task)(long task, void **launch) { /* one row of output */
  const FN(_buffers) buf = FN(_open)(launch[1]);
  enum { L = FN(_BLOCK), QT = FN(_TILE_COLUMNS), SIZE = V_R * V_S * L };
  const int n = (int)(task / V_P), p = (int)(task % V_P);
  const T *w = launch[0];
  for (int q = 0; q < V_Q; q += QT) {
    for (int b = 0; b < V_G / L; b++) FN(_tile)(buf, w + b * SIZE, n, b * L, p, q, L);
    if (V_G % L) FN(_tile)(buf, w + V_G / L * SIZE, n, V_G / L * L, p, q, V_G % L);
  }
}
GRT_LAUNCH void NAME(void **table) {
  void **kept = GRT_KEPT(table, FROZEN);
  void *launch[2] = {grt_prepare(FN(_pack), FN(_BLOCKS), sizeof(T) * FN(_BLOCKS) * V_R * V_S * FN(_BLOCK), kept, table), table};
  GRT_PARALLEL(FN(_task), grt_share(V_N) * V_P, launch);
}

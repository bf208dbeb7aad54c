/* 3x3 convolution of stride 1 by Winograd's minimal filtering F(2x2, 3x3): 16 products for 4 outputs where sums take 36.
 *
 *   Y = A' [ (G g G') * (B' d B) ] A      Lavin and Gray, "Fast algorithms for convolutional neural networks", CVPR 2016
 *
 * A task owns TR rows of tiles of one image, or NB small images, and KG blocks of NK output channels. It copies its input into
 * a patch, transforms the patch, multiplies 16 matrices [tiles x CB] [CB x NK], and transforms back (macros: conv_core.h).
 */
enum {
  FN(_NV) = MIN_OF(TILE_VECTORS, CEIL_DIV(V_K, GRT_LANES(T))),
  FN(_NK) = FN(_NV) * GRT_LANES(T),
  FN(_KB) = CEIL_DIV(V_K, FN(_NK)),
  FN(_CBLOCKS) = CEIL_DIV(V_C * FN(_NK), 4096), /* a block of the filter: 16 * 4096 numbers, 256 KB */
  FN(_CB) = FN(_CBLOCKS) == 1 ? V_C : CEIL_DIV(CEIL_DIV(V_C, FN(_CBLOCKS)), GRT_LANES(T)) * GRT_LANES(T),
  FN(_CPARTS) = CEIL_DIV(V_C, FN(_CB)),
  FN(_WB) = TILE_ROWS(FN(_NV)),
  FN(_TP) = CEIL_DIV(V_P, 2),
  FN(_TQ) = CEIL_DIV(V_Q, 2),
  FN(_WANT) = MAX_OF(24, 2048 / FN(_CB)), /* tiles of a task: 128 KB of transformed input */
  FN(_PARTS) = CEIL_DIV(FN(_TP), MAX_OF(1, MIN_OF(FN(_TP), FN(_WANT) / MAX_OF(FN(_TQ), 1)))),
  FN(_TR) = CEIL_DIV(FN(_TP), FN(_PARTS)),
  FN(_NB) = FN(_PARTS) > 1 ? 1 : MAX_OF(1, MIN_OF(CEIL_DIV(V_N, 8), FN(_WANT) / MAX_OF(FN(_TP) * FN(_TQ), 1))),
  FN(_KG) = FN(_CPARTS) == 1 ? FN(_KB) : MIN_OF(FN(_KB), 2),
  FN(_TILES) = CEIL_DIV(FN(_NB) * FN(_TR) * FN(_TQ), FN(_WB)) * FN(_WB),
  FN(_WIDTH) = 2 * FN(_TQ) + 2,
  FN(_IMAGE) = (2 * FN(_TR) + 2) * FN(_WIDTH) * FN(_CB),
  FN(_BLOCK) = 16 * FN(_CB) * FN(_NK) /* numbers of the transformed filter in one block */
};

GRT_FILTER(FN(_NK))

/* [group][block of k][block of c][16][channel][lane]; launch[0] is the transformed filter, launch[1] the buffers */
static void FN(_pack)(long task, void **launch) {
  const FN(_buffers) buf = FN(_open)(launch[1]);
  enum { CB = FN(_CB), NK = FN(_NK) };
  const int cb = (int)task % FN(_CPARTS), kb = (int)task / FN(_CPARTS) % FN(_KB), g = (int)task / (FN(_CPARTS) * FN(_KB));
  const int width = MIN_OF(V_K - kb * NK, NK);
  for (int c0 = 0; c0 < MIN_OF(V_C - cb * CB, CB); c0 += 16) {
    const int channels = MIN_OF(MIN_OF(V_C - cb * CB, CB) - c0, 16);
    T w[9][16][NK] __attribute__((aligned(64)));
    if (width < NK) memset(w, 0, sizeof w);
    for (int i = 0; i < 9; i++) FN(_filter)(buf, w[i][0], g, kb * NK, width, cb * CB + c0, channels, i / 3, i % 3);
    for (int c = 0; c < channels; c++) {
      T *out = (T *)launch[0] + task * FN(_BLOCK) + (c0 + c) * NK;
      GRT_SIMD for (int k = 0; k < NK; k++) {
        T rows[4][3];
        for (int s = 0; s < 3; s++) {
          const T a = w[s][c][k], b = w[3 + s][c][k], d = w[6 + s][c][k];
          rows[0][s] = a, rows[1][s] = (T)0.5 * (a + b + d), rows[2][s] = (T)0.5 * (a - b + d), rows[3][s] = d;
        }
        for (int i = 0; i < 4; i++) {
          const T a = rows[i][0], b = rows[i][1], d = rows[i][2];
          out[(4 * i + 0) * CB * NK + k] = a;
          out[(4 * i + 1) * CB * NK + k] = (T)0.5 * (a + b + d);
          out[(4 * i + 2) * CB * NK + k] = (T)0.5 * (a - b + d);
          out[(4 * i + 3) * CB * NK + k] = d;
        }
      }
    }
  }
}

/* m[WB][NK] (+)= v[WB][CB] * u[CB][NK] */
GRT_INLINE void FN(_product)(const T *v, const T *u, T *m, const int channels, const int first) {
  typedef GRT_VEC(T) vec;
  enum { L = GRT_LANES(T), NV = FN(_NV), WB = FN(_WB) };
  vec acc[WB][NV];
#pragma GCC unroll 16
  for (int i = 0; i < WB; i++)
#pragma GCC unroll 4
    for (int j = 0; j < NV; j++) acc[i][j] = first ? (vec){0} : *(const vec *)(m + (i * NV + j) * L);
  for (int c = 0; c < channels; c++, u += NV * L) {
    vec f[NV];
#pragma GCC unroll 4
    for (int j = 0; j < NV; j++) f[j] = *(const vec *)(u + j * L);
#pragma GCC unroll 16
    for (int i = 0; i < WB; i++)
#pragma GCC unroll 4
      for (int j = 0; j < NV; j++) acc[i][j] += v[i * FN(_CB) + c] * f[j];
  }
#pragma GCC unroll 16
  for (int i = 0; i < WB; i++)
#pragma GCC unroll 4
    for (int j = 0; j < NV; j++) *(vec *)(m + (i * NV + j) * L) = acc[i][j];
}

/* B' d B for the 4x4 input of one tile: 16 numbers per channel, `step` apart */
GRT_INLINE void FN(_transform)(const T *d, T *v, const int channels, const int step) {
  enum { CB = FN(_CB), PITCH = FN(_WIDTH) * CB };
  GRT_SIMD for (int c = 0; c < channels; c++) {
    T t[4][4];
    for (int j = 0; j < 4; j++) {
      const T d0 = d[j * CB + c], d1 = d[PITCH + j * CB + c], d2 = d[2 * PITCH + j * CB + c], d3 = d[3 * PITCH + j * CB + c];
      t[0][j] = d0 - d2, t[1][j] = d1 + d2, t[2][j] = d2 - d1, t[3][j] = d1 - d3;
    }
    for (int i = 0; i < 4; i++) {
      v[(4 * i + 0) * step + c] = t[i][0] - t[i][2];
      v[(4 * i + 1) * step + c] = t[i][1] + t[i][2];
      v[(4 * i + 2) * step + c] = t[i][2] - t[i][1];
      v[(4 * i + 3) * step + c] = t[i][1] - t[i][3];
    }
  }
}

/* A' m A for one tile: stores up to 2x2 outputs of NK channels */
GRT_INLINE void FN(_finish)(const FN(_buffers) buf, const T *m, int n, int g, int k0, int p, int q) {
  enum { NK = FN(_NK), STEP = FN(_TILES) * FN(_NK) };
  T out[4][NK] __attribute__((aligned(64)));
  GRT_SIMD for (int k = 0; k < NK; k++) {
    T s[2][4];
    for (int j = 0; j < 4; j++) {
      const T m0 = m[j * STEP + k], m1 = m[(4 + j) * STEP + k], m2 = m[(8 + j) * STEP + k], m3 = m[(12 + j) * STEP + k];
      s[0][j] = m0 + m1 + m2, s[1][j] = m1 - m2 - m3;
    }
    for (int i = 0; i < 2; i++) {
      out[2 * i][k] = s[i][0] + s[i][1] + s[i][2];
      out[2 * i + 1][k] = s[i][1] - s[i][2] - s[i][3];
    }
  }
  const int width = MIN_OF(V_K - k0, NK);
  for (int i = 0; i < 4; i++) {
    const int pp = p + i / 2, qq = q + i % 2;
    if (pp >= V_P || qq >= V_Q) continue;
    if (width == NK) {
      GRT_SIMD for (int k = 0; k < NK; k++) V_STORE(buf, n, g, k0 + k, pp, qq, out[i][k]);
    } else {
      GRT_SIMD for (int k = 0; k < width; k++) V_STORE(buf, n, g, k0 + k, pp, qq, out[i][k]);
    }
  }
}

static void FN(_task)(long task, void **launch) {
  const FN(_buffers) buf = FN(_open)(launch[1]);
  enum {
    CB = FN(_CB), NK = FN(_NK), TQ = FN(_TQ), WIDTH = FN(_WIDTH), TILES = FN(_TILES), WB = FN(_WB), PARTS = FN(_PARTS),
    KGROUPS = CEIL_DIV(FN(_KB), FN(_KG)), CPARTS = FN(_CPARTS), KEPT = CPARTS == 1 ? 1 : FN(_KG)
  };
  const int kg = (int)(task % KGROUPS), part = (int)(task / KGROUPS % PARTS), g = (int)(task / (KGROUPS * PARTS) % V_G);
  const int n0 = (int)(task / ((long)KGROUPS * PARTS * V_G)) * FN(_NB), images = MIN_OF(V_N - n0, FN(_NB));
  const int row0 = part * FN(_TR), rows = MIN_OF(FN(_TP) - row0, FN(_TR)), tiles = images * rows * TQ;
  T *patch = grt_scratch(sizeof(T) * (FN(_NB) * FN(_IMAGE) + 16 * TILES * (CB + KEPT * NK) + 64));
  T *v = patch + FN(_NB) * FN(_IMAGE), *m = v + 16 * TILES * CB;
  for (int cb = 0; cb < CPARTS; cb++) {
    const int channels = CPARTS == 1 ? CB : MIN_OF(V_C - cb * CB, CB);
    for (int n = 0; n < images; n++)
      for (int h = 0; h < 2 * rows + 2; h++) {
        T *to = patch + n * FN(_IMAGE) + h * WIDTH * CB;
        for (int x = 0; x < WIDTH; x++, to += CB) {
          if (V_INSIDE(2 * row0 + h, x)) {
            GRT_SIMD for (int c = 0; c < channels; c++) to[c] = V_X(buf, n0 + n, g, cb * CB + c, 2 * row0 + h, x);
          } else {
            memset(to, 0, sizeof(T) * CB);
          }
        }
      }
    for (int t = 0; t < tiles; t++) {
      const T *d = patch + t / (rows * TQ) * FN(_IMAGE) + (2 * (t / TQ % rows) * WIDTH + 2 * (t % TQ)) * CB;
      FN(_transform)(d, v + t * CB, channels, TILES * CB);
    }
    for (int kb = kg * FN(_KG); kb < MIN_OF((kg + 1) * FN(_KG), FN(_KB)); kb++) {
      const T *u = (const T *)launch[0] + ((size_t)(g * FN(_KB) + kb) * CPARTS + cb) * FN(_BLOCK);
      T *sum = m + (KEPT == 1 ? 0 : kb - kg * FN(_KG)) * 16 * TILES * NK;
      for (int i = 0; i < 16; i++)
        for (int t = 0; t < tiles; t += WB)
          FN(_product)(v + (i * TILES + t) * CB, u + i * CB * NK, sum + (i * TILES + t) * NK, channels, cb == 0);
      if (cb < CPARTS - 1) continue;
      for (int t = 0; t < tiles; t++)
        FN(_finish)(buf, sum + t * NK, n0 + t / (rows * TQ), g, kb * NK, 2 * (row0 + t / TQ % rows), 2 * (t % TQ));
    }
  }
}
GRT_LAUNCH void NAME(void **table) {
  enum { BLOCKS = V_G * FN(_KB) * FN(_CPARTS) };
  void **kept = GRT_KEPT(table, FROZEN);
  void *launch[2] = {grt_prepare(FN(_pack), BLOCKS, sizeof(T) * BLOCKS * FN(_BLOCK), kept, table), table};
  GRT_PARALLEL(FN(_task), (long)CEIL_DIV(V_N, FN(_NB)) * V_G * FN(_PARTS) * CEIL_DIV(FN(_KB), FN(_KG)), launch);
}

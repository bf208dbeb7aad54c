/* 3x3 convolution of stride 1 by Winograd's minimal filtering F(MxM, 3x3), M = 4 or 2, whichever has fewer products: for 4x4
 * outputs 36 where sums take 144, for 2x2 outputs 16 where sums take 36.
 *
 *   Y = A' [ (G g G') * (B' d B) ] A      winograd.h
 *
 * A task owns TR rows of tiles of one image, or NB small images, and KG blocks of NK output channels. It copies its input into
 * a patch, transforms the patch, multiplies N*N matrices [tiles x CB] [CB x NK], and transforms back (macros: conv_core.h).
 */
#include "winograd.h"
/* Products of one channel by one channel; as many as eight tiles stand for the transform of the filter. */
#define GRT_PRODUCTS(m) (((m) + 2) * ((m) + 2) * ((long)V_N * CEIL_DIV(V_P, m) * CEIL_DIV(V_Q, m) + 8))
enum {
  FN(_M) = WINOGRAD >= 4 && GRT_PRODUCTS(4) < GRT_PRODUCTS(2) ? 4 : 2,
  FN(_N) = FN(_M) + 2,
  FN(_NN) = FN(_N) * FN(_N),
  FN(_NV) = MIN_OF(TILE_VECTORS, CEIL_DIV(V_K, GRT_LANES(T))),
  FN(_NK) = FN(_NV) * GRT_LANES(T),
  FN(_KB) = CEIL_DIV(V_K, FN(_NK)),
  FN(_CBLOCKS) = CEIL_DIV(V_C * FN(_NK), 4096), /* a block of the filter: N * N * 4096 numbers, up to 576 KB */
  FN(_CB) = FN(_CBLOCKS) == 1 ? V_C : CEIL_DIV(CEIL_DIV(V_C, FN(_CBLOCKS)), GRT_LANES(T)) * GRT_LANES(T),
  FN(_CPARTS) = CEIL_DIV(V_C, FN(_CB)),
  FN(_TP) = CEIL_DIV(V_P, FN(_M)),
  FN(_TQ) = CEIL_DIV(V_Q, FN(_M)),
  FN(_WANT) = MAX_OF(48, 32768 / (FN(_NN) * FN(_CB))), /* tiles of a task: 128 KB of transformed input, or enough to pay for the filter */
  FN(_PARTS) = CEIL_DIV(FN(_TP), MAX_OF(1, MIN_OF(FN(_TP), FN(_WANT) / MAX_OF(FN(_TQ), 1)))),
  FN(_TR) = CEIL_DIV(FN(_TP), FN(_PARTS)),
  FN(_KG) = FN(_CPARTS) == 1 ? FN(_KB) : MIN_OF(FN(_KB), 2),
  FN(_IMAGES) = CEIL_DIV(V_N * CEIL_DIV(FN(_KB), FN(_KG)), 8), /* at most, for eight tasks */
  FN(_NB) = FN(_PARTS) > 1 ? 1 : MAX_OF(1, MIN_OF(MIN_OF(V_N, FN(_IMAGES)), FN(_WANT) / MAX_OF(FN(_TP) * FN(_TQ), 1))),
  FN(_BLOCKS) = CEIL_DIV(FN(_NB) * FN(_TR) * FN(_TQ), FN(_NV) == 1 ? 16 : TILE_ROWS(FN(_NV))),
  FN(_WB) = CEIL_DIV(FN(_NB) * FN(_TR) * FN(_TQ), FN(_BLOCKS)), /* tiles of a register tile, evenly */
  FN(_TILES) = FN(_BLOCKS) * FN(_WB),
  FN(_WIDTH) = FN(_M) * FN(_TQ) + 2,
  FN(_PITCH) = FN(_WIDTH) * FN(_CB),
  FN(_IMAGE) = (FN(_M) * FN(_TR) + 2) * FN(_PITCH),
  /* From one of the N * N matrices to the next: not a power of two, or all would meet in the same lines of a cache. */
  FN(_VSTEP) = FN(_TILES) * FN(_CB) + GRT_LANES(T),
  FN(_MSTEP) = FN(_TILES) * FN(_NK) + GRT_LANES(T),
  FN(_USTEP) = FN(_CB) * FN(_NK) + GRT_LANES(T),
  FN(_BLOCK) = FN(_NN) * FN(_USTEP), /* numbers of the transformed filter in one block */
  FN(_STRIDE) = sizeof(T) * FN(_NK) / FN(_BLOCKS), /* bytes of the next matrix that a register tile fetches a step */
  FN(_SLICES) = CEIL_DIV(FN(_CB), 16) /* a task transforms 16 channels of a block */
};
#undef GRT_PRODUCTS

GRT_FILTER(FN(_NK))

/* [group][block of k][block of c][N * N][channel][lane]; launch[0] is the transformed filter, launch[1] the buffers */
static void FN(_pack)(long task, void **launch) {
  const FN(_buffers) buf = FN(_open)(launch[1]);
  enum { M = FN(_M), N = FN(_N), CB = FN(_CB), NK = FN(_NK) };
  const int c0 = (int)task % FN(_SLICES) * 16, block = (int)task / FN(_SLICES);
  const int cb = block % FN(_CPARTS), kb = block / FN(_CPARTS) % FN(_KB), g = block / (FN(_CPARTS) * FN(_KB));
  const int width = MIN_OF(V_K - kb * NK, NK), channels = MIN_OF(MIN_OF(V_C - cb * CB, CB) - c0, 16);
  T w[9][16][NK] __attribute__((aligned(64)));
  if (width < NK) memset(w, 0, sizeof w);
  for (int i = 0; i < 9; i++) FN(_filter)(buf, w[i][0], g, kb * NK, width, cb * CB + c0, channels, i / 3, i % 3);
  for (int c = 0; c < channels; c++) {
    T *out = (T *)launch[0] + (size_t)block * FN(_BLOCK) + (c0 + c) * NK;
    T columns[N][3][NK] __attribute__((aligned(64)));
    for (int s = 0; s < 3; s++)
      GRT_SIMD for (int k = 0; k < NK; k++) FN(_filtered)(M, &w[s][c][k], 3 * 16 * NK, &columns[0][s][k], 3 * NK);
    for (int i = 0; i < N; i++)
      GRT_SIMD for (int k = 0; k < NK; k++) FN(_filtered)(M, &columns[i][0][k], NK, out + i * N * FN(_USTEP) + k, FN(_USTEP));
  }
}

/* m[WB][NK] (+)= v[WB][CB] * u[CB][NK]; STRIDE bytes a step are fetched from `next` on */
GRT_INLINE void FN(_product)(const T *v, const T *u, T *m, const int channels, const int first, const char *next) {
  typedef GRT_VEC(T) vec;
  enum { L = GRT_LANES(T), NV = FN(_NV), WB = FN(_WB) };
  vec acc[WB][NV];
#pragma GCC unroll 16
  for (int i = 0; i < WB; i++)
#pragma GCC unroll 4
    for (int j = 0; j < NV; j++) acc[i][j] = first ? (vec){0} : *(const vec *)(m + (i * NV + j) * L);
  for (int c = 0; c < channels; c++, u += NV * L, next += FN(_STRIDE)) {
    vec f[NV];
    GRT_FETCH(next);
#pragma GCC unroll 4
    for (int j = 0; j < NV; j++) f[j] = *(const vec *)(u + j * L);
#pragma GCC unroll 16
    for (int i = 0; i < WB; i++)
#pragma GCC unroll 4
      for (int j = 0; j < NV; j++) acc[i][j] = GRT_MADD(T, v[i * FN(_CB) + c], f[j], acc[i][j]);
  }
#pragma GCC unroll 16
  for (int i = 0; i < WB; i++)
#pragma GCC unroll 4
    for (int j = 0; j < NV; j++) *(vec *)(m + (i * NV + j) * L) = acc[i][j];
}

/* A' m A for one tile: stores up to MxM outputs of NK channels */
GRT_INLINE void FN(_finish)(const FN(_buffers) buf, const T *m, int n, int g, int k0, int p, int q) {
  enum { M = FN(_M), N = FN(_N), NK = FN(_NK), STEP = FN(_MSTEP) };
  T columns[M][N][NK] __attribute__((aligned(64))), out[M][M][NK] __attribute__((aligned(64)));
  for (int j = 0; j < N; j++)
    GRT_SIMD for (int k = 0; k < NK; k++) FN(_output)(M, m + j * STEP + k, N * STEP, &columns[0][j][k], N * NK);
  for (int i = 0; i < M; i++)
    GRT_SIMD for (int k = 0; k < NK; k++) FN(_output)(M, &columns[i][0][k], NK, &out[i][0][k], NK);
  const int width = MIN_OF(V_K - k0, NK);
  for (int i = 0; i < MIN_OF(V_P - p, M); i++)
    for (int j = 0; j < MIN_OF(V_Q - q, M); j++) {
      if (width == NK) {
        GRT_SIMD for (int k = 0; k < NK; k++) V_STORE(buf, n, g, k0 + k, p + i, q + j, out[i][j][k]);
      } else {
        GRT_SIMD for (int k = 0; k < width; k++) V_STORE(buf, n, g, k0 + k, p + i, q + j, out[i][j][k]);
      }
    }
}

static void FN(_task)(long task, void **launch) {
  const FN(_buffers) buf = FN(_open)(launch[1]);
  enum {
    M = FN(_M), CB = FN(_CB), NK = FN(_NK), TQ = FN(_TQ), WIDTH = FN(_WIDTH), WB = FN(_WB), PARTS = FN(_PARTS),
    KGROUPS = CEIL_DIV(FN(_KB), FN(_KG)), CPARTS = FN(_CPARTS), KEPT = CPARTS == 1 ? 1 : FN(_KG)
  };
  const int kg = (int)(task % KGROUPS), part = (int)(task / KGROUPS % PARTS), g = (int)(task / (KGROUPS * PARTS) % V_G);
  const int n0 = (int)(task / ((long)KGROUPS * PARTS * V_G)) * FN(_NB), images = MIN_OF(V_N - n0, FN(_NB));
  const int row0 = part * FN(_TR), rows = MIN_OF(FN(_TP) - row0, FN(_TR)), tiles = images * rows * TQ;
  enum { NUMBERS = FN(_NB) * FN(_IMAGE) + FN(_N) * FN(_PITCH) + FN(_NN) * (FN(_VSTEP) + KEPT * FN(_MSTEP)) };
  T *patch = grt_scratch(sizeof(T) * (NUMBERS + 64));
  T *columns = patch + FN(_NB) * FN(_IMAGE), *v = columns + FN(_N) * FN(_PITCH), *m = v + FN(_NN) * FN(_VSTEP);
  for (int cb = 0; cb < CPARTS; cb++) {
    const int channels = CPARTS == 1 ? CB : MIN_OF(V_C - cb * CB, CB);
    for (int n = 0; n < images; n++) {
      for (int h = 0; h < M * rows + 2; h++) {
        T *to = patch + n * FN(_IMAGE) + h * FN(_PITCH);
        for (int x = 0; x < WIDTH; x++, to += CB) {
          if (V_INSIDE(M * row0 + h, x)) {
            GRT_SIMD for (int c = 0; c < channels; c++) to[c] = V_X(buf, n0 + n, g, cb * CB + c, M * row0 + h, x);
          } else {
            memset(to, 0, sizeof(T) * CB);
          }
        }
      }
      for (int row = 0; row < rows; row++)
        FN(_transform)(M, patch + n * FN(_IMAGE) + M * row * FN(_PITCH), columns, v + (n * rows + row) * TQ * CB, TQ, CB, channels,
                       FN(_VSTEP));
    }
    for (int kb = kg * FN(_KG); kb < MIN_OF((kg + 1) * FN(_KG), FN(_KB)); kb++) {
      const T *u = (const T *)launch[0] + ((size_t)(g * FN(_KB) + kb) * CPARTS + cb) * FN(_BLOCK);
      T *sum = m + (KEPT == 1 ? 0 : kb - kg * FN(_KG)) * FN(_NN) * FN(_MSTEP);
      for (int i = 0; i < FN(_NN); i++) {
        const char *next = (const char *)(u + (i + 1) * FN(_USTEP)); /* the matrix after this one */
        for (int t = 0; t < tiles; t += WB, next += channels * FN(_STRIDE))
          FN(_product)(v + i * FN(_VSTEP) + t * CB, u + i * FN(_USTEP), sum + i * FN(_MSTEP) + t * NK, channels, cb == 0, next);
      }
      if (cb < CPARTS - 1) continue;
      for (int t = 0; t < tiles; t++)
        FN(_finish)(buf, sum + t * NK, n0 + t / (rows * TQ), g, kb * NK, M * (row0 + t / TQ % rows), M * (t % TQ));
    }
  }
}
GRT_LAUNCH void NAME(void **table) {
  enum { BLOCKS = V_G * FN(_KB) * FN(_CPARTS) };
  void **kept = GRT_KEPT(table, FROZEN);
  void *launch[2] = {grt_prepare(FN(_pack), BLOCKS * FN(_SLICES), sizeof(T) * BLOCKS * FN(_BLOCK), kept, table), table};
  GRT_PARALLEL(FN(_task), (long)CEIL_DIV(V_N, FN(_NB)) * V_G * FN(_PARTS) * CEIL_DIV(FN(_KB), FN(_KG)), launch);
}

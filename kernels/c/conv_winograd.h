/* 3x3 convolution of stride 1 by Winograd's minimal filtering F(MxM, 3x3), M = SIDE: for 4x4 outputs 36 products where
 * sums take 144, for 2x2 outputs 16 where sums take 36.
 *
 *   Y = A' [ (G g G') * (B' d B) ] A      winograd.h
 *
 * A task owns BLOCK_DOWN rows of tiles of one image, or BLOCK_IMAGES small images, and TASK_BLOCKS_K blocks of TILE_K output
 * channels. It copies its input into a patch, transforms the patch, multiplies POINTS = N * N matrices [tiles x BLOCK_C]
 * [BLOCK_C x TILE_K], and transforms back (macros: conv_core.h).
 */
#include "winograd.h"
enum {
  /* M and N: a tile of SIDE x SIDE outputs is made from IN_SIDE x IN_SIDE inputs. */
  FN(_IN_SIDE) = SIDE + 2,
  FN(_POINTS) = FN(_IN_SIDE) * FN(_IN_SIDE),
  FN(_VECTORS) = MIN_OF(TILE_VECTORS, CEIL_DIV(V_K, GRT_LANES(T))),
  FN(_TILE_K) = FN(_VECTORS) * GRT_LANES(T),
  FN(_BLOCKS_K) = CEIL_DIV(V_K, FN(_TILE_K)),
  FN(_PARTS_C) = CEIL_DIV(V_C * FN(_TILE_K), 4096), /* a block of the filter: N * N * 4096 numbers, up to 576 KB */
  FN(_BLOCK_C) = FN(_PARTS_C) == 1 ? V_C : CEIL_DIV(CEIL_DIV(V_C, FN(_PARTS_C)), GRT_LANES(T)) * GRT_LANES(T),
  FN(_BLOCKS_C) = CEIL_DIV(V_C, FN(_BLOCK_C)),
  FN(_TILES_DOWN) = CEIL_DIV(V_P, SIDE),
  FN(_TILES_ACROSS) = CEIL_DIV(V_Q, SIDE),
  /* Tiles of a task: 128 KB of transformed input, or enough to pay for the filter. */
  FN(_WANTED_TILES) = MAX_OF(48, 32768 / (FN(_POINTS) * FN(_BLOCK_C))),
  FN(_PARTS) = CEIL_DIV(FN(_TILES_DOWN), MAX_OF(1, MIN_OF(FN(_TILES_DOWN), FN(_WANTED_TILES) / MAX_OF(FN(_TILES_ACROSS), 1)))),
  FN(_BLOCK_DOWN) = CEIL_DIV(FN(_TILES_DOWN), FN(_PARTS)),
  FN(_TASK_BLOCKS_K) = FN(_BLOCKS_C) == 1 ? FN(_BLOCKS_K) : MIN_OF(FN(_BLOCKS_K), 2),
  FN(_MOST_IMAGES) = CEIL_DIV(V_N * CEIL_DIV(FN(_BLOCKS_K), FN(_TASK_BLOCKS_K)), 8), /* at most, for eight tasks */
  FN(_IMAGES_FIT) = FN(_PARTS) > 1 ? 1 : FN(_WANTED_TILES) / MAX_OF(FN(_TILES_DOWN) * FN(_TILES_ACROSS), 1),
  FN(_BLOCK_IMAGES) = MAX_OF(1, MIN_OF(MIN_OF(V_N, FN(_MOST_IMAGES)), FN(_IMAGES_FIT))),
  FN(_TASK_TILES) = FN(_BLOCK_IMAGES) * FN(_BLOCK_DOWN) * FN(_TILES_ACROSS),
  FN(_REGISTER_TILES) = CEIL_DIV(FN(_TASK_TILES), FN(_VECTORS) == 1 ? 16 : TILE_ROWS(FN(_VECTORS))),
  FN(_REGISTER_ROWS) = CEIL_DIV(FN(_TASK_TILES), FN(_REGISTER_TILES)), /* tiles of a register tile, evenly */
  FN(_TILES) = FN(_REGISTER_TILES) * FN(_REGISTER_ROWS),
  FN(_WIDTH) = SIDE * FN(_TILES_ACROSS) + 2,
  FN(_PITCH) = FN(_WIDTH) * FN(_BLOCK_C),
  FN(_IMAGE) = (SIDE * FN(_BLOCK_DOWN) + 2) * FN(_PITCH),
  /* From one of the N * N matrices to the next: not a power of two, or all would meet in the same lines of a cache. */
  FN(_INPUT_STEP) = FN(_TILES) * FN(_BLOCK_C) + GRT_LANES(T),
  FN(_PRODUCT_STEP) = FN(_TILES) * FN(_TILE_K) + GRT_LANES(T),
  FN(_FILTER_STEP) = FN(_BLOCK_C) * FN(_TILE_K) + GRT_LANES(T),
  FN(_FILTER_BLOCK) = FN(_POINTS) * FN(_FILTER_STEP), /* numbers of the transformed filter in one block */
  FN(_FETCH_STEP) = sizeof(T) * FN(_TILE_K) / FN(_REGISTER_TILES), /* bytes of the next matrix fetched a step */
  FN(_SLICES) = CEIL_DIV(FN(_BLOCK_C), 16) /* a task transforms 16 channels of a block */
};

GRT_FILTER(FN(_TILE_K))

/* [group][block of k][block of c][N * N][channel][lane]; launch[0] is the transformed filter, launch[1] the buffers */
static void FN(_pack)(long task, void **launch) {
  const FN(_buffers) buf = FN(_open)(launch[1]);
  enum { M = SIDE, N = FN(_IN_SIDE), CB = FN(_BLOCK_C), NK = FN(_TILE_K), STEP = FN(_FILTER_STEP) };
  const int c0 = (int)task % FN(_SLICES) * 16, block = (int)task / FN(_SLICES);
  const int cb = block % FN(_BLOCKS_C), kb = block / FN(_BLOCKS_C) % FN(_BLOCKS_K), g = block / (FN(_BLOCKS_C) * FN(_BLOCKS_K));
  const int width = MIN_OF(V_K - kb * NK, NK), channels = MIN_OF(MIN_OF(V_C - cb * CB, CB) - c0, 16);
  T w[9][16][NK] __attribute__((aligned(64)));
  if (width < NK) memset(w, 0, sizeof w);
  for (int i = 0; i < 9; i++) FN(_filter)(buf, w[i][0], g, kb * NK, width, cb * CB + c0, channels, i / 3, i % 3);
  for (int c = 0; c < channels; c++) {
    T *out = (T *)launch[0] + (size_t)block * FN(_FILTER_BLOCK) + (c0 + c) * NK;
    T columns[N][3][NK] __attribute__((aligned(64)));
    for (int s = 0; s < 3; s++)
      GRT_SIMD for (int k = 0; k < NK; k++) FN(_filtered)(M, &w[s][c][k], 3 * 16 * NK, &columns[0][s][k], 3 * NK);
    for (int i = 0; i < N; i++)
      GRT_SIMD for (int k = 0; k < NK; k++) FN(_filtered)(M, &columns[i][0][k], NK, out + i * N * STEP + k, STEP);
  }
}

/* m[REGISTER_ROWS][TILE_K] (+)= v[..][BLOCK_C] * u[BLOCK_C][TILE_K]; FETCH_STEP bytes a step are fetched from `next` on */
GRT_INLINE void FN(_product)(const T *v, const T *u, T *m, const int channels, const int first, const char *next) {
  typedef GRT_VEC(T) vec;
  enum { L = GRT_LANES(T), NV = FN(_VECTORS), WB = FN(_REGISTER_ROWS) };
  vec acc[WB][NV];
#pragma GCC unroll 16
  for (int i = 0; i < WB; i++)
#pragma GCC unroll 4
    for (int j = 0; j < NV; j++) acc[i][j] = first ? (vec){0} : *(const vec *)(m + (i * NV + j) * L);
  for (int c = 0; c < channels; c++, u += NV * L, next += FN(_FETCH_STEP)) {
    vec f[NV];
    GRT_FETCH(next);
#pragma GCC unroll 4
    for (int j = 0; j < NV; j++) f[j] = *(const vec *)(u + j * L);
#pragma GCC unroll 16
    for (int i = 0; i < WB; i++)
#pragma GCC unroll 4
      for (int j = 0; j < NV; j++) acc[i][j] = GRT_MADD(T, v[i * FN(_BLOCK_C) + c], f[j], acc[i][j]);
  }
#pragma GCC unroll 16
  for (int i = 0; i < WB; i++)
#pragma GCC unroll 4
    for (int j = 0; j < NV; j++) *(vec *)(m + (i * NV + j) * L) = acc[i][j];
}

/* A' m A for one tile: stores up to M x M outputs of TILE_K channels */
GRT_INLINE void FN(_finish)(const FN(_buffers) buf, const T *m, int n, int g, int k0, int p, int q) {
  enum { M = SIDE, N = FN(_IN_SIDE), NK = FN(_TILE_K), STEP = FN(_PRODUCT_STEP) };
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
    M = SIDE, NN = FN(_POINTS), CB = FN(_BLOCK_C), NK = FN(_TILE_K), TQ = FN(_TILES_ACROSS), WB = FN(_REGISTER_ROWS),
    VSTEP = FN(_INPUT_STEP), USTEP = FN(_FILTER_STEP), MSTEP = FN(_PRODUCT_STEP), WIDTH = FN(_WIDTH), PARTS = FN(_PARTS),
    KGROUPS = CEIL_DIV(FN(_BLOCKS_K), FN(_TASK_BLOCKS_K)), CPARTS = FN(_BLOCKS_C), KEPT = CPARTS == 1 ? 1 : FN(_TASK_BLOCKS_K)
  };
  const int kg = (int)(task % KGROUPS), part = (int)(task / KGROUPS % PARTS), g = (int)(task / (KGROUPS * PARTS) % V_G);
  const int n0 = (int)(task / ((long)KGROUPS * PARTS * V_G)) * FN(_BLOCK_IMAGES), images = MIN_OF(V_N - n0, FN(_BLOCK_IMAGES));
  const int row0 = part * FN(_BLOCK_DOWN), rows = MIN_OF(FN(_TILES_DOWN) - row0, FN(_BLOCK_DOWN)), tiles = images * rows * TQ;
  enum { NUMBERS = FN(_BLOCK_IMAGES) * FN(_IMAGE) + FN(_IN_SIDE) * FN(_PITCH) + NN * (VSTEP + KEPT * MSTEP) };
  T *patch = grt_scratch(sizeof(T) * (NUMBERS + 64));
  T *columns = patch + FN(_BLOCK_IMAGES) * FN(_IMAGE), *v = columns + FN(_IN_SIDE) * FN(_PITCH), *m = v + NN * VSTEP;
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
        FN(_transform)(M, patch + n * FN(_IMAGE) + M * row * FN(_PITCH), columns, v + (n * rows + row) * TQ * CB, TQ, CB,
                       channels, VSTEP);
    }
    for (int kb = kg * FN(_TASK_BLOCKS_K); kb < MIN_OF((kg + 1) * FN(_TASK_BLOCKS_K), FN(_BLOCKS_K)); kb++) {
      const T *u = (const T *)launch[0] + ((size_t)(g * FN(_BLOCKS_K) + kb) * CPARTS + cb) * FN(_FILTER_BLOCK);
      T *sum = m + (KEPT == 1 ? 0 : kb - kg * FN(_TASK_BLOCKS_K)) * NN * MSTEP;
      for (int i = 0; i < NN; i++) {
        const char *next = (const char *)(u + (i + 1) * USTEP); /* the matrix after this one */
        for (int t = 0; t < tiles; t += WB, next += channels * FN(_FETCH_STEP))
          FN(_product)(v + i * VSTEP + t * CB, u + i * USTEP, sum + i * MSTEP + t * NK, channels, cb == 0, next);
      }
      if (cb < CPARTS - 1) continue;
      for (int t = 0; t < tiles; t++)
        FN(_finish)(buf, sum + t * NK, n0 + t / (rows * TQ), g, kb * NK, M * (row0 + t / TQ % rows), M * (t % TQ));
    }
  }
}
GRT_LAUNCH void NAME(void **table) {
  enum { BLOCKS = V_G * FN(_BLOCKS_K) * FN(_BLOCKS_C) };
  void **kept = GRT_KEPT(table, FROZEN);
  void *launch[2] = {grt_prepare(FN(_pack), BLOCKS * FN(_SLICES), sizeof(T) * BLOCKS * FN(_FILTER_BLOCK), kept, table), table};
  const long tasks = CEIL_DIV(grt_share(V_N), FN(_BLOCK_IMAGES)) * V_G * FN(_PARTS) * CEIL_DIV(FN(_BLOCKS_K), FN(_TASK_BLOCKS_K));
  GRT_PARALLEL(FN(_task), tasks, launch);
}

/* Gradient of a 3x3 filter of stride 1 by Winograd's transforms (winograd.h): the gradient of Y = A' [(G g G') * (B' d B)] A.
 *
 *   dg = G' [ sum over tiles of (B' d B) * (A dy A') ] G
 *
 * A task owns TILE_K output and BLOCK_C input channels. It takes BLOCK_DOWN rows of tiles, or BLOCK_IMAGES small images, at a
 * time, transforms both sides and adds up POINTS = N * N products [BLOCK_C x tiles] [tiles x TILE_K].
 */
#include "winograd.h"
enum { FN(_BLOCK_C) = CEIL_DIV(CC / GROUPS, CEIL_DIV(CC / GROUPS, 32)) };
#include "conv_wgrad_tile.h"
enum {
  /* M and N of winograd.h: a tile of SIDE x SIDE outputs is made from IN_SIDE x IN_SIDE inputs. */
  FN(_IN_SIDE) = SIDE + 2,
  FN(_POINTS) = FN(_IN_SIDE) * FN(_IN_SIDE),
  FN(_TILES_DOWN) = CEIL_DIV(CP, SIDE),
  FN(_TILES_ACROSS) = CEIL_DIV(CQ, SIDE),
  FN(_WANTED_TILES) = 81920 / (FN(_POINTS) * (FN(_TILE_K) + FN(_BLOCK_C))), /* at a time: 320 KB of both transformed sides */
  FN(_PARTS) = CEIL_DIV(FN(_TILES_DOWN), MAX_OF(1, MIN_OF(FN(_TILES_DOWN), FN(_WANTED_TILES) / MAX_OF(FN(_TILES_ACROSS), 1)))),
  FN(_BLOCK_DOWN) = CEIL_DIV(FN(_TILES_DOWN), FN(_PARTS)),
  FN(_IMAGES_FIT) = FN(_PARTS) > 1 ? 1 : FN(_WANTED_TILES) / MAX_OF(FN(_TILES_DOWN) * FN(_TILES_ACROSS), 1),
  FN(_BLOCK_IMAGES) = MAX_OF(1, MIN_OF(CEIL_DIV(CN, SPLITS), FN(_IMAGES_FIT))),
  FN(_TILES) = FN(_BLOCK_IMAGES) * FN(_BLOCK_DOWN) * FN(_TILES_ACROSS),
  FN(_WIDTH) = SIDE * FN(_TILES_ACROSS) + 2,
  FN(_PITCH) = FN(_WIDTH) * FN(_BLOCK_C),
  FN(_HEIGHT) = SIDE * FN(_BLOCK_DOWN) + 2,
  /* From one of the N * N matrices to the next: not a power of two, or all would meet in the same lines of a cache. */
  FN(_INPUT_STEP) = FN(_TILES) * FN(_BLOCK_C) + GRT_LANES(T),
  FN(_GRADIENT_STEP) = FN(_TILES) * FN(_TILE_K) + GRT_LANES(T)
};

/* A dy A' for one tile, zero where it hangs over the edge or has no channel */
GRT_INLINE void FN(_gradient)(const FN(_buffers) buf, T *d, int n, int k0, const int width, int p, int q) {
  enum { M = SIDE, N = FN(_IN_SIDE), NK = FN(_TILE_K), STEP = FN(_GRADIENT_STEP) };
  T dy[M][M][NK] __attribute__((aligned(64))), columns[N][M][NK] __attribute__((aligned(64)));
  const int whole = p + M <= CP && q + M <= CQ;
  if (width < NK || !whole) memset(dy, 0, sizeof dy);
  for (int i = 0; i < MIN_OF(CP - p, M); i++)
    for (int j = 0; j < MIN_OF(CQ - q, M); j++) {
      if (width == NK) {
        GRT_SIMD for (int k = 0; k < NK; k++) dy[i][j][k] = LOAD_DY(buf, n, k0 + k, p + i, q + j);
      } else {
        GRT_SIMD for (int k = 0; k < width; k++) dy[i][j][k] = LOAD_DY(buf, n, k0 + k, p + i, q + j);
      }
    }
  for (int j = 0; j < M; j++)
    GRT_SIMD for (int k = 0; k < NK; k++) FN(_spread)(M, &dy[0][j][k], M * NK, &columns[0][j][k], M * NK);
  for (int i = 0; i < N; i++)
    GRT_SIMD for (int k = 0; k < NK; k++) FN(_spread)(M, &columns[i][0][k], NK, d + i * N * STEP + k, STEP);
}

static void FN(_task)(long task, void **table) {
  const FN(_buffers) buf = FN(_open)(table);
  enum { M = SIDE, N = FN(_IN_SIDE), NN = FN(_POINTS), NK = FN(_TILE_K), CB = FN(_BLOCK_C) };
  enum { TQ = FN(_TILES_ACROSS), WIDTH = FN(_WIDTH), PITCH = FN(_PITCH) };
  enum { NUMBERS = NN * (CB * NK + FN(_INPUT_STEP) + FN(_GRADIENT_STEP)) + (FN(_HEIGHT) + N) * PITCH };
  const FN(_share) own = FN(_block)(task);
  T *sum = grt_scratch(sizeof(T) * (NUMBERS + 64));
  T *v = sum + NN * CB * NK, *d = v + NN * FN(_INPUT_STEP);
  T *patch = d + NN * FN(_GRADIENT_STEP), *columns = patch + FN(_HEIGHT) * PITCH;
  memset(sum, 0, sizeof(T) * NN * CB * NK);
  memset(patch, 0, sizeof(T) * FN(_HEIGHT) * PITCH);
  for (int n0 = own.first; n0 < own.last; n0 += FN(_BLOCK_IMAGES))
    for (int row0 = 0; row0 < FN(_TILES_DOWN); row0 += FN(_BLOCK_DOWN)) {
      const int images = MIN_OF(own.last - n0, FN(_BLOCK_IMAGES)), rows = MIN_OF(FN(_TILES_DOWN) - row0, FN(_BLOCK_DOWN));
      int tiles = 0;
      for (int n = n0; n < n0 + images; n++) {
        for (int h = 0; h < M * rows + 2; h++) {
          T *to = patch + h * PITCH;
          const int hh = M * row0 + h - PAD_H;
          for (int w = 0; w < WIDTH; w++, to += CB) {
            if (hh >= 0 && hh < CH && w >= PAD_W && w < CW + PAD_W) {
              GRT_SIMD for (int c = 0; c < own.channels; c++) to[c] = LOAD_X(buf, n, own.c0 + c, hh, w - PAD_W);
            } else {
              memset(to, 0, sizeof(T) * CB);
            }
          }
        }
        for (int row = 0; row < rows; row++, tiles += TQ) {
          FN(_transform)(M, patch + M * row * PITCH, columns, v + tiles * CB, TQ, CB, CB, FN(_INPUT_STEP));
          for (int q = 0; q < TQ; q++)
            FN(_gradient)(buf, d + (tiles + q) * NK, n, own.k0, own.width, M * (row0 + row), M * q);
        }
      }
      for (int i = 0; i < NN; i++)
        FN(_tiles)(v + i * FN(_INPUT_STEP), d + i * FN(_GRADIENT_STEP), sum + i * CB * NK, 1, 1, tiles, 0, 0, CB, CB);
    }
  for (int c = 0; c < own.channels; c++) {
    enum { STEP = FN(_BLOCK_C) * FN(_TILE_K) };
    T rows[3][N][NK] __attribute__((aligned(64))), dw[3][3][NK] __attribute__((aligned(64)));
    for (int j = 0; j < N; j++)
      GRT_SIMD for (int k = 0; k < NK; k++) FN(_gathered)(M, sum + c * NK + j * STEP + k, N * STEP, &rows[0][j][k], N * NK);
    for (int i = 0; i < 3; i++)
      GRT_SIMD for (int k = 0; k < NK; k++) FN(_gathered)(M, &rows[i][0][k], NK, &dw[i][0][k], NK);
#if STORED_FAST_K
    for (int i = 0; i < 9; i++)
      GRT_SIMD for (int k = 0; k < own.width; k++) STORE(buf, own.split, own.k0 + k, own.cb * CB + c, i / 3, i % 3, dw[i / 3][i % 3][k]);
#else /* output channels lie far apart: all of one before the next */
    for (int k = 0; k < own.width; k++)
#pragma GCC unroll 9
      for (int i = 0; i < 9; i++) STORE(buf, own.split, own.k0 + k, own.cb * CB + c, i / 3, i % 3, dw[i / 3][i % 3][k]);
#endif
  }
}
GRT_LAUNCH void NAME(void **table) { GRT_PARALLEL(FN(_task), (long)SPLITS * GROUPS * FN(_BLOCKS_K) * FN(_BLOCKS_C), table); }

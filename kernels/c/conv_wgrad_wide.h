/* Gradient of a filter with many output channels: a tile of [input channels] x [vectors of output channels] for one tap, or
 * for a row of taps if there are few input channels.
 *
 * A task owns TILE_K output channels, or several times as many, and BLOCK_C input channels with all their taps. It takes
 * BLOCK_ROWS rows of an image, or BLOCK_IMAGES small images, at a time, so that both patches stay in the second cache: dy as
 * [image][row][column][TILE_K], the input as [image][row][column][BLOCK_C], once for all output channels of the task.
 */
enum { FN(_PARTS_C) = CEIL_DIV(CC / GROUPS * CR * CS, 320), FN(_BLOCK_C) = CEIL_DIV(CC / GROUPS, FN(_PARTS_C)) };
#include "conv_wgrad_tile.h"
enum {
  /* Rows and columns between those of the patch, and strides within it: a filter of one row reads no others. */
  FN(_SKIP_H) = CR == 1 ? STRIDE_H : 1,
  FN(_SKIP_W) = CS == 1 ? STRIDE_W : 1,
  FN(_STEP_H) = STRIDE_H / FN(_SKIP_H),
  FN(_STEP_W) = STRIDE_W / FN(_SKIP_W),
  FN(_WIDTH) = (CQ - 1) * FN(_STEP_W) + (CS - 1) * DIL_W + 1,
  FN(_PIXEL) = FN(_BLOCK_C) % 64 ? FN(_BLOCK_C) : FN(_BLOCK_C) + GRT_LANES(T), /* from one to the next: not a power of two */
  /* Taps side by side that count as channels of one tile: where a tile holds more than there are, and a row of x is dense. */
  FN(_SIDE_TAPS) = FN(_BLOCK_C) < FN(_MOST_CHANNELS) && FN(_PIXEL) == FN(_BLOCK_C) && DIL_W == 1 ? CS : 1,
  FN(_FEW_CHANNELS) = !X_CHANNELS_LAST && CC == FN(_BLOCK_C) && FN(_BLOCK_C) <= 4,
  FN(_FIRST_COLUMN) = CEIL_DIV(PAD_W, FN(_SKIP_W)), /* columns of the patch that are not padding */
  FN(_END_COLUMN) = MAX_OF(FN(_FIRST_COLUMN), MIN_OF(FN(_WIDTH), (CW - 1 + PAD_W) / FN(_SKIP_W) + 1)),
  FN(_ROWS_FIT) = 49152 / (CQ * FN(_TILE_K) + FN(_STEP_H) * FN(_WIDTH) * FN(_PIXEL)), /* rows: 192 KB */
  FN(_BLOCK_ROWS) = MAX_OF(1, MIN_OF(CP, FN(_ROWS_FIT))),
  FN(_HEIGHT) = (FN(_BLOCK_ROWS) - 1) * FN(_STEP_H) + (CR - 1) * DIL_H + 1,
  FN(_IMAGE) = FN(_HEIGHT) * FN(_WIDTH) * FN(_PIXEL),
  FN(_IMAGES_FIT) = FN(_BLOCK_ROWS) < CP ? 1 : 49152 / MAX_OF(1, CP * CQ * FN(_TILE_K) + FN(_IMAGE)),
  FN(_BLOCK_IMAGES) = MAX_OF(1, MIN_OF(CEIL_DIV(CN, SPLITS), FN(_IMAGES_FIT))),
  /* Tiles of a task, one behind the other, for which the input is packed once: as many as leave tasks enough. */
  FN(_WANTED_TILES) = MIN_OF(4, SPLITS * GROUPS * FN(_BLOCKS_K) * FN(_BLOCKS_C) / 8),
  FN(_TASKS_K) = CEIL_DIV(FN(_BLOCKS_K), MAX_OF(1, FN(_WANTED_TILES))),
  FN(_TILES) = CEIL_DIV(FN(_BLOCKS_K), FN(_TASKS_K))
};

/* The patch of the input for `rows` rows from p0 of `images` images from n0. */
GRT_INLINE void FN(_fill)(const FN(_buffers) buf, T *x, const FN(_share) own, int n0, int images, int p0, int rows) {
  enum { CB = FN(_BLOCK_C), PIXEL = FN(_PIXEL), WIDTH = FN(_WIDTH) };
  for (int n = 0; n < images; n++)
    for (int h = 0; h < (rows - 1) * FN(_STEP_H) + (CR - 1) * DIL_H + 1; h++) {
      T *to = x + n * FN(_IMAGE) + h * WIDTH * PIXEL;
      const int hh = p0 * STRIDE_H + h * FN(_SKIP_H) - PAD_H;
      if (FN(_FEW_CHANNELS) && hh >= 0 && hh < CH) { /* from lines along the columns */
        memset(to, 0, sizeof(T) * WIDTH * PIXEL);
        GRT_SIMD for (int w = FN(_FIRST_COLUMN); w < FN(_END_COLUMN); w++)
#pragma GCC unroll 4
          for (int c = 0; c < CB; c++) to[w * PIXEL + c] = LOAD_X(buf, n0 + n, own.c0 + c, hh, w * FN(_SKIP_W) - PAD_W);
        continue;
      }
      for (int w = 0; w < WIDTH; w++, to += PIXEL) {
        const int ww = w * FN(_SKIP_W) - PAD_W;
        if (hh >= 0 && hh < CH && ww >= 0 && ww < CW) {
          GRT_SIMD for (int c = 0; c < own.channels; c++) to[c] = LOAD_X(buf, n0 + n, own.c0 + c, hh, ww);
        } else {
          memset(to, 0, sizeof(T) * CB);
        }
      }
    }
}

GRT_INLINE void FN(_keep)(const FN(_buffers) buf, const T *sum, const FN(_share) own) {
  enum { NK = FN(_TILE_K), CB = FN(_BLOCK_C) };
#if STORED_FAST_K
  for (int r = 0; r < CR; r++)
    for (int s = 0; s < CS; s++)
      for (int c = 0; c < own.channels; c++) {
        const T *from = sum + ((r * CS + s) * CB + c) * NK;
        GRT_SIMD for (int k = 0; k < own.width; k++) STORE(buf, own.split, own.k0 + k, own.cb * CB + c, r, s, from[k]);
      }
#else /* output channels lie far apart: all of one before the next */
  for (int k = 0; k < own.width; k++)
    for (int r = 0; r < CR; r++)
      for (int s = 0; s < CS; s++) {
        const T *from = sum + (r * CS + s) * CB * NK + k;
        GRT_SIMD for (int c = 0; c < own.channels; c++) STORE(buf, own.split, own.k0 + k, own.cb * CB + c, r, s, from[c * NK]);
      }
#endif
}

static void FN(_task)(long task, void **table) {
  const FN(_buffers) buf = FN(_open)(table);
  enum { NK = FN(_TILE_K), CB = FN(_BLOCK_C), PB = FN(_BLOCK_ROWS), NB = FN(_BLOCK_IMAGES), NC = FN(_BLOCKS_C) };
  enum { PIXEL = FN(_PIXEL), WIDTH = FN(_WIDTH), SIDE = FN(_SIDE_TAPS), SUM = CR * CS * CB * NK };
  const int kb = (int)(task / NC % FN(_TASKS_K)) * FN(_TILES), tiles = MIN_OF(FN(_TILES), FN(_BLOCKS_K) - kb);
  const long first = (task / (NC * FN(_TASKS_K)) * FN(_BLOCKS_K) + kb) * NC + task % NC; /* tile, if each were a task */
  const FN(_share) one = FN(_block)(first);
  T *sum = grt_scratch(sizeof(T) * (FN(_TILES) * SUM + NB * (PB * CQ * NK + FN(_IMAGE)) + 64));
  T *dy = sum + FN(_TILES) * SUM, *x = dy + NB * PB * CQ * NK;
  memset(sum, 0, sizeof(T) * tiles * SUM);
  if (FN(_GROUP_K) % NK) memset(dy, 0, sizeof(T) * NB * PB * CQ * NK);
  if (one.channels < CB) memset(x, 0, sizeof(T) * NB * FN(_IMAGE));
  for (int n0 = one.first; n0 < one.last; n0 += NB)
    for (int p0 = 0; p0 < CP; p0 += PB) {
      const int images = MIN_OF(one.last - n0, NB), rows = MIN_OF(CP - p0, PB);
      FN(_fill)(buf, x, one, n0, images, p0, rows);
      for (int tile = 0; tile < tiles; tile++) {
        const FN(_share) own = FN(_block)(first + tile * NC);
        T *to = dy;
        for (int n = 0; n < images; n++)
          for (int p = 0; p < rows; p++)
            for (int q = 0; q < CQ; q++, to += NK)
              GRT_SIMD for (int k = 0; k < own.width; k++) to[k] = LOAD_DY(buf, n0 + n, own.k0 + k, p0 + p, q);
        for (int r = 0; r < CR; r++)
          for (int s = 0; s < CS; s += SIDE)
            FN(_tiles)(x + (r * DIL_H * WIDTH + s * DIL_W) * PIXEL, dy, sum + tile * SUM + (r * CS + s) * CB * NK, images, rows, CQ,
                       FN(_IMAGE), FN(_STEP_H) * WIDTH * PIXEL, FN(_STEP_W) * PIXEL, SIDE * CB);
      }
    }
  for (int tile = 0; tile < tiles; tile++) FN(_keep)(buf, sum + tile * SUM, FN(_block)(first + tile * NC));
}
GRT_LAUNCH void NAME(void **table) { GRT_PARALLEL(FN(_task), (long)SPLITS * GROUPS * FN(_TASKS_K) * FN(_BLOCKS_C), table); }

/* Gradient of a filter with many output channels: a tile of [input channels] x [vectors of output channels] for one tap, or
 * for a row of taps if there are few input channels.
 *
 * A task owns TILE_K output and BLOCK_C input channels with all their taps. It takes BLOCK_ROWS rows of an image, or
 * BLOCK_IMAGES small images, at a time, so that both patches stay in the second cache: dy as [image][row][column][TILE_K], the
 * input as [image][row][column][BLOCK_C].
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
  FN(_BLOCK_IMAGES) = MAX_OF(1, MIN_OF(CEIL_DIV(CN, SPLITS), FN(_IMAGES_FIT)))
};

static void FN(_task)(long task, void **table) {
  const FN(_buffers) buf = FN(_open)(table);
  enum { NK = FN(_TILE_K), CB = FN(_BLOCK_C), PB = FN(_BLOCK_ROWS), NB = FN(_BLOCK_IMAGES) };
  enum { PIXEL = FN(_PIXEL), WIDTH = FN(_WIDTH), SIDE = FN(_SIDE_TAPS) };
  const FN(_share) own = FN(_block)(task);
  T *sum = grt_scratch(sizeof(T) * (CR * CS * CB * NK + NB * (PB * CQ * NK + FN(_IMAGE)) + 64));
  T *dy = sum + CR * CS * CB * NK, *x = dy + NB * PB * CQ * NK;
  memset(sum, 0, sizeof(T) * CR * CS * CB * NK);
  if (own.width < NK) memset(dy, 0, sizeof(T) * NB * PB * CQ * NK);
  if (own.channels < CB) memset(x, 0, sizeof(T) * NB * FN(_IMAGE));
  for (int n0 = own.first; n0 < own.last; n0 += NB)
    for (int p0 = 0; p0 < CP; p0 += PB) {
      const int images = MIN_OF(own.last - n0, NB), rows = MIN_OF(CP - p0, PB);
      for (int n = 0; n < images; n++) {
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
        T *to = dy + n * rows * CQ * NK;
        for (int p = 0; p < rows; p++)
          for (int q = 0; q < CQ; q++, to += NK)
            GRT_SIMD for (int k = 0; k < own.width; k++) to[k] = LOAD_DY(buf, n0 + n, own.k0 + k, p0 + p, q);
      }
      for (int r = 0; r < CR; r++)
        for (int s = 0; s < CS; s += SIDE)
          FN(_tiles)(x + (r * DIL_H * WIDTH + s * DIL_W) * PIXEL, dy, sum + (r * CS + s) * CB * NK, images, rows, CQ, FN(_IMAGE),
                     FN(_STEP_H) * WIDTH * PIXEL, FN(_STEP_W) * PIXEL, SIDE * CB);
    }
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
GRT_LAUNCH void NAME(void **table) { GRT_PARALLEL(FN(_task), (long)SPLITS * GROUPS * FN(_BLOCKS_K) * FN(_BLOCKS_C), table); }

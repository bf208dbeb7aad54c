/* Gradient of pooling, gathered line by line: each line of the input adds up what the windows over it send back.
 *
 * Macros as pool.h, with LOAD_DY(buf, n, c, p, q), for OP_MAX LOAD_INDEX(buf, n, c, p, q), and STORE(buf, n, c, h, w, value).
 * A window at p covers h by tap r where h + pad = p*stride + r*dil. A task owns a line of dx (channels, or columns), sums in it
 * and stores every element once: no atomics. Along columns one tap meets every stride-th element, so no two windows of the
 * inner loop touch the same one. Windows that lie apart (stride >= size, no padding) meet each element once: no sum.
 */
#include "tile.h"
#define APART (STRIDE_H >= CR && STRIDE_W >= CS && PAD_H == 0 && PAD_W == 0 && DIL_H == 1 && DIL_W == 1)
enum { FN(_LINE) = CHANNELS_LAST ? CC : CW };
GRT_INLINE T FN(_part)(const FN(_buffers) buf, int n, int c, int p, int q, int tap) {
  const T dy = LOAD_DY(buf, n, c, p, q); /* loaded in any case: a load that depends on the index would not vectorise */
#ifdef OP_MAX
  return LOAD_INDEX(buf, n, c, p, q) == tap ? dy : 0;
#else
  return (void)tap, dy;
#endif
}
#if APART && CHANNELS_LAST
GRT_INLINE void FN(_line)(const FN(_buffers) buf, int n, int c0, int h, int w0) {
  const int p = h / STRIDE_H, r = h % STRIDE_H, q = w0 / STRIDE_W, s = w0 % STRIDE_W;
  if (p < CP && r < CR && q < CQ && s < CS) {
    GRT_SIMD for (int c = 0; c < CC; c++) STORE(buf, n, c, h, w0, FN(_part)(buf, n, c, p, q, r * CS + s));
  } else {
    GRT_SIMD for (int c = 0; c < CC; c++) STORE(buf, n, c, h, w0, 0);
  }
  (void)c0;
}
#elif APART
/* Rows of windows are copied into one line and spread over the elements they meet there, so that vectors run on over the ends
 * of short rows. */
GRT_INLINE void FN(_plane)(const FN(_buffers) buf, int n, int c) {
  enum {
    QB = MIN_OF(CQ, MAX_OF(1, 4096 / (CR * STRIDE_W))), /* a block: so many columns of windows */
    PB = MIN_OF(CP, MAX_OF(1, 4096 / (CR * STRIDE_W * QB)))
  };
  T dy[PB * QB] __attribute__((aligned(64))), rows[CR][PB * QB * STRIDE_W] __attribute__((aligned(64)));
#ifdef OP_MAX
  int taps[PB * QB] __attribute__((aligned(64)));
#define MEETS(i, tap) (taps[i] == (tap))
#else
#define MEETS(i, tap) 1
#endif
  memset(dy, 0, sizeof dy);
  for (int p0 = 0; p0 < CP; p0 += PB)
    for (int q0 = 0; q0 < CQ; q0 += QB) {
      const int height = MIN_OF(PB, CP - p0), width = MIN_OF(QB, CQ - q0);
      for (int p = 0; p < height; p++)
        GRT_SIMD for (int q = 0; q < width; q++) {
          dy[p * QB + q] = LOAD_DY(buf, n, c, p0 + p, q0 + q);
#ifdef OP_MAX
          taps[p * QB + q] = LOAD_INDEX(buf, n, c, p0 + p, q0 + q);
#endif
        }
#pragma GCC unroll 4
      for (int r = 0; r < CR; r++)
        GRT_SIMD for (int i = 0; i < PB * QB; i++)
#pragma GCC unroll 4
          for (int s = 0; s < STRIDE_W; s++)
            rows[r][i * STRIDE_W + s] = s < CS && MEETS(i, r * CS + s) ? dy[i] : 0;
      const int bottom = p0 + height < CP ? (p0 + height) * STRIDE_H : CH, right = q0 + width < CQ ? (q0 + width) * STRIDE_W : CW;
      for (int h = p0 * STRIDE_H; h < bottom; h++) { /* what no window meets, too */
        const int p = h / STRIDE_H - p0, r = h % STRIDE_H, left = q0 * STRIDE_W;
        const int met = p < height && r < CR ? MIN_OF(right - left, width * STRIDE_W) : 0;
        GRT_SIMD for (int w = 0; w < met; w++) STORE(buf, n, c, h, left + w, rows[r][p * QB * STRIDE_W + w]);
        for (int w = left + met; w < right; w++) STORE(buf, n, c, h, w, 0);
      }
    }
}
#else
GRT_INLINE void FN(_line)(const FN(_buffers) buf, int n, int c0, int h, int w0) {
  T total[FN(_LINE)] __attribute__((aligned(64)));
  for (int i = 0; i < FN(_LINE); i++) total[i] = 0;
  for (int r = 0; r < CR; r++) {
    const int u = h + PAD_H - r * DIL_H, p = u / STRIDE_H;
    if (u < 0 || u % STRIDE_H != 0 || p >= CP) continue;
    for (int s = 0; s < CS; s++) {
#if CHANNELS_LAST
      const int v = w0 + PAD_W - s * DIL_W, q = v / STRIDE_W;
      if (v < 0 || v % STRIDE_W != 0 || q >= CQ) continue;
      GRT_SIMD for (int c = 0; c < CC; c++) total[c] += FN(_part)(buf, n, c, p, q, r * CS + s);
#else
      const int at = s * DIL_W - PAD_W;
      const int first = at < 0 ? CEIL_DIV(-at, STRIDE_W) : 0, last = at < CW ? MIN_OF(CQ, CEIL_DIV(CW - at, STRIDE_W)) : 0;
      GRT_SIMD for (int q = first; q < last; q++) total[q * STRIDE_W + at] += FN(_part)(buf, n, c0, p, q, r * CS + s);
#endif
    }
  }
  GRT_SIMD for (int i = 0; i < FN(_LINE); i++)
      STORE(buf, n, CHANNELS_LAST ? i : c0, h, CHANNELS_LAST ? w0 : i, total[i]);
}
#endif
static void FN(_task)(long task, void **table) {
  const FN(_buffers) buf = FN(_open)(table);
#if CHANNELS_LAST
  const int n = (int)(task / CH), h = (int)(task % CH);
  for (int w = 0; w < CW; w++) FN(_line)(buf, n, 0, h, w);
#else
  const int n = (int)(task / CC), c = (int)(task % CC);
#if APART
  FN(_plane)(buf, n, c);
#else
  for (int h = 0; h < CH; h++) FN(_line)(buf, n, c, h, 0);
#endif
#endif
}
GRT_LAUNCH void NAME(void **table) { GRT_PARALLEL(FN(_task), (long)CN * (CHANNELS_LAST ? CH : CC), table); }

/* Pooling over windows: the largest element and which tap it was, or the sum.
 *
 * Macros: NAME, T, sizes CN CC CH CW CP CQ CR CS, STRIDE_H/W, PAD_H/W, DIL_H/W, OP_MAX or OP_SUM, CHANNELS_LAST,
 * LOAD_X(buf, n, c, h, w), STORE(buf, n, c, p, q, value, index) (max) or STORE(buf, n, c, p, q, value). Padding is never chosen;
 * NaN wins; the first of equal elements wins. The innermost loop runs along memory: channels, or output columns.
 */
#include "tile.h"
GRT_INLINE void FN(_one)(void **buf, int n, int c, int p, int q) {
#ifdef OP_MAX
  T best = -INFINITY;
  int index = -1;
#else
  T best = 0;
#endif
  for (int r = 0; r < CR; r++)
    for (int s = 0; s < CS; s++) {
      const int h = p * STRIDE_H - PAD_H + r * DIL_H, w = q * STRIDE_W - PAD_W + s * DIL_W;
#ifdef OP_MAX
      const int inside = h >= 0 && h < CH && w >= 0 && w < CW;
      const T x = inside ? (T)LOAD_X(buf, n, c, h, w) : (T)-INFINITY;
      const int wins = inside & ((x > best) | ((x != x) & (best == best)) | (index < 0));
      best = wins ? x : best;
      index = wins ? r * CS + s : index;
#else
      best += h >= 0 && h < CH && w >= 0 && w < CW ? LOAD_X(buf, n, c, h, w) : 0;
#endif
    }
#ifdef OP_MAX
  STORE(buf, n, c, p, q, best, MAX_OF(index, 0));
#else
  STORE(buf, n, c, p, q, best);
#endif
}
static void FN(_task)(long task, void **buf) {
#if CHANNELS_LAST
  const int n = (int)(task / CP), p = (int)(task % CP);
  for (int q = 0; q < CQ; q++)
    _Pragma("GCC ivdep") for (int c = 0; c < CC; c++) FN(_one)(buf, n, c, p, q);
#else
  const int n = (int)(task / CC), c = (int)(task % CC);
  for (int p = 0; p < CP; p++)
    _Pragma("GCC ivdep") for (int q = 0; q < CQ; q++) FN(_one)(buf, n, c, p, q);
#endif
}
static void NAME(void **buf) { GRT_PARALLEL(FN(_task), (long)CN * (CHANNELS_LAST ? CP : CC), buf); }
#include "conv_undef.h"

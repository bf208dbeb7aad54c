/* Gradient of pooling, gathered: each input element adds up what the windows over it send back.
 *
 * Macros as pool.h, with LOAD_DY(buf, n, c, p, q), for OP_MAX LOAD_INDEX(buf, n, c, p, q), and STORE(buf, n, c, h, w, value).
 * A window at p covers h by tap r where h + pad = p*stride + r*dil; with one candidate window per tap no two elements write
 * the same place, so there are no atomics.
 */
#include "tile.h"
GRT_INLINE void FN(_one)(void **buf, int n, int c, int h, int w) {
  T total = 0;
  for (int r = 0; r < CR; r++)
    for (int s = 0; s < CS; s++) {
      const int u = h + PAD_H - r * DIL_H, v = w + PAD_W - s * DIL_W;
      const int p = u / STRIDE_H, q = v / STRIDE_W;
      if (u >= 0 && v >= 0 && u % STRIDE_H == 0 && v % STRIDE_W == 0 && p < CP && q < CQ) {
#ifdef OP_MAX
        total += LOAD_INDEX(buf, n, c, p, q) == r * CS + s ? LOAD_DY(buf, n, c, p, q) : 0;
#else
        total += LOAD_DY(buf, n, c, p, q);
#endif
      }
    }
  STORE(buf, n, c, h, w, total);
}
static void FN(_task)(long task, void **buf) {
#if CHANNELS_LAST
  const int n = (int)(task / CH), h = (int)(task % CH);
  for (int w = 0; w < CW; w++)
    _Pragma("GCC ivdep") for (int c = 0; c < CC; c++) FN(_one)(buf, n, c, h, w);
#else
  const int n = (int)(task / CC), c = (int)(task % CC);
  for (int h = 0; h < CH; h++)
    _Pragma("GCC ivdep") for (int w = 0; w < CW; w++) FN(_one)(buf, n, c, h, w);
#endif
}
static void NAME(void **buf) { GRT_PARALLEL(FN(_task), (long)CN * (CHANNELS_LAST ? CH : CC), buf); }
#include "conv_undef.h"

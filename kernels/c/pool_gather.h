/* Picks from each window the element that a stored index names: the gradient of max pooling's gradient.
 *
 * Macros as pool.h, with LOAD_X(buf, n, c, h, w), LOAD_INDEX(buf, n, c, p, q), STORE(buf, n, c, p, q, value).
 */
#include "tile.h"
static void FN(_task)(long task, void **table) {
  const FN(_buffers) buf = FN(_open)(table);
  const int n = (int)(task / CC), c = (int)(task % CC);
  for (int p = 0; p < CP; p++)
    for (int q = 0; q < CQ; q++) {
      const int index = (int)LOAD_INDEX(buf, n, c, p, q);
      const int h = p * STRIDE_H - PAD_H + index / CS * DIL_H, w = q * STRIDE_W - PAD_W + index % CS * DIL_W;
      const int inside = h >= 0 && h < CH && w >= 0 && w < CW;
      STORE(buf, n, c, p, q, inside ? LOAD_X(buf, n, c, h, w) : 0);
    }
}
GRT_LAUNCH void NAME(void **table) { GRT_PARALLEL(FN(_task), (long)CN * CC, table); }

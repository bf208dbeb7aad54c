/* Gradient of pooling, gathered line by line: each line of the input adds up what the windows over it send back.
 *
 * Macros as pool.h, with LOAD_DY(buf, n, c, p, q), for OP_MAX LOAD_INDEX(buf, n, c, p, q), and STORE(buf, n, c, h, w, value).
 * A window at p covers h by tap r where h + pad = p*stride + r*dil. A task owns a line of dx (channels, or columns), sums in it
 * and stores every element once: no atomics. VARIANT is the file of the loops, pool_grad_apart.h or pool_grad_sums.h: of a
 * line of channels, or of the plane of one.
 */
#include "tile.h"
enum { FN(_LINE) = CHANNELS_LAST ? CC : CW };
GRT_INLINE T FN(_part)(const FN(_buffers) buf, int n, int c, int p, int q, int tap) {
  const T dy = LOAD_DY(buf, n, c, p, q); /* loaded in any case: a load that depends on the index would not vectorise */
#ifdef OP_MAX
  return LOAD_INDEX(buf, n, c, p, q) == tap ? dy : 0;
#else
  return (void)tap, dy;
#endif
}
#include VARIANT
static void FN(_task)(long task, void **table) {
  const FN(_buffers) buf = FN(_open)(table);
#if CHANNELS_LAST
  const int n = (int)(task / CH), h = (int)(task % CH);
  for (int w = 0; w < CW; w++) FN(_line)(buf, n, 0, h, w);
#else
  const int n = (int)(task / CC), c = (int)(task % CC);
  FN(_plane)(buf, n, c);
#endif
}
GRT_LAUNCH void NAME(void **table) { GRT_PARALLEL(FN(_task), (long)CN * (CHANNELS_LAST ? CH : CC), table); }

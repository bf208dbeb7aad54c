/* Scans along one dimension: sum, prod, max and logaddexp.
 *
 * Macros: NAME, T, CO CR CI (sizes before, along and behind the dimension), OP and
 * its START, LOAD_X(buf, o, r, i) and STORE(buf, o, r, i, value).
 * A task walks one line of up to LANES neighbours. Sums and products are kept in double, integers in int64.
 */
#include "tile.h"
static void FN(_task)(long task, void **table) {
  const FN(_buffers) buf = FN(_open)(table);
  enum { LANES = CI < 1 ? 1 : MIN_OF(CI, 64), BLOCKS = CEIL_DIV(CI, LANES) };
  const int o = (int)(task / BLOCKS), start = (int)(task % BLOCKS) * LANES, lanes = MIN_OF(LANES, CI - start);
  GRT_WIDE(T) total[LANES];
  for (int j = 0; j < LANES; j++) total[j] = START;
  for (int r = 0; r < CR; r++)
    GRT_SIMD for (int j = 0; j < lanes; j++) {
      total[j] = GRT_JOIN(GRT_COMBINE_, OP)(total[j], (GRT_WIDE(T))LOAD_X(buf, o, r, start + j));
      STORE(buf, o, r, start + j, (T)total[j]);
    }
}
GRT_LAUNCH void NAME(void **table) { GRT_PARALLEL(FN(_task), CR ? (long)CO * CEIL_DIV(CI, CI < 1 ? 1 : MIN_OF(CI, 64)) : 0, table); }

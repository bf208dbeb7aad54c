/* Elements sent to computed positions along one dimension, joined by sum, prod, max or min.
 *
 * Macros: NAME, T, CO CR CI (sizes before, along and behind the dimension), CJ (positions), OP and its START, LOAD_INDEX(buf, o, r, i),
 * LOAD_X(buf, o, r, i) and STORE(buf, o, j, i, value). A task owns up to LANES neighbouring lines and takes their elements
 * in order; indices outside [0, CJ) are dropped. Sums and products are kept in double, integers in int64.
 */
#include "tile.h"
static void FN(_task)(long task, void **table) {
  const FN(_buffers) buf = FN(_open)(table);
  enum { LANES = CI < 1 ? 1 : MIN_OF(CI, 64), BLOCKS = CEIL_DIV(CI, LANES) };
  const int o = (int)(task / BLOCKS), start = (int)(task % BLOCKS) * LANES, lanes = MIN_OF(LANES, CI - start);
  GRT_WIDE(T) *const total = grt_scratch(sizeof(GRT_WIDE(T)) * CJ * LANES);
  for (long k = 0; k < (long)CJ * LANES; k++) total[k] = START;
  for (int r = 0; r < CR; r++)
    for (int j = 0; j < lanes; j++) {
      const int64_t at = LOAD_INDEX(buf, o, r, start + j);
      if (at < 0 || at >= CJ) continue;
      GRT_WIDE(T) *const place = total + at * LANES + j;
      *place = GRT_JOIN(GRT_COMBINE_, OP)(*place, (GRT_WIDE(T))LOAD_X(buf, o, r, start + j));
    }
  for (int at = 0; at < CJ; at++)
    for (int j = 0; j < lanes; j++) STORE(buf, o, at, start + j, (T)total[(long)at * LANES + j]);
}
GRT_LAUNCH void NAME(void **table) { GRT_PARALLEL(FN(_task), CJ ? (long)CO * CEIL_DIV(CI, CI < 1 ? 1 : MIN_OF(CI, 64)) : 0, table); }

/* Elements sent to computed positions along one dimension, joined by sum, prod, max or min.
 *
 * Macros: NAME, T, CO CR CI (sizes before, along and behind the dimension), CJ (positions), OP and its START, LOAD_INDEX(buf, o, r, i),
 * LOAD_X(buf, o, r, i) and STORE(buf, o, j, i, value). A task owns up to LANES neighbouring lines, fewer where else there were
 * few tasks, and takes their elements in order; indices outside [0, CJ) are dropped. Where the index is one for all lines
 * (SHARED), as of rows that move as a whole, positions are found first, a few hundred at a time. Sums and products are kept in
 * double, integers in int64.
 */
#include "tile.h"
enum { FN(_MANY) = CO * CEIL_DIV(CI, 64) >= 8, FN(_LANES) = CI < 1 ? 1 : MIN_OF(CI, FN(_MANY) ? 64 : SHARED ? 32 : 16) };
enum { FN(_BLOCKS) = CEIL_DIV(CI, FN(_LANES)) };
static void FN(_task)(long task, void **table) {
  const FN(_buffers) buf = FN(_open)(table);
  enum { LANES = FN(_LANES), SOME = 512 };
  const int o = (int)(task / FN(_BLOCKS)), start = (int)(task % FN(_BLOCKS)) * LANES;
  const int lanes = CI % LANES ? MIN_OF(LANES, CI - start) : LANES;
  GRT_WIDE(T) *const total = grt_scratch(sizeof(GRT_WIDE(T)) * CJ * LANES);
  for (long k = 0; k < (long)CJ * LANES; k++) total[k] = START;
  if (SHARED)
    for (int first = 0; first < CR; first += SOME) {
      const int count = MIN_OF(SOME, CR - first);
      int place[SOME];
      for (int r = 0; r < count; r++) {
        const int64_t at = LOAD_INDEX(buf, o, first + r, start);
        place[r] = at < 0 || at >= CJ ? -1 : (int)at;
      }
      for (int r = 0; r < count; r++) {
        if (place[r] < 0) continue;
        GRT_WIDE(T) *const row = total + (long)place[r] * LANES;
        GRT_SIMD for (int j = 0; j < lanes; j++)
          row[j] = GRT_JOIN(GRT_COMBINE_, OP)(row[j], (GRT_WIDE(T))LOAD_X(buf, o, first + r, start + j));
      }
    }
  else
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
GRT_LAUNCH void NAME(void **table) { GRT_PARALLEL(FN(_task), CJ ? (long)CO * FN(_BLOCKS) : 0, table); }

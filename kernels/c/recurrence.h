/* A linear recurrence along one dimension: each result is LOAD_A times the one before it, plus LOAD_X.
 *
 * Macros: NAME, T, CO CR CI (sizes before, along and behind the dimension), LOAD_A(buf, o, r, i), LOAD_X(buf, o, r, i) and
 * STORE(buf, o, r, i, value). A task walks one line of up to LANES neighbours; results are kept in double.
 */
#include "tile.h"
static void FN(_task)(long task, void **table) {
  const FN(_buffers) buf = FN(_open)(table);
  enum { LANES = CI < 1 ? 1 : MIN_OF(CI, 64), BLOCKS = CEIL_DIV(CI, LANES) };
  const int o = (int)(task / BLOCKS), start = (int)(task % BLOCKS) * LANES, lanes = MIN_OF(LANES, CI - start);
  GRT_WIDE(T) last[LANES];
  for (int j = 0; j < LANES; j++) last[j] = 0;
  for (int r = 0; r < CR; r++)
    GRT_SIMD for (int j = 0; j < lanes; j++) {
      last[j] = (GRT_WIDE(T))LOAD_A(buf, o, r, start + j) * last[j] + (GRT_WIDE(T))LOAD_X(buf, o, r, start + j);
      STORE(buf, o, r, start + j, (T)last[j]);
    }
}
GRT_LAUNCH void NAME(void **table) { GRT_PARALLEL(FN(_task), CR ? (long)CO * CEIL_DIV(CI, CI < 1 ? 1 : MIN_OF(CI, 64)) : 0, table); }

/* Greedy non-maximum suppression of boxes in order of their scores.
 *
 * Macros: NAME, BATCH, CN, LOAD_X(buf, b, m, n), whether box m would suppress box n, and STORE(buf, b, n, keep). A box that
 * is kept suppresses those behind it. A task is one batch entry.
 */
#include "tile.h"
static void FN(_task)(long task, void **table) {
  const FN(_buffers) buf = FN(_open)(table);
  char *const keep = grt_scratch(CN);
  memset(keep, 1, CN);
  for (int m = 0; m < CN; m++)
    if (keep[m])
      for (int n = m + 1; n < CN; n++)
        if (keep[n] && LOAD_X(buf, (int)task, m, n)) keep[n] = 0;
  for (int n = 0; n < CN; n++) STORE(buf, (int)task, n, keep[n]);
}
GRT_LAUNCH void NAME(void **table) { GRT_PARALLEL(FN(_task), CN ? BATCH : 0, table); }

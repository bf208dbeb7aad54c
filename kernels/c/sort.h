/* Stable sorting along one dimension, by merging; NaN is largest.
 *
 * Macros: NAME, T, CO CR CI (sizes before, along and behind the dimension), DESCENDING, LOAD_X(buf, o, r, i) and
 * STORE(buf, o, r, i, value, index), which gets the element and where it was. A task sorts one line.
 */
#include "tile.h"
typedef struct { T key; int index; } FN(_item);
GRT_INLINE int FN(_before)(T a, T b) {
  return DESCENDING ? (a > b || (a != a && b == b)) : (a < b || (b != b && a == a));
}
static void FN(_task)(long task, void **table) {
  const FN(_buffers) buf = FN(_open)(table);
  const int o = (int)(task / CI), i = (int)(task % CI);
  FN(_item) *from = grt_scratch(sizeof(FN(_item)) * 2 * CR), *to = from + CR;
  for (int r = 0; r < CR; r++) from[r] = (FN(_item)){LOAD_X(buf, o, r, i), r};
  for (long run = 1; run < CR; run *= 2) {
    for (long low = 0; low < CR; low += 2 * run) {
      const long middle = MIN_OF(low + run, CR), high = MIN_OF(low + 2 * run, CR);
      long a = low, b = middle;
      for (long out = low; out < high; out++) {
        const int right = b < high && (a >= middle || FN(_before)(from[b].key, from[a].key));
        to[out] = from[right ? b++ : a++];
      }
    }
    FN(_item) *const swap = from;
    from = to, to = swap;
  }
  for (int r = 0; r < CR; r++) STORE(buf, o, r, i, from[r].key, from[r].index);
}
GRT_LAUNCH void NAME(void **table) { GRT_PARALLEL(FN(_task), CR ? (long)CO * CI : 0, table); }

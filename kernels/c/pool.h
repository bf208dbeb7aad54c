/* Pooling over windows: the largest element and which tap it was, or the sum.
 *
 * Macros: NAME, T, sizes CN CC CH CW CP CQ CR CS, STRIDE_H/W, PAD_H/W, DIL_H/W, OP_MAX or OP_SUM, CHANNELS_LAST,
 * LOAD_X(buf, n, c, h, w), STORE(buf, n, c, p, q, value, index) (max) or STORE(buf, n, c, p, q, value). Padding is never chosen;
 * NaN wins; the first of equal elements wins. A task owns one row of the output and folds tap after tap into a line of it:
 *   channels last: [columns][channels], a few columns at a time; else: the columns of one channel.
 * For a maximum each tap's elements are gathered into such a line first, so the comparisons run full vectors however few
 * channels there are. Which columns have a tap inside is decided per line, so the inner loop never branches.
 */
#include "tile.h"
#ifdef OP_MAX
#define GATHER(i) x[i] =
#else
#define GATHER(i) best[i] +=
#endif
enum {
  FN(_DEPTH) = CHANNELS_LAST ? CC : 1,
  FN(_COLUMNS) = CHANNELS_LAST ? MAX_OF(1, MIN_OF(CQ, 512 / CC)) : CQ,
  FN(_LINE) = FN(_COLUMNS) * FN(_DEPTH)
};
GRT_INLINE void FN(_line)(void **buf, int n, int c0, int p, int q0) { /* channels from c0 at columns from q0 */
  enum { DEPTH = FN(_DEPTH), LINE = FN(_LINE) };
  const int columns = MIN_OF(CQ - q0, FN(_COLUMNS));
  T best[LINE] __attribute__((aligned(64)));
#ifdef OP_MAX
  T x[LINE] __attribute__((aligned(64)));
  int index[LINE] __attribute__((aligned(64)));
  for (int i = 0; i < LINE; i++) best[i] = -INFINITY, index[i] = -1;
#else
  for (int i = 0; i < LINE; i++) best[i] = 0;
#endif
  for (int r = 0; r < CR; r++) {
    const int h = p * STRIDE_H - PAD_H + r * DIL_H;
    if (h < 0 || h >= CH) continue;
    for (int s = 0; s < CS; s++) {
      const int w0 = q0 * STRIDE_W + s * DIL_W - PAD_W; /* the input column that the line's first column meets */
      const int first = w0 < 0 ? CEIL_DIV(-w0, STRIDE_W) : 0;
      const int last = w0 < CW ? MIN_OF(columns, CEIL_DIV(CW - w0, STRIDE_W)) : 0;
#if CHANNELS_LAST
      for (int q = first; q < last; q++)
        _Pragma("GCC ivdep") for (int c = 0; c < CC; c++) GATHER(q * CC + c) LOAD_X(buf, n, c, h, q * STRIDE_W + w0);
#else
      _Pragma("GCC ivdep") for (int q = first; q < last; q++) GATHER(q) LOAD_X(buf, n, c0, h, q * STRIDE_W + w0);
#endif
#ifdef OP_MAX
      _Pragma("GCC ivdep") for (int i = first * DEPTH; i < last * DEPTH; i++) {
        const T old = best[i], now = x[i];
        const int before = index[i], wins = (now > old) | ((now != now) & (old == old)) | (before < 0);
        best[i] = wins ? now : old;
        index[i] = wins ? r * CS + s : before;
      }
#endif
    }
  }
  for (int q = 0; q < columns; q++)
    _Pragma("GCC ivdep") for (int i = 0; i < DEPTH; i++) {
      const int at = q * DEPTH + i;
#ifdef OP_MAX
      STORE(buf, n, c0 + i, p, q0 + q, best[at], MAX_OF(index[at], 0));
#else
      STORE(buf, n, c0 + i, p, q0 + q, best[at]);
#endif
    }
}
static void FN(_task)(long task, void **buf) {
#if CHANNELS_LAST
  const int n = (int)(task / CP), p = (int)(task % CP);
  for (int q = 0; q < CQ; q += FN(_COLUMNS)) FN(_line)(buf, n, 0, p, q);
#else
  const int n = (int)(task / CC), c = (int)(task % CC);
  for (int p = 0; p < CP; p++) FN(_line)(buf, n, c, p, 0);
#endif
}
static void NAME(void **buf) { GRT_PARALLEL(FN(_task), (long)CN * (CHANNELS_LAST ? CP : CC), buf); }
#undef GATHER
#include "conv_undef.h"

/* Pooling over windows: the largest element and which tap it was, or the sum.
 *
 * Macros: NAME, T, sizes CN CC CH CW CP CQ CR CS, STRIDE_H/W, PAD_H/W, DIL_H/W, OP_MAX or OP_SUM, CHANNELS_LAST,
 * LOAD_X(buf, n, c, h, w), STORE(buf, n, c, p, q, value, index) (max) or STORE(buf, n, c, p, q, value). Padding is never chosen;
 * NaN wins; the first of equal elements wins. A task owns one line of the output along memory (channels, or columns) at a
 * time, and folds tap after tap into it: whether a tap is inside is decided per line, so the inner loop never branches.
 */
#include "tile.h"
#define INSIDE (CHANNELS_LAST && CR * CS <= 16 && PAD_H == 0 && PAD_W == 0 && (CP - 1) * STRIDE_H + (CR - 1) * DIL_H < CH && \
                (CQ - 1) * STRIDE_W + (CS - 1) * DIL_W < CW)
enum { FN(_LINE) = CHANNELS_LAST ? CC : CQ };
#if INSIDE /* every tap of every window: the windows of a line of channels are folded in registers */
GRT_INLINE void FN(_line)(const FN(_buffers) buf, int n, int c0, int p, int q0) {
  GRT_SIMD for (int c = 0; c < CC; c++) {
#ifdef OP_MAX
    T best = LOAD_X(buf, n, c, p * STRIDE_H, q0 * STRIDE_W);
    int index = 0, none = CR * CS; /* the first tap that is no number */
#else
    T best = 0;
#endif
#pragma GCC unroll 16
    for (int tap = 0; tap < CR * CS; tap++) {
      const T x = LOAD_X(buf, n, c, p * STRIDE_H + tap / CS * DIL_H, q0 * STRIDE_W + tap % CS * DIL_W);
#ifdef OP_MAX
      index = x > best ? tap : index, best = x > best ? x : best;
      none = MIN_OF(none, x != x ? tap : CR * CS);
#else
      best += x;
#endif
    }
#ifdef OP_MAX
    STORE(buf, n, c, p, q0, none < CR * CS ? (T)NAN : best, none < CR * CS ? none : index);
#else
    STORE(buf, n, c, p, q0, best);
#endif
  }
  (void)c0;
}
#else
GRT_INLINE void FN(_line)(const FN(_buffers) buf, int n, int c0, int p, int q0) { /* all channels at (p, q0), or all columns of c0 */
  T best[FN(_LINE)] __attribute__((aligned(64)));
#ifdef OP_MAX
  int index[FN(_LINE)] __attribute__((aligned(64)));
  for (int i = 0; i < FN(_LINE); i++) best[i] = -INFINITY, index[i] = -1;
#else
  for (int i = 0; i < FN(_LINE); i++) best[i] = 0;
#endif
  for (int r = 0; r < CR; r++) {
    const int h = p * STRIDE_H - PAD_H + r * DIL_H;
    if (h < 0 || h >= CH) continue;
    for (int s = 0; s < CS; s++) {
      const int w0 = s * DIL_W - PAD_W; /* the column that output column 0 meets */
#if CHANNELS_LAST
      const int w = q0 * STRIDE_W + w0, first = 0, last = CC;
      if (w < 0 || w >= CW) continue;
#else
      const int first = w0 < 0 ? CEIL_DIV(-w0, STRIDE_W) : 0, last = w0 < CW ? MIN_OF(CQ, CEIL_DIV(CW - w0, STRIDE_W)) : 0;
#endif
      GRT_SIMD for (int i = first; i < last; i++) {
#if CHANNELS_LAST
        const T x = LOAD_X(buf, n, i, h, w);
#else
        const T x = LOAD_X(buf, n, c0, h, i * STRIDE_W + w0);
#endif
#ifdef OP_MAX
        const T old = best[i];
        const int before = index[i], wins = (!(x <= old) & (old == old)) | (before < 0);
        best[i] = wins ? x : old;
        index[i] = wins ? r * CS + s : before;
#else
        best[i] += x;
#endif
      }
    }
  }
  GRT_SIMD for (int i = 0; i < FN(_LINE); i++) {
    const int c = CHANNELS_LAST ? i : c0, q = CHANNELS_LAST ? q0 : i;
#ifdef OP_MAX
    STORE(buf, n, c, p, q, best[i], MAX_OF(index[i], 0));
#else
    STORE(buf, n, c, p, q, best[i]);
#endif
  }
}
#endif
static void FN(_task)(long task, void **table) {
  const FN(_buffers) buf = FN(_open)(table);
#if CHANNELS_LAST
  const int n = (int)(task / CP), p = (int)(task % CP);
  for (int q = 0; q < CQ; q++) FN(_line)(buf, n, 0, p, q);
#else
  const int n = (int)(task / CC), c = (int)(task % CC);
  for (int p = 0; p < CP; p++) FN(_line)(buf, n, c, p, 0);
#endif
}
GRT_LAUNCH void NAME(void **table) { GRT_PARALLEL(FN(_task), (long)CN * (CHANNELS_LAST ? CP : CC), table); }
#undef INSIDE
#include "undef.h"

/* Pooling over windows: the largest element and which tap it was, or the sum.
 *
 * Macros: NAME, T, sizes CN CC CH CW CP CQ CR CS, STRIDE_H/W, PAD_H/W, DIL_H/W, OP_MAX or OP_SUM, CHANNELS_LAST,
 * LOAD_X(buf, n, c, h, w), STORE(buf, n, c, p, q, value, index) (max) or STORE(buf, n, c, p, q, value). Padding is never chosen;
 * NaN wins; the first of equal elements wins. Windows without padding are folded in registers: those of a line of channels, or
 * of a block of rows that is copied first, so that vectors run on over the ends of short rows. Others are folded tap after tap
 * into one line of the output along memory: whether a tap is inside is decided per line, so the inner loop never branches.
 */
#include "tile.h"
#define INSIDE (CR * CS <= 16 && PAD_H == 0 && PAD_W == 0 && (CP - 1) * STRIDE_H + (CR - 1) * DIL_H < CH && \
                (CQ - 1) * STRIDE_W + (CS - 1) * DIL_W < CW)
#if INSIDE
/* PUT(i, value, index) of all windows below `count`, whose elements are TAP(i, r, s) */
#ifdef OP_MAX
#define FOLD(count)                                                                  \
  GRT_SIMD for (int i = 0; i < (count); i++) {                                       \
    T best = TAP(i, 0, 0);                                                           \
    int index = 0, none = CR * CS; /* the first tap that is no number */             \
    _Pragma("GCC unroll 16") for (int tap = 0; tap < CR * CS; tap++) {               \
      const T x = TAP(i, tap / CS, tap % CS);                                        \
      index = x > best ? tap : index, best = x > best ? x : best;                    \
      none = MIN_OF(none, x != x ? tap : CR * CS);                                   \
    }                                                                                \
    PUT(i, none < CR * CS ? (T)NAN : best, none < CR * CS ? none : index);           \
  }
#else
#define FOLD(count)                                                                  \
  GRT_SIMD for (int i = 0; i < (count); i++) {                                       \
    T total = 0;                                                                     \
    _Pragma("GCC unroll 16") for (int tap = 0; tap < CR * CS; tap++) total += TAP(i, tap / CS, tap % CS); \
    PUT(i, total, 0);                                                                \
  }
#endif
#ifdef OP_MAX
#define RESULT(...) STORE(__VA_ARGS__)
#else
#define RESULT(buf, n, c, p, q, value, index) STORE(buf, n, c, p, q, value)
#endif
#if CHANNELS_LAST
#define TAP(i, r, s) LOAD_X(buf, n, i, p * STRIDE_H + (r) * DIL_H, q * STRIDE_W + (s) * DIL_W)
#define PUT(i, value, index) RESULT(buf, n, i, p, q, value, index)
static void FN(_task)(long task, void **table) {
  const FN(_buffers) buf = FN(_open)(table);
  const int n = (int)(task / CP), p = (int)(task % CP);
  for (int q = 0; q < CQ; q++) FOLD(CC)
}
#else
#define TAP(i, r, s) rows[r][(i) * STRIDE_W + (s) * DIL_W]
#define PUT(i, value, index) values[i] = value, taps[i] = (uint8_t)(index)
static void FN(_task)(long task, void **table) {
  enum {
    QB = MIN_OF(CQ, MAX_OF(1, 2048 / (CR * STRIDE_W))), /* a block: so many columns of windows */
    PITCH = QB + (CS - 1) * DIL_W / STRIDE_W,           /* as far apart are its rows, in windows: some are of no use */
    PB = MIN_OF(CP, MAX_OF(1, 2048 / (CR * STRIDE_W * PITCH))),
    WIDTH = PITCH * STRIDE_W
  };
  const FN(_buffers) buf = FN(_open)(table);
  const int n = (int)(task / CC), c = (int)(task % CC);
  T rows[CR][PB * WIDTH + (CS - 1) * DIL_W] __attribute__((aligned(64))), values[PB * PITCH] __attribute__((aligned(64)));
  uint8_t taps[PB * PITCH] __attribute__((aligned(64)));
  memset(rows, 0, sizeof rows);
  for (int p0 = 0; p0 < CP; p0 += PB)
    for (int q0 = 0; q0 < CQ; q0 += QB) {
      const int height = MIN_OF(PB, CP - p0), width = MIN_OF(QB, CQ - q0), read = (width - 1) * STRIDE_W + (CS - 1) * DIL_W + 1;
      for (int p = 0; p < height; p++)
        for (int r = 0; r < CR; r++)
          GRT_SIMD for (int w = 0; w < read; w++)
            rows[r][p * WIDTH + w] = LOAD_X(buf, n, c, (p0 + p) * STRIDE_H + r * DIL_H, q0 * STRIDE_W + w);
      FOLD(PB * PITCH)
      for (int p = 0; p < height; p++)
        GRT_SIMD for (int q = 0; q < width; q++)
          RESULT(buf, n, c, p0 + p, q0 + q, values[p * PITCH + q], taps[p * PITCH + q]);
    }
}
#endif
#else
#if defined(OP_SUM) && CR * CS > 64
#define LONG 1
#endif
enum { FN(_LINE) = CHANNELS_LAST ? CC : CQ };
GRT_INLINE void FN(_line)(const FN(_buffers) buf, int n, int c0, int p, int q0) { /* all channels at (p, q0), or all columns of c0 */
  T best[FN(_LINE)] __attribute__((aligned(64)));
#ifdef OP_MAX
  int index[FN(_LINE)] __attribute__((aligned(64)));
  for (int i = 0; i < FN(_LINE); i++) best[i] = -INFINITY, index[i] = -1;
#else
  for (int i = 0; i < FN(_LINE); i++) best[i] = 0;
#endif
#if LONG
  double total[FN(_LINE)] __attribute__((aligned(64))) = {0}; /* of sums of 64 taps each: roundings grow with 64, not with all */
  int taps = 0;
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
#if LONG
      if (++taps % 64 == 0) GRT_SIMD for (int i = 0; i < FN(_LINE); i++) total[i] += best[i], best[i] = 0;
#endif
    }
  }
  GRT_SIMD for (int i = 0; i < FN(_LINE); i++) {
    const int c = CHANNELS_LAST ? i : c0, q = CHANNELS_LAST ? q0 : i;
#ifdef OP_MAX
    STORE(buf, n, c, p, q, best[i], MAX_OF(index[i], 0));
#else
#if LONG
    best[i] = (T)(total[i] + best[i]);
#endif
    STORE(buf, n, c, p, q, best[i]);
#endif
  }
}
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
#endif
GRT_LAUNCH void NAME(void **table) { GRT_PARALLEL(FN(_task), (long)CN * (CHANNELS_LAST ? CP : CC), table); }

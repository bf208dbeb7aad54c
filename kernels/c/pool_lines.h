/* Pooling tap after tap into one line of the output along memory: whether a tap is inside is decided per line, so the inner loop
 * never branches (macros: pool.h).
 */
#if defined(OP_SUM) && CR * CS > 64
#define LONG 1
#endif
enum { FN(_LINE) = CHANNELS_LAST ? CC : CQ };
GRT_INLINE void FN(_line)(const FN(_buffers) buf, int n, int c0, int p, int q0) { /* all channels at (p, q0), or all columns of c0 */
  T best[FN(_LINE)] __attribute__((aligned(64)));
#ifdef OP_MAX
#if INDEXED
  int index[FN(_LINE)] __attribute__((aligned(64)));
  for (int i = 0; i < FN(_LINE); i++) index[i] = -1;
#endif
  for (int i = 0; i < FN(_LINE); i++) best[i] = -INFINITY;
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
#if INDEXED
        const int before = index[i], wins = (!(x <= old) & (old == old)) | (before < 0);
        best[i] = wins ? x : old;
        index[i] = wins ? r * CS + s : before;
#else
        best[i] = (!(x <= old) & (old == old)) ? x : old;
#endif
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
#if defined(OP_MAX) && INDEXED
    STORE(buf, n, c, p, q, best[i], MAX_OF(index[i], 0));
#elif defined(OP_MAX)
    STORE(buf, n, c, p, q, best[i], 0);
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

/* Gradient of pooling whose windows overlap: a line of the input adds up what the windows over it send back (macros: pool_grad.h).
 *
 * Along columns one tap meets every stride-th element, so no two windows of the inner loop touch the same one.
 */
GRT_INLINE void FN(_line)(const FN(_buffers) buf, int n, int c0, int h, int w0) {
  T total[FN(_LINE)] __attribute__((aligned(64)));
  for (int i = 0; i < FN(_LINE); i++) total[i] = 0;
  for (int r = 0; r < CR; r++) {
    const int u = h + PAD_H - r * DIL_H, p = u / STRIDE_H;
    if (u < 0 || u % STRIDE_H != 0 || p >= CP) continue;
    for (int s = 0; s < CS; s++) {
#if CHANNELS_LAST
      const int v = w0 + PAD_W - s * DIL_W, q = v / STRIDE_W;
      if (v < 0 || v % STRIDE_W != 0 || q >= CQ) continue;
      GRT_SIMD for (int c = 0; c < CC; c++) total[c] += FN(_part)(buf, n, c, p, q, r * CS + s);
#else
      const int at = s * DIL_W - PAD_W;
      const int first = at < 0 ? CEIL_DIV(-at, STRIDE_W) : 0, last = at < CW ? MIN_OF(CQ, CEIL_DIV(CW - at, STRIDE_W)) : 0;
      GRT_SIMD for (int q = first; q < last; q++) total[q * STRIDE_W + at] += FN(_part)(buf, n, c0, p, q, r * CS + s);
#endif
    }
  }
  GRT_SIMD for (int i = 0; i < FN(_LINE); i++)
      STORE(buf, n, CHANNELS_LAST ? i : c0, h, CHANNELS_LAST ? w0 : i, total[i]);
}
#if !CHANNELS_LAST
GRT_INLINE void FN(_plane)(const FN(_buffers) buf, int n, int c) {
  for (int h = 0; h < CH; h++) FN(_line)(buf, n, c, h, 0);
}
#endif

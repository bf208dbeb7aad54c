/* Gradient of pooling whose windows lie apart: each meets elements of its own, so nothing is summed (macros: pool_grad.h). */
#if CHANNELS_LAST
GRT_INLINE void FN(_line)(const FN(_buffers) buf, int n, int c0, int h, int w0) {
  const int p = h / STRIDE_H, r = h % STRIDE_H, q = w0 / STRIDE_W, s = w0 % STRIDE_W;
  if (p < CP && r < CR && q < CQ && s < CS) {
    T line[CC] __attribute__((aligned(64))); /* of one type: with bytes among floats GCC gives up where a store has a condition */
    GRT_SIMD for (int c = 0; c < CC; c++) line[c] = FN(_part)(buf, n, c, p, q, r * CS + s);
    GRT_SIMD for (int c = 0; c < CC; c++) STORE(buf, n, c, h, w0, line[c]);
  } else {
    GRT_SIMD for (int c = 0; c < CC; c++) STORE(buf, n, c, h, w0, 0);
  }
  (void)c0;
}
#else
/* Rows of windows are copied into one line and spread over the elements they meet there, so that vectors run on over the ends
 * of short rows. */
GRT_INLINE void FN(_plane)(const FN(_buffers) buf, int n, int c) {
  enum {
    QB = MIN_OF(CQ, MAX_OF(1, 4096 / (CR * STRIDE_W))), /* a block: so many columns of windows */
    PB = MIN_OF(CP, MAX_OF(1, 4096 / (CR * STRIDE_W * QB)))
  };
  T dy[PB * QB] __attribute__((aligned(64))), rows[CR][PB * QB * STRIDE_W] __attribute__((aligned(64)));
#ifdef OP_MAX
  int taps[PB * QB] __attribute__((aligned(64)));
#define MEETS(i, tap) (taps[i] == (tap))
#else
#define MEETS(i, tap) 1
#endif
  memset(dy, 0, sizeof dy);
  for (int p0 = 0; p0 < CP; p0 += PB)
    for (int q0 = 0; q0 < CQ; q0 += QB) {
      const int height = MIN_OF(PB, CP - p0), width = MIN_OF(QB, CQ - q0);
      for (int p = 0; p < height; p++)
        GRT_SIMD for (int q = 0; q < width; q++) {
          dy[p * QB + q] = LOAD_DY(buf, n, c, p0 + p, q0 + q);
#ifdef OP_MAX
          taps[p * QB + q] = LOAD_INDEX(buf, n, c, p0 + p, q0 + q);
#endif
        }
#pragma GCC unroll 4
      for (int r = 0; r < CR; r++)
        GRT_SIMD for (int i = 0; i < PB * QB; i++)
#pragma GCC unroll 4
          for (int s = 0; s < STRIDE_W; s++)
            rows[r][i * STRIDE_W + s] = s < CS && MEETS(i, r * CS + s) ? dy[i] : 0;
      const int bottom = p0 + height < CP ? (p0 + height) * STRIDE_H : CH, right = q0 + width < CQ ? (q0 + width) * STRIDE_W : CW;
      for (int h = p0 * STRIDE_H; h < bottom; h++) { /* what no window meets, too */
        const int p = h / STRIDE_H - p0, r = h % STRIDE_H, left = q0 * STRIDE_W;
        const int met = p < height && r < CR ? MIN_OF(right - left, width * STRIDE_W) : 0;
        GRT_SIMD for (int w = 0; w < met; w++) STORE(buf, n, c, h, left + w, rows[r][p * QB * STRIDE_W + w]);
        for (int w = left + met; w < right; w++) STORE(buf, n, c, h, w, 0);
      }
    }
}
#endif

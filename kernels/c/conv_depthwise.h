/* Depthwise convolution in channels-last memory: vectors of channels, read where they lie (macros: conv_core.h). A patch for
 * each channel would be all gathers.
 */
static void FN(_pack)(long task, void **launch) { /* [tap][group] */
  const FN(_buffers) buf = FN(_open)(launch[1]);
  const int r = (int)task / V_S, s = (int)task % V_S;
  for (int g = 0; g < V_G; g++) ((T *)launch[0])[task * V_G + g] = V_W(buf, g, 0, 0, r, s);
}

static void FN(_task)(long task, void **launch) { /* one row of output, read where it lies */
  enum { GB = MIN_OF(V_G, 2 * GRT_LANES(T)) };
  const FN(_buffers) buf = FN(_open)(launch[1]);
  const int n = (int)(task / V_P), p = (int)(task % V_P);
  for (int q = 0; q < V_Q; q++)
    for (int g0 = 0; g0 < V_G; g0 += GB) {
      T sum[GB] __attribute__((aligned(64))) = {0};
      const int last = MIN_OF(V_G - g0, GB);
      for (int r = 0; r < V_R; r++)
        for (int s = 0; s < V_S; s++) {
          const int h = p * V_STRIDE_H + r * V_DIL_H, w = q * V_STRIDE_W + s * V_DIL_W;
          const T *f = (const T *)launch[0] + (r * V_S + s) * V_G + g0;
          if (!V_INSIDE(h, w)) continue;
          if (last == GB) {
            GRT_SIMD for (int g = 0; g < GB; g++) sum[g] = GRT_FMA(f[g], V_X(buf, n, g0 + g, 0, h, w), sum[g]);
          } else {
            GRT_SIMD for (int g = 0; g < last; g++) sum[g] = GRT_FMA(f[g], V_X(buf, n, g0 + g, 0, h, w), sum[g]);
          }
        }
      GRT_SIMD for (int g = 0; g < last; g++) V_STORE(buf, n, g0 + g, 0, p, q, sum[g]);
    }
}
GRT_LAUNCH void NAME(void **table) {
  void **kept = GRT_KEPT(table, FROZEN);
  void *launch[2] = {grt_prepare(FN(_pack), V_R * V_S, sizeof(T) * V_G * V_R * V_S, kept, table), table};
  GRT_PARALLEL(FN(_task), grt_share(V_N) * V_P, launch);
}

/* One-dimensional transforms of Winograd's minimal filtering F(M, 3), M = 2 or 4 outputs from N = M + 2 inputs by N products:
 *
 *   y = A' [ (G g) * (B' d) ]      Lavin and Gray, "Fast algorithms for convolutional neural networks", CVPR 2016
 *
 * and of its gradient, dg = G' [ (B' d) * (A dy) ]; in two dimensions each is applied to columns, then to rows. They are
 * interpolation (Toom and Cook) at 0, 1, -1 and infinity, and for M = 4 at 0, a, -a, b, -b and infinity. Errors grow with the
 * spread of the points: a = 3/4 and b = 3/2 leave them within three times those of a plain sum, where the usual 1 and 2 give ten.
 *
 * Each works on one lane: `from` and `to` are `in` and `out` numbers apart.
 */
#define GRT_A2 ((T)0.5625)    /* a^2 */
#define GRT_B2 ((T)2.25)      /* b^2 */
#define GRT_NA ((T)-1.8984375) /* 2 a^2 (a^2 - b^2) */
#define GRT_NB ((T)7.59375)   /* 2 b^2 (b^2 - a^2) */

/* B' d */
GRT_INLINE void FN(_input)(const int m, const T *from, const long in, T *to, const long out) {
  const T d0 = from[0], d1 = from[in], d2 = from[2 * in], d3 = from[3 * in];
  if (m == 2) {
    to[0] = d0 - d2, to[out] = d1 + d2, to[2 * out] = d2 - d1, to[3 * out] = d1 - d3;
  } else {
    const T d4 = from[4 * in], d5 = from[5 * in];
    const T even = GRT_FMA(-GRT_B2, d2, d4), odd = GRT_FMA(-GRT_B2, d1, d3);
    const T even_b = GRT_FMA(-GRT_A2, d2, d4), odd_b = GRT_FMA(-GRT_A2, d1, d3);
    to[0] = GRT_FMA(GRT_A2 * GRT_B2, d0, GRT_FMA(-(GRT_A2 + GRT_B2), d2, d4));
    to[out] = GRT_FMA((T)0.75, odd, even), to[2 * out] = GRT_FMA((T)-0.75, odd, even);
    to[3 * out] = GRT_FMA((T)1.5, odd_b, even_b), to[4 * out] = GRT_FMA((T)-1.5, odd_b, even_b);
    to[5 * out] = GRT_FMA(GRT_A2 * GRT_B2, d1, GRT_FMA(-(GRT_A2 + GRT_B2), d3, d5));
  }
}

/* B' d B for a row of tiles of a patch with `cb` channels a pixel, its columns first: neighbouring tiles share them. The numbers
 * of a tile's N * N positions go `step` apart. */
GRT_INLINE void FN(_transform)(const int m, const T *patch, T *columns, T *v, const int tiles, const int cb, const int channels,
                               const long step) {
  const int n = m + 2, pitch = (m * tiles + 2) * cb;
  GRT_SIMD for (int x = 0; x < pitch; x++) FN(_input)(m, patch + x, pitch, columns + x, pitch);
  for (int q = 0; q < tiles; q++)
    for (int i = 0; i < n; i++) {
      const T *d = columns + i * pitch + m * q * cb;
      T *to = v + i * n * step + q * cb;
      GRT_SIMD for (int c = 0; c < channels; c++) FN(_input)(m, d + c, cb, to + c, step);
    }
}

/* G g */
GRT_INLINE void FN(_filtered)(const int m, const T *from, const long in, T *to, const long out) {
  const T g0 = from[0], g1 = from[in], g2 = from[2 * in];
  if (m == 2) {
    to[0] = g0, to[out] = (T)0.5 * (g0 + g2 + g1), to[2 * out] = (T)0.5 * (g0 + g2 - g1), to[3 * out] = g2;
  } else {
    const T even = (1 / GRT_NA) * GRT_FMA(GRT_A2, g2, g0), even_b = (1 / GRT_NB) * GRT_FMA(GRT_B2, g2, g0);
    to[0] = (1 / (GRT_A2 * GRT_B2)) * g0;
    to[out] = GRT_FMA((T)0.75 / GRT_NA, g1, even), to[2 * out] = GRT_FMA((T)-0.75 / GRT_NA, g1, even);
    to[3 * out] = GRT_FMA((T)1.5 / GRT_NB, g1, even_b), to[4 * out] = GRT_FMA((T)-1.5 / GRT_NB, g1, even_b);
    to[5 * out] = g2;
  }
}

/* A' s */
GRT_INLINE void FN(_output)(const int m, const T *from, const long in, T *to, const long out) {
  const T s0 = from[0], s1 = from[in], s2 = from[2 * in], s3 = from[3 * in];
  if (m == 2) {
    to[0] = s0 + s1 + s2, to[out] = s1 - s2 - s3;
  } else {
    const T s4 = from[4 * in], s5 = from[5 * in];
    const T even = s1 + s2, odd = (T)0.75 * (s1 - s2), even_b = s3 + s4, odd_b = (T)1.5 * (s3 - s4);
    to[0] = s0 + even + even_b, to[out] = odd + odd_b;
    to[2 * out] = GRT_FMA(GRT_A2, even, GRT_B2 * even_b), to[3 * out] = GRT_FMA(GRT_A2, odd, GRT_FMA(GRT_B2, odd_b, s5));
  }
}

/* A dy */
GRT_INLINE void FN(_spread)(const int m, const T *from, const long in, T *to, const long out) {
  const T y0 = from[0], y1 = from[in];
  if (m == 2) {
    to[0] = y0, to[out] = y0 + y1, to[2 * out] = y0 - y1, to[3 * out] = -y1;
  } else {
    const T y2 = from[2 * in], y3 = from[3 * in];
    const T even = GRT_FMA(GRT_A2, y2, y0), odd = GRT_FMA(GRT_A2, y3, y1);
    const T even_b = GRT_FMA(GRT_B2, y2, y0), odd_b = GRT_FMA(GRT_B2, y3, y1);
    to[0] = y0;
    to[out] = GRT_FMA((T)0.75, odd, even), to[2 * out] = GRT_FMA((T)-0.75, odd, even);
    to[3 * out] = GRT_FMA((T)1.5, odd_b, even_b), to[4 * out] = GRT_FMA((T)-1.5, odd_b, even_b);
    to[5 * out] = y3;
  }
}

/* G' s */
GRT_INLINE void FN(_gathered)(const int m, const T *from, const long in, T *to, const long out) {
  const T s0 = from[0], s1 = from[in], s2 = from[2 * in], s3 = from[3 * in];
  if (m == 2) {
    to[0] = GRT_FMA((T)0.5, s1 + s2, s0), to[out] = (T)0.5 * (s1 - s2), to[2 * out] = GRT_FMA((T)0.5, s1 + s2, s3);
  } else {
    const T s4 = from[4 * in], s5 = from[5 * in];
    const T even = (1 / GRT_NA) * (s1 + s2), even_b = (1 / GRT_NB) * (s3 + s4);
    to[0] = GRT_FMA(1 / (GRT_A2 * GRT_B2), s0, even + even_b);
    to[out] = GRT_FMA((T)0.75 / GRT_NA, s1 - s2, ((T)1.5 / GRT_NB) * (s3 - s4));
    to[2 * out] = GRT_FMA(GRT_A2, even, GRT_FMA(GRT_B2, even_b, s5));
  }
}

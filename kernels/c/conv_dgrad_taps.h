/* Gradient of a convolution with respect to few input channels: a product, then a sum (col2im).
 *
 *   products[tap][pixel] = sum over k of w[k,c,tap] * dy[n,k,pixel]      tiles of [taps] x [vectors of pixels]
 *   dx[n,c,h,w]          = sum over taps of products[tap][the pixel that the tap meets there]
 *
 * Pixels lie end to end, so vectors are full however short the rows are, and no tap meets padding or the zeros between pixels
 * that a stride spreads: conv_narrow.h, whose vectors are rows of dx, multiplies twice as much where 5x5 taps spread 10x10 pixels
 * over 14x14. Columns of dx that a stride lays apart are summed side by side, and then put between each other. A task owns an
 * image of a group.
 */
enum {
  FN(_GROUP_C) = CC / GROUPS,
  FN(_GROUP_K) = CK / GROUPS,
  FN(_TAPS) = CR * CS,
  FN(_TILE_TAPS) = CEIL_DIV(CR * CS, CEIL_DIV(CR * CS, TILE_ROWS(TILE_VECTORS))), /* even tiles */
  FN(_TAP_TILES) = CEIL_DIV(CR * CS, FN(_TILE_TAPS)),
  FN(_PIXEL_VECTORS) = CEIL_DIV(CP * CQ, GRT_LANES(T)),
  FN(_WIDTH) = FN(_PIXEL_VECTORS) * GRT_LANES(T), /* of a row of products */
  FN(_LINE) = CEIL_DIV(CEIL_DIV(CW, STRIDE_W), GRT_LANES(T)) * GRT_LANES(T) /* columns that lie STRIDE_W apart */
};

/* [group][channel][tile of taps][k][tap], zero where there is no tap; launch[0] is the packed filter, launch[1] the buffers */
static void FN(_pack)(long task, void **launch) {
  const FN(_buffers) buf = FN(_open)(launch[1]);
  enum { NT = FN(_TILE_TAPS), TT = FN(_TAP_TILES), GC = FN(_GROUP_C), GK = FN(_GROUP_K) };
  const int g = (int)task / GC, c = (int)task % GC;
  T *out = (T *)launch[0] + task * TT * GK * NT;
  for (int t = 0; t < TT; t++)
    for (int k = 0; k < GK; k++)
      for (int i = 0; i < NT; i++) {
        const int tap = t * NT + i;
        *out++ = tap < FN(_TAPS) ? LOAD_W(buf, g * GK + k, c, tap / CS, tap % CS) : 0;
      }
}

/* dy[k][WIDTH] <- the pixels of all channels of group g, zero behind the last */
GRT_INLINE void FN(_pixels)(const FN(_buffers) buf, T *dy, int n, int g) {
  enum { L = GRT_LANES(T), GK = FN(_GROUP_K), WIDTH = FN(_WIDTH), PIXELS = CP * CQ };
  int i = 0; /* pixels that are there */
  if (DY_CHANNELS_LAST && GK % L == 0)
    for (; i + L <= PIXELS; i += L) /* a transposition, in registers */
      for (int k = 0; k < GK; k += L) {
        GRT_VEC(T) r[L];
        for (int j = 0; j < L; j++) {
          T pixel[L] __attribute__((aligned(64)));
          GRT_SIMD for (int l = 0; l < L; l++) pixel[l] = LOAD_DY(buf, n, g * GK + k + l, (i + j) / CQ, (i + j) % CQ);
          r[j] = *(const GRT_VEC(T) *)pixel;
        }
        GRT_JOIN(grt_transpose_, T)(r);
        for (int l = 0; l < L; l++) *(GRT_VEC(T) *)(dy + (k + l) * WIDTH + i) = r[l];
      }
  if (DY_CHANNELS_LAST) {
    for (; i < PIXELS; i++)
      GRT_SIMD for (int k = 0; k < GK; k++) dy[k * WIDTH + i] = LOAD_DY(buf, n, g * GK + k, i / CQ, i % CQ);
  } else {
    for (int k = 0; k < GK; k++)
      for (int p = 0; p < CP; p++)
        GRT_SIMD for (int q = 0; q < CQ; q++) dy[k * WIDTH + p * CQ + q] = LOAD_DY(buf, n, g * GK + k, p, q);
  }
  for (int k = 0; k < GK; k++)
    for (int j = PIXELS; j < WIDTH; j++) dy[k * WIDTH + j] = 0;
}

/* One tile: TILE_TAPS taps of vt vectors of pixels. */
GRT_INLINE void FN(_products)(const T *w, const T *dy, T *products, const int vt) {
  typedef GRT_VEC(T) vec;
  enum { L = GRT_LANES(T), NT = FN(_TILE_TAPS), WIDTH = FN(_WIDTH) };
  vec acc[NT][TILE_VECTORS];
#pragma GCC unroll 8
  for (int i = 0; i < NT; i++)
#pragma GCC unroll 4
    for (int v = 0; v < vt; v++) acc[i][v] = (vec){0};
  for (int k = 0; k < FN(_GROUP_K); k++) {
    vec x[TILE_VECTORS];
#pragma GCC unroll 4
    for (int v = 0; v < vt; v++) x[v] = *(const vec *)(dy + k * WIDTH + v * L);
#pragma GCC unroll 8
    for (int i = 0; i < NT; i++)
#pragma GCC unroll 4
      for (int v = 0; v < vt; v++) acc[i][v] = GRT_MADD(T, w[k * NT + i], x[v], acc[i][v]);
  }
#pragma GCC unroll 8
  for (int i = 0; i < NT; i++)
#pragma GCC unroll 4
    for (int v = 0; v < vt; v++) *(vec *)(products + i * WIDTH + v * L) = acc[i][v];
}

static void FN(_task)(long task, void **launch) {
  const FN(_buffers) buf = FN(_open)(launch[1]);
  enum { L = GRT_LANES(T), NT = FN(_TILE_TAPS), TT = FN(_TAP_TILES), NV = FN(_PIXEL_VECTORS), GC = FN(_GROUP_C) };
  enum { GK = FN(_GROUP_K), WIDTH = FN(_WIDTH), LINE = FN(_LINE) };
  const int n = (int)(task / GROUPS), g = (int)(task % GROUPS);
  T *dy = grt_scratch(sizeof(T) * (GK + TT * NT + 2) * (WIDTH + LINE)); /* with room for loads that are masked */
  T *products = dy + GK * WIDTH + LINE;
  FN(_pixels)(buf, dy, n, g);
  for (int c = 0; c < GC; c++) {
    const T *w = (const T *)launch[0] + (size_t)(g * GC + c) * TT * GK * NT;
    for (int t = 0; t < TT; t++, w += GK * NT) {
      int v = 0;
      for (; v + TILE_VECTORS <= NV; v += TILE_VECTORS)
        FN(_products)(w, dy + v * L, products + t * NT * WIDTH + v * L, TILE_VECTORS);
      if (NV % TILE_VECTORS) FN(_products)(w, dy + v * L, products + t * NT * WIDTH + v * L, NV % TILE_VECTORS);
    }
    for (int h = 0; h < CH; h++) {
      T line[STRIDE_W][LINE] __attribute__((aligned(64))) = {0}, out[STRIDE_W * LINE];
      for (int r = 0; r < CR; r++) {
        const int up = h + PAD_H - r * DIL_H;
        if (up < 0 || up % STRIDE_H || up / STRIDE_H >= CP) continue;
        const T *row = products + r * CS * WIDTH + up / STRIDE_H * CQ;
#pragma GCC unroll 4
        for (int phase = 0; phase < STRIDE_W; phase++)
          GRT_SIMD for (int x = 0; x < LINE; x++) {
            T sum = 0;
#pragma GCC unroll 16
            for (int s = 0; s < CS; s++) {
              const int first = phase + PAD_W - s * DIL_W, q = x + first / STRIDE_W;
              sum += first % STRIDE_W == 0 && q >= 0 && q < CQ ? row[s * WIDTH + q] : 0;
            }
            line[phase][x] += sum;
          }
      }
      for (int x = 0; x < LINE; x++)
#pragma GCC unroll 4
        for (int phase = 0; phase < STRIDE_W; phase++) out[x * STRIDE_W + phase] = line[phase][x];
      GRT_SIMD for (int x = 0; x < CW; x++) STORE(buf, n, g * GC + c, h, x, out[x]);
    }
  }
}
GRT_LAUNCH void NAME(void **table) {
  enum { FILTERS = GROUPS * FN(_GROUP_C), SIZE = FN(_TAP_TILES) * FN(_GROUP_K) * FN(_TILE_TAPS) };
  void **kept = GRT_KEPT(table, FROZEN);
  void *launch[2] = {grt_prepare(FN(_pack), FILTERS, sizeof(T) * FILTERS * SIZE, kept, table), table};
  GRT_PARALLEL(FN(_task), grt_share(CN) * GROUPS, launch);
}

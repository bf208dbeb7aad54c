/* Gradient of a depthwise filter in channels-last memory: taps x vectors of channels, over tiles of columns. A column of input is
 * loaded once for all the columns of dy that it meets in a row of taps; what is computed on load is kept for all taps.
 */
enum {
  FN(_BLOCK) = GRT_LANES(T), /* channels of a vector */
  FN(_BLOCKS) = CEIL_DIV(CC, FN(_BLOCK)),
  FN(_TILE_COLUMNS) = MIN_OF(CEIL_DIV(CQ, CEIL_DIV(CQ, 4)), 4), /* even tiles */
  FN(_TILE_INPUTS) = (FN(_TILE_COLUMNS) - 1) * STRIDE_W + (CS - 1) * DIL_W + 1,
  FN(_TAP_COLUMNS) = MIN_OF(CS, 12), /* taps that are summed in registers */
  FN(_TAP_ROWS) = MAX_OF(1, MIN_OF(CR, 12 / FN(_TAP_COLUMNS))),
  FN(_CHUNK) = CEIL_DIV(CN, SPLITS)
};

GRT_INLINE GRT_VEC(T) FN(_load)(const FN(_buffers) buf, const T *kept, int n, int c, int h, int w, const int channels) {
  T x[FN(_BLOCK)] __attribute__((aligned(64))) = {0};
  if (!X_DIRECT) return *(const GRT_VEC(T) *)(kept + (h * CW + w) * FN(_BLOCK));
  GRT_SIMD for (int l = 0; l < channels; l++) x[l] = LOAD_X(buf, n, c + l, h, w);
  return *(const GRT_VEC(T) *)x;
}

/* sum[tap] += the products of image n, for rows of taps from r0 and columns of taps from s0 on */
GRT_INLINE void FN(_taps)(const FN(_buffers) buf, const T *kept, T *sum, int n, int c, const int r0, const int s0,
                          const int channels) {
  typedef GRT_VEC(T) vec;
  enum { L = FN(_BLOCK), QT = FN(_TILE_COLUMNS), RT = FN(_TAP_ROWS), ST = FN(_TAP_COLUMNS) };
  enum { FEW = FN(_TILE_INPUTS) <= 24 && CS <= 12 };
  vec acc[RT][ST];
#pragma GCC unroll 12
  for (int r = 0; r < RT; r++)
#pragma GCC unroll 12
    for (int s = 0; s < ST; s++) acc[r][s] = (vec){0};
  for (int p = 0; p < CP; p++)
    for (int q = 0; q < CQ; q += QT) {
      vec dy[QT];
#pragma GCC unroll 4
      for (int i = 0; i < QT; i++) {
        T y[L] __attribute__((aligned(64))) = {0};
        if (q + i < CQ) GRT_SIMD for (int l = 0; l < channels; l++) y[l] = LOAD_DY(buf, n, c + l, p, q + i);
        dy[i] = *(const vec *)y;
      }
#pragma GCC unroll 12
      for (int r = 0; r < RT; r++) {
        const int h = p * STRIDE_H - PAD_H + (r0 + r) * DIL_H, w0 = q * STRIDE_W - PAD_W;
        if (r0 + r >= CR || h < 0 || h >= CH) continue;
        if (FEW) {
#pragma GCC unroll 24
          for (int y = 0; y < FN(_TILE_INPUTS); y++) {
            if (w0 + y < 0 || w0 + y >= CW) continue;
            const vec x = FN(_load)(buf, kept, n, c, h, w0 + y, channels);
#pragma GCC unroll 4
            for (int i = 0; i < QT; i++) {
              const int across = y - i * STRIDE_W;
              if (across >= 0 && across % DIL_W == 0 && across / DIL_W < CS)
                acc[r][across / DIL_W] = GRT_MADD(T, dy[i], x, acc[r][across / DIL_W]);
            }
          }
        } else {
#pragma GCC unroll 12
          for (int s = 0; s < ST; s++)
#pragma GCC unroll 4
            for (int i = 0; i < QT; i++) {
              const int w = w0 + i * STRIDE_W + (s0 + s) * DIL_W;
              if (s0 + s < CS && w >= 0 && w < CW)
                acc[r][s] = GRT_MADD(T, dy[i], FN(_load)(buf, kept, n, c, h, w, channels), acc[r][s]);
            }
        }
      }
    }
#pragma GCC unroll 12
  for (int r = 0; r < RT; r++)
#pragma GCC unroll 12
    for (int s = 0; s < ST; s++)
      if (r0 + r < CR && s0 + s < CS) *(vec *)(sum + ((r0 + r) * CS + s0 + s) * L) += acc[r][s];
}

GRT_INLINE void FN(_channels)(const FN(_buffers) buf, int split, int c, const int channels) {
  enum { L = FN(_BLOCK) };
  T *sum = grt_scratch(sizeof(T) * (CR * CS + (X_DIRECT ? 0 : CH * CW)) * L), *kept = sum + CR * CS * L;
  memset(sum, 0, sizeof(T) * CR * CS * L);
  for (int n = split * FN(_CHUNK); n < MIN_OF((split + 1) * FN(_CHUNK), CN); n++) {
    for (int i = 0; i < (X_DIRECT ? 0 : CH * CW); i++)
      GRT_SIMD for (int l = 0; l < channels; l++) kept[i * L + l] = LOAD_X(buf, n, c + l, i / CW, i % CW);
    for (int r = 0; r < CR; r += FN(_TAP_ROWS))
      for (int s = 0; s < CS; s += FN(_TAP_COLUMNS)) FN(_taps)(buf, kept, sum, n, c, r, s, channels);
  }
  for (int i = 0; i < CR * CS; i++)
    for (int l = 0; l < channels; l++) STORE(buf, split, c + l, 0, i / CS, i % CS, sum[i * L + l]);
}

static void FN(_task)(long task, void **table) {
  const FN(_buffers) buf = FN(_open)(table);
  enum { L = FN(_BLOCK) };
  const int split = (int)(task / FN(_BLOCKS)), block = (int)(task % FN(_BLOCKS));
  if (block < CC / L) FN(_channels)(buf, split, block * L, L);
  else FN(_channels)(buf, split, block * L, CC % L);
}
GRT_LAUNCH void NAME(void **table) { GRT_PARALLEL(FN(_task), (long)SPLITS * FN(_BLOCKS), table); }

/* Gradient of a filter with few output channels: a tile of [taps] x [channels], vectors of columns, added across at the end. */
enum {
  FN(_GROUP_C) = CC / GROUPS,
  FN(_GROUP_K) = CK / GROUPS,
  FN(_TILE_K) = CEIL_DIV(CK / GROUPS, CEIL_DIV(CK / GROUPS, 6)),
  FN(_BLOCKS_K) = CEIL_DIV(CK / GROUPS, FN(_TILE_K)),
  FN(_TAPS) = CC / GROUPS * CR * CS,
  FN(_PADDED_Q) = CEIL_DIV(CQ, GRT_LANES(T)) * GRT_LANES(T),
  FN(_WIDTH) = (FN(_PADDED_Q) - 1) * STRIDE_W + (CS - 1) * DIL_W + 1,
  FN(_HEIGHT) = (CP - 1) * STRIDE_H + (CR - 1) * DIL_H + 1
};
#define TAP_OFFSET(j) \
  ((((j) / (CR * CS)) * FN(_HEIGHT) + ((j) / CS % CR) * DIL_H) * FN(_WIDTH) + ((j) % CS) * DIL_W)

GRT_INLINE void FN(_few)(const T *dy, const T *x, T *sum, int j0, const int jt) {
  typedef GRT_VEC(T) vec;
  enum { L = GRT_LANES(T), NK = FN(_TILE_K), QP = FN(_PADDED_Q) };
  vec acc[4][6];
#pragma GCC unroll 4
  for (int j = 0; j < jt; j++)
#pragma GCC unroll 8
    for (int k = 0; k < NK; k++) acc[j][k] = *(const vec *)(sum + ((j0 + j) * NK + k) * L);
  for (int p = 0; p < CP; p++)
    for (int q = 0; q < QP; q += L) {
      vec g[6];
#pragma GCC unroll 8
      for (int k = 0; k < NK; k++) {
        g[k] = *(const vec *)(dy + (k * CP + p) * QP + q);
        GRT_REGISTER(g[k]);
      }
#pragma GCC unroll 4
      for (int j = 0; j < jt; j++) {
        const vec f = *(const vec *)(x + TAP_OFFSET(j0 + j) + p * STRIDE_H * FN(_WIDTH) + q);
#pragma GCC unroll 8
        for (int k = 0; k < NK; k++) acc[j][k] = GRT_MADD(T, f, g[k], acc[j][k]);
      }
    }
#pragma GCC unroll 4
  for (int j = 0; j < jt; j++)
#pragma GCC unroll 8
    for (int k = 0; k < NK; k++) *(vec *)(sum + ((j0 + j) * NK + k) * L) = acc[j][k];
}

static void FN(_task)(long task, void **table) {
  const FN(_buffers) buf = FN(_open)(table);
  enum { L = GRT_LANES(T), NK = FN(_TILE_K), TAPS = FN(_TAPS), CHUNK = CEIL_DIV(CN, SPLITS), QP = FN(_PADDED_Q) };
  const int split = (int)(task / (GROUPS * FN(_BLOCKS_K))), g = (int)(task / FN(_BLOCKS_K) % GROUPS);
  const int k0 = (int)(task % FN(_BLOCKS_K)) * NK;
  const int first = split * CHUNK, last = MIN_OF(first + CHUNK, CN);
  T *sum = grt_scratch(sizeof(T) * (TAPS * NK * L + CP * QP * NK + FN(_GROUP_C) * FN(_HEIGHT) * FN(_WIDTH) + 64));
  T *dy = sum + TAPS * NK * L, *x = dy + CP * QP * NK;
  memset(sum, 0, sizeof(T) * (TAPS * NK * L + CP * QP * NK)); /* dy is zero beyond its columns and channels */
  for (int n = first; n < last; n++) {
    for (int c = 0; c < FN(_GROUP_C); c++)
      for (int h = 0; h < FN(_HEIGHT); h++) {
        T *row = x + (c * FN(_HEIGHT) + h) * FN(_WIDTH);
        const int hh = h - PAD_H, left = MIN_OF(PAD_W, FN(_WIDTH)), right = MIN_OF(CW + PAD_W, FN(_WIDTH));
        if (hh < 0 || hh >= CH || right <= left) {
          memset(row, 0, sizeof(T) * FN(_WIDTH));
          continue;
        }
        for (int w = 0; w < left; w++) row[w] = 0;
        GRT_SIMD for (int w = left; w < right; w++) row[w] = LOAD_X(buf, n, g * FN(_GROUP_C) + c, hh, w - PAD_W);
        for (int w = right; w < FN(_WIDTH); w++) row[w] = 0;
      }
    for (int k = 0; k < MIN_OF(FN(_GROUP_K) - k0, NK); k++)
      for (int p = 0; p < CP; p++)
        GRT_SIMD for (int q = 0; q < CQ; q++) dy[(k * CP + p) * QP + q] = LOAD_DY(buf, n, g * FN(_GROUP_K) + k0 + k, p, q);
    int j = 0;
    for (; j + 4 <= TAPS; j += 4) FN(_few)(dy, x, sum, j, 4);
    if (TAPS % 4) FN(_few)(dy, x, sum, j, TAPS % 4);
  }
  for (int j = 0; j < TAPS; j++)
    for (int k = 0; k < NK && k0 + k < FN(_GROUP_K); k++) {
      T total = 0;
      for (int l = 0; l < L; l++) total += sum[(j * NK + k) * L + l];
      STORE(buf, split, g * FN(_GROUP_K) + k0 + k, j / (CR * CS), j / CS % CR, j % CS, total);
    }
}
GRT_LAUNCH void NAME(void **table) { GRT_PARALLEL(FN(_task), (long)SPLITS * GROUPS * FN(_BLOCKS_K), table); }

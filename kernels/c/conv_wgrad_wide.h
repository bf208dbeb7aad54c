/* Gradient of a filter with many output channels: a tile of [input channels] x [vectors of output channels] for one tap.
 *
 * A task owns NK output and CB input channels with all their taps. It takes PB rows of an image, or NB small images, at a time, so
 * that both patches stay in the second cache: dy as [image][row][column][NK], the input as [image][row][column][CB].
 */
enum {
  FN(_GC) = CC / GROUPS,
  FN(_GK) = CK / GROUPS,
  FN(_NV) = MIN_OF(TILE_VECTORS, CEIL_DIV(CK / GROUPS, GRT_LANES(T))),
  FN(_NK) = FN(_NV) * GRT_LANES(T),
  FN(_KB) = CEIL_DIV(CK / GROUPS, FN(_NK)),
  FN(_CBLOCKS) = CEIL_DIV(CC / GROUPS * CR * CS, 320),
  FN(_CB) = CEIL_DIV(CC / GROUPS, FN(_CBLOCKS)),
  FN(_CPARTS) = CEIL_DIV(CC / GROUPS, FN(_CB)),
  FN(_WIDTH) = (CQ - 1) * STRIDE_W + (CS - 1) * DIL_W + 1,
  FN(_FIT) = 49152 / (CQ * FN(_NK) + STRIDE_H * FN(_WIDTH) * FN(_CB)), /* rows: 192 KB */
  FN(_PB) = MAX_OF(1, MIN_OF(CP, FN(_FIT))),
  FN(_HEIGHT) = (FN(_PB) - 1) * STRIDE_H + (CR - 1) * DIL_H + 1,
  FN(_IMAGE) = FN(_HEIGHT) * FN(_WIDTH) * FN(_CB),
  FN(_NB) = FN(_PB) < CP ? 1 : MAX_OF(1, MIN_OF(CEIL_DIV(CN, SPLITS), 49152 / MAX_OF(1, CP * CQ * FN(_NK) + FN(_IMAGE))))
};

/* sum[ct][NK] += over images, rows and columns of x[ct] * dy[NK] */
GRT_INLINE void FN(_tile)(const T *dy, const T *x, T *sum, int images, int rows, const int ct) {
  typedef GRT_VEC(T) vec;
  enum { L = GRT_LANES(T), NV = FN(_NV) };
  vec acc[16][NV];
#pragma GCC unroll 16
  for (int j = 0; j < ct; j++)
#pragma GCC unroll 4
    for (int v = 0; v < NV; v++) acc[j][v] = *(const vec *)(sum + (j * NV + v) * L);
  for (int n = 0; n < images; n++)
    for (int p = 0; p < rows; p++) {
      const T *at = x + n * FN(_IMAGE) + p * STRIDE_H * FN(_WIDTH) * FN(_CB);
      for (int q = 0; q < CQ; q++, dy += NV * L, at += STRIDE_W * FN(_CB)) {
        vec g[NV];
#pragma GCC unroll 4
        for (int v = 0; v < NV; v++) g[v] = *(const vec *)(dy + v * L);
#pragma GCC unroll 16
        for (int j = 0; j < ct; j++)
#pragma GCC unroll 4
          for (int v = 0; v < NV; v++) acc[j][v] += at[j] * g[v];
      }
    }
#pragma GCC unroll 16
  for (int j = 0; j < ct; j++)
#pragma GCC unroll 4
    for (int v = 0; v < NV; v++) *(vec *)(sum + (j * NV + v) * L) = acc[j][v];
}

static void FN(_task)(long task, void **table) {
  const FN(_buffers) buf = FN(_open)(table);
  enum {
    NK = FN(_NK), CB = FN(_CB), WIDTH = FN(_WIDTH), CHUNK = CEIL_DIV(CN, SPLITS), PB = FN(_PB), NB = FN(_NB),
    MOST = FN(_NV) == 1 ? 16 : TILE_ROWS(FN(_NV)), CT = CEIL_DIV(CB, CEIL_DIV(CB, MOST)) /* channels of a tile, evenly */
  };
  const int cb = (int)(task % FN(_CPARTS)), kb = (int)(task / FN(_CPARTS) % FN(_KB));
  const int g = (int)(task / (FN(_CPARTS) * FN(_KB)) % GROUPS), split = (int)(task / ((long)FN(_CPARTS) * FN(_KB) * GROUPS));
  const int first = split * CHUNK, last = MIN_OF(first + CHUNK, CN);
  const int k0 = g * FN(_GK) + kb * NK, width = MIN_OF(FN(_GK) - kb * NK, NK);
  const int c0 = g * FN(_GC) + cb * CB, channels = MIN_OF(FN(_GC) - cb * CB, CB);
  T *sum = grt_scratch(sizeof(T) * (CR * CS * CB * NK + NB * (PB * CQ * NK + FN(_IMAGE)) + 64));
  T *dy = sum + CR * CS * CB * NK, *x = dy + NB * PB * CQ * NK;
  memset(sum, 0, sizeof(T) * CR * CS * CB * NK);
  if (width < NK) memset(dy, 0, sizeof(T) * NB * PB * CQ * NK);
  if (channels < CB) memset(x, 0, sizeof(T) * NB * FN(_IMAGE));
  for (int n0 = first; n0 < last; n0 += NB)
    for (int p0 = 0; p0 < CP; p0 += PB) {
      const int images = MIN_OF(last - n0, NB), rows = MIN_OF(CP - p0, PB);
      for (int n = 0; n < images; n++) {
        for (int h = 0; h < (rows - 1) * STRIDE_H + (CR - 1) * DIL_H + 1; h++) {
          T *to = x + n * FN(_IMAGE) + h * WIDTH * CB;
          const int hh = p0 * STRIDE_H + h - PAD_H;
          for (int w = 0; w < WIDTH; w++, to += CB) {
            if (hh >= 0 && hh < CH && w >= PAD_W && w < CW + PAD_W) {
              GRT_SIMD for (int c = 0; c < channels; c++) to[c] = LOAD_X(buf, n0 + n, c0 + c, hh, w - PAD_W);
            } else {
              memset(to, 0, sizeof(T) * CB);
            }
          }
        }
        T *to = dy + n * rows * CQ * NK;
        for (int p = 0; p < rows; p++)
          for (int q = 0; q < CQ; q++, to += NK)
            GRT_SIMD for (int k = 0; k < width; k++) to[k] = LOAD_DY(buf, n0 + n, k0 + k, p0 + p, q);
      }
      for (int r = 0; r < CR; r++)
        for (int s = 0; s < CS; s++) {
          const T *from = x + (r * DIL_H * WIDTH + s * DIL_W) * CB;
          T *to = sum + (r * CS + s) * CB * NK;
          int c = 0;
          for (; c + CT <= CB; c += CT) FN(_tile)(dy, from + c, to + c * NK, images, rows, CT);
          if (CB % CT) FN(_tile)(dy, from + c, to + c * NK, images, rows, CB % CT);
        }
    }
  for (int r = 0; r < CR; r++)
    for (int s = 0; s < CS; s++)
      for (int c = 0; c < channels; c++) {
        const T *from = sum + ((r * CS + s) * CB + c) * NK;
        GRT_SIMD for (int k = 0; k < width; k++) STORE(buf, split, k0 + k, cb * CB + c, r, s, from[k]);
      }
}
GRT_LAUNCH void NAME(void **table) { GRT_PARALLEL(FN(_task), (long)SPLITS * GROUPS * FN(_KB) * FN(_CPARTS), table); }

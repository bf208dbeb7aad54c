/* What conv_wgrad_wide.h and conv_wgrad_winograd.h share: the block of a task, and the register tile that adds it up.
 *
 * A task owns one split of the batch, TILE_K output channels and BLOCK_C input channels (which the includer defines).
 */
enum {
  FN(_GROUP_C) = CC / GROUPS,
  FN(_GROUP_K) = CK / GROUPS,
  FN(_VECTORS) = MIN_OF(TILE_VECTORS, CEIL_DIV(CK / GROUPS, GRT_LANES(T))),
  FN(_TILE_K) = FN(_VECTORS) * GRT_LANES(T),
  FN(_BLOCKS_K) = CEIL_DIV(CK / GROUPS, FN(_TILE_K)),
  FN(_BLOCKS_C) = CEIL_DIV(CC / GROUPS, FN(_BLOCK_C)),
  FN(_MOST_CHANNELS) = FN(_VECTORS) == 1 ? 16 : TILE_ROWS(FN(_VECTORS)) /* channels of a tile */
};

typedef struct {
  int split, first, last;      /* images of the split */
  int k0, width;               /* output channels */
  int cb, c0, channels;        /* the block of input channels, its first one, and how many it has */
} FN(_share);

GRT_INLINE FN(_share) FN(_block)(long task) {
  enum { CHUNK = CEIL_DIV(CN, SPLITS) };
  const int cb = (int)(task % FN(_BLOCKS_C)), kb = (int)(task / FN(_BLOCKS_C) % FN(_BLOCKS_K));
  const int g = (int)(task / (FN(_BLOCKS_C) * FN(_BLOCKS_K)) % GROUPS);
  const int split = (int)(task / ((long)FN(_BLOCKS_C) * FN(_BLOCKS_K) * GROUPS));
  return (FN(_share)){
      .split = split, .first = split * CHUNK, .last = MIN_OF(split * CHUNK + CHUNK, CN),
      .k0 = g * FN(_GROUP_K) + kb * FN(_TILE_K), .width = MIN_OF(FN(_GROUP_K) - kb * FN(_TILE_K), FN(_TILE_K)),
      .cb = cb, .c0 = g * FN(_GROUP_C) + cb * FN(_BLOCK_C), .channels = MIN_OF(FN(_GROUP_C) - cb * FN(_BLOCK_C), FN(_BLOCK_C))};
}

/* sum[ct][TILE_K] += over images, rows and columns of x[ct] * dy[TILE_K]; dy is dense, x lies `image`, `row` and `step` numbers
 * apart */
GRT_INLINE void FN(_tile)(const T *x, const T *dy, T *sum, int images, int rows, int columns, int image, int row, int step,
                          const int ct) {
  typedef GRT_VEC(T) vec;
  enum { L = GRT_LANES(T), NV = FN(_VECTORS) };
  vec acc[16][NV];
#pragma GCC unroll 16
  for (int j = 0; j < ct; j++)
#pragma GCC unroll 4
    for (int v = 0; v < NV; v++) acc[j][v] = *(const vec *)(sum + (j * NV + v) * L);
  for (int n = 0; n < images; n++)
    for (int p = 0; p < rows; p++) {
      const T *at = x + n * image + p * row;
      for (int q = 0; q < columns; q++, dy += NV * L, at += step) {
        vec g[NV];
#pragma GCC unroll 4
        for (int v = 0; v < NV; v++) g[v] = *(const vec *)(dy + v * L);
#pragma GCC unroll 16
        for (int j = 0; j < ct; j++)
#pragma GCC unroll 4
          for (int v = 0; v < NV; v++) acc[j][v] = GRT_ADD(T, at[j], g[v], acc[j][v]);
      }
    }
#pragma GCC unroll 16
  for (int j = 0; j < ct; j++)
#pragma GCC unroll 4
    for (int v = 0; v < NV; v++) *(vec *)(sum + (j * NV + v) * L) = acc[j][v];
}

/* x[channels] by dy[TILE_K], in tiles of as many channels each as is even */
GRT_INLINE void FN(_tiles)(const T *x, const T *dy, T *sum, int images, int rows, int columns, int image, int row, int step,
                           const int channels) {
  enum { NK = FN(_TILE_K), MOST = FN(_MOST_CHANNELS) };
  const int ct = CEIL_DIV(channels, CEIL_DIV(channels, MOST));
  int c = 0;
  for (; c + ct <= channels; c += ct) FN(_tile)(x + c, dy, sum + c * NK, images, rows, columns, image, row, step, ct);
  if (channels % ct) FN(_tile)(x + c, dy, sum + c * NK, images, rows, columns, image, row, step, channels % ct);
}

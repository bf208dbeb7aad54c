/* Convolution to few output channels: tiles of [channels] x [rows x vectors of columns], one weight broadcast (conv_core.h). */
enum {
  FN(_TILE_K) = CEIL_DIV(V_K, CEIL_DIV(V_K, 6)), /* even blocks */
  FN(_BLOCKS_K) = CEIL_DIV(V_K, FN(_TILE_K)),
  FN(_TAPS) = V_C * V_R * V_S,
  FN(_COLUMN_VECTORS) = MIN_OF(2, CEIL_DIV(V_Q, GRT_LANES(T))), /* a tile of vectors, columns x rows, four in all */
  FN(_TILE_ROWS) = 4 / FN(_COLUMN_VECTORS),
  FN(_TILE_COLUMNS) = FN(_COLUMN_VECTORS) * GRT_LANES(T),
  FN(_WIDTH) = CEIL_DIV(V_Q, FN(_TILE_COLUMNS)) * FN(_TILE_COLUMNS) + (V_S - 1) * V_DIL_W,
  FN(_ROWS_FIT) = (24576 / (V_C * FN(_WIDTH)) - (V_R - 1) * V_DIL_H) / V_STRIDE_H, /* a patch: 96 KB */
  FN(_ROWS_WANTED) = V_N * V_G >= 8 ? V_P : CEIL_DIV(V_P, CEIL_DIV(8, MAX_OF(V_N * V_G, 1))),
  FN(_BLOCK_ROWS) = MAX_OF(1, MIN_OF(FN(_ROWS_WANTED), FN(_ROWS_FIT))),
  FN(_PATCH_ROWS) = (FN(_BLOCK_ROWS) - 1) * V_STRIDE_H + (V_R - 1) * V_DIL_H + 1
};

/* [group][block][row of taps][channel][tap][lane], as the tiles meet them; launch[0] is the packed filter, launch[1] the buffers */
static void FN(_pack)(long task, void **launch) {
  const FN(_buffers) buf = FN(_open)(launch[1]);
  const int g = (int)task / FN(_BLOCKS_K), kb = (int)task % FN(_BLOCKS_K);
  T *out = (T *)launch[0] + task * FN(_TAPS) * FN(_TILE_K);
  for (int r = 0; r < V_R; r++)
    for (int c = 0; c < V_C; c++)
      for (int s = 0; s < V_S; s++)
        for (int i = 0; i < FN(_TILE_K); i++) {
          const int k = kb * FN(_TILE_K) + i;
          *out++ = k < V_K ? V_W(buf, g, k, c, r, s) : 0;
        }
}

/* rt rows of outputs from row p; `row` is where they begin in the patch. Rows of taps that meet only padding are left out. */
GRT_INLINE void FN(_channels)(const FN(_buffers) buf, const T *patch, const T *w, int n, int g, int kb, int p, int row, int q,
                              const int rt) {
  typedef GRT_VEC(T) vec;
  enum { L = GRT_LANES(T), NK = FN(_TILE_K), WIDTH = FN(_WIDTH), CT = FN(_COLUMN_VECTORS) };
  vec acc[6][4];
#pragma GCC unroll 8
  for (int k = 0; k < NK; k++)
#pragma GCC unroll 4
    for (int v = 0; v < rt * CT; v++) acc[k][v] = (vec){0};
  for (int r = 0; r < V_R; r++, w += V_C * V_S * NK) {
    int met = 0;
#pragma GCC unroll 4
    for (int i = 0; i < rt; i++) met |= V_REACHES((p + i) * V_STRIDE_H + r * V_DIL_H);
    if (!met) continue;
    const T *tap = w;
    for (int c = 0; c < V_C; c++) {
      const T *x = patch + (c * FN(_PATCH_ROWS) + row * V_STRIDE_H + r * V_DIL_H) * WIDTH + q;
      for (int s = 0; s < V_S; s++, tap += NK) {
        vec f[4];
#pragma GCC unroll 4
        for (int v = 0; v < rt * CT; v++) f[v] = *(const vec *)(x + v / CT * V_STRIDE_H * WIDTH + v % CT * L + s * V_DIL_W);
#pragma GCC unroll 8
        for (int k = 0; k < NK; k++)
#pragma GCC unroll 4
          for (int v = 0; v < rt * CT; v++) acc[k][v] = GRT_MADD(T, tap[k], f[v], acc[k][v]);
      }
    }
  }
  const int width = MIN_OF(V_Q - q, CT * L), height = MIN_OF(V_K - kb * NK, NK);
#pragma GCC unroll 8
  for (int k = 0; k < NK; k++) {
    if (k >= height) break;
#pragma GCC unroll 4
    for (int i = 0; i < rt; i++) {
      T out[2 * GRT_LANES(T)] __attribute__((aligned(64)));
#pragma GCC unroll 2
      for (int v = 0; v < CT; v++) *(vec *)(out + v * L) = acc[k][i * CT + v];
      GRT_SIMD for (int j = 0; j < width; j++) V_STORE(buf, n, g, kb * NK + k, p + i, q + j, out[j]);
    }
  }
}

static void FN(_task)(long task, void **launch) {
  const FN(_buffers) buf = FN(_open)(launch[1]);
  enum { PARTS = CEIL_DIV(V_P, FN(_BLOCK_ROWS)), WIDTH = FN(_WIDTH) };
  const int n = (int)(task / (V_G * PARTS)), g = (int)(task / PARTS % V_G), p0 = (int)(task % PARTS) * FN(_BLOCK_ROWS);
  const int rows = MIN_OF(V_P - p0, FN(_BLOCK_ROWS)), height = (rows - 1) * V_STRIDE_H + (V_R - 1) * V_DIL_H + 1;
  T *patch = grt_scratch(sizeof(T) * V_C * FN(_PATCH_ROWS) * WIDTH); /* [channel][row][column] */
  if (V_CHANNELS_LAST) memset(patch, 0, sizeof(T) * V_C * FN(_PATCH_ROWS) * WIDTH);
  for (int h = 0; h < height; h++) {
    const int row = p0 * V_STRIDE_H + h;
    if (V_CHANNELS_LAST) {
      for (int x = 0; x < WIDTH; x++) {
        T *to = patch + h * WIDTH + x;
        if (!V_INSIDE(row, x)) continue;
        GRT_SIMD for (int c = 0; c < V_C; c++) to[c * FN(_PATCH_ROWS) * WIDTH] = V_X(buf, n, g, c, row, x);
      }
    } else {
      int first = 0, last = WIDTH; /* a load beyond them, though masked, might be made */
      while (first < last && !V_INSIDE(row, first)) first++;
      while (first < last && !V_INSIDE(row, last - 1)) last--;
      for (int c = 0; c < V_C; c++) {
        T *to = patch + (c * FN(_PATCH_ROWS) + h) * WIDTH;
        memset(to, 0, sizeof(T) * WIDTH);
        GRT_SIMD for (int x = first; x < last; x++) to[x] = V_INSIDE(row, x) ? V_X(buf, n, g, c, row, x) : 0;
      }
    }
  }
  for (int kb = 0; kb < FN(_BLOCKS_K); kb++) {
    const T *w = (const T *)launch[0] + (size_t)(g * FN(_BLOCKS_K) + kb) * FN(_TAPS) * FN(_TILE_K);
    int row = 0;
    for (; row + FN(_TILE_ROWS) <= rows; row += FN(_TILE_ROWS))
      for (int q = 0; q < V_Q; q += FN(_TILE_COLUMNS)) FN(_channels)(buf, patch, w, n, g, kb, p0 + row, row, q, FN(_TILE_ROWS));
    for (; FN(_TILE_ROWS) > 2 && row + 2 <= rows; row += 2)
      for (int q = 0; q < V_Q; q += FN(_TILE_COLUMNS)) FN(_channels)(buf, patch, w, n, g, kb, p0 + row, row, q, 2);
    for (; row < rows; row++)
      for (int q = 0; q < V_Q; q += FN(_TILE_COLUMNS)) FN(_channels)(buf, patch, w, n, g, kb, p0 + row, row, q, 1);
  }
}
GRT_LAUNCH void NAME(void **table) {
  enum { BLOCKS = V_G * FN(_BLOCKS_K) };
  void **kept = GRT_KEPT(table, FROZEN);
  void *launch[2] = {grt_prepare(FN(_pack), BLOCKS, sizeof(T) * BLOCKS * FN(_TAPS) * FN(_TILE_K), kept, table), table};
  GRT_PARALLEL(FN(_task), grt_share(V_N) * V_G * CEIL_DIV(V_P, FN(_BLOCK_ROWS)), launch);
}

/* Depthwise convolution of planes, where a channel's rows lie together: tiles of rows x vectors of columns (macros: conv_core.h).
 *
 * A row of input is loaded once for all the rows of a tile that it meets. The patch holds a row's columns by their remainder
 * from V_STRIDE_W, so that the columns that a tap meets lie side by side whatever the stride.
 */
enum {
  FN(_COLUMN_VECTORS) = MIN_OF(2, CEIL_DIV(V_Q, GRT_LANES(T))),
  FN(_TILE_COLUMNS) = FN(_COLUMN_VECTORS) * GRT_LANES(T),
  FN(_TILE_ROWS) = CEIL_DIV(V_P, CEIL_DIV(V_P, 8 / FN(_COLUMN_VECTORS))), /* even tiles */
  FN(_TILE_INPUTS) = (FN(_TILE_ROWS) - 1) * V_STRIDE_H + (V_R - 1) * V_DIL_H + 1,
  FN(_LINE) = CEIL_DIV(V_Q, FN(_TILE_COLUMNS)) * FN(_TILE_COLUMNS) + (V_S - 1) * V_DIL_W / V_STRIDE_W, /* of one remainder */
  FN(_WIDTH) = FN(_LINE) * V_STRIDE_W,
  FN(_ROWS_FIT) = (24576 / FN(_WIDTH) - (V_R - 1) * V_DIL_H) / V_STRIDE_H, /* a patch: 96 KB */
  FN(_ROWS_WANTED) = V_N * V_G >= 8 ? V_P : CEIL_DIV(V_P, CEIL_DIV(8, MAX_OF(V_N * V_G, 1))),
  FN(_BLOCK_TILES) = MAX_OF(1, MIN_OF(FN(_ROWS_WANTED), FN(_ROWS_FIT)) / FN(_TILE_ROWS)),
  FN(_BLOCK_ROWS) = FN(_BLOCK_TILES) * FN(_TILE_ROWS),
  FN(_PATCH_ROWS) = (FN(_BLOCK_ROWS) - 1) * V_STRIDE_H + (V_R - 1) * V_DIL_H + 1
};

/* patch[row][remainder][column] <- a plane's rows from `top` of the padded input, zero where nothing is */
GRT_INLINE void FN(_fill)(const FN(_buffers) buf, T *patch, int n, int g, int top, int rows) {
  memset(patch, 0, sizeof(T) * rows * FN(_WIDTH));
  for (int h = 0; h < rows; h++) {
    T *to = patch + h * FN(_WIDTH);
    if (!V_REACHES(top + h)) continue;
#pragma GCC unroll 4
    for (int i = 0; i < V_STRIDE_W; i++) {
      const int first = V_FIRST_W <= i ? 0 : CEIL_DIV(V_FIRST_W - i, V_STRIDE_W);
      const int end = MIN_OF(V_END_W <= i ? 0 : CEIL_DIV(V_END_W - i, V_STRIDE_W), FN(_LINE));
      GRT_SIMD for (int x = first; x < end; x += V_PHASES) to[i * FN(_LINE) + x] = V_X(buf, n, g, 0, top + h, x * V_STRIDE_W + i);
    }
  }
}

/* The tile of outputs at p, q, from the patch's rows at `x` on. */
GRT_INLINE void FN(_tile)(const FN(_buffers) buf, const T *x, const T *w, int n, int g, int p, int q) {
  typedef GRT_VEC(T) vec;
  enum { L = GRT_LANES(T), CT = FN(_COLUMN_VECTORS), RT = FN(_TILE_ROWS), FEW = FN(_TILE_INPUTS) <= 24 };
  vec acc[RT][CT];
#pragma GCC unroll 8
  for (int i = 0; i < RT; i++)
#pragma GCC unroll 2
    for (int v = 0; v < CT; v++) acc[i][v] = (vec){0};
  for (int s = 0; s < V_S; s++) {
    const T *column = x + s * V_DIL_W % V_STRIDE_W * FN(_LINE) + s * V_DIL_W / V_STRIDE_W + q;
    if (FEW) {
#pragma GCC unroll 24
      for (int y = 0; y < FN(_TILE_INPUTS); y++) {
        vec f[CT];
#pragma GCC unroll 2
        for (int v = 0; v < CT; v++) f[v] = *(const vec *)(column + y * FN(_WIDTH) + v * L);
#pragma GCC unroll 8
        for (int i = 0; i < RT; i++) {
          const int down = y - i * V_STRIDE_H;
          if (down < 0 || down % V_DIL_H || down / V_DIL_H >= V_R) continue;
#pragma GCC unroll 2
          for (int v = 0; v < CT; v++) acc[i][v] = GRT_MADD(T, w[down / V_DIL_H * V_S + s], f[v], acc[i][v]);
        }
      }
    } else {
      for (int r = 0; r < V_R; r++)
#pragma GCC unroll 8
        for (int i = 0; i < RT; i++)
#pragma GCC unroll 2
          for (int v = 0; v < CT; v++) {
            const vec f = *(const vec *)(column + (i * V_STRIDE_H + r * V_DIL_H) * FN(_WIDTH) + v * L);
            acc[i][v] = GRT_MADD(T, w[r * V_S + s], f, acc[i][v]);
          }
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < RT; i++) {
    if (p + i >= V_P) break;
    T out[CT * L] __attribute__((aligned(64)));
#pragma GCC unroll 2
    for (int v = 0; v < CT; v++) *(vec *)(out + v * L) = acc[i][v];
    if (q + CT * L <= V_Q) { /* how many there are is known to the compiler */
      GRT_SIMD for (int j = 0; j < CT * L; j++) V_STORE(buf, n, g, 0, p + i, q + j, out[j]);
    } else {
      GRT_SIMD for (int j = 0; j < V_Q % (CT * L); j++) V_STORE(buf, n, g, 0, p + i, q + j, out[j]);
    }
  }
}

static void FN(_task)(long task, void **table) {
  const FN(_buffers) buf = FN(_open)(table);
  enum { PARTS = CEIL_DIV(V_P, FN(_BLOCK_ROWS)) };
  const int n = (int)(task / (V_G * PARTS)), g = (int)(task / PARTS % V_G), p0 = (int)(task % PARTS) * FN(_BLOCK_ROWS);
  const int rows = MIN_OF(CEIL_DIV(V_P - p0, FN(_TILE_ROWS)) * FN(_TILE_ROWS), FN(_BLOCK_ROWS));
  T *patch = grt_scratch(sizeof(T) * FN(_PATCH_ROWS) * FN(_WIDTH));
  FN(_fill)(buf, patch, n, g, p0 * V_STRIDE_H, (rows - 1) * V_STRIDE_H + (V_R - 1) * V_DIL_H + 1);
  T w[V_R * V_S];
  for (int i = 0; i < V_R * V_S; i++) w[i] = V_W(buf, g, 0, 0, i / V_S, i % V_S);
  for (int row = 0; row < rows; row += FN(_TILE_ROWS))
    for (int q = 0; q < V_Q; q += FN(_TILE_COLUMNS))
      FN(_tile)(buf, patch + row * V_STRIDE_H * FN(_WIDTH), w, n, g, p0 + row, q);
}
GRT_LAUNCH void NAME(void **table) {
  GRT_PARALLEL(FN(_task), grt_share(V_N) * V_G * CEIL_DIV(V_P, FN(_BLOCK_ROWS)), table);
}

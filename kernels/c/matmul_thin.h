/* Matrix product of a few rows: B is read once, where it lies, and never packed (matmul.h has the macros).
 *
 * A task owns TILE_N columns. Where B runs along k it adds up products of vectors of k, one column after the other; where B runs
 * along n, vectors of columns. Sums of BLOCK_K products are added in double.
 */
#ifndef ROWS_M
#define ROWS_M 0
#endif
enum {
  FN(_BLOCK_K) = 1024,
  FN(_TILE_N) = MAX_OF(GRT_LANES(T), MIN_OF(64, CEIL_DIV(CEIL_DIV(N, 16), GRT_LANES(T)) * GRT_LANES(T))),
  FN(_TILES_N) = CEIL_DIV(N, FN(_TILE_N))
};
static void FN(_task)(long task, void **table) {
  const FN(_buffers) buf = FN(_open)(table);
  const int b = (int)(task / FN(_TILES_N)), n0 = (int)(task % FN(_TILES_N)) * FN(_TILE_N), width = MIN_OF(N - n0, FN(_TILE_N));
  double total[M][FN(_TILE_N)] __attribute__((aligned(64))) = {{0}};
  for (int k0 = 0; k0 < K; k0 += FN(_BLOCK_K)) {
    const int end = MIN_OF(K, k0 + FN(_BLOCK_K));
    T sum[M][FN(_TILE_N)] __attribute__((aligned(64))) = {{0}};
#if B_FAST_N
    for (int k = k0; k < end; k++)
      for (int m = 0; m < M; m++) {
        const T x = LOAD_A(buf, b, m, k);
        GRT_SIMD for (int j = 0; j < width; j++) sum[m][j] = GRT_FMA(x, LOAD_B(buf, b, k, n0 + j), sum[m][j]);
      }
#else
    enum { L = 2 * GRT_LANES(T) }; /* partial sums, in a fixed order */
    for (int j = 0; j < width; j++) {
      T part[M][L] __attribute__((aligned(64))) = {{0}};
      int k = k0;
      for (; k + L <= end; k += L)
        for (int m = 0; m < M; m++)
          GRT_SIMD for (int l = 0; l < L; l++) part[m][l] = GRT_FMA(LOAD_A(buf, b, m, k + l), LOAD_B(buf, b, k + l, n0 + j), part[m][l]);
      for (; k < end; k++)
        for (int m = 0; m < M; m++) part[m][0] = GRT_FMA(LOAD_A(buf, b, m, k), LOAD_B(buf, b, k, n0 + j), part[m][0]);
      for (int m = 0; m < M; m++)
        for (int l = 0; l < L; l++) sum[m][j] += part[m][l];
    }
#endif
    for (int m = 0; m < M; m++) GRT_SIMD for (int j = 0; j < width; j++) total[m][j] += sum[m][j];
  }
  for (int m = 0; m < M; m++) GRT_SIMD for (int j = 0; j < width; j++) STORE_C(buf, b, m, n0 + j, (T)total[m][j]);
}
GRT_LAUNCH void NAME(void **table) { GRT_PARALLEL(FN(_task), (ROWS_M ? BATCH : grt_share(BATCH)) * FN(_TILES_N), table); }

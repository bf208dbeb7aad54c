/* Matrix product of a few rows: B is read once, where it lies, and never packed (matmul.h has the macros).
 *
 * A task owns TILE_N columns. Where B runs along k it adds up products of vectors of k, two columns at a time; where B runs along
 * n, vectors of columns. Sums of BLOCK_K products are added in double.
 */
#ifndef ROWS_M
#define ROWS_M 0
#endif
enum {
  FN(_BLOCK_K) = 1024,
  FN(_TILE_N) = MAX_OF(GRT_LANES(T), MIN_OF(64, CEIL_DIV(CEIL_DIV(N, 16), GRT_LANES(T)) * GRT_LANES(T))),
  FN(_TILES_N) = CEIL_DIV(N, FN(_TILE_N))
};

#if !B_FAST_N
/* sum[m][j], sum[m][j + 1] from products k0 ... end; `last` is the second column, the first again if it is alone */
GRT_INLINE void FN(_add)(const FN(_buffers) buf, T (*sum)[FN(_TILE_N)], int b, int k0, int end, int n0, int j, int last) {
  typedef GRT_VEC(T) vec;
  enum { L = GRT_LANES(T) }; /* partial sums, in a fixed order */
  vec part[2][M];
#pragma GCC unroll 8
  for (int m = 0; m < M; m++) part[0][m] = part[1][m] = (vec){0};
  int k = k0;
  for (; k + L <= end; k += L) {
    T first[L] __attribute__((aligned(64))), second[L] __attribute__((aligned(64)));
    GRT_SIMD for (int l = 0; l < L; l++) first[l] = LOAD_B(buf, b, k + l, n0 + j);
    GRT_SIMD for (int l = 0; l < L; l++) second[l] = LOAD_B(buf, b, k + l, n0 + last);
#pragma GCC unroll 8
    for (int m = 0; m < M; m++) {
      T x[L] __attribute__((aligned(64)));
      GRT_SIMD for (int l = 0; l < L; l++) x[l] = LOAD_A(buf, b, m, k + l);
      part[0][m] = GRT_MADD(T, *(const vec *)x, *(const vec *)first, part[0][m]);
      part[1][m] = GRT_MADD(T, *(const vec *)x, *(const vec *)second, part[1][m]);
    }
  }
  for (int m = 0; m < M; m++) {
    T left = 0, right = 0;
    for (int l = 0; l < L; l++) left += part[0][m][l], right += part[1][m][l];
    for (int i = k; i < end; i++) {
      left = GRT_FMA(LOAD_A(buf, b, m, i), LOAD_B(buf, b, i, n0 + j), left);
      right = GRT_FMA(LOAD_A(buf, b, m, i), LOAD_B(buf, b, i, n0 + last), right);
    }
    sum[m][j] = left, sum[m][last] = last == j ? left : right;
  }
}
#endif

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
    for (int j = 0; j < width; j += 2) FN(_add)(buf, sum, b, k0, end, n0, j, MIN_OF(j + 1, width - 1));
#endif
    for (int m = 0; m < M; m++) GRT_SIMD for (int j = 0; j < width; j++) total[m][j] += sum[m][j];
  }
  for (int m = 0; m < M; m++) GRT_SIMD for (int j = 0; j < width; j++) STORE_C(buf, b, m, n0 + j, (T)total[m][j]);
}
GRT_LAUNCH void NAME(void **table) { GRT_PARALLEL(FN(_task), (ROWS_M ? BATCH : grt_share(BATCH)) * FN(_TILES_N), table); }

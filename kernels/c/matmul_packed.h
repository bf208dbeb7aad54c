/* Matrix product, blocked and packed (Goto and van de Geijn, "Anatomy of high-performance matrix multiplication"; macros: matmul.h).
 *
 *            N                 A task owns a BLOCK_M x BLOCK_N block of C and hands every element to STORE_C once, when its sum is
 *        K [ B ]               complete. B is packed into panels of TILE_N columns through its loader, so that a transposed, cast
 *   K                          or computed operand costs nothing more: once for all tasks if it is small, else by each.
 * M[ A ] [ C ]
 */
#ifndef ROWS_M
#define ROWS_M 0
#endif
enum {
  FN(_BLOCKS_K) = MAX_OF(1, CEIL_DIV(K, 512)), /* blocks of k: a panel of B is at most 128 KB */
  FN(_BLOCK_K) = CEIL_DIV(MAX_OF(K, 1), FN(_BLOCKS_K)),
  FN(_VECTORS_N) = CEIL_DIV(MAX_OF(N, 1), GRT_LANES(T)),
  FN(_TILES_N) = CEIL_DIV(FN(_VECTORS_N), TILE_VECTORS), /* panels, even ones */
  FN(_VECTORS) = CEIL_DIV(FN(_VECTORS_N), FN(_TILES_N)),
  FN(_TILE_N) = FN(_VECTORS) * GRT_LANES(T),
  FN(_TILE_M) = CEIL_DIV(MAX_OF(M, 1), CEIL_DIV(MAX_OF(M, 1), TILE_ROWS(FN(_VECTORS)))), /* even tiles */
  FN(_TILES_M) = CEIL_DIV(MAX_OF(M, 1), FN(_TILE_M)),
  FN(_MOST_M) = FN(_TILES_M) <= 44 ? 44 : 32, /* tiles of a block of rows: one of all, for which B is packed once, or what suits */
  FN(_LARGE_TASKS) = BATCH * CEIL_DIV(FN(_TILES_M), FN(_MOST_M)) * CEIL_DIV(FN(_TILES_N), 4), /* if tasks are as large as caches like */
  FN(_FEW_TASKS) = FN(_LARGE_TASKS) < 16 && FN(_TILES_M) > 1, /* too few: they are made smaller */
  FN(_SMALL_B) = (long)BATCH * K * N <= 1 << 23, /* 32 MB */
  /* Each block of columns packs its rows of A anew: there is one where there are rows enough to use what is read of B. */
  FN(_TALL) = !A_DIRECT && FN(_SMALL_B) && FN(_TILES_N) <= 4 && FN(_TILES_M) >= 6 * CEIL_DIV(16, MAX_OF(1, BATCH)),
  FN(_BLOCKS_N) = CEIL_DIV(FN(_TILES_N), FN(_FEW_TASKS) && !FN(_TALL) ? 1 : 4),
  FN(_WANTED_BLOCKS_M) = CEIL_DIV(16, MAX_OF(1, BATCH * FN(_BLOCKS_N))), /* blocks of rows, so that there are 16 tasks */
  FN(_BLOCKS_M) = CEIL_DIV(FN(_TILES_M), MAX_OF(1, MIN_OF(FN(_MOST_M), FN(_TILES_M) / FN(_WANTED_BLOCKS_M)))),
  FN(_BLOCK_M) = CEIL_DIV(FN(_TILES_M), FN(_BLOCKS_M)) * FN(_TILE_M),
  FN(_BLOCK_N) = CEIL_DIV(FN(_TILES_N), FN(_BLOCKS_N)) * FN(_TILE_N),
  /* Packing takes many rows, or long ones, to pay. */
  FN(_IN_PLACE) = B_DIRECT && !FROZEN && M <= 256 && N >= FN(_TILE_N) && N <= 2048,
  FN(_SHARED) = !FN(_IN_PLACE) && K > 0 && (FROZEN || (FN(_BLOCKS_M) > 1 && FN(_SMALL_B))),
  FN(_FETCHES) = FN(_SHARED) && M <= 256, /* with more rows there is time enough */
  /* Of packed A: no power of two, which would crowd one set of a cache. */
  FN(_PITCH) = (A_FAST_M ? FN(_BLOCK_M) : FN(_BLOCK_K)) + 16
};

/* to[k][TILE_N] <- columns n0 ... of B from row k0, zero right of the last column */
GRT_INLINE void FN(_panel)(const FN(_buffers) buf, T *to, int b, int k0, int depth, int n0) {
  enum { L = GRT_LANES(T), NV = FN(_VECTORS), NR = FN(_TILE_N) };
  const int width = MIN_OF(N - n0, NR);
  int k = 0;
#if !B_FAST_N
  if (width == NR)
    for (; k + L <= depth; k += L) /* a transposition, in registers */
      for (int v = 0; v < NV; v++) {
        GRT_VEC(T) r[L];
        for (int j = 0; j < L; j++) {
          T row[L] __attribute__((aligned(64)));
          GRT_SIMD for (int i = 0; i < L; i++) row[i] = LOAD_B(buf, b, k0 + k + i, n0 + v * L + j);
          r[j] = *(const GRT_VEC(T) *)row;
        }
        GRT_JOIN(grt_transpose_, T)(r);
        for (int i = 0; i < L; i++) *(GRT_VEC(T) *)(to + ((k + i) * NV + v) * L) = r[i];
      }
#endif
  for (; k < depth; k++) {
    if (width == NR) {
      GRT_SIMD for (int j = 0; j < NR; j++) to[k * NR + j] = LOAD_B(buf, b, k0 + k, n0 + j);
    } else {
      GRT_SIMD for (int j = 0; j < width; j++) to[k * NR + j] = LOAD_B(buf, b, k0 + k, n0 + j);
      for (int j = width; j < NR; j++) to[k * NR + j] = 0;
    }
  }
}

/* [batch][panel][k][TILE_N]; launch[0] is the packed B, launch[1] the buffers */
static void FN(_pack)(long task, void **launch) {
  const int tn = (int)(task / FN(_BLOCKS_K) % FN(_TILES_N)), b = (int)(task / (FN(_BLOCKS_K) * FN(_TILES_N)));
  const int k0 = (int)(task % FN(_BLOCKS_K)) * FN(_BLOCK_K);
  T *to = (T *)launch[0] + (((size_t)b * FN(_TILES_N) + tn) * K + k0) * FN(_TILE_N);
  FN(_panel)(FN(_open)(launch[1]), to, b, k0, MIN_OF(K - k0, FN(_BLOCK_K)), tn * FN(_TILE_N));
}

/* Rows m ... of C, one panel of columns from n; `sums` holds what blocks of k before the ``first`` ... ``last`` have added. Rows
 * from `rows` on repeat the last one, and are not used. Where B lies in place, the last panel begins `shift` columns sooner, to
 * end with the row, and what it shares with the one before is not stored again. From `next` on, `stride` bytes a step are fetched:
 * this tile's part of the panel that comes after this one. */
GRT_INLINE void FN(_tile)(const FN(_buffers) buf, const T *a, const T *panel, T *sums, int b, int m, int n, int k0, int depth,
                          const char *next, long stride, const int rows) {
  typedef GRT_VEC(T) vec;
  enum { L = GRT_LANES(T), NV = FN(_VECTORS), MR = FN(_TILE_M), NR = FN(_TILE_N) };
  const int width = MIN_OF(N - n, NR), shift = FN(_IN_PLACE) ? NR - width : 0;
  vec acc[MR][NV];
#pragma GCC unroll 16
  for (int i = 0; i < MR; i++)
#pragma GCC unroll 4
    for (int v = 0; v < NV; v++) acc[i][v] = (vec){0};
#ifdef FETCH_C
  if (k0 + depth >= K) { /* what the sums will meet comes meanwhile: rows of results lie far apart */
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
      for (int v = 0; v < NV; v++) FETCH_C(buf, b, m + i, MIN_OF(n + v * L, N - 1));
  }
#endif
  for (int k = 0; k < depth; k++) {
    vec w[NV];
    if (FN(_FETCHES)) GRT_FETCH(next + k * stride);
#pragma GCC unroll 4
    for (int v = 0; v < NV; v++) {
      T row[L] __attribute__((aligned(64)));
      if (FN(_IN_PLACE)) GRT_SIMD for (int j = 0; j < L; j++) row[j] = LOAD_B(buf, b, k0 + k, n - shift + v * L + j);
      w[v] = *(const vec *)(FN(_IN_PLACE) ? row : panel + (k * NV + v) * L);
    }
#pragma GCC unroll 16
    for (int i = 0; i < MR; i++) {
#if A_DIRECT
      const T x = LOAD_A(buf, b, m + MIN_OF(i, rows - 1), k0 + k);
#elif A_FAST_M
      const T x = a[k * FN(_PITCH) + MIN_OF(i, rows - 1)];
#else
      const T x = a[MIN_OF(i, rows - 1) * FN(_PITCH) + k];
#endif
#pragma GCC unroll 4
      for (int v = 0; v < NV; v++) acc[i][v] = GRT_ADD(T, x, w[v], acc[i][v]);
    }
  }
  (void)a;
  if (FN(_BLOCKS_K) > 1) { /* only now: rounding errors grow with a block's length, not with K */
    /* In memory, not in `acc`: a register with two values to hold is stored at every step of the loop above. */
    if (k0 > 0) {
#pragma GCC unroll 16
      for (int i = 0; i < MR; i++)
#pragma GCC unroll 4
        for (int v = 0; v < NV; v++) *(vec *)(sums + (i * NV + v) * L) += acc[i][v];
    } else {
#pragma GCC unroll 16
      for (int i = 0; i < MR; i++)
#pragma GCC unroll 4
        for (int v = 0; v < NV; v++) *(vec *)(sums + (i * NV + v) * L) = acc[i][v];
    }
    if (k0 + depth < K) return;
  }
  for (int i = 0; i < rows; i++) {
    T row[NR] __attribute__((aligned(64)));
    const T *out = FN(_BLOCKS_K) > 1 ? sums + i * NR : row;
    if (FN(_BLOCKS_K) == 1)
#pragma GCC unroll 4
      for (int v = 0; v < NV; v++) *(vec *)(row + v * L) = acc[i][v];
    if (width == NR) {
      GRT_SIMD for (int j = 0; j < NR; j++) STORE_C(buf, b, m + i, n + j, out[j]);
    } else {
      GRT_SIMD for (int j = 0; j < width; j++) STORE_C(buf, b, m + i, n + j, out[shift + j]);
    }
  }
}

static void FN(_task)(long task, void **launch) {
  const FN(_buffers) buf = FN(_open)(launch[1]);
  enum {
    MR = FN(_TILE_M), NR = FN(_TILE_N), MB = FN(_BLOCKS_M), NB = FN(_BLOCKS_N), BM = FN(_BLOCK_M), BN = FN(_BLOCK_N),
    KC = FN(_BLOCK_K), PITCH = FN(_PITCH),
    OWN = !FN(_SHARED) && !FN(_IN_PLACE), /* a task packs its own part of B */
    SIZE_A = A_DIRECT ? 0 : (A_FAST_M ? KC : BM) * PITCH, SIZE_B = OWN ? KC * BN : 0, SUMS = FN(_BLOCKS_K) > 1 ? BM * BN : 0
  };
  const int b = (int)(task / (MB * NB)), t = (int)(task % (MB * NB)); /* neighbours share what is larger */
  const int m0 = (M < N ? t % MB : t / NB) * BM, n0 = (M < N ? t / MB : t % NB) * BN;
  const int rows = MIN_OF((ROWS_M ? (int)(intptr_t)launch[2] : M) - m0, BM), cols = MIN_OF(N - n0, BN);
  if (ROWS_M && rows <= 0) return; /* past the last row of the batch */
  T *pa = grt_scratch(sizeof(T) * (SIZE_A + SIZE_B + SUMS + 16)), *pb = pa + SIZE_A, *sums = pb + SIZE_B;
  for (int k0 = 0; k0 == 0 || k0 < K; k0 += KC) {
    const int depth = MIN_OF(K - k0, KC);
#if A_FAST_M
    for (int k = 0; k < depth; k++) GRT_SIMD for (int i = 0; i < rows; i++) pa[k * PITCH + i] = LOAD_A(buf, b, m0 + i, k0 + k);
#elif !A_DIRECT
    for (int i = 0; i < rows; i++) GRT_SIMD for (int k = 0; k < depth; k++) pa[i * PITCH + k] = LOAD_A(buf, b, m0 + i, k0 + k);
#endif
    if (OWN)
      for (int tn = 0; tn < cols; tn += NR) FN(_panel)(buf, pb + tn * KC, b, k0, depth, n0 + tn);
    const int down = CEIL_DIV(rows, MR), across = CEIL_DIV(cols, NR);
    const long stride = (long)sizeof(T) * NR / down; /* the tiles down a panel fetch the next one together */
    for (int tile = 0; tile < down * across; tile++) { /* down each panel, which stays in the first cache */
      const int tm = tile % down * MR, tn = tile / down * NR;
      const T *a = pa + tm * (A_FAST_M ? 1 : PITCH), *panel = pb + tn * KC;
      if (FN(_SHARED)) panel = (const T *)launch[0] + (((size_t)b * FN(_TILES_N) + (n0 + tn) / NR) * K + k0) * NR;
      const char *next = (const char *)(panel + (size_t)(across > 1 ? K : depth) * NR) + tile % down * depth * stride;
      T *sum = sums + (SUMS > 0) * (tn * BM + tm * NR);
      if (tm + MR <= rows) {
        FN(_tile)(buf, a, panel, sum, b, m0 + tm, n0 + tn, k0, depth, next, stride, MR);
      } else {
        FN(_tile)(buf, a, panel, sum, b, m0 + tm, n0 + tn, k0, depth, next, stride, rows - tm);
      }
    }
  }
}
GRT_LAUNCH void NAME(void **table) {
  enum { PANELS = BATCH * FN(_TILES_N) };
  void *launch[3] = {NULL, table, (void *)(intptr_t)(ROWS_M ? grt_share(M) : M)}, **kept = GRT_KEPT(table, FROZEN);
  if (M == 0 || N == 0) return;
  const size_t bytes = sizeof(T) * PANELS * FN(_TILE_N) * K;
  if (FN(_SHARED)) launch[0] = grt_prepare(FN(_pack), PANELS * FN(_BLOCKS_K), bytes, kept, table);
  GRT_PARALLEL(FN(_task), (ROWS_M ? (long)BATCH : grt_share(BATCH)) * FN(_BLOCKS_M) * FN(_BLOCKS_N), launch);
}

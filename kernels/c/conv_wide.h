/* Convolution to many output channels: tiles of [columns] x [vectors of channels], one input element broadcast (conv_core.h).
 *
 * A task owns BLOCK_ROWS rows of one image and TASK_BLOCKS_K blocks of TILE_K output channels. It walks over the input channels
 * in blocks of BLOCK_C, so that a block of the filter stays in the second cache while every column of the task passes over it;
 * sums that are not complete wait in scratch memory.
 *
 *   for each block of input channels:        patch [row][column][BLOCK_C] <- input, padded
 *     for each block of output channels:
 *       for each row, each tile of columns:  acc[columns][VECTORS] += patch (broadcast) * filter
 */
enum {
  FN(_VECTORS_K) = CEIL_DIV(V_K, GRT_LANES(T)),
  FN(_PHASE_COLUMNS) = MAX_OF(CEIL_DIV(V_Q, V_PHASES), 1) /* of a phase, at most */
};
/* Columns of a tile of v vectors, evenly; and the time for one row and input channel: products, and the filter's vectors read. */
#define GRT_TILE_COLUMNS(v) CEIL_DIV(FN(_PHASE_COLUMNS), CEIL_DIV(FN(_PHASE_COLUMNS), TILE_ROWS(v)))
#define GRT_TIME(v) (CEIL_DIV(FN(_VECTORS_K), v) * CEIL_DIV(FN(_PHASE_COLUMNS), TILE_ROWS(v)) * ((v)*GRT_TILE_COLUMNS(v) + (v)))
enum {
  FN(_MOST_VECTORS) = MIN_OF(TILE_VECTORS, FN(_VECTORS_K)),
  /* A narrower tile may hold a whole row. */
  FN(_VECTORS) = FN(_MOST_VECTORS) == 4 && GRT_TIME(3) < GRT_TIME(4) ? 3 : FN(_MOST_VECTORS),
  FN(_TILE_K) = FN(_VECTORS) * GRT_LANES(T),
  FN(_BLOCKS_K) = CEIL_DIV(V_K, FN(_TILE_K)),
  FN(_BLOCKS_C) = CEIL_DIV(V_C * V_R * V_S * FN(_TILE_K), 49152), /* a block of the filter: 192 KB */
  FN(_BLOCK_C) = FN(_BLOCKS_C) == 1 ? V_C : CEIL_DIV(CEIL_DIV(V_C, FN(_BLOCKS_C)), GRT_LANES(T)) * GRT_LANES(T),
  FN(_WIDTH) = (V_Q - 1) * V_STRIDE_W + (V_S - 1) * V_DIL_W + 1,
  FN(_ROWS_FIT) = (32768 / (FN(_BLOCK_C) * FN(_WIDTH)) - (V_R - 1) * V_DIL_H) / V_STRIDE_H, /* a patch: 128 KB */
  FN(_ROW_TASKS) = V_N * V_G * CEIL_DIV(V_P, MAX_OF(1, MIN_OF(V_P, FN(_ROWS_FIT)))),
  FN(_MOST_BLOCKS_K) = FN(_BLOCKS_C) == 1 ? FN(_BLOCKS_K) : MIN_OF(FN(_BLOCKS_K), 2),
  FN(_TASK_BLOCKS_K) =
      FN(_ROW_TASKS) >= 16 ? FN(_MOST_BLOCKS_K) : MAX_OF(1, MIN_OF(FN(_MOST_BLOCKS_K), FN(_BLOCKS_K) * FN(_ROW_TASKS) / 16)),
  FN(_WHOLE_TASKS) = MAX_OF(1, V_N * V_G * CEIL_DIV(FN(_BLOCKS_K), FN(_TASK_BLOCKS_K))), /* if each had all rows */
  FN(_ROWS_WANTED) = FN(_WHOLE_TASKS) >= 8 ? V_P : CEIL_DIV(V_P, CEIL_DIV(8, FN(_WHOLE_TASKS))),
  FN(_PARTS) = CEIL_DIV(V_P, MAX_OF(1, MIN_OF(FN(_ROWS_WANTED), FN(_ROWS_FIT)))),
  FN(_BLOCK_ROWS) = CEIL_DIV(V_P, FN(_PARTS)),
  FN(_PATCH_ROWS) = (FN(_BLOCK_ROWS) - 1) * V_STRIDE_H + (V_R - 1) * V_DIL_H + 1,
  FN(_FILTER_BLOCK) = FN(_BLOCK_C) * V_R * V_S * FN(_TILE_K), /* numbers of the filter in one block */
  FN(_ROW_TILES) = MAX_OF(MIN_OF(V_PHASES, V_Q), 1) * CEIL_DIV(FN(_PHASE_COLUMNS), GRT_TILE_COLUMNS(FN(_VECTORS))),
  FN(_TILES) = FN(_BLOCK_ROWS) * FN(_ROW_TILES), /* that meet a block */
  FN(_FETCHES) = FN(_TILES) <= 64, /* else there is time enough */
  FN(_FETCH_STEP) = sizeof(T) * FN(_TILE_K) / MAX_OF(FN(_TILES), 1) /* bytes fetched a step */
};

GRT_FILTER(FN(_TILE_K))

/* [group][block of k][block of c][tap][channel][lane]; launch[0] is the packed filter, launch[1] the buffers */
static void FN(_pack)(long task, void **launch) {
  const FN(_buffers) buf = FN(_open)(launch[1]);
  const int cb = (int)task % FN(_BLOCKS_C), kb = (int)task / FN(_BLOCKS_C) % FN(_BLOCKS_K);
  const int g = (int)task / (FN(_BLOCKS_C) * FN(_BLOCKS_K));
  T *out = (T *)launch[0] + task * FN(_FILTER_BLOCK);
  const int channels = MIN_OF(V_C - cb * FN(_BLOCK_C), FN(_BLOCK_C)), width = MIN_OF(V_K - kb * FN(_TILE_K), FN(_TILE_K));
  if (width < FN(_TILE_K)) memset(out, 0, sizeof(T) * FN(_FILTER_BLOCK));
  for (int r = 0; r < V_R; r++)
    for (int s = 0; s < V_S; s++, out += channels * FN(_TILE_K))
      FN(_filter)(buf, out, g, kb * FN(_TILE_K), width, cb * FN(_BLOCK_C), channels, r, s);
}

/* One tile: wb columns from q in row p. ``sums`` holds what blocks of channels before the ``first`` ... ``last`` have added. The
 * filter's next block is fetched, by all tiles together: this one fetches from `next` on. */
GRT_INLINE void FN(_columns)(const FN(_buffers) buf, const T *patch, const T *w, T *sums, int n, int g, int kb, int p, int row,
                             int q, const int wb, const int channels, const int first, const int last, const char *next) {
  typedef GRT_VEC(T) vec;
  enum { L = GRT_LANES(T), NV = FN(_VECTORS), WB = TILE_ROWS(FN(_VECTORS)), CB = FN(_BLOCK_C), PITCH = FN(_WIDTH) * CB };
  vec acc[WB][NV];
#pragma GCC unroll 16
  for (int i = 0; i < wb; i++)
#pragma GCC unroll 4
    for (int v = 0; v < NV; v++) acc[i][v] = (vec){0};
  if (!first) {
#pragma GCC unroll 16
    for (int i = 0; i < wb; i++)
#pragma GCC unroll 4
      for (int v = 0; v < NV; v++) acc[i][v] = *(const vec *)(sums + (i * V_PHASES * NV + v) * L);
  }
  for (int r = 0; r < V_R; r++)
    for (int s = 0; s < V_S; s++) {
      if (!V_REACHES(p * V_STRIDE_H + r * V_DIL_H) || !V_MEETS_W(q * V_STRIDE_W + s * V_DIL_W)) {
        w += channels * NV * L;
        next += channels * FN(_FETCH_STEP);
        continue;
      }
      const T *x = patch + (row * V_STRIDE_H + r * V_DIL_H) * PITCH + (q * V_STRIDE_W + s * V_DIL_W) * CB;
      for (int c = 0; c < channels; c++, w += NV * L) {
        vec f[NV];
        if (FN(_FETCHES)) GRT_FETCH(next);
        next += FN(_FETCH_STEP);
#pragma GCC unroll 4
        for (int v = 0; v < NV; v++) {
          f[v] = *(const vec *)(w + v * L);
          GRT_REGISTER(f[v]);
        }
#pragma GCC unroll 16
        for (int i = 0; i < wb; i++)
#pragma GCC unroll 4
          for (int v = 0; v < NV; v++) acc[i][v] = GRT_ADD(T, x[i * V_PHASES * V_STRIDE_W * CB + c], f[v], acc[i][v]);
      }
    }
  if (!last) {
#pragma GCC unroll 16
    for (int i = 0; i < wb; i++)
#pragma GCC unroll 4
      for (int v = 0; v < NV; v++) *(vec *)(sums + (i * V_PHASES * NV + v) * L) = acc[i][v];
    return;
  }
  const int width = MIN_OF(V_K - kb * NV * L, NV * L);
  for (int i = 0; i < wb; i++) {
    T out[NV * L] __attribute__((aligned(64)));
#pragma GCC unroll 4
    for (int v = 0; v < NV; v++) *(vec *)(out + v * L) = acc[i][v];
    if (width == NV * L) {
      GRT_SIMD for (int k = 0; k < NV * L; k++) V_STORE(buf, n, g, kb * NV * L + k, p, q + i * V_PHASES, out[k]);
    } else {
      GRT_SIMD for (int k = 0; k < width; k++) V_STORE(buf, n, g, kb * NV * L + k, p, q + i * V_PHASES, out[k]);
    }
  }
}

static void FN(_task)(long task, void **launch) {
  const FN(_buffers) buf = FN(_open)(launch[1]);
  enum {
    CB = FN(_BLOCK_C), CBLOCKS = FN(_BLOCKS_C), NK = FN(_TILE_K), PARTS = FN(_PARTS), WIDTH = FN(_WIDTH),
    KGROUPS = CEIL_DIV(FN(_BLOCKS_K), FN(_TASK_BLOCKS_K)),
    LESS = V_Q / V_PHASES, MORE = FN(_PHASE_COLUMNS), /* columns of a phase: the first V_Q % V_PHASES have MORE */
    WB = GRT_TILE_COLUMNS(FN(_VECTORS))
  };
  const int kg = (int)(task % KGROUPS), part = (int)(task / KGROUPS % PARTS), g = (int)(task / (KGROUPS * PARTS) % V_G);
  const int n = (int)(task / ((long)KGROUPS * PARTS * V_G)), p0 = part * FN(_BLOCK_ROWS), k0 = kg * FN(_TASK_BLOCKS_K);
  const int rows = MIN_OF(V_P - p0, FN(_BLOCK_ROWS)), height = (rows - 1) * V_STRIDE_H + (V_R - 1) * V_DIL_H + 1;
  const long waiting = CBLOCKS == 1 ? 0 : (long)FN(_TASK_BLOCKS_K) * FN(_BLOCK_ROWS) * V_Q * NK;
  T *patch = grt_scratch(sizeof(T) * (CB * FN(_PATCH_ROWS) * WIDTH + waiting + 64));
  T *sums = patch + CB * FN(_PATCH_ROWS) * WIDTH;
  for (int cb = 0; cb < CBLOCKS; cb++) {
    const int channels = CBLOCKS == 1 ? CB : MIN_OF(V_C - cb * CB, CB), first = cb == 0, last = cb == CBLOCKS - 1;
    for (int h = 0; h < height; h++) {
      T *to = patch + h * WIDTH * CB;
      if (!V_CHANNELS_LAST && V_PHASES == 1 && V_C <= 4 && CBLOCKS == 1) { /* rows of few channels, in vectors that GCC weaves */
        const int y = p0 * V_STRIDE_H + h;
        int from = 0, end = WIDTH;
        while (from < end && !V_INSIDE(y, from)) from++;
        while (from < end && !V_INSIDE(y, end - 1)) end--;
        memset(to, 0, sizeof(T) * CB * from);
        memset(to + end * CB, 0, sizeof(T) * CB * (WIDTH - end));
        GRT_SIMD for (int x = from; x < end; x++)
          _Pragma("GCC unroll 4") for (int c = 0; c < CB; c++) to[x * CB + c] = V_X(buf, n, g, c, y, x);
        continue;
      }
      for (int x = 0; x < WIDTH; x++, to += CB) {
        if (V_INSIDE(p0 * V_STRIDE_H + h, x)) {
          GRT_SIMD for (int c = 0; c < channels; c++) to[c] = V_X(buf, n, g, cb * CB + c, p0 * V_STRIDE_H + h, x);
        } else {
          memset(to, 0, sizeof(T) * CB);
        }
      }
    }
    for (int kb = k0; kb < MIN_OF(k0 + FN(_TASK_BLOCKS_K), FN(_BLOCKS_K)); kb++) {
      const T *w = (const T *)launch[0] + ((size_t)(g * FN(_BLOCKS_K) + kb) * CBLOCKS + cb) * FN(_FILTER_BLOCK);
      /* The filter's next block, and what a tile fetches of it */
      const char *next = (const char *)(w + (size_t)FN(_FILTER_BLOCK) * (FN(_TASK_BLOCKS_K) > 1 ? CBLOCKS : 1));
      const long slice = (long)V_R * V_S * channels * FN(_FETCH_STEP);
      for (int row = 0; row < rows; row++)
        for (int phase = 0; phase < MIN_OF(V_PHASES, V_Q); phase++) {
          T *sum = sums + (((long)(kb - k0) * FN(_BLOCK_ROWS) + row) * V_Q + phase) * NK * (CBLOCKS > 1);
          const int columns = phase < V_Q % V_PHASES ? MORE : LESS;
          int i = 0, q = phase;
          for (; i + WB <= columns; i += WB, q += WB * V_PHASES, sum += WB * V_PHASES * NK * (CBLOCKS > 1), next += slice)
            FN(_columns)(buf, patch, w, sum, n, g, kb, p0 + row, row, q, WB, channels, first, last, next);
          if (i == columns) continue;
          if (columns == LESS) {
            FN(_columns)(buf, patch, w, sum, n, g, kb, p0 + row, row, q, LESS % WB, channels, first, last, next);
          } else {
            FN(_columns)(buf, patch, w, sum, n, g, kb, p0 + row, row, q, V_PHASES > 1 ? MORE % WB : 0, channels, first, last, next);
          }
          next += slice;
        }
    }
  }
}
GRT_LAUNCH void NAME(void **table) {
  enum { BLOCKS = V_G * FN(_BLOCKS_K) * FN(_BLOCKS_C) };
  void **kept = GRT_KEPT(table, FROZEN);
  void *launch[2] = {grt_prepare(FN(_pack), BLOCKS, sizeof(T) * BLOCKS * FN(_FILTER_BLOCK), kept, table), table};
  GRT_PARALLEL(FN(_task), grt_share(V_N) * V_G * FN(_PARTS) * CEIL_DIV(FN(_BLOCKS_K), FN(_TASK_BLOCKS_K)), launch);
}

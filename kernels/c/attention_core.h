/* What attention and its gradients share: blocks of scores, products of blocks, and blocks of operands as products take them.
 *
 * A task has BLOCK_I of ALONG rows and walks over blocks of BLOCK_J of ACROSS columns, each block of scores a product in scratch
 * memory; DEPTH columns of results are summed up. A template has rows of queries and columns of keys, or the other way round.
 *
 * Macros: those of attention.h, ALONG, ACROSS and DEPTH.
 */
#include "tile.h"
enum {
  FN(_VECTORS_J) = CEIL_DIV(MAX_OF(MIN_OF(ACROSS, 128), 1), GRT_LANES(T)),
  FN(_TILES_J) = CEIL_DIV(FN(_VECTORS_J), ROWS ? MIN_OF(TILE_VECTORS, 2) : TILE_VECTORS), /* narrow ones along a diagonal */
  FN(_TILE_J) = CEIL_DIV(FN(_VECTORS_J), FN(_TILES_J)), /* vectors */
  FN(_COLUMNS_J) = FN(_TILE_J) * GRT_LANES(T),
  FN(_BLOCK_J) = FN(_TILES_J) * FN(_COLUMNS_J),
  FN(_VECTORS_D) = CEIL_DIV(MAX_OF(DEPTH, 1), GRT_LANES(T)),
  FN(_TILES_D) = CEIL_DIV(FN(_VECTORS_D), TILE_VECTORS),
  FN(_TILE_D) = CEIL_DIV(FN(_VECTORS_D), FN(_TILES_D)),
  FN(_PITCH_D) = FN(_TILES_D) * FN(_TILE_D) * GRT_LANES(T),
  /* Blocks of rows, even ones of whole tiles: so that there are 16 tasks, and few rows where some see less than others. */
  FN(_WANTED_BLOCKS_I) = MAX_OF(CEIL_DIV(16, MAX_OF(BATCH, 1)), CEIL_DIV(MAX_OF(ALONG, 1), ROWS ? 48 : 120)),
  FN(_EVEN_I) = CEIL_DIV(MAX_OF(CEIL_DIV(MAX_OF(ALONG, 1), FN(_WANTED_BLOCKS_I)), 24), 12) * 12,
  FN(_BLOCK_I) = MIN_OF(FN(_EVEN_I), MAX_OF(ALONG, 1)),
  FN(_BLOCKS_I) = CEIL_DIV(ALONG, FN(_BLOCK_I)),
  FN(_PITCH_K) = CK + 16, /* no power of two, which would crowd one set of a cache */
  FN(_PITCH_V) = CV + 16
};
/* c[rows][VECTORS] <- (c or 0) + a[rows][depth] * b[depth][VECTORS]; and of as many `columns`, in whole tiles */
#define ATTENTION_PRODUCT(name, VECTORS)                                                                                          \
  GRT_INLINE void FN(name)(const T *a, const int pitch, const T *b, const int width, T *c, const int more, int depth, const int rows) { \
    typedef GRT_VEC(T) vec;                                                                                                        \
    enum { L = GRT_LANES(T) };                                                                                                     \
    vec acc[TILE_ROWS(VECTORS)][VECTORS];                                                                                          \
    _Pragma("GCC unroll 16") for (int i = 0; i < TILE_ROWS(VECTORS); i++)                                                          \
      _Pragma("GCC unroll 4") for (int v = 0; v < VECTORS; v++)                                                                    \
        acc[i][v] = more ? *(const vec *)(c + MIN_OF(i, rows - 1) * width + v * L) : (vec){0};                                     \
    for (int k = 0; k < depth; k++) {                                                                                              \
      vec w[VECTORS];                                                                                                              \
      _Pragma("GCC unroll 4") for (int v = 0; v < VECTORS; v++) w[v] = *(const vec *)(b + k * width + v * L);                      \
      _Pragma("GCC unroll 16") for (int i = 0; i < TILE_ROWS(VECTORS); i++) {                                                      \
        const T x = a[MIN_OF(i, rows - 1) * pitch + k];                                                                            \
        _Pragma("GCC unroll 4") for (int v = 0; v < VECTORS; v++) acc[i][v] = GRT_MADD(T, x, w[v], acc[i][v]);                     \
      }                                                                                                                            \
    }                                                                                                                              \
    for (int i = 0; i < rows; i++)                                                                                                 \
      _Pragma("GCC unroll 4") for (int v = 0; v < VECTORS; v++) *(vec *)(c + i * width + v * L) = acc[i][v];                       \
  }                                                                                                                                \
  GRT_INLINE void FN(name##s)(const T *a, const int pitch, const T *b, const int width, T *c, const int more, int depth, int rows, \
                             int columns) {                                                                                        \
    enum { MR = TILE_ROWS(VECTORS), NR = VECTORS * GRT_LANES(T) };                                                                 \
    for (int j = 0; j < columns; j += NR)                                                                                            \
      for (int i = 0; i < rows; i += MR)                                                                                           \
        if (i + MR <= rows)                                                                                                        \
          FN(name)(a + i * pitch, pitch, b + j, width, c + i * width + j, more, depth, MR);                                        \
        else                                                                                                                       \
          FN(name)(a + i * pitch, pitch, b + j, width, c + i * width + j, more, depth, rows - i);                                  \
  }
ATTENTION_PRODUCT(_score, FN(_TILE_J))
ATTENTION_PRODUCT(_sum, FN(_TILE_D))

/* name: to[k][BLOCK_J] <- LOAD's rows j0 ... turned, 0 behind the last of `width` up to the end of its tile */
#define ATTENTION_TURNED(name, LOAD, SIZE)                                                                                         \
  GRT_INLINE void FN(name)(const FN(_buffers) buf, T *to, int b, int j0, int width) {                                              \
    enum { L = GRT_LANES(T), BJ = FN(_BLOCK_J) };                                                                                  \
    const int end = CEIL_DIV(width, FN(_COLUMNS_J)) * FN(_COLUMNS_J);                                                              \
    int k = 0;                                                                                                                     \
    for (; k + L <= SIZE; k += L) { /* a transposition, in registers */                                                            \
      int j = 0;                                                                                                                   \
      for (; j + L <= width; j += L) {                                                                                             \
        GRT_VEC(T) r[L];                                                                                                           \
        for (int l = 0; l < L; l++) {                                                                                              \
          T row[L] __attribute__((aligned(64)));                                                                                   \
          GRT_SIMD for (int i = 0; i < L; i++) row[i] = LOAD(buf, b, j0 + j + l, k + i);                                           \
          r[l] = *(const GRT_VEC(T) *)row;                                                                                         \
        }                                                                                                                          \
        GRT_JOIN(grt_transpose_, T)(r);                                                                                            \
        for (int i = 0; i < L; i++) *(GRT_VEC(T) *)(to + (k + i) * BJ + j) = r[i];                                                 \
      }                                                                                                                            \
      for (int i = 0; i < L; i++)                                                                                                  \
        for (int l = j; l < end; l++) to[(k + i) * BJ + l] = l < width ? LOAD(buf, b, j0 + l, k + i) : 0;                           \
    }                                                                                                                              \
    for (; k < SIZE; k++)                                                                                                          \
      for (int j = 0; j < end; j++) to[k * BJ + j] = j < width ? LOAD(buf, b, j0 + j, k) : 0;                                       \
  }
/* to[rows][PITCH] <- LOAD's rows from `first` on, times `factor`, 0 behind SIZE */
#define ATTENTION_ROWS(to, PITCH, LOAD, SIZE, first, rows, factor)                                                                 \
  for (int row = 0; row < rows; row++) {                                                                                           \
    GRT_SIMD for (int d = 0; d < SIZE; d++) to[row * (PITCH) + d] = LOAD(buf, b, first + row, d) * (factor);                       \
    for (int d = SIZE; d < (PITCH); d++) to[row * (PITCH) + d] = 0;                                                                \
  }
/* The last key that a query sees. */
GRT_INLINE int FN(_last)(int m) { return !ROWS ? CN - 1 : ROWS == CM ? m : m % MAX_OF(ROWS, 1); }
/* The first query that sees key n, and how many keys from n0 on any query up to one that sees `last` does, a block's at most. */
#define ATTENTION_FIRST(n) (ROWS > 0 && ROWS == CM ? (n) : 0)
#define ATTENTION_WIDTH(n0, last) MIN_OF(MIN_OF(CN - (n0), FN(_BLOCK_J)), (last) + 1 - (n0))
/* part[0] <- all of part[GRT_LANES(T)], by halves: one after the other each would wait for the one before. */
#define ATTENTION_FOLD(part, with) \
  _Pragma("GCC unroll 4") for (int half = GRT_LANES(T) / 2; half > 0; half /= 2) \
    _Pragma("GCC unroll 8") for (int l = 0; l < half; l++) part[l] = with(part[l], part[l + half]);
#define ATTENTION_SUM(a, b) ((a) + (b))
#define ATTENTION_LARGER(a, b) ((b) > (a) ? (b) : (a))

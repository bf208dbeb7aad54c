/* Pooling without padding: each window is folded in registers, those of a line of channels, or of a block of rows that is copied
 * first, so that vectors run on over the ends of short rows (macros: pool.h).
 */
/* PUT(i, value, index) of all windows below `count`, whose elements are TAP(i, r, s) */
#if defined(OP_MAX) && INDEXED
#define FOLD(count)                                                                  \
  GRT_SIMD for (int i = 0; i < (count); i++) {                                       \
    T best = TAP(i, 0, 0);                                                           \
    int index = 0, none = CR * CS; /* the first tap that is no number */             \
    _Pragma("GCC unroll 16") for (int tap = 0; tap < CR * CS; tap++) {               \
      const T x = TAP(i, tap / CS, tap % CS);                                        \
      index = x > best ? tap : index, best = x > best ? x : best;                    \
      none = MIN_OF(none, x != x ? tap : CR * CS);                                   \
    }                                                                                \
    PUT(i, none < CR * CS ? (T)NAN : best, none < CR * CS ? none : index);           \
  }
#elif defined(OP_MAX) /* a second loop: GCC leaves what is left of the first, without its index, as it is, a number at a time */
#define FOLD(count)                                                                  \
  GRT_SIMD for (int i = 0; i < (count); i++) {                                       \
    T best = TAP(i, 0, 0);                                                           \
    int odd = 0; /* whether one is no number */                                      \
    _Pragma("GCC unroll 16") for (int tap = 0; tap < CR * CS; tap++) {               \
      const T x = TAP(i, tap / CS, tap % CS);                                        \
      best = x > best ? x : best, odd |= x != x;                                     \
    }                                                                                \
    PUT(i, odd ? (T)NAN : best, 0);                                                  \
  }
#else
#define FOLD(count)                                                                  \
  GRT_SIMD for (int i = 0; i < (count); i++) {                                       \
    T total = 0;                                                                     \
    _Pragma("GCC unroll 16") for (int tap = 0; tap < CR * CS; tap++) total += TAP(i, tap / CS, tap % CS); \
    PUT(i, total, 0);                                                                \
  }
#endif
#ifdef OP_MAX
#define RESULT(...) STORE(__VA_ARGS__)
#else
#define RESULT(buf, n, c, p, q, value, index) STORE(buf, n, c, p, q, value)
#endif
#if CHANNELS_LAST
#define TAP(i, r, s) LOAD_X(buf, n, i, p * STRIDE_H + (r) * DIL_H, q * STRIDE_W + (s) * DIL_W)
#define PUT(i, value, index) RESULT(buf, n, i, p, q, value, index)
static void FN(_task)(long task, void **table) {
  const FN(_buffers) buf = FN(_open)(table);
  const int n = (int)(task / CP), p = (int)(task % CP);
  for (int q = 0; q < CQ; q++) FOLD(CC)
}
#else
#define TAP(i, r, s) rows[r][(i) * STRIDE_W + (s) * DIL_W]
#define PUT(i, value, index) values[i] = value, taps[i] = (uint8_t)(index)
static void FN(_task)(long task, void **table) {
  enum {
    QB = MIN_OF(CQ, MAX_OF(1, 2048 / (CR * STRIDE_W))), /* a block: so many columns of windows */
    PITCH = QB + (CS - 1) * DIL_W / STRIDE_W,           /* as far apart are its rows, in windows: some are of no use */
    PB = MIN_OF(CP, MAX_OF(1, 2048 / (CR * STRIDE_W * PITCH))),
    WIDTH = PITCH * STRIDE_W
  };
  const FN(_buffers) buf = FN(_open)(table);
  const int n = (int)(task / CC), c = (int)(task % CC);
  T rows[CR][PB * WIDTH + (CS - 1) * DIL_W] __attribute__((aligned(64))), values[PB * PITCH] __attribute__((aligned(64)));
  uint8_t taps[PB * PITCH] __attribute__((aligned(64)));
  memset(rows, 0, sizeof rows);
  for (int p0 = 0; p0 < CP; p0 += PB)
    for (int q0 = 0; q0 < CQ; q0 += QB) {
      const int height = MIN_OF(PB, CP - p0), width = MIN_OF(QB, CQ - q0), read = (width - 1) * STRIDE_W + (CS - 1) * DIL_W + 1;
      for (int p = 0; p < height; p++)
        for (int r = 0; r < CR; r++)
          GRT_SIMD for (int w = 0; w < read; w++)
            rows[r][p * WIDTH + w] = LOAD_X(buf, n, c, (p0 + p) * STRIDE_H + r * DIL_H, q0 * STRIDE_W + w);
      FOLD(PB * PITCH)
      for (int p = 0; p < height; p++)
        GRT_SIMD for (int q = 0; q < width; q++)
          RESULT(buf, n, c, p0 + p, q0 + q, values[p * PITCH + q], taps[p * PITCH + q]);
    }
}
#endif

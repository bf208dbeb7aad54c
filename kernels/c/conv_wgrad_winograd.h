/* Gradient of a 3x3 filter of stride 1 by Winograd's transforms (conv_winograd.h): the gradient of Y = A' [(G g G') * (B' d B)] A.
 *
 *   dg = G' [ sum over tiles of (B' d B) * (A dy A') ] G
 *
 * A task owns NK output and CB input channels. It takes TR rows of tiles, or NB small images, at a time, transforms both sides
 * and adds up 16 products [CB x tiles] [tiles x NK].
 */
enum { FN(_CB) = CEIL_DIV(CC / GROUPS, CEIL_DIV(CC / GROUPS, 32)) };
#include "conv_wgrad_tile.h"
enum {
  FN(_TP) = CEIL_DIV(CP, 2),
  FN(_TQ) = CEIL_DIV(CQ, 2),
  FN(_WANT) = 5120 / (FN(_NK) + FN(_CB)), /* tiles at a time: 320 KB of both transformed sides */
  FN(_PARTS) = CEIL_DIV(FN(_TP), MAX_OF(1, MIN_OF(FN(_TP), FN(_WANT) / MAX_OF(FN(_TQ), 1)))),
  FN(_TR) = CEIL_DIV(FN(_TP), FN(_PARTS)),
  FN(_NB) = FN(_PARTS) > 1 ? 1 : MAX_OF(1, MIN_OF(CEIL_DIV(CN, SPLITS), FN(_WANT) / MAX_OF(FN(_TP) * FN(_TQ), 1))),
  FN(_TILES) = FN(_NB) * FN(_TR) * FN(_TQ),
  FN(_WIDTH) = 2 * FN(_TQ) + 2,
  FN(_HEIGHT) = 2 * FN(_TR) + 2
};

static void FN(_task)(long task, void **table) {
  const FN(_buffers) buf = FN(_open)(table);
  enum { NK = FN(_NK), CB = FN(_CB), TQ = FN(_TQ), TILES = FN(_TILES), WIDTH = FN(_WIDTH), PITCH = FN(_WIDTH) * FN(_CB) };
  const FN(_share) own = FN(_block)(task);
  T *sum = grt_scratch(sizeof(T) * (16 * (CB * NK + TILES * (CB + NK)) + FN(_HEIGHT) * WIDTH * CB + 4 * NK + 64));
  T *v = sum + 16 * CB * NK, *d = v + 16 * TILES * CB, *patch = d + 16 * TILES * NK, *dy = patch + FN(_HEIGHT) * WIDTH * CB;
  memset(sum, 0, sizeof(T) * 16 * CB * NK);
  memset(patch, 0, sizeof(T) * FN(_HEIGHT) * WIDTH * CB);
  for (int n0 = own.first; n0 < own.last; n0 += FN(_NB))
    for (int row0 = 0; row0 < FN(_TP); row0 += FN(_TR)) {
      const int images = MIN_OF(own.last - n0, FN(_NB)), rows = MIN_OF(FN(_TP) - row0, FN(_TR));
      int tiles = 0;
      for (int n = n0; n < n0 + images; n++) {
        for (int h = 0; h < 2 * rows + 2; h++) {
          T *to = patch + h * PITCH;
          const int hh = 2 * row0 + h - PAD_H;
          for (int w = 0; w < WIDTH; w++, to += CB) {
            if (hh >= 0 && hh < CH && w >= PAD_W && w < CW + PAD_W) {
              GRT_SIMD for (int c = 0; c < own.channels; c++) to[c] = LOAD_X(buf, n, own.c0 + c, hh, w - PAD_W);
            } else {
              memset(to, 0, sizeof(T) * CB);
            }
          }
        }
        for (int row = 0; row < rows; row++)
          for (int q = 0; q < TQ; q++, tiles++) {
            const T *at = patch + 2 * row * PITCH + 2 * q * CB;
            T *to = v + tiles * CB, *out = d + tiles * NK;
            GRT_SIMD for (int c = 0; c < CB; c++) { /* B' d B */
              T t[4][4];
              for (int j = 0; j < 4; j++) {
                const T d0 = at[j * CB + c], d1 = at[PITCH + j * CB + c], d2 = at[2 * PITCH + j * CB + c];
                const T d3 = at[3 * PITCH + j * CB + c];
                t[0][j] = d0 - d2, t[1][j] = d1 + d2, t[2][j] = d2 - d1, t[3][j] = d1 - d3;
              }
              for (int i = 0; i < 4; i++) {
                to[(4 * i + 0) * TILES * CB + c] = t[i][0] - t[i][2];
                to[(4 * i + 1) * TILES * CB + c] = t[i][1] + t[i][2];
                to[(4 * i + 2) * TILES * CB + c] = t[i][2] - t[i][1];
                to[(4 * i + 3) * TILES * CB + c] = t[i][1] - t[i][3];
              }
            }
            for (int i = 0; i < 4; i++) {
              const int pp = 2 * (row0 + row) + i / 2, qq = 2 * q + i % 2;
              if (own.width < NK || pp >= CP || qq >= CQ) memset(dy + i * NK, 0, sizeof(T) * NK);
              if (pp >= CP || qq >= CQ) continue;
              if (own.width == NK) {
                GRT_SIMD for (int k = 0; k < NK; k++) dy[i * NK + k] = LOAD_DY(buf, n, own.k0 + k, pp, qq);
              } else {
                GRT_SIMD for (int k = 0; k < own.width; k++) dy[i * NK + k] = LOAD_DY(buf, n, own.k0 + k, pp, qq);
              }
            }
            GRT_SIMD for (int k = 0; k < NK; k++) { /* A dy A' */
              T t[4][2];
              for (int j = 0; j < 2; j++) {
                const T a = dy[j * NK + k], b = dy[(2 + j) * NK + k];
                t[0][j] = a, t[1][j] = a + b, t[2][j] = a - b, t[3][j] = -b;
              }
              for (int i = 0; i < 4; i++) {
                out[(4 * i + 0) * TILES * NK + k] = t[i][0];
                out[(4 * i + 1) * TILES * NK + k] = t[i][0] + t[i][1];
                out[(4 * i + 2) * TILES * NK + k] = t[i][0] - t[i][1];
                out[(4 * i + 3) * TILES * NK + k] = -t[i][1];
              }
            }
          }
      }
      for (int i = 0; i < 16; i++)
        FN(_tiles)(v + i * TILES * CB, d + i * TILES * NK, sum + i * CB * NK, 1, 1, tiles, 0, 0, CB);
    }
  for (int c = 0; c < own.channels; c++) {
    const T *s = sum + c * NK;
    enum { STEP = FN(_CB) * FN(_NK) };
    T dw[9][NK] __attribute__((aligned(64)));
    GRT_SIMD for (int k = 0; k < NK; k++) { /* G' sum G */
      T t[3][4];
      for (int j = 0; j < 4; j++) {
        const T s0 = s[j * STEP + k], s1 = s[(4 + j) * STEP + k], s2 = s[(8 + j) * STEP + k], s3 = s[(12 + j) * STEP + k];
        t[0][j] = s0 + (T)0.5 * (s1 + s2), t[1][j] = (T)0.5 * (s1 - s2), t[2][j] = (T)0.5 * (s1 + s2) + s3;
      }
      for (int i = 0; i < 3; i++) {
        dw[3 * i + 0][k] = t[i][0] + (T)0.5 * (t[i][1] + t[i][2]);
        dw[3 * i + 1][k] = (T)0.5 * (t[i][1] - t[i][2]);
        dw[3 * i + 2][k] = (T)0.5 * (t[i][1] + t[i][2]) + t[i][3];
      }
    }
    for (int i = 0; i < 9; i++)
      GRT_SIMD for (int k = 0; k < own.width; k++) STORE(buf, own.split, own.k0 + k, own.cb * CB + c, i / 3, i % 3, dw[i][k]);
  }
}
GRT_LAUNCH void NAME(void **table) { GRT_PARALLEL(FN(_task), (long)SPLITS * GROUPS * FN(_KB) * FN(_CPARTS), table); }

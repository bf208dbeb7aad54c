/* Direct convolution in register tiles: what conv.h and conv_dgrad.h share.
 *
 * A task copies the input it needs into a patch (zero padding included, so that the inner loops never branch) and runs tiles
 * over it; filters are packed once per launch. VARIANT is the file of the tiles: conv_wide.h or conv_narrow.h (many or few output
 * channels), conv_planes.h, conv_winograd.h, conv_dgrad_taps.h, and without a patch conv_depthwise.h and conv_pointwise.h.
 *
 * Macros: V_N batch, V_G groups, V_C and V_K channels of a group, V_P V_Q output, V_R V_S filter, V_STRIDE_H/W, V_DIL_H/W,
 * V_INSIDE(h, w) whether h, w >= 0 of the padded input is inside, V_REACHES(h) and V_MEETS_W(w)
 * whether row h, column w holds more than zeros, V_PHASES after how many columns the latter repeats: a tile takes columns of
 * one phase, so that all of them skip the same taps; V_FIRST_W and V_END_W, between which every V_PHASES-th column is inside;
 * V_X(buf, n, g, c, h, w) what is inside, V_CHANNELS_LAST (a hint on how it is stored) and V_DIRECT (whether V_X is no more than a
 * load), V_W(buf, g, k, c, r, s) and V_W_ALONG_C whether its memory runs along c, V_STORE(buf, n, g, k, p, q, value) and, for
 * conv_pointwise.h, V_FETCH(buf, n, g, k, p, q); FROZEN, the number of the filter among what the program keeps packed, 0 if it
 * may change.
 */
#include "tile.h"
/* to[c][NK] <- the filter's tap (r, s) for `channels` from c0 and `width` output channels from k0, read along memory */
#define GRT_FILTER(NK)                                                                                                         \
  GRT_INLINE void FN(_filter)(const FN(_buffers) buf, T *to, int g, int k0, int width, int c0, int channels, int r, int s) {    \
    if (V_W_ALONG_C) {                                                                                                         \
      for (int k = 0; k < width; k++)                                                                                          \
        for (int c = 0; c < channels; c++) to[c * (NK) + k] = V_W(buf, g, k0 + k, c0 + c, r, s);                              \
    } else {                                                                                                                   \
      for (int c = 0; c < channels; c++)                                                                                       \
        GRT_SIMD for (int k = 0; k < width; k++) to[c * (NK) + k] = V_W(buf, g, k0 + k, c0 + c, r, s);                        \
    }                                                                                                                          \
  }
#include VARIANT

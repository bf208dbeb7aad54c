/* Direct convolution in register tiles: what conv.h and conv_dgrad.h share.
 *
 * A task copies the input it needs into a patch (zero padding included, so that the inner loops never branch) and runs tiles
 * over it; filters are packed once per launch. Which tile depends on the number of output channels: conv_wide.h, conv_narrow.h,
 * and conv_depthwise.h without a patch.
 *
 * Macros: V_G groups, V_C and V_K channels of a group, V_P V_Q output, V_R V_S filter, V_SH V_SW V_DH V_DW, V_N batch,
 * V_INSIDE(h, w) whether h, w >= 0 of the padded input is inside, V_X(buf, n, g, c, h, w) what is there, V_CHANNELS_LAST (a
 * hint on how it is stored), V_W(buf, g, k, c, r, s), V_STORE(buf, n, g, k, p, q, value); V_MEETS_H(h), V_MEETS_W(w)
 * whether row h, column w of the padded input holds more than zeros, V_PHASES after how many columns that repeats: a tile
 * takes columns of one phase, so that all of them skip the same taps.
 */
#include "tile.h"
#if V_C == 1 && V_K == 1 && V_G > 1 && V_CHANNELS_LAST
#include "conv_depthwise.h"
#elif 4 * V_K >= 3 * GRT_VECTOR / GRT_BYTES(T) || V_SW != 1
#include "conv_wide.h"
#else
#include "conv_narrow.h"
#endif
#undef V_N
#undef V_G
#undef V_C
#undef V_K
#undef V_P
#undef V_Q
#undef V_R
#undef V_S
#undef V_SH
#undef V_SW
#undef V_DH
#undef V_DW
#undef V_X
#undef V_INSIDE
#undef V_MEETS_H
#undef V_MEETS_W
#undef V_PHASES
#undef V_CHANNELS_LAST
#undef V_W
#undef V_STORE
#include "undef.h"

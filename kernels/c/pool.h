/* Pooling over windows: the largest element and which tap it was, or the sum.
 *
 * Macros: NAME, T, sizes CN CC CH CW CP CQ CR CS, STRIDE_H/W, PAD_H/W, DIL_H/W, OP_MAX or OP_SUM, CHANNELS_LAST, INDEXED,
 * LOAD_X(buf, n, c, h, w), STORE(buf, n, c, p, q, value, index) (max) or STORE(buf, n, c, p, q, value). Padding is never chosen;
 * NaN wins; the first of equal elements wins. INDEXED says whether STORE uses the index, VARIANT which file has the loops,
 * pool_windows.h or pool_lines.h.
 */
#include "tile.h"
#include VARIANT
GRT_LAUNCH void NAME(void **table) { GRT_PARALLEL(FN(_task), grt_share(CN) * (CHANNELS_LAST ? CP : CC), table); }

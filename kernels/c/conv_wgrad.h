/* Gradient of a convolution with respect to its filter, split over the batch into partial sums.
 *
 *   dw[split,k,c,r,s] = sum over the split's n and all p,q of dy[n,k,p,q] * x[n, c, p*stride - pad + r*dil, ...]
 *
 * A task owns one split and one block of the filter: it packs dy and the input it needs and adds up register tiles over every
 * position. Partial sums do not depend on the number of threads. With many output channels the vectors are channels
 * (conv_wgrad_wide.h), else columns (conv_wgrad_narrow.h); with WINOGRAD 2 or 4, the largest tile, and 3x3 filters of stride 1,
 * conv_wgrad_winograd.h. Macros as conv.h, with LOAD_DY, LOAD_X, SPLITS and STORE(buf, split, k, c, r, s, value).
 */
#include "tile.h"
#if WINOGRAD && CR == 3 && CS == 3 && STRIDE_H == 1 && STRIDE_W == 1 && DIL_H == 1 && DIL_W == 1 && CC / GROUPS >= 8 && \
    4 * (CK / GROUPS) >= 3 * GRT_VECTOR / GRT_BYTES(T) && CP > 1 && CQ > 1
#include "conv_wgrad_winograd.h"
#elif 4 * (CK / GROUPS) >= 3 * GRT_VECTOR / GRT_BYTES(T) || STRIDE_W != 1
#include "conv_wgrad_wide.h"
#else
#include "conv_wgrad_narrow.h"
#endif

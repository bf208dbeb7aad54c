/* Gradient of a convolution with respect to its filter, split over the batch into partial sums.
 *
 *   dw[split,k,c,r,s] = sum over the split's n and all p,q of dy[n,k,p,q] * x[n, c, p*stride - pad + r*dil, ...]
 *
 * A task owns one split and one block of the filter: it packs dy and the input it needs and adds up register tiles over every
 * position. Partial sums do not depend on the number of threads. VARIANT is the file of the tiles: conv_wgrad_wide.h, whose vectors
 * are channels, conv_wgrad_narrow.h, whose vectors are columns, conv_wgrad_depthwise.h, or conv_wgrad_winograd.h. Macros as conv.h,
 * with LOAD_DY, LOAD_X, SPLITS, STORE(buf, split, k, c, r, s, value), and STORED_FAST_K (1 if what is stored lies along k).
 */
#include "tile.h"
#include VARIANT

/* Gradient of a convolution with respect to its input: a stride-1 convolution of dy with the filter turned around.
 *
 *   dx[n,c,h,w] = sum over k,r,s of dy[n, k, (h + pad - r*dil) / stride, ...] * w[k,c,r,s]
 *
 * dy is read as if spread out with stride-1 zeros between its rows and columns and padded by (R-1)*dil - pad, which may be
 * negative (a crop); tiles skip the taps that meet only those zeros, so a stride costs no multiplications. Macros as conv.h, with
 * LOAD_DY(buf, n, k, p, q), LOAD_W and STORE(buf, n, c, h, w, value).
 */
#define V_N CN
#define V_G GROUPS
#define V_C (CK / GROUPS)
#define V_K (CC / GROUPS)
#define V_P CH
#define V_Q CW
#define V_R CR
#define V_S CS
#define V_STRIDE_H 1
#define V_STRIDE_W 1
#define V_DIL_H DIL_H
#define V_DIL_W DIL_W
#define V_ROW(h) ((h) + PAD_H - (CR - 1) * DIL_H)
#define V_COLUMN(w) ((w) + PAD_W - (CS - 1) * DIL_W)
#define V_FIRST_W (V_COLUMN(0) <= 0 ? -V_COLUMN(0) : (STRIDE_W - V_COLUMN(0) % STRIDE_W) % STRIDE_W)
#define V_END_W ((CQ - 1) * STRIDE_W + 1 - V_COLUMN(0))
#define V_MEETS_W(w) (V_COLUMN(w) % STRIDE_W == 0)
#define V_PHASES STRIDE_W
#define V_REACHES_COLUMN(w) (V_COLUMN(w) >= 0 && V_MEETS_W(w) && V_COLUMN(w) / STRIDE_W < CQ)
#define V_REACHES(h) (V_ROW(h) >= 0 && V_ROW(h) % STRIDE_H == 0 && V_ROW(h) / STRIDE_H < CP)
#define V_INSIDE(h, w) (V_REACHES(h) && V_REACHES_COLUMN(w))
#define V_DIRECT DY_DIRECT
#define V_X(buf, n, g, c, h, w) LOAD_DY(buf, n, (g)*V_C + (c), V_ROW(h) / STRIDE_H, V_COLUMN(w) / STRIDE_W)
#define V_CHANNELS_LAST DY_CHANNELS_LAST
#define V_W(buf, g, k, c, r, s) LOAD_W(buf, (g)*V_C + (c), k, CR - 1 - (r), CS - 1 - (s))
#define V_W_ALONG_C W_FAST_K
#define V_STORE(buf, n, g, k, p, q, value) STORE(buf, n, (g)*V_K + (k), p, q, value)
#define V_FETCH(buf, n, g, k, p, q) FETCH(buf, n, (g)*V_K + (k), p, q)
#include "conv_core.h"

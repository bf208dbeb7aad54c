/* Convolution forward, y[n,k,p,q] = sum over c,r,s of x[n, c, p*stride - pad + r*dil, ...] * w[k,c,r,s] (conv_core.h).
 *
 * Macros: NAME, T, sizes CN CC CH CW CK CR CS CP CQ, STRIDE_H/W, PAD_H/W (low side; the high side follows from CP, CQ),
 * DIL_H/W, GROUPS, LOAD_X(buf, n, c, h, w), LOAD_W(buf, k, c, r, s) with c inside the group, STORE(buf, n, k, p, q, value).
 */
#define V_N CN
#define V_G GROUPS
#define V_C (CC / GROUPS)
#define V_K (CK / GROUPS)
#define V_P CP
#define V_Q CQ
#define V_R CR
#define V_S CS
#define V_STRIDE_H STRIDE_H
#define V_STRIDE_W STRIDE_W
#define V_DIL_H DIL_H
#define V_DIL_W DIL_W
#define V_REACHES(h) ((h) >= PAD_H && (h) < CH + PAD_H)
#define V_INSIDE(h, w) (V_REACHES(h) && (w) >= PAD_W && (w) < CW + PAD_W)
#define V_DIRECT X_DIRECT
#define V_X(buf, n, g, c, h, w) LOAD_X(buf, n, (g)*V_C + (c), (h)-PAD_H, (w)-PAD_W)
#define V_FIRST_W PAD_W
#define V_END_W (PAD_W + CW)
#define V_MEETS_W(w) 1
#define V_PHASES 1
#define V_CHANNELS_LAST X_CHANNELS_LAST
#define V_W(buf, g, k, c, r, s) LOAD_W(buf, (g)*V_K + (k), c, r, s)
#define V_W_ALONG_C !W_FAST_K
#define V_STORE(buf, n, g, k, p, q, value) STORE(buf, n, (g)*V_K + (k), p, q, value)
#define V_FETCH(buf, n, g, k, p, q) FETCH(buf, n, (g)*V_K + (k), p, q)
#include "conv_core.h"

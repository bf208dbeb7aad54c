#include "runtime.h"
#include "elementwise.h"
/* g1 max_pool[] in=(relu_0) out=(max_pool_0, max_pool_0.1) stop: conv_1 is a contraction: a kernel of its own; conv_wgrad_2 is a contraction: a kernel of its own; max_pool_grad_1 is a window: a kernel of its own */
typedef struct { const float *relu_0; float *max_pool_0; uint8_t *max_pool_0_1; } g1_buffers;
GRT_INLINE g1_buffers g1_open(void **table) {
  (void)table;
  return (g1_buffers){.relu_0 = (const float *)((char *)table[0] + 0), .max_pool_0 = (float *)((char *)table[0] + 1613824), .max_pool_0_1 = (uint8_t *)((char *)table[0] + 2395136)};
}
GRT_INLINE float g1_X(const g1_buffers buf, int n, int c, int h, int w) {
  const float v1 = buf.relu_0[n * 4704 + c * 784 + h * 28 + w];
  return v1;
}
GRT_INLINE void g1_store(const g1_buffers buf, int n, int c, int p, int q, float acc, int acc1) {
  const uint8_t v1 = (uint8_t)acc1;
  buf.max_pool_0[n * 1176 + c * 196 + p * 14 + q] = acc;
  buf.max_pool_0_1[n * 1176 + c * 196 + p * 14 + q] = v1;
}
#define NAME g1
#define T float
#define ACC float
#define CN 64
#define CC 6
#define CH 28
#define CW 28
#define CP 14
#define CQ 14
#define CR 2
#define CS 2
#define STRIDE_H 2
#define PAD_H 0
#define DIL_H 1
#define STRIDE_W 2
#define PAD_W 0
#define DIL_W 1
#define LOAD_X g1_X
#define STORE g1_store
#define CHANNELS_LAST 0
#define OP_MAX 1
#include "pool.h"


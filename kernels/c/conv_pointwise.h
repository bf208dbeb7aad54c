/* Convolution with 1x1 filters and no padding: a matrix product of the pixels' channels and the filter (conv_core.h), by the loops
 * of PRODUCT (matmul.h). V_X and V_STORE take a pixel's number in the batch in place of its column: mostly an offset is a multiple
 * of that, and image and row need not be found by divisions.
 */
#define BATCH V_G
#define M (V_N * V_P * V_Q)
#define N V_K
#define K V_C
#define LOAD_A(buf, b, m, k) V_X(buf, 0, b, k, 0, m)
#define LOAD_B(buf, b, k, n) V_W(buf, b, n, k, 0, 0)
#define STORE_C(buf, b, m, n, value) V_STORE(buf, 0, b, n, 0, m, value)
#ifdef FETCH
#define FETCH_C(buf, b, m, n) V_FETCH(buf, 0, b, n, 0, m)
#endif
#define A_FAST_M !V_CHANNELS_LAST
#define A_DIRECT (V_CHANNELS_LAST && V_DIRECT)
#define B_FAST_N !V_W_ALONG_C
#define B_DIRECT 0
#include PRODUCT

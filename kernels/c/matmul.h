/* Batched matrix product C = A B, by the loops of VARIANT: matmul_packed.h, or matmul_thin.h for a few rows.
 *
 * Macros: NAME, T, BATCH, M, N, K, LOAD_A(buf, b, m, k), LOAD_B(buf, b, k, n), STORE_C(buf, b, m, n, value), A_FAST_M and
 * B_FAST_N (1 if that is the unit stride), A_DIRECT and B_DIRECT (1 if LOAD_A, LOAD_B is no more than a load, along k and along
 * n: then A is read where it lies, and B if A has few rows), FROZEN, the number of B among what the program keeps packed, 0 if
 * it is none; ROWS_M, 1 if the rows of a batch, of which there may be fewer than the largest (grt_share), are those of M;
 * FETCH_C(buf, b, m, n), if there is one, fetches what STORE_C will read and write at n and around it, as far as a line goes.
 */
#include "tile.h"
#include VARIANT

/* Square matrices as products of triangular ones, and systems of equations solved by them.
 *
 * Macros: NAME, T, BATCH, CN (rows and columns of the matrix), CR (right-hand sides), LOAD_A(buf, b, m, n), LOAD_B(buf, b, m, r) and
 * STORE(buf, b, k, n, value): of rows 0 to CN - 1 the first CN columns are L under the diagonal and U from it on, the others the
 * solutions; row CN says which row was exchanged with each in turn, counted from 1, and the last one where each row was at first.
 * Gaussian elimination with partial pivoting, of the matrix with its right-hand sides beside it. A task is one matrix, in double.
 */
#include "tile.h"
enum { FN(_PITCH) = CN + CR }; /* numbers of a row: its own and its right-hand sides */
GRT_INLINE void FN(_subtract)(double *row, const double *other, double factor, long from) {
  GRT_SIMD for (long n = from; n < FN(_PITCH); n++) row[n] -= factor * other[n];
}
static void FN(_task)(long task, void **table) {
  const FN(_buffers) buf = FN(_open)(table);
  const int b = (int)task;
  double *const w = grt_scratch(sizeof(double) * ((size_t)FN(_PITCH) * CN + 2 * CN));
  double *const turn = w + (size_t)FN(_PITCH) * CN, *const place = turn + CN;
  for (int m = 0; m < CN; m++) {
    double *const row = w + (size_t)m * FN(_PITCH);
    for (int n = 0; n < CN; n++) row[n] = LOAD_A(buf, b, m, n);
    for (int r = 0; r < CR; r++) row[CN + r] = LOAD_B(buf, b, m, r);
    place[m] = m;
  }
  for (long j = 0; j < CN; j++) {
    double *const row = w + j * FN(_PITCH);
    long pivot = j;
    for (long m = j + 1; m < CN; m++)
      if (__builtin_fabs(w[m * FN(_PITCH) + j]) > __builtin_fabs(w[pivot * FN(_PITCH) + j])) pivot = m;
    turn[j] = pivot + 1;
    if (pivot != j) {
      double *const other = w + pivot * FN(_PITCH);
      const double was = place[j];
      place[j] = place[pivot], place[pivot] = was;
      for (long n = 0; n < FN(_PITCH); n++) {
        const double x = row[n];
        row[n] = other[n], other[n] = x;
      }
    }
    for (long m = j + 1; m < CN; m++) {
      double *const below = w + m * FN(_PITCH);
      below[j] = row[j] == 0 ? 0 * below[j] : below[j] / row[j]; /* all are 0 then, or NaN */
      FN(_subtract)(below, row, below[j], j + 1);
    }
  }
  for (long j = CN - 1; j >= 0; j--) {
    double *const row = w + j * FN(_PITCH);
    for (long n = CN; n < FN(_PITCH); n++) row[n] /= row[j];
    for (long m = 0; m < j; m++) FN(_subtract)(w + m * FN(_PITCH), row, w[m * FN(_PITCH) + j], CN);
  }
  for (int m = 0; m < CN; m++)
    for (int n = 0; n < FN(_PITCH); n++) STORE(buf, b, m, n, (T)w[(size_t)m * FN(_PITCH) + n]);
  for (int n = 0; n < FN(_PITCH); n++) {
    STORE(buf, b, CN, n, (T)(n < CN ? turn[n] : 0));
    STORE(buf, b, CN + 1, n, (T)(n < CN ? place[n] : 0));
  }
}
GRT_LAUNCH void NAME(void **table) { GRT_PARALLEL(FN(_task), BATCH, table); }

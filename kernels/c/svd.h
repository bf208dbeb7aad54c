/* The singular value decomposition of matrices that are no wider than high, by rotations of pairs of columns.
 *
 * Macros: NAME, T, BATCH, CM CN (rows and columns), LOAD_X(buf, b, m, n) and STORE(buf, b, k, n, value): rows 0 to CM - 1 of the
 * result are U, row CM the singular values, and those behind it V. One-sided Jacobi (Hestenes, 1958): rotations from the right
 * make the columns of the matrix orthogonal, so that its norms are the values, and are gathered in V; of two columns the longer
 * comes first, so that they end in order (de Rijk, 1989). A task is one matrix, scaled by a power of two, in double.
 */
#include "tile.h"
enum { FN(_PITCH) = CM + CN, FN(_MOST_SWEEPS) = 60 }; /* numbers of a column: of the matrix, and below it of V */
#define SVD_EPSILON 0x1p-52
#define SVD_NULL 0x1p-960 /* squared length under which a column is zero: of the largest element, which is 1/2 to 1, nothing is left */
GRT_INLINE double FN(_dot)(const double *a, const double *b, long count) {
  double part[8] = {0}, total = 0;
  long i = 0;
  for (; i + 8 <= count; i += 8)
    GRT_SIMD for (int l = 0; l < 8; l++) part[l] += a[i + l] * b[i + l];
  for (; i < count; i++) total += a[i] * b[i];
  for (int l = 0; l < 8; l++) total += part[l];
  return total;
}
/* One sweep over all pairs; whether any was rotated or exchanged. */
static int FN(_sweep)(double *w, double *norm) {
  const double tolerance = SVD_EPSILON * __builtin_sqrt((double)CM);
  int moved = 0;
  for (long n = 0; n < CN; n++) norm[n] = FN(_dot)(w + n * FN(_PITCH), w + n * FN(_PITCH), CM);
  for (long i = 0; i < CN; i++)
    for (long j = i + 1; j < CN; j++) {
      double *const a = w + i * FN(_PITCH), *const b = w + j * FN(_PITCH);
      const double product = FN(_dot)(a, b, CM), size = __builtin_fabs(product);
      const double least = tolerance * __builtin_sqrt(norm[i]) * __builtin_sqrt(norm[j]);
      const int turn = norm[i] > SVD_NULL && norm[j] > SVD_NULL && size > least;
      double s = 0, lean = 0; /* the cosine is 1 - s * lean: what is rounded is the change, not the element (Rutishauser, 1966) */
      if (turn) {
        const double zeta = (norm[j] - norm[i]) / (2 * product);
        const double t = (zeta < 0 ? -1 : 1) / (__builtin_fabs(zeta) + __builtin_sqrt(1 + zeta * zeta));
        const double c = 1 / __builtin_sqrt(1 + t * t);
        s = c * t, lean = s / (1 + c);
        norm[i] = MAX_OF(norm[i] - t * product, 0), norm[j] = MAX_OF(norm[j] + t * product, 0);
      }
      const int exchange = norm[i] < norm[j];
      if (!turn && !exchange) continue;
      moved = 1;
      double *const first = exchange ? b : a, *const second = exchange ? a : b;
      GRT_SIMD for (long k = 0; k < FN(_PITCH); k++) {
        const double x = a[k], y = b[k];
        first[k] = x - s * (y + lean * x), second[k] = y + s * (x - lean * y);
      }
      if (exchange) {
        const double other = norm[i];
        norm[i] = norm[j], norm[j] = other;
      }
    }
  return moved;
}
/* Makes columns `rank` and on unit vectors that are orthogonal to all before them: of the axes, each time, the farthest from those. */
static void FN(_complete)(double *w, double *covered, long rank) {
  for (long m = 0; m < CM; m++) covered[m] = 0;
  for (long n = 0; n < CN; n++) {
    double *const u = w + n * FN(_PITCH);
    if (n >= rank) {
      long axis = 0;
      for (long m = 1; m < CM; m++)
        if (covered[m] < covered[axis]) axis = m;
      for (long m = 0; m < CM; m++) u[m] = m == axis;
      for (int again = 0; again < 2; again++)
        for (long l = 0; l < n; l++) {
          const double part = FN(_dot)(u, w + l * FN(_PITCH), CM);
          GRT_SIMD for (long m = 0; m < CM; m++) u[m] -= part * w[l * FN(_PITCH) + m];
        }
      const double scale = 1 / __builtin_sqrt(FN(_dot)(u, u, CM));
      for (long m = 0; m < CM; m++) u[m] *= scale;
    }
    for (long m = 0; m < CM; m++) covered[m] += u[m] * u[m];
  }
}
static void FN(_task)(long task, void **table) {
  const FN(_buffers) buf = FN(_open)(table);
  const int b = (int)task;
  double *const w = grt_scratch(sizeof(double) * ((size_t)FN(_PITCH) * CN + CN + CM)), *const norm = w + (size_t)FN(_PITCH) * CN;
  double largest = 0;
  int finite = 1, exponent;
  for (int m = 0; m < CM; m++)
    for (int n = 0; n < CN; n++) {
      const double x = w[(size_t)n * FN(_PITCH) + m] = LOAD_X(buf, b, m, n), size = __builtin_fabs(x);
      finite &= size <= 0x1.fffffffffffffp1023;
      if (size > largest) largest = size;
    }
  if (!finite) {
    for (int k = 0; k <= FN(_PITCH); k++)
      for (int n = 0; n < CN; n++) STORE(buf, b, k, n, (T)__builtin_nan(""));
    return;
  }
  __builtin_frexp(largest, &exponent);
  exponent = MAX_OF(exponent, -1000);
  const double down = __builtin_ldexp(1, -exponent);
  for (long n = 0; n < CN; n++) {
    double *const column = w + n * FN(_PITCH);
    for (long m = 0; m < CM; m++) column[m] *= down;
    for (long m = 0; m < CN; m++) column[CM + m] = m == n;
  }
  for (int sweep = 0; sweep < FN(_MOST_SWEEPS) && FN(_sweep)(w, norm); sweep++) {}
  long rank = 0;
  for (int n = 0; n < CN; n++) {
    double *const u = w + (size_t)n * FN(_PITCH), *const v = u + CM;
    double top = 0;
    const double square = FN(_dot)(u, u, CM), length = square > SVD_NULL ? __builtin_sqrt(square) : 0;
    long lead = 0;
    for (long k = 0; k < CN; k++) top = MAX_OF(top, __builtin_fabs(v[k]));
    while (__builtin_fabs(v[lead]) < 0.9 * top) lead++;
    const double sign = (v[lead] < 0 ? -1 : 1) / __builtin_sqrt(FN(_dot)(v, v, CN));
    if (length > 0) rank = n + 1;
    for (long m = 0; m < CM; m++) u[m] = length > 0 ? (v[lead] < 0 ? -u[m] : u[m]) / length : 0;
    STORE(buf, b, CM, n, (T)__builtin_ldexp(length, exponent));
    for (int k = 0; k < CN; k++) STORE(buf, b, CM + 1 + k, n, (T)(sign * v[k]));
  }
  if (rank < CN) FN(_complete)(w, norm + CN, rank);
  for (int m = 0; m < CM; m++)
    for (int n = 0; n < CN; n++) STORE(buf, b, m, n, (T)w[(size_t)n * FN(_PITCH) + m]);
}
GRT_LAUNCH void NAME(void **table) { GRT_PARALLEL(FN(_task), CN ? BATCH : 0, table); }

/* Checked accesses: an index outside its buffer is taken note of, and the buffer's first element is used in its place.
 *
 * The debug target includes this: closures then read and write buffers as buf.x[grt_at(index, first, size, "x")], where the
 * pointer buf.x is that of element `first` among `size`.
 */
#ifndef GRAPHRT_CHECKED_H
#define GRAPHRT_CHECKED_H
typedef struct {
  const char *buffer; /* NULL: there was none */
  long index, size;
} grt_fault;

GRT_HIDDEN long grt_at(long index, long first, long size, const char *buffer);

#ifndef GRT_UNIT
static grt_fault first_fault;
static int faults;

long grt_at(long index, long first, long size, const char *buffer) {
  if (index + first >= 0 && index + first < size) return index;
  if (__atomic_fetch_add(&faults, 1, __ATOMIC_RELAXED) == 0) first_fault = (grt_fault){buffer, index + first, size};
  return -first;
}

/* The first fault since this was last asked, in `found`. */
GRT_EXPORT void graphrt_fault(grt_fault *found) {
  *found = first_fault;
  first_fault = (grt_fault){NULL, 0, 0}, faults = 0;
}
#endif
#endif

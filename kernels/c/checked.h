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
#endif

/* What generated programs see of the runtime: the parallel loop and per-thread scratch memory.
 *
 * A program is a shared object; the thread pool lives in another one, shared by all programs of the process. The loader hands
 * its grt_parallel to grt_bind, which the program exports by including this file.
 */
#ifndef GRAPHRT_RUNTIME_H
#define GRAPHRT_RUNTIME_H
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef void (*grt_task)(long index, void **buf);
typedef void (*grt_parallel_fn)(grt_task task, long tasks, void **buf);

static grt_parallel_fn GRT_PARALLEL;
__attribute__((visibility("default"))) void grt_bind(grt_parallel_fn parallel) { GRT_PARALLEL = parallel; }

/* A buffer of this thread, at least `bytes` long and 64-byte aligned; it grows and is reused by every kernel. */
__attribute__((unused)) static void *grt_scratch(size_t bytes) {
  static _Thread_local void *memory;
  static _Thread_local size_t size;
  if (bytes > size) {
    free(memory);
    size = (bytes + 4095) & ~(size_t)4095;
    memory = aligned_alloc(64, size);
    if (memory == NULL) abort();
  }
  return memory;
}
#endif

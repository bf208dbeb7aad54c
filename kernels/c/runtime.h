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

typedef struct {
  void *memory;
  size_t size;
} grt_buffer;

__attribute__((unused)) static void *grt_grow(grt_buffer *b, size_t bytes) {
  if (bytes > b->size) {
    free(b->memory);
    b->size = (bytes + 4095) & ~(size_t)4095;
    b->memory = aligned_alloc(64, b->size);
    if (b->memory == NULL) abort();
  }
  return b->memory;
}

/* Memory of this thread, at least `bytes` long and 64-byte aligned, reused by every kernel: grt_scratch within a task,
 * grt_workspace for what a launch prepares for its tasks (two callers of one kernel prepare in different places). */
__attribute__((unused)) static void *grt_scratch(size_t bytes) {
  static _Thread_local grt_buffer buffer;
  return grt_grow(&buffer, bytes);
}
__attribute__((unused)) static void *grt_workspace(size_t bytes) {
  static _Thread_local grt_buffer buffer;
  return grt_grow(&buffer, bytes);
}
#endif

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

/* Where a program keeps what it made of frozen parameters: one pointer a launch, NULL at first. */
#ifndef GRT_FROZEN_ENTRY
#define GRT_FROZEN_ENTRY 0 /* of the pointer table; none */
#endif
#define GRT_KEPT(table, number) ((number) > 0 ? (void **)(table)[GRT_FROZEN_ENTRY] + (number)-1 : NULL)
__attribute__((visibility("default"))) void grt_release(void **kept, long count) {
  for (long i = 0; i < count; i++) free(kept[i]), kept[i] = NULL;
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
/* What a launch packs for its tasks: in every run, or once if the program keeps it. pack's table is (result, table). */
__attribute__((unused)) static void *grt_prepare(grt_task pack, long tasks, size_t bytes, void **kept, void **table) {
  if (kept != NULL && *kept != NULL) return *kept;
  void *launch[2] = {kept == NULL ? grt_workspace(bytes) : aligned_alloc(64, (bytes + 64) & ~(size_t)63), table};
  if (launch[0] == NULL) abort();
  GRT_PARALLEL(pack, tasks, launch);
  if (kept != NULL) *kept = launch[0];
  return launch[0];
}
#endif

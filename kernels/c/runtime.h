/* What generated programs see of the runtime: the parallel loop and per-thread scratch memory.
 *
 * A program is a shared object; the thread pool lives in another one, shared by all programs of the process. The loader hands
 * its grt_parallel and grt_memory to grt_bind, which the program exports by including this file.
 */
#ifndef GRAPHRT_RUNTIME_H
#define GRAPHRT_RUNTIME_H
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef void (*grt_task)(long index, void **buf);
typedef void (*grt_parallel_fn)(grt_task task, long tasks, void **buf);
typedef void *(*grt_memory_fn)(int kind, size_t bytes);

/* A long program is compiled in several units at once; GRT_UNIT is defined in all but the first, which has what they share. */
#define GRT_HIDDEN __attribute__((visibility("hidden")))
#define GRT_LAUNCH GRT_HIDDEN
extern GRT_HIDDEN grt_parallel_fn GRT_PARALLEL;
extern GRT_HIDDEN grt_memory_fn GRT_MEMORY;

/* Memory of this thread, at least `bytes` long and 64-byte aligned, reused by every kernel of every program: grt_scratch within
 * a task, grt_workspace for what a launch prepares for its tasks (two callers of one kernel prepare in different places). */
static inline void *grt_scratch(size_t bytes) { return GRT_MEMORY(0, bytes); }
static inline void *grt_workspace(size_t bytes) { return GRT_MEMORY(1, bytes); }

/* Where a program keeps what it made of frozen parameters: one pointer a launch, NULL at first. */
#ifndef GRT_FROZEN_ENTRY
#define GRT_FROZEN_ENTRY 0 /* of the pointer table; none */
#endif
#define GRT_KEPT(table, number) ((number) > 0 ? (void **)(table)[GRT_FROZEN_ENTRY] + (number)-1 : NULL)

/* What a launch packs for its tasks: in every run, or once if the program keeps it. pack's table is (result, table). */
GRT_HIDDEN void *grt_prepare(grt_task pack, long tasks, size_t bytes, void **kept, void **table);

#ifndef GRT_UNIT
#define GRT_EXPORT __attribute__((visibility("default")))
grt_parallel_fn GRT_PARALLEL;
grt_memory_fn GRT_MEMORY;
GRT_EXPORT void grt_bind(grt_parallel_fn parallel, grt_memory_fn memory) { GRT_PARALLEL = parallel, GRT_MEMORY = memory; }
GRT_EXPORT void grt_release(void **kept, long count) {
  for (long i = 0; i < count; i++) free(kept[i]), kept[i] = NULL;
}

void *grt_prepare(grt_task pack, long tasks, size_t bytes, void **kept, void **table) {
  if (kept != NULL && *kept != NULL) return *kept;
  void *launch[2] = {kept == NULL ? grt_workspace(bytes) : aligned_alloc(64, (bytes + 64) & ~(size_t)63), table};
  if (launch[0] == NULL) abort();
  GRT_PARALLEL(pack, tasks, launch);
  if (kept != NULL) *kept = launch[0];
  return launch[0];
}
#endif
#endif

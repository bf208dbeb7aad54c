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

/* Where a launch keeps what it made of frozen parameters: a pointer, NULL at first, whose address is in its table of places. */
#define GRT_KEPT(table, place) ((place) > 0 ? (void **)(table)[place] : NULL)

/* What a launch packs for its tasks: in every run, or once if the program keeps it. pack's table is (result, table). */
GRT_HIDDEN void *grt_prepare(grt_task pack, long tasks, size_t bytes, void **kept, void **table);

/* What launches run, as data: a kernel knows the shape of its buffers, and is told where they are by a table of places. */
typedef struct {
  int entry; /* of the program's table of pointers */
  long offset; /* bytes from where it points */
} grt_place;
typedef struct {
  struct {
    grt_task task; /* NULL: `run` shares out the work itself */
    void (*run)(void **table);
  } kernel;
  long start, tasks; /* of this part, among those of the launch */
  int place, places; /* the first of its places, and how many they are */
} grt_part;
typedef struct {
  const grt_part *parts;
  int count;
  void **there;
} grt_parts;

static inline void grt_part_task(long task, void **launch) {
  const grt_parts *all = (const grt_parts *)launch;
  int low = 0, high = all->count; /* the part of this task is one of them */
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (all->parts[middle].start <= task) low = middle;
    else high = middle;
  }
  const grt_part *part = all->parts + low;
  part->kernel.task(task - part->start, all->there + (part->place - all->parts->place));
}

/* Runs the parts of one launch side by side; `there` has room for where their places are. */
static inline void grt_launch(const grt_part *parts, int count, const grt_place *places, void **there, void **table) {
  if (count == 0) return;
  const grt_part *last = parts + count - 1;
  const int first = parts->place, end = last->place + last->places;
  for (int i = first; i < end; i++) there[i - first] = (char *)table[places[i].entry] + places[i].offset;
  if (count > 1) {
    grt_parts all = {parts, count, there};
    GRT_PARALLEL(grt_part_task, last->start + last->tasks, (void **)&all);
  } else if (parts->kernel.run != NULL) {
    parts->kernel.run(there);
  } else {
    GRT_PARALLEL(parts->kernel.task, parts->tasks, there);
  }
}

GRT_HIDDEN void grt_drop(void **kept, long count);

#ifndef GRT_UNIT
#define GRT_EXPORT __attribute__((visibility("default")))
grt_parallel_fn GRT_PARALLEL;
grt_memory_fn GRT_MEMORY;
GRT_EXPORT void grt_bind(grt_parallel_fn parallel, grt_memory_fn memory) { GRT_PARALLEL = parallel, GRT_MEMORY = memory; }
void grt_drop(void **kept, long count) {
  for (long i = 0; i < count; i++) free(kept[i]), kept[i] = NULL;
}
GRT_EXPORT void grt_release(void **kept, long count) { grt_drop(kept, count); }

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

/* What every program exports: compiled once, and linked with each program's kernels and tables. */
#include "runtime.h"
#include "checked.h"
#include <stdlib.h>

grt_parallel_fn GRT_PARALLEL;
grt_memory_fn GRT_MEMORY;
grt_try_fn GRT_TRY;
grt_alone_fn GRT_ALONE;

GRT_EXPORT void grt_bind(grt_parallel_fn parallel, grt_memory_fn memory, grt_try_fn try, grt_alone_fn alone) {
  GRT_PARALLEL = parallel, GRT_MEMORY = memory, GRT_TRY = try, GRT_ALONE = alone;
}
void grt_drop(void **kept, long count) {
  for (long i = 0; i < count; i++) free(kept[i]), kept[i] = NULL;
}
GRT_EXPORT void grt_release(void **kept, long count) { grt_drop(kept, count); }

void *grt_prepare(grt_task pack, long tasks, size_t bytes, void **kept, void **table) {
  if (kept != NULL && *kept != NULL) return *kept;
  void *launch[2] = {kept == NULL ? grt_workspace(bytes) : aligned_alloc(64, (bytes + 64) & ~(size_t)63), table};
  if (launch[0] == NULL) grt_no_memory();
  GRT_PARALLEL(pack, tasks, launch);
  if (kept != NULL) *kept = launch[0];
  return launch[0];
}

typedef struct {
  const grt_part *parts;
  int count;
  void **there;
} launch;

static void part_task(long task, void **table) {
  const launch *all = (const launch *)table;
  int low = 0, high = all->count; /* the part of this task is one of them */
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (all->parts[middle].start <= task) low = middle;
    else high = middle;
  }
  const grt_part *part = all->parts + low;
  part->kernel.task(task - part->start, all->there + (part->place - all->parts->place));
}

static _Thread_local long rows; /* that the launch under way stops at; 0: at none */

long grt_share(long whole) { return rows > 0 ? (whole * rows + GRT_PLAN.batch - 1) / GRT_PLAN.batch : whole; }

void grt_launch(const grt_part *parts, int count, const grt_place *places, void **there, void **table) {
  if (count == 0) return;
  const grt_part *last = parts + count - 1;
  const int first = parts->place, end = last->place + last->places;
  for (int i = first; i < end; i++) there[i - first] = (char *)table[places[i].entry] + places[i].offset;
  const int before = parts->alone && GRT_ALONE(1);
  if (count > 1) {
    launch all = {parts, count, there};
    GRT_PARALLEL(part_task, last->start + last->tasks, (void **)&all);
  } else if (parts->kernel.run != NULL) {
    parts->kernel.run(there);
  } else {
    GRT_PARALLEL(parts->kernel.task, grt_share(parts->tasks), there);
  }
  if (parts->alone) GRT_ALONE(before);
}

static void run_launch(int number, void **table) {
  const int *first = GRT_PLAN.first + number;
  void *there[GRT_PLAN.most];
  const grt_part *parts = GRT_PLAN.parts + first[0];
  const int of_rows = GRT_PLAN.batch > 0 && first[1] - first[0] == 1 && parts->rows;
  rows = of_rows ? (long)*(const int64_t *)table[GRT_PLAN.count] : 0;
  grt_launch(parts, first[1] - first[0], GRT_PLAN.places, there, table);
}

/* Runs a launch; 1 if there was no memory for what it needs meanwhile, else 0. */
GRT_EXPORT int graphrt_launch(int number, void **table) { return GRT_TRY(run_launch, number, table); }

/* Runs all launches; 0, or which was the first for which there was no memory, counted from 1: those behind it are not run. */
GRT_EXPORT int graphrt_run(void **table) {
  for (int i = 0; i < GRT_PLAN.launches; i++)
    if (graphrt_launch(i, table)) return i + 1;
  return 0;
}

/* --- of checked programs ------------------------------------------------------------------------------------------- */

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

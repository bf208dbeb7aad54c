/* What generated programs see of the runtime: the parallel loop and per-thread scratch memory.
 *
 * A program is a shared object; the thread pool lives in another one, shared by all programs of the process. The loader hands
 * its grt_parallel, grt_memory, grt_try and grt_alone to grt_bind, which the program exports (program.c).
 */
#ifndef GRAPHRT_RUNTIME_H
#define GRAPHRT_RUNTIME_H
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef void (*grt_task)(long index, void **buf);
typedef void (*grt_parallel_fn)(grt_task task, long tasks, void **buf);
typedef void *(*grt_memory_fn)(int kind, size_t bytes);
typedef int (*grt_try_fn)(void (*launch)(int number, void **table), int number, void **table);
typedef int (*grt_alone_fn)(int on);

/* A long program is compiled in several units at once; what is hidden is shared by them, and by nobody else. */
#define GRT_HIDDEN __attribute__((visibility("hidden")))
#define GRT_EXPORT __attribute__((visibility("default")))
#define GRT_LAUNCH GRT_HIDDEN
extern GRT_HIDDEN grt_parallel_fn GRT_PARALLEL;
extern GRT_HIDDEN grt_memory_fn GRT_MEMORY;
extern GRT_HIDDEN grt_try_fn GRT_TRY;
extern GRT_HIDDEN grt_alone_fn GRT_ALONE;

/* Memory of this thread, at least `bytes` long and 64-byte aligned, reused by every kernel of every program: grt_scratch within
 * a task, grt_workspace for what a launch prepares for its tasks (two callers of one kernel prepare in different places). Where
 * there is none the launch ends, as it does by grt_no_memory. */
static inline void *grt_scratch(size_t bytes) { return GRT_MEMORY(0, bytes); }
static inline void *grt_workspace(size_t bytes) { return GRT_MEMORY(1, bytes); }
static inline void grt_no_memory(void) { GRT_MEMORY(-1, 0); }

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
  int rows; /* whether it goes through the rows of a batch, and stops at the last */
  int alone; /* whether the launch is so small that one thread runs it */
} grt_part;
/* The launches of a program, for the functions that it exports (program.c): the first part of each launch, behind the last how
 * many parts there are, and how many places one has at most. */
typedef struct {
  const grt_part *parts;
  const grt_place *places;
  const int *first;
  int launches, most;
  int batch, count; /* the largest batch of a program for any (else 0), and the entry of how many rows there are */
} grt_plan;
extern GRT_HIDDEN const grt_plan GRT_PLAN;

/* Runs the parts of one launch side by side; `there` has room for where their places are. */
GRT_HIDDEN void grt_launch(const grt_part *parts, int count, const grt_place *places, void **there, void **table);

/* The part of `whole` that is of the rows there are, in a launch that stops at the last of them; in others all of it. */
GRT_HIDDEN long grt_share(long whole);

/* Frees what `grt_prepare` has kept. */
GRT_HIDDEN void grt_drop(void **kept, long count);
#endif

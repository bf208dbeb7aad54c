/* The thread pool: one per process, made at first use.
 *
 * grt_parallel runs task 0 .. tasks-1; the caller takes part. Every thread has its share of the tasks, the same part of them in
 * every loop, so that it meets in its own cache what it wrote there a loop ago; when its share is done it helps with the
 * others'. Tasks are drawn from one ticket a share. A ticket also carries the number of the loop, so that a thread that comes
 * late draws from the loop that runs now or not at all. Little is written by two threads, because a line of memory that changes
 * cores takes as long as a small task, several where they share no cache: a thread counts what it has done beside its own
 * ticket, and a helper takes half of what is left at once. The caller waits for tasks, never for threads: one that has lost its
 * core delays nobody. Results cannot depend on who ran what, because a task owns what it writes. Workers spin briefly, then
 * sleep. One program runs at a time: a second Python thread waits; a call from inside a task runs serially, and so does one
 * after grt_alone(1), since to wake a thread takes longer than a little work. After fork the child makes a pool of its own. Scratch memory belongs to the thread that uses it, whatever the program, and ends with it.
 *
 * A task that gets no memory is left, its loop comes to its end, and grt_try, under which it was begun, says so.
 *
 * Between grt_record(1) and grt_record(0) each thread notes when it was at work on each loop; grt_spans gives that away.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

typedef void (*grt_task)(long index, void **buf);

enum { MAX_THREADS = 256, SPINS = 20000, KINDS = 2, SPANS = 1 << 16 };

static pthread_mutex_t entry = PTHREAD_MUTEX_INITIALIZER; /* held while a program's loop runs */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;  /* guards sleeping and waking */
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
static atomic_uint current;  /* number of the loop that runs, or ran last */
static atomic_int sleepers;
static struct {
  _Alignas(64) atomic_ullong ticket; /* number of the loop << 32 | next index */
  atomic_long finished;              /* tasks of this loop, of any share, that the share's thread has done */
} shares[MAX_THREADS];
static struct {
  _Atomic(grt_task) function;
  _Atomic(void **) buffers;
  atomic_long count;
  atomic_int shares;
} loops[64]; /* by loop number; atomic because a late thread may read a slot that is being rewritten, and then draw in vain */
static atomic_int recording;
static atomic_long noted; /* spans so far; those beyond SPANS are not kept */
static struct {
  atomic_llong start, end; /* nanoseconds; atomic because a thread may still be at work when they are read */
  atomic_int thread;
} spans[SPANS];
static int workers, wanted;
static _Thread_local int inside, alone;
static _Thread_local jmp_buf *left; /* where a thread goes on that got no memory */
static atomic_int starved;          /* whether a task of this loop was left */
static _Thread_local struct {
  void *memory;
  size_t size;
} scratch[KINDS];
static pthread_key_t ending; /* calls `ended` for each thread that has scratch memory */
static pthread_once_t once = PTHREAD_ONCE_INIT;

static inline void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

/* The first task of a share of `count` tasks. */
static inline long first(long count, int share, int of) { return count / of * share + count % of * share / of; }

static long long now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* Notes that thread `me` is at work since `start`; `span` is its span of this loop, -1 at first. Returns that. */
static long note(int me, long span, long long start) {
  if (span < 0) {
    span = atomic_fetch_add(&noted, 1);
    if (span >= SPANS) return SPANS;
    atomic_store_explicit(&spans[span].start, start, memory_order_relaxed);
    atomic_store_explicit(&spans[span].thread, me, memory_order_relaxed);
  }
  if (span < SPANS) atomic_store_explicit(&spans[span].end, now(), memory_order_relaxed);
  return span;
}

/* Leaves what this thread does, for which there is no memory. */
static _Noreturn void leave(void) {
  if (left != NULL) longjmp(*left, 1);
  fprintf(stderr, "graphrt: out of memory\n");
  abort();
}

/* Runs tasks from `begin` to `end`, or as many as there is memory for. */
static void run(grt_task function, long begin, long end, void **buffers) {
  jmp_buf here, *const outer = left;
  if (setjmp(here) == 0) {
    left = &here;
    for (long task = begin; task < end; task++) function(task, buffers);
  } else {
    atomic_store(&starved, 1);
  }
  left = outer;
}

/* Thread `me` draws and runs tasks of a share until none is left; returns among how many shares its loop is cut. */
static int drain(int me, int share) {
  const int records = atomic_load_explicit(&recording, memory_order_relaxed);
  for (long span = -1;;) {
    unsigned long long t = atomic_load_explicit(&shares[share].ticket, memory_order_acquire);
    const unsigned slot = (unsigned)(t >> 32) % 64;
    const long i = (long)(t & 0xffffffffu), count = atomic_load_explicit(&loops[slot].count, memory_order_relaxed);
    const int of = atomic_load_explicit(&loops[slot].shares, memory_order_relaxed);
    const grt_task function = atomic_load_explicit(&loops[slot].function, memory_order_relaxed);
    void **buffers = atomic_load_explicit(&loops[slot].buffers, memory_order_relaxed);
    const long left = first(count, share + 1, of) - i, take = share == me ? 1 : (left + 1) / 2;
    if (left <= 0) return of;
    if (atomic_compare_exchange_weak_explicit(&shares[share].ticket, &t, t + take, memory_order_acq_rel, memory_order_relaxed)) {
      const long long start = records ? now() : 0;
      run(function, i, i + take, buffers);
      if (records) span = note(me, span, start); /* before the tasks count as done: who waits for them sees it */
      const long done = atomic_load_explicit(&shares[me].finished, memory_order_relaxed); /* nobody else counts here */
      atomic_store_explicit(&shares[me].finished, done + take, memory_order_release);
    }
  }
}

/* Thread `me` does its own share, then the others'. */
static void work(int me) {
  const int of = drain(me, me);
  for (int share = me + 1; share < of; share++) drain(me, share);
  for (int share = 0; share < me && share < of; share++) drain(me, share);
}

/* Tasks of this loop that are done. */
static long finished(int of) {
  long tasks = 0;
  for (int share = 0; share < of; share++) tasks += atomic_load_explicit(&shares[share].finished, memory_order_acquire);
  return tasks;
}

static void *worker(void *argument) {
  unsigned seen = 0;
  inside = 1;
  for (;;) {
    for (int spin = 0; spin < SPINS && atomic_load(&current) == seen; spin++) relax();
    if (atomic_load(&current) == seen) {
      pthread_mutex_lock(&lock);
      atomic_fetch_add(&sleepers, 1);
      while (atomic_load(&current) == seen) pthread_cond_wait(&wake, &lock);
      atomic_fetch_sub(&sleepers, 1);
      pthread_mutex_unlock(&lock);
    }
    seen = atomic_load(&current);
    work((int)(uintptr_t)argument);
  }
  return NULL;
}

static void after_fork(void) {
  workers = 0; /* the child has none of the parent's threads */
  atomic_store(&sleepers, 0);
  pthread_mutex_init(&entry, NULL);
  pthread_mutex_init(&lock, NULL);
  pthread_cond_init(&wake, NULL);
  inside = 0;
}

static void ended(void *unused) {
  (void)unused;
  for (int kind = 0; kind < KINDS; kind++) free(scratch[kind].memory), scratch[kind].memory = NULL, scratch[kind].size = 0;
}

static void setup(void) {
  pthread_atfork(NULL, NULL, after_fork);
  pthread_key_create(&ending, ended);
}

/* Memory of this thread, at least `bytes` long and 64-byte aligned, until it asks for more of the same kind, or ends. What asks
 * is left if there is none, or if it says itself that there was none, by a `kind` below 0. */
__attribute__((visibility("default"))) void *grt_memory(int kind, size_t bytes) {
  if (kind < 0) leave();
  if (bytes > scratch[kind].size) {
    pthread_once(&once, setup);
    pthread_setspecific(ending, scratch);
    free(scratch[kind].memory);
    scratch[kind].size = (bytes + 4095) & ~(size_t)4095;
    scratch[kind].memory = aligned_alloc(64, scratch[kind].size);
    if (scratch[kind].memory == NULL) scratch[kind].size = 0, leave();
  }
  return scratch[kind].memory;
}

static int cores(void) {
  cpu_set_t set;
  const char *text = getenv("GRAPHRT_THREADS");
  const int asked = text ? atoi(text) : 0;
  if (asked > 0) return asked < MAX_THREADS ? asked : MAX_THREADS;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
  return (int)sysconf(_SC_NPROCESSORS_ONLN);
}

__attribute__((visibility("default"))) void grt_set_threads(int threads) {
  pthread_mutex_lock(&entry);
  wanted = threads < 1 ? 1 : threads < MAX_THREADS ? threads : MAX_THREADS;
  pthread_mutex_unlock(&entry);
}

/* Starts anew to record what threads do, or stops. */
__attribute__((visibility("default"))) void grt_record(int on) {
  if (on) atomic_store(&noted, 0);
  atomic_store(&recording, on);
}

/* Writes (thread, start, end) of at most `most` spans, in nanoseconds of CLOCK_MONOTONIC; returns how many. */
__attribute__((visibility("default"))) long grt_spans(int64_t *out, long most) {
  long count = atomic_load(&noted);
  count = count < SPANS ? count : SPANS;
  for (long i = 0; i < count && i < most; i++) {
    out[3 * i] = atomic_load_explicit(&spans[i].thread, memory_order_relaxed);
    out[3 * i + 1] = atomic_load_explicit(&spans[i].start, memory_order_relaxed);
    out[3 * i + 2] = atomic_load_explicit(&spans[i].end, memory_order_relaxed);
  }
  return count < most ? count : most;
}

__attribute__((visibility("default"))) void grt_parallel(grt_task task, long tasks, void **buf) {
  if (tasks <= 1 || inside || alone) {
    const int records = !inside && atomic_load_explicit(&recording, memory_order_relaxed);
    const long long start = records ? now() : 0;
    for (long i = 0; i < tasks; i++) task(i, buf);
    if (records) note(0, -1, start);
    return;
  }
  pthread_once(&once, setup);
  pthread_mutex_lock(&entry);
  if (wanted == 0) wanted = cores();
  while (workers < wanted - 1) {
    pthread_t thread;
    pthread_attr_t detached;
    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    /* Nothing to draw yet: a ticket that never was one of a loop would be taken for one of a loop long gone. */
    atomic_store(&shares[workers + 1].ticket, (unsigned long long)atomic_load(&current) << 32 | 0xffffffffu);
    const int failed = pthread_create(&thread, &detached, worker, (void *)(uintptr_t)(workers + 1));
    pthread_attr_destroy(&detached);
    if (failed) break;
    workers++;
  }
  const unsigned loop = atomic_load(&current) + 1;
  const int of = workers + 1;
  atomic_store_explicit(&loops[loop % 64].function, task, memory_order_relaxed);
  atomic_store_explicit(&loops[loop % 64].buffers, buf, memory_order_relaxed);
  atomic_store_explicit(&loops[loop % 64].count, tasks, memory_order_relaxed);
  atomic_store_explicit(&loops[loop % 64].shares, of, memory_order_relaxed);
  for (int share = 0; share < of; share++) atomic_store_explicit(&shares[share].finished, 0, memory_order_relaxed);
  for (int share = 0; share < of; share++)
    atomic_store(&shares[share].ticket, (unsigned long long)loop << 32 | (unsigned long long)first(tasks, share, of));
  atomic_store(&current, loop);
  if (atomic_load(&sleepers) > 0) {
    pthread_mutex_lock(&lock);
    pthread_cond_broadcast(&wake);
    pthread_mutex_unlock(&lock);
  }
  inside = 1;
  work(0);
  inside = 0;
  for (int spin = 0; finished(of) < tasks; spin++) {
    if (spin < SPINS) relax();
    else sched_yield(); /* whoever runs the last task has lost its core: let it have this one */
  }
  const int failed = atomic_exchange(&starved, 0);
  pthread_mutex_unlock(&entry);
  if (failed) leave();
}

/* Whether this thread runs loops by itself from here on; returns whether it did. */
__attribute__((visibility("default"))) int grt_alone(int on) {
  const int before = alone;
  alone = on;
  return before;
}

/* Runs `launch`; 1 if there was no memory for a part of it, else 0. */
__attribute__((visibility("default"))) int grt_try(void (*launch)(int, void **), int number, void **table) {
  jmp_buf here, *const outer = left;
  const int before = alone;
  if (setjmp(here) == 0) {
    left = &here;
    launch(number, table);
    left = outer;
    return 0;
  }
  left = outer, alone = before;
  return 1;
}

/* The thread pool: one per process, made at first use.
 *
 * grt_parallel runs task 0 .. tasks-1; the caller takes part, and threads take the next index from one counter. Results cannot
 * depend on who ran what, because a task owns what it writes. Workers spin briefly, then sleep. One program runs at a time:
 * a second Python thread waits; a call from inside a task runs serially. After fork the child makes a pool of its own.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef void (*grt_task)(long index, void **buf);

enum { MAX_THREADS = 256, SPINS = 20000 };

static pthread_mutex_t entry = PTHREAD_MUTEX_INITIALIZER; /* held while a program's loop runs */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;  /* guards sleeping and waking */
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
static atomic_long generation, next_index, active;
static long task_count;
static grt_task task_function;
static void **task_buffers;
static int workers, wanted;
static _Thread_local int inside;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static inline void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

static void work(void) {
  for (;;) {
    const long i = atomic_fetch_add_explicit(&next_index, 1, memory_order_relaxed);
    if (i >= task_count) return;
    task_function(i, task_buffers);
  }
}

static void *worker(void *argument) {
  long seen = (long)(intptr_t)argument;
  inside = 1;
  for (;;) {
    for (int spin = 0; spin < SPINS && atomic_load_explicit(&generation, memory_order_acquire) == seen; spin++) relax();
    if (atomic_load_explicit(&generation, memory_order_acquire) == seen) {
      pthread_mutex_lock(&lock);
      while (atomic_load_explicit(&generation, memory_order_acquire) == seen) pthread_cond_wait(&wake, &lock);
      pthread_mutex_unlock(&lock);
    }
    seen++; /* the caller waits for every worker, so no generation is ever skipped */
    work();
    atomic_fetch_sub_explicit(&active, 1, memory_order_release);
  }
  return NULL;
}

static void after_fork(void) {
  workers = 0; /* the child has none of the parent's threads */
  pthread_mutex_init(&entry, NULL);
  pthread_mutex_init(&lock, NULL);
  pthread_cond_init(&wake, NULL);
  inside = 0;
}

static void setup(void) { pthread_atfork(NULL, NULL, after_fork); }

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

__attribute__((visibility("default"))) void grt_parallel(grt_task task, long tasks, void **buf) {
  if (tasks <= 1 || inside) {
    for (long i = 0; i < tasks; i++) task(i, buf);
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
    const long now = atomic_load_explicit(&generation, memory_order_relaxed);
    const int failed = pthread_create(&thread, &detached, worker, (void *)(intptr_t)now);
    pthread_attr_destroy(&detached);
    if (failed) break;
    workers++;
  }
  task_function = task, task_buffers = buf, task_count = tasks;
  atomic_store_explicit(&next_index, 0, memory_order_relaxed);
  atomic_store_explicit(&active, workers, memory_order_relaxed);
  pthread_mutex_lock(&lock);
  atomic_fetch_add_explicit(&generation, 1, memory_order_release);
  pthread_cond_broadcast(&wake);
  pthread_mutex_unlock(&lock);
  inside = 1;
  work();
  inside = 0;
  while (atomic_load_explicit(&active, memory_order_acquire) > 0) relax();
  pthread_mutex_unlock(&entry);
}

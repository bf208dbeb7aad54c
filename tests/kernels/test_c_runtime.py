"""The thread pool in C: every task once, from several threads at a time, without a data race (ThreadSanitizer)."""

from __future__ import annotations

import subprocess
from pathlib import Path

from graphrt.targets.cpu.build import compiler, headers

DRIVER = r"""
#include <pthread.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>
typedef void (*grt_task)(long, void **);
void grt_parallel(grt_task, long, void **);
void grt_set_threads(int);
static void add(long i, void **buf) { ((long *)buf[0])[i] += i; }
static void nested(long i, void **buf) { void *inner[1] = {((long **)buf[0])[i]}; grt_parallel(add, 7, inner); }
static void *caller(void *result) {
  long sums[200] = {0}, total = 0;
  void *buf[1] = {sums};
  for (int k = 0; k < 2000; k++) grt_parallel(add, 1 + k % 200, buf);
  for (int i = 0; i < 200; i++) total += sums[i];
  *(long *)result = total;
  return NULL;
}
int main(int argc, char **argv) {
  long a, b, rows[3][7] = {{0}}, *pointers[3] = {rows[0], rows[1], rows[2]};
  pthread_t x, y;
  grt_set_threads(4);
  pthread_create(&x, NULL, caller, &a);
  pthread_create(&y, NULL, caller, &b);
  pthread_join(x, NULL);
  pthread_join(y, NULL);
  void *buf[1] = {pointers};
  grt_parallel(nested, 3, buf);
  long c = a;
  if (argc > 1) { /* fork: the child makes threads of its own */
    int pipes[2];
    if (pipe(pipes)) return 1;
    if (fork() == 0) {
      caller(&c);
      return write(pipes[1], &c, sizeof c) != sizeof c;
    }
    wait(NULL);
    if (read(pipes[0], &c, sizeof c) != sizeof c) return 1;
  }
  printf("%ld %ld %ld %ld", a, b, c, rows[2][6]);
  return 0;
}
"""
GROWING = r"""
#include <stdio.h>
#include <unistd.h>
typedef void (*grt_task)(long, void **);
void grt_parallel(grt_task, long, void **);
void grt_set_threads(int);
enum { LOOPS = 128, TASKS = 100 };
static long done[2 * LOOPS][TASKS];
static void count(long i, void **buf) { __atomic_fetch_add((long *)buf[0] + i, 1, __ATOMIC_SEQ_CST); }
int main(void) {
  long wrong = 0;
  for (int loop = 0; loop < 2 * LOOPS; loop++) {
    if (loop == LOOPS) grt_set_threads(6);
    if (loop == 0) grt_set_threads(2);
    void *buf[1] = {done[loop]};
    grt_parallel(count, TASKS, buf);
  }
  usleep(20000); /* threads that come late find nothing to do */
  for (int loop = 0; loop < 2 * LOOPS; loop++)
    for (int i = 0; i < TASKS; i++) wrong += done[loop][i] != 1;
  printf("%ld", wrong);
  return 0;
}
"""
ALONE = r"""
#include <pthread.h>
#include <stdio.h>
typedef void (*grt_task)(long, void **);
void grt_parallel(grt_task, long, void **);
void grt_set_threads(int);
int grt_alone(int);
int grt_try(void (*)(int, void **), int, void **);
void *grt_memory(int, unsigned long);
static pthread_t who[1000];
static void note(long i, void **buf) { (void)buf; who[i] = pthread_self(); }
static void starved(int number, void **table) {
  (void)number, (void)table;
  grt_alone(0);
  grt_memory(-1, 0);
}
int main(void) {
  int others = 0;
  grt_set_threads(4);
  grt_parallel(note, 1000, NULL); /* the others are there */
  const int before = grt_alone(1);
  for (int turn = 0; turn < 100; turn++) {
    grt_parallel(note, 1000, NULL);
    for (int i = 0; i < 1000; i++) others += !pthread_equal(who[i], pthread_self());
  }
  const int failed = grt_try(starved, 0, NULL);
  printf("%d %d %d %d", before, others, failed, grt_alone(0));
  return 0;
}
"""
EXPECTED = 10 * sum(i * (200 - i) for i in range(200))  # index i runs in the loops of more than i tasks


def run(folder: Path, flags: list[str], arguments: list[str], text: str = DRIVER) -> subprocess.CompletedProcess[str]:
    source, program = folder / "driver.c", folder / "driver"
    source.write_text(text)
    files = [str(headers() / "runtime.c"), str(source), "-o", str(program)]
    command = [*compiler(), "-std=gnu11", "-g", "-O1", *flags, "-pthread", *files]
    subprocess.run(command, check=True)
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False, timeout=120)


def test_every_task_runs_once_without_a_race(tmp_path: Path) -> None:
    result = run(tmp_path, ["-fsanitize=thread"], [])
    assert result.returncode == 0, result.stderr
    assert "WARNING" not in result.stderr
    assert result.stdout == f"{EXPECTED} {EXPECTED} {EXPECTED} 6"


def test_a_forked_child_has_a_pool_of_its_own(tmp_path: Path) -> None:
    result = run(tmp_path, [], ["fork"])
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"{EXPECTED} {EXPECTED} {EXPECTED} 6"


def test_new_threads_of_a_pool_take_no_task_of_loops_long_gone(tmp_path: Path) -> None:
    done = run(tmp_path, [], [], GROWING)
    assert (done.returncode, done.stdout) == (0, "0"), done.stderr


def test_a_thread_that_is_to_run_loops_alone_does_and_a_launch_that_fails_leaves_it_so(tmp_path: Path) -> None:
    done = run(tmp_path, ["-fsanitize=thread"], [], ALONE)
    assert (done.returncode, done.stdout) == (0, "0 0 1 1"), done.stderr

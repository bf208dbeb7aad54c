/* Runs an exported network without Python: main FOLDER < x.bin prints the first output, one number a line.
 *
 * network.h is written by export.py: the names of the two shared objects, the size of the arena and the pointer table's entries.
 * The state comes from state.bin, the inputs from standard input; both hold the entries in the table's order, as raw memory.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "network.h"

enum { ENTRIES = sizeof entries / sizeof *entries };

static void fail(const char *what) {
  fprintf(stderr, "%s\n", what);
  exit(1);
}

static void *opened(const char *folder, const char *name) {
  char path[4096];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  void *library = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
  if (library == NULL) fail(dlerror());
  return library;
}

int main(int count, char **arguments) {
  if (count != 2) fail("usage: main FOLDER < inputs");
  char path[4096];
  snprintf(path, sizeof path, "%s/state.bin", arguments[1]);
  FILE *state = fopen(path, "rb");
  if (state == NULL) fail("there is no state.bin");

  void *runtime = opened(arguments[1], RUNTIME), *program = opened(arguments[1], PROGRAM);
  void (*bind)(void *, void *, void *, void *) = (void (*)(void *, void *, void *, void *))dlsym(program, "grt_bind");
  int (*run)(void **) = (int (*)(void **))dlsym(program, "graphrt_run");
  void *parallel = dlsym(runtime, "grt_parallel"), *memory_of_threads = dlsym(runtime, "grt_memory");
  void *attempt = dlsym(runtime, "grt_try"), *alone = dlsym(runtime, "grt_alone");
  if (bind == NULL || run == NULL || parallel == NULL || memory_of_threads == NULL || attempt == NULL || alone == NULL)
    fail("a function is missing");
  bind(parallel, memory_of_threads, attempt, alone);

  /* Entry 0 is the arena, with room on both sides that masked vector loads may touch. */
  void *table[ENTRIES + 2], *kept[FROZEN + 1] = {NULL}, *result = NULL;
  const size_t bytes = (ARENA + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT + 2 * ALIGNMENT;
  char *arena = aligned_alloc(ALIGNMENT, bytes);
  if (arena == NULL) fail("out of memory");
  table[0] = arena + ALIGNMENT;
  table[ENTRIES + 1] = kept; /* weights, packed in the first run */
  size_t numbers = 0;
  for (int i = 0; i < ENTRIES; i++) {
    const char *space = entries[i].space;
    const int kept = strcmp(space, "state") == 0, output = strcmp(space, "output") == 0;
    void *memory = table[i + 1] = malloc(entries[i].bytes + 1);
    if (memory == NULL) fail("out of memory");
    if (!output && fread(memory, 1, entries[i].bytes, kept ? state : stdin) != entries[i].bytes) fail("too few bytes");
    if (output && result == NULL) result = memory, numbers = entries[i].bytes / sizeof(float);
  }

  if (run(table)) fail("out of memory");
  for (size_t i = 0; i < numbers; i++) printf("%.9g\n", ((float *)result)[i]);
  return 0;
}

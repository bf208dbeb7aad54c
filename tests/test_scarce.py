"""Where the system gives no more memory, or no more threads: an error that names it, or the same results."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import INTERPRETED

import graphrt as grt
from graphrt import errors
from graphrt import ops as F
from graphrt.targets.cpu.build import compiler
from graphrt.threads import in_threads

pytestmark = [pytest.mark.skipif(INTERPRETED, reason="about the cpu target")]
# Stands before the C library: so many allocations, threads and large mappings are given as long as the counts last; -1: any.
SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/mman.h>
atomic_int scarce_memory = -1, scarce_threads = -1, scarce_mappings = -1;
static int given(atomic_int *left) { return *left < 0 || atomic_fetch_sub(left, 1) > 0 || (atomic_store(left, 0), 0); }
void *aligned_alloc(size_t alignment, size_t size) {
  void *(*next)(size_t, size_t) = (void *(*)(size_t, size_t))dlsym(RTLD_NEXT, "aligned_alloc");
  return given(&scarce_memory) ? next(alignment, size) : NULL;
}
int pthread_create(pthread_t *thread, const pthread_attr_t *how, void *(*f)(void *), void *of) {
  int (*next)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *) =
      (int (*)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *))dlsym(RTLD_NEXT, "pthread_create");
  return given(&scarce_threads) ? next(thread, how, f, of) : EAGAIN;
}
static void *map(const char *name, void *at, size_t size, int may, int how, int file, off_t from) {
  void *(*next)(void *, size_t, int, int, int, off_t) = (void *(*)(void *, size_t, int, int, int, off_t))dlsym(RTLD_NEXT, name);
  if (size < 16 << 20 || given(&scarce_mappings)) return next(at, size, may, how, file, from);
  errno = ENOMEM;
  return MAP_FAILED;
}
#define MAPS(name) \
  void *name(void *at, size_t size, int a, int b, int file, off_t from) { return map(#name, at, size, a, b, file, from); }
MAPS(mmap)
MAPS(mmap64)
"""
HEAD = """
import ctypes, gc, sys
import numpy as np
import graphrt as grt
from graphrt import errors, ops as F
libc = ctypes.CDLL(None)
def give(what, count):
    ctypes.c_int.in_dll(libc, f"scarce_{what}").value = count
rng = np.random.default_rng(0)
x, w = (rng.standard_normal(shape).astype("f") for shape in ((2, 64, 12, 12), (64, 64, 3, 3)))
def network(update=False, freeze=False):
    graph = grt.Graph()
    p = graph.parameter("w", w)
    y = graph.output("y", F.conv2d(graph.input("x", x.shape), p, padding=1))
    if update:
        graph.update(p, p - F.mean(y))
    return grt.compile(graph, target="cpu", freeze=freeze)
def fails(call, words):
    try:
        call()
    except errors.OutOfMemoryError as error:
        assert isinstance(error, MemoryError) and words in str(error), error
    else:
        raise AssertionError("there was memory")
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if sys.platform != "linux":
        pytest.skip("stands before the C library as Linux loads it")
    folder = tmp_path_factory.mktemp("scarce")
    (folder / "shim.c").write_text(SHIM)
    command = [
        *compiler(),
        "-O1",
        "-shared",
        "-fPIC",
        str(folder / "shim.c"),
        "-o",
        str(folder / "shim.so"),
        "-ldl",
        "-pthread",
    ]
    subprocess.run(command, check=True)
    return folder / "shim.so"


def run(shim: Path, code: str, threads: int = 3) -> None:
    env = {**os.environ, "LD_PRELOAD": str(shim), "GRAPHRT_THREADS": str(threads), "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", HEAD + code], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("threads", [1, 3])
def test_a_run_without_memory_ends_and_the_next_is_right(shim: Path, threads: int) -> None:
    """Whichever allocation fails, of the thread that calls or of one that helps; state that was not written is whole."""
    code = """
programs = step, frozen, plain = network(update=True), network(freeze=True), network()
expected = grt.compile(plain.built, target="reference")(x=x)["y"]
failed = []
for count in range(4):
    for program in programs:
        give("memory", count)
        try:
            found = program(x=x)["y"]
        except errors.OutOfMemoryError as error:
            assert isinstance(error, MemoryError) and "no memory for what launch" in str(error), error
            assert not program.state.torn
            np.testing.assert_array_equal(program.state["w"], w)
            failed.append((count, program))
        else:
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)
        give("memory", -1)
        program.state.set("w", w)
assert {(0, program) for program in programs} <= {*failed}, failed
for program in programs:
    np.testing.assert_allclose(program(x=x)["y"], expected, rtol=1e-4, atol=1e-3)
"""
    run(shim, code, threads)


def test_a_program_without_memory_is_not_made(shim: Path) -> None:
    code = """
graph = grt.Graph()
v = graph.input("x", (4096, 1024))
graph.output("y", F.softmax(F.cumsum(F.softmax(F.cumsum(v, 0), 1), 0), 1))
give("mappings", 0)
fails(lambda: grt.compile(graph, target="cpu"), "compile it for a smaller batch, or with a memory_limit")
give("mappings", -1)
assert np.isfinite(grt.compile(graph, target="cpu")(x=np.ones((4096, 1024), "f"))["y"]).all()
"""
    run(shim, code)


@pytest.mark.parametrize("count", [0, 1])
def test_without_threads_results_are_the_same(shim: Path, count: int) -> None:
    """Compiled, filled and run by the threads there are."""
    code = f"""
give("threads", {count})
first = network()(x=x)["y"]
graph = grt.Graph()
v = graph.input("x", (64, 64))
for i in range(24):  # in several units
    v = F.tanh(v @ graph.parameter(f"w{{i}}", rng.standard_normal((64, 64)).astype("f") / 10) + float(i))
large = graph.parameter("large", np.ones(1 << 20, "f"))
graph.output("y", v + F.mean(large))
program = grt.compile(graph, target="cpu")
feeds = rng.standard_normal((64, 64)).astype("f")
alone = program(x=feeds)["y"]
give("threads", -1)
np.testing.assert_array_equal(network()(x=x)["y"], first)
np.testing.assert_array_equal(program(x=feeds)["y"], alone)
np.testing.assert_allclose(alone, grt.compile(graph, target="reference")(x=feeds)["y"], rtol=1e-3, atol=1e-4)
"""
    run(shim, code)


class Starving:
    """The library of a program that has no memory for the launch of a given number."""

    def __init__(self, library: Any, number: int) -> None:
        self._library, self._number = library, number

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, name)

    def graphrt_launch(self, number: int, table: Any) -> int:
        return number == self._number or self._library.graphrt_launch(number, table)

    def graphrt_run(self, table: Any) -> int:
        for i in range(self._number):
            self._library.graphrt_launch(i, table)
        return self._number + 1


@pytest.mark.parametrize("quick", [False, True])
def test_state_is_marked_where_memory_ended_while_it_was_written(quick: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = grt.Graph()
    start = {"w": np.eye(8, dtype=np.float32), "v": np.zeros(3, np.float32)}
    x, w, v = (graph.input("x", (8, 8)), *(graph.parameter(n, a) for n, a in start.items()))
    y = graph.output("y", F.matmul(x, w) @ w)
    graph.update(w, w + F.mean(y))
    graph.update(v, v + F.sum(w))
    program, feeds = grt.compile(graph, target="cpu", fusion="none"), {"x": np.full((8, 8), 0.5, np.float32)}
    binary: Any = program._binary
    for number in range(program.launches):
        binary._quick = quick
        with monkeypatch.context() as patch, pytest.raises(errors.OutOfMemoryError, match=f"what launch {number} of"):
            patch.setattr(binary, "_library", Starving(binary._library, number))
            program(feeds)
        assert program.state.torn == (number >= binary.unwritten)
        for name, array in start.items():
            program.state.set(name, array)
    assert 0 < binary.unwritten < program.launches - 1
    np.testing.assert_array_equal(program(feeds)["y"], feeds["x"])


def test_what_a_thread_raises_is_raised_and_all_have_ended() -> None:
    def work(number: int) -> int:
        if number == 3:
            raise KeyError(number)
        return -number

    before = threading.active_count()
    assert in_threads(lambda n: -n, range(5)) == [0, -1, -2, -3, -4] and in_threads(work, []) == []
    with pytest.raises(KeyError, match="3"):
        in_threads(work, range(100))
    assert threading.active_count() == before

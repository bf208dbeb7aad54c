"""The generated C under AddressSanitizer and UndefinedBehaviorSanitizer, and, with the pool of threads, under ThreadSanitizer.

A sanitizer must be loaded before Python, so each run is a process of its own: the op tests, training steps of LeNet-5 and
ResNet-20 compared with the same steps compiled as ever, and steps of each kind of network beside the reference.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import INTERPRETED
from zoo import ZOO

from graphrt.targets.cpu.build import compiler, headers

ROOT = Path(__file__).parent.parent
STEP = """
import sys, numpy as np
from graphrt import Trainer, models, nn, optim
nn.manual_seed(0)
model = models.get(sys.argv[1])
trainer = Trainer(model.build(), nn.CrossEntropyLoss(), optim.SGD(lr=0.05, momentum=0.9), target="cpu")
rng = np.random.default_rng(0)
x, y = rng.standard_normal((4, *model.input_shape)).astype(np.float32), rng.integers(0, 10, 4)
print(*(trainer.step(x, y)["loss"] for _ in range(3)))
"""
POOL = r"""
#include "runtime.c"
#include <stdio.h>
enum { LOOPS = 400, TASKS = 37, CALLERS = 3 };
static void add(long i, void **buf) { ((long *)buf[0])[i] += i + 1; }
static void *call(void *sums) {
  void *buf[] = {sums};
  for (int i = 0; i < LOOPS; i++) grt_parallel(add, TASKS, buf);
  return NULL;
}
int main(void) {
  static long sums[CALLERS][TASKS];
  pthread_t threads[CALLERS];
  grt_set_threads(4);
  for (int t = 0; t < CALLERS; t++) pthread_create(&threads[t], NULL, call, sums[t]);
  for (int t = 0; t < CALLERS; t++) pthread_join(threads[t], NULL);
  for (int t = 0; t < CALLERS; t++)
    for (int i = 0; i < TASKS; i++)
      if (sums[t][i] != (long)LOOPS * (i + 1)) return puts("a task was lost or ran twice"), 1;
  return 0;
}
"""
pytestmark = [pytest.mark.proof, pytest.mark.skipif(INTERPRETED, reason="the C target has no interpreted lane")]


def library(name: str) -> str:
    """The path of a sanitizer's library; skips the test where the compiler has none."""
    found = subprocess.run([*compiler(), f"-print-file-name={name}"], capture_output=True, text=True, check=False)
    if found.returncode or not os.path.isabs(found.stdout.strip()):
        pytest.skip(f"{' '.join(compiler())} comes without {name} on this machine")
    return found.stdout.strip()


SANITIZERS = {  # the library, what Python itself would be told, the flags, and what starts the process
    "address": (
        "libasan.so",
        {"ASAN_OPTIONS": "detect_leaks=0"},
        "-fsanitize=address,undefined -fno-sanitize-recover=undefined",
    ),
    "thread": ("libtsan.so", {"TSAN_OPTIONS": "halt_on_error=1"}, "-fsanitize=thread"),
}


def fixed() -> list[str]:
    """What starts a process whose addresses are not random, as ThreadSanitizer wants them."""
    return ["setarch", "-R"] if shutil.which("setarch") else []


def sanitized(arguments: list[str], timeout: int, sanitizer: str = "address") -> subprocess.CompletedProcess[str]:
    name, options, flags = SANITIZERS[sanitizer]
    env = {
        **os.environ,
        **options,
        "LD_PRELOAD": library(name),
        "GRAPHRT_CFLAGS": f"{flags} -g -O1",
        "GRAPHRT_THREADS": "3",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    command = [*(fixed() if sanitizer == "thread" else []), sys.executable, *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout, check=False)


@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_each_kind_of_network_under(sanitizer: str) -> None:
    run = sanitized([str(ROOT / "tests" / "zoo.py")], 1500, sanitizer)
    assert run.returncode == 0, (run.stdout + run.stderr)[-4000:]
    assert [line.split()[0] for line in run.stdout.splitlines()] == list(ZOO)


def test_op_tests_under_address_and_undefined_sanitizer() -> None:
    run = sanitized(
        ["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", "cpu", str(ROOT / "tests" / "test_ops.py")], 800
    )
    assert run.returncode == 0, (run.stdout + run.stderr)[-4000:]


def test_pairs_and_stretches_under_address_and_undefined_sanitizer() -> None:
    """Products of bfloat16, and kernels over groups of channels."""
    files = [str(ROOT / "tests" / name) for name in ("test_pairs.py", "test_stretches.py")]
    run = sanitized(["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *files], 800)
    assert run.returncode == 0, (run.stdout + run.stderr)[-4000:]


@pytest.mark.parametrize("model", ["lenet5", "resnet20"])
def test_training_steps_under_address_and_undefined_sanitizer(model: str) -> None:
    run = sanitized(["-c", STEP, model], 400)
    assert run.returncode == 0, run.stderr[-4000:]
    plain = subprocess.run([sys.executable, "-c", STEP, model], capture_output=True, text=True, timeout=400, check=True)
    losses = [np.array([float(v) for v in r.stdout.split()]) for r in (run, plain)]
    assert losses[0].shape == (3,) and losses[0][2] < losses[0][0]
    np.testing.assert_allclose(*losses, rtol=1e-3)


def test_thread_pool_under_thread_sanitizer(tmp_path: Path) -> None:
    library("libtsan.so")
    source, program = tmp_path / "pool.c", tmp_path / "pool"
    source.write_text(POOL)
    flags = ["-std=gnu11", "-O1", "-g", "-fsanitize=thread", "-pthread", "-I", str(headers())]
    subprocess.run([*compiler(), *flags, str(source), "-o", str(program)], check=True, timeout=100)
    run = subprocess.run([*fixed(), str(program)], capture_output=True, text=True, timeout=200, check=False)
    assert run.returncode == 0, (run.stdout + run.stderr)[-4000:]

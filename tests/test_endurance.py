"""Programs that live long and in company: thousands of steps, hundreds of compilations, processes, torch, odd arrays."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import INTERPRETED, check
from small import batch, classifier

import graphrt as grt
from graphrt import errors
from graphrt import ops as F

proc = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads what Linux says of a process")
compiled = pytest.mark.skipif(INTERPRETED, reason="about the cpu target")


def held() -> dict[str, int]:
    """Open files, threads, mapped files of programs, and bytes in memory, of this process."""
    gc.collect()
    return {
        "files": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
        "programs": Path("/proc/self/maps").read_text().count("/program-"),
        "bytes": int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"),
    }


def check_growth(use: Callable[[], object], times: int, most: int) -> None:
    """Behind a tenth of ``times``, in which caches fill, nothing is held any more; memory to ``most`` bytes."""
    for _ in range(times // 10):
        use()
    before = held()
    for _ in range(times):
        use()
    after, room = held(), {"bytes": most}  # less than before where other tests' programs go meanwhile
    assert all(after[what] <= count + room.get(what, 0) for what, count in before.items()), f"{before}, then {after}"


def turns(few: int, many: int) -> Any:
    """A test's turns: ``few`` in make test, ``many`` in make proofs."""
    return pytest.mark.parametrize("turns", [few, pytest.param(many, marks=pytest.mark.proof)])


@proc
@compiled
@turns(2_000, 20_000)
def test_steps_hold_nothing(turns: int) -> None:
    program, feeds = grt.compile(classifier(True), target="cpu"), batch()
    check_growth(lambda: program(feeds), turns, 2 << 20)


@proc
@compiled
@turns(40, 200)
def test_compilations_hold_nothing(turns: int) -> None:
    feeds = batch()

    def use() -> None:
        program = grt.compile(classifier(True), target="cpu")
        program(feeds)

    check_growth(use, turns, 8 << 20)


PROCESSES = """
import multiprocessing, sys
import numpy as np
import graphrt as grt
from graphrt import ops as F
x = np.random.default_rng(0).standard_normal((64, 200)).astype("f")
def network():
    graph = grt.Graph()
    w = graph.parameter("w", np.linspace(-1, 1, 200 * 50, dtype="f").reshape(200, 50))
    graph.output("y", F.softmax(F.matmul(graph.input("x", x.shape), w), 1))
    return grt.compile(graph, target="cpu")
program = None
def run(number):
    global program
    program = program or network()
    return program(x=x + number)["y"]
if __name__ == "__main__":
    method, first = sys.argv[1:]
    expected = None if first == "child" else [run(n) for n in range(6)]
    with multiprocessing.get_context(method).Pool(2) as pool:
        found = pool.map(run, range(6), 1)
    for one, other in zip(expected or [run(n) for n in range(6)], found):
        np.testing.assert_array_equal(one, other)
"""


@compiled
@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
@pytest.mark.parametrize("first", ["parent", "child"])
def test_processes_of_a_pool_compute_what_their_parent_does(method: str, first: str, tmp_path: Path) -> None:
    """Whether a parent has run its program before they are made, which those of fork inherit, or runs one afterwards."""
    (tmp_path / "pool.py").write_text(PROCESSES)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "GRAPHRT_THREADS": "2"}
    command = [sys.executable, str(tmp_path / "pool.py"), method, first]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]


@compiled
def test_threads_of_torch_work_beside_ours() -> None:
    program, feeds = grt.compile(classifier(False), target="cpu"), {"x": batch()["x"]}
    expected, over, turns = program(feeds)["logits"], threading.Event(), list[int]()
    a = torch.from_numpy(np.random.default_rng(0).standard_normal((300, 300)).astype(np.float32))
    product = a @ a

    def multiply() -> None:
        while not over.is_set():
            turns.append(int(not torch.equal(a @ a, product)))

    threads = [threading.Thread(target=multiply) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for turn in range(300):
            np.testing.assert_array_equal(program(feeds)["logits"], expected)
            torch.set_num_threads(1 + turn % 2)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert turns and not sum(turns)


ODD: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "read-only": lambda x: np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape),
    "turned around": lambda x: x[::-1, ::-1].copy()[::-1, ::-1],
    "with gaps": lambda x: np.repeat(x, 3, 1)[:, ::3],
    "transposed": lambda x: x.T.copy().T,
    "broadcast": lambda x: np.broadcast_to(x[:1], x.shape),
    "unaligned": lambda x: np.frombuffer(b"x" + x.tobytes(), np.uint8)[1:].view(x.dtype).reshape(x.shape),
    "a subclass": lambda x: x.view(np.matrix),
    "masked": lambda x: np.ma.masked_array(x),
    "of Fortran": np.asfortranarray,
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int16"])
def test_arrays_however_they_lie(kind: str, dtype: str, target: str) -> None:
    """They are read right, and none is written, as inputs and as what a parameter starts from."""
    x = (np.random.default_rng(0).standard_normal((37, 53)) * 100).astype(dtype)
    odd = ODD[kind](x)
    plain = np.array(odd)
    g = grt.Graph()
    v, p = g.input("x", x.shape, dtype), g.parameter("p", odd)
    g.output("y", v * 2 + p)
    g.output("lines", F.sum(v, 1))
    g.update(p, p + v)
    program = grt.compile(g, target=target)
    found = program(x=odd)
    np.testing.assert_array_equal(found["y"], plain * 2 + plain)
    np.testing.assert_allclose(found["lines"], plain.sum(1, dtype=dtype), rtol=1e-4, atol=0.02)
    np.testing.assert_array_equal(program.state["p"], plain + plain)
    np.testing.assert_array_equal(np.asarray(odd), plain)
    program.state.set("p", odd)
    np.testing.assert_array_equal(program(x=odd)["y"], plain * 2 + plain)


def test_bytes_in_the_other_order_and_no_bytes_are_refused(target: str) -> None:
    g = grt.Graph()
    program = grt.compile(g.input("x", (3,)) * 2.0, target=target)
    with pytest.raises(errors.InputError, match=r"got >f4; convert it first, an array with .astype\('float32'\)"):
        program(x=np.ones(3, ">f4"))
    with pytest.raises(errors.InputError, match="input 'x' is .*Cannot copy out of meta tensor|lies on meta"):
        program(x=torch.ones(3, device="meta"))


def test_a_kernel_of_three_hundred_inputs(target: str, rng: np.random.Generator) -> None:
    """One expression of all of them, its gradients, and updates of as many parameters side by side."""
    g, count = grt.Graph(), 300 if target != "interpret" else 40
    inputs = [g.input(f"x{i}", (5, 7)) for i in range(count)]
    total = inputs[0]
    for i, x in enumerate(inputs[1:]):
        total = total + x * (1.0 + i / 64)
    g.output("y", total)
    for i in range(count):
        p = g.parameter(f"p{i}", np.full((2, 3), i, np.float32))
        g.update(p, p * 0.5 + g.parameter(f"q{i}", np.ones((2, 3), np.float32)))
    feeds = {f"x{i}": rng.standard_normal((5, 7)).astype("f") for i in range(count)}
    check(g, feeds, target, length=count)

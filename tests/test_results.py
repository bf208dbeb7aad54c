"""Memory of results that is used again: only when nobody holds what lay there, in whatever way."""

from __future__ import annotations

import gc
import os
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import INTERPRETED
from hypothesis import given, settings
from hypothesis import strategies as st

import graphrt as grt
from graphrt import ops as F
from graphrt.targets.cpu import results

pytestmark = pytest.mark.skipif(INTERPRETED, reason="about the cpu target")
ROWS = results.LARGE // (4 * 64)


def program(rows: int = ROWS) -> grt.Program:
    g = grt.Graph()
    x = g.input("x", (rows, 64))
    g.output("y", x + 1.0)
    g.output("t", x * 2.0, order=(1, 0))
    g.output("least", F.amin(x, 0))
    return grt.compile(g, target="cpu")


def run(p: grt.Program, value: float) -> dict[str, np.ndarray]:
    found = p(x=np.full(p.graph.sources["x"].types[0].shape, value, np.float32))
    for name, expected in (("y", value + 1), ("t", 2 * value), ("least", value)):
        assert (found[name] == expected).all()
    return found


def address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def test_a_loop_writes_into_the_memory_of_the_results_before_the_last() -> None:
    p, seen = program(), set[int]()
    found = run(p, 0.0)
    for turn in range(1, 8):
        found = run(p, float(turn))
        seen.add(address(found["y"]))
    assert len(seen) == results.SETS and address(found["t"]) not in seen


HOLDERS: dict[str, Callable[[np.ndarray], Any]] = {
    "itself": lambda y: y,
    "a slice": lambda y: y[3:5, ::2],
    "a view of a view": lambda y: y.reshape(-1)[7:].view(np.int32)[::3],
    "its transpose": lambda y: y.T,
    "a tensor": torch.from_numpy,
    "DLPack": torch.from_dlpack,
    "a memoryview": lambda y: memoryview(y)[2:],
    "an array over its memory": lambda y: np.asarray(memoryview(y)),
    "a closure": lambda y: lambda: y.sum(),
    "its base": lambda y: y.base,
}


def content(held: Any) -> bytes:
    return np.asarray(held() if callable(held) else held).tobytes()


@settings(max_examples=30)
@given(st.lists(st.tuples(st.sampled_from([*HOLDERS]), st.sampled_from(["y", "t"]), st.booleans()), min_size=2, max_size=12))
def test_what_is_held_does_not_change(turns: list[tuple[str, str, bool]]) -> None:
    held: list[tuple[Any, bytes]] = []
    for number, (kind, name, keep) in enumerate(turns):
        one = HOLDERS[kind](run(PROGRAM, float(number))[name])
        if keep:
            held.append((one, content(one)))
        else:
            held[:1] = []
        del one
        for some, before in held:
            assert content(some) == before


PROGRAM: Any = None if INTERPRETED else program()


def test_threads_that_hold_results_keep_theirs() -> None:
    p, wrong = program(), list[float]()

    def work(value: float) -> None:
        for turn in range(20):
            found = p(x=np.full((ROWS, 64), value + turn, np.float32))
            wrong.extend([value] * int((found["y"] != value + turn + 1).any() or (found["t"] != 2 * (value + turn)).any()))

    threads = [threading.Thread(target=work, args=(100.0 * n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_results_may_be_inputs_and_outlive_their_program() -> None:
    g = grt.Graph()
    g.output("y", g.input("x", (ROWS, 64)) * 2.0)
    p = grt.compile(g, target="cpu")
    y = np.ones((ROWS, 64), np.float32)
    for _ in range(6):
        y = p(x=y)["y"]
    assert (y == 64.0).all()
    del p
    gc.collect()
    assert (y == 64.0).all() and (pickle.loads(pickle.dumps(y)) == y).all()


def test_no_more_is_kept_than_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small results are new arrays, and so are all of a program whose large ones are many bytes."""
    monkeypatch.setattr(results, "MOST", 4 * results.LARGE - 1)
    p = program()
    first = run(p, 0.0)["y"]
    assert first.base is None and run(p, 1.0)["least"].base is None
    monkeypatch.setattr(results, "MOST", 4 * results.LARGE)
    p = program()
    found = [run(p, float(turn)) for turn in range(5)]
    assert len({address(one[name]) for one in found for name in ("y", "t")}) == 10
    assert found[0]["y"].base is not None and found[0]["least"].base is None
    binary: Any = p._binary
    assert sum(len(kept) for kept in binary._results._kept.values()) == 2 * results.SETS


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads what Linux says of a process")
def test_results_that_are_dropped_go_back_to_the_system() -> None:
    def held() -> int:
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    p = program(8 * ROWS)
    found = [run(p, 0.0)]
    before = held()
    found += [run(p, float(turn)) for turn in range(40)]
    size = 40 * (found[0]["y"].nbytes + found[0]["t"].nbytes)
    assert held() > before + size // 2
    del found
    assert held() < before + size // 8

"""A slice of the fuzzing of damaged files, and that it finds what it looks for."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from pathlib import Path

import fuzz_files
import numpy as np
import pytest
from conftest import INTERPRETED
from fuzz_files import Fault, Kind, damaged, fuzz, kinds

import graphrt as grt
from graphrt.errors import GraphError, InputError

pytestmark = [
    pytest.mark.skipif(INTERPRETED, reason="files are read alike on every target"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a system that can fork"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    counts = Counter[str]()
    assert [*fuzz(kinds(tmp_path), 0, range(240), counts)] == []
    assert counts["graph"] > 0, "some damage leaves a graph that is one"


def test_every_fault_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that is none of graphrt's, a process that ends, one that hangs, one that takes too much; the rest is read."""
    monkeypatch.setattr(fuzz_files, "SECONDS", 0.5)
    number = iter(range(100))

    def read(content: bytes, place: Path) -> None:
        at = int((place / "at").read_text()) + 1 if (place / "at").exists() else next(number)
        (place / "at").write_text(str(at))
        if at == 1:
            raise KeyError("lost")
        if at == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        if at == 3:
            time.sleep(60)
        if at == 4:
            bytearray(fuzz_files.BYTES * 2)
        if at == 5:
            raise InputError("refused")

    counts = Counter[str]()
    faults = [*fuzz({"kind": Kind([b"abc"], read)}, 0, range(7), counts)]
    assert faults[:3] == [
        Fault("kind", 1, "KeyError: 'lost'"),
        Fault("kind", 2, "ends the process: signal 15"),
        Fault("kind", 3, "takes over 0 s"),
    ]
    assert [f.number for f in faults[3:]] == [4] and faults[3].what.startswith("MemoryError")
    assert counts == {"kind": 2}


def test_every_mutation_changes_something() -> None:
    content = b"name 12 : f32[3,4] = op(%1, 2)\nother 5\n" * 3
    for mutation in fuzz_files.MUTATIONS:
        for seed in range(20):
            made = bytearray(content)
            mutation(made, [content], np.random.default_rng(seed))
            if made != content:
                break
        else:
            pytest.fail(f"{mutation.__name__} leaves everything")
    rng = np.random.default_rng(0)
    assert len({damaged(content, [content], rng) for _ in range(50)}) > 40
    assert isinstance(damaged(b"", [b""], rng), bytes)


def test_attributes_of_another_name_are_refused_with_their_line() -> None:
    g = grt.Graph()
    g.output("y", grt.ops.sum(g.input("x", (3, 4)), 1))
    for text in (str(g).replace("dims=", "diws="), str(g).replace("dims=(1,)", "dims=None")):
        with pytest.raises(GraphError, match=r"line 2: .*reduce"):
            grt.Graph.parse(text)

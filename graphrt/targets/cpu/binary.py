"""Runs a cpu program: a pointer table, one arena, one native call. It needs neither graph nor compiler."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from graphrt.config import Flags
from graphrt.runtime.state import State
from graphrt.schedule.memory import ALIGNMENT
from graphrt.targets.cpu.build import load

HUGE = 2 << 20  # bytes of a huge page


def _arena(size: int) -> np.ndarray:
    """``size`` bytes with ALIGNMENT more on both sides; in huge pages where the system has them, for few address translations.

    The room around is for masked loads: GCC 12 may make a vector load and a blend of one whose mask it knows.
    """
    size = -(-size // ALIGNMENT) * ALIGNMENT + 2 * ALIGNMENT
    if size < HUGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        memory, start = mmap.mmap(-1, size), 0
    else:
        memory = mmap.mmap(-1, size + HUGE)
        memory.madvise(mmap.MADV_HUGEPAGE)
        start = -np.frombuffer(memory, np.uint8).ctypes.data % HUGE
    arena = np.frombuffer(memory, np.uint8, size, start)
    arena[...] = 0  # the first touch: pages are made here and not in the first run
    return arena


class CpuBinary:
    """A shared object, its arena of ``arena`` bytes and its pointer table: the arena, then ``entries`` as (space, name)."""

    def __init__(self, path: Path, arena: int, entries: Iterable[tuple[str, str]], runtime: Path | None = None) -> None:
        self.path, self.arena, self.entries = path, arena, list(entries)
        self._library = load(path, runtime)
        self._memory = _arena(arena)
        self._table = (ctypes.c_void_p * (len(self.entries) + 1))()
        self._table[0] = self._memory.ctypes.data + ALIGNMENT
        self._poison = Flags.read().poison

    def _bind(self, inputs: Mapping[str, np.ndarray], state: State, outputs: Mapping[str, np.ndarray]) -> None:
        if self._poison:
            self._memory[...] = 0xFF  # every float in it is NaN
        for entry, (space, name) in enumerate(self.entries, 1):
            array = {"input": inputs, "state": state, "output": outputs}[space].get(name)
            self._table[entry] = None if array is None else array.ctypes.data

    def run(self, inputs: Mapping[str, np.ndarray], state: State, outputs: Mapping[str, np.ndarray]) -> None:
        self._bind(inputs, state, outputs)
        self._library.graphrt_run(self._table)

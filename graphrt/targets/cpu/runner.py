"""Runs a cpu program: a pointer table, one arena, one native call."""

from __future__ import annotations

import ctypes
import math
import mmap
import time
from collections.abc import Mapping, Sequence

import numpy as np

from graphrt.config import Flags
from graphrt.ir import Node
from graphrt.passes.pipeline import Policy
from graphrt.runtime.state import State
from graphrt.schedule.kernel_ir import Kernel
from graphrt.schedule.memory import ALIGNMENT, MemoryPlan
from graphrt.schedule.order import Schedule
from graphrt.targets.cpu.build import build, load
from graphrt.targets.cpu.codegen import generate

HUGE = 2 << 20  # bytes of a huge page
TASKS = 8  # of a launch, at least: enough for a few threads to share evenly
ROW_LIMIT = 0  # rows are read again from cache by each pass; nothing is kept in registers across passes


def policy() -> Policy:
    """Splits that give two to a few dozen threads work, whatever their number: results do not depend on it."""

    def splits(node: Node) -> int:
        x = node.inputs[-1].shape
        if node.op.template is not None:  # the weight gradient: parts of the batch, unless its blocks are tasks enough
            k, per_group, *window = node.types[0].shape
            blocks = -(-k // 64) * -(-per_group * math.prod(window) // 320)
            parts = min(-(-TASKS // blocks), x[0])
            return parts if parts > 1 else 0
        kept, size = node.types[0].size, node.inputs[0].type.size
        long = kept < 1024 and size // max(kept, 1) >= 4096
        return next((s for s in (16, 8, 4, 2) if x[node.attrs["dims"][0]] % s == 0), 0) if long else 0

    return Policy(splits=splits, min_channels=12)


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


class CpuExecutable:
    """A shared object, its arena and its pointer table."""

    def __init__(self, schedule: Schedule, kernels: Sequence[Sequence[Kernel]], plan: MemoryPlan) -> None:
        self._source, self._buffers = generate(schedule, kernels, plan)
        self._library = load(build(self._source, "program"))
        self._launches = len(schedule.launches)
        self._memory = _arena(plan.size)
        self._table = (ctypes.c_void_p * (len(self._buffers.entries) + 1))()
        self._table[0] = self._memory.ctypes.data + ALIGNMENT
        self._poison = Flags.read().poison

    def _bind(self, inputs: Mapping[str, np.ndarray], state: State, outputs: Mapping[str, np.ndarray]) -> None:
        if self._poison:
            self._memory[...] = 0xFF  # every float in it is NaN
        for (space, name), entry in self._buffers.entries.items():
            array = {"input": inputs, "state": state, "output": outputs}[space].get(name)
            self._table[entry] = None if array is None else array.ctypes.data

    def run(self, inputs: Mapping[str, np.ndarray], state: State, outputs: Mapping[str, np.ndarray]) -> None:
        self._bind(inputs, state, outputs)
        self._library.graphrt_run(self._table)

    def time(self, inputs: Mapping[str, np.ndarray], state: State, outputs: Mapping[str, np.ndarray]) -> list[float]:
        self._bind(inputs, state, outputs)
        seconds = []
        for i in range(self._launches):
            start = time.perf_counter()
            self._library.graphrt_launch(i, self._table)
            seconds.append(time.perf_counter() - start)
        return seconds

    def source(self, launch: int | None) -> str:
        if launch is None:
            return self._source
        return self._source.split("/* launch ")[launch + 1].split("*/\n", 1)[1].split("/* entry */")[0]

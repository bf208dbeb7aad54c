"""The limits of a machine, and how long a launch takes there at least: by a GPU's data sheet, or as this machine was seen.

A launch takes as long as the slowest of its limits: traffic to memory, and being launched at all; by the plan alone, its
matrix products and its other arithmetic; where its compiled code is known (``Work``), the units of the multiprocessor with
most programs, and what these wait for memory. Peaks are not reached, so they are derated as published kernels suggest.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from graphrt.config import Flags
from graphrt.errors import ArgumentError
from graphrt.schedule.cost import Cost
from graphrt.types import HALVES, float64

COMPUTE, MEMORY = 0.79, 0.87  # of the data sheet's peaks, what is planned with
LAUNCH = 1.5e-6  # seconds that a kernel of a CUDA graph takes at least: an assumption
GAPS = {"launch": LAUNCH, "barrier": 0.9e-6, "beside": 0.0}  # seconds in front of a launch, joined with others or not: assumed


@dataclass(frozen=True)
class DataSheet:
    """Peaks, dense: terabytes a second, and teraflops a second by operands; float32 is exact, without tf32.

    They are the data sheet's, or, where they were ``measured``, what was reached. ``units`` multiprocessors of a GPU run at
    ``clock`` gigahertz, 0.93 of what the peaks are for: what they sustain under load.
    """

    name: str
    arch: str
    memory: float
    half: float
    tf32: float
    float32: float
    float64: float
    units: int = 0
    clock: float = 0.0
    measured: bool = False


DATA_SHEETS = (
    DataSheet("H200", "sm_90", 4.8, 989.4, 494.7, 66.9, 66.9, 132, 1.7),
    DataSheet("H100", "sm_90", 3.35, 989.4, 494.7, 66.9, 66.9, 132, 1.7),
    DataSheet("A100", "sm_80", 2.04, 312.0, 156.0, 19.5, 19.5, 108, 1.31),
    DataSheet("MI300X", "gfx942", 5.3, 1307.4, 653.7, 163.4, 163.4, 304, 1.95),
)


@dataclass(frozen=True)
class Work:
    """A launch as compiled code makes it: ``programs``, so many ``resident`` on a multiprocessor at a time.

    ``loops`` and ``rest`` are the clocks that one program keeps each unit of its multiprocessor busy, in its loops and outside:
    tensor cores, shared memory (and L1), issue of instructions, l2 (the way from there). ``latency`` are the clocks that it
    waits for its loads at least.
    """

    programs: int
    resident: int
    loops: Mapping[str, float]
    rest: Mapping[str, float]
    latency: float

    def limits(self, units: int) -> dict[str, float]:
        """The clocks that each limit says a launch on so many multiprocessors takes at least.

        The multiprocessor that has most programs decides. One that has a program at a time is either in its loops or not,
        and where it waits there is nothing else to do.
        """
        most = -(-self.programs // units)
        turns = -(-most // max(self.resident, 1))
        found = {u: most * (self.loops.get(u, 0.0) + self.rest.get(u, 0.0)) for u in {**self.loops, **self.rest}}
        if turns == most:
            phases = [max(((n, u) for u, n in phase.items()), default=(0.0, "issue")) for phase in (self.loops, self.rest)]
            found[max(phases)[1]] = most * sum(clocks for clocks, _ in phases)
        return {**found, "latency": turns * self.latency}


def find_data_sheet(target: str, name: str | None = None) -> DataSheet:
    """The device called ``name``, or the first of the architecture in ``target`` (cuda:sm_90). Raises ArgumentError."""
    arch = target.split(":")[-1]
    found = [d for d in DATA_SHEETS if (d.name == name if name else d.arch == arch)]
    if not found or (":" in target and found[0].arch != arch):
        known = ", ".join(f"{d.name} ({d.arch})" for d in DATA_SHEETS)
        raise ArgumentError(f"no data sheet of {name or target} for target {target!r}; there is {known}")
    return found[0]


@functools.cache
def machine(rounds: int = 5) -> DataSheet:
    """This machine, measured: the copying of 64 MB by all threads, and float32 and float64 products of 1024 by 1024."""
    threads = Flags.read().threads or os.cpu_count() or 1
    x, y = np.ones(1 << 24, np.float32), np.empty(1 << 24, np.float32)
    parts = list(zip(np.array_split(x, threads), np.array_split(y, threads), strict=True))
    with ThreadPoolExecutor(threads) as workers:
        copying = _best(lambda: list(workers.map(lambda part: np.copyto(part[1], part[0]), parts)), rounds)
    rates = []
    for dtype in (np.float32, np.float64):
        a = np.ones((1024, 1024), dtype)
        rates.append(2 * 1024**3 / _best(functools.partial(np.matmul, a, a), rounds) / 1e12)
    single, double = rates
    return DataSheet("this machine", "cpu", 2 * x.nbytes / copying / 1e12, single, single, single, double, measured=True)


def _best(call: Callable[[], object], rounds: int) -> float:
    """Seconds of the fastest of a few calls."""
    seconds = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def limits(cost: Cost, sheet: DataSheet, work: Work | None = None, gap: str = "launch") -> dict[str, float]:
    """Seconds that a launch of ``cost``, and of ``work`` if that is known, takes at least, by what limits it.

    ``gap`` is what it begins with, one of ``GAPS``.
    """
    compute_share, memory_share = (1.0, 1.0) if sheet.measured else (COMPUTE, MEMORY)
    found = {"memory": cost.bytes / (1e12 * memory_share * sheet.memory), gap: GAPS[gap]}
    if work is not None:
        found.update({name: 1e-9 * clocks / sheet.clock for name, clocks in work.limits(sheet.units).items()})
    if work is None or "issue" not in work.rest:
        peak = 1e12 * compute_share
        found["compute"] = max(cost.contraction / (peak * _rate(cost, sheet)), cost.other / (peak * sheet.float32))
    return found


def expected(cost: Cost, sheet: DataSheet, work: Work | None = None) -> tuple[float, str]:
    """Seconds that a launch of ``cost`` takes at least by ``sheet``, and which of its ``limits`` binds."""
    found = limits(cost, sheet, work)
    bound = max(found, key=found.__getitem__)
    return found[bound], bound


def _rate(cost: Cost, sheet: DataSheet) -> float:
    """Teraflops a second of products: a high-precision one of float32 operands is three of tf32."""
    if cost.dtype in HALVES:
        return sheet.half
    if cost.dtype is float64:
        return sheet.float64
    return {"highest": sheet.float32, "high": sheet.tf32 / 3, "medium": sheet.tf32}[cost.precision]

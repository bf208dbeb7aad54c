"""What a machine can do at most, and how long a launch takes there: by the data sheet of a GPU, or as this machine was seen.

A launch takes as long as the slowest of its memory traffic, its matrix products, its other arithmetic, and being launched
at all. Data-sheet peaks are not reached, so they are derated as published kernels suggest.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from graphrt.config import Flags
from graphrt.errors import ArgumentError
from graphrt.schedule.cost import Cost
from graphrt.types import HALVES, float64

COMPUTE, MEMORY = 0.79, 0.87  # of the data sheet's peaks, what is planned with
LAUNCH = 1.5e-6  # seconds that a kernel of a CUDA graph takes at least: an assumption


@dataclass(frozen=True)
class DataSheet:
    """Peaks, dense: terabytes a second, and teraflops a second by operands; float32 is exact, without tf32.

    They are the data sheet's, or, where they were ``measured``, what was reached.
    """

    name: str
    arch: str
    memory: float
    half: float
    tf32: float
    float32: float
    float64: float
    measured: bool = False


DATA_SHEETS = (
    DataSheet("H200", "sm_90", 4.8, 989.4, 494.7, 66.9, 66.9),
    DataSheet("H100", "sm_90", 3.35, 989.4, 494.7, 66.9, 66.9),
    DataSheet("A100", "sm_80", 2.04, 312.0, 156.0, 19.5, 19.5),
    DataSheet("MI300X", "gfx942", 5.3, 1307.4, 653.7, 163.4, 163.4),
)


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


def expected(cost: Cost, sheet: DataSheet) -> tuple[float, str]:
    """Seconds that a launch of ``cost`` should take by ``sheet``, and what bounds it: memory, compute or launch."""
    compute_share, memory_share = (1.0, 1.0) if sheet.measured else (COMPUTE, MEMORY)
    peak = 1e12 * compute_share
    compute = max(cost.contraction / (peak * _rate(cost, sheet)), cost.other / (peak * sheet.float32))
    times = {"memory": cost.bytes / (1e12 * memory_share * sheet.memory), "compute": compute, "launch": LAUNCH}
    bound = max(times, key=times.__getitem__)
    return times[bound], bound


def _rate(cost: Cost, sheet: DataSheet) -> float:
    """Teraflops a second of products: a high-precision one of float32 operands is three of tf32."""
    if cost.dtype in HALVES:
        return sheet.half
    if cost.dtype is float64:
        return sheet.float64
    return {"highest": sheet.float32, "high": sheet.tf32 / 3, "medium": sheet.tf32}[cost.precision]

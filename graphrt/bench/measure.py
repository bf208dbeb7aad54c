"""How times are measured: candidates take turns (A B, B A), and every sample is kept.

Turns matter: clocks, caches and neighbours drift, and a ratio of what was measured in turns does not.
"""

from __future__ import annotations

import datetime
import math
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

LOAD_AVERAGE = os.getloadavg()[0]  # over the minute before the run; a busy neighbour hurts threaded candidates unevenly
SETTLE = 0.02  # seconds of untimed calls at the start of a turn


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one call: median, and the 10th and 90th percentile."""

    median: float
    low: float
    high: float


def spread(seconds: Sequence[float]) -> Timing:
    """The timing that ``seconds`` of single calls amount to."""
    return Timing(*(1e3 * float(np.percentile(seconds, p)) for p in (50, 10, 90)))


def samples(
    candidates: Mapping[str, Callable[[], Any] | None],
    rounds: int = 40,
    calls: int = 5,
    settle: float = SETTLE,
    budget: float = math.inf,
) -> dict[str, list[float]]:
    """Seconds of ``calls`` calls of each candidate in each of ``rounds`` turns, every other turn in the opposite order.

    A call must return only when its work is done. A turn begins with ``settle`` seconds of untimed calls: threads of the
    candidate before spin for a while after their last task, and would be measured as contention. A candidate that is None,
    because its package is missing, has no samples. When ``budget`` seconds are over no pair of turns begins: the orders stay
    as often one way as the other.
    """
    begun = time.perf_counter()
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    present = [(name, call) for name, call in candidates.items() if call is not None]
    for i in range(rounds):
        if i and i % 2 == 0 and time.perf_counter() - begun > budget:
            break
        for name, call in present[:: -1 if i % 2 else 1]:
            begin = time.perf_counter()
            while time.perf_counter() - begin < settle:
                call()
            for _ in range(calls):
                start = time.perf_counter()
                call()
                seconds[name].append(time.perf_counter() - start)
    return seconds


def interleave(
    candidates: Mapping[str, Callable[[], Any] | None], rounds: int = 40, calls: int = 5
) -> dict[str, Timing | None]:
    """The timing of each candidate by ``samples``; None of one that is missing."""
    return {name: spread(s) if s else None for name, s in samples(candidates, rounds, calls).items()}


def device_name() -> str:
    """The GPU's name, or the processor's with the number of cores this process may use."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{_processor()}, {torch.get_num_threads()} threads"


def _processor() -> str:
    """The processor's name, and its family and model where Linux tells: names of virtual ones say little."""
    try:
        lines = [line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line]
    except OSError:
        lines = []
    found = {key.strip(): value.strip() for key, value in reversed(lines)}  # of the first core
    name = found.get("model name", platform.processor() or platform.machine())
    return f"{name} (family {found['cpu family']}, model {found['model']})" if "cpu family" in found else name


def environment() -> dict[str, str]:
    """Versions, device, date of a run, and the load that it met."""
    found = {"device": device_name(), "load": f"{LOAD_AVERAGE:.1f}", "date": datetime.date.today().isoformat()}
    found["python"] = platform.python_version()
    for package in ("graphrt", "torch", "triton", "numpy", "jax", "onnxruntime"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "missing"
    return found

"""How the benchmarks measure: candidates take turns (A B A B), medians of many rounds, spread beside them.

Turns matter: clocks, caches and neighbours drift, and a ratio of interleaved medians does not. Rows carry versions and the
machine's name, so that a committed file says what it measured.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

LOAD = os.getloadavg()[0]  # of the machine over the minute before the run; a busy neighbour hurts threaded candidates unevenly
SETTLE = 0.02  # seconds of untimed calls at the start of a turn
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one call: median, and the 10th and 90th percentile."""

    median: float
    low: float
    high: float


def spread(seconds: Sequence[float]) -> Timing:
    """The timing that ``seconds`` of single calls amount to."""
    return Timing(*(1e3 * float(np.percentile(seconds, p)) for p in (50, 10, 90)))


def interleave(
    candidates: Mapping[str, Callable[[], Any] | None], rounds: int = 40, calls: int = 5
) -> dict[str, Timing | None]:
    """Times each candidate ``calls`` times in each of ``rounds`` turns; a call must return only when its work is done.

    A turn begins with 20 ms of untimed calls: threads of the candidate before spin for a while after their last task, and
    would be measured as contention. A candidate that is None, because its package is missing, gets None.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, call in candidates.items():
            if call is None:
                continue
            begin = time.perf_counter()
            while time.perf_counter() - begin < SETTLE:
                call()
            for _ in range(calls):
                start = time.perf_counter()
                call()
                seconds[name].append(time.perf_counter() - start)
    return {name: spread(s) if s else None for name, s in seconds.items()}


def cores(threads: int) -> float:
    """How many cores' work ``threads`` threads do at once: they hash, each as much as one does alone.

    A host may run two virtual cores on one real one for seconds, and be back as suddenly.
    """
    data = bytes(1 << 22)
    with ThreadPoolExecutor(threads) as pool:

        def seconds(count: int) -> float:
            start = time.perf_counter()
            list(pool.map(lambda _: hashlib.sha256(data).digest(), range(count)))
            return time.perf_counter() - start

        for _ in range(3):
            seconds(threads)  # the threads start, and those of others stop spinning
        alone, together = zip(*((seconds(1), seconds(threads)) for _ in range(9)), strict=True)
    return threads * float(np.median(alone)) / float(np.median(together))


def compared(about: Mapping[str, Any], timings: Mapping[str, Timing | None]) -> list[dict[str, Any]]:
    """A row for each candidate: milliseconds, spread, and the ratio to the median of the first one, which is never None."""
    base = next(iter(timings.values()))
    assert base is not None
    return [
        {**about, "candidate": name}
        | dict.fromkeys(("ms", "p10", "p90", "ratio"))
        | ({} if t is None else {"ms": t.median, "p10": t.low, "p90": t.high, "ratio": t.median / base.median})
        for name, t in timings.items()
    ]


def elsewhere(module: str, function: str, *arguments: Any, **env: str) -> Any:
    """What ``module.function(*arguments)`` returns in a process of its own with ``env`` added to the environment.

    Arguments and result pass as JSON. Raises CalledProcessError.
    """
    code = "import importlib, json, sys; m, f, a = sys.argv[1:]; r = getattr(importlib.import_module(m), f)(*json.loads(a))"
    command = [sys.executable, "-c", f"{code}; print(json.dumps(r))", module, function, json.dumps(arguments)]
    done = subprocess.run(command, env={**os.environ, **env}, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


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
    found = {"device": device_name(), "load": f"{LOAD:.1f}", "date": datetime.date.today().isoformat()}
    found["python"] = platform.python_version()
    for package in ("graphrt", "torch", "triton", "numpy", "jax", "onnxruntime"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "missing"
    return found


def report(title: str, rows: Sequence[Mapping[str, Any]], save_as: str | None) -> None:
    """Prints ``rows`` as a table and, if ``save_as`` names a result file, appends them there as JSON lines.

    None stands for a figure of a candidate that is missing here.
    """
    table = Table(title=title)
    for column in rows[0]:
        table.add_column(column, justify="left" if isinstance(rows[0][column], str) else "right")
    for row in rows:
        table.add_row(*(f"{v:.3f}" if isinstance(v, float) else "missing" if v is None else str(v) for v in row.values()))
    console = Console()
    if not console.is_terminal:
        console = Console(width=180)  # a file or a pipe has room for every figure
    console.print(table)
    about = environment()
    console.print(", ".join(f"{k} {v}" for k, v in about.items()))
    if LOAD > 0.5:
        console.print("[yellow]the machine was busy before this run: do not trust ratios between threaded candidates[/]")
    if save_as is not None:
        RESULTS.mkdir(exist_ok=True)
        with (RESULTS / f"{save_as}.jsonl").open("a") as file:
            for row in rows:
                file.write(json.dumps({**row, **about}) + "\n")

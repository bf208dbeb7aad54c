"""How the benchmarks measure: as ``graphrt bench`` does (graphrt.bench.measure), in tables and files of the project's own.

Rows carry versions and the machine's name, so that a committed file says what it measured.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from graphrt.bench.measure import LOAD_AVERAGE, Timing, device_name, environment, interleave, spread

__all__ = [
    "RESULTS",
    "Timing",
    "compared",
    "cores",
    "device_name",
    "elsewhere",
    "environment",
    "interleave",
    "report",
    "spread",
]

RESULTS = Path(__file__).parent / "results"


def cores(threads: int) -> float:
    """The number of cores whose work ``threads`` threads do at once: they hash, each as much as one does alone.

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
    """The result of ``module.function(*arguments)`` in a process of its own with ``env`` added to the environment.

    Arguments and result pass as JSON. Raises CalledProcessError.
    """
    code = "import importlib, json, sys; m, f, a = sys.argv[1:]; r = getattr(importlib.import_module(m), f)(*json.loads(a))"
    command = [sys.executable, "-c", f"{code}; print(json.dumps(r))", module, function, json.dumps(arguments)]
    done = subprocess.run(command, env={**os.environ, **env}, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def report(title: str, rows: Sequence[Mapping[str, Any]], save_as: str | None) -> None:
    """Prints ``rows`` as a table and, if ``save_as`` names a result file, appends them there as JSON lines.

    None stands for a figure of a candidate that is missing here.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    for column in rows[0]:
        table.add_column(column, justify="left" if isinstance(rows[0][column], str) else "right")
    for row in rows:
        table.add_row(*(f"{v:.3f}" if isinstance(v, float) else "missing" if v is None else str(v) for v in row.values()))
    console = Console(markup=False)
    if not console.is_terminal:
        console = Console(width=180, markup=False)  # a file or a pipe has room for every figure
    console.print(table)
    about = environment()
    console.print(", ".join(f"{k} {v}" for k, v in about.items()))
    if LOAD_AVERAGE > 0.5:
        console.print("[yellow]the machine was busy before this run: do not trust ratios between threaded candidates[/]")
    if save_as is not None:
        save(rows, save_as)


def save(rows: Sequence[Mapping[str, Any]], name: str) -> None:
    """Appends ``rows`` to the result file ``name`` as JSON lines, each with the environment."""
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / f"{name}.jsonl").open("a") as file:
        for row in rows:
            file.write(json.dumps({**row, **environment()}) + "\n")

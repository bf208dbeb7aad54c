"""A live line of training progress; a plain line an epoch when the output is no terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class TrainingProgress:
    """Context manager: ``start`` an epoch, ``advance`` by a batch, ``finish`` it with the epoch's row.

    ``epochs`` is how many there will be. ``console`` (None: standard output) shows a live line where it is a terminal, and a
    line an epoch elsewhere; nothing is shown unless ``enabled``.
    """

    def __init__(self, epochs: int, enabled: bool = True, console: Console | None = None) -> None:
        self._epochs, self._enabled = epochs, enabled
        self._console = console or Console(markup=False)
        self._bar: Progress | None = None
        if enabled and self._console.is_terminal:
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(24),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            )
            self._bar = Progress(
                *columns, TextColumn("{task.fields[values]}", markup=False), console=self._console, transient=True
            )
        self._task = self._bar.add_task("", values="") if self._bar else None
        self._epoch, self._started, self._shown, self._examples = 0, 0.0, 0.0, 0
        self.unit, self.units = "examples", 1  # what speeds are told in, and how many an example has

    def __enter__(self) -> TrainingProgress:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar:
            self._bar.stop()

    def start(self, epoch: int, batches: int) -> None:
        """Epoch number ``epoch`` (from 1) of ``batches`` steps begins."""
        self._epoch, self._started, self._examples = epoch, time.perf_counter(), 0
        if self._bar and self._task is not None:
            self._bar.reset(self._task, total=batches, description=f"epoch {epoch}/{self._epochs}", values="")

    def count(self, x: Any) -> None:
        """Tells speeds in what the inputs ``x`` of a batch are: tokens of integer sequences [N, T], images [N, C, H, W]."""
        known = {(True, 2): "tokens", (False, 4): "images"}
        self.unit = known.get((x.dtype.kind in "iu", x.ndim), "examples") if isinstance(x, np.ndarray) else "examples"
        self.units = x.shape[1] if self.unit == "tokens" else 1

    def advance(self, examples: int, values: Mapping[str, float]) -> None:
        """One batch of ``examples`` is done; ``values`` are the epoch's means so far. Redrawn ten times a second."""
        self._examples += examples
        if self._bar and self._task is not None:
            self._bar.advance(self._task)
            now = time.perf_counter()
            if now - self._shown > 0.1:
                self._shown = now
                rate = self._examples / max(now - self._started, 1e-9)
                self._bar.update(self._task, values=f"{_text(values)}  {self._speed(rate)}{_memory()}")

    def _speed(self, examples_per_second: float) -> str:
        return f"{examples_per_second * self.units:,.0f} {self.unit}/s"

    def finish(self, row: Mapping[str, Any]) -> None:
        """Prints the epoch's line."""
        if self._enabled:
            shown = {k: v for k, v in row.items() if k not in ("lr", "examples_per_second", "seconds")}
            width = len(str(self._epochs))
            self._console.print(
                f"epoch {self._epoch:>{width}}/{self._epochs}  {_text(shown)}  {self._speed(row['examples_per_second'])}",
                highlight=False,
                soft_wrap=True,
            )


def _memory() -> str:
    """The most memory that the process has had, where the system tells."""
    try:
        from resource import RUSAGE_SELF, getrusage
    except ImportError:
        return ""
    unit = 1 if sys.platform == "darwin" else 1024
    return f"  {getrusage(RUSAGE_SELF).ru_maxrss * unit / 1e6:,.0f} MB"


def _text(values: Mapping[str, Any]) -> str:
    shares = ("accuracy", "top_")
    return "  ".join(
        f"{k} {100 * v:.2f} %" if k.removeprefix("val_").startswith(shares) or k.endswith("accuracy") else f"{k} {v:.4f}"
        for k, v in values.items()
        if np.ndim(v) == 0
    )

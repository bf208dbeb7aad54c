"""The loop of ``Trainer.fit``: epochs of steps, validation and callbacks. It stops between two steps and never within one."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any

import numpy as np

from graphrt.data import Source
from graphrt.errors import ArgumentError
from graphrt.runtime.program import Program
from graphrt.train.batch import Batch, as_batch, count_batches, one_epoch
from graphrt.train.callbacks import Callback, Monitor, as_callbacks
from graphrt.train.metrics import read
from graphrt.train.progress import TrainingProgress

if TYPE_CHECKING:
    from graphrt.train.trainer import Trainer


class Interruption:
    """Holds Ctrl-C back while ``whole`` blocks run, so that a step is done or not begun; or, unless ``alone``, for good.

    Then other processes must stop too, and ``asked`` is for them to hear of (``Programs._hear``).
    """

    def __init__(self, alone: bool) -> None:
        self.alone, self._busy, self.asked = alone, False, False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """The signal handler; a second Ctrl-C is not held back."""
        if self.asked or not (self._busy or not self.alone):
            raise KeyboardInterrupt
        self.asked = True

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Lets the block come to its end; then comes the KeyboardInterrupt that was held back."""
        self._busy = True
        try:
            yield
        finally:
            self._busy = False
        if self.asked and self.alone:
            raise KeyboardInterrupt


@contextmanager
def interruptible(alone: bool) -> Iterator[Interruption]:
    """An Interruption that handles Ctrl-C, where Python's own handler would have."""
    guard = Interruption(alone)
    usual = (
        threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if usual:
        signal.signal(signal.SIGINT, guard)
    try:
        yield guard
    finally:
        if usual:
            signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass
class Loop:
    """One call of ``fit``."""

    trainer: Trainer
    train: Source | Collection[Any]
    epochs: int
    batch_size: int | None
    validation: Source | Iterable[Any] | None
    callbacks: Iterable[Any]
    progress: bool
    drop_last: bool

    def __post_init__(self) -> None:
        if self.epochs < 0:
            raise ArgumentError(f"epochs must be at least 0, got {self.epochs}")
        self.per_epoch = count_batches(self.train, self.batch_size, self.drop_last)
        self.called = [c for c in as_callbacks(self.callbacks) if self.trainer.first or not c.alone]
        for callback in self.called:
            monitor = getattr(callback, "monitor", None)
            if isinstance(monitor, Monitor) and monitor.name.startswith("val_") and self.validation is None:
                raise ArgumentError(
                    f"{type(callback).__name__} goes by {monitor.name!r}, and there is no validation data: "
                    f'fit(..., validation=data), or {type(callback).__name__}(..., monitor="loss")'
                )
        self.stepping = [c for c in self.called if type(c).on_step_end is not Callback.on_step_end]

    def resume(self) -> None:
        """Goes on from the latest checkpoint of a callback, if there is one. Raises ArgumentError where none keeps any."""
        if not any(type(c).latest is not Callback.latest for c in self.called):
            raise ArgumentError("resume=True needs a callback that keeps checkpoints: ModelCheckpoint(folder)")
        found = [path for c in self.called if (path := c.latest()) is not None]
        if found:
            self.trainer.load(found[0])

    def run(self) -> None:
        """Trains until all epochs are done or a callback ends it. Raises TargetError where processes would train otherwise."""
        trainer = self.trainer
        if trainer.processes is not None:
            examples = len(self.train) if hasattr(self.train, "__len__") else "some"
            steps = f"{self.epochs} epochs of {self.per_epoch} batches of {self.batch_size} of {examples} examples"
            trainer.processes.agree(f"{steps}, from step {trainer.steps}, at rates of {type(trainer.schedule).__name__}")
        alone, together = trainer.mesh is None or trainer.mesh.size == 1, True
        trainer.asked = trainer.stopping = False
        with TrainingProgress(self.epochs, self.progress and trainer.first) as bar, interruptible(alone) as guard:
            try:
                for callback in self.called:
                    callback.on_train_begin(trainer)
                going = True
                while going and trainer.epoch < self.epochs:
                    bar.start(trainer.epoch + 1, self.per_epoch)
                    trainer.schedule.observe(trainer.history.columns())
                    for callback in self.called:
                        callback.on_epoch_begin(trainer)
                    row = self._epoch(bar, guard)
                    if self.validation is not None:
                        found = trainer.evaluate(self.validation, self.batch_size or 256)
                        row |= {f"val_{name}": value for name, value in found.items()}
                    with guard.whole():
                        trainer.finish_epoch(row)
                        bar.finish(row)
                        going = all([callback.on_epoch_end(trainer, row) is not False for callback in self.called])
            except BaseException as error:
                together = alone or not trainer.state.sharding or trainer.stopping  # else nobody else sends its parts
                if not isinstance(error, KeyboardInterrupt):
                    raise
                if together:
                    trainer.sync()
                called = self.called if (alone or trainer.stopping) and not trainer.state.torn else []
                kept = [str(path) for c in called if (path := c.on_interrupt(trainer)) is not None]
                where = f"; {' and '.join(kept)} goes on from there" if kept else ""
                at = f"interrupted in epoch {trainer.epoch + 1}, after {trainer.steps} steps{where}"
                raise KeyboardInterrupt(at) from None
            finally:
                if together:
                    trainer.sync()
                for callback in self.called:
                    callback.on_train_end(trainer)

    def _epoch(self, bar: TrainingProgress, guard: Interruption) -> dict[str, Any]:
        """Runs the rest of an epoch. Returns its row."""
        trainer = self.trainer
        coming = one_epoch(self.train, self.batch_size, np.random.default_rng([trainer.seed, trainer.epoch]), self.drop_last)
        for _ in range(trainer.batches):  # done before an interruption
            next(coming, None)
        waiting: deque[tuple[Program, Batch, int, int]] = deque()  # how many examples all have, and have parts of
        compiling = 0.0

        def bring() -> None:
            """Compiles for the next batch if need be, and sends it on its way."""
            nonlocal compiling
            if (given := next(coming, None)) is not None:
                batch = as_batch(given)
                count = len(batch)
                batch, parts = trainer.share(batch)
                start = time.perf_counter()
                program = trainer.step_program(batch, parts, len(waiting))
                compiling += time.perf_counter() - start
                program.prefetch(batch.named())
                bar.count(batch.x)
                waiting.append((program, batch, count, parts))

        lr, examples = trainer.rate(self.per_epoch, self.epochs, max(trainer.batches - 1, 0)), 0
        try:
            bring()
            start, compiling = time.perf_counter(), 0.0  # the first batch was waited for, and its program
            while waiting:
                program, batch, count, parts = waiting[0]
                bring()  # it travels while this step is computed
                waiting.popleft()
                lr = trainer.rate(self.per_epoch, self.epochs, trainer.batches)
                with guard.whole():
                    trainer.asked = guard.asked
                    found = trainer.run_step(program, {}, batch, lr)
                    trainer.batches += 1
                    trainer.record(found, count, parts)
                examples += count
                bar.advance(count, trainer.pooled.means())
                for callback in self.stepping:
                    callback.on_step_end(trainer, {**read(found, trainer.measures), "lr": lr})
                if trainer.stopping:
                    raise KeyboardInterrupt
        finally:
            for program in {program for program, *_ in waiting}:
                program.forget()  # an interrupted epoch leaves nothing behind
        if not trainer.batches:
            raise ArgumentError("the loader gave no batch in this epoch; an iterator is used up after one, a DataLoader is not")
        seconds = max(time.perf_counter() - start - compiling, 1e-9)
        speed = examples / seconds if examples else math.nan
        trainer.gather()
        return {**trainer.pooled.values(), "lr": lr, "examples_per_second": speed, "seconds": seconds}

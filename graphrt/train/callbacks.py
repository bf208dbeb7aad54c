"""Callbacks: what happens beside the steps of ``Trainer.fit``."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from graphrt.arguments import checked
from graphrt.errors import ArgumentError
from graphrt.files import remove_halves
from graphrt.train.pictures import grid, plain, save_picture

if TYPE_CHECKING:
    from graphrt.train.trainer import Trainer

Row = dict[str, Any]
_HIGHER = ("accuracy", "top_", "precision", "recall", "f1", "auc", "iou", "r2")  # in the names of what is better when higher


class Callback:
    """Base of callbacks: override what is of interest. A row has the values of an epoch by name, as ``History`` has them.

    A plain function of (trainer, row) is a callback too: it is called as ``on_epoch_end``.
    """

    alone = False  # whether only the first of several processes calls it, since it writes a file

    def on_train_begin(self, trainer: Trainer) -> None:
        """``fit`` begins, before a step."""

    def on_epoch_begin(self, trainer: Trainer) -> None:
        """Epoch number ``trainer.epoch`` (from 0) begins."""

    def on_step_end(self, trainer: Trainer, row: Row) -> None:
        """A step is done; ``row`` has its loss, metrics and rate, ``lr``."""

    def on_epoch_end(self, trainer: Trainer, row: Row) -> bool | None:
        """An epoch is done and counted, validation included; False ends the training."""

    def on_train_end(self, trainer: Trainer) -> None:
        """``fit`` ends, as it should or by an error; the network has the trainer's weights."""

    def on_interrupt(self, trainer: Trainer) -> Path | None:
        """Ctrl-C, between two steps; gives the checkpoint that this callback left, if it did."""
        return None

    def latest(self) -> Path | None:
        """The checkpoint from which ``fit(..., resume=True)`` goes on."""
        return None


class _Function(Callback):
    """A function of (trainer, row)."""

    def __init__(self, function: Callable[[Trainer, Row], bool | None]) -> None:
        self.function = function

    def on_epoch_end(self, trainer: Trainer, row: Row) -> bool | None:
        return self.function(trainer, row)


def as_callbacks(given: Iterable[Any]) -> list[Callback]:
    """Callbacks, functions among them wrapped. Raises ArgumentError."""
    found = []
    for one in given:
        if not isinstance(one, Callback) and not callable(one):
            raise ArgumentError(f"a callback is a Callback or a function of (trainer, row), got {type(one).__name__}")
        found.append(one if isinstance(one, Callback) else _Function(one))
    return found


class Monitor:
    """Follows one value of the history: ``mode`` "min" or "max" is better, "auto" goes by its name.

    Raises ArgumentError for another mode.
    """

    def __init__(self, name: str, mode: str = "auto", min_delta: float = 0.0) -> None:
        if mode not in ("auto", "min", "max"):
            raise ArgumentError(f'mode must be "auto", "min" or "max", got {mode!r}')
        self.name, self.min_delta = name, min_delta
        self.sign = -1.0 if mode == "max" or (mode == "auto" and any(part in name for part in _HIGHER)) else 1.0

    def best(self, trainer: Trainer) -> tuple[int, float]:
        """The epoch (from 1) of the best value so far and that value. Raises ArgumentError where the history lacks it."""
        columns = trainer.history.columns()
        if not (values := columns.get(self.name)):
            known = ", ".join(name for name, column in columns.items() if column)
            raise ArgumentError(f"no {self.name!r} to go by; the history has {known}")
        at, least = 0, math.inf
        first = len(trainer.history) - len(values) + 1  # epochs before were trained without it
        for epoch, value in enumerate(values, first):
            if self.sign * value < least - self.min_delta:
                at, least = epoch, self.sign * value
        return at, self.sign * least


class EarlyStopping(Callback):
    """Ends the training when ``monitor`` has not improved by more than ``min_delta`` for ``patience`` epochs.

    ``mode`` "min" or "max" says what is better, "auto" goes by the name. ``restore_best`` gives network and trainer the weights
    of the best epoch in the end. What has improved follows from the history, so a run that goes on from a checkpoint stops
    where it would have; ``best.safetensors`` of ModelCheckpoint has the best weights of before. Raises ArgumentError.
    """

    @checked
    def __init__(
        self,
        monitor: str = "val_loss",
        patience: int = 5,
        min_delta: float = 0.0,
        mode: str = "auto",
        restore_best: bool = True,
    ) -> None:
        if patience < 0:
            raise ArgumentError(f"patience must be at least 0, got {patience}")
        self.monitor, self.patience, self.restore_best = Monitor(monitor, mode, min_delta), patience, restore_best
        self.best_epoch = 0
        self._weights: dict[str, np.ndarray] = {}

    def on_epoch_end(self, trainer: Trainer, row: Row) -> bool | None:
        self.best_epoch, _ = self.monitor.best(trainer)
        if self.restore_best and (self.best_epoch == trainer.epoch or not self._weights):
            trainer.sync()
            self._weights = trainer.net.state_dict()
        return trainer.epoch - self.best_epoch < max(self.patience, 1)

    def on_train_end(self, trainer: Trainer) -> None:
        if self.restore_best and self._weights:
            trainer.net.load_state_dict(self._weights)
            trainer.push()


class ModelCheckpoint(Callback):
    """Writes checkpoints into ``folder`` after each epoch: the last ``keep_last``, and the best by ``monitor``.

    They are called epoch-0001.safetensors and so on and best.safetensors, none is ever half written, and ``Trainer.load`` goes
    on from each, ``fit(..., resume=True)`` from the last. Ctrl-C leaves interrupted.safetensors, from which a run goes on in
    the middle of its epoch. ``monitor`` None keeps no best one; ``mode`` as of ``EarlyStopping``. Raises ArgumentError.
    """

    @checked
    def __init__(self, folder: str | Path, monitor: str | None = "val_loss", keep_last: int = 1, mode: str = "auto") -> None:
        if keep_last < 1:
            raise ArgumentError(f"keep_last must be at least 1, got {keep_last}")
        self.folder, self.keep_last = Path(folder), keep_last
        self.monitor = None if monitor is None else Monitor(monitor, mode)

    def on_train_begin(self, trainer: Trainer) -> None:
        remove_halves(self.folder)

    @property
    def best(self) -> Path:
        """The checkpoint of the best epoch."""
        return self.folder / "best.safetensors"

    @property
    def _interrupted(self) -> Path:
        return self.folder / "interrupted.safetensors"

    def _epochs(self) -> list[Path]:
        """The checkpoints of epochs by their numbers, of which some have more digits than others."""
        found = [path for path in self.folder.glob("epoch-*.safetensors") if path.stem[6:].isdecimal()]
        return sorted(found, key=lambda path: int(path.stem[6:]))

    def latest(self) -> Path | None:
        if self._interrupted.exists():
            return self._interrupted
        return next(reversed(self._epochs()), None)

    def on_epoch_end(self, trainer: Trainer, row: Row) -> bool | None:
        if self.monitor is not None and self.monitor.best(trainer)[0] == trainer.epoch:
            trainer.save(self.best)
        trainer.save(self.folder / f"epoch-{trainer.epoch:04}.safetensors")
        if trainer.first:
            self._interrupted.unlink(missing_ok=True)
            for old in self._epochs()[: -self.keep_last]:
                old.unlink()
        return None

    def on_interrupt(self, trainer: Trainer) -> Path | None:
        if trainer.steps:
            trainer.save(self._interrupted)
        return self.latest()


class SamplePictures(Callback):
    """Draws ``draw(trainer)`` into ``folder`` after each ``every`` epochs, epoch-0002.png and so on; 0 is never.

    It is a picture uint8 [H, W, 3], or several float [N, C, H, W] in [0, 1] of 1 or 3 channels, side by side. Raises
    ArgumentError for what is neither.
    """

    @checked
    def __init__(self, folder: str | Path, draw: Callable[[Trainer], np.ndarray], every: int = 1) -> None:
        self.folder, self.draw, self.every = Path(folder), draw, every

    def on_epoch_end(self, trainer: Trainer, row: Row) -> bool | None:
        if self.every and trainer.epoch % self.every == 0:
            drawn = np.asarray(self.draw(trainer))
            if drawn.ndim == 4 and drawn.shape[1] in (1, 3) and drawn.dtype.kind == "f":
                drawn = grid([plain(drawn)])
            if drawn.ndim != 3 or drawn.shape[2] != 3 or drawn.dtype != np.uint8:
                given = f"{drawn.dtype} {list(drawn.shape)}"
                raise ArgumentError(f"draw must give uint8 [H, W, 3] or floats [N, C, H, W], got {given}")
            if not trainer.first:
                return None
            self.folder.mkdir(parents=True, exist_ok=True)
            save_picture(drawn, self.folder / f"epoch-{trainer.epoch:04}.png")
        return None


class CSVLogger(Callback):
    """Writes a row for each epoch to the CSV file ``path``, or with ``steps`` one for each step, behind what a file has.

    A step's row has its number, epoch, rate, loss and metrics, such as "grad_norm" of ``Trainer(metrics=...)``.
    """

    alone = True

    @checked
    def __init__(self, path: str | Path, steps: bool = False) -> None:
        self.path, self.steps = Path(path), steps
        self._file: TextIO | None = None
        self._names: Sequence[str] = ()

    def on_step_end(self, trainer: Trainer, row: Row) -> None:
        if self.steps:
            self._write({"step": trainer.steps, "epoch": trainer.epoch + 1, **row})

    def on_epoch_end(self, trainer: Trainer, row: Row) -> bool | None:
        if not self.steps:
            self._write({"epoch": trainer.epoch, **row})
        if self._file is not None:
            self._file.flush()
        return None

    def on_train_end(self, trainer: Trainer) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, row: Row) -> None:
        numbers = {name: value for name, value in row.items() if np.ndim(value) == 0}
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            fresh = not self.path.exists() or not self.path.stat().st_size
            if not fresh:
                with self.path.open(newline="") as file:
                    self._names = next(csv.reader(file))
            self._file = self.path.open("a", newline="")
            if fresh:
                self._names = list(numbers)
                csv.writer(self._file).writerow(self._names)
        csv.writer(self._file).writerow([numbers.get(name, "") for name in self._names])

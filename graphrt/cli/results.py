"""The folder of a training run: its checkpoint, history and curves, kept after each epoch."""

from __future__ import annotations

import math
from pathlib import Path

from graphrt.files import check_place
from graphrt.train import Trainer, save_curves
from graphrt.train.curves import figure


class Results:
    """The folder of a training run and what is in it; called after each epoch. Raises ArgumentError if it cannot be written."""

    def __init__(self, folder: Path, title: str) -> None:
        check_place("--out", folder, folder=True)
        figure()  # a missing package is found before the training, not behind it
        self.folder, self.title, self.epochs, self.failed = folder, title, 0, ""

    def __call__(self, trainer: Trainer, row: dict[str, float]) -> bool:
        """Keeps the epoch; ends the training at one whose figures are not finite, which leaves the files of the one before."""
        bad = [f"{name} {value}" for name, value in row.items() if not math.isfinite(value)]
        if bad:
            self.failed = f"epoch {trainer.epoch} ended with {', '.join(bad)}"
            return False
        self.keep(trainer)
        return True

    def keep(self, trainer: Trainer) -> None:
        """Writes the checkpoint and the history."""
        trainer.save(self.folder / "checkpoint.safetensors")
        if trainer.first:
            trainer.history.save(self.folder / "history.json")
        self.epochs = trainer.epoch

    def draw(self, trainer: Trainer) -> None:
        """Draws the curves, if an epoch was done."""
        if self.epochs and trainer.first:
            save_curves(trainer.history, self.folder / "curves.png", self.title)

    def __str__(self) -> str:
        if not self.epochs:
            return "no epoch was done, so nothing is kept"
        return f"{self.folder / 'checkpoint.safetensors'} is of epoch {self.epochs}, and --resume goes on from it"

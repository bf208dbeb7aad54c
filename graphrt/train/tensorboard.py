"""A callback that writes what TensorBoard shows, through the package that has its writer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from graphrt.arguments import checked
from graphrt.train.callbacks import Callback, Row

if TYPE_CHECKING:
    from graphrt.train.trainer import Trainer


class TensorBoard(Callback):
    """Writes the numbers of each epoch into ``folder`` for TensorBoard, and with ``steps`` those of each step.

    ``histograms`` adds the weights of each parameter by epoch. Needs the package tensorboard or tensorboardX. Raises
    ImportError where both are missing.
    """

    alone = True

    @checked
    def __init__(self, folder: str | Path, steps: bool = False, histograms: bool = False) -> None:
        self.steps, self.histograms = steps, histograms
        self._make, self._folder = _writer(), folder
        self._writer: Any = None

    def _write(self, prefix: str, row: Row, at: int) -> None:
        self._writer = self._writer or self._make(str(self._folder))
        for name, value in row.items():
            if np.ndim(value) == 0:
                kind = "validation" if name.startswith("val_") else "training"
                self._writer.add_scalar(f"{prefix}{kind}/{name.removeprefix('val_')}", float(value), at)

    def on_step_end(self, trainer: Trainer, row: Row) -> None:
        if self.steps:
            self._write("step/", row, trainer.steps)

    def on_epoch_end(self, trainer: Trainer, row: Row) -> bool | None:
        self._write("", row, trainer.epoch)
        if self.histograms and self._writer is not None:
            for name, _ in trainer.net.named_parameters():
                if name in trainer.state:
                    self._writer.add_histogram(name, np.asarray(trainer.state[name], np.float32), trainer.epoch)
        return None

    def on_train_end(self, trainer: Trainer) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _writer() -> Any:
    """The class SummaryWriter. Raises ImportError."""
    try:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter
    except ImportError:
        pass
    try:
        from tensorboardX import SummaryWriter as Writer
    except ImportError as error:
        raise ImportError(
            f"TensorBoard's files are written by a package that is missing ({error}): pip install tensorboard, or tensorboardX"
        ) from None
    return Writer

"""The learning-rate range test: the loss while the rate grows, from which a rate is chosen (Smith, WACV 2017)."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from graphrt.arguments import checked
from graphrt.data import Source
from graphrt.errors import ArgumentError
from graphrt.train.batch import as_batch, count_batches, one_epoch
from graphrt.train.curves import figure
from graphrt.train.trainer import Trainer


@dataclass(frozen=True)
class RangeTest:
    """``rates`` of the steps, each step's loss in ``losses`` and ``smoothed``, and the ``suggestion`` they make.

    The suggestion is the rate at which the smoothed loss falls fastest, by the logarithm of the rate.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    suggestion: float

    def save(self, path: str | Path) -> None:
        """Draws the losses over the rates to ``path`` (PNG). Raises ImportError where matplotlib is missing."""
        picture = figure()
        axes = picture.subplots()
        axes.plot(self.rates, self.losses, ".", alpha=0.4, label="loss")
        axes.plot(self.rates, self.smoothed, label="smoothed")
        axes.axvline(self.suggestion, color="0.4", linestyle="--", label=f"falls fastest: {self.suggestion:.2g}")
        axes.set(xscale="log", xlabel="learning rate", ylabel="loss", ylim=(0.0, 1.5 * self.smoothed[0]))
        axes.grid(alpha=0.3)
        axes.legend()
        picture.savefig(path, dpi=120)


@checked
def lr_range_test(
    trainer: Trainer,
    train: Source | Collection[Any],
    batch_size: int | None = None,
    low: float = 1e-6,
    high: float = 10.0,
    steps: int = 100,
) -> RangeTest:
    """Trains from where ``trainer`` is while the rate grows from ``low`` to ``high``; the trainer stays as it is.

    ``train`` and ``batch_size`` are those of ``Trainer.fit``. The rate grows by one factor in each of ``steps`` steps, which
    end early where the smoothed loss is 4 times the least or NaN. Raises ArgumentError for bounds that do not rise and fewer
    than 5 steps.
    """
    if not (0.0 < low < high and steps >= 5):
        raise ArgumentError(f"need 0 < low < high and at least 5 steps, got {low}, {high} and {steps}")
    count_batches(train, batch_size, False)
    trainer.sync()
    optimizer = copy.copy(trainer.optimizer)
    optimizer.counted = {}
    other = Trainer(
        trainer.net,
        trainer.loss,
        optimizer,
        metrics=(),
        target=trainer.target,
        seed=trainer.seed,
        autocast=trainer.autocast,
        float32_matmul_precision=trainer.compiling.float32_matmul_precision,
        library=trainer.compiling.library,
        check_nan=False,
        augment=None if trainer.augment is None else trainer.augment.parts,
        step=trainer.step_function,
        memory_limit=trainer.compiling.memory_limit,
    )
    other.parts = trainer.parts
    rates: list[float] = []
    losses: list[float] = []
    smoothed: list[float] = []
    mean = 0.0
    given = _endless(train, batch_size, trainer.seed)
    for i, rate in enumerate(np.geomspace(low, high, steps).tolist()):
        batch = as_batch(next(given))
        loss = float(other.run_step(other.program_of("train", batch), batch.named(), batch, rate)["loss"])
        mean = 0.9 * mean + 0.1 * loss
        now = mean / (1.0 - 0.9 ** (i + 1))
        if not math.isfinite(now) or (smoothed and now > 4.0 * min(smoothed)):
            break
        rates.append(rate)
        losses.append(loss)
        smoothed.append(now)
    if len(rates) < 5:
        raise ArgumentError(f"the loss was lost after {len(rates)} steps; begin with a lower rate than {low:g}")
    settled = min(10, len(rates) // 4)  # before, the smoothed loss is of too few steps
    steepest = settled + int(np.argmin(np.gradient(smoothed, np.log(rates))[settled:]))
    return RangeTest(tuple(rates), tuple(losses), tuple(smoothed), rates[steepest])


def _endless(train: Source | Collection[Any], batch_size: int | None, seed: int) -> Iterator[Any]:
    """Batches, epoch after epoch."""
    for epoch in count():
        yield from one_epoch(train, batch_size, np.random.default_rng([seed, epoch]), False)

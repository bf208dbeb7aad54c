"""Learning-rate schedules: factors of the base rate as functions of progress through training, from 0 to 1."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from graphrt.errors import ArgumentError


class LRSchedule(ABC):
    """Base: write ``factor``, by which the optimizer's ``lr`` is multiplied.

    Progress is the share of training that is done, from 0 to 1; ``epochs`` is the length of training in epochs when it is not
    that of ``fit``.
    """

    epochs: int | None = None

    @abstractmethod
    def factor(self, progress: float) -> float:
        """The factor of the base learning rate at ``progress`` in [0, 1]."""

    def lr(self, step: int, total_steps: int) -> float:
        """The factor for step number ``step`` (from 0) of ``total_steps``. Raises ArgumentError."""
        if total_steps < 1 or step < 0:
            raise ArgumentError(f"need total_steps >= 1 and step >= 0, got {total_steps} and {step}")
        return self.factor(min(step / total_steps, 1.0))


@dataclass(frozen=True)
class Constant(LRSchedule):
    """Always 1."""

    def factor(self, progress: float) -> float:
        return 1.0


@dataclass(frozen=True)
class Step(LRSchedule):
    """Multiplied by ``gamma`` at each of ``milestones``, which are points of progress in [0, 1]."""

    milestones: tuple[float, ...] = (0.5, 0.75)
    gamma: float = 0.1

    def factor(self, progress: float) -> float:
        return self.gamma ** sum(progress >= m for m in self.milestones)


@dataclass(frozen=True)
class Cosine(LRSchedule):
    """Half a cosine from 1 to ``final`` over ``epochs`` (Loshchilov and Hutter, "SGDR", ICLR 2017, without restarts)."""

    epochs: int | None = None
    final: float = 0.0

    def factor(self, progress: float) -> float:
        return self.final + (1.0 - self.final) * 0.5 * (1.0 + math.cos(math.pi * progress))


@dataclass(frozen=True)
class Linear(LRSchedule):
    """A straight line from 1 to ``final`` over ``epochs``."""

    epochs: int | None = None
    final: float = 0.0

    def factor(self, progress: float) -> float:
        return 1.0 + (self.final - 1.0) * progress


@dataclass(frozen=True)
class InverseSqrt(LRSchedule):
    """1 up to progress ``start``, then falling as ``sqrt(start / progress)`` (Vaswani et al., NeurIPS 2017, after warm-up)."""

    start: float = 0.1

    def factor(self, progress: float) -> float:
        return math.sqrt(self.start / max(progress, self.start))


@dataclass(frozen=True)
class Warmup(LRSchedule):
    """Rises in a line to ``schedule``'s value over the first ``fraction`` of training; ``schedule`` runs over the rest.

    The line starts at ``first``, so that the first step is not zero. Raises ArgumentError for a ``fraction`` outside (0, 1).
    """

    schedule: LRSchedule
    fraction: float = 0.05
    first: float = 0.01

    def __post_init__(self) -> None:
        if not 0.0 < self.fraction < 1.0:
            raise ArgumentError(f"fraction must lie in (0, 1), got {self.fraction}")
        object.__setattr__(self, "epochs", self.schedule.epochs)

    def factor(self, progress: float) -> float:
        if progress < self.fraction:
            return (self.first + (1.0 - self.first) * progress / self.fraction) * self.schedule.factor(0.0)
        return self.schedule.factor((progress - self.fraction) / (1.0 - self.fraction))


def warmup(schedule: LRSchedule, fraction: float = 0.05, first: float = 0.01) -> LRSchedule:
    """``schedule`` after a line from ``first`` to its value over the first ``fraction`` of training: ``Warmup``."""
    return Warmup(schedule, fraction, first)


SCHEDULES: dict[str, Callable[[], LRSchedule]] = {
    "constant": Constant,
    "step": Step,
    "cosine": Cosine,
    "linear": Linear,
    "inverse_sqrt": InverseSqrt,
}

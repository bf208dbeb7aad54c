"""Learning-rate schedules: factors of the base rate, as functions of how far training is.

A factor is a number that the program gets at each step, so no schedule compiles anything again. Time is the share of training
that is done, or epochs, or steps, as a schedule's ``by`` says.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from graphrt.arguments import check_fields
from graphrt.errors import ArgumentError

TIMES = ("progress", "epoch", "step")


class LRSchedule(ABC):
    """Base: write ``factor``, by which the optimizer's ``lr`` is multiplied.

    ``by`` is what time is counted in: "progress", the share of training that is done, from 0 to 1; "epoch", epochs since the
    start with their fractions; or "step". ``epochs`` is the length of training in epochs when it is not that of ``fit``.
    """

    epochs: int | None = None
    by: str = "progress"

    def __post_init__(self) -> None:
        """Raises ArgumentError for arguments of another kind, an unknown ``by`` and less than an epoch."""
        check_fields(self)
        if self.by not in TIMES:
            raise ArgumentError(f'by must be "progress", "epoch" or "step", got {self.by!r}')
        if self.epochs is not None and self.epochs < 1:
            raise ArgumentError(f"epochs must be at least 1, got {self.epochs}")

    @abstractmethod
    def factor(self, time: float) -> float:
        """The factor of the base learning rate at ``time``, which is 0 at the first step."""

    def lr(self, step: float, total_steps: float, steps_per_epoch: int = 1) -> float:
        """The factor for step number ``step`` (from 0) of ``total_steps``, ``steps_per_epoch`` of them an epoch.

        Raises ArgumentError.
        """
        if total_steps < 1 or step < 0 or steps_per_epoch < 1:
            raise ArgumentError(
                f"need total_steps >= 1, step >= 0 and steps_per_epoch >= 1, got {total_steps}, {step} and {steps_per_epoch}"
            )
        return self.factor(_time(self.by, step, total_steps, steps_per_epoch))

    def observe(self, history: Mapping[str, Sequence[float]]) -> None:
        """Takes note of the values of all epochs so far, by name; called before each epoch."""
        if isinstance(inner := getattr(self, "schedule", None), LRSchedule):
            inner.observe(history)


def _time(by: str, step: float, total_steps: float, steps_per_epoch: int) -> float:
    return {"progress": min(step / total_steps, 1.0), "epoch": step / steps_per_epoch, "step": step}[by]


@dataclass(frozen=True)
class Constant(LRSchedule):
    """Always 1."""

    def factor(self, time: float) -> float:
        return 1.0


@dataclass(frozen=True)
class Step(LRSchedule):
    """Multiplied by ``gamma`` at each of ``milestones``, as torch's MultiStepLR: ``Step((30, 60, 90), by="epoch")``.

    Milestones are times as ``by`` counts them.
    """

    milestones: tuple[float, ...] = (0.5, 0.75)
    gamma: float = 0.1
    by: str = "progress"

    def factor(self, time: float) -> float:
        return self.gamma ** sum(time >= m for m in self.milestones)


@dataclass(frozen=True)
class Exponential(LRSchedule):
    """``gamma`` to the power of the time, as torch's ExponentialLR; time is counted in ``by``."""

    gamma: float = 0.95
    by: str = "epoch"

    def factor(self, time: float) -> float:
        return self.gamma**time


@dataclass(frozen=True)
class Polynomial(LRSchedule):
    """Falls from 1 to ``final`` over ``epochs`` as ``(1 - progress)**power``, as torch's PolynomialLR."""

    power: float = 2.0
    epochs: int | None = None
    final: float = 0.0

    def factor(self, time: float) -> float:
        return self.final + (1.0 - self.final) * (1.0 - time) ** self.power


@dataclass(frozen=True)
class Cosine(LRSchedule):
    """Half a cosine from 1 to ``final`` over ``epochs``, as torch's CosineAnnealingLR (Loshchilov and Hutter, ICLR 2017)."""

    epochs: int | None = None
    final: float = 0.0

    def factor(self, time: float) -> float:
        return self.final + (1.0 - self.final) * 0.5 * (1.0 + math.cos(math.pi * time))


@dataclass(frozen=True)
class CosineRestarts(LRSchedule):
    """``Cosine`` again and again, as torch's CosineAnnealingWarmRestarts (Loshchilov and Hutter, "SGDR", ICLR 2017).

    The first takes ``first`` units of ``by``, each other one ``growth`` times as many as that before it; each goes from 1 to
    ``final``. Raises ArgumentError for ``first`` that is not above 0 and ``growth`` under 1.
    """

    first: float = 10.0
    growth: float = 1.0
    final: float = 0.0
    by: str = "epoch"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.first > 0.0 and self.growth >= 1.0):
            raise ArgumentError(f"restarts need first above 0 and growth of at least 1, got {self.first} and {self.growth}")

    def factor(self, time: float) -> float:
        length = self.first
        if self.growth == 1.0:
            time %= length
        while time >= length:
            time, length = time - length, length * self.growth
        return Cosine(final=self.final).factor(time / length)


@dataclass(frozen=True)
class Linear(LRSchedule):
    """A straight line from 1 to ``final`` over ``epochs``."""

    epochs: int | None = None
    final: float = 0.0

    def factor(self, time: float) -> float:
        return 1.0 + (self.final - 1.0) * time


@dataclass(frozen=True)
class InverseSqrt(LRSchedule):
    """1 up to time ``start``, then falling as ``sqrt(start / time)`` (Vaswani et al., NeurIPS 2017, after warm-up).

    Epochs and steps are numbered from 1, so ``InverseSqrt(1, by="step")`` is 1 / sqrt(t) from the first step; ``by`` is what
    time is counted in. Raises ArgumentError for ``start`` that is not above 0.
    """

    start: float = 0.1
    by: str = "progress"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.start > 0.0:
            raise ArgumentError(f"start must be above 0, got {self.start}")

    def factor(self, time: float) -> float:
        return math.sqrt(self.start / max(time if self.by == "progress" else time + 1, self.start))


@dataclass(frozen=True)
class OneCycle(LRSchedule):
    """Up to 1 and down again, as torch's OneCycleLR (Smith and Topin, 2018), whose max_lr is the optimizer's rate.

    From ``1 / div_factor`` it rises to 1 over the share ``pct_start`` of training, and falls to
    ``1 / div_factor / final_div_factor``, at once or with ``three_phase`` by way of where it began. ``anneal_strategy`` is
    "cos" or "linear"; training takes ``epochs``. The momentum stays as it is. Raises ArgumentError for an unknown strategy, and
    what is out of range.
    """

    pct_start: float = 0.3
    anneal_strategy: str = "cos"
    div_factor: float = 25.0
    final_div_factor: float = 1e4
    three_phase: bool = False
    epochs: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.div_factor > 0.0 and self.final_div_factor > 0.0):
            raise ArgumentError(
                f"div_factor and final_div_factor must be above 0, got {self.div_factor} and {self.final_div_factor}"
            )
        if self.anneal_strategy not in ("cos", "linear") or not 0.0 < self.pct_start < 1.0:
            raise ArgumentError(
                f'a cycle needs anneal_strategy "cos" or "linear" and pct_start in (0, 1), got {self.anneal_strategy!r} and '
                f"{self.pct_start}"
            )

    def factor(self, time: float) -> float:
        return self._along(time, 1.0, 0.0)

    def lr(self, step: float, total_steps: float, steps_per_epoch: int = 1) -> float:
        return self._along(step, total_steps, 1.0)

    def _along(self, at: float, total: float, one: float) -> float:
        """The factor where phases end ``one`` step early, so that the last step has the last value."""
        low, top = 1.0 / self.div_factor, self.pct_start * total - one
        ends = [(top, 1.0), (total - one, low / self.final_div_factor)]
        if self.three_phase:
            ends.insert(1, (2.0 * top, low))
        start, before = 0.0, low
        for end, after in ends:
            if at <= end or end is ends[-1][0]:
                share = min((at - start) / (end - start), 1.0) if end > start else 1.0
                share = 0.5 * (1.0 - math.cos(math.pi * share)) if self.anneal_strategy == "cos" else share
                return before + (after - before) * share
            start, before = end, after
        return before


@dataclass(frozen=True)
class Warmup(LRSchedule):
    """Rises in a line to ``schedule``'s value over the first ``length`` of training; ``schedule`` runs over the rest.

    ``length`` is a time as ``by`` counts it. The line starts at ``first``, so that the first step is not zero. Raises
    ArgumentError for a ``length`` that is not above 0, or as a share of training not under 1.
    """

    schedule: LRSchedule
    length: float = 0.05
    first: float = 0.01
    by: str = "progress"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.length < (1.0 if self.by == "progress" else math.inf):
            raise ArgumentError(f"length must be above 0, and as a share of training under 1, got {self.length}")
        object.__setattr__(self, "epochs", self.schedule.epochs)

    def factor(self, time: float) -> float:
        return self.lr(time, 1.0)

    def lr(self, step: float, total_steps: float, steps_per_epoch: int = 1) -> float:
        warm = self.length / _time(self.by, 1.0, total_steps, steps_per_epoch)
        if step < warm:
            return (self.first + (1.0 - self.first) * step / warm) * self.schedule.lr(0, total_steps, steps_per_epoch)
        return self.schedule.lr(step - warm, max(total_steps - warm, 1.0), steps_per_epoch)


def warmup(schedule: LRSchedule, length: float = 0.05, first: float = 0.01, by: str = "progress") -> LRSchedule:
    """``schedule`` after a line from ``first`` to its value over the first ``length`` of training, in ``by``: ``Warmup``."""
    return Warmup(schedule, length, first, by)


@dataclass(frozen=True)
class PerEpoch(LRSchedule):
    """``schedule``'s value at the start of each epoch, for the whole of it."""

    schedule: LRSchedule

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "epochs", self.schedule.epochs)

    def factor(self, time: float) -> float:
        return self.schedule.factor(time)

    def lr(self, step: float, total_steps: float, steps_per_epoch: int = 1) -> float:
        return self.schedule.lr(step - step % steps_per_epoch, total_steps, steps_per_epoch)


@dataclass
class ReduceOnPlateau(LRSchedule):
    """Multiplied by ``shrink`` when ``monitor`` has not improved for more than ``patience`` epochs.

    As torch's ReduceLROnPlateau. ``monitor`` is a name of the history, and lower is better for ``mode`` "min", higher for
    "max". What is better by less than ``threshold``, as a share for ``threshold_mode`` "rel" and as it is for "abs", is no
    improvement. The first ``cooldown`` epochs behind a reduction do not count. The factor never falls under ``least``, and
    multiplies that of ``schedule``. It follows from the history alone, so a run that goes on from a checkpoint needs nothing
    else. Raises ArgumentError for arguments that make no sense and a ``monitor`` that the history lacks.
    """

    shrink: float = 0.1
    patience: int = 10
    monitor: str = "val_loss"
    mode: str = "min"
    threshold: float = 1e-4
    threshold_mode: str = "rel"
    cooldown: int = 0
    least: float = 0.0
    schedule: LRSchedule = field(default_factory=Constant)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mode not in ("min", "max") or self.threshold_mode not in ("rel", "abs") or not 0.0 < self.shrink < 1.0:
            raise ArgumentError(
                f'a plateau needs mode "min" or "max", threshold_mode "rel" or "abs" and shrink in (0, 1), got {self.mode!r}, '
                f"{self.threshold_mode!r} and {self.shrink}"
            )
        self.epochs, self._reduced = self.schedule.epochs, 1.0

    def factor(self, time: float) -> float:
        return self._reduced * self.schedule.factor(time)

    def lr(self, step: float, total_steps: float, steps_per_epoch: int = 1) -> float:
        return self._reduced * self.schedule.lr(step, total_steps, steps_per_epoch)

    def observe(self, history: Mapping[str, Sequence[float]]) -> None:
        super().observe(history)
        found = {name: values for name, values in history.items() if values}
        if found and self.monitor not in found:
            raise ArgumentError(f"no {self.monitor!r} to reduce the rate by; the history has {', '.join(found)}")
        self._reduced, best, bad, resting = 1.0, math.inf, 0, 0
        sign = 1.0 if self.mode == "min" else -1.0
        for value in (sign * v for v in found.get(self.monitor, ())):
            margin = self.threshold * (abs(best) if self.threshold_mode == "rel" else 1.0)
            better = value < best - margin if math.isfinite(best) else value < best
            best, bad = (value, 0) if better else (best, bad + 1)
            if resting:
                resting, bad = resting - 1, 0
            if bad > self.patience:
                self._reduced, resting, bad = max(self._reduced * self.shrink, self.least), self.cooldown, 0


SCHEDULES: dict[str, Callable[[], LRSchedule]] = {
    "constant": Constant,
    "step": Step,
    "exponential": Exponential,
    "polynomial": Polynomial,
    "cosine": Cosine,
    "cosine_restarts": CosineRestarts,
    "linear": Linear,
    "inverse_sqrt": InverseSqrt,
    "one_cycle": OneCycle,
    "plateau": ReduceOnPlateau,
}


def scaled_lr(lr: float, batch_size: int, base_batch_size: int = 256, rule: str = "linear") -> float:
    """The rate for ``batch_size`` where ``lr`` is that for ``base_batch_size``.

    ``rule`` "linear" is for SGD: N times the batch, N times the rate (Goyal et al., 2017); "sqrt" is for Adam and its kind
    (Krizhevsky, 2014). Raises ArgumentError for an unknown rule and sizes under 1.
    """
    if rule not in ("linear", "sqrt") or batch_size < 1 or base_batch_size < 1:
        raise ArgumentError(
            f'need rule "linear" or "sqrt" and batch sizes of at least 1, got {rule!r}, {batch_size}, {base_batch_size}'
        )
    ratio = batch_size / base_batch_size
    return lr * (ratio if rule == "linear" else math.sqrt(ratio))

"""What the parts of bench.gpu share: where they run, their rows and goals, how a call is timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from bench.measure import Timing, interleave

TURN = 0.01  # seconds of work between two waits for the device, at least


@dataclass(frozen=True)
class Row:
    """One line of the table. ``ratio`` is how the figure compares with the other side's, as ``what`` says.

    ``goal`` is the least (or with ``at_most`` the largest) value of the figure or, where there is one, of the ratio. A row
    without a figure says in ``note`` why.
    """

    part: str
    what: str
    figure: float | None = None
    unit: str = ""
    ratio: float | None = None
    goal: float | None = None
    at_most: bool = False
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None where there is none, or nothing was measured."""
        value = self.figure if self.ratio is None else self.ratio
        if self.goal is None or value is None:
            return None
        return value <= self.goal if self.at_most else value >= self.goal

    def described(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Settings:
    """How a part runs: for real, or ``dry``: graphrt on the null target, torch on the CPU, tiny, and no figures."""

    dry: bool
    seconds: float
    tune: int = 0
    start: float = field(default_factory=time.monotonic)

    @property
    def device(self) -> str:
        return "cpu" if self.dry else "cuda"

    @property
    def target(self) -> str:
        return "null" if self.dry else "hip" if torch.version.hip else "cuda"

    def left(self) -> float:
        """Seconds until this part's time is over."""
        return self.seconds - (time.monotonic() - self.start)

    def sync(self) -> None:
        """Waits for the device."""
        if not self.dry:
            torch.cuda.synchronize()


Part = Callable[[Settings], Iterator[Row]]


def timed(calls: Mapping[str, Callable[[], Any]], settings: Settings, rounds: int = 10) -> dict[str, Timing]:
    """Milliseconds of each call, taken in turns; a turn is many calls of a short one, and one wait at its end.

    In a dry run each is called once, and that is all there is to see.
    """
    if settings.dry:
        for call in calls.values():
            call()
        return {name: Timing(0.0, 0.0, 0.0) for name in calls}
    repeats: dict[str, int] = {}
    for name, call in calls.items():
        call()
        settings.sync()
        start = time.perf_counter()
        call()
        settings.sync()
        repeats[name] = max(1, int(TURN / max(time.perf_counter() - start, 1e-6)))

    def turn(call: Callable[[], Any], count: int) -> Callable[[], None]:
        def run() -> None:
            for _ in range(count):
                call()
            settings.sync()

        return run

    found = interleave({name: turn(call, repeats[name]) for name, call in calls.items()}, rounds, calls=2)
    return {
        n: Timing(t.median / repeats[n], t.low / repeats[n], t.high / repeats[n]) for n, t in found.items() if t is not None
    }

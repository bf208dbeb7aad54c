"""The common part of bench.gpu's steps: where they run, their rows and goals, how a call or the device's part is timed.

Nothing is imported here that a machine may lack: bench.gpu says what is missing before a step begins.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from bench.measure import Timing
    from graphrt import Program

T = TypeVar("T")
TURN = 0.01  # seconds of work between two waits for the device, at least
MOST = 200  # runs that one captured graph holds


@dataclass(frozen=True)
class Row:
    """One line of the table. ``ratio`` is how the figure compares with the other side's, as ``what`` says.

    ``goal`` is the least (or with ``at_most`` the largest) value of the figure or, where there is one, of the ratio. A row
    without a figure says in ``note`` why. One that is a ``detail`` is kept and not printed.
    """

    part: str
    what: str
    figure: float | None = None
    unit: str = ""
    ratio: float | None = None
    goal: float | None = None
    at_most: bool = False
    note: str = ""
    detail: bool = False

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None where there is none, or nothing was measured."""
        value = self.figure if self.ratio is None else self.ratio
        if self.goal is None or value is None:
            return None
        return value <= self.goal if self.at_most else value >= self.goal

    @property
    def failed(self) -> bool:
        """Whether the note says that something did not run to its end."""
        return self.note.startswith(("failed", "cannot", "stopped", "not run"))

    def described(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Settings:
    """How a step runs: for real, or ``dry``: graphrt on the null target, torch on the CPU, tiny, and no figures.

    ``out`` is the folder for logs and records. ``ahead`` is a target, as cuda:sm_90, that programs are only compiled for. A dry
    run that is ``full`` has graphrt's programs at their real size, which shows that a kit holds their kernels.
    """

    dry: bool
    seconds: float
    tune: int = 0
    out: Path = Path("runs/gpu")
    start: float = field(default_factory=time.monotonic)
    ahead: str = ""
    full: bool = False

    def ours(self, real: int, dry: int = 2) -> int:
        """A batch, or another size, of graphrt's side: ``real``, or ``dry`` where little is enough."""
        return dry if self.dry and not self.full else real

    def theirs(self, real: int, dry: int = 2) -> int:
        """The same of torch's side, which computes in a dry run too."""
        return dry if self.dry else real

    def some(self, every: Sequence[T], least: int = 2) -> Sequence[T]:
        """``every``, or the first few of them."""
        return every[:least] if self.dry and not self.full else every

    @property
    def device(self) -> str:
        return "cpu" if self.dry or self.ahead else "cuda"

    @property
    def target(self) -> str:
        if self.ahead:
            return self.ahead
        import torch

        return "null" if self.dry else "hip" if torch.version.hip else "cuda"

    def left(self) -> float:
        """Seconds until this step's time is over."""
        return self.seconds - (time.monotonic() - self.start)

    def sync(self) -> None:
        """Waits for the device."""
        if not self.dry:
            import torch

            torch.cuda.synchronize()


Part = Callable[[Settings], Iterator[Row]]


@contextmanager
def switched(flag: str = "", value: str = "1") -> Iterator[None]:
    """Programs compiled inside are so with ``value`` of ``flag``, a variable of graphrt's as GRAPHRT_TMA, if there is one."""
    before = os.environ.get(flag)
    os.environ |= {flag: value} if flag else {}
    try:
        yield
    finally:
        os.environ.pop(flag, None)
        os.environ |= {flag: before} if before is not None else {}


def timed(calls: Mapping[str, Callable[[], Any]], settings: Settings, rounds: int = 10) -> dict[str, Timing]:
    """Milliseconds of each call, taken in turns; a turn is many calls of a short one, and one wait at its end.

    What a call costs the host is in it. In a dry run each is called once, and that is all there is to see.
    """
    from bench.measure import Timing, interleave

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


# --- without the host -----------------------------------------------------------------------------------------------

Clock = Callable[[int], float]
"""Seconds of one run on the device, as the mean of so many that lie in one captured graph: no run waits for the host."""


def ours(program: Program, inputs: Mapping[str, Any] | None = None) -> Clock:
    """The clock of a program."""
    return lambda runs: program.elapsed(inputs or {}, runs=runs)


def theirs(call: Callable[[], Any], settings: Settings) -> Clock:
    """The clock of a call of torch."""
    if settings.dry:

        def once(runs: int) -> float:
            call()
            return 0.0

        return once
    import torch

    graphs: dict[int, Any] = {}
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):  # what is chosen or loaded at first is not captured
            call()
    torch.cuda.current_stream().wait_stream(side)

    def seconds(runs: int) -> float:
        if runs not in graphs:
            graphs[runs] = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graphs[runs]):
                for _ in range(runs):
                    call()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graphs[runs].replay()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1e3 / runs

    return seconds


def clocked(clocks: Mapping[str, Clock], settings: Settings, rounds: int = 10) -> dict[str, Timing]:
    """Milliseconds of a run by each clock, taken in turns of TURN seconds or MOST runs."""
    from bench.measure import Timing, spread

    if settings.dry:
        for clock in clocks.values():
            clock(2)
        return {name: Timing(0.0, 0.0, 0.0) for name in clocks}
    runs: dict[str, int] = {}
    for name, clock in clocks.items():
        clock(2)
        runs[name] = min(max(1, int(TURN / max(clock(2), 1e-6))), MOST)
        clock(runs[name])
    found: dict[str, list[float]] = {name: [] for name in clocks}
    for _ in range(rounds):
        for name, clock in clocks.items():
            found[name].append(clock(runs[name]))
    return {name: spread(seconds) for name, seconds in found.items()}

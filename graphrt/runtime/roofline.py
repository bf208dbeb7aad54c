"""How long a program should take on a GPU at least: predictions from bytes, flops and compiled code, never measurements.

A launch takes as long as the slowest of its limits: traffic to memory, and being launched at all; by the plan alone, its
matrix products and its other arithmetic; where its compiled code is known (``Work``), the units of the multiprocessor with
most programs, and what these wait for memory. Peaks are not reached, so they are derated as published kernels suggest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from graphrt.errors import ArgumentError
from graphrt.runtime.program import Program
from graphrt.schedule.cost import Cost, launch_cost
from graphrt.types import HALVES, float64

COMPUTE, MEMORY = 0.79, 0.87  # of the data sheet's peaks, what is planned with
LAUNCH = 1.5e-6  # seconds that a kernel of a CUDA graph takes at least: an assumption


@dataclass(frozen=True)
class DataSheet:
    """Data-sheet peaks, dense: terabytes a second, and teraflops a second by operands; float32 is exact, without tf32.

    ``units`` multiprocessors run at ``clock`` gigahertz, 0.93 of what the peaks are for: what they sustain under load.
    """

    name: str
    arch: str
    memory: float
    half: float
    tf32: float
    float32: float
    float64: float
    units: int
    clock: float


DATA_SHEETS = (
    DataSheet("H200", "sm_90", 4.8, 989.4, 494.7, 66.9, 66.9, 132, 1.7),
    DataSheet("H100", "sm_90", 3.35, 989.4, 494.7, 66.9, 66.9, 132, 1.7),
    DataSheet("A100", "sm_80", 2.04, 312.0, 156.0, 19.5, 19.5, 108, 1.31),
    DataSheet("MI300X", "gfx942", 5.3, 1307.4, 653.7, 163.4, 163.4, 304, 1.95),
)


@dataclass(frozen=True)
class Work:
    """A launch as compiled code makes it: ``programs``, so many ``resident`` on a multiprocessor at a time.

    ``loops`` and ``rest`` are the clocks that one program keeps each unit of its multiprocessor busy, in its loops and outside:
    tensor cores, shared memory (and L1), issue of instructions, l2 (the way from there). ``latency`` are the clocks that it
    waits for its loads at least.
    """

    programs: int
    resident: int
    loops: Mapping[str, float]
    rest: Mapping[str, float]
    latency: float

    def limits(self, units: int) -> dict[str, float]:
        """The clocks that each limit says a launch on so many multiprocessors takes at least.

        The multiprocessor that has most programs decides. One that has a program at a time is either in its loops or not,
        and where it waits there is nothing else to do.
        """
        most = -(-self.programs // units)
        turns = -(-most // max(self.resident, 1))
        found = {u: most * (self.loops.get(u, 0.0) + self.rest.get(u, 0.0)) for u in {**self.loops, **self.rest}}
        if turns == most:
            phases = [max(((n, u) for u, n in phase.items()), default=(0.0, "issue")) for phase in (self.loops, self.rest)]
            found[max(phases)[1]] = most * sum(clocks for clocks, _ in phases)
        return {**found, "latency": turns * self.latency}


@dataclass(frozen=True)
class Prediction:
    """One launch: its name, bytes, flops, predicted seconds, and its limits in seconds, of which the largest is the ``bound``.

    Limits are memory and launch, and tensor, shared, issue, l2 and latency by compiled code, compute by the plan.
    """

    name: str
    bytes: int
    flops: int
    seconds: float
    bound: str
    limits: Mapping[str, float]


@dataclass(frozen=True)
class Estimate:
    """A program's launches on the device of ``sheet``; ``batch`` is what the figures of one image are by.

    ``compiled`` tells predictions from compiled code from those of the plan alone.
    """

    sheet: DataSheet
    batch: int
    launches: Sequence[Prediction]
    arena: int
    compiled: bool = False

    @property
    def seconds(self) -> float:
        """The seconds of all launches, one after the other."""
        return sum(p.seconds for p in self.launches)

    @property
    def bytes(self) -> int:
        """The bytes that all launches read and write."""
        return sum(p.bytes for p in self.launches)

    def bounds(self) -> dict[str, float]:
        """Seconds of the launches that each limit binds, the most first."""
        found: dict[str, float] = {}
        for p in self.launches:
            found[p.bound] = found.get(p.bound, 0.0) + p.seconds
        return dict(sorted(found.items(), key=lambda pair: -pair[1]))

    def to_json(self) -> dict[str, Any]:
        """Totals and launches as plain data."""
        totals = {"device": asdict(self.sheet), "predicted": True, "compiled": self.compiled, "batch": self.batch}
        totals["launches"] = len(self.launches)
        figures = {
            "bytes_per_image": self.bytes / self.batch,
            "flops": sum(p.flops for p in self.launches),
            "seconds": self.seconds,
            "images_per_second": self.batch / max(self.seconds, 1e-12),
            "arena": self.arena,
        }
        return {**totals, **figures, "kernels": [asdict(p) for p in self.launches]}

    def __str__(self) -> str:
        d, total = self.sheet, max(self.seconds, 1e-12)
        head = f"{'':>4} {'kernel':<58} {'MB':>9} {'GFLOP':>9} {'us':>8} {'bound':>8} {'share':>6}"
        lines = [
            f"{i:>4} {p.name[:58]:<58} {p.bytes / 1e6:>9.2f} {p.flops / 1e9:>9.3f} {1e6 * p.seconds:>8.1f} {p.bound:>8}"
            f" {p.seconds / total:>6.1%}"
            for i, p in enumerate(self.launches)
        ]
        peaks = f"{d.memory} TB/s, {d.half:.0f} TFLOP/s in half precision, {d.float32} in float32"
        arithmetic = f"{d.units} multiprocessors at {d.clock} GHz" if self.compiled else f"{COMPUTE:.0%} of arithmetic's"
        planned = f"{MEMORY:.0%} of memory's peak, {arithmetic}, {1e6 * LAUNCH} us a launch at least"
        source = "a bound from the compiled code's instructions and" if self.compiled else "predicted from"
        bounds = ", ".join(f"{bound} {1e3 * seconds:.3f} ms" for bound, seconds in self.bounds().items())
        totals = f"{self.bytes / self.batch / 1e6:.2f} MB an image, {len(lines)} launches, {1e3 * total:.3f} ms a step"
        speed = f"{self.batch / total:,.0f} images/s, arena {self.arena / 1e6:,.1f} MB"
        about = f"{source} the data sheet of {d.name}, not measured: {peaks}; planned with {planned}"
        return "\n".join([head, *lines, about, f"bound by {bounds}", f"{totals}, {speed}"])


def find_data_sheet(target: str, name: str | None = None) -> DataSheet:
    """The device called ``name``, or the first of the architecture in ``target`` (cuda:sm_90). Raises ArgumentError."""
    arch = target.split(":")[-1]
    found = [d for d in DATA_SHEETS if (d.name == name if name else d.arch == arch)]
    if not found or (":" in target and found[0].arch != arch):
        known = ", ".join(f"{d.name} ({d.arch})" for d in DATA_SHEETS)
        raise ArgumentError(f"no data sheet of {name or target} for target {target!r}; there is {known}")
    return found[0]


def predict(program: Program, sheet: DataSheet, batch: int, compiled: bool = False) -> Estimate:
    """The time that ``program`` should take on the device of ``sheet``: by its plan, or with ``compiled`` by its kernels' code.

    Raises ArgumentError for one without launches.
    """
    if program.schedule is None or program.plan is None:
        raise ArgumentError(f"the {program.target} target has no launches to predict")
    works = program.work() if compiled else [None] * program.launches
    found = []
    for launch, kernels, work in zip(program.schedule.launches, program.kernel_ir, works, strict=True):
        cost = launch_cost(kernels)
        limits = _limits(cost, sheet, work)
        bound = max(limits, key=limits.__getitem__)
        name = f"{launch.name} {launch.description()}"
        found.append(Prediction(name, cost.bytes, cost.flops, limits[bound], bound, limits))
    return Estimate(sheet, batch, found, program.plan.size, any(work is not None for work in works))


def least(cost: Cost, sheet: DataSheet, work: Work | None) -> float:
    """Seconds that a launch takes at least."""
    return max(_limits(cost, sheet, work).values())


def _limits(cost: Cost, sheet: DataSheet, work: Work | None) -> dict[str, float]:
    """Seconds that a launch takes at least, by what limits it."""
    limits = {"memory": cost.bytes / (1e12 * MEMORY * sheet.memory), "launch": LAUNCH}
    if work is not None:
        clocks = work.limits(sheet.units)
        limits.update({name: 1e-9 * n / sheet.clock for name, n in clocks.items()})
    if work is None or "issue" not in work.rest:
        peak = 1e12 * COMPUTE
        limits["compute"] = max(cost.contraction / (peak * _rate(cost, sheet)), cost.other / (peak * sheet.float32))
    return limits


def _rate(cost: Cost, sheet: DataSheet) -> float:
    """Teraflops a second of products: a high-precision one of float32 operands is three of tf32."""
    if cost.dtype in HALVES:
        return sheet.half
    if cost.dtype is float64:
        return sheet.float64
    return {"highest": sheet.float32, "high": sheet.tf32 / 3, "medium": sheet.tf32}[cost.precision]

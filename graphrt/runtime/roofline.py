"""Predictions of how long a program takes on a GPU at least: by its plan, or by its compiled code; never measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from graphrt.errors import ArgumentError
from graphrt.runtime.machine import COMPUTE, LAUNCH, MEMORY, DataSheet, limits
from graphrt.runtime.program import Program
from graphrt.schedule.cost import launch_cost


@dataclass(frozen=True)
class Prediction:
    """One launch: its name, bytes, flops, predicted seconds, and its limits in seconds, of which the largest is the ``bound``.

    Limits are memory, launch or barrier, and tensor, shared, issue, l2 and latency by compiled code, compute by the plan.
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

    ``compiled`` tells predictions from compiled code from those of the plan alone. ``joined`` launches are one with others in
    front of them, and begin with a barrier or beside these.
    """

    sheet: DataSheet
    batch: int
    launches: Sequence[Prediction]
    arena: int
    compiled: bool = False
    joined: int = 0

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
        total = max(self.seconds, 1e-12)
        head = f"{'':>4} {'kernel':<58} {'MB':>9} {'GFLOP':>9} {'us':>8} {'bound':>8} {'share':>6}"
        lines = [
            f"{i:>4} {p.name[:58]:<58} {p.bytes / 1e6:>9.2f} {p.flops / 1e9:>9.3f} {1e6 * p.seconds:>8.1f} {p.bound:>8}"
            f" {p.seconds / total:>6.1%}"
            for i, p in enumerate(self.launches)
        ]
        return "\n".join([head, *lines, self.totals()])

    def totals(self) -> str:
        """Three lines: what it follows from, what bounds it, and what a step moves and takes."""
        d, total = self.sheet, max(self.seconds, 1e-12)
        peaks = f"{d.memory} TB/s, {d.half:.0f} TFLOP/s in half precision, {d.float32} in float32"
        arithmetic = f"{d.units} multiprocessors at {d.clock} GHz" if self.compiled else f"{COMPUTE:.0%} of arithmetic's"
        planned = f"{MEMORY:.0%} of memory's peak, {arithmetic}, {1e6 * LAUNCH} us a launch at least"
        source = "a bound from the compiled code's instructions and" if self.compiled else "predicted from"
        count = len(self.launches)
        launches = f"{count} launches{f' joined in {count - self.joined}' if self.joined else ''}"
        bounds = ", ".join(f"{bound} {1e3 * seconds:.3f} ms" for bound, seconds in self.bounds().items())
        totals = f"{self.bytes / self.batch / 1e6:.2f} MB an image, {launches}, {1e3 * total:.3f} ms a step"
        speed = f"{self.batch / total:,.0f} images/s, arena {self.arena / 1e6:,.1f} MB"
        about = f"{source} the data sheet of {d.name}, not measured: {peaks}; planned with {planned}"
        return f"{about}\nbound by {bounds}\n{totals}, {speed}"


def predict(program: Program, sheet: DataSheet, batch: int, compiled: bool = False) -> Estimate:
    """The time that ``program`` should take on the device of ``sheet``: by its plan, or with ``compiled`` by its kernels' code.

    Raises ArgumentError for one without launches.
    """
    if program.schedule is None or program.plan is None:
        raise ArgumentError(f"the {program.target} target has no launches to predict")
    works = program.work() if compiled else [None] * program.launches
    found = []
    gaps = program.gaps()
    for launch, kernels, work, gap in zip(program.schedule.launches, program.kernel_ir, works, gaps, strict=True):
        cost = launch_cost(kernels)
        least = limits(cost, sheet, work, gap)
        bound = max(least, key=least.__getitem__)
        name = f"{launch.name} {launch.description()}"
        found.append(Prediction(name, cost.bytes, cost.flops, least[bound], bound, least))
    joined = sum(gap != "launch" for gap in gaps)
    return Estimate(sheet, batch, found, program.plan.size, any(work is not None for work in works), joined)

"""How long a program should take on a GPU by its data sheet: predictions from bytes and flops, never measurements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from graphrt.errors import ArgumentError
from graphrt.runtime.machine import COMPUTE, LAUNCH, MEMORY, DataSheet, expected
from graphrt.runtime.program import Program
from graphrt.schedule.cost import launch_cost


@dataclass(frozen=True)
class Prediction:
    """One launch: its name, bytes, flops, predicted seconds, and what bounds it: memory, compute or launch."""

    name: str
    bytes: int
    flops: int
    seconds: float
    bound: str


@dataclass(frozen=True)
class Estimate:
    """A program's launches on the device of ``sheet``; ``batch`` is what the figures of one image are by."""

    sheet: DataSheet
    batch: int
    launches: Sequence[Prediction]
    arena: int

    @property
    def seconds(self) -> float:
        """The seconds of all launches, one after the other."""
        return sum(p.seconds for p in self.launches)

    @property
    def bytes(self) -> int:
        """The bytes that all launches read and write."""
        return sum(p.bytes for p in self.launches)

    def to_json(self) -> dict[str, Any]:
        """Totals and launches as plain data."""
        totals = {"device": asdict(self.sheet), "predicted": True, "batch": self.batch, "launches": len(self.launches)}
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
        planned = f"{MEMORY:.0%} of memory's and {COMPUTE:.0%} of arithmetic's peak, {1e6 * LAUNCH} us a launch at least"
        totals = f"{self.bytes / self.batch / 1e6:.2f} MB an image, {len(lines)} launches, {1e3 * total:.3f} ms a step"
        speed = f"{self.batch / total:,.0f} images/s, arena {self.arena / 1e6:,.1f} MB"
        about = f"predicted from the data sheet of {d.name}, not measured: {peaks}; planned with {planned}"
        return "\n".join([head, *lines, about, f"{totals}, {speed}"])


def predict(program: Program, sheet: DataSheet, batch: int) -> Estimate:
    """The time that ``program`` should take on the device of ``sheet``. Raises ArgumentError for one without launches."""
    if program.schedule is None or program.plan is None:
        raise ArgumentError(f"the {program.target} target has no launches to predict")
    found = []
    for launch, kernels in zip(program.schedule.launches, program.kernel_ir, strict=True):
        cost = launch_cost(kernels)
        seconds, bound = expected(cost, sheet)
        found.append(Prediction(f"{launch.name} {launch.description()}", cost.bytes, cost.flops, seconds, bound))
    return Estimate(sheet, batch, found, program.plan.size)

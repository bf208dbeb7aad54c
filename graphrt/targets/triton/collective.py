"""Collectives of a GPU program: NCCL, through torch.distributed, on a stream beside the kernels, inside the one captured graph.

    program's stream   ... kernel ─┬─ kernel ── kernel ─┬─ kernel that reads a result ...
                            event  └──▶ collective ──▶ event          the fork, and where it is joined

Each process captures the same collectives in the same order, as NCCL asks of those that take part in one: launches follow from
the plan, which is that of all, and a program of several processes has one graph (``DeviceBinary``).
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from graphrt.mesh import Mesh
from graphrt.runtime.collectives import Collectives
from graphrt.runtime.processes import processes
from graphrt.schedule.kernel_ir import CollectiveKernel, Region
from graphrt.schedule.schedule import Slot
from graphrt.targets.triton.driver import Driver, Launch
from graphrt.targets.triton.library import LibraryCall, View


@dataclass(frozen=True)
class CollectiveCall:
    """A collective of the processes of ``mesh``, in place of a kernel: ``op`` makes ``results`` of all their ``sources``."""

    op: str
    mesh: str
    attrs: tuple[tuple[str, Any], ...]
    sources: tuple[View, ...]
    results: tuple[View, ...]

    @property
    def name(self) -> str:
        """Its name in reports."""
        return self.op

    def __str__(self) -> str:
        return f"{self.op} over {dict(self.attrs)['axis']} of {self.mesh}, by torch.distributed"

    def described(self) -> dict[str, Any]:
        """The fields of it, for a manifest, as ``parse`` reads them."""
        return {**asdict(self), "attrs": repr(self.attrs)}

    @staticmethod
    def parse(entry: Mapping[str, Any]) -> CollectiveCall:
        """The call that was ``described``, maybe as JSON."""
        sources, results = (tuple(map(View.parse, entry[side])) for side in ("sources", "results"))
        return CollectiveCall(entry["op"], entry["mesh"], ast.literal_eval(entry["attrs"]), sources, results)

    def bind(self, buffers: Sequence[Any]) -> Launch:
        """A launch on ``buffers``, which runs on torch's current stream. Raises TargetError where a tensor does not fit."""
        sources, results = ([v.of(buffers) for v in side] for side in (self.sources, self.results))
        joined, attrs = Collectives(processes(Mesh.parse(self.mesh))), dict(self.attrs)
        return lambda stream: joined.start(self.op, attrs, sources, results).wait()


Call = LibraryCall | CollectiveCall  # in place of a kernel


def call_of(kernel: CollectiveKernel, slots: Sequence[Slot], mesh: Mesh) -> CollectiveCall:
    """The call that ``kernel`` is, on the buffers of ``slots``."""

    def views(regions: Sequence[Region]) -> tuple[View, ...]:
        return tuple(View(slots.index(r.slot), r.type.shape, r.type.strides, r.first) for r in regions)

    return CollectiveCall(kernel.op, str(mesh), tuple(kernel.attrs.items()), views(kernel.sources), views(kernel.results))


def beside(driver: Driver, launches: Sequence[Launch], until: Mapping[int, int]) -> list[Launch]:
    """``launches``, of which those numbered in ``until`` run on a stream of their own, beside the ones that follow.

    Number n begins when all before it are done, and is over before number ``until[n]``; behind the last all are.
    """
    side, over = driver.fork(), dict[int, Any]()  # the event behind each

    def forked(number: int) -> Launch:
        def launch(stream: Any) -> None:
            side.wait_event(driver.stream().record_event())
            with driver.using(side):
                launches[number](stream)
                over[number] = side.record_event()

        return launch

    def joined(number: int) -> Launch:
        return lambda stream: driver.stream().wait_event(over.pop(number))

    found = list[Launch]()
    for number, launch in enumerate(launches):
        steps = [joined(n) for n, end in until.items() if end == number]
        steps.append(forked(number) if number in until else launch)
        if number == len(launches) - 1:
            steps += [joined(n) for n, end in until.items() if end > number]
        found.append(steps[0] if len(steps) == 1 else _in_order(steps))
    return found


def _in_order(steps: Sequence[Launch]) -> Callable[[Any], None]:
    def launch(stream: Any) -> None:
        for step in steps:
            step(stream)

    return launch

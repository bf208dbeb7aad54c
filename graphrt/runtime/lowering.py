"""The common part of all programs' compilation, before a target's: what a program says of itself when it is looked into."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

from graphrt.ir import Graph
from graphrt.op import Kind, Order
from graphrt.passes.decision import Decision
from graphrt.passes.pipeline import PassPolicy, run_passes
from graphrt.passes.stages import NONE, STAGES
from graphrt.schedule.concat_buffers import NO_BUFFERS, ConcatBuffers
from graphrt.schedule.cost import Cost, launch_cost
from graphrt.schedule.kernel_ir import Kernel
from graphrt.schedule.ledger import settle, unfused_bytes
from graphrt.schedule.memory import MemoryPlan
from graphrt.schedule.policy import SchedulePolicy
from graphrt.schedule.schedule import Schedule
from graphrt.schedule.traffic import Traffic
from graphrt.types import TensorType


@contextmanager
def uncollected() -> Iterator[None]:
    """No garbage collection inside: a compilation makes many objects and little garbage.

    What is young at its end is collected there, so that it makes nobody look through all that is old, such as torch.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.collect(0)
            gc.enable()


@dataclass(frozen=True)
class Lowering:
    """A graph after each pass, by name, then its schedule, kernels and memory plan, which the reference target has none of.

    ``orders`` are the memory orders of the state that existed before, ``passing`` and ``policy`` what the target wanted,
    ``buffers`` those of concatenations, ``seconds`` what each stage took.
    """

    passes: Sequence[tuple[str, Graph]]
    decisions: Sequence[Decision]
    orders: Mapping[str, Order]
    passing: PassPolicy
    policy: SchedulePolicy | None = None
    buffers: ConcatBuffers = NO_BUFFERS
    schedule: Schedule | None = None
    kernels: Sequence[Sequence[Kernel]] = ()
    plan: MemoryPlan | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def built(self) -> Graph:
        """The graph as it was built."""
        return self.passes[0][1]

    @property
    def graph(self) -> Graph:
        """The graph after the last pass."""
        return self.passes[-1][1]

    @property
    def held(self) -> dict[str, int]:
        """The bytes that a run holds, by what they are of."""
        interface = self.interface
        kinds = {"state": interface.state, "inputs": interface.inputs, "outputs": interface.outputs}
        arena = 0 if self.plan is None else self.plan.size
        return {name: sum(t.nbytes for t in types.values()) for name, types in kinds.items()} | {"the arena": arena}

    @cached_property
    def costs(self) -> Sequence[Cost]:
        """The bytes and operations of each launch."""
        return [launch_cost(kernels) for kernels in self.kernels]

    @cached_property
    def ledger(self) -> Ledger:
        """The bytes that every decision saves; found when asked for, which takes about half as long as lowering did."""
        if self.schedule is None or self.policy is None:
            return Ledger(0, 0, {}, self.decisions)
        with uncollected():
            return self._settled(self.schedule, self.policy)

    def _settled(self, schedule: Schedule, policy: SchedulePolicy) -> Ledger:
        traffic = Traffic(policy)
        start, decisions = settle(self.graph, schedule.groups(), self.buffers, self.decisions, policy, traffic)
        fused = sum(cost.bytes for cost in self.costs)
        steps = zip(self.passes, self.passes[1:], strict=False)
        changed = [(name, before) for (_, before), (name, after) in steps if name in STAGES and before is not after]
        moved = [unfused_bytes(self._without(name, before), policy, traffic) for name, before in changed] + [start]
        passes = {name: a - b for (name, _), a, b in zip(changed, moved, moved[1:], strict=False)}
        return Ledger(moved[0], fused, passes, decisions)

    def _without(self, stage: str, before: Graph) -> Graph:
        """The last graph without the pass ``stage``, which took ``before``, and later ones that are stages of fusion.

        Orders in memory change nothing that a kernel of one node moves; but copies for loops, and messages, follow from them.
        """
        follows = before.mesh is not None or any(n.op.kind in (Kind.LOOP, Kind.COLLECTIVE) for n in before.nodes)
        skip = () if follows else ("layout",)
        return run_passes(before, self.passing, self.orders, NONE, begin=stage, skip=skip)[0][-1][1]

    @cached_property
    def interface(self) -> Interface:
        """The inputs, outputs and state of a program of it."""
        return Interface.of(self.graph)


@dataclass(frozen=True)
class Ledger:
    """The bytes that fusion saves: the plan without it moves ``unfused``, the plan ``fused``.

    The difference is what ``passes`` save, by name, and what ``decisions`` do, each with its share.
    """

    unfused: int
    fused: int
    passes: Mapping[str, int]
    decisions: Sequence[Decision]

    @property
    def saved(self) -> int:
        """The sum of the entries."""
        return sum(self.passes.values()) + sum(d.saved for d in self.decisions if d.taken)


@dataclass(frozen=True)
class Interface:
    """The inputs, outputs and state of a program, by name.

    ``inputs`` and ``outputs``, and ``state``, which it reads or writes, with their types; ``copies`` says of what other state
    some is a copy; ``needed`` are the inputs that are read, ``updates`` the state that is written.
    """

    inputs: Mapping[str, TensorType]
    outputs: Mapping[str, TensorType]
    state: Mapping[str, TensorType]
    copies: Mapping[str, str]
    needed: Sequence[str]
    updates: Sequence[str]

    @staticmethod
    def of(graph: Graph) -> Interface:
        """The interface of a program whose last pass gave ``graph``."""
        read = {v.node.name for n in graph.nodes for v in n.inputs} | {v.node.name for v in graph.results()}
        sources = {op: {n.name: n.types[0] for n in graph.nodes if n.op.name == op} for op in ("input", "parameter")}
        return Interface(
            sources["input"],
            {name: v.type for name, v in graph.outputs.items()},
            sources["parameter"],
            {n.name: n.attrs["copy_of"] for n in graph.nodes if "copy_of" in n.attrs},
            [name for name in sources["input"] if name in read],
            list(graph.updates),
        )

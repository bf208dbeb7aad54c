"""The common part of all programs' compilation, before a target's: what a program says of itself when it is looked into."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from graphrt.ir import Graph
from graphrt.op import Order
from graphrt.passes.decision import Decision
from graphrt.schedule.kernel_ir import Kernel
from graphrt.schedule.memory import MemoryPlan
from graphrt.schedule.schedule import Schedule
from graphrt.types import TensorType


@dataclass(frozen=True)
class Lowering:
    """A graph after each pass, by name, then its schedule, kernels and memory plan, which the reference target has none of.

    ``orders`` are the memory orders of the state that existed before.
    """

    passes: Sequence[tuple[str, Graph]]
    decisions: Sequence[Decision]
    orders: Mapping[str, Order]
    schedule: Schedule | None = None
    kernels: Sequence[Sequence[Kernel]] = ()
    plan: MemoryPlan | None = None

    @property
    def built(self) -> Graph:
        """The graph as it was built."""
        return self.passes[0][1]

    @property
    def graph(self) -> Graph:
        """The graph after the last pass."""
        return self.passes[-1][1]

    @cached_property
    def interface(self) -> Interface:
        """The inputs, outputs and state of a program of it."""
        return Interface.of(self.graph)


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

"""The debug target: the cpu target with a kernel for each op, every access to memory checked, and a word on each new NaN.

It shows how little a backend is: what differs from another is said here, and nowhere else.
"""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from graphrt.errors import TargetError
from graphrt.ir import Graph, Node, Value
from graphrt.op import Order
from graphrt.passes.pipeline import PassPolicy
from graphrt.passes.stages import NONE
from graphrt.runtime.lowering import Interface, Lowering
from graphrt.runtime.program import Executable
from graphrt.runtime.state import State
from graphrt.schedule.group import Group
from graphrt.schedule.policy import SchedulePolicy
from graphrt.schedule.schedule import Place, Slot
from graphrt.targets.cpu.codegen import generate
from graphrt.targets.cpu.target import CpuExecutable, CpuTarget, compiled
from graphrt.targets.target import Settings, Target


def parse(name: str, settings: Settings) -> Target:
    """The target ``debug``."""
    return DebugTarget(name, settings)


class DebugTarget(CpuTarget):
    """The cpu target, unfused and checked."""

    def passes(self) -> PassPolicy:
        """The steps of loops are written out, so that one can be named."""
        return replace(super().passes(), loops=False)

    def schedule(self) -> SchedulePolicy:
        """A kernel for each op, and bytes of its own for each value."""
        return replace(super().schedule(), fusion=NONE)

    def find(self, graph: Graph, orders: Mapping[str, Order]) -> tuple[Executable, Interface] | None:
        """Finds nothing: a schedule is at hand when something goes wrong."""
        return None

    def build(self, lowering: Lowering) -> CpuExecutable:
        """Compiles the checked C of ``lowering``. Raises TargetError."""
        return DebugExecutable(lowering, self.settings.freeze)


class _Fault(ctypes.Structure):
    """``grt_fault`` of kernels/c/checked.h."""

    _fields_ = (("buffer", ctypes.c_char_p), ("index", ctypes.c_long), ("size", ctypes.c_long))


class DebugExecutable(CpuExecutable):
    """Runs one launch after the other, and looks at what each has done."""

    save = Executable.save  # refused: what goes wrong could not be named without the schedule

    def __init__(self, lowering: Lowering, freeze: bool) -> None:
        text, buffers = generate(lowering, freeze, checked=True)
        super().__init__(compiled(lowering, text, buffers), freeze, text)
        assert lowering.schedule is not None
        self._lowering, self._schedule = lowering, lowering.schedule

    def run(self, inputs: Mapping[str, Any], state: State, tensors: bool = False) -> dict[str, Any]:
        """Raises TargetError where a kernel reaches outside of a buffer; warns of an op that makes the first NaN."""
        with self._running(inputs, state) as outputs:
            read = self._reader(self._lowering, inputs, state, outputs)
            there = {("input", name) for name in inputs} | {("state", name) for name in state}
            given = {v: place for v, place in self._schedule.home.items() if (place.slot.space, place.slot.name) in there}
            nan = {v for v, place in given.items() if _has_nan(v, place, read)}
            for i, launch in enumerate(self._schedule.launches):
                self._library.graphrt_launch(i, self._table)
                for group in launch.groups:
                    self._check_bounds(group.nodes)
                    nan |= self._new_nan(group, nan, read)
            return outputs

    def _new_nan(self, group: Group, nan: set[Value], read: Callable[[Slot], np.ndarray]) -> set[Value]:
        """The results of ``group`` that have a NaN; warns of those if no input was among the values ``nan``."""
        found = set()
        for v in (*group.values(), *group.copies):
            if any(_has_nan(v, place, read) for place in self._schedule.stores.get((group, v), ())):
                if nan.isdisjoint(group.inputs):
                    warnings.warn(f"{v.node.where()}: {v.name} = {v.node.op.name}(...) has the first NaN", stacklevel=5)
                found.add(v)
        return found

    def _check_bounds(self, nodes: list[Node]) -> None:
        fault = _Fault()
        self._library.graphrt_fault(ctypes.byref(fault))
        if fault.buffer is not None:
            where, what = (nodes[0].where(), nodes[0].op.name) if nodes else ("a copy", "copy")
            raise TargetError(
                f"{where}: the kernel of {what} reaches for element {fault.index} of {fault.buffer.decode()}, which has "
                f"{fault.size}; this is a fault of graphrt"
            )


def _has_nan(value: Value, place: Place, read: Callable[[Slot], np.ndarray]) -> bool:
    """Whether ``value``, which lies at ``place``, has a NaN."""
    return value.dtype.is_float and bool(np.isnan(place.part(read(place.slot), value)).any())

"""A schedule: launches in order, and where each value lies."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from graphrt.index import Expr, linearize
from graphrt.ir import Graph, Value
from graphrt.schedule.concat_buffers import Start
from graphrt.schedule.group import Group, Index, Launch
from graphrt.types import TensorType


@dataclass(frozen=True)
class Slot:
    """A place for a tensor: in the arena, or the buffer of an input, a parameter (state) or an output, by name.

    A target may want a barrier, a number of its own that outlives a run.
    """

    space: str  # arena | input | state | output | barrier
    name: str
    type: TensorType

    def __hash__(self) -> int:
        return hash(self.name)


@dataclass(frozen=True)
class Place:
    """The place of a value: in ``slot``, with its element 0 at ``start``; empty where the value has the slot for itself."""

    slot: Slot
    start: Start = ()

    def offset(self, index: Index) -> Expr:
        """The offset in the slot, in elements, of the value's element at ``index``."""
        return linearize([e + n for e, n in zip(index, self.start or (0,) * len(index), strict=True)], self.slot.type.strides)

    def part(self, array: np.ndarray, value: Value) -> np.ndarray:
        """The elements of ``value`` in ``array``, what the slot holds in logical shape."""
        return array[tuple(slice(a, a + n) for a, n in zip(self.start, value.shape, strict=True))] if self.start else array


@dataclass
class Schedule:
    """Launches in order, the place each value is read from, and the places each group stores a value to.

    Views are looked through, but those that are ``buffered`` are read from their buffer.
    """

    graph: Graph
    launches: list[Launch]
    home: dict[Value, Place] = field(default_factory=dict)
    stores: dict[tuple[Group, Value], list[Place]] = field(default_factory=dict)
    buffered: set[Value] = field(default_factory=set)

    def groups(self) -> list[Group]:
        """The groups of all launches, in order."""
        return [g for launch in self.launches for g in launch.groups]

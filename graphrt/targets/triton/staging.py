"""The static places of a program's inputs, and how a batch gets there while the device is at work.

    NumPy array ──▶ pinned memory ──▶ slot                          one number ──▶ slot (as a kernel's argument)
    tensor of the device ───────────▶ slot
    prefetch:  either ──▶ staging memory, on a stream of its own;   a later call: staging ──▶ slot

Slots never move, so a captured graph reads them. Nothing waits for the device but a host that is two batches ahead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphrt.runtime.arrays import from_numpy, view
from graphrt.runtime.runnable import AHEAD
from graphrt.targets.triton.driver import Driver
from graphrt.types import TensorType

PINNED = 2  # sets of pinned buffers, used in turn


class Pinned:
    """Host memory for one batch, and an event that says when the device has taken it."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._buffers: dict[str, Any] = {}
        self._taken: Any = None

    def copy(
        self, values: Mapping[str, Any], slots: Mapping[str, Any], types: Mapping[str, TensorType], held: dict[str, bytes]
    ) -> None:
        """Copies ``values``, arrays or tensors, into ``slots``, on the current stream; ``held`` are numbers that are there."""
        arrays: dict[str, Any] = {}
        for name, value in values.items():
            if self._driver.owns(value):
                self._driver.copy(slots[name], value)
                held.pop(name, None)
            elif value.size != 1:
                arrays[name] = value
            elif held.get(name) != (number := value.tobytes()):
                slots[name].fill_(value.item())
                held[name] = number
        if not arrays:
            return
        if self._taken is not None:
            self._taken.synchronize()
        for name, array in arrays.items():
            if name not in self._buffers:
                self._buffers[name] = view(self._driver.pinned(types[name].nbytes), 0, types[name])
            self._buffers[name].copy_(from_numpy(array))
            self._driver.copy(slots[name], self._buffers[name])
        self._taken = self._driver.stream().record_event(self._taken)


class Staging:
    """Device memory for one batch that is on its way while another is computed."""

    def __init__(self, driver: Driver) -> None:
        self._driver, self._pinned = driver, Pinned(driver)
        self.tensors: dict[str, Any] = {}
        self._held: dict[str, bytes] = {}
        self.arrived: Any = None  # an event: the batch is here
        self.read: Any = None  # an event: it may be overwritten

    def bring(self, values: Mapping[str, Any], types: Mapping[str, TensorType]) -> None:
        """Copies ``values`` here, on the current stream."""
        for name in values.keys() - self.tensors.keys():
            self.tensors[name] = view(self._driver.allocate(types[name].nbytes), 0, types[name])
        if self.read is not None:
            self._driver.stream().wait_event(self.read)
        self._pinned.copy(values, self.tensors, types, self._held)
        self.arrived = self._driver.stream().record_event()


class Slots:
    """``slots``, tensors by name in logical shape, and the ways into them."""

    def __init__(self, driver: Driver, slots: Mapping[str, Any], types: Mapping[str, TensorType]) -> None:
        self._driver, self._slots, self._types = driver, slots, types
        self._held: dict[str, bytes] = {}
        self._pinned = [Pinned(driver) for _ in range(PINNED)]
        self._staging = [Staging(driver) for _ in range(AHEAD)]
        self._copies: Any = None  # the stream of prefetches
        self._turn = self._next = 0  # of the pinned memory, of the staging memory

    def fill(self, values: Mapping[str, Any], stream: Any) -> None:
        """Copies ``values`` into their slots on ``stream``, the current one. Inputs that nothing reads are left out."""
        values = {n: v for n, v in values.items() if n in self._slots}
        staged = self.staged(values)
        for s in staged:
            stream.wait_event(s.arrived)
        self._turn = (self._turn + 1) % PINNED
        self._pinned[self._turn].copy(values, self._slots, self._types, self._held)
        for s in staged:
            s.read = stream.record_event()
            for tensor in s.tensors.values():
                self._driver.keep(tensor, stream)

    def staged(self, values: Mapping[str, Any]) -> list[Staging]:
        """The places of those ``values`` that ``prefetch`` brought."""
        brought = self._staging if self._copies is not None else ()
        return [s for s in brought if any(v is s.tensors.get(n) for n, v in values.items())]

    def prefetch(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Starts copying ``values`` to staging memory; what is returned is for a later ``fill``, AHEAD later at most."""
        if self._copies is None:
            self._copies = self._driver.fork()
        values = {n: v for n, v in values.items() if n in self._slots}
        self._next = (self._next + 1) % AHEAD
        staging = self._staging[self._next]
        self._copies.wait_stream(self._driver.stream())  # where tensors of the device are made
        with self._driver.using(self._copies):
            staging.bring(values, self._types)
        return {n: staging.tensors[n] for n in values}

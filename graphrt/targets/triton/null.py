"""The driver of no GPU: everything but the launch.

Kernels are compiled for an architecture that need not be there; memory is the CPU's; copies are made; launches, capture and
replay are checked as a device would, and recorded. So outputs are zeros, or whatever a buffer held, and everything around the
kernels is what runs on a GPU.
"""

from __future__ import annotations

import bisect
import functools
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from graphrt.errors import TargetError
from graphrt.runtime.forking import TARGET, make_lock
from graphrt.targets.triton.collective import Call, CollectiveCall
from graphrt.targets.triton.driver import HostDriver, HostStream, Launch
from graphrt.targets.triton.kernel import KernelBinary
from graphrt.targets.triton.library import LibraryCall

ALIGNED = 16  # bytes, as compiled kernels assume
DESCRIPTOR = 128  # bytes of a tensor descriptor, and what its place in scratch memory is a multiple of
GRID = 2**31 - 1
# Bytes of shared memory that a block may have.
SHARED = {"cuda:sm_75": 64, "cuda:sm_80": 163, "cuda:sm_86": 99, "cuda:sm_89": 99, "cuda:sm_90": 227, "cuda:sm_100": 227}


@dataclass(frozen=True)
class Event:
    """An order that the driver was given, and the name or the size.

    One of allocate, place, load, launch, collective (with the bytes of its results), capture, replay, copy, clone, fetch, event
    (recorded), wait (for a stream or event); the last two with the name of the stream that does so, "" of the program's own.
    A launch that is ``dependent`` may begin before the one in front of it has ended.
    """

    kind: str
    name: str = ""
    size: int = 0
    dependent: bool = False


class NullStream(HostStream):
    """A stream of the null driver, which records what is asked of it by ``note``; ``name`` is empty of the program's own."""

    def __init__(self, note: Callable[[str, str], None], name: str = "") -> None:
        self._note, self.name = note, name

    def wait_event(self, event: Any) -> None:
        """Nothing is under way."""
        self._note("wait", self.name)

    def wait_stream(self, stream: Any) -> None:
        """Nothing is under way."""
        self._note("wait", self.name)

    def record_event(self, event: Any = None) -> Any:
        """An event that has happened."""
        self._note("event", self.name)
        return self


class NullDriver(HostDriver):
    """Stands in for a GPU of architecture ``target``."""

    where = "null"
    simulated = True

    def __init__(self, target: str) -> None:
        self.target, self.model = target, f"null {target}"
        self._starts: list[int] = []  # of live allocations, in order
        self._ends: dict[int, int] = {}
        self._lock = make_lock(TARGET)
        self._logs: list[list[Event]] = []
        self._stream = NullStream(self._note)

    @contextmanager
    def recorded(self) -> Iterator[list[Event]]:
        """A list that fills with what happens inside."""
        log: list[Event] = []
        self._logs.append(log)
        try:
            yield log
        finally:
            self._logs[:] = [other for other in self._logs if other is not log]

    def _note(self, kind: str, name: str = "", size: int = 0, dependent: bool = False) -> None:
        for log in self._logs:
            log.append(Event(kind, name, size, dependent))

    def fork(self) -> Any:
        """A stream that is told from the program's own."""
        return NullStream(self._note, "fork")

    # --- memory ---------------------------------------------------------------------------------------------------

    def allocate(self, size: int) -> Any:
        """CPU memory, known to the driver as long as the tensor lives."""
        self._note("allocate", size=size)
        return self._known(super().allocate(size))

    def place(self, flat: Any) -> Any:
        """Copies in CPU memory."""
        self._note("place", size=flat.nbytes)
        memory = self.allocate(max(flat.nbytes, 1))
        placed = memory[: flat.nbytes].view(flat.dtype)
        placed.copy_(flat)
        weakref.finalize(placed, lambda kept: None, memory)  # the allocation lives as long as the view
        return placed

    def _known(self, memory: Any) -> Any:
        start, size = memory.data_ptr(), memory.nbytes
        with self._lock:
            bisect.insort(self._starts, start)
            self._ends[start] = start + size
        weakref.finalize(memory, self._forget, start)
        return memory

    def _forget(self, start: int) -> None:
        with self._lock:
            self._starts.remove(start)
            del self._ends[start]

    def fetch(self, tensor: Any) -> Any:
        """Copies in CPU memory."""
        self._note("fetch", size=tensor.nbytes)
        return super().fetch(tensor)

    def copy(self, target: Any, source: Any) -> None:
        """In CPU memory."""
        self._note("copy", size=source.nbytes)
        super().copy(target, source)

    def clone(self, tensor: Any) -> Any:
        """In CPU memory, which is not the driver's."""
        self._note("clone", size=tensor.nbytes)
        return super().clone(tensor)

    def borrow(self, tensor: Any) -> None:
        """Its memory is live as long as the tensor is."""
        if tensor.data_ptr() not in self._ends:
            self._known(tensor)

    # --- kernels --------------------------------------------------------------------------------------------------

    def load(self, kernel: KernelBinary | Call) -> KernelBinary | Call:
        """Checks what a device would refuse."""
        if isinstance(kernel, Call):
            return kernel
        if kernel.target != self.target:
            raise TargetError(f"a kernel for {kernel.target} does not run on the null driver of {self.target}")
        limit = SHARED.get(self.target, 64) << 10
        if kernel.shared > limit or not 1 <= kernel.threads <= 1024:
            raise TargetError(
                f"{kernel.entry} wants {kernel.shared} bytes of shared memory and {kernel.threads} threads a block; "
                f"{self.target} has {limit} and 1024"
            )
        if not kernel.code.startswith(b"\x7fELF") or kernel.entry.encode() not in kernel.code:
            raise TargetError(f"the machine code of {kernel.entry} is damaged")
        self._note("load", kernel.entry, len(kernel.code))
        return kernel

    def bind(
        self, loaded: KernelBinary | Call, grid: int, buffers: Sequence[Any], scratch: Any, dependent: bool = False
    ) -> Launch:
        """A launch that checks its pointers whenever it is made."""
        spans = [(b.data_ptr(), b.nbytes) for b in buffers if b.nbytes]  # nobody reads an empty tensor
        if isinstance(loaded, LibraryCall):
            loaded.check(buffers)
            return self._launch(loaded.name, grid, spans)
        if isinstance(loaded, CollectiveCall):
            tensors = [v.of(buffers) for v in (*loaded.sources, *loaded.results)]
            return self._launch(str(loaded), sum(t.nbytes for t in tensors[len(loaded.sources) :]), spans, kind="collective")
        if dependent and not loaded.dependent:
            raise TargetError(f"{loaded.entry} begins before the launch in front has ended, and does not wait for it")
        if len(buffers) != loaded.pointers:
            raise TargetError(f"{loaded.entry} takes {loaded.pointers} pointers, got {len(buffers)}")
        if not 1 <= grid <= GRID:
            raise TargetError(f"{loaded.entry} is launched on {grid} blocks; a grid has 1 to {GRID}")
        if loaded.scratch:
            start = scratch.data_ptr() if scratch is not None else 0
            if start % DESCRIPTOR or loaded.scratch % DESCRIPTOR:
                raise TargetError(
                    f"{loaded.entry}: scratch memory at {start:#x}, {loaded.scratch} bytes a block, is not aligned"
                )
            spans.append((start, grid * loaded.scratch))
        return self._launch(loaded.entry, grid, spans, dependent)

    def _launch(
        self, name: str, grid: int, spans: Sequence[tuple[int, int]], dependent: bool = False, kind: str = "launch"
    ) -> Launch:
        def launch(stream: Any) -> None:
            for pointer, size in spans:
                self._check(name, pointer, size)
            self._note(kind, name, grid, dependent)

        return launch

    def _check(self, entry: str, pointer: int, size: int) -> None:
        if pointer % ALIGNED:
            raise TargetError(f"{entry}: pointer {pointer:#x} is not aligned to {ALIGNED} bytes")
        with self._lock:
            i = bisect.bisect_right(self._starts, pointer) - 1
            if i < 0 or pointer + size > self._ends[self._starts[i]]:
                raise TargetError(f"{entry}: {size} bytes at {pointer:#x} lie in no live allocation")

    # --- graphs ---------------------------------------------------------------------------------------------------

    def capture(self, launches: Sequence[Launch]) -> Callable[[], None]:
        """Replaying checks every pointer again and records one event."""
        graph = list(launches)
        self._note("capture", size=len(graph))

        def replay() -> None:
            with self._lock:
                logs, self._logs = self._logs, []
                try:
                    self.run(graph)
                finally:
                    self._logs = logs
            self._note("replay", size=len(graph))

        return replay


@functools.cache
def driver(target: str) -> NullDriver:
    """The null driver of ``target``, made once: programs that share a state share their device."""
    return NullDriver(target)

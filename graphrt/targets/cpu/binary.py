"""Runs a cpu program: a pointer table, one arena, one native call. It needs neither graph nor compiler."""

from __future__ import annotations

import bisect
import contextlib
import ctypes
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from graphrt.config import Flags
from graphrt.errors import OutOfMemoryError
from graphrt.runtime.arrays import from_numpy, view
from graphrt.runtime.exchange import Exchanges, Note, Place
from graphrt.runtime.pages import REMEDY, pages
from graphrt.runtime.runnable import Binary
from graphrt.runtime.state import State
from graphrt.schedule.memory import ALIGNMENT
from graphrt.targets.cpu.build import open_library
from graphrt.targets.cpu.results import Results
from graphrt.threads import in_threads
from graphrt.types import TensorType

_BYTE = ctypes.c_char
_SHARE = 64 << 20  # bytes of the arena that a thread touches at a time


def _arena(size: int) -> np.ndarray:
    """``size`` bytes with ALIGNMENT more on both sides. Raises OutOfMemoryError.

    The room around is for masked loads: GCC 12 may make a vector load and a blend of one whose mask it knows.
    """
    size = -(-size // ALIGNMENT) * ALIGNMENT + 2 * ALIGNMENT
    arena = pages(size, "between a program's launches")

    def touch(part: np.ndarray) -> None:
        part[::4096] = 0

    # Pages are made here and not in the first run, on all cores: the system fills them with zeros.
    in_threads(touch, np.array_split(arena, max(size // _SHARE, 1)))
    return arena


def _address(array: np.ndarray | None) -> int | None:
    if array is None:
        return None
    try:
        return ctypes.addressof(_BYTE.from_buffer(array))  # type: ignore[arg-type] # takes a quarter of what the interface does
    except (TypeError, ValueError):  # read only, not in the order of its dimensions, empty, or of a dtype that buffers lack
        return array.__array_interface__["data"][0]


def _unload(library: ctypes.CDLL, kept: ctypes.Array[ctypes.c_void_p], frozen: int) -> None:
    """Frees what a program has packed, and takes it out of the process, which may compile thousands."""
    library.grt_release(kept, frozen)
    with contextlib.suppress(ImportError):  # where there is none, as on Windows, it stays
        from _ctypes import dlclose

        dlclose(library._handle)


class CpuBinary(Binary):
    """A shared object, its arena of ``arena`` bytes and its pointer table: the arena, then ``entries`` as (space, name).

    ``outputs`` are the types of the results. The entry behind them points to ``frozen`` pointers: what the program has packed
    of parameters that stay as they are. With ``exchanges``, which the processes of a mesh make, it is run launch by launch, of
    which there are so many.
    """

    def __init__(
        self,
        path: Path,
        arena: int,
        entries: Iterable[tuple[str, str]],
        outputs: Mapping[str, TensorType],
        frozen: int = 0,
        runtime: Path | None = None,
        launches: int = 0,
        exchanges: Exchanges | None = None,
    ) -> None:
        self.launches, self.exchanges = launches, exchanges
        self.unwritten = 0  # launches that certainly write no state: so many of the first
        self.path, self.arena, self.entries, self.frozen = path, arena, list(entries), frozen
        self._library = open_library(path, runtime)
        self._memory = _arena(arena)
        self._table = (ctypes.c_void_p * (len(self.entries) + 2))()
        self._table[0] = self._memory.ctypes.data + ALIGNMENT
        self._kept = (ctypes.c_void_p * max(frozen, 1))()
        self._table[len(self.entries) + 1] = ctypes.addressof(self._kept)
        self._places: dict[str, list[tuple[int, str]]] = {"input": [], "state": [], "output": []}  # entry of the table, name
        for entry, (space, name) in enumerate(self.entries, 1):
            self._places[space].append((entry, name))
        self._seen = 0  # version of the state that was packed
        self._written: Collection[str] = ()  # the state that launches write
        self._bound: State | None = None  # the state whose addresses are in the table
        self._writes: list[tuple[int, int]] = []  # where state lies that runs write: start and end, in order, none touching
        self._apart: list[np.ndarray] = []  # copies of inputs that lay there
        # Not when the process ends, as is the default: a daemon thread may still be inside the program.
        weakref.finalize(self, _unload, self._library, self._kept, frozen).atexit = False
        self._poison = Flags.read().poison
        self._results = Results(outputs, self._poison)

    def attach(self, state: State, written: Collection[str] = ()) -> None:
        """Takes note of where ``written`` lies: a buffer never moves."""
        self._written = written
        spans = sorted((start, start + a.nbytes) for a in map(state.array, written) if (start := _address(a)) is not None)
        self._writes = []
        for start, end in spans:
            if self._writes and start <= self._writes[-1][1]:
                start, end = self._writes[-1][0], max(end, self._writes.pop()[1])
            self._writes.append((start, end))

    def _place(self, array: np.ndarray | None) -> int | None:
        """The address from which an input is read while state is written: its own, or that of a copy."""
        address = _address(array)
        if not self._writes or array is None or address is None:
            return address
        i = bisect.bisect_left(self._writes, (address + array.nbytes, 0)) - 1  # the last that starts before the array ends
        if i < 0 or self._writes[i][1] <= address:
            return address
        self._apart.append(array.copy(order="K"))
        return _address(self._apart[-1])

    def _bind(self, inputs: Mapping[str, Any], state: State) -> dict[str, np.ndarray]:
        outputs = self._results.take()
        if self._poison:
            self._memory[...] = 0xFF  # every float in it is NaN
        self._apart.clear()
        table = self._table
        for entry, name in self._places["input"]:
            table[entry] = self._place(inputs.get(name))
        for entry, name in self._places["output"]:
            table[entry] = _address(outputs[name])
        if self._bound is not state or state.away:  # a buffer never moves; those on a device are fetched
            for entry, name in self._places["state"]:
                table[entry] = _address(state.get(name))
        self._bound = state
        if self.frozen and self._seen != state.version:
            self._library.grt_release(self._kept, self.frozen)
            self._seen = state.version
        return outputs

    @contextmanager
    def _running(self, inputs: Mapping[str, Any], state: State) -> Iterator[dict[str, np.ndarray]]:
        """The results, in whose memory launches write in the block.

        No other program runs on ``state`` meanwhile; those of a GPU that share it see what the launches wrote.
        """
        with state.lock:
            outputs = self._bind(inputs, state)
            try:
                yield outputs
            finally:
                self._push(state)

    def _push(self, state: State) -> None:
        if state.away:
            state.push(name for _, name in self._places["state"])

    def run(self, inputs: Mapping[str, Any], state: State, tensors: bool = False) -> dict[str, Any]:
        """Runs every launch, in one native call where no other process is waited for; nobody else holds the results."""
        if self.exchanges is not None:
            with self._running(inputs, state) as outputs, self._stepping() as step:
                for number in range(self.launches):
                    step(number)
                return outputs
        with state.lock:  # as ``_running``, whose block costs two microseconds
            outputs = self._bind(inputs, state)
            try:
                if starved := self._library.graphrt_run(self._table):
                    self._starve(starved - 1)
            finally:
                self._push(state)
        return outputs

    def _starve(self, launch: int) -> None:
        """Raises OutOfMemoryError: there was none for ``launch``. State that has been written by then is marked."""
        if self._written and launch >= self.unwritten and self._bound is not None:
            self._bound.tear(self._written)
        raise OutOfMemoryError(f"no memory for what launch {launch} of {self.launches} needs while it runs; {REMEDY}")

    @contextmanager
    def _stepping(self, beside: bool = True, note: Note = lambda *times: None) -> Iterator[Callable[[int], None]]:
        """A function that runs a launch by its number; collectives run ``beside`` later ones, and are over behind the block,
        each told to ``note``."""

        def launch(number: int) -> None:
            if self._library.graphrt_launch(number, self._table):
                self._starve(number)

        if self.exchanges is None:
            yield launch
        else:
            with self.exchanges.running(self._view, launch, beside, note) as step:
                yield step

    def _view(self, place: Place) -> Any:
        """The tensor of torch in ``place``; those in the arena are of one storage."""
        entry, offset, type = place
        if entry == 0:
            return view(from_numpy(self._memory), ALIGNMENT + offset, type)
        memory = (ctypes.c_char * max(type.nbytes, 1)).from_address((self._table[entry] or 0) + offset)
        return view(from_numpy(np.frombuffer(memoryview(memory), np.uint8)), 0, type)

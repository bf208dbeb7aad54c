"""The cpu target: C, compiled by the system's compiler, one native call on the thread pool of the process."""

from __future__ import annotations

import bisect
import ctypes
import functools
import math
import pprint
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from graphrt.config import Flags
from graphrt.ir import Graph, Node
from graphrt.op import Order
from graphrt.passes.bucket_size import Pace
from graphrt.passes.decision import Decision
from graphrt.passes.partial import Segments
from graphrt.passes.pipeline import PassPolicy
from graphrt.passes.siblings import Times
from graphrt.runtime.exchange import Exchange, Exchanges
from graphrt.runtime.interruption import interruptible, launches
from graphrt.runtime.lowering import Interface, Lowering
from graphrt.runtime.machine import DataSheet, machine
from graphrt.runtime.profile import AWAITED, SENT, Span
from graphrt.runtime.program import Executable
from graphrt.runtime.runnable import Runnable
from graphrt.runtime.state import State
from graphrt.schedule.kernel_ir import CollectiveKernel, Kernel, PointwiseKernel, ReductionKernel, TemplateKernel
from graphrt.schedule.memory import ALIGNMENT, waits
from graphrt.schedule.policy import ROW_LIMIT, SchedulePolicy
from graphrt.schedule.schedule import Schedule, Slot
from graphrt.targets.cpu.binary import CpuBinary
from graphrt.targets.cpu.build import build, folder, pool, program_object, units
from graphrt.targets.cpu.codegen import Source, generate
from graphrt.targets.cpu.loop_ir import TASKS, decide
from graphrt.targets.cpu.printer import Buffers
from graphrt.targets.cpu.program_cache import CachedProgram, find, keep, key
from graphrt.targets.cpu.saved import load, save
from graphrt.targets.limits import check_counts
from graphrt.targets.target import Settings, Target

MOST_SPANS = 1 << 16  # that the runtime keeps of one run
BYTE, LAUNCH, FLOP = 1 / 20e9, 3e-6, 1 / 60e9  # seconds on any cpu, so that plans are the same on all
PACE = Pace(FLOP, BYTE, LAUNCH, 50e-6, 1 / 1.25e9)  # between processes: a message of TCP, ten gigabits a second
SEGMENT = 1024  # pixels of a segment at most
QUICK = 0.1  # seconds of a run that nobody need interrupt
PIXELS = 1365  # of a part of a weight gradient with 1x1 filters, at least: fewer take less time than the sum of one part more


def parse(name: str, settings: Settings) -> Target:
    """The target ``cpu``."""
    return CpuTarget(name, settings)


class CpuTarget(Target):
    """C, compiled by the system's compiler."""

    invariant = True

    def passes(self) -> PassPolicy:
        """Sibling convolutions stay apart: docs/cpu.md has the measurement."""
        invariant = self.settings.batch_invariant
        times = None if invariant else Times(None, BYTE, LAUNCH, (), product, self.settings.freeze)
        parts = _of_whole_batch(splits) if invariant else splits
        return PassPolicy(parts, segments, times, min_channels=12, loops=True, pace=PACE, columns=columns)

    def schedule(self) -> SchedulePolicy:
        """Templates have no whole tile at hand; rows are read again from cache by each pass, and their columns added up."""
        return SchedulePolicy(segments=TASKS, pace=PACE)

    def check(self, kernel: Kernel) -> None:
        """Templates count in 32 bits, all other kernels in 64 where they must."""
        if isinstance(kernel, TemplateKernel) and kernel.group.anchor is not None:
            check_counts(kernel, max(kernel.spec.extents(kernel.group.anchor).values()), "the loops of templates")

    def find(self, graph: Graph, orders: Mapping[str, Order]) -> tuple[Executable, Interface] | None:
        """The program that the cache has of ``graph``."""
        program = find(self._key(graph, orders))
        return None if program is None else (self._executable(program), program.interface)

    def build(self, lowering: Lowering) -> CpuExecutable:
        """Compiles the C of ``lowering``. Raises TargetError."""
        text, buffers = generate(lowering, self.settings.freeze, invariant=self.settings.batch_invariant)
        program = compiled(lowering, text, buffers)
        keep(self._key(lowering.built, lowering.orders), program)
        return CpuExecutable(program, self.settings.freeze, text, self.settings.batch_invariant)

    def load(self, folder: Path, manifest: Mapping[str, Any]) -> Runnable:
        """The saved program in ``folder``. Raises InputError, TargetError."""
        return load(folder, manifest) if manifest["target"] == self.name else self.refuse(folder, manifest)

    def _executable(self, program: CachedProgram) -> CpuExecutable:
        return CpuExecutable(program, self.settings.freeze, None, self.settings.batch_invariant)

    def _key(self, graph: Graph, orders: Mapping[str, Order]) -> str:
        """The key of the program of ``graph`` in the cache; empty where it is not to be looked for."""
        s = self.settings
        settings = s.freeze, s.bucket_bytes, s.batch_invariant, s.memory_limit
        return key(graph, orders, self.fusion, *settings) if Flags.read().known else ""


def compiled(lowering: Lowering, text: Source, buffers: Buffers) -> CachedProgram:
    """The program that the C compiler makes of ``text``. Raises TargetError."""
    assert lowering.plan is not None and lowering.schedule is not None
    object = build(text.units(units(len(text.kernels))), "program", text.fresh, [program_object()])
    entries, frozen = list(buffers.entries), len(buffers.frozen)
    return CachedProgram(
        lowering.interface,
        object.name,
        lowering.plan.size,
        entries,
        frozen,
        len(text.launches),
        _unwritten(lowering.schedule),
        exchanges(lowering, buffers),
    )


def exchanges(lowering: Lowering, buffers: Buffers) -> Exchanges | None:
    """The collectives of a program of several processes; None for one of one."""
    mesh, found = lowering.graph.mesh, list[Exchange]()
    if mesh is None or mesh.size == 1:
        return None
    over = waits(lowering.kernels)
    for number, launch in enumerate(lowering.kernels):
        for kernel in (k for k in launch if isinstance(k, CollectiveKernel)):
            sources = [(*buffers.place(r.slot, r.first), r.type) for r in kernel.sources]
            results = [(*buffers.place(r.slot, r.first), r.type) for r in kernel.results]
            found.append(Exchange(number, over[number], kernel.op, kernel.attrs, sources, results))
    return Exchanges(mesh, found)


def _unwritten(schedule: Schedule) -> int:
    """The number of launches before the first that writes state."""
    stores = schedule.stores.items()
    writers = {group for (group, _), places in stores if any(place.slot.space == "state" for place in places)}
    return next(
        (i for i, launch in enumerate(schedule.launches) if not writers.isdisjoint(launch.groups)), len(schedule.launches)
    )


def product(node: Node, m: int, n: int, k: int) -> float:
    """The predicted seconds of a product of matrices: what siblings share is in a cache, so one is a launch less than two."""
    return LAUNCH + 2 * math.prod(node.types[0].shape[:-2]) * m * n * k * FLOP


def splits(node: Node) -> int:
    """Parts that give two to a few dozen threads work, whatever their number: results do not depend on it."""
    x = node.inputs[-1].shape
    if node.op.template == "matmul":  # has its own threads over rows and columns
        return 0
    if node.op.template is not None:  # the weight gradient: parts of the batch, unless its blocks are tasks enough
        k, per_group, *window = node.types[0].shape
        blocks = -(-k // 64) * -(-per_group * math.prod(window) // 320)
        pixels = node.inputs[0].type.size // max(k, 1)
        # A task has several blocks where there are so many, and packs the input for all of them.
        more = min(4 * TASKS // blocks, pixels // PIXELS) if math.prod(window) == 1 else 0
        parts = min(max(-(-TASKS // blocks), more), x[0])
        return parts if parts > 1 else 0
    kept, size, dims = node.types[0].size, node.inputs[0].type.size, tuple(node.attrs["dims"])
    columns = dims[-1] < len(x) - 1 or len(dims) < dims[-1] - dims[0] + 1 or (len(x), dims[0]) == (4, 2)  # maybe channels last
    few = 1024 if columns else 64  # neighbouring columns are one task, a row that lies in one piece is a task of its own
    long = kept < few and size // max(kept, 1) >= 4096
    return next((s for s in (16, 8, 4, 2) if x[node.attrs["dims"][0]] % s == 0), 0) if long else 0


def _of_whole_batch(splits: Callable[[Node], int]) -> Callable[[Node], int]:
    """``splits`` of what folds the first dimension; an example's own sums stay whole, however many examples there are."""
    return lambda node: splits(node) if node.op.template is not None or 0 in node.attrs["dims"] else 0


def segments(node: Node, producer: Node | None) -> Segments | None:
    """Segments of pixels that stay in a core's cache, so that memory is read once for their sums and for their squares."""
    pixels = node.inputs[0].type.size // max(node.types[0].size, 1)
    length = math.gcd(pixels, SEGMENT)
    return Segments(length, behind=False) if length >= 64 and pixels >= 4 * SEGMENT and node.types[0].size < 1024 else None


def columns(rows: int, size: int) -> int:
    """Rows of a segment whose columns are added up where the rows are at hand: so many that there are a few tasks.

    What a cache holds anyway is as soon read again.
    """
    lengths = (n for n in range(64, 7, -1) if rows % n == 0 and rows >= TASKS * n)
    return next(lengths, 0) if size <= ROW_LIMIT and rows * size >= 1 << 14 else 0


class CpuExecutable(CpuBinary, Executable):
    """The binary of a program, which also knows its launches and its source ``text``, once that has been generated."""

    def __init__(self, program: CachedProgram, freeze: bool, text: Source | None = None, invariant: bool = False) -> None:
        self._program, self._freeze, self._text, self._invariant = program, freeze, text, invariant
        self._quick = False  # whether a run was seen to take no longer than QUICK
        path, outputs = folder() / program.object, program.interface.outputs
        launches, exchanges = program.launches, program.exchanges
        super().__init__(path, program.arena, program.entries, outputs, program.frozen, None, launches, exchanges)
        self.unwritten = program.unwritten

    def run(self, inputs: Mapping[str, Any], state: State, tensors: bool = False) -> dict[str, Any]:
        """Runs every launch; results are new arrays.

        Ctrl-C is heard between two launches, unless a run is over before that matters (``interruption.launches``).
        """
        if self._quick or not interruptible():
            return super().run(inputs, state, tensors)
        start = time.perf_counter()
        with self._running(inputs, state) as outputs, self._stepping() as step:
            for i in self._launches(state):
                step(i)
        self._quick = time.perf_counter() - start < QUICK
        return outputs

    def _launches(self, state: State) -> Iterator[int]:
        tear = functools.partial(state.tear, self._program.interface.updates)
        return launches(self._program.launches, self._program.unwritten, tear)

    def save(self, path: str | Path, program: Runnable) -> None:
        """Writes ``program``, whose executable this is, as the folder ``path``. Raises OSError."""
        save(path, self, program)

    def time(self, inputs: Mapping[str, Any], state: State) -> list[float]:
        """Runs launch by launch and returns the seconds of each."""
        seconds = list[float]()
        with self._running(inputs, state), self._stepping(beside=False) as step:
            for i in self._launches(state):
                start = time.perf_counter()
                step(i)
                seconds.append(time.perf_counter() - start)
        return seconds

    def spans(self, inputs: Mapping[str, Any], state: State) -> list[list[Span]]:
        """Runs once: for each launch when it ran, and when each thread was at work on it, by the runtime's clocks."""
        threads, noted = pool(), np.zeros((MOST_SPANS, 3), np.int64)
        sent = list[tuple[int, int, int, int]]()
        with self._running(inputs, state), self._stepping(note=lambda *times: sent.append(times)) as step:
            marks = [time.perf_counter_ns()]
            threads.grt_record(1)
            try:
                for i in self._launches(state):
                    step(i)
                    marks.append(time.perf_counter_ns())
            finally:
                threads.grt_record(0)
            noted = noted[: threads.grt_spans(noted.ctypes.data_as(ctypes.c_void_p), ctypes.c_long(MOST_SPANS))]
        found = [[Span(None, a, b)] for a, b in pairwise(n - marks[0] for n in marks)]
        for thread, start, end in noted.tolist():
            at = bisect.bisect_right(marks, start) - 1
            if at < len(found):
                found[at].append(Span(thread, start - marks[0], end - marks[0]))
        for launch, begun, waiting, end in sent:
            found[launch].append(Span(SENT, begun - marks[0], end - marks[0]))
            found[launch].append(Span(AWAITED, waiting - marks[0], end - marks[0]))
        return found

    def device(self) -> DataSheet:
        """This machine, as it was seen to copy and to multiply."""
        return machine()

    def steps(self, lowering: Lowering, inputs: Mapping[str, Any], state: State) -> Generator[Callable[[Slot], np.ndarray]]:
        """Runs once, launch by launch: before the first and behind each, what reads the place of a tensor as it is then."""
        with self._running(inputs, state) as outputs, self._stepping(beside=False) as step:
            read = self._reader(lowering, inputs, state, outputs)
            yield read
            for i in range(self._program.launches):
                step(i)
                yield read

    def _reader(
        self, lowering: Lowering, inputs: Mapping[str, Any], state: State, outputs: Mapping[str, Any]
    ) -> Callable[[Slot], np.ndarray]:
        """A function that reads the place of a tensor while a run is under way."""
        assert lowering.plan is not None
        offsets = lowering.plan.offset
        spaces: dict[str, Mapping[str, np.ndarray]] = {"input": inputs, "state": state, "output": outputs}

        def read(slot: Slot) -> np.ndarray:
            if slot.space != "arena":
                return spaces[slot.space][slot.name]
            strides = [s * slot.type.dtype.itemsize for s in slot.type.strides]
            return np.ndarray(slot.type.shape, slot.type.dtype.numpy, self._memory.data, ALIGNMENT + offsets[slot], strides)

        return read

    def source(self, lowering: Lowering, launch: int | None) -> str:
        """The generated C: of one launch, or all of it."""
        text = self._generated(lowering)
        return str(text) if launch is None else text.launch(launch)

    def stages(self, lowering: Lowering) -> dict[str, str]:
        """The loops of each kernel that has no template, and the C."""
        loops = [
            f"{kernel.group}\n{pprint.pformat(decide(kernel), width=128)}\n"
            for launch in lowering.kernels
            for kernel in launch
            if isinstance(kernel, PointwiseKernel | ReductionKernel)
        ]
        return {"loop_ir.txt": "\n".join(loops), "source.c": self.source(lowering, None)}

    def decisions(self, lowering: Lowering) -> list[Decision]:
        """The loops that compute each template, and what stood in the way of others."""
        return self._generated(lowering).decisions

    def configurations(self, lowering: Lowering) -> list[Decision]:
        """``decisions``: kernels have nothing else to choose."""
        return self.decisions(lowering)

    def _generated(self, lowering: Lowering) -> Source:
        if self._text is None:
            self._text = generate(lowering, self._freeze, invariant=self._invariant)[0]
        return self._text

"""Program: a compiled graph that is called like a function, and shows what it is; Executable: what a target makes of one."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from graphrt.errors import ArgumentError, TargetError
from graphrt.ir import Graph
from graphrt.passes.decision import Decision
from graphrt.passes.stages import Fusion
from graphrt.runtime.checking import Difference, check
from graphrt.runtime.explanation import Explanation
from graphrt.runtime.lowering import Interface, Lowering
from graphrt.runtime.machine import DataSheet, expected
from graphrt.runtime.profile import LaunchProfile, Profile, Span
from graphrt.runtime.report import write
from graphrt.runtime.runnable import Binary, Calling, Runnable
from graphrt.runtime.state import State
from graphrt.schedule.group import Launch
from graphrt.schedule.kernel_ir import Kernel
from graphrt.schedule.loops import plan_lines
from graphrt.schedule.memory import MemoryPlan
from graphrt.schedule.schedule import Schedule, Slot


class Executable(Binary, Protocol):
    """A schedule as a target built it."""

    def time(self, inputs: Mapping[str, Any], state: State) -> list[float]:
        """Runs once and returns the seconds of each launch."""

    def spans(self, inputs: Mapping[str, Any], state: State) -> list[list[Span]]:
        """Runs once and returns when each launch ran, and each thread was at work on it where that is known."""
        found, now = [], 0
        for seconds in self.time(inputs, state):
            found.append([Span(None, now, now := now + round(1e9 * seconds))])
        return found

    def device(self) -> DataSheet | None:
        """The machine by whose roofline launches are predicted; None where their times mean nothing."""
        return None

    def elapsed(self, inputs: Mapping[str, Any], state: State, runs: int) -> float:
        """The seconds that ``runs`` runs take, one behind the other."""
        start = time.perf_counter()
        for _ in range(runs):
            self.run(inputs, state)
        return time.perf_counter() - start

    def steps(self, lowering: Lowering, inputs: Mapping[str, Any], state: State) -> Generator[Callable[[Slot], np.ndarray]]:
        """Runs once, launch by launch: before the first and behind each, what reads the place of a tensor as it is then."""
        raise ArgumentError("this target's launches cannot be run one by one")

    def source(self, lowering: Lowering, launch: int | None) -> str:
        """Generated source of ``lowering``, of which this was built: of one launch, or all of it."""

    def stages(self, lowering: Lowering) -> Mapping[str, str]:
        """The target's own stages of ``lowering``, of which this was built, as text by file name: its source, at least."""
        return {"source.txt": self.source(lowering, None)}

    def configurations(self, lowering: Lowering) -> Sequence[Any]:
        """How each distinct kernel of ``lowering``, of which this was built, computes, in objects that print as lines."""
        return []

    def gaps(self, lowering: Lowering) -> Sequence[str]:
        """The gap that each launch of ``lowering``, of which this was built, begins with, of ``machine.GAPS``."""
        return ["launch"] * len(lowering.schedule.launches if lowering.schedule else ())

    def decisions(self, lowering: Lowering) -> Sequence[Decision]:
        """The choice of a template's variant for each contraction, pooling and the like of ``lowering``, with reasons."""
        return []

    def reports(self, program: Runnable) -> Sequence[Any]:
        """A report on each distinct kernel of ``program``, whose executable this is. Raises ArgumentError."""
        raise ArgumentError(f"the {program.target} target has no kernel reports; compile for one like cuda:sm_90")

    def work(self, program: Runnable) -> Sequence[Any]:
        """The work of each launch's compiled code (``machine.Work``), None where that is not known."""
        return []

    def save(self, path: str | Path, program: Runnable) -> None:
        """Writes ``program``, whose executable this is, as the folder ``path``. Raises TargetError, OSError."""
        raise TargetError(f"only programs of a cpu or a GPU can be saved; this one is of {program.target}")


@dataclass(frozen=True)
class Recipe:
    """How a program was made: with which stages of ``fusion``, and which ``arguments`` of ``compile`` it computes by.

    The arguments are plain data. ``again`` compiles a graph as this program was, but for the stages, on another state.
    """

    fusion: Fusion
    arguments: Mapping[str, Any]
    again: Callable[[Graph, Fusion, State], Program]


class Program(Runnable):
    """A compiled graph. Call it with inputs by name; it returns the outputs by name (a dict).

    A program of a graph that a front end built is called as the model was, and returns what the model did; inputs by name
    serve as well.
    """

    def __init__(
        self,
        built: Callable[[], Graph],
        target: str,
        executable: Executable,
        state: State,
        interface: Interface,
        lower: Callable[[], Lowering],
        calling: Calling,
        recipe: Recipe,
    ) -> None:
        """``built`` gives the graph, ``lower`` what the compiler made of it; one found in a cache makes both when asked."""
        super().__init__(target, interface.inputs, interface.outputs, state, executable, calling)
        self._built, self._executable, self._lower, self.compile_seconds = built, executable, lower, 0.0
        self.recipe, self.fusion = recipe, recipe.fusion

    def _about(self) -> str:
        return f"{super()._about()}, fusion={self.fusion}"

    def _where(self, name: str) -> str:
        return self.built.sources[name].where()

    def save(self, path: str | Path) -> None:
        """Writes the program and its state as a folder that ``graphrt.load`` runs without a compiler.

        One compiled for a GPU runs where there is such a GPU. A folder that is there already is overwritten. Raises
        TargetError for the targets interpret, debug and reference, OSError.
        """
        self._executable.save(path, self)

    # --- seeing inside --------------------------------------------------------------------------------------------

    @property
    def built(self) -> Graph:
        """The graph as it was built."""
        return self._built()

    @property
    def passes(self) -> Sequence[tuple[str, Graph]]:
        """The graph after each pass, by name."""
        return self._lower().passes

    @property
    def graph(self) -> Graph:
        """The graph after the last pass."""
        return self._lower().graph

    @property
    def decisions(self) -> Sequence[Decision]:
        """The decisions on what to fuse and merge, with reasons."""
        return self._lower().decisions

    @property
    def schedule(self) -> Schedule | None:
        """The launches, in order; None on the reference target."""
        return self._lower().schedule

    @property
    def kernel_ir(self) -> Sequence[Sequence[Kernel]]:
        """The kernels of each launch, free of any target."""
        return self._lower().kernels

    @property
    def plan(self) -> MemoryPlan | None:
        """The place of each value in the arena, and for how long; None on the reference target."""
        return self._lower().plan

    @property
    def launches(self) -> int:
        """Kernel launches of one run."""
        return len(self.schedule.launches) if self.schedule else 0

    def source(self, launch: int | None = None) -> str:
        """The generated code: of launch number ``launch``, or all of it."""
        if launch is not None and not 0 <= launch < self.launches:
            raise ArgumentError(f"launch must lie in 0..{self.launches - 1}, got {launch}")
        return self._executable.source(self._lower(), launch)

    def kernels(self) -> list[Any]:
        """A report on each distinct kernel of a program compiled ahead of time. Raises ArgumentError."""
        return list(self._executable.reports(self))

    def work(self) -> list[Any]:
        """The work of each launch's compiled code (``machine.Work``), None where that is not known. Compiles kernels."""
        return list(self._executable.work(self)) or [None] * self.launches

    def gaps(self) -> list[str]:
        """The gap that each launch begins with, of ``machine.GAPS``: where a GPU has several as one a barrier, or nothing."""
        return list(self._executable.gaps(self._lower()))

    def configurations(self) -> list[Any]:
        """How each distinct kernel computes: on a GPU its blocks, warps, and whether that was tuned, on the cpu the loops of a
        template and what stood in the way of others (``Decision``)."""
        return list(self._executable.configurations(self._lower()))

    def plan_text(self) -> str:
        """One line a group: its kernel, what it reads and writes, and why it ends where it does; under a loop its body's."""
        launches = zip(self.schedule.launches if self.schedule else (), self.kernel_ir, strict=True)
        return "".join(f"{line}\n" for launch, kernels in launches for line in plan_lines(launch, kernels))

    def memory(self) -> MemoryPlan | None:
        """The arena: offsets, lifetimes, its size beside the lower bound."""
        return self.plan

    def explain(self) -> Explanation:
        """Decisions with reasons: printed, a summary; ``full()``, ``why(a, b)``, ``refused()``, ``group(name)`` say more."""
        lowering = self._lower()
        chosen = self._executable.decisions(lowering)
        return Explanation(lowering, chosen, [c for c in self.configurations() if c not in chosen])

    def device(self) -> DataSheet | None:
        """The machine by whose roofline its launches are predicted; None where their times mean nothing."""
        return self._executable.device()

    def report(
        self, path: str | Path, profile: Profile | None = None, kernels: Sequence[Any] = (), title: str = "a program"
    ) -> None:
        """Writes one page of HTML that needs no network: launches with nodes, lines of yours, sources and verdicts; the ledger,
        roofline, arena, the IR after each pass, and compile times.

        Times of launches are those of ``profile``, where given, beside what they should take; registers and spills those of
        ``kernels``, which ``kernels()`` gives. Raises ArgumentError for the reference target, OSError.
        """
        if self.schedule is None:
            raise ArgumentError(f"the {self.target} target has no launches to report on")
        write(self, path, profile, kernels, self.device(), f"{title}, {self.target}")

    def profile(self, *args: Any, runs: int = 20, **inputs: Any) -> Profile:
        """Seconds of each launch over ``runs`` runs, with its flops and the bytes of its inputs and outputs.

        Prints as a table with median, percentiles, rates, shares, what bounds each launch and what it should take; and
        ``.trace("t.json")`` writes one run for Perfetto. On a cpu the roofline is this machine's, measured once a process.

        Inputs are given as in a call; state advances as in any run. On a GPU the runs are one captured graph with an event
        behind each launch, and where the program was never called a run that is not timed comes first. A launch without work
        takes 0 seconds. Raises ArgumentError, InputError.
        """
        if self.schedule is None:
            raise ArgumentError(f"the {self.target} target has no launches to profile")
        if runs < 1:
            raise ArgumentError(f"runs must be 1 or more, got {runs}")
        bound = self._bind(self._named(args, inputs))
        with self._running():
            times = np.array([self._executable.time(bound, self.state) for _ in range(runs)])
            spans = self._executable.spans(bound, self.state)
        device, found = self.device(), []
        percentiles = np.percentile(times, (50, 10, 90), axis=0).T.tolist()
        for launch, cost, (seconds, low, high) in zip(self.schedule.launches, self._lower().costs, percentiles, strict=True):
            predicted, limit = expected(cost, device) if device else (None, "")
            groups = tuple(Launch([group]).title() for group in launch.groups)
            row = LaunchProfile(launch.title(), seconds, cost.flops, cost.bytes, low, high, limit, predicted, groups)
            found.append(row)
        return Profile(found, spans, device.name if device else "")

    def check(self, *args: Any, **inputs: Any) -> Difference | None:
        """The first result of a launch that differs from what the reference makes of that launch's own inputs; None: all agree.

        Prints as a line with the launch, the value, the element furthest off, both numbers and the user's line. Inputs are
        given as in a call; state advances as in any run, up to the launch that differs. Raises ArgumentError, InputError.
        """
        if self.schedule is None:
            raise ArgumentError(f"the {self.target} target has no launches to check")
        bound = self._bind(self._named(args, inputs))
        with self._running(), closing(self._executable.steps(self._lower(), bound, self.state)) as steps:
            return check(self._lower(), steps)

    def elapsed(self, *args: Any, runs: int = 20, **inputs: Any) -> float:
        """Seconds of one run, as the mean of ``runs`` runs one behind the other.

        On a GPU these are one captured graph: what a call costs the host is not in it, nor the copies of inputs and outputs.
        Inputs are given as in a call; state advances as in any run. Raises ArgumentError, InputError.
        """
        if runs < 1:
            raise ArgumentError(f"runs must be 1 or more, got {runs}")
        bound = self._bind(self._named(args, inputs))
        with self._running():
            return self._executable.elapsed(bound, self.state, runs) / runs

"""Program: a compiled graph that is called like a function; Runnable: what it has in common with one loaded from a folder.

Calling it runs one plan over one arena. Results are new arrays each time, so a later call never overwrites them; parameters
are updated in the shared ``State``. The same inputs and state give the same bits, run after run, on one target.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from graphrt.errors import ArgumentError, InputError, TargetError
from graphrt.ir import Graph
from graphrt.passes.decision import Decision
from graphrt.runtime.arrays import from_numpy, to_numpy
from graphrt.runtime.explanation import Explanation
from graphrt.runtime.forking import PROGRAM, make_lock
from graphrt.runtime.lowering import Interface, Lowering
from graphrt.runtime.state import State
from graphrt.schedule.cost import launch_cost
from graphrt.schedule.kernel_ir import Kernel
from graphrt.schedule.memory import MemoryPlan
from graphrt.schedule.schedule import Schedule
from graphrt.types import TensorType

AHEAD = 2  # batches that prefetch may bring before they are used


class Binary(Protocol):
    """What runs. Those that work in host memory only leave all but ``run`` as it is here."""

    def run(self, inputs: Mapping[str, Any], state: State, tensors: bool = False) -> dict[str, Any]:
        """Runs every launch, reading ``inputs`` and ``state``, writing ``state``; returns the outputs.

        Inputs are arrays, or tensors that it ``takes``. With ``tensors`` the outputs are such tensors, else arrays.
        """

    def attach(self, state: State, written: Collection[str] = ()) -> None:
        """Makes ready to run with ``state``, of which it writes ``written``.

        On a GPU, whatever that holds for this program moves there for good.
        """
        return

    def takes(self, value: Any) -> bool:
        """Whether ``value`` is a tensor on the device where this runs, which need not pass through host memory."""
        return False

    def misplaced(self, value: Any) -> str:
        """Why a tensor lies where it cannot be read; empty where it can."""
        return ""

    def prefetch(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Starts to bring ``inputs`` to where the next run needs them; it is given what this returns."""
        return inputs


class Executable(Binary, Protocol):
    """What a target makes of a schedule."""

    def time(self, inputs: Mapping[str, Any], state: State) -> list[float]:
        """Runs once and returns the seconds of each launch."""

    def elapsed(self, inputs: Mapping[str, Any], state: State, runs: int) -> float:
        """The seconds that ``runs`` runs take, one behind the other."""
        start = time.perf_counter()
        for _ in range(runs):
            self.run(inputs, state)
        return time.perf_counter() - start

    def source(self, lowering: Lowering, launch: int | None) -> str:
        """Generated source of ``lowering``, of which this was built: of one launch, or all of it."""

    def configurations(self, lowering: Lowering) -> Sequence[Any]:
        """How each distinct kernel of ``lowering``, of which this was built, computes, in objects that print as lines."""
        return []

    def reports(self, program: Runnable) -> Sequence[Any]:
        """What the compiler made of each distinct kernel of ``program``, whose executable this is. Raises ArgumentError."""
        raise ArgumentError(f"the {program.target} target has no kernel reports; compile for one like cuda:sm_90")

    def work(self, program: Runnable) -> Sequence[Any]:
        """What the compiled code of each launch does (``roofline.Work``), None where that is not known."""
        return []

    def save(self, path: str | Path, program: Runnable) -> None:
        """Writes ``program``, whose executable this is, as the folder ``path``. Raises TargetError, OSError."""
        raise TargetError(f"only programs of a cpu or a GPU can be saved; this one is of {program.target}")


@dataclass(frozen=True)
class LaunchProfile:
    """Median time of one launch, and what it computes and moves."""

    name: str
    seconds: float
    flops: int
    bytes: int


class Runnable:
    """A program that can be called, whether compiled here or loaded. Call it with inputs by name.

    ``inputs`` and ``outputs`` are types by name; ``needed`` names the inputs that are read; ``unpack`` says how results are
    given back: dict, list or single; ``updates`` names the state that the program writes.
    """

    def __init__(
        self,
        target: str,
        inputs: Mapping[str, TensorType],
        outputs: Mapping[str, TensorType],
        state: State,
        binary: Binary,
        needed: Sequence[str],
        unpack: str = "dict",
        updates: Iterable[str] = (),
    ) -> None:
        self.target, self.inputs, self.outputs, self.state = target, dict(inputs), dict(outputs), state
        self._binary, self._needed, self._unpack, self._updates = binary, list(needed), unpack, frozenset(updates)
        binary.attach(state, self._updates)
        self._lock = make_lock(PROGRAM)
        self._ahead: deque[tuple[Mapping[str, Any], str]] = deque()  # inputs from prefetch, and their kind (_asked)

    def _where(self, name: str) -> str:
        """Where input ``name`` comes from, for messages."""
        return "a saved program"

    def __call__(self, *args: Any, **inputs: Any) -> Any:
        """Runs once. Inputs by name, as arrays, torch tensors, numbers or lists of numbers; one dict also serves (odd names).

        Numbers and lists become the input's dtype; arrays and tensors must have it: nothing is converted behind one's back.

        Arrays are read in place when they have the input's dtype, lie densely in its order and apart from the state that
        the program writes: those that do not are copied first, and none is ever written. Tensors of the GPU on which
        the program runs stay there, and so do the results, which are ready when torch's current stream is; results are
        torch tensors where an input is one. Inputs given to ``prefetch`` may be left out. Raises InputError.
        """
        inputs = self._named(args, inputs)
        with self._lock:
            ahead, kind = self._ahead[0] if self._ahead else ({}, "")
            bound, kind = {**ahead, **self._bind(inputs, ahead)}, max(kind, self._asked(inputs))
            if self._ahead:
                self._ahead.popleft()
            results = self._binary.run(bound, self.state, kind == "device")
            self.state.wrote(self._updates)
        if kind == "cpu":
            results = {name: from_numpy(a) for name, a in results.items()}
        return self._given(results, inputs)

    def prefetch(self, *args: Any, **inputs: Any) -> None:
        """Starts copying inputs, as a call takes them, to the device while the work of other calls is under way.

        Calls take what was prefetched in that order, and use it where they are not given other inputs. Two batches may
        be on their way: prefetch(first); then for each, prefetch(the next) and call. The arrays must stay as they are until
        the call. Raises InputError, also for a third batch.
        """
        inputs = self._named(args, inputs)
        with self._lock:
            if len(self._ahead) == AHEAD:
                raise InputError(f"{AHEAD} prefetched batches wait already; call the program before the next prefetch")
            bound = self._bind(inputs, self.inputs)
            self._ahead.append((self._binary.prefetch(bound), self._asked(inputs)))

    def forget(self) -> None:
        """Drops the batches that were prefetched and not used."""
        with self._lock:
            self._ahead.clear()

    def _asked(self, inputs: Mapping[str, Any]) -> str:
        """What results should be: tensors on the program's ``device``, torch tensors on the ``cpu``, or ("") arrays."""
        tensors = [v for v in inputs.values() if type(v).__module__.split(".")[0] == "torch"]
        return ("device" if any(map(self._binary.takes, tensors)) else "cpu") if tensors else ""

    def _named(self, args: Sequence[Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a call as inputs by name."""
        if len(args) > 1 or (args and not isinstance(args[0], Mapping)):
            raise InputError("inputs are passed by name: program(x=..., y=...) or program({'x': ...})")
        return {**(args[0] if args else {}), **inputs}

    def _given(self, results: dict[str, Any], inputs: Mapping[str, Any]) -> Any:
        """What a call with ``inputs`` returns."""
        if self._unpack == "dict":
            return results
        values = list(results.values())
        return values[0] if self._unpack == "single" else values

    def _bind(self, inputs: Mapping[str, Any], ahead: Container[str] = ()) -> dict[str, Any]:
        """The inputs as the binary takes them; those of ``ahead`` need not be among them."""
        unknown = inputs.keys() - self.inputs.keys()
        if unknown:
            raise InputError(f"no input {', '.join(map(repr, sorted(unknown)))}; the inputs are {self._signature()}")
        missing = [n for n in self._needed if n not in inputs and n not in ahead]
        if missing:
            names, where = ", ".join(map(repr, missing)), self._where(missing[0])
            raise InputError(f"missing input {names} (defined at {where}); the inputs are {self._signature()}")
        return {name: self._array(name, value) for name, value in inputs.items()}

    def _array(self, name: str, value: Any) -> Any:
        type = self.inputs[name]
        if self._binary.takes(value):
            return self._tensor(name, value)
        if misplaced := self._binary.misplaced(value):
            raise InputError(f"{self._described(name)}, got a tensor that {misplaced}")
        try:
            plain = isinstance(value, bool | int | float | np.generic | list | tuple)
            array = _converted(value, type) if plain else to_numpy(value)
        except (TypeError, ValueError, OverflowError, RuntimeError) as error:
            raise InputError(f"{self._described(name)}; {value!r} does not fit: {error}") from None
        if array.shape != type.shape:
            raise InputError(f"{self._described(name)}, got shape {list(array.shape)}")
        if array.dtype != type.dtype.numpy:
            convert = f"convert it first, an array with .astype({type.dtype.name!r})"
            raise InputError(f"{self._described(name)}, got {array.dtype}; {convert}")
        if type.order is None:
            return np.ascontiguousarray(array).reshape(type.shape)
        return np.ascontiguousarray(array.transpose(type.order)).transpose(np.argsort(type.order))

    def _tensor(self, name: str, value: Any) -> Any:
        """A tensor of the program's device, in any memory order."""
        type = self.inputs[name]
        if "strided" not in str(value.layout):
            raise InputError(f"{self._described(name)}; a tensor of layout {value.layout} has no dense memory")
        if tuple(value.shape) != type.shape:
            raise InputError(f"{self._described(name)}, got shape {list(value.shape)}")
        if str(value.dtype) != f"torch.{type.dtype.name}":
            raise InputError(f"{self._described(name)}, got {value.dtype}; convert it first, with .to(torch.{type.dtype.name})")
        return value.detach()

    def _described(self, name: str) -> str:
        return f"input {name!r} is {self.inputs[name]} ({self._where(name)})"

    def _signature(self) -> str:
        return ", ".join(f"{n} : {t}" for n, t in self.inputs.items()) or "none"


class Program(Runnable):
    """A compiled graph. Call it with inputs by name; it returns the outputs by name (a dict).

    A program of a graph that a front end built is called as the model was, and returns what the model did; inputs by name
    serve as well.
    """

    def __init__(
        self,
        built: Graph,
        target: str,
        executable: Executable,
        state: State,
        interface: Interface,
        lower: Callable[[], Lowering],
        unpack: str = "dict",
        seconds: float = 0.0,
    ) -> None:
        """``lower`` gives what the compiler made of the graph ``built``; a program found in a cache makes that when asked."""
        inputs, outputs = interface.inputs, interface.outputs
        super().__init__(target, inputs, outputs, state, executable, interface.needed, unpack, interface.updates)
        self.built, self._executable, self._lower, self.compile_seconds = built, executable, lower, seconds

    def _named(self, args: Sequence[Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
        signature = self.built.signature
        by_name = args[0] if len(args) == 1 and isinstance(args[0], Mapping) and not inputs else inputs
        if signature is None or (by_name.keys() <= self.inputs.keys() and (by_name is not inputs or not args)):
            return super()._named(args, inputs)
        return signature.bind(args, inputs)

    def _given(self, results: dict[str, Any], inputs: Mapping[str, Any]) -> Any:
        signature = self.built.signature
        if signature is None or self._unpack != "dict" or [*signature.outputs] != [*results]:
            return super()._given(results, inputs)  # values that the user asked for by name
        return signature.result(results, inputs)

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
    def passes(self) -> Sequence[tuple[str, Graph]]:
        """The graph after each pass, by name."""
        return self._lower().passes

    @property
    def graph(self) -> Graph:
        """The graph after the last pass."""
        return self._lower().graph

    @property
    def decisions(self) -> Sequence[Decision]:
        """What was fused, merged and refused, with reasons."""
        return self._lower().decisions

    @property
    def schedule(self) -> Schedule | None:
        """The launches, in order; None on the reference target."""
        return self._lower().schedule

    @property
    def kernel_ir(self) -> Sequence[Sequence[Kernel]]:
        """What each launch computes, free of any target."""
        return self._lower().kernels

    @property
    def plan(self) -> MemoryPlan | None:
        """Where each value lies in the arena, and for how long; None on the reference target."""
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
        """What the compiler made of each distinct kernel, for a program compiled ahead of time. Raises ArgumentError."""
        return list(self._executable.reports(self))

    def work(self) -> list[Any]:
        """What the compiled code of each launch does (``roofline.Work``), None where that is not known. Compiles kernels."""
        return list(self._executable.work(self)) or [None] * self.launches

    def configurations(self) -> list[Any]:
        """How each distinct kernel computes: on a GPU its blocks, warps, and whether that was tuned, on the cpu the loops of a
        template and what stood in the way of others (``Decision``)."""
        return list(self._executable.configurations(self._lower()))

    def plan_text(self) -> str:
        """One line a group: its kernel, what it reads and writes, and why it ends where it does."""
        return "\n".join(map(str, self.schedule.launches)) + "\n" if self.schedule else ""

    def memory(self) -> MemoryPlan | None:
        """The arena: offsets, lifetimes, its size beside the lower bound."""
        return self.plan

    def explain(self) -> Explanation:
        """What was decided and why: printed, a summary; ``full()``, ``why(a, b)``, ``refused()``, ``group(name)`` say more."""
        return Explanation(self._lower(), self.configurations())

    def profile(self, *args: Any, runs: int = 20, **inputs: Any) -> list[LaunchProfile]:
        """Median seconds of each launch over ``runs`` runs, with its flops and the bytes of its inputs and outputs.

        Inputs are given as in a call; state advances as in any run. On a GPU the runs are one captured graph with an event
        behind each launch, and where the program was never called a run that is not timed comes first. A launch without work
        takes 0 seconds. Raises ArgumentError, InputError.
        """
        if self.schedule is None:
            raise ArgumentError(f"the {self.target} target has no launches to profile")
        if runs < 1:
            raise ArgumentError(f"runs must be 1 or more, got {runs}")
        bound = self._bind(self._named(args, inputs))
        with self._lock:
            times = np.array([self._executable.time(bound, self.state) for _ in range(runs)])
            self.state.wrote(self._updates)
        found = []
        rows = zip(self.schedule.launches, self.kernel_ir, np.median(times, axis=0), strict=True)
        for launch, kernels, seconds in rows:
            cost = launch_cost(kernels)
            found.append(LaunchProfile(launch.title(), float(seconds), cost.flops, cost.bytes))
        return found

    def elapsed(self, *args: Any, runs: int = 20, **inputs: Any) -> float:
        """Seconds of one run, as the mean of ``runs`` runs one behind the other.

        On a GPU these are one captured graph: what a call costs the host is not in it, nor the copies of inputs and outputs.
        Inputs are given as in a call; state advances as in any run. Raises ArgumentError, InputError.
        """
        if runs < 1:
            raise ArgumentError(f"runs must be 1 or more, got {runs}")
        bound = self._bind(self._named(args, inputs))
        with self._lock:
            seconds = self._executable.elapsed(bound, self.state, runs)
            self.state.wrote(self._updates)
        return seconds / runs


def _converted(value: Any, type: TensorType) -> np.ndarray:
    """A number, or a list of them, which has no dtype of its own, as an array.

    Raises ValueError, OverflowError where the dtype does not hold it.
    """
    given = np.asarray(value)
    if given.dtype.kind not in "biuf" and given.dtype != type.dtype.numpy:
        raise ValueError(f"these are no numbers but {given.dtype}")
    array = np.asarray(value, type.dtype.numpy) if given.ndim == 0 else given.astype(type.dtype.numpy)
    if not type.dtype.is_float and not np.array_equal(array, given):
        raise ValueError(f"{type.dtype} does not hold it")
    return array

"""Executables of the Triton targets: compiled, and bound to a driver where there is one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from graphrt.errors import TargetError
from graphrt.passes.decision import Decision
from graphrt.runtime.arrays import to_numpy
from graphrt.runtime.lowering import Lowering
from graphrt.runtime.machine import DATA_SHEETS, DataSheet, Work
from graphrt.runtime.program import Executable
from graphrt.runtime.runnable import Runnable
from graphrt.runtime.state import State
from graphrt.schedule.schedule import Slot
from graphrt.targets.triton.binary import DeviceBinary
from graphrt.targets.triton.compilation import Compilation
from graphrt.targets.triton.driver import Driver
from graphrt.targets.triton.image import Buffer, Image
from graphrt.targets.triton.report import KernelReport, reports, works
from graphrt.targets.triton.tune.tuner import Configuration


class TritonExecutable(DeviceBinary, Executable):
    """The binary of a compilation on the device of ``driver``, which also knows its source."""

    def __init__(self, lowering: Lowering, compilation: Compilation, driver: Driver) -> None:
        self._compilation = compilation
        super().__init__(compilation.image, driver, {name: v.type for name, v in lowering.graph.outputs.items()})

    @functools.cached_property
    def _apart(self) -> tuple[Image, Sequence[Any]]:
        image = self._compilation.apart
        return image, self._kernels if image is self.image else [self._driver.load(kernel) for kernel in image.kernels]

    def _alone(self) -> tuple[Image, Sequence[Any]]:
        """The image, and its loaded kernels, in which each launch of the schedule that has work is one."""
        return self._apart

    def time(self, inputs: Mapping[str, Any], state: State) -> list[float]:
        """Runs once and returns the seconds of each launch: none of one that has no work, which the image leaves out.

        Each runs by itself, also those that a call joins.
        """
        seconds = iter(super().time(inputs, state))
        return [next(seconds) if code.grid else 0.0 for code in self._compilation.codes]

    def steps(self, lowering: Lowering, inputs: Mapping[str, Any], state: State) -> Generator[Callable[[Slot], np.ndarray]]:
        """Runs once, launch by launch: before the first and behind each, what reads the place of a tensor as it is then."""
        assert lowering.plan is not None
        offsets = {("arena", slot.name): at for slot, at in lowering.plan.offset.items()}
        offsets |= {
            (b.space, b.name): b.offset for launch in self._apart[0].launches for b in launch.buffers if b.space != "arena"
        }
        runs = self.one_by_one(inputs, state)
        fetch = next(runs)

        def read(slot: Slot) -> np.ndarray:
            return to_numpy(fetch(Buffer(slot.space, slot.name, slot.type, offsets.get((slot.space, slot.name), 0))))

        yield read
        for code in self._compilation.codes:
            if code.grid:  # the image leaves out what has no work
                next(runs)
            yield read
        for _ in runs:
            pass

    def source(self, lowering: Lowering, launch: int | None) -> str:
        """Generated source: of one launch, or all of it."""
        return self._compilation.source(launch)

    def stages(self, lowering: Lowering) -> dict[str, str]:
        """The Triton source."""
        return {"source.py": self._compilation.source(None)}

    def gaps(self, lowering: Lowering) -> list[str]:
        """The gap that each launch begins with: those that are joined with a barrier, or beside others."""
        return self._compilation.gaps()

    def decisions(self, lowering: Lowering) -> list[Decision]:
        """The form and tile of each template, and what others should take; the launches that are joined."""
        return self._compilation.decisions()

    def configurations(self, lowering: Lowering) -> list[Configuration]:
        """The launch of each distinct kernel, and who says so."""
        return self._compilation.configurations


class GpuExecutable(TritonExecutable):
    """The executable of compiled kernels, which can be read and saved."""

    def device(self) -> DataSheet | None:
        """The data sheet of the GPU, or of one of its architecture."""
        driver = self._driver
        found = [d for d in DATA_SHEETS if d.arch == driver.target.split(":")[1]]
        return next((d for d in found if d.name in driver.model), found[0] if found and not driver.simulated else None)

    def reports(self, program: Runnable) -> list[KernelReport]:
        """Compiles every distinct kernel that has work, in the order of their first launches, and reads the results."""
        return reports(self._compilation)

    def work(self, program: Runnable) -> list[Work | None]:
        """The work of each launch's compiled code; None where that is not known."""
        return works(self._compilation)

    def save(self, path: str | Path, program: Runnable) -> None:
        """Writes ``program``, whose executable this is, as the folder ``path``. Raises TargetError, OSError."""
        self._compilation.save(path, program)


class AheadExecutable(Executable):
    """A program compiled for an absent GPU: it can be read, reported on and saved, not run.

    The compiler's result tells a good kernel from a bad one: registers, spilled bytes, shared memory and instructions (tensor
    cores, 128-bit accesses).
    """

    def __init__(self, target: str, compilation: Compilation) -> None:
        self._target, self._compilation = target, compilation

    def device(self) -> DataSheet | None:
        """The first data sheet of the architecture."""
        return next((d for d in DATA_SHEETS if d.arch == self._target.split(":")[1]), None)

    def reports(self, program: Runnable) -> list[KernelReport]:
        """Compiles every distinct kernel that has work, in the order of their first launches, and reads the results."""
        return reports(self._compilation)

    def work(self, program: Runnable) -> list[Work | None]:
        """The work of each launch's compiled code; None where that is not known."""
        return works(self._compilation)

    def gaps(self, lowering: Lowering) -> list[str]:
        """The gap that each launch begins with: those that are joined with a barrier, or beside others."""
        return self._compilation.gaps()

    def decisions(self, lowering: Lowering) -> list[Decision]:
        """The form and tile of each template, and what others should take; the launches that are joined."""
        return self._compilation.decisions()

    def configurations(self, lowering: Lowering) -> list[Configuration]:
        """The kernels that a library computes; how others are launched is known where the GPU is."""
        return self._compilation.configurations

    def prepared(self, tune: int = 0, share: float = 0.0, most: int | None = None) -> list[str]:
        """Fills the cache with all kernels, and those that tuning at level ``tune`` tries, for a machine that has the GPU.

        Tuning tries ``most`` candidates of each kernel whose launches take at least ``share`` of the predicted time. Returns
        the kernels' keys. Raises ArgumentError for an architecture without a data sheet.
        """
        return self._compilation.prepared(tune, share, most)

    def run(self, inputs: Mapping[str, Any], state: State, tensors: bool = False) -> dict[str, Any]:
        """Raises TargetError: the GPU is not here."""
        raise TargetError(f"a program compiled ahead of time for {self._target} cannot run on this machine")

    def time(self, inputs: Mapping[str, Any], state: State) -> list[float]:
        """Raises TargetError: the GPU is not here."""
        self.run(inputs, state)
        return []

    def source(self, lowering: Lowering, launch: int | None) -> str:
        """Generated source: of one launch, or all of it."""
        return self._compilation.source(launch)

    def stages(self, lowering: Lowering) -> dict[str, str]:
        """The Triton source."""
        return {"source.py": self._compilation.source(None)}

    def save(self, path: str | Path, program: Runnable) -> None:
        """Writes ``program``, whose executable this is, as the folder ``path``. Raises TargetError, OSError."""
        self._compilation.save(path, program)

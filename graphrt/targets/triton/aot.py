"""Ahead-of-time compilation: every Triton kernel of a program for a GPU this machine does not have.

Nothing is launched. The compiler's result is read instead: registers, spilled bytes, shared memory and the instructions that
tell a good kernel from a bad one (tensor cores, 128-bit accesses). ``graphrt.compile(..., target="cuda:sm_90")`` builds it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from graphrt.errors import TargetError
from graphrt.runtime.program import Binary, Runnable
from graphrt.runtime.state import State
from graphrt.schedule.kernel_ir import Kernel
from graphrt.schedule.memory import MemoryPlan
from graphrt.schedule.order import Schedule
from graphrt.targets.triton.build import gpu_target
from graphrt.targets.triton.compilation import Compilation
from graphrt.targets.triton.device import compiles
from graphrt.targets.triton.report import KernelReport, reports
from graphrt.targets.triton.tune import Configuration

ARCHITECTURES = ("cuda:sm_80", "cuda:sm_90", "hip:gfx942")


class AheadExecutable(Binary):
    """A program compiled for an absent GPU: it can be read, reported on and saved, not run."""

    def __init__(
        self,
        target: str,
        schedule: Schedule,
        kernels: Sequence[Sequence[Kernel]],
        plan: MemoryPlan,
        library: str = "never",
    ) -> None:
        compiles(target)
        gpu_target(target)
        self._target, self._compilation = target, Compilation(target, schedule, kernels, plan, library=library)

    def reports(self) -> list[KernelReport]:
        """Compiles every distinct kernel that has work, in the order of their first launches, and reads the results."""
        return reports(self._compilation)

    def configurations(self) -> list[Configuration]:
        """What a library computes; how kernels are launched is known where the GPU is."""
        return self._compilation.configurations

    def run(self, inputs: Mapping[str, Any], state: State, tensors: bool = False) -> dict[str, Any]:
        raise TargetError(f"a program compiled ahead of time for {self._target} cannot run on this machine")

    def time(self, inputs: Mapping[str, Any], state: State) -> list[float]:
        self.run(inputs, state)
        return []

    def source(self, launch: int | None) -> str:
        return self._compilation.source(launch)

    def save(self, path: str | Path, program: Runnable) -> None:
        """Writes ``program``, whose executable this is, as the folder ``path``. Raises TargetError, OSError."""
        self._compilation.save(path, program)

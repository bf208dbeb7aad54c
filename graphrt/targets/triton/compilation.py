"""The generated code of a program for one target, and what compiling it gives: an image that a driver runs."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from graphrt.runtime.program import Runnable
from graphrt.schedule.kernel_ir import Kernel
from graphrt.schedule.memory import MemoryPlan
from graphrt.schedule.order import Schedule
from graphrt.targets.triton.build import build
from graphrt.targets.triton.codegen import generate
from graphrt.targets.triton.device import architecture, units
from graphrt.targets.triton.driver import Driver
from graphrt.targets.triton.image import Image, make_image
from graphrt.targets.triton.interpret import JitKernel
from graphrt.targets.triton.module import resolve, write_module
from graphrt.targets.triton.saved import save
from graphrt.targets.triton.tune import Tuner, configurations


class Compilation:
    """A schedule as Triton code; kernels are compiled when the image is asked for.

    With a ``driver`` kernels are launched as tuning at level ``tune`` says (``tune``), else as the heuristics do. ``library``
    says which contractions are left to one (``library``).
    """

    def __init__(
        self,
        target: str,
        schedule: Schedule,
        kernels: Sequence[Sequence[Kernel]],
        plan: MemoryPlan,
        driver: Driver | None = None,
        tune: int = 0,
        library: str = "never",
    ) -> None:
        self.architecture, self._plan = architecture(target), plan
        self.launches, self.kernels = schedule.launches, kernels
        self._interpret = target == "interpret"
        arch = self.architecture.split(":")[1]
        self.text, self.codes = generate(schedule, kernels, self._interpret, arch, units(target), library)
        self.module = write_module(self.text)
        self.configurations = configurations([code for code in self.codes if code.call is not None or code.kept])
        if driver is not None and not self._interpret:
            self.codes, self.configurations = Tuner(driver, schedule, kernels, self.module).configure(self.codes, tune)

    @functools.cached_property
    def image(self) -> Image:
        """The program as a driver runs it. Raises TargetError for what does not compile."""
        working = [code for code in self.codes if code.grid]
        if self._interpret:
            kernels: list[Any] = [code.call or JitKernel(*resolve(code, self.module)) for code in working]
            return make_image(working, kernels, range(len(working)), self._plan)
        return make_image(working, *build(working, self.module, self.architecture), self._plan)

    def source(self, launch: int | None) -> str:
        """Generated source: of one launch, or all of it."""
        return self.text if launch is None else "\n".join(self.codes[launch].text)

    def save(self, path: str | Path, program: Runnable) -> None:
        """Writes ``program`` as the folder ``path``. Raises OSError."""
        save(path, self.image, self.architecture, program)

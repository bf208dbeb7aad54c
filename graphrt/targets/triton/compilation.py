"""The generated code of a program for one GPU, and what compiling it gives: an image that a driver runs."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from graphrt.passes.decision import Decision
from graphrt.runtime.lowering import Lowering
from graphrt.runtime.machine import find_data_sheet
from graphrt.runtime.runnable import Runnable
from graphrt.schedule.memory import waits
from graphrt.targets.triton.compile.build import build, prepare, unfit
from graphrt.targets.triton.driver import Driver
from graphrt.targets.triton.emit.codegen import generate
from graphrt.targets.triton.emit.launch import LaunchCode
from graphrt.targets.triton.emit.module import resolve, write_module
from graphrt.targets.triton.emit.options import Options
from graphrt.targets.triton.emit.persistent import Run, joined
from graphrt.targets.triton.image import Image, make_image
from graphrt.targets.triton.interpret import JitKernel
from graphrt.targets.triton.library import LibraryCall
from graphrt.targets.triton.saved import save
from graphrt.targets.triton.tune.ahead import prepared
from graphrt.targets.triton.tune.tuner import Configuration, Tuner, configurations


class Compilation:
    """A lowered graph as Triton code; kernels are compiled when the image is asked for.

    With a ``driver`` kernels are launched as tuning at level ``tune`` says (``tune.tuner``), else as the heuristics do.
    ``codes`` are the launches of the schedule, of which those of ``runs`` are joined (``emit.persistent``).
    """

    def __init__(self, lowering: Lowering, options: Options, driver: Driver | None = None, tune: int = 0) -> None:
        assert lowering.schedule is not None and lowering.plan is not None
        self.options, self._plan, self._mesh = options, lowering.plan, lowering.graph.mesh
        self.launches, self.kernels = lowering.schedule.launches, lowering.kernels
        self._text, self.codes = generate(lowering.schedule, lowering.kernels, options)
        self.module = write_module(self._text)
        self._configurations = configurations([c for c in self.codes if isinstance(c.call, LibraryCall) or c.refused])
        if driver is not None:
            tuner = Tuner(driver, lowering.schedule, lowering.kernels, self.module)
            self.codes, self._configurations = tuner.configure(self.codes, tune)
        self.runs: list[Run] = []
        self._persistent: list[Decision] = []
        if options.persistent and not waits(lowering.kernels):
            self.runs, self._persistent = joined(self.codes, lowering.kernels, lowering.plan, options)
        if self.runs:
            self.module = write_module(self.text)

    @property
    def text(self) -> str:
        """The source of all kernels."""
        return "\n\n".join([self._text, *("\n".join(run.text) + "\n" for run in self.runs)])

    @property
    def configurations(self) -> list[Configuration]:
        """The launches of which there is something to say: tuned, a library's or refused one, and joined."""
        return self._configurations + configurations([run.code for run in self.runs])

    @property
    def parts(self) -> list[tuple[LaunchCode, Sequence[int]]]:
        """The code of each launch of a run with work, and the launches of the schedule, by number, that it is."""
        first = {run.launches[0]: run for run in self.runs}
        inside = {i for run in self.runs for i in run.launches}
        found: list[tuple[LaunchCode, Sequence[int]]] = []
        for i, code in enumerate(self.codes):
            if i in first:
                found.append((first[i].code, first[i].launches))
            elif code.grid and i not in inside:
                found.append((code, (i,)))
        return found

    @functools.cached_property
    def image(self) -> Image:
        """The program as a driver runs it. Raises TargetError for what does not compile."""
        if self.runs and not self.options.interpret:
            self._separate()
        return self._image([code for code, _ in self.parts])

    @functools.cached_property
    def apart(self) -> Image:
        """The same with every launch of the schedule that has work by itself, as profiles want it. Raises TargetError."""
        return self._image([code for code in self.codes if code.grid]) if self.runs else self.image

    def _separate(self) -> None:
        """Leaves the launches apart that were to be joined in a kernel which spills registers, or does not fit."""
        prepare([run.code for run in self.runs], self.module, self.options.gpu)
        reasons = {run.launches: unfit(run.code, self.module, self.options.gpu) for run in self.runs}
        self.runs = [run for run in self.runs if not reasons[run.launches]]
        apart = {self.kernels[i][0].group.label: why for launches, why in reasons.items() if why for i in launches}
        self._persistent = [
            replace(d, taken=False, reason=apart[d.node], change="it were smaller") if d.taken and d.node in apart else d
            for d in self._persistent
        ]

    def _image(self, working: Sequence[LaunchCode]) -> Image:
        if self.options.interpret:
            kernels: list[Any] = [code.call or self._interpreted(code) for code in working]
            return make_image(working, kernels, range(len(working)), self._plan, self._until)
        return make_image(working, *build(working, self.module, self.options.gpu), self._plan, self._until)

    @property
    def _until(self) -> dict[int, int]:
        """The launches with work that are collectives, and those with work before which they must be over."""
        number = [*itertools.accumulate((code.grid > 0 for code in self.codes), initial=0)]
        return {number[start]: number[until] for start, until in waits(self.kernels).items() if self.codes[start].grid}

    def gaps(self) -> list[str]:
        """The gap that each launch of the schedule begins with, of ``machine.GAPS``."""
        found = ["launch"] * len(self.codes)
        for level in (level for run in self.runs for level in run.levels):
            for i in level:
                found[i] = "barrier" if i == level[0] else "beside"
        for run in self.runs:
            found[run.launches[0]] = "launch"
        return found

    def decisions(self) -> list[Decision]:
        """The form and tile of each template, and what others should take; the launches that are joined, and that are not."""
        anchors = [(code, kernels[0].group.anchor) for code, kernels in zip(self.codes, self.kernels, strict=True)]
        templates = [(code, node) for code, node in anchors if node is not None and node.op.template is not None]
        return [d for code, node in templates for d in code.decisions(node.outputs[0].name)] + self._persistent

    def _interpreted(self, code: LaunchCode) -> JitKernel:
        buffers = tuple(f"{slot.space} {slot.name}" for slot in code.slots)
        return JitKernel(*resolve(code, self.module), buffers, code.cooperative)

    def source(self, launch: int | None) -> str:
        """Generated source: of one launch, or all of it."""
        return self.text if launch is None else "\n".join(self.codes[launch].text)

    def prepared(self, tune: int, share: float = 0.0, most: int | None = None) -> list[str]:
        """Keys of the kernels of all launches and of tuning's candidates, which are in the cache then (``tune.ahead``)."""
        sheet = find_data_sheet(self.options.gpu)
        codes = [*self.codes, *(run.code for run in self.runs)]
        kernels = [*self.kernels, *([k for i in run.launches for k in self.kernels[i]] for run in self.runs)]
        return prepared(codes, kernels, self.module, self.options.gpu, sheet, tune, share, most)

    def save(self, path: str | Path, program: Runnable) -> None:
        """Writes ``program`` as the folder ``path``. Raises OSError."""
        save(path, self.image, self.options.gpu, program, self._mesh)

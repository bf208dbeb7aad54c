"""Programs of the Triton targets that run: compiled, and bound to a driver."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from graphrt.errors import ArgumentError, TargetError
from graphrt.ir import Node
from graphrt.passes.partial import Runs
from graphrt.passes.pipeline import Policy
from graphrt.runtime.program import Runnable
from graphrt.schedule.kernel_ir import Kernel
from graphrt.schedule.memory import MemoryPlan
from graphrt.schedule.order import Schedule
from graphrt.schedule.templates import phases
from graphrt.targets.triton.binary import DeviceBinary
from graphrt.targets.triton.compilation import Compilation
from graphrt.targets.triton.device import architecture, driver, units
from graphrt.targets.triton.report import KernelReport, reports
from graphrt.targets.triton.tiling import splits, times
from graphrt.targets.triton.tune import Configuration

RUN = 64  # pixels that are summed in one piece: rows of the smallest tile that tensor cores like


def policy(target: str, precision: str, library: str = "never") -> Policy:
    """Weight gradients and deep products are split to fill the device; results depend on the device, never on the run.

    ``precision`` is that of float32 products. What is always left to a library stays whole and alone.
    """
    alone, arch, wide = library == "always", architecture(target).split(":")[1], units(target)

    def runs(node: Node, producer: Node | None) -> Runs | None:
        pixels = node.inputs[0].type.size // max(node.types[0].size, 1)
        apart = phases(producer) if producer is not None and not alone else (1, 1)
        length = math.gcd(pixels // math.prod(apart), RUN)
        return Runs(length, apart) if length >= 16 and pixels >= (4 if target == "interpret" else 64) * RUN else None

    pairs = not target.startswith("hip") and not alone  # hip's compiler spills when a kernel holds two things

    def parts(node: Node) -> int:
        return 0 if alone else splits(node, precision, target == "interpret", arch, wide)

    predicted = None if alone else times(precision, target == "interpret", arch, wide)
    return Policy(splits=parts, runs=runs, times=predicted, carry=True, pairs=pairs, alone=alone)


class TritonExecutable(DeviceBinary):
    """The binary of a schedule on the device of ``target``, which also knows its source."""

    def __init__(
        self,
        target: str,
        schedule: Schedule,
        kernels: Sequence[Sequence[Kernel]],
        plan: MemoryPlan,
        tune: int = 0,
        library: str = "never",
    ) -> None:
        device = driver(target)
        self._compilation, self._target = Compilation(target, schedule, kernels, plan, device, tune, library), target
        outputs = {name: v.type for name, v in schedule.graph.outputs.items()}
        super().__init__(self._compilation.image, device, outputs)

    def source(self, launch: int | None) -> str:
        """Generated source: of one launch, or all of it."""
        return self._compilation.source(launch)

    def reports(self) -> list[KernelReport]:
        """What the compiler made of every launch that has work, in order. Raises ArgumentError when interpreted."""
        if self._target == "interpret":
            raise ArgumentError("the interpret target has no kernel reports; compile for one like cuda:sm_90")
        return reports(self._compilation)

    def configurations(self) -> list[Configuration]:
        """How each distinct kernel is launched, and who says so."""
        return self._compilation.configurations

    def save(self, path: str | Path, program: Runnable) -> None:
        """Writes ``program``, whose executable this is, as the folder ``path``. Raises TargetError, OSError."""
        if self._target == "interpret":
            raise TargetError("only programs of a cpu or a GPU can be saved; this one is of interpret")
        self._compilation.save(path, program)

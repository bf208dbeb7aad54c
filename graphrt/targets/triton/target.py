"""The targets whose kernels are Triton's: a GPU that is here, one that is not, none at all, and Triton's interpreter."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graphrt.config import Flags
from graphrt.errors import TargetError
from graphrt.ir import Node
from graphrt.passes.bucket_size import Pace
from graphrt.passes.partial import Segments
from graphrt.passes.pipeline import PassPolicy
from graphrt.runtime.lowering import Lowering
from graphrt.runtime.machine import COMPUTE, LAUNCH, MEMORY, find_data_sheet
from graphrt.runtime.program import Executable
from graphrt.runtime.runnable import Runnable
from graphrt.schedule.kernel_ir import Kernel
from graphrt.schedule.policy import ROW_LIMIT, SchedulePolicy
from graphrt.targets.limits import check_counts, counts
from graphrt.targets.target import Settings, Target, names_architecture, require
from graphrt.targets.triton import device
from graphrt.targets.triton.compilation import Compilation
from graphrt.targets.triton.compile.build import gpu_target
from graphrt.targets.triton.driver import Driver
from graphrt.targets.triton.emit.options import Options
from graphrt.targets.triton.emit.tiling import on_load, segment_group, splits, times
from graphrt.targets.triton.executable import AheadExecutable, GpuExecutable, TritonExecutable
from graphrt.targets.triton.interpret import InterpretDriver
from graphrt.targets.triton.saved import load
from graphrt.targets.triton.tile_order import phases, tile_row
from graphrt.types import HALVES

ARCHITECTURES = ("cuda:sm_80", "cuda:sm_90", "hip:gfx942")  # whose kernels the tests read
KNOWN = (  # GPUs that kernels were compiled for by Triton 3.7; one that is here may be another
    *(f"cuda:sm_{n}" for n in (75, 80, 86, 87, 89, 90, 100, 103, 110, 120, 121)),
    *(f"hip:gfx{n}" for n in ("908", "90a", "942", "950", "1030", "1100", "1151", "1200", "1201")),
)
NULL = "cuda:sm_90"  # what the null target compiles for, and the interpreter's kernels are written for
SEGMENT = 64  # pixels that are summed in one piece: rows of the smallest tile that tensor cores like; of many halves two tiles'
_SHEET = find_data_sheet(NULL, "H100")  # of which the pace is, whatever the GPU, so that buckets are alike
# Between processes: a hop of NCCL's ring over NVLink, and 18 links of 20.6 gigabytes a second (bench/collectives.py).
PACE = Pace(1e-12 / (COMPUTE * _SHEET.tf32), 1e-12 / (MEMORY * _SHEET.memory), LAUNCH, 3.4e-6, 1 / (18 * 20.6e9))
_UNITS = {"sm_80": 108, "sm_100": 148, "gfx942": 304}  # of A100, B200, MI300X


def multiprocessors(arch: str) -> int:
    """The number of multiprocessors of a GPU that is not here; of an unknown ``arch`` as many as an H100 or H200."""
    return _UNITS.get(arch, 132)


def parse(name: str, settings: Settings) -> Target:
    """The targets cuda, hip, null, interpret, and like cuda:sm_90 for a GPU that is not here."""
    kinds = {"interpret": InterpretTarget, "null": NullTarget}
    return (AheadTarget if names_architecture(name) else kinds.get(name, GpuTarget))(name, settings)


class TritonTarget(Target):
    """The common part: weight gradients and deep products are split to fill the device, halves of weights are kept."""

    libraries = True
    pixels = 64 * SEGMENT  # from which on a sum over them is taken in segments

    @functools.cached_property
    def options(self) -> Options:
        """The options that kernels are printed with."""
        return self._options(NULL)

    def require(self) -> None:
        """Raises TargetError unless Triton is installed."""
        require(self.name, "triton")

    def passes(self) -> PassPolicy:
        """Results depend on the device, never on the run. A contraction that is always left to a library stays whole."""
        options = self.options
        if self._alone:
            parts, predicted = (lambda node: 0), None
        else:
            parts, predicted = functools.partial(splits, options=options), times(options)
        return PassPolicy(
            *(parts, self._segments, predicted),
            half_copies=True,
            fused_products=fuses_products(),
            pace=PACE,
            columns=self._columns,
        )

    def schedule(self) -> SchedulePolicy:
        """A contraction that is always left to a library stays alone."""
        pairs = not self.options.stores_fragments and not self._alone  # AMD's compiler spills when a kernel holds two things
        precision = self.settings.float32_matmul_precision
        loads = None if self._alone else on_load(self.options)
        return SchedulePolicy(
            tile_row=tile_row,
            pairs=pairs,
            alone=self._alone,
            row_limit=ROW_LIMIT,
            segments=self._programs,
            precision=precision,
            on_load=loads,
        )

    def check(self, kernel: Kernel) -> None:
        """Raises TargetError for a kernel that counts further than 32 bits."""
        check_counts(kernel, counts(kernel), "Triton kernels")

    @property
    def _alone(self) -> bool:
        return self.library == "always"

    def _options(self, gpu: str, units: int | None = None, interpret: bool = False, guard: bool = False) -> Options:
        arch = gpu.split(":")[1]
        wide = multiprocessors(arch) if units is None else units
        flags, precision = Flags.read(), self.settings.float32_matmul_precision
        dependent = flags.pdl and can_depend(arch) and not interpret
        return Options(arch, wide, interpret, precision, self.library, guard, dependent, flags.persistent)

    @functools.cached_property
    def _programs(self) -> int:
        """The programs, of a segment of rows each, with which a GPU has enough to do."""
        return 4 * self.options.units

    def _columns(self, rows: int, size: int) -> int:
        """Rows of a segment whose columns are added up where the rows are at hand, and registers have room for the sums."""
        lengths = (n for n in (64, 32, 16, 8) if rows % n == 0 and rows >= n * self._programs)
        return next(lengths, 0) if size <= ROW_LIMIT // 4 and rows * size >= 1 << 14 else 0

    def _segments(self, node: Node, producer: Node | None) -> Segments | None:
        pixels = node.inputs[0].type.size // max(node.types[0].size, 1)
        apart = phases(producer) if producer is not None and not self._alone else (1, 1)
        halves = producer is not None and producer.inputs[0].dtype in HALVES and not self.options.stores_fragments
        longest = 2 * SEGMENT if halves and pixels > SEGMENT * self._programs else SEGMENT
        length = math.gcd(pixels // math.prod(apart), longest)
        if length < 16 or pixels < self.pixels:
            return None
        return Segments(length, apart, segment_group(pixels // length, node.types[0].size))


class GpuTarget(TritonTarget):
    """``cuda`` or ``hip``: torch's current GPU."""

    tunes = True

    def require(self) -> None:
        """Raises TargetError unless torch and Triton are installed."""
        require(self.name, "torch", "triton")

    def driver(self) -> Driver:
        """The driver that runs kernels. Raises TargetError when there is no such GPU."""
        return device.gpu_driver(self.name)

    @functools.cached_property
    def options(self) -> Options:
        """The options that kernels are printed with: those of the GPU that is here."""
        return self._options(self.driver().target, self.driver().units)

    def build(self, lowering: Lowering) -> Executable:
        """The compilation of ``lowering``, tuned as far as asked for, on the GPU. Raises TargetError."""
        device.compiles(self.name)
        driver = self.driver()
        return GpuExecutable(lowering, Compilation(lowering, self.options, driver, self.tune), driver)

    def load(self, folder: Path, manifest: Mapping[str, Any]) -> Runnable:
        """The saved program in ``folder``, on the GPU. Raises InputError, TargetError."""
        if manifest["target"].split(":")[0] != self.name:
            self.refuse(folder, manifest)
        return load(folder, manifest, "")


class NullTarget(GpuTarget):
    """Everything of a program for ``NULL`` but the kernels."""

    computes = False

    def driver(self) -> Driver:
        """The driver that runs no kernels."""
        return device.null_driver(NULL)

    def load(self, folder: Path, manifest: Mapping[str, Any]) -> Runnable:
        """The saved program of a GPU in ``folder``, without its kernels. Raises InputError, TargetError."""
        if not names_architecture(manifest["target"]):
            self.refuse(folder, manifest)
        return load(folder, manifest, self.name)


class InterpretTarget(TritonTarget):
    """Triton's interpreter: kernels are Python functions over CPU tensors."""

    pixels, _programs = 4 * SEGMENT, 4  # or no test would see it

    def require(self) -> None:
        """Raises TargetError unless torch and Triton are installed."""
        require(self.name, "torch", "triton")

    @functools.cached_property
    def options(self) -> Options:
        """The options that kernels are printed with: large blocks, unless accesses are checked."""
        return self._options(NULL, interpret=True, guard=Flags.read().guard)

    def build(self, lowering: Lowering) -> Executable:
        """The compilation of ``lowering`` on the interpreter. Raises TargetError."""
        driver = InterpretDriver(self.options.guard)
        return TritonExecutable(lowering, Compilation(lowering, self.options), driver)


class AheadTarget(TritonTarget):
    """A GPU that is not here, as cuda:sm_90: programs are compiled, read and saved, not run."""

    def require(self) -> None:
        """Raises TargetError unless Triton is installed and there is such a GPU."""
        super().require()
        gpu_target(self.name)
        if self.name not in KNOWN:
            raise TargetError(f"there is no GPU {self.name!r}; programs are compiled for {', '.join(KNOWN)}")

    @functools.cached_property
    def options(self) -> Options:
        """The options that kernels are printed with: those of the GPU that is named."""
        return self._options(self.name)

    def build(self, lowering: Lowering) -> Executable:
        """The compilation of ``lowering``, without a driver. Raises TargetError."""
        device.compiles(self.name)
        return AheadExecutable(self.name, Compilation(lowering, self.options))


def can_depend(arch: str) -> bool:
    """Whether kernels of ``arch``, as sm_90, can begin before the one in front has ended: from Hopper on."""
    return arch.startswith("sm_") and int(arch.removeprefix("sm_")) >= 90


def fuses_products() -> bool:
    """Whether norms of halves are fused multiply-adds: the compiler of Triton 3.6 fails at kernels that store their factors."""
    import triton

    return tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 7)

"""Target: a graph is compiled for one. It says what it wants of the passes and of the scheduler, and builds what they make.

    parse(name) ──▶ Target ──▶ find(graph), or build(lowering) ──▶ Executable

Each backend is a folder with a ``target.py``, whose ``parse`` makes the targets of its names.
"""

from __future__ import annotations

import importlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from graphrt.config import Flags
from graphrt.errors import ArgumentError, TargetError
from graphrt.ir import Graph
from graphrt.op import Order
from graphrt.passes.patterns.shard import POLICIES
from graphrt.passes.pipeline import PassPolicy
from graphrt.passes.stages import Fusion
from graphrt.runtime.lowering import Interface, Lowering
from graphrt.runtime.program import Executable
from graphrt.runtime.runnable import Runnable
from graphrt.schedule.kernel_ir import Kernel
from graphrt.schedule.policy import SchedulePolicy

BACKENDS = {  # the folder of each kind of target
    "cuda": "triton",
    "hip": "triton",
    "cpu": "cpu",
    "interpret": "triton",
    "reference": "reference",
    "debug": "debug",
    "null": "triton",
}
GPUS = ("cuda", "hip")


@dataclass(frozen=True)
class Settings:
    """The settings of a target: the arguments of ``graphrt.compile``, which explains them.

    ``tune``, ``library`` and ``fusion`` are None where it is for GRAPHRT_TUNE, GRAPHRT_LIBRARY and GRAPHRT_FUSE to say.
    """

    float32_matmul_precision: str = "highest"
    freeze: bool = False
    tune: int | None = None
    library: str | None = None
    fusion: str | None = None
    forbid: Sequence[Collection[str]] = ()
    policy: str = "all_reduce"
    bucket_bytes: int | None = None
    reduce_dtype: str | None = None
    batch_invariant: bool = False
    memory_limit: int | None = None


class Target(ABC):
    """One target with its settings; ``name`` is how programs call it: cpu, cuda:sm_90.

    The attributes say what it can do: whether it ``tunes`` kernels by timing them and leaves contractions to ``libraries``;
    whether its sums can be ``invariant``, the same whatever the batch; whether it ``computes`` at all, which null does not.
    """

    tunes = libraries = invariant = False
    computes = True

    def __init__(self, name: str, settings: Settings) -> None:
        """Raises ArgumentError for settings that make no sense, or none for this target."""
        self.name, self.settings = name, settings
        flags = Flags.read()
        tf32, tune, library = settings.float32_matmul_precision, settings.tune, settings.library
        if tf32 not in ("highest", "high", "medium"):
            raise ArgumentError(f"float32_matmul_precision must be highest, high or medium, got {tf32!r}")
        self.tune = flags.tune if tune is None else tune
        if self.tune not in (0, 1, 2):
            raise ArgumentError(f"tune (or GRAPHRT_TUNE) must be 0, 1 or 2, got {self.tune!r}")
        if tune and not self.tunes:
            raise ArgumentError(f"tune={tune} times kernels on a GPU; the target is {name!r}, so leave it out")
        self.library = flags.library if library is None else library
        if self.library not in ("never", "auto", "always"):
            raise ArgumentError(f"library (or GRAPHRT_LIBRARY) must be never, auto or always, got {self.library!r}")
        if library in ("auto", "always") and not self.libraries:
            raise ArgumentError(f"library={library!r} is about contractions on a GPU; the target is {name!r}, so leave it out")
        if settings.batch_invariant and not self.invariant:
            raise ArgumentError(f"batch_invariant is for the target cpu; {name!r} adds up as suits the batch, so leave it out")

        if settings.policy not in POLICIES:
            layers = "; nn.tensor_parallel cuts a network's layers, as Trainer(policy='tensor') does"
            known = f"{', '.join(POLICIES[:-1])} or {POLICIES[-1]}"
            raise ArgumentError(f"policy must be {known}, got {settings.policy!r}{layers * (settings.policy == 'tensor')}")
        self.fusion = Fusion.parse(flags.fuse if settings.fusion is None else settings.fusion, settings.forbid)

    def require(self) -> None:
        """Raises TargetError unless this machine can compile for it."""
        return

    @abstractmethod
    def passes(self) -> PassPolicy:
        """The policy that the passes follow for it."""

    def schedule(self) -> SchedulePolicy | None:
        """The policy that the scheduler follows for it; None where graphs are run as they are."""
        return None

    def check(self, kernel: Kernel) -> None:
        """Raises TargetError, with the user's line, for a kernel that counts further than it can."""
        return

    def find(self, graph: Graph, orders: Mapping[str, Order]) -> tuple[Executable, Interface] | None:
        """An executable of ``graph`` that was built before, if at hand. ``orders`` are those of state that exists already."""
        return None

    @abstractmethod
    def build(self, lowering: Lowering) -> Executable:
        """Compiles ``lowering``, which the passes and the scheduler made. Raises TargetError."""

    def load(self, folder: Path, manifest: Mapping[str, Any]) -> Runnable:
        """The saved program in ``folder``. Raises InputError, TargetError when it does not run on this target."""
        self.refuse(folder, manifest)

    def refuse(self, folder: Path, manifest: Mapping[str, Any]) -> NoReturn:
        """Raises TargetError: the saved program in ``folder`` is another target's."""
        raise TargetError(f"{folder} is a program of {manifest['target']}; it does not run on {self.name!r}")


def parse(name: str, settings: Settings = Settings()) -> Target:
    """The target that ``name`` stands for; auto is GRAPHRT_TARGET, else the GPU that is here, else the cpu.

    Raises TargetError for a name that is none, ArgumentError for settings that it does not take.
    """
    if name == "auto":
        name = Flags.read().target or "auto"
    if name == "auto":
        from graphrt.targets.triton.device import available

        name = available() or "cpu"
    kind, _, variant = name.partition(":")
    if kind not in BACKENDS or (variant and kind not in GPUS and name != "reference:float64"):
        raise TargetError(f"target must be auto, {', '.join(BACKENDS)}, reference:float64 or like cuda:sm_90; got {name!r}")
    found: Target = importlib.import_module(f"graphrt.targets.{BACKENDS[kind]}.target").parse(name, settings)
    return found


def names_architecture(name: str) -> bool:
    """Whether ``name`` is that of a GPU by its architecture, as cuda:sm_90, for which programs are compiled and do not run."""
    kind, _, architecture = name.partition(":")
    return kind in GPUS and bool(architecture)


def require(target: str, *packages: str) -> None:
    """Raises TargetError naming the first of ``packages`` that is not installed."""
    for package in packages:
        if find_spec(package) is None:
            system = ", which exists for Linux only" if package == "triton" and sys.platform != "linux" else ""
            raise TargetError(f"target {target!r} needs the package {package}{system}: pip install {package}")

"""Ahead-of-time compilation: every Triton kernel of a program for a GPU this machine does not have.

Nothing is launched. The compiler's result is read instead: registers, spilled bytes, shared memory and the instructions that
tell a good kernel from a bad one (tensor cores, 128-bit accesses). ``graphrt.compile(..., target="cuda:sm_90")`` builds it.
"""

from __future__ import annotations

import collections
import os
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from graphrt.errors import TargetError
from graphrt.runtime.program import Binary, Runnable
from graphrt.runtime.state import State
from graphrt.schedule.kernel_ir import Kernel
from graphrt.schedule.memory import MemoryPlan
from graphrt.schedule.order import Schedule
from graphrt.targets.triton.build import compile_kernel, gpu_target, key
from graphrt.targets.triton.codegen import LaunchCode
from graphrt.targets.triton.compilation import Compilation
from graphrt.targets.triton.device import compiles

ARCHITECTURES = ("cuda:sm_80", "cuda:sm_90", "hip:gfx942")
_INTERESTING = re.compile(r"\b(HGMMA|HMMA|DMMA|LDGSTS|UTMALDG|LDG\.E(?:\.\w+)*|STG\.E(?:\.\w+)*|v_mfma\w*)")


@dataclass(frozen=True)
class KernelReport:
    """What the compiler made of one launch: registers a thread, spilled bytes a thread, shared memory of a block."""

    name: str
    registers: int
    spills: int
    shared: int
    instructions: Mapping[str, int]


def compile_launch(code: LaunchCode, module: ModuleType, target: str) -> KernelReport:
    """Compiles one launch for ``target`` and reads the result."""
    return _read(code.display, compile_kernel(code, module, target))


def report(compilation: Compilation) -> list[KernelReport]:
    """Reads what the compiler made of every launch that has work, in order; launches of one kernel are read once."""
    found: dict[str, KernelReport] = {}
    reports = []
    _ = compilation.image  # compiled side by side; what is read here comes from Triton's cache
    for code in compilation.codes:
        if code.grid:
            k = key(code, compilation.architecture)
            if k not in found:
                found[k] = compile_launch(code, compilation.module, compilation.architecture)
            reports.append(replace(found[k], name=code.display))
    return reports


def _read(name: str, compiled: Any) -> KernelReport:
    shared = int(compiled.metadata.shared)
    if "cubin" in compiled.asm:
        usage, text = _disassemble(compiled.asm["cubin"])
        registers, spills = (int(re.findall(rf"{key}:(\d+)", usage)[-1]) for key in ("REG", "STACK"))
    else:
        text = compiled.asm["amdgcn"]
        registers = int(re.findall(r"\.vgpr_count:\s+(\d+)", text)[-1])
        spills = 4 * int(re.findall(r"\.vgpr_spill_count:\s+(\d+)", text)[-1])
    found = collections.Counter(_INTERESTING.findall(text))
    return KernelReport(name, registers, spills, shared, dict(sorted(found.items())))


def _disassemble(cubin: bytes) -> tuple[str, str]:
    """Resource usage and SASS of a cubin, by the tools in the Triton wheel."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "kernel.cubin")
        Path(path).write_bytes(cubin)
        run = [
            subprocess.run([tool, flag, path], capture_output=True, text=True, check=True) for flag in ("-res-usage", "-sass")
        ]
    return run[0].stdout, run[1].stdout


class AheadExecutable(Binary):
    """A program compiled for an absent GPU: it can be read, reported on and saved, not run."""

    def __init__(self, target: str, schedule: Schedule, kernels: Sequence[Sequence[Kernel]], plan: MemoryPlan) -> None:
        compiles(target)
        gpu_target(target)
        self._target, self._compilation = target, Compilation(target, schedule, kernels, plan)

    def reports(self) -> list[KernelReport]:
        """Compiles every launch that has work, in order, and reads the results."""
        return report(self._compilation)

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

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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graphrt.errors import TargetError
from graphrt.runtime.state import State
from graphrt.schedule.kernel_ir import Kernel
from graphrt.schedule.memory import MemoryPlan
from graphrt.schedule.order import Schedule
from graphrt.targets.triton.codegen import generate
from graphrt.targets.triton.runner import UNITS, resolve, write_module
from graphrt.targets.triton.sharing import LaunchCode

ARCHITECTURES = ("cuda:sm_80", "cuda:sm_90", "hip:gfx942")
_POINTERS = {
    "bool": "*i1", "uint8": "*u8", "int8": "*i8", "int16": "*i16", "int32": "*i32", "int64": "*i64", "float16": "*fp16",
    "bfloat16": "*bf16",
    "float32": "*fp32", "float64": "*fp64",
}  # fmt: skip
_INTERESTING = re.compile(r"\b(HGMMA|HMMA|DMMA|LDGSTS|UTMALDG|LDG\.E(?:\.\w+)*|STG\.E(?:\.\w+)*|v_mfma\w*)")


@dataclass(frozen=True)
class KernelReport:
    """What the compiler made of one launch: registers a thread, spilled bytes a thread, shared memory of a block."""

    name: str
    registers: int
    spills: int
    shared: int
    instructions: Mapping[str, int]


def gpu_target(target: str) -> Any:
    """Triton's description of ``cuda:sm_90``, ``hip:gfx942`` and the like. Raises TargetError."""
    from triton.backends.compiler import GPUTarget

    match = re.fullmatch(r"cuda:sm_(\d+)|hip:(gfx\w+)", target)
    if match is None:
        raise TargetError(f"an ahead-of-time target looks like {', '.join(ARCHITECTURES)}; got {target!r}")
    return GPUTarget("cuda", int(match[1]), 32) if match[1] else GPUTarget("hip", match[2], 64)


def compile_launch(code: LaunchCode, module: Any, target: str) -> KernelReport:
    """Compiles one launch for ``target``, with the 16-byte alignment that its pointers have at run time."""
    import triton
    from triton.compiler import ASTSource

    kernel, constants = resolve(code, module)
    pointers = tuple(_POINTERS[s.type.dtype.name] for s in code.slots)
    aligned = [["tt.divisibility", 16]]
    source = ASTSource(
        fn=kernel,
        signature={"ARGS": pointers, **dict.fromkeys(constants, "constexpr")},
        constexprs=constants,
        attrs={(0, i): aligned for i in range(len(pointers))},
    )
    options = {**code.options, "enable_fp_fusion": True}
    compiled = triton.compile(source, target=gpu_target(target), options=options)
    return _read(code.display, compiled)


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


class AheadExecutable:
    """A program compiled for an absent GPU: it can be read and reported on, not run."""

    def __init__(self, target: str, schedule: Schedule, kernels: Sequence[Sequence[Kernel]], plan: MemoryPlan) -> None:
        if os.environ.get("TRITON_INTERPRET") == "1":
            raise TargetError(f"target {target!r} compiles kernels; unset TRITON_INTERPRET")
        gpu_target(target)
        self._target = target
        self._source, self._codes = generate(schedule, kernels, False, target.split(":")[1], UNITS)
        self._module = write_module(self._source)

    def reports(self) -> list[KernelReport]:
        """Compiles every launch that has work, in order, and reads the results."""
        return [compile_launch(code, self._module, self._target) for code in self._codes if code.grid]

    def run(self, inputs: Mapping[str, np.ndarray], state: State, outputs: Mapping[str, np.ndarray]) -> None:
        raise TargetError(f"a program compiled ahead of time for {self._target} cannot run on this machine")

    def time(self, inputs: Mapping[str, np.ndarray], state: State, outputs: Mapping[str, np.ndarray]) -> list[float]:
        self.run(inputs, state, outputs)
        return []

    def source(self, launch: int | None) -> str:
        return self._source if launch is None else self._codes[launch].source()

"""Compiles templates for GPUs that are not here and reads what the compiler made of them."""

from __future__ import annotations

import collections
import inspect
import re
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.compiler import compile as triton_compile
from triton.experimental.gluon._runtime import GluonASTSource

from kernels.triton.cost import occupancy

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
GPUS = {**TARGETS, "sm_100": GPUTarget("cuda", 100, 32)}
SIZES = {"fp16": 2, "bf16": 2, "fp32": 4, "fp64": 8}
_TOOL = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
_NAMES = re.compile(
    r"\b((?:HGMMA|HMMA)(?:\.\w+)*|UTCHMMA|DMMA|v_mfma|FFMA|UTMALDG|USETMAXREG|(?:LDGSTS|LDG|STG)\.E(?:\.\w+)*"
    r"|(?:global|buffer)_(?:load|store)_\w+)"
)


class Report(NamedTuple):
    name: str
    registers: int
    spills: int
    shared: int
    warps: int
    instructions: Mapping[str, int]  # tensor cores, and accesses to global memory by their width

    def programs(self, target: str) -> int:
        """How many a multiprocessor holds at a time."""
        return occupancy(self.registers, self.shared, self.warps, target)

    def uses(self, name: str) -> bool:
        return any(i.startswith(name) for i in self.instructions)

    def accesses(self, *kinds: str) -> set[str]:
        return {i for i in self.instructions if i.startswith(kinds)}


def build(fn: Any, target: str, args: list[str | int], config: Mapping[str, int], **constants: Any) -> Report:
    """Compiles fn, whose first parameter is the tuple of args, as at run time; with blocks and options from config.

    ``args`` are pointer types, which carry the 16-byte alignment they have at run time (without it loads stay narrow), and
    numbers, which are constants as they are in generated closures.
    """
    options = {"num_warps": config["num_warps"], "num_stages": config["num_stages"], "enable_fp_fusion": False}
    defaults = {p.name: p.default for p in inspect.signature(fn.fn).parameters.values() if p.default is not p.empty}
    known: dict[Any, Any] = defaults | constants | {k: v for k, v in config.items() if k in fn.arg_names}
    known |= {(0, i): a for i, a in enumerate(args) if isinstance(a, int)}
    attrs = {(0, i): [["tt.divisibility", 16]] for i, a in enumerate(args) if isinstance(a, str)}
    signature: dict[str, Any] = dict.fromkeys(fn.arg_names, "constexpr")
    signature[fn.arg_names[0]] = tuple(a if isinstance(a, str) else "constexpr" for a in args)
    source = (GluonASTSource if fn.is_gluon() else ASTSource)(fn=fn, signature=signature, constexprs=known, attrs=attrs)
    found = _read(triton_compile(source, target=GPUS[target], options=options))
    if found.spills and target.startswith("sm"):  # more registers for fewer programs, as at run time
        options["maxnreg"] = 255
        found = _read(triton_compile(source, target=GPUS[target], options=options))
    return found


def _read(kernel: Any) -> Report:
    if "amdgcn" in kernel.asm:
        text = kernel.asm["amdgcn"]
        registers, spills = int(_last(r"\.vgpr_count:\s*(\d+)", text)), int(_last(r"\.vgpr_spill_count:\s*(\d+)", text))
        spills += int(_last(r"\.sgpr_spill_count:\s*(\d+)", text))
    else:
        if not _TOOL.exists():
            pytest.skip("Triton was installed without cuobjdump")
        with tempfile.NamedTemporaryFile(suffix=".cubin") as f:
            f.write(kernel.asm["cubin"])
            f.flush()
            usage, text = (
                subprocess.run([_TOOL, flag, f.name], capture_output=True, text=True, check=True).stdout
                for flag in ("-res-usage", "-sass")
            )
        registers = int(_last(r"REG:(\d+)", usage))
        spills = int(_last(r"STACK:(\d+)", usage)) if re.search(r"\b(LDL|STL)\b", text) else 0  # a frame may lie unused
    found = collections.Counter(_NAMES.findall(text))
    return Report(kernel.metadata.name, registers, spills, int(kernel.metadata.shared), int(kernel.metadata.num_warps), found)


def _last(pattern: str, text: str) -> str:
    return re.findall(pattern, text)[-1]

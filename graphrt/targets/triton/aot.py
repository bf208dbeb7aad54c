"""Ahead-of-time compilation: every Triton kernel of a program for a GPU this machine does not have.

Nothing is launched. The compiler's result is read instead: registers, spilled bytes, shared memory and the instructions that
tell a good kernel from a bad one (tensor cores, 128-bit accesses). ``graphrt.compile(..., target="cuda:sm_90")`` builds it.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from graphrt.errors import TargetError
from graphrt.runtime.state import State
from graphrt.schedule.kernel_ir import Kernel
from graphrt.schedule.memory import MemoryPlan
from graphrt.schedule.order import Schedule
from graphrt.targets.triton.codegen import generate
from graphrt.targets.triton.report import KernelReport, listings, report
from graphrt.targets.triton.runner import UNITS, resolve, write_module
from graphrt.targets.triton.sharing import LaunchCode, distinct

ARCHITECTURES = ("cuda:sm_80", "cuda:sm_90", "hip:gfx942")
_POINTERS = {
    "bool": "*i1", "uint8": "*u8", "int8": "*i8", "int16": "*i16", "int32": "*i32", "int64": "*i64", "float16": "*fp16",
    "bfloat16": "*bf16",
    "float32": "*fp32", "float64": "*fp64",
}  # fmt: skip
_PARSING = threading.Lock()  # Python's own parser fails when two threads are in it (SystemError: recursion depth mismatch)


def gpu_target(target: str) -> Any:
    """Triton's description of ``cuda:sm_90``, ``hip:gfx942`` and the like. Raises TargetError."""
    from triton.backends.compiler import GPUTarget

    match = re.fullmatch(r"cuda:sm_(\d+)|hip:(gfx\w+)", target)
    if match is None:
        raise TargetError(f"an ahead-of-time target looks like {', '.join(ARCHITECTURES)}; got {target!r}")
    return GPUTarget("cuda", int(match[1]), 32) if match[1] else GPUTarget("hip", match[2], 64)


def compile_kernel(code: LaunchCode, module: Any, target: str) -> Any:
    """What Triton makes of one launch's kernel for ``target``, with the 16-byte alignment its pointers have at run time."""
    import triton
    from triton.compiler import ASTSource

    class Source(ASTSource):
        def hash(self) -> str:
            with _PARSING:
                return super().hash()

        def make_ir(self, *args: Any, **kwargs: Any) -> Any:
            with _PARSING:
                return super().make_ir(*args, **kwargs)

    kernel, constants = resolve(code, module)
    pointers = tuple(_POINTERS[s.type.dtype.name] for s in code.slots)
    aligned = [["tt.divisibility", 16]]
    source = Source(
        fn=kernel,
        signature={"ARGS": pointers, **dict.fromkeys(constants, "constexpr")},
        constexprs=constants,
        attrs={(0, i): aligned for i in range(len(pointers))},
    )
    return triton.compile(source, target=gpu_target(target), options={**code.options, "enable_fp_fusion": True})


def compile_kernels(codes: Sequence[LaunchCode], module: Any, target: str) -> list[Any]:
    """The kernels of ``codes`` side by side: nine tenths of the compiler's time are outside Python's lock."""
    order = sorted(range(len(codes)), key=lambda i: -len(codes[i].text))  # the longest one should not start last
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = dict(zip(order, pool.map(lambda i: compile_kernel(codes[i], module, target), order), strict=True))
    return [found[i] for i in range(len(codes))]


class AheadExecutable:
    """A program compiled for an absent GPU: it can be read and reported on, not run."""

    def __init__(self, target: str, schedule: Schedule, kernels: Sequence[Sequence[Kernel]], plan: MemoryPlan) -> None:
        if os.environ.get("TRITON_INTERPRET") == "1":
            raise TargetError(f"target {target!r} compiles kernels; unset TRITON_INTERPRET")
        gpu_target(target)
        self._target, self._schedule, self._kernels = target, schedule, kernels
        self._source, self._codes = generate(schedule, kernels, False, target.split(":")[1], UNITS)
        self._module = write_module(self._source)

    def reports(self) -> list[KernelReport]:
        """Compiles every distinct kernel that has work, and reads the results; in the order of the first launches."""
        shared = distinct(self._codes)
        compiled = compile_kernels([self._codes[i] for i in shared], self._module, self._target)
        arch = self._target.split(":")[1]
        found = []
        for (i, same), kernel, listing in zip(shared.items(), compiled, listings(compiled, arch), strict=True):
            title = self._schedule.launches[i].description()
            found.append(report(self._codes[i], kernel, listing, arch, len(same), title, self._kernels[i]))
        return found

    def run(self, inputs: Mapping[str, np.ndarray], state: State, outputs: Mapping[str, np.ndarray]) -> None:
        raise TargetError(f"a program compiled ahead of time for {self._target} cannot run on this machine")

    def time(self, inputs: Mapping[str, np.ndarray], state: State, outputs: Mapping[str, np.ndarray]) -> list[float]:
        self.run(inputs, state, outputs)
        return []

    def source(self, launch: int | None) -> str:
        return self._source if launch is None else self._codes[launch].source()

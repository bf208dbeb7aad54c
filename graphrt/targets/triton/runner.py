"""Runs a Triton program: on a GPU, or interpreted on the CPU, launch by launch over one arena.

The module with the generated kernels is written to the cache under a name made from its text and imported from there.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
import time
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from graphrt.config import Flags
from graphrt.ir import Node
from graphrt.passes.pipeline import Policy
from graphrt.runtime.arrays import from_numpy, to_numpy
from graphrt.runtime.state import State
from graphrt.schedule.kernel_ir import Kernel
from graphrt.schedule.memory import MemoryPlan
from graphrt.schedule.order import Schedule, Slot
from graphrt.targets.templates import kernels as find_kernels
from graphrt.targets.triton.codegen import generate
from graphrt.targets.triton.device import device as find_device
from graphrt.targets.triton.sharing import LaunchCode

UNITS = 132  # multiprocessors assumed when there is no device to ask (an H100's and H200's)


def policy(target: str) -> Policy:
    """Weight gradients are split until they fill the device; results depend on the device, never on the run."""

    def splits(node: Node) -> int:
        if node.op.template is None:
            return 0
        find_kernels()
        from graphrt.kernels.triton import config  # type: ignore[import-not-found]
        from graphrt.schedule.templates import TEMPLATES

        sizes = TEMPLATES[node.op.template].sizes(node)
        itemsize = node.types[0].dtype.itemsize
        count = config.wgrad_splits(sizes, itemsize, target == "interpret", precision="ieee", units=_units(target))
        return count if count > 1 else 0

    return Policy(splits=splits)


def _units(target: str) -> int:
    if target in ("cuda", "hip"):
        import torch

        if torch.cuda.is_available():
            return torch.cuda.get_device_properties(torch.cuda.current_device()).multi_processor_count
    return UNITS


def _arch(target: str) -> str:
    if target in ("cuda", "hip"):
        import torch

        if torch.cuda.is_available():
            properties = torch.cuda.get_device_properties(torch.cuda.current_device())
            return properties.gcnArchName.split(":")[0] if target == "hip" else f"sm_{properties.major}{properties.minor}"
    return "sm_90"


def write_module(source: str) -> ModuleType:
    """``source`` as an imported module, kept as a file in the cache."""
    find_kernels()
    key = hashlib.sha256(source.encode()).hexdigest()[:24]
    path = Flags.read().cache / "triton" / f"program_{key}.py"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_text(source)
        os.replace(temporary, path)
    name = f"graphrt_generated_{key}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[name] = module
    return sys.modules[name]


def resolve(code: LaunchCode, module: ModuleType) -> tuple[Any, dict[str, Any]]:
    """The jit function of a launch and its compile-time arguments."""
    import triton.language as tl

    home = importlib.import_module(f"graphrt.kernels.triton.{code.module}") if code.module else module
    constants = {}
    for name, value in code.constants.items():
        if isinstance(value, str) and value.startswith("@"):
            value = getattr(module, value[1:])
        elif isinstance(value, str) and value.startswith("tl."):
            value = getattr(tl, value[3:])
        constants[name] = value
    return getattr(home, code.kernel), {**constants, "NAME": code.display}


class TritonExecutable:
    """The launches of a program, their pointers bound as far as they are known, and the arena."""

    def __init__(self, target: str, schedule: Schedule, kernels: Sequence[Sequence[Kernel]], plan: MemoryPlan) -> None:
        import torch

        self._device = find_device(target)
        self._interpret = target == "interpret"
        self._source, codes = generate(schedule, kernels, self._interpret, _arch(target), _units(target))
        module = write_module(self._source)
        self._arena = torch.zeros(max(plan.size, 1), dtype=torch.uint8, device=self._device)
        self._poison = Flags.read().poison
        self._launches = [(code, *resolve(code, module), [self._fixed(s, plan) for s in code.slots]) for code in codes]

    def _fixed(self, slot: Slot, plan: MemoryPlan) -> Any:
        """The tensor of an arena slot; the slot itself when it is bound at each run."""
        if slot.space != "arena":
            return slot
        start = plan.offset[slot]
        return self._arena[start : start + slot.type.nbytes].view(_torch_dtype(slot))

    def run(self, inputs: Mapping[str, np.ndarray], state: State, outputs: Mapping[str, np.ndarray]) -> None:
        self._run(inputs, state, outputs, None)

    def time(self, inputs: Mapping[str, np.ndarray], state: State, outputs: Mapping[str, np.ndarray]) -> list[float]:
        seconds: list[float] = []
        self._run(inputs, state, outputs, seconds)
        return seconds

    def _run(
        self,
        inputs: Mapping[str, np.ndarray],
        state: State,
        outputs: Mapping[str, np.ndarray],
        seconds: list[float] | None,
    ) -> None:
        import torch

        if self._poison:
            self._arena.fill_(0xFF)
        bound: dict[Slot, Any] = {}
        for code, kernel, constants, tensors in self._launches:
            args = []
            for t in tensors:
                if isinstance(t, Slot):
                    if t not in bound:
                        bound[t] = self._bind(t, inputs, state, outputs)
                    t = bound[t]
                args.append(t)
            if not code.grid:
                continue
            options = {} if self._interpret else {**code.options, "enable_fp_fusion": True}
            start = time.perf_counter()
            kernel[(code.grid,)](tuple(args), **constants, **options)
            if seconds is not None:
                if self._device.type == "cuda":
                    torch.cuda.synchronize()
                seconds.append(time.perf_counter() - start)
        if self._device.type == "cuda":
            for slot, t in bound.items():
                if slot.space == "output":
                    _flat(outputs[slot.name], slot)[...] = to_numpy(t)

    def _bind(self, slot: Slot, inputs: Mapping[str, Any], state: State, outputs: Mapping[str, Any]) -> Any:

        if self._device.type == "cuda" and slot.space == "state":
            return state.on_device(slot.name, self._device)
        array = {"input": inputs, "output": outputs}.get(slot.space, state)[slot.name]
        flat = from_numpy(_flat(array, slot))
        if self._interpret and slot.space == "input":
            return flat.clone()  # the interpreter tells tensors apart by address, and inputs may overlap
        return flat.to(self._device) if self._device.type == "cuda" else flat

    def source(self, launch: int | None) -> str:
        return self._source if launch is None else self._launches[launch][0].source()


def _torch_dtype(slot: Slot) -> Any:
    import torch

    return getattr(torch, slot.type.dtype.name)


def _flat(array: np.ndarray, slot: Slot) -> np.ndarray:
    """The memory of ``array``, which lies in the slot's order, as one dimension."""
    return array.transpose(slot.type.order or range(array.ndim)).reshape(-1)

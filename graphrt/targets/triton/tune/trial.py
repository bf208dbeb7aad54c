"""Trial: one kernel on buffers of its own, so that its configurations can be compared in result and in time.

Floats are random and from a fixed seed, positive where they have one dimension or none (variances, scales, rates); integers
are 0, which is a position in any tensor. Several sets of buffers take turns, so that a launch does not find in the L2 cache
what the one before it left there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from graphrt.ir import Node, Value
from graphrt.runtime.arrays import flat, to_numpy, view
from graphrt.schedule.kernel_ir import Kernel
from graphrt.schedule.memory import blocks, loads
from graphrt.schedule.schedule import Schedule, Slot
from graphrt.targets.triton.driver import Driver
from graphrt.targets.triton.emit.launch import LaunchCode
from graphrt.types import bfloat16, float16, float64

CACHE = 128 << 20  # bytes of buffers that no L2 cache holds
SETS, LAUNCHES = 8, 16  # sets of buffers at most; launches that are timed as one
CHEAP = 1 << 24  # flops and elements up to which a kernel is computed in NumPy too
_ROUNDING = {float64: 1e-10, bfloat16: 3e-2, float16: 4e-3}  # between results of two configurations, relative; float32 1e-4


class Trial:
    """The kernel of ``code``, a launch of ``kernels``, on ``driver``."""

    def __init__(self, driver: Driver, code: LaunchCode, kernels: Sequence[Kernel]) -> None:
        every = [block for kernel in kernels for block in blocks(kernel)]
        read = {load[0] for block in every for load in loads(block)}
        self._driver, self._slots = driver, code.slots
        self.written = [s for s in code.slots if any(store.slot == s for block in every for store in block.stores)]
        self.elements = sum(s.type.size for s in code.slots)
        size = sum(s.type.nbytes for s in code.slots)
        count = 1 if driver.simulated else min(max(CACHE // max(size, 1), 1), SETS)
        self._sets = [{s: driver.allocate(max(s.type.nbytes, 1)) for s in code.slots} for _ in range(count)]
        for memory in self._sets:
            for i, slot in enumerate(code.slots):
                if slot in read:
                    _fill(flat(memory[slot], 0, slot.type), i, slot.type.ndim < 2)
        self._scratch: list[Any] = [driver.allocate(256)]  # the largest is the last; launches do not keep theirs alive
        self._before = {s: self._sets[0][s].clone() for s in self.written if s in read}

    def arrays(self) -> dict[Slot, np.ndarray]:
        """The contents of the kernel's buffers, by slot."""
        self._reset()
        return {s: to_numpy(self._driver.fetch(view(m, 0, s.type))) for s, m in self._sets[0].items()}

    def result(self, kernel: Any, grid: int) -> dict[Slot, Any]:
        """The results that ``kernel``, a binary, writes, by slot. Buffers that it only writes are full of ones (NaN) before."""
        self._reset()
        self._driver.run([self._bind(self._driver.load(kernel), kernel, grid, self._sets[0])])
        return {s: view(self._sets[0][s], 0, s.type).clone() for s in self.written}

    def _reset(self) -> None:
        for slot in self.written:
            if slot in self._before:
                self._sets[0][slot].copy_(self._before[slot])
            else:
                self._sets[0][slot].fill_(0xFF)

    def clock(self, kernel: Any, grid: int) -> Callable[[], float]:
        """A function that runs ``kernel`` some times and returns the seconds of one launch; the first call warms up."""
        loaded = self._driver.load(kernel)
        launches = [self._bind(loaded, kernel, grid, memory) for memory in self._sets]
        launches = launches * -(-LAUNCHES // len(launches))
        self._driver.run(launches[:1])
        seconds = self._driver.clock([launches])
        return lambda: seconds()[0] / len(launches)

    def _bind(self, loaded: Any, kernel: Any, grid: int, memory: Mapping[Slot, Any]) -> Any:
        wanted = grid * getattr(kernel, "scratch", 0)
        if wanted > len(self._scratch[-1]):
            self._scratch.append(self._driver.allocate(wanted))
        return self._driver.bind(loaded, grid, [flat(memory[s], 0, s.type) for s in self._slots], self._scratch[-1])


def _fill(tensor: Any, seed: int, positive: bool) -> None:
    import torch

    if not tensor.dtype.is_floating_point:
        tensor.zero_()
        return
    tensor.normal_(generator=torch.Generator(tensor.device).manual_seed(seed))
    if positive:
        tensor.abs_()


def difference(results: Mapping[Slot, Any], expected: Mapping[Slot, Any], factor: float = 1) -> str:
    """The first difference of ``results`` from ``expected`` beyond rounding, in words; empty where there is none.

    Floats may differ by ``factor`` times what another order of summation makes, in the norm, and must be finite at the same
    places; everything else must be equal.
    """
    import torch

    for slot, b in expected.items():
        a = results[slot]
        if not a.dtype.is_floating_point:
            if not torch.equal(a, b.to(a.dtype)):
                return f"{slot.name} differs"
            continue
        wide = torch.float64 if slot.type.dtype is float64 else torch.float32
        a, b = a.to(wide), b.to(wide)
        finite = torch.isfinite(a)
        if not torch.equal(finite, torch.isfinite(b)):
            return f"{slot.name} is not finite at the same places"
        a, b = torch.where(finite, a, 0), torch.where(finite, b, 0)
        error, scale = float((a - b).norm()), float(b.norm())
        allowed = factor * _ROUNDING.get(slot.type.dtype, 1e-4)
        if error > allowed * scale:
            return f"{slot.name} differs by {error / scale if scale else float('inf'):.1e}, more than {allowed:.0e}"
    return ""


def reference(schedule: Schedule, launch: int, trial: Trial) -> dict[Slot, Any] | None:
    """The results of launch number ``launch``, computed by the reference in float64; None where that takes long."""
    groups = schedule.launches[launch].groups
    own = {n for g in groups for n in (*g.nodes, *g.inlined)}
    if sum(n.op.flops(n) for n in own) > CHEAP or trial.elements > CHEAP:
        return None
    arrays = trial.arrays()
    homes = schedule.home.items()
    table = {v: _wide(at.part(arrays[at.slot], v)) for v, at in homes if at.slot in arrays and v.node not in own}

    def value(v: Value) -> np.ndarray:
        if v not in table:
            table.update(zip(v.node.outputs, _results(v.node, [*map(value, v.node.inputs)]), strict=True))
        return table[v]

    with np.errstate(all="ignore"):
        found = dict[Slot, np.ndarray]()
        for g in groups:
            for v in (*g.values(), *g.copies):
                for place in schedule.stores.get((g, v), ()):
                    whole = found.setdefault(place.slot, _wide(arrays[place.slot]).copy())
                    place.part(whole, v)[...] = value(v)
    import torch

    return {s: torch.from_numpy(np.ascontiguousarray(a)).reshape(s.type.shape) for s, a in found.items()}


def _results(node: Node, operands: Sequence[np.ndarray]) -> list[np.ndarray]:
    results = node.op.reference(*operands, **node.attrs)
    return [_wide(np.asarray(r)) for r in (results if isinstance(results, tuple) else (results,))]


def _wide(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64) if array.dtype.kind in "fV" else array

"""From a schedule to a cpu program that runs: generated, built, loaded."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from graphrt.ir import Node
from graphrt.passes.pipeline import Policy
from graphrt.runtime.program import Runnable
from graphrt.runtime.state import State
from graphrt.schedule.kernel_ir import Kernel
from graphrt.schedule.memory import MemoryPlan
from graphrt.schedule.order import Schedule
from graphrt.targets.cpu.binary import CpuBinary
from graphrt.targets.cpu.build import build, units
from graphrt.targets.cpu.codegen import generate
from graphrt.targets.cpu.generated import TASKS
from graphrt.targets.cpu.saved import save

ROW_LIMIT = 0  # rows are read again from cache by each pass; nothing is kept in registers across passes


def policy() -> Policy:
    """Splits that give two to a few dozen threads work, whatever their number: results do not depend on it."""

    def splits(node: Node) -> int:
        x = node.inputs[-1].shape
        if node.op.template == "matmul":  # has its own threads over rows and columns
            return 0
        if node.op.template is not None:  # the weight gradient: parts of the batch, unless its blocks are tasks enough
            k, per_group, *window = node.types[0].shape
            blocks = -(-k // 64) * -(-per_group * math.prod(window) // 320)
            parts = min(-(-TASKS // blocks), x[0])
            return parts if parts > 1 else 0
        kept, size = node.types[0].size, node.inputs[0].type.size
        long = kept < 1024 and size // max(kept, 1) >= 4096
        return next((s for s in (16, 8, 4, 2) if x[node.attrs["dims"][0]] % s == 0), 0) if long else 0

    return Policy(splits=splits, min_channels=12, tiles=False)  # siblings stay apart: docs/cpu.md has the measurement


class CpuExecutable(CpuBinary):
    """The binary of a schedule, which also knows its launches and its source."""

    def __init__(self, schedule: Schedule, kernels: Sequence[Sequence[Kernel]], plan: MemoryPlan, freeze: bool) -> None:
        self._source, buffers = generate(schedule, kernels, plan, freeze)
        self._launches = len(schedule.launches)
        path = build(self._source.units(units(self._launches)), "program")
        outputs = {name: v.type for name, v in schedule.graph.outputs.items()}
        super().__init__(path, plan.size, buffers.entries, outputs, len(buffers.frozen))

    def save(self, path: str | Path, program: Runnable) -> None:
        """Writes ``program``, whose executable this is, as the folder ``path``. Raises OSError."""
        save(path, self, program)

    def time(self, inputs: Mapping[str, Any], state: State) -> list[float]:
        outputs = self._bind(inputs, state)
        seconds = []
        for i in range(self._launches):
            start = time.perf_counter()
            self._library.graphrt_launch(i, self._table)
            seconds.append(time.perf_counter() - start)
        self._written(state)
        del outputs  # the launches write to their memory
        return seconds

    def source(self, launch: int | None) -> str:
        if launch is None:
            return str(self._source)
        return self._source.launches[launch]

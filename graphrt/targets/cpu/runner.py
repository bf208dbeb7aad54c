"""From a schedule to a cpu program that runs: generated, built, loaded."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from graphrt.config import Flags
from graphrt.ir import Graph, Node
from graphrt.op import Order
from graphrt.passes.pipeline import Policy
from graphrt.runtime.lowering import Interface, Lowering
from graphrt.runtime.program import Runnable
from graphrt.runtime.state import State
from graphrt.targets.cpu.binary import CpuBinary
from graphrt.targets.cpu.build import build, folder, units
from graphrt.targets.cpu.codegen import Source, generate
from graphrt.targets.cpu.generated import TASKS
from graphrt.targets.cpu.known import Known, find, keep, key
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


def executable(
    graph: Graph, orders: Mapping[str, Order], freeze: bool, lowered: Callable[[], Lowering]
) -> tuple[CpuExecutable, Interface]:
    """The program of ``graph``, and its interface; ``lowered`` is called for one that the cache does not know.

    Raises TargetError.
    """
    number = key(graph, orders, freeze) if Flags.read().known else ""
    if (known := find(number)) is not None:
        return CpuExecutable(known, lambda: generate(lowered(), freeze)[0]), known.interface
    lowering = lowered()
    text, buffers = generate(lowering, freeze)
    object = build(text.units(units(len(text.kernels))), "program", list(text.kernels))
    assert lowering.plan is not None
    interface, frozen = Interface.of(lowering.graph), len(buffers.frozen)
    known = Known(interface, object.name, lowering.plan.size, list(buffers.entries), frozen, len(text.launches))
    keep(number, known)
    return CpuExecutable(known, lambda: text), interface


class CpuExecutable(CpuBinary):
    """The binary of a schedule, which also knows its launches and its source."""

    def __init__(self, known: Known, text: Callable[[], Source]) -> None:
        self._text, self._launches = text, known.launches
        super().__init__(folder() / known.object, known.arena, known.entries, known.interface.outputs, known.frozen)

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
        text = self._text()
        return str(text) if launch is None else text.launch(launch)

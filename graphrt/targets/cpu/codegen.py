"""Prints a program as C: one text per kernel, under its plan line, and tables of what each launch runs, and on which places.

Launches whose kernels have the same text share it, as the steps of a recurrence do, or the parts of a concatenation: the text
says what is computed, the tables where. What a C compiler has to do grows with the kernels that differ, not with the graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from graphrt.config import Flags
from graphrt.passes.decision import Decision
from graphrt.passes.open_batch import ROWS
from graphrt.runtime.lowering import Lowering
from graphrt.schedule.kernel_ir import CollectiveKernel, Kernel, LoopKernel, TemplateKernel
from graphrt.schedule.memory import blocks, loads
from graphrt.targets.cpu.batch import RowLimit
from graphrt.targets.cpu.build import has_pairs, vector_bytes
from graphrt.targets.cpu.generated import LoopPrinter
from graphrt.targets.cpu.launches import Part, is_small, tables
from graphrt.targets.cpu.loop import RepeatPrinter, body_buffers
from graphrt.targets.cpu.printer import Buffers, CPrinter
from graphrt.targets.cpu.template import TemplatePrinter
from graphrt.targets.cpu.variants import Processor
from graphrt.types import float32


@dataclass(frozen=True)
class Source:
    """The C text of a program: its head, the text of each kernel by name, and the parts of each launch.

    ``decisions`` say which loops compute each template. ``fresh`` names the kernels that store where they do not load, so that
    a compiler must leave something of them; of another, which may find there what it stores, it need not.
    """

    head: str
    kernels: dict[str, str]
    launches: list[list[Part]]
    decisions: list[Decision]
    most: int = 0  # the largest batch of a program for any, and the entry of how many rows there are
    count: int = 0
    fresh: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return "\n".join([self.head, *self.kernels.values(), self.tables()])

    def launch(self, number: int) -> str:
        """The texts of the kernels of a launch."""
        return "\n".join(self.kernels[name] for name in dict.fromkeys(part.kernel for part in self.launches[number]))

    def units(self, count: int) -> list[str]:
        """The program as at most ``count`` texts that can be compiled side by side; the first has the tables."""
        texts = list(self.kernels.values())
        count = max(min(count, len(texts)), 1)
        shares = ["\n".join(texts[i::count]) for i in range(count)]
        return ["\n".join([self.head, share, *([] if i else [self.tables()])]) for i, share in enumerate(shares)]

    def tables(self) -> str:
        """Tables of what there is to run, for the functions that a program exports (``kernels/c/program.c``)."""
        lines = [
            "/* tables */",
            *tables(self.launches),
            f"const grt_plan GRT_PLAN = {{parts, places, first, LAUNCHES, PLACES, {self.most}, {self.count}}};",
        ]
        return "\n".join(lines) + "\n"


def generate(
    lowering: Lowering, freeze: bool = False, checked: bool = False, invariant: bool = False
) -> tuple[Source, Buffers]:
    """The C source of a program and the table of its buffers.

    ``freeze`` keeps packed what no launch writes; ``checked`` looks at each index before it is used; ``invariant`` chooses
    loops without regard to the batch.
    """
    buffers = _buffers(lowering, freeze, checked)
    flags, vector = Flags.read(), vector_bytes()
    processor = Processor(vector // float32.itemsize, flags.winograd, flags.pairs and has_pairs(), invariant)
    names: dict[str, str] = {}  # the kernel of each text
    headers = ("runtime.h", "elementwise.h", "stream.h", *(("checked.h",) if checked else ()))
    limit = RowLimit.of(lowering.graph) if not checked else RowLimit()
    count = next((i for i, entry in enumerate(buffers.entries, 1) if entry == ("input", ROWS)), 0)
    limit = limit if count else RowLimit()
    source = Source("".join(f'#include "{header}"\n' for header in headers), {}, [], [], limit.most, count)
    source.launches.extend(_Printed(source, names, processor, limit).launches(lowering.kernels, buffers))
    return source, buffers


@dataclass(frozen=True)
class _Printed:
    """The kernels printed so far: ``names`` has that of each text; ``processor`` has the lanes of a vector of floats."""

    source: Source
    names: dict[str, str]
    processor: Processor
    limit: RowLimit

    def launches(self, kernels: Sequence[Sequence[Kernel]], buffers: Buffers) -> list[list[Part]]:
        """The launches of ``kernels`` on ``buffers``, whose texts are added to the source."""
        found: list[list[Part]] = []
        for launch in kernels:
            found.append([])
            alone = is_small(launch)
            for kernel in launch:
                if isinstance(kernel, CollectiveKernel) or not any(store.size for b in blocks(kernel) for store in b.stores):
                    continue  # other processes take part in it, or its results have no elements
                group, printer = kernel.group, self._printer(kernel, buffers)
                tasks, lines = printer.generate()
                text = "\n".join([*lines, ""])
                if text not in self.names:
                    self.names[text] = group.name + printer.suffix
                    self.source.kernels[self.names[text]] = f"/* {_comment(str(group))} */\n{printer.named(text)}"
                    self.source.decisions.extend(printer.decisions)
                    if _is_fresh(kernel):
                        self.source.fresh.append(group.name)
                limited = self.limit.limits(kernel)
                found[-1].append(Part(group.name, self.names[text], tasks, printer.places, limited, alone))
        return found

    def _printer(self, kernel: Kernel, buffers: Buffers) -> CPrinter:
        """The printer of ``kernel``, and of what a loop runs."""
        if isinstance(kernel, LoopKernel):
            inner = body_buffers(kernel, buffers.checked)
            return RepeatPrinter(kernel, buffers, inner, self.launches(kernel.body.kernels, inner))
        if isinstance(kernel, TemplateKernel):
            lanes = self.processor.lanes * float32.itemsize // kernel.dtype.itemsize
            return TemplatePrinter(kernel, buffers, replace(self.processor, lanes=lanes), self.limit.limits(kernel))
        assert not isinstance(kernel, CollectiveKernel)
        return LoopPrinter(kernel, buffers)


def _is_fresh(kernel: Kernel) -> bool:
    """Whether ``kernel`` stores in a tensor of which it loads nothing."""
    loaded = {load[0] for block in blocks(kernel) for load in loads(block)}
    return any(store.size and store.slot not in loaded for block in blocks(kernel) for store in block.stores)


def _buffers(lowering: Lowering, freeze: bool, checked: bool) -> Buffers:
    """The table of the program's buffers: entry 0 is the arena, the others inputs, state and outputs by name."""
    schedule, plan = lowering.schedule, lowering.plan
    assert schedule is not None and plan is not None
    sources = {op: [n.name for n in schedule.graph.nodes if n.op.name == op] for op in ("input", "parameter")}
    names = {"input": sources["input"], "state": sources["parameter"], "output": list(schedule.graph.outputs)}
    keys = [(space, name) for space in names for name in names[space]]
    stored = {place.slot for places in schedule.stores.values() for place in places}
    state = {place.slot for place in schedule.home.values() if place.slot.space == "state"} if freeze else set()
    return Buffers({key: i for i, key in enumerate(keys, 1)}, plan, state - stored, checked)


def _comment(text: str) -> str:
    """``text`` with nothing in it that could end a C comment or continue a line."""
    return text.replace("*/", "* /").replace("/*", "/ *").replace("\\", "/").replace("\n", " ").replace("??/", "")

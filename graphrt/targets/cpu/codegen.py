"""Prints a program as C: one text per kernel, under its plan line, and tables of what each launch runs, and on which places.

Launches whose kernels have the same text share it, as the steps of a recurrence do, or the parts of a concatenation: the text
says what is computed, the tables where. What a C compiler has to do grows with the kernels that differ, not with the graph.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphrt.config import Flags
from graphrt.passes.decision import Decision
from graphrt.runtime.lowering import Lowering
from graphrt.schedule.kernel_ir import Kernel, TemplateKernel
from graphrt.schedule.memory import blocks
from graphrt.targets.cpu.build import vector_bytes
from graphrt.targets.cpu.generated import LoopPrinter
from graphrt.targets.cpu.printer import Buffers, CPrinter, PlaceInTable
from graphrt.targets.cpu.template import TemplatePrinter
from graphrt.targets.cpu.variants import Processor


@dataclass(frozen=True)
class Part:
    """A group's part of a launch: a kernel, in ``tasks`` tasks (None: the kernel shares out its work itself)."""

    group: str
    kernel: str
    tasks: int | None
    places: list[PlaceInTable]


@dataclass(frozen=True)
class Source:
    """The C text of a program: its head, the text of each kernel by name, and the parts of each launch.

    ``decisions`` say which loops compute each template.
    """

    head: str
    kernels: dict[str, str]
    launches: list[list[Part]]
    decisions: list[Decision]

    def __str__(self) -> str:
        return "\n".join([self.head, *self.kernels.values(), self.entry()])

    def launch(self, number: int) -> str:
        """The texts of the kernels of a launch."""
        return "\n".join(self.kernels[name] for name in dict.fromkeys(part.kernel for part in self.launches[number]))

    def units(self, count: int) -> list[str]:
        """The program as at most ``count`` texts that can be compiled side by side; the first has the exported functions."""
        texts = list(self.kernels.values())
        count = max(min(count, len(texts)), 1)
        shares = ["\n".join(texts[i::count]) for i in range(count)]
        return ["\n".join([self.head, shares[0], self.entry()])] + [
            "\n".join(["#define GRT_UNIT", self.head, share]) for share in shares[1:]
        ]

    def entry(self) -> str:
        """Tables of what there is to run, and the exported functions: one launch by number, and the whole program."""
        tasks = {part.kernel: part.tasks for launch in self.launches for part in launch}
        places, parts, first = list[str](), list[str](), [0]
        for number, launch in enumerate(self.launches):
            start = 0
            for part in launch:
                what = f"{{.run = {part.kernel}}}" if part.tasks is None else f"{{.task = {part.kernel}_task}}"
                size = f"{start}, {part.tasks or 0}, {len(places)}, {len(part.places)}"
                parts.append(f"  {{{what}, {size}}}, /* launch {number}: {part.group} */")
                places += [f"{{{entry}, {offset}}}" for entry, offset in part.places]
                start += part.tasks or 0
            first.append(len(parts))
        most = max((sum(len(part.places) for part in launch) for launch in self.launches), default=0)
        lines = [
            "/* entry */",
            *(f"GRT_HIDDEN void {name}{'(void **)' if t is None else '_task(long, void **)'};" for name, t in tasks.items()),
            f"enum {{ LAUNCHES = {len(self.launches)}, PLACES = {max(most, 1)} }};",
            "static const grt_place places[] = {",
            *(f"  {', '.join(places[i : i + 8])}," for i in range(0, len(places), 8)),
            "  {0, 0},",
            "};",
            "static const grt_part parts[] = {",
            *parts,
            "  {{0}, 0, 0, 0, 0},",
            "};",
            f"static const int first[] = {{{', '.join(map(str, first))}}}; /* of the parts of each launch */",
            "void graphrt_launch(int number, void **table) {",
            "  void *there[PLACES];",
            "  grt_launch(parts + first[number], first[number + 1] - first[number], places, there, table);",
            "}",
            "void graphrt_run(void **table) { for (int i = 0; i < LAUNCHES; i++) graphrt_launch(i, table); }",
        ]
        return "\n".join(lines) + "\n"


def generate(lowering: Lowering, freeze: bool = False, checked: bool = False) -> tuple[Source, Buffers]:
    """The C source of a program and the table of its buffers.

    ``freeze`` keeps packed what no launch writes; ``checked`` looks at each index before it is used.
    """
    buffers = _buffers(lowering, freeze, checked)
    vector, winograd = vector_bytes(), Flags.read().winograd
    names: dict[str, str] = {}  # the kernel of each text
    headers = ("runtime.h", "elementwise.h", "stream.h", *(("checked.h",) if checked else ()))
    source = Source("".join(f'#include "{header}"\n' for header in headers), {}, [], [])
    for launch in lowering.kernels:
        source.launches.append([])
        for kernel in launch:
            if not any(store.size for block in blocks(kernel) for store in block.stores):
                continue  # its results have no elements
            group, printer = kernel.group, _printer(kernel, buffers, vector, winograd)
            tasks, lines = printer.generate()
            text = "\n".join([*lines, ""])
            if text not in names:
                names[text] = group.name
                source.kernels[group.name] = f"/* {_comment(str(group))} */\n{printer.named(text)}"
                source.decisions.extend(printer.decisions)
            source.launches[-1].append(Part(group.name, names[text], tasks, printer.places))
    return source, buffers


def _printer(kernel: Kernel, buffers: Buffers, vector: int, winograd: int) -> CPrinter:
    """The printer of ``kernel`` for a machine with vectors of so many bytes."""
    if isinstance(kernel, TemplateKernel):
        return TemplatePrinter(kernel, buffers, Processor(vector // kernel.dtype.itemsize, winograd))
    return LoopPrinter(kernel, buffers)


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

"""Prints a program as C: one function per group, the plan line as its comment, and a table of the launches."""

from __future__ import annotations

from dataclasses import dataclass

from graphrt.config import Flags
from graphrt.runtime.lowering import Lowering
from graphrt.schedule.kernel_ir import TemplateKernel
from graphrt.targets.cpu.generated import LoopPrinter
from graphrt.targets.cpu.printer import Buffers, Printer


@dataclass(frozen=True)
class Source:
    """The C text of a program: what comes first, one text a launch, and the exported functions."""

    head: str
    launches: list[str]
    entry: str

    def __str__(self) -> str:
        launches = (f"/* launch {number} */\n{text}" for number, text in enumerate(self.launches))
        return "\n".join([self.head, *launches, self.entry])

    def units(self, count: int) -> list[str]:
        """The program as at most ``count`` texts that can be compiled side by side; the first has the exported functions."""
        count = max(min(count, len(self.launches)), 1)
        shares = ["\n".join(self.launches[i::count]) for i in range(count)]
        return ["\n".join([self.head, shares[0], self.entry])] + [
            "\n".join(["#define GRT_UNIT", self.head, share]) for share in shares[1:]
        ]


def generate(lowering: Lowering, freeze: bool = False) -> tuple[Source, Buffers]:
    """The C source of a program and the table of its buffers; ``freeze`` keeps packed what no launch writes."""
    schedule, plan = lowering.schedule, lowering.plan
    assert schedule is not None and plan is not None
    entries: dict[tuple[str, str], int] = {}
    for space, names in (
        ("input", [n.name for n in schedule.graph.nodes if n.op.name == "input"]),
        ("state", [n.name for n in schedule.graph.nodes if n.op.name == "parameter"]),
        ("output", list(schedule.graph.outputs)),
    ):
        for name in names:
            entries[space, name] = len(entries) + 1
    kept = {place.slot for place in schedule.home.values() if place.slot.space == "state"} if freeze else set()
    buffers = Buffers(entries, plan, kept - {place.slot for places in schedule.stores.values() for place in places})
    winograd = Flags.read().winograd
    head = [f"#define GRT_FROZEN_ENTRY {len(entries) + 1}"] if freeze else []
    head += ['#include "runtime.h"', '#include "elementwise.h"', '#include "stream.h"', ""]
    texts = []
    for launch, group in zip(lowering.kernels, schedule.launches, strict=True):
        lines: list[str] = []
        tasks = []
        for kernel in launch:
            lines.append("/* " + _comment(str(kernel.group)) + " */")
            if isinstance(kernel, TemplateKernel):
                lines += Printer(kernel, buffers, winograd).template(kernel)
            else:
                count, text = LoopPrinter(kernel, buffers, winograd).generate(kernel)
                lines += text
                tasks.append((kernel.group.name, count))
            lines.append("")
        if tasks:
            lines += _launch(group.name, tasks)
        texts.append("\n".join(lines))
    return Source("\n".join(head), texts, _entry([group.name for group in schedule.launches])), buffers


def _comment(text: str) -> str:
    """``text`` with nothing in it that could end a C comment or continue a line."""
    return text.replace("*/", "* /").replace("/*", "/ *").replace("\\", "/").replace("\n", " ").replace("??/", "")


def _entry(names: list[str]) -> str:
    """The exported functions: one launch by number, and the whole program."""
    declared = [f"GRT_LAUNCH void {', '.join(f'{name}(void **)' for name in names)};"] if names else []
    lines = [
        "/* entry */",
        *declared,
        f"static void (*const launches[])(void **) = {{{', '.join(names) or '0'}}};",
        "void graphrt_launch(int number, void **table) { launches[number](table); }",
        f"void graphrt_run(void **table) {{ for (int i = 0; i < {len(names)}; i++) launches[i](table); }}",
    ]
    return "\n".join(lines) + "\n"


def _launch(name: str, tasks: list[tuple[str, int]]) -> list[str]:
    """One parallel launch over the tasks of several independent kernels."""
    if len(tasks) == 1:
        return [f"GRT_LAUNCH void {name}(void **table) {{ GRT_PARALLEL({name}_task, {tasks[0][1]}, table); }}", ""]
    lines, start = [f"static void {name}_all(long task, void **table) {{"], 0
    for i, (kernel, count) in enumerate(tasks):
        end = start + count
        condition = "else" if i == len(tasks) - 1 else f"{'else ' if i else ''}if (task < {end})"
        lines.append(f"  {condition} {kernel}_task(task - {start}, table);")
        start = end
    return [*lines, "}", f"GRT_LAUNCH void {name}(void **table) {{ GRT_PARALLEL({name}_all, {start}, table); }}", ""]

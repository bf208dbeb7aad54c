"""Launches as tables: what each runs, and on which places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphrt.schedule.kernel_ir import Kernel
from graphrt.targets.cpu.printer import PlaceInTable

ALONE = 1 << 15  # operations, or elements read and written: about a microsecond


@dataclass(frozen=True)
class Part:
    """A group's part of a launch: a kernel, in ``tasks`` tasks (None: the kernel shares out its work itself).

    ``rows`` says that it goes through the rows of a batch, and stops at the last; ``alone`` that one thread is done with the
    launch before others would have begun.
    """

    group: str
    kernel: str
    tasks: int | None
    places: list[PlaceInTable]
    rows: bool = False
    alone: bool = False


def is_small(kernels: Sequence[Kernel]) -> bool:
    """Whether one thread runs a launch of ``kernels`` sooner than several, of which some may have to wake up."""
    groups = [kernel.group for kernel in kernels]
    nodes = [node for group in groups for node in (*group.nodes, *group.inlined)]
    work = sum(max(n.op.flops(n), sum(v.type.size for v in (*n.outputs, *n.inputs))) for n in nodes)
    return work + sum(2 * v.type.size for group in groups for v in group.copies) <= ALONE


def tables(launches: Sequence[Sequence[Part]], prefix: str = "") -> list[str]:
    """The lines of tables, whose names begin with ``prefix``, of what there is to run."""
    tasks = {part.kernel: part.tasks for launch in launches for part in launch}
    places, parts, first = list[str](), list[str](), [0]
    for number, launch in enumerate(launches):
        start = 0
        for part in launch:
            what = f"{{.run = {part.kernel}}}" if part.tasks is None else f"{{.task = {part.kernel}_task}}"
            size = f"{start}, {part.tasks or 0}, {len(places)}, {len(part.places)}, {int(part.rows)}, {int(part.alone)}"
            parts.append(f"  {{{what}, {size}}}, /* launch {number}: {part.group} */")
            places += [f"{{{entry}, {offset}}}" for entry, offset in part.places]
            start += part.tasks or 0
        first.append(len(parts))
    most = max((sum(len(part.places) for part in launch) for launch in launches), default=0)
    return [
        *(f"GRT_HIDDEN void {name}{'(void **)' if t is None else '_task(long, void **)'};" for name, t in tasks.items()),
        f"enum {{ {prefix}LAUNCHES = {len(launches)}, {prefix}PLACES = {max(most, 1)} }};",
        f"static const grt_place {prefix}places[] = {{",
        *(f"  {', '.join(places[i : i + 8])}," for i in range(0, len(places), 8)),
        "  {0, 0},",
        "};",
        f"static const grt_part {prefix}parts[] = {{",
        *parts,
        "  {{0}, 0, 0, 0, 0, 0, 0},",
        "};",
        f"static const int {prefix}first[] = {{{', '.join(map(str, first))}}}; /* of the parts of each launch */",
    ]

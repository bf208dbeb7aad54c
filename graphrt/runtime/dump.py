"""GRAPHRT_DUMP: every stage of a compilation as text, and each kernel as a script that runs it alone."""

from __future__ import annotations

from pathlib import Path

from graphrt.ir import Graph, Value
from graphrt.passes.stages import STAGES, Fusion
from graphrt.runtime.checking import between
from graphrt.runtime.lowering import Lowering
from graphrt.runtime.program import Program
from graphrt.schedule.group import through
from graphrt.schedule.kernel_text import text

SCRIPT = '''"""{title}

Runs, checks and times this kernel of a program for {target} alone, on random data:

    python {name} [--target cpu] [--runs 20] [--seed 0]
"""

from graphrt.inspection.kernel import main

GRAPH = "\\n".join(
    [
{lines}
    ]
)

if __name__ == "__main__":
    main(GRAPH, {kind!r}, {fusion!r})
'''


def dump(program: Program, folder: Path) -> Path:
    """Writes what became of ``program`` to a new folder in ``folder``, and returns that. Raises OSError.

    In it are the graph after each pass, the groups with what was decided, the kernels in Kernel IR, the target's own stages up
    to the source, the plan of the memory, and for each launch ``repro_NAME.py``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    number = 0
    while True:  # processes may write side by side
        path = folder / f"{number:03}_{program.target.replace(':', '_')}"
        try:
            path.mkdir()
            break
        except FileExistsError:
            number += 1
    for i, (name, graph) in enumerate(program.passes):
        (path / f"pass_{i:02}_{name}.txt").write_text(str(graph))
    (path / "decisions.txt").write_text("".join(f"{d}\n" for d in program.decisions))
    lowering, schedule = program._lower(), program.schedule
    if schedule is None:
        return path
    (path / "groups.txt").write_text(program.plan_text())
    (path / "kernel_ir.txt").write_text("\n".join(text(kernel) for launch in lowering.kernels for kernel in launch))
    (path / "memory.txt").write_text(f"{program.plan}\n")
    for name, stage in program._executable.stages(lowering).items():
        (path / name).write_text(stage)
    for i, launch in enumerate(schedule.launches):
        name = f"repro_{launch.name}.py"
        (path / name).write_text(script(program, name, i))
    return path


def script(program: Program, name: str, number: int) -> str:
    """The script ``name`` that runs launch ``number`` of ``program`` alone."""
    lowering = program._lower()
    assert lowering.schedule is not None
    title = lowering.schedule.launches[number].title().replace("\\", "/").replace('"""', "'''")
    lines = "\n".join(f"        {line!r}," for line in str(kernel_graph(lowering, number)).splitlines())
    fusion = to_come(lowering) & program.fusion
    kind = program.target.partition(":")[0]
    return SCRIPT.format(title=title, target=program.target, name=name, lines=lines, kind=kind, fusion=fusion.named)


def to_come(lowering: Lowering) -> Fusion:
    """The stages that the graph of a kernel alone has not been through: all but the passes."""
    return Fusion(frozenset(STAGES) - {name for name, _ in lowering.passes})


def kernel_graph(lowering: Lowering, number: int) -> Graph:
    """The graph of launch ``number``: its inputs are what it reads, its outputs what it stores, as they lie in memory."""
    schedule = lowering.schedule
    assert schedule is not None
    groups = schedule.launches[number].groups
    stored = list(dict.fromkeys(v for g in groups for v in (*g.values(), *g.copies) if (g, v) in schedule.stores))
    computed = {v for g in groups for n in (*g.nodes, *g.inlined) for v in n.outputs}
    known = {v for g in groups for v in g.inputs}
    known |= {v for v in schedule.buffered if computed.isdisjoint(through(v))}  # read as one
    nodes = between(lowering.graph, stored, known)
    reads = dict.fromkeys([*(v for n in nodes for v in n.inputs), *stored])
    found, table = Graph(), dict[Value, Value]()
    for v in reads:
        if v in known:
            table[v] = found.input(v.name, v.shape, v.dtype, v.type.order)
    for node in nodes:
        copy = found.adopt(node, [table[v] for v in node.inputs])
        table.update(zip(node.outputs, copy.outputs, strict=True))
    for v in stored:
        found.output(v.name, table[v], v.type.order or range(v.ndim))
    return found

"""``program.report``: everything that a program decided, as one page that works without a network."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphrt.ir import Graph, Node
from graphrt.runtime.explanation import modules
from graphrt.runtime.lowering import uncollected
from graphrt.runtime.machine import DataSheet, expected
from graphrt.runtime.page import document
from graphrt.runtime.profile import Profile
from graphrt.schedule.group import Launch
from graphrt.schedule.loops import loops
from graphrt.text import equation, result_line

if TYPE_CHECKING:
    from graphrt.runtime.program import Program

AROUND = 2  # lines around a change that are shown
BODY = """
<header><h1 id="title"></h1><p id="totals"></p>
<nav id="tabs"></nav>
<input id="search" type="search" placeholder="node, op or launch" autocomplete="off"><ol id="found"></ol></header>
<main id="main"></main>
"""


def write(
    program: Program, path: str | Path, profile: Profile | None, kernels: Sequence[Any], device: DataSheet | None, title: str
) -> None:
    """Writes the page of ``program`` to ``path``, with the times of ``profile`` and the registers of ``kernels`` where given.

    Raises OSError.
    """
    assets = resources.files("graphrt.runtime") / "assets"
    style, script = ((assets / f"report.{kind}").read_text() for kind in ("css", "js"))
    with uncollected():
        page = document(title, BODY, style, script, collect(program, profile, kernels, device, title))
    Path(path).write_text(page)


def collect(
    program: Program, profile: Profile | None, kernels: Sequence[Any], device: DataSheet | None, title: str
) -> dict[str, Any]:
    """The content of the page, as plain data."""
    explanation, lowering, schedule, plan = program.explain(), program._lower(), program.schedule, program.plan
    assert schedule is not None and plan is not None
    ledger, launches = explanation.ledger, schedule.launches
    numbers = {g: i for i, launch in enumerate(launches) for g in launch.groups}
    makers = {v: numbers[g] for g in numbers for v in (*g.outputs, *g.copies)}
    texts: dict[str, int] = {}
    peaks = (device.memory, device.float32, device.half) if device else ()
    rows = []
    every = zip(launches, modules(launches), lowering.kernels, lowering.costs, strict=True)
    for i, (launch, module, parts, cost) in enumerate(every):
        inside = [g for loop in loops(parts) for g in loop.body.schedule.groups()]
        predicted, bound = expected(cost, device) if device else (0.0, "")
        reads = dict.fromkeys(v for g in launch.groups for v in g.inputs)
        row = {
            "title": launch.title(),
            "about": launch.description(),
            "module": module,
            "phase": Counter(g.phase for g in launch.groups if g.nodes or len(launch.groups) == 1).most_common(1)[0][0],
            "groups": [_group(g) for g in (*launch.groups, *inside)],
            "reads": [[v.name, str(v.type), makers.get(v, -1)] for v in reads],
            "writes": [[v.name, str(v.type)] for g in launch.groups for v in (*g.outputs, *g.copies)],
            "read": cost.read,
            "written": cost.written,
            "flops": cost.flops,
            "predicted": predicted,
            "bound": bound,
            "source": texts.setdefault(program.source(i), len(texts)),
        }
        if profile is not None:
            row |= {"seconds": profile[i].seconds, "low": profile[i].low, "high": profile[i].high}
        if (kernel := next((k for k in kernels if k.title == launch.description()), None)) is not None:
            row["kernel"] = {name: getattr(kernel, name) for name in ("registers", "spills", "shared", "blocks", "warps")}
        rows.append(row)
    return {
        "title": title,
        "target": program.target,
        "launches": rows,
        "language": "c" if program.target in ("cpu", "debug") else "python",
        "sources": [*texts],
        "decisions": [[d.stage, d.node, d.other, d.taken, d.saved, str(d)] for d in explanation.decisions],
        "ledger": {"unfused": ledger.unfused, "fused": ledger.fused, "passes": dict(ledger.passes)},
        "passes": list(_passes(program.passes)),
        "arena": {
            "size": plan.size,
            "separate": plan.unplanned,
            "least": plan.bound,
            "slots": [
                [s.name, str(s.type), at, s.type.nbytes, *plan.lifetime[s], plan.alias[s].name if s in plan.alias else ""]
                for s, at in plan.offset.items()
            ],
        },
        "compiling": {"all": program.compile_seconds, **lowering.seconds},
        "device": [device.name, *(1e3 * n for n in peaks), device.measured] if device else None,
    }


def _group(group: Any) -> dict[str, Any]:
    """A group with its nodes, those computed on load first."""
    inside = {v: n.name for n in (*group.inlined, *group.nodes) for v in n.outputs}

    def node(n: Node, inlined: bool) -> list[Any]:
        where = f"{os.path.basename(n.origin.file)}:{n.origin.line}"
        return [n.name, n.op.name, str(n.types[0]), where, n.origin.phase, inlined, sorted(_inside(n, inside))]

    nodes = [*(node(n, True) for n in group.inlined), *(node(n, False) for n in group.nodes)]
    return {"line": Launch([group]).title(), "label": group.label, "nodes": nodes, "stopped": [*dict.fromkeys(group.stopped)]}


def _inside(node: Node, inside: dict[Any, str]) -> set[str]:
    """The nodes of the group that ``node`` reads, seen through views."""
    found, pending = set[str](), list(node.inputs)
    while pending:
        v = pending.pop()
        if v in inside:
            found.add(inside[v])
        elif v.node.op.kind.value == "view":
            pending += v.node.inputs
    return found


def _passes(passes: Sequence[tuple[str, Graph]]) -> Iterator[list[Any]]:
    """Name, nodes, and lines of each pass: of the first all, then what differs, with what is around it.

    A line names the values that it reads, so that a node that goes changes no other line.
    """
    before, known, last = list[str](), dict[str, tuple[Any, str]](), None
    for name, graph in passes:
        if graph is last:
            yield [name, len(graph.nodes), []]
            continue
        known = {n.name: _line(n, known) for n in graph.nodes}
        lines = [line for _, line in known.values()]
        lines += [result_line("output", result, v.name, graph.orders.get(result)) for result, v in graph.outputs.items()]
        lines += [result_line("update", result, v.name) for result, v in graph.updates.items()]
        yield [name, len(graph.nodes), [f" {line}" for line in lines] if last is None else changes(before, lines)]
        before, last = lines, graph


def _line(node: Node, known: Mapping[str, tuple[Any, str]]) -> tuple[Any, str]:
    """All that the line of ``node`` is made of, and the line: the ``known`` one of its name if the pass before left it so."""
    reads = [v.name for v in node.inputs]
    made_of = node.op, node.types, node.attrs, node.origin, reads  # most are the very objects of before
    if (old := known.get(node.name)) is not None and old[0] == made_of:
        return old
    return made_of, equation(node, dict(zip(node.inputs, reads, strict=True)))


def changes(before: Sequence[str], after: Sequence[str]) -> list[str]:
    """The lines that go (-) and come (+), with the two around them; behind @@ is the place of each stretch in both.

    No line is twice in ``before`` or in ``after``: those that both have, as many as stand in one order, are what stays.
    """
    place = {line: n for n, line in enumerate(before)}
    stays = _rising([(place[line], n) for n, line in enumerate(after) if line in place])
    begins = [(0, 0), *((i + 1, j + 1) for i, j in stays)]  # of what changes between two lines that stay, in both
    ends = [*stays, (len(before), len(after))]
    found, said = list[str](), -AROUND - 1  # up to which of ``stays`` is said, but for what is around
    for n in (n for n, (begin, end) in enumerate(zip(begins, ends, strict=True)) if begin != end):
        found += [f" {before[i]}" for i, _ in stays[max(said, 0) : max(min(said + AROUND, n), 0)]]
        first = max(n - AROUND, 0)
        if first > said + AROUND or not found:
            i, j = stays[first] if first < n else begins[n]
            found.append(f"@@ -{i + 1} +{j + 1} @@")
        found += [f" {before[i]}" for i, _ in stays[max(first, said + AROUND) : n]]
        (i, j), (to, at) = begins[n], ends[n]
        found += [*(f"-{line}" for line in before[i:to]), *(f"+{line}" for line in after[j:at])]
        said = n
    return found + [f" {before[i]}" for i, _ in stays[said : said + AROUND] if found]


def _rising(pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The longest choice of ``pairs``, in their order, whose first numbers, none of which is there twice, rise.

    Most passes leave all in order; else by patience sorting.
    """
    if (firsts := [a for a, _ in pairs]) == sorted(firsts):
        return [*pairs]
    least, ends, before = list[int](), list[tuple[int, int]](), dict[tuple[int, int], tuple[int, int] | None]()
    for pair in pairs:
        length = bisect_left(least, pair[0])  # of the longest choice that it can follow
        before[pair] = ends[length - 1] if length else None
        least[length : length + 1], ends[length : length + 1] = [pair[0]], [pair]
    found, end = list[tuple[int, int]](), ends[-1] if ends else None
    while end is not None:
        found.append(end)
        end = before[end]
    return found[::-1]

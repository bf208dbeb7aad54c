"""Explanation: what a program decided and why, short enough to be read, with everything to be asked for."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from graphrt.errors import ArgumentError
from graphrt.node import Node
from graphrt.op import Kind
from graphrt.passes.decision import Decision
from graphrt.passes.stages import STAGES
from graphrt.runtime.lowering import Lowering
from graphrt.schedule.cost import launch_cost
from graphrt.schedule.group import Launch
from graphrt.schedule.loops import loops, plan_lines

REASONS = 14  # that a summary lists, the most frequent first
MODULES = 12


class Explanation:
    """The decisions of a program; printed, a summary of at most 60 lines: by stage, by reason and by module.

    ``chosen`` are the target's own, on the variants of templates; ``configurations`` are how kernels are launched, where that
    was chosen. Decisions in the bodies of loops are among them; they save none of the bytes that the program's launches move.
    """

    def __init__(self, lowering: Lowering, chosen: Sequence[Decision] = (), configurations: Sequence[Any] = ()) -> None:
        self.ledger, self.configurations = lowering.ledger, configurations
        bodies = [loop.body for loop in loops(kernel for kernels in lowering.kernels for kernel in kernels)]
        self.decisions = [*self.ledger.decisions, *chosen]
        self._launches: Sequence[Launch] = lowering.schedule.launches if lowering.schedule else ()
        self._costs = lowering.costs
        self._every = [*zip(self._launches, lowering.kernels, strict=True)]  # those of loops' bodies too
        self._every += [pair for body in bodies for pair in zip(body.schedule.launches, body.kernels, strict=True)]
        graphs = [*(graph for _, graph in lowering.passes), *(body.schedule.graph for body in bodies)]
        self._nodes = {n.name: n for graph in graphs for n in graph.nodes}
        self._modules_of = list(modules(self._launches))

    def __str__(self) -> str:
        more = "full() lists every decision; why(a, b), refused() and group(name) answer questions"
        return "\n".join([self.totals(), *self._fused(), *self._refusals(), *self._choices(), *self._modules(), more])

    def totals(self) -> str:
        """Launches, fusions, the bytes that are moved, and those that were saved."""
        fused, ledger = sum(d.fuses and d.taken for d in self.decisions), self.ledger
        moved = f"{ledger.fused} bytes moved of {ledger.unfused} without fusion"
        joined = sum(d.stage == "persistent" and d.taken for d in self.decisions)
        launches = f"{len(self._launches)} launches{f' joined in {len(self._launches) - joined}' if joined else ''}"
        return f"{launches}, {fused} edges fused, {moved}, {ledger.saved} bytes saved"

    def full(self) -> str:
        """Every decision with its reason, and the bytes that a fusion saves; the kernels' configurations; then the totals."""
        return "\n".join([*map(str, self.decisions), *map(str, self.configurations), self.totals()])

    def refused(self) -> list[Decision]:
        """The decisions against something."""
        return [d for d in self.decisions if not d.taken]

    def apart(self) -> list[Decision]:
        """For each launch but the first, why no other launch computes it: the last word on an edge between the two."""
        names = [{n.name for g in launch.groups for n in (*g.nodes, *g.inlined)} for launch in self._launches]
        labels = [{g.label for g in launch.groups} for launch in self._launches]
        refused, found = [d for d in self.decisions if d.fuses and not d.taken], list[Decision]()
        for i, launch in enumerate(self._launches[1:], 1):
            behind = [d for d in refused if d.node in names[i] and d.other in set().union(*labels[:i])]
            before = [d for d in refused if d.other in labels[i] and d.node in set().union(*names[:i])]
            within = [d for d in refused if d.node in names[i] and d.other in set().union(*names[:i])]
            first = launch.groups[0]
            stored = next((v.name for v in first.inputs if v.node.name in set().union(*names[:i])), "")
            why = f"reads {stored}, which is stored" if stored else "waits for nothing that another launch computes"
            before_it = self._launches[i - 1].groups[0].label
            change = f"one kernel had the loops of {first.label} and of {before_it}"
            if not stored and first.kind in ("pointwise", "reduction"):
                change += ", or only updates waited for it, which then shares a launch"
            every = [*behind, *before, *within, Decision("fusion", first.label, before_it, False, why, change=change)]
            found.append(every[0])
        return found

    def why(self, a: str, b: str) -> list[Decision]:
        """The decisions on nodes ``a`` and ``b``, or on ``a`` and what the choice is about ("channels-last", "matmul_tma").

        Raises ArgumentError for a name that is none.
        """
        known = self._nodes.keys() | {d.node for d in self.decisions} | {_about(d) for d in self.decisions}
        for name in (a, b):
            if name not in known:
                raise ArgumentError(f"{name!r} is no node of this program; {meant(name, self._nodes.values())}")
        found = [d for d in self.decisions if {d.node, _about(d)} == {a, b}]
        return found or self._together(a, b)

    def _together(self, a: str, b: str) -> list[Decision]:
        """The answer for two nodes of which nothing was decided: whether they share a kernel all the same."""
        for launch, _ in self._every:
            for group in launch.groups:
                names = {n.name for n in (*group.nodes, *group.inlined)}
                if {a, b} <= names:
                    return [Decision("fusion", a, b, True, f"both are in {group.name}, of {group.label}, by way of others")]
        return [Decision("fusion", a, b, False, "no edge between them was looked at: neither reads what the other computes")]

    def group(self, name: str) -> str:
        """The line of group ``name`` of the plan, its bytes and operations, and each decision on what it computes.

        Under a loop are the lines of its body, whose groups have names too: g2_0.

        Raises ArgumentError for a name that is none.
        """
        for launch, kernels in self._every:
            for group in launch.groups:
                if group.name == name:
                    cost = launch_cost(kernels)
                    names = {v.name for n in (*group.nodes, *group.inlined) for v in n.outputs}
                    about = [d for d in self.decisions if d.node in names and (d.other in names or not d.fuses)]
                    refused = [d for d in self.decisions if d.other == group.label and d.node not in names]
                    where = dict.fromkeys(f"  {n.name} at {n.origin.file}:{n.origin.line}" for n in group.nodes)
                    moved = f"  its launch moves {cost.bytes} bytes and computes {cost.flops} operations"
                    head = str(group) if len(launch.groups) > 1 else "\n".join(plan_lines(launch, kernels))
                    return "\n".join([head, moved, *where, *(f"  {d}" for d in (*about, *refused))])
        raise ArgumentError(f"there is no group {name!r}: groups are g0 to g{sum(len(x.groups) for x in self._launches) - 1}")

    def module(self, name: str) -> str:
        """The launches of module ``name``, such as layer1.0, with their bytes, and what was not fused in them and why.

        A launch belongs to the module whose parameters it reads, or to that of the launch before. Raises ArgumentError for a
        name that is none.
        """
        of = [i for i, module in enumerate(self._modules_of) if f"{module}.".startswith(f"{name}.")]
        if not of:
            known = dict.fromkeys(".".join(m.split(".")[: name.count(".") + 1]) for m in self._modules_of)
            raise ArgumentError(f"no launch belongs to a module {name!r}; there is {', '.join(filter(None, known)) or 'none'}")
        lines = [f"{_size(self._costs[i].bytes):>10}  {self._launches[i].title()}" for i in of]
        labels = {group.label for i in of for group in self._launches[i].groups}
        moved = sum(self._costs[i].bytes for i in of)
        return "\n".join(
            [
                f"{name}: {len(of)} launches move {_size(moved)}",
                *lines,
                *(f"  {d}" for d in self.decisions if d.fuses and not d.taken and d.other in labels),
            ]
        )

    def to_json(self) -> dict[str, Any]:
        """Launches, the ledger's totals and decisions as plain data."""
        launches = [
            {"name": launch.name, "title": launch.title(), "bytes": cost.bytes, "flops": cost.flops}
            for launch, cost in zip(self._launches, self._costs, strict=True)
        ]
        totals = {"unfused": self.ledger.unfused, "fused": self.ledger.fused, "passes": dict(self.ledger.passes)}
        return {"launches": launches, "bytes": totals, "decisions": [asdict(d) for d in self.decisions]}

    def _fused(self) -> Iterator[str]:
        taken = [d for d in self.decisions if d.taken and (d.fuses or d.saved)]
        stages = Counter(d.stage for d in taken)
        if stages or self.ledger.passes:
            yield "saved, by stage"
        for stage, saved in self.ledger.passes.items():
            yield f"  {stage:<12}{'pass':>6}{_size(saved):>12}  {STAGES[stage]}"
        for stage, count in stages.most_common():
            some = [d for d in taken if d.stage == stage]
            most = max(some, key=lambda d: d.saved)
            example = f"{most.node} into {most.other}" if most.fuses else most.node
            yield f"  {stage:<12}{count:>6}{_size(sum(d.saved for d in some)):>12}  such as {example}"

    def _refusals(self) -> Iterator[str]:
        refused = [d for d in self.decisions if d.fuses and not d.taken]
        kinds: dict[str, list[Decision]] = {}
        for d in refused:
            kinds.setdefault(self._general(d.reason), []).append(d)
        if kinds:
            yield "not fused, by reason"
        ordered = sorted(kinds.items(), key=lambda item: -len(item[1]))
        for reason, some in ordered[:REASONS]:
            yield f"  {len(some):>6}  {reason}: {some[0].node} into {some[0].other}"
        if len(ordered) > REASONS:
            yield f"  {sum(len(some) for _, some in ordered[REASONS:]):>6}  for {len(ordered) - REASONS} other reasons"

    def _general(self, reason: str) -> str:
        """``reason`` without the names of nodes, and without numbers."""
        return re.sub(r"\d+", "n", re.sub(r"[\w.]+", lambda m: "..." if m[0] in self._nodes else m[0], reason))

    def _choices(self) -> Iterator[str]:
        for stage in dict.fromkeys(d.stage for d in self.decisions if not d.fuses):
            of = [d for d in self.decisions if d.stage == stage]
            reasons = Counter(self._general(d.reason) for d in of if not d.taken)
            against = f", {len(of) - sum(d.taken for d in of)} not: {reasons.most_common(1)[0][0]}" if reasons else ""
            yield f"{stage}: {sum(d.taken for d in of)}{against}"

    def _modules(self) -> Iterator[str]:
        found: dict[str, list[int]] = {}
        for module, cost in zip(self._modules_of, self._costs, strict=True):
            found.setdefault(module.partition(".")[0], []).append(cost.bytes)
        if len(found) > 1:
            yield "by module"
            shown = sorted(found.items(), key=lambda item: -sum(item[1]))
            for name, moved in shown[:MODULES]:
                yield f"  {name or '(none)':<20}{len(moved):>5} launches{_size(sum(moved)):>12}"
            if len(shown) > MODULES:
                rest = [size for _, moved in shown[MODULES:] for size in moved]
                yield f"  {f'{len(shown) - MODULES} others':<20}{len(rest):>5} launches{_size(sum(rest)):>12}"


def meant(name: str, nodes: Iterable[Node]) -> str:
    """The ``nodes`` that who wrote ``name`` may have meant, for a message: a module's, an op's, or spelt like it."""
    names = {n.name: n for n in nodes}
    op = re.sub(r"_?\d+d?$", "", name.lower())
    found = [n.name for n in names.values() if any(v.name.startswith(f"{name}.") for v in n.inputs)]
    found = found or [n.name for n in names.values() if op in (n.op.name, n.name.rpartition("_")[0])]
    found = found or difflib.get_close_matches(name.lower(), names, 3)
    if not found:
        some = next((n.name for n in names.values() if n.op.kind is not Kind.SOURCE), "add_0")
        return f"nodes are named after their ops, as {some} is, and module names as conv1 stand for none"
    nearest = sorted(found, key=lambda one: -difflib.SequenceMatcher(None, name.lower(), one).ratio())
    return f"did you mean {' or '.join(nearest[:3])}?"


def _about(decision: Decision) -> str:
    """The thing that ``decision`` is about beside a node, a template's form without its tile."""
    return decision.other.partition(" ")[0] if decision.stage == "template" else decision.other


def modules(launches: Sequence[Launch]) -> Iterator[str]:
    """The module of each launch: that of a parameter it reads, or where it reads none of the launch before.

    An optimizer's state is named after its parameter, with more behind it: the shortest path is the parameter's.
    """
    module = ""
    for launch in launches:
        parameters = (v.node for g in launch.groups for v in g.inputs if v.node.op.name == "parameter")
        read = [name for n in parameters if "." in (name := n.attrs.get("copy_of", n.name))]
        module = min(read, key=lambda name: name.count(".")).rpartition(".")[0] if read else module
        yield module


def _size(count: int) -> str:
    """Bytes as people write them."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(count) >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count} B"

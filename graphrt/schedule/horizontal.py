"""Horizontal fusion: groups that do not wait for each other in one launch.

The generated ones that nothing waits for (all updates, the loss, running statistics) are as many launches as arguments ask
for; and so are, layer by layer, those of an optimizer that only these wait for, such as the norms of weights and gradients,
with what is tiny beside them. So are elementwise ones that wait for nothing: tiny ones, such as an optimizer's corrections,
and where templates compute tiles all, such as the halves of all weights; those that compute parts of one buffer; and reductions
of one template's sums of segments.

A reduction also runs beside a contraction. The finish of batch norm's sums is little work between two large kernels. In the
backward pass the weight gradient of the layer behind waits for nobody then, and takes it along:

    dgrad 2 -> sums of segments -> [finish | wgrad 2] -> dgrad 1 -> sums of segments -> [finish | wgrad 1] -> ...

What moves much has a launch of its own: beside a contraction its programs would have that one's registers, and few fit then.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import chain

import networkx as nx

from graphrt.ir import Value
from graphrt.op import Kind
from graphrt.passes.decision import Decision
from graphrt.schedule.concat_buffers import ConcatBuffers
from graphrt.schedule.group import Group

MOST = 256  # groups of a launch, of a few pointers each: CUDA takes 32,764 bytes of arguments
LITTLE = 32 << 20  # bytes that may be moved beside a contraction, about as much as memory moves in a few launches' time
BETWEEN = "no kernel waited for one of them and were waited for by another"
TINY = 4096  # bytes that take less time than a launch
WINDOW = 16  # launches between which a contraction is looked for


def share(dag: nx.DiGraph, buffers: ConcatBuffers, tiles: bool) -> tuple[list[list[Group]], list[Decision]]:
    """A partition of the groups into launches; of elementwise groups that wait for nothing, all share one with ``tiles``."""
    sinks = [
        g for g in dag.nodes if g.kind in ("pointwise", "reduction") and dag.out_degree(g) == 0
    ]  # sinks never wait for each other
    first = [g for g in dag.nodes if g.kind == "pointwise" and dag.in_degree(g) == 0 and g not in sinks]
    small = [g for g in first if tiles or sum(v.type.nbytes for v in g.outputs) <= TINY]
    tiny = {*small}
    layers = [layer for layer in _before_updates(dag, sinks) if not tiny.issuperset(layer)]
    inside = {*chain(*layers)}
    sources = [g for g in small if g not in inside]
    taken = {*sinks, *sources, *inside}
    beside = [
        *(("only updates wait for either", part) for layer in layers for part in _launches(layer)),
        *(("neither waits for anything", part) for part in _launches(sources)),
        *(("nothing waits for either", part) for part in _launches(sinks)),
        *(("both finish sums of one kernel", part) for part in _finishes(dag, taken)),
    ]
    decisions = []
    kinds = ("both compute a part of one buffer", _parts(dag, buffers, taken)), ("both are sent at once", _sent(dag, taken))
    for why, part in [(why, part) for why, parts in kinds for part in parts]:
        trial = [*beside, (why, part)]
        if _acyclic(dag, [groups for _, groups in trial]):
            beside = trial
        else:
            decisions += [
                Decision("horizontal", g.label, part[0].label, False, "a launch would wait for itself", change=BETWEEN)
                for g in part[1:]
            ]
    decisions += [Decision("horizontal", g.label, part[0].label, True, why) for why, part in beside for g in part[1:]]
    shared = {g for _, part in beside for g in part}
    return [[g] for g in dag.nodes if g not in shared] + [part for _, part in beside], decisions


def _before_updates(dag: nx.DiGraph, sinks: Collection[Group]) -> list[list[Group]]:
    """Parts of an update, such as the norms of weights and gradients, that only updates wait for, directly or not.

    They lie in layers, by the longest way to what nothing waits for: none waits for another of its own.
    """
    depth = dict.fromkeys(sinks, 0)
    for g in reversed(list(nx.topological_sort(dag))):
        of_update = g.kind in ("pointwise", "reduction") and all(n.origin.phase == "opt" for n in g.nodes)
        if of_update and g not in depth:
            if all(after in depth for after in dag.successors(g)):
                depth[g] = 1 + max(depth[after] for after in dag.successors(g))
    return [[g for g in dag.nodes if depth.get(g) == d] for d in range(1, 1 + max(depth.values(), default=0))]


def _launches(groups: list[Group]) -> list[list[Group]]:
    """``groups``, any of which may run side by side, as few launches of about equal size."""
    count = -(-len(groups) // MOST)
    return [groups[i * len(groups) // count : (i + 1) * len(groups) // count] for i in range(count)]


def _finishes(dag: nx.DiGraph, shared: set[Group]) -> list[list[Group]]:
    """Reductions of nothing but one template's sums of segments: with equal predecessors, none can wait for another."""
    found: dict[Group, list[Group]] = {}
    for g in dag.nodes:
        before = list(dag.predecessors(g))
        if g.kind == "reduction" and g not in shared and len(before) == 1 and before[0].segments:
            if all(v.node in before[0].segments or v.type.ndim < 2 for v in g.inputs):
                found.setdefault(before[0], []).append(g)
    return [part for part in found.values() if len(part) > 1]


def _parts(dag: nx.DiGraph, buffers: ConcatBuffers, shared: set[Group]) -> list[list[Group]]:
    """Elementwise groups that compute parts of one buffer."""
    found: dict[Value, list[Group]] = {whole: [] for whole in buffers.wholes}
    for g in dag.nodes:
        wholes = {buffers.place[v][0] for v in g.values() if v in buffers.place}
        if g.kind == "pointwise" and len(wholes) == 1 and g not in shared:
            found[wholes.pop()].append(g)
    return [part for groups in found.values() for part in _launches(groups) if len(part) > 1]


def _sent(dag: nx.DiGraph, shared: set[Group]) -> list[list[Group]]:
    """Elementwise groups that nothing but one collective waits for."""
    found: dict[Group, list[Group]] = {g: [] for g in dag.nodes if g.kind == "collective"}
    for g in dag.nodes:
        after = list(dag.successors(g))
        if g.kind == "pointwise" and len(after) == 1 and after[0] in found and g not in shared:
            found[after[0]].append(g)
    return [part for groups in found.values() for part in _launches(groups) if len(part) > 1]


def _acyclic(dag: nx.DiGraph, parts: list[list[Group]]) -> bool:
    """Whether no launch waits for itself when the groups of each of ``parts`` run side by side."""
    at = {g: i for i, part in enumerate(parts) for g in part}
    edges = ((at.get(a, a), at.get(b, b)) for a, b in dag.edges)
    return nx.is_directed_acyclic_graph(nx.DiGraph((a, b) for a, b in edges if a is not b and a != b)) and not any(
        at.get(a) == at[b] for a, b in dag.edges if b in at
    )


def pair(dag: nx.DiGraph, parts: list[list[Group]]) -> tuple[list[list[Group]], list[Decision]]:
    """``parts``, the launches in some topological order, with each reduction in the launch of a contraction near it.

    The last choose first, and what comes later is looked at first: an early reduction has more contractions to choose from.
    """
    decisions = []
    part_of = {g: i for i, part in enumerate(parts) for g in part}
    below = [0] * len(parts)  # who waits for each launch, as bits
    for i in reversed(range(len(parts))):
        for g in parts[i]:
            for reader in dag.successors(g):
                if (j := part_of[reader]) != i:
                    below[i] |= below[j] | 1 << j
    partner: dict[int, int] = {}
    for i, part in reversed([*enumerate(parts)]):
        if part[0].kind != "reduction" or any(g.kind == "template" for g in part):
            continue
        if (moved := sum(v.type.nbytes for g in part for v in {*g.inputs, *g.outputs})) > LITTLE:
            reason = f"moves {moved} bytes, for which a contraction's registers leave too few programs"
            change = f"it moved at most {LITTLE}"
            decisions.append(Decision("pairs", part[0].label, "a contraction", False, reason, change=change))
            continue
        near = [*range(i + 1, min(i + WINDOW, len(parts))), *range(i - 1, max(i - WINDOW, -1), -1)]
        free = (j for j in near if j not in partner and _is_contraction(parts[j]) and len(_chunks([*part, *parts[j]])) < 2)
        found = next((j for j in free if not below[i] >> j & 1 and not below[j] >> i & 1), None)
        if found is None:
            reason = f"each within {WINDOW} launches waits for it, is waited for, or has a reduction"
            change = "one of them did neither and had none"
            decisions.append(Decision("pairs", part[0].label, "a contraction", False, reason, change=change))
        else:
            decisions += [Decision("pairs", g.label, parts[found][0].label, True, "neither waits") for g in part]
            partner[found] = i
            after, two = below[i] | below[found], 1 << i | 1 << found
            below[i] = below[found] = after
            for k in range(len(parts)):
                if below[k] & two and k not in (i, found):
                    below[k] |= after | two
    taken = set(partner.values())
    both = [[*part, *(parts[partner[i]] if i in partner else [])] for i, part in enumerate(parts) if i not in taken]
    return both, decisions


def _chunks(groups: list[Group]) -> set[int]:
    """The parts that nodes of ``groups`` belong to (``Origin.part``)."""
    return {n.origin.part for g in groups for n in g.nodes}


def _is_contraction(part: list[Group]) -> bool:
    return len(part) == 1 and part[0].anchor is not None and part[0].anchor.op.kind is Kind.CONTRACTION

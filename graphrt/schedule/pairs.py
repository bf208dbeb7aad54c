"""Reductions beside contractions: one launch runs both where neither waits for the other.

The finish of batch norm's sums is little work between two large kernels. In the backward pass the weight gradient of the layer
behind waits for nobody then, and takes it along:

    dgrad 2 -> sums of runs -> [finish | wgrad 2] -> dgrad 1 -> sums of runs -> [finish | wgrad 1] -> ...
"""

from __future__ import annotations

import networkx as nx

from graphrt.op import Kind
from graphrt.schedule.group import Group

WINDOW = 16  # launches between which a partner is looked for


def pair(dag: nx.DiGraph, parts: list[list[Group]]) -> list[list[Group]]:
    """``parts``, the launches in some topological order, with each reduction in the launch of a contraction near it."""
    part_of = {g: i for i, part in enumerate(parts) for g in part}
    below = [0] * len(parts)  # who waits for each launch, as bits
    for i in reversed(range(len(parts))):
        for g in parts[i]:
            for reader in dag.successors(g):
                if (j := part_of[reader]) != i:
                    below[i] |= below[j] | 1 << j
    partner: dict[int, int] = {}
    for i, part in enumerate(parts):
        if part[0].kind != "reduction" or any(g.kind == "template" for g in part):
            continue
        near = [*range(i - 1, max(i - WINDOW, -1), -1), *range(i + 1, min(i + WINDOW, len(parts)))]
        free = (j for j in near if j not in partner and _is_contraction(parts[j]))
        found = next((j for j in free if not below[i] >> j & 1 and not below[j] >> i & 1), None)
        if found is not None:
            partner[found] = i
            joined, both = below[i] | below[found], 1 << i | 1 << found
            below[i] = below[found] = joined
            for k in range(len(parts)):
                if below[k] & both and k not in (i, found):
                    below[k] |= joined | both
    taken = set(partner.values())
    return [[*part, *(parts[partner[i]] if i in partner else [])] for i, part in enumerate(parts) if i not in taken]


def _is_contraction(part: list[Group]) -> bool:
    return len(part) == 1 and part[0].anchor is not None and part[0].anchor.op.kind is Kind.CONTRACTION

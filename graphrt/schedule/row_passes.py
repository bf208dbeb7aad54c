"""Costs by pass: a kernel that goes over its rows several times computes what it has on load, and members, in each pass again.

    pass 0  mean of dropout(x)          draws                 stored by a kernel of its own, it is drawn once:
    pass 1  variance                    draws again           dropout(x) --> stored --> pass 0, 1, 2
    pass 2  (dropout(x) - mean) * r     draws again

On a cpu the first pass over short rows writes down what is costly, and others read that (``reduction_rewrites.keep_costly``).
Of longer rows, and of those in short pieces beside others' (the channels of a group), what takes long is stored.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection

from graphrt.ir import Node
from graphrt.op import Kind
from graphrt.schedule.fusion_state import FusionState, Verdict
from graphrt.schedule.group import Group
from graphrt.schedule.policy import ROW_LIMIT
from graphrt.schedule.work import COSTLY

DRAWN = 100  # times an operation's work: ten rounds of Philox
STRETCH = 128  # elements of a row in one piece, up to which pieces of many rows are gone through side by side
BESIDE = 64  # rows gone through side by side where neighbours in memory are of different ones: fewer are short pieces
CHAIN = 64  # nodes that are looked at: of more one is likely stored


def dear(f: FusionState, groups: Collection[Group], node: Node, made: Collection[Node] = ()) -> Verdict | None:
    """Why ``node`` is better stored than computed in each pass of one of ``groups`` that needs it; None if it is not.

    With it is computed what it is ``made`` of: where that is empty, all that has no group yet.
    """
    pace, y = f.policy.pace, node.types[0]
    rows = [g for g in groups if g.kind == "reduction" and not _keeps(g)] if pace is not None else []
    if pace is None or not rows:
        return None
    costs = [DRAWN if n.op.kind is Kind.RANDOM else 1 if n.op.cheap else COSTLY for n in made or _made(f, node)]
    passes = max(len(_passes(f, g, node)) for g in rows) if max(costs) > 1 else 1
    again, stored = (passes - 1) * sum(costs) * y.size * pace.flop, pace.launch + 2 * y.nbytes * pace.byte
    if again <= stored:
        return None
    reason = f"computed in {passes} passes over rows it takes {1e6 * again:.0f} us more, storing it {1e6 * stored:.0f} us"
    return Verdict(False, reason, "rows were short, of which what is costly is kept, or there were one pass")


def _made(f: FusionState, node: Node) -> set[Node]:
    """``node`` and what is computed with it: element by element, for as many elements, and neither stored nor in a group."""
    found, pending = {node}, [node]
    while pending and len(found) < CHAIN:
        for n in (v.node for v in f.bases(pending.pop()) if v.type.size == node.types[0].size and not f.is_stored(v)):
            if n not in found and f.is_homeless(n):
                found.add(n)
                pending.append(n)
    return found


def _passes(f: FusionState, group: Group, node: Node) -> set[int]:
    """The passes over the rows of ``group`` that need ``node``: those of the reductions and stores that it leads to."""
    level, inside = group.levels(), {*group.nodes, *group.inlined}
    found, seen, pending = set[int](), {node}, [node]
    while pending:
        n = pending.pop()
        if n in inside and any(f.is_stored(v) or f.is_loaded(v, group) for v in n.outputs):
            found.add(level[n])
        for reader in (r for v in n.outputs for r in f.readers(v) if r in inside and r not in seen):
            seen.add(reader)
            if reader.op.kind is Kind.REDUCTION:
                found.add(level[reader])
            else:
                pending.append(reader)
    return found


def _keeps(group: Group) -> bool:
    """Whether what is costly is kept from pass to pass of ``group``: of short rows that lie in long pieces or side by side."""
    assert group.anchor is not None
    order = group.anchor.inputs[0].type.order or range(len(group.shape))
    axes = [d for d in order if group.shape[d] > 1]
    piece = list(itertools.takewhile(group.reduced.__contains__, reversed(axes)))
    whole = len(piece) == sum(d in group.reduced for d in axes)
    long = whole or not piece or math.prod(group.shape[d] for d in piece) > STRETCH
    return long and group.reduced_size * (1 if piece or whole else BESIDE) <= ROW_LIMIT

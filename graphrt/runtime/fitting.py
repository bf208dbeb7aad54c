"""Fitting: the fewest stretches of the forward pass (``passes.checkpoints``) with which a run holds no more than a limit.

1, 2, 4, 8 stretches and so on are planned, one after the other, until one fits; more of them keep more, so the search ends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from graphrt.errors import ArgumentError
from graphrt.passes.decision import Decision
from graphrt.runtime.lowering import Lowering

ENOUGH = 8  # stretches behind which the search ends when more of them hold more


def fitting(lowered: Callable[[int], Lowering], limit: int | None, target: str) -> Lowering:
    """The first of what is ``lowered`` for 1, 2, 4 stretches and so on that holds at most ``limit`` bytes (None: the first).

    Raises ArgumentError where none is found, which says the least that was, and on a ``target`` that plans no memory.
    """
    found, stretches = lowered(1), 1
    if limit is None:
        return found
    if found.plan is None:
        raise ArgumentError(f"memory_limit is for targets that plan memory, and {target} does not; leave it out")
    refused, best = list[Decision](), (found.held, "1 stretch")
    while (total := sum(found.held.values())) > limit:
        parts = "1 stretch" if stretches == 1 else f"{stretches} stretches"
        reason, change = f"a run would hold {total:,} bytes", f"memory_limit were {total:,} bytes"
        refused.append(Decision("memory", "the forward pass", parts, False, reason, change=change))
        smaller = total < sum(best[0].values())
        best = (found.held, parts) if smaller else best
        again = any(node.origin.phase == "again" for node in found.graph.nodes)
        if stretches > 1 and (not again or (stretches > ENOUGH and not smaller)):
            raise ArgumentError(_least(best[0], best[1], limit))
        stretches *= 2
        found = lowered(stretches)
    return replace(found, decisions=[*refused, *found.decisions])


def _least(held: dict[str, int], parts: str, limit: int) -> str:
    of = ", ".join(f"{size:,} of {what}" for what, size in held.items())
    return (
        f"memory_limit is {limit:,} bytes, and the least that a run holds is {sum(held.values()):,} ({of}), with the "
        f"forward pass cut into {parts}; allow that, or take a smaller batch"
    )

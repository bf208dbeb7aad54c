"""Memory plan: one arena, offsets by liveness.

Greedy by size with best fit (Pisarchyk and Lee, "Efficient memory management for deep neural net inference", 2020): the
largest tensors are placed first, each in the smallest gap left by those alive at the same time. A value takes over the bytes
of one that its own kernel reads for the last time at the same element.

A collective runs beside the launches behind it, and has the memory of what it reads and writes until it is waited for. What one
reduces of several tensors lies side by side, so that it is sent in one piece.

    launch 4   all_reduce starts
    launch 5   conv_dgrad             meanwhile
    launch 6   update                 reads a result: waits
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from graphrt.index import Expr
from graphrt.passes.decision import Decision
from graphrt.schedule.group import Guard
from graphrt.schedule.kernel_ir import (
    Block,
    CollectiveKernel,
    Kernel,
    LoopKernel,
    PointwiseKernel,
    ReductionKernel,
    TemplateKernel,
)
from graphrt.schedule.policy import SchedulePolicy
from graphrt.schedule.schedule import Schedule, Slot
from graphrt.types import TensorType, uint8

SHARED = "kernels side by side in its launch may read the old one later"
ALIGNMENT = 256  # bytes: a GPU's widest transaction, several cache lines


@dataclass(frozen=True)
class MemoryPlan:
    """``offset`` of each arena slot in bytes, the ``alias`` pairs (new, old) written in place, sizes for the report."""

    offset: dict[Slot, int]
    alias: dict[Slot, Slot]
    lifetime: dict[Slot, tuple[int, int]]  # first and last launch
    size: int
    unplanned: int  # what separate allocations would take
    bound: int  # the largest sum of live bytes: no plan without in-place writes can be smaller
    decisions: tuple[Decision, ...] = ()  # on each tensor that may lie over one that its kernel reads last

    def totals(self) -> str:
        """The bytes of the arena, of a buffer for each value, and of what is live at most."""
        return f"arena {self.size} bytes (separate {self.unplanned}, live at most {self.bound})"

    def __str__(self) -> str:
        lines = [self.totals()]
        for slot, start in sorted(self.offset.items(), key=lambda item: item[1]):
            first, last = self.lifetime[slot]
            note = f" in place of {self.alias[slot].name}" if slot in self.alias else ""
            lines.append(f"  {start:>10} +{slot.type.nbytes:<10} launches {first}..{last}  {slot.name} {slot.type}{note}")
        return "\n".join(lines)


def blocks(kernel: Kernel) -> list[Block]:
    """Every block of ``kernel`` in the order it runs."""
    if isinstance(kernel, PointwiseKernel):
        return [*(t.block for t in kernel.totals), kernel.block]
    if isinstance(kernel, LoopKernel | CollectiveKernel):
        return [kernel.block]
    if isinstance(kernel, TemplateKernel):
        return [*kernel.loaders.values(), kernel.epilogue]
    return [*(t.block for t in kernel.totals), *(b for p in kernel.passes for b in (p.inner, p.after))]


def loads(block: Block) -> list[tuple[Slot, Expr, tuple[Guard, ...]]]:
    """(slot, offset, guards) of each load."""
    return [i.args for i in block.insts if i.op == "load"]


def waits(kernels: Sequence[Sequence[Kernel]]) -> dict[int, int]:
    """The launch before which each collective, by its launch, must be over: the first that reads a result of it, or writes
    where it reads or writes; the number of launches where only the caller reads them."""
    found: dict[int, int] = {}
    pending: dict[int, tuple[set[Slot], set[Slot]]] = {}
    for step, launch in enumerate(kernels):
        read = {load[0] for kernel in launch for block in blocks(kernel) for load in loads(block)}
        written = {store.slot for kernel in launch for block in blocks(kernel) for store in block.stores}
        for start, (sources, results) in list(pending.items()):
            if not results.isdisjoint(read | written) or not sources.isdisjoint(written):
                found[start] = step
                del pending[start]
        for kernel in launch:
            if isinstance(kernel, CollectiveKernel):
                pending[step] = {r.slot for r in kernel.sources}, {r.slot for r in kernel.results}
    return found | dict.fromkeys(pending, len(kernels))


def plan_memory(schedule: Schedule, kernels: Sequence[Sequence[Kernel]], policy: SchedulePolicy) -> MemoryPlan:
    """Places every arena slot of ``schedule``; ``kernels`` are those of each launch."""
    lifetime: dict[Slot, tuple[int, int]] = {}
    for step, launch in enumerate(kernels):
        for kernel in launch:
            for block in blocks(kernel):
                for slot in [*(load[0] for load in loads(block)), *(s.slot for s in block.stores)]:
                    if slot.space == "arena":
                        lifetime[slot] = (lifetime.get(slot, (step, step))[0], step)
    touched = {slot: end for slot, (_, end) in lifetime.items()}  # by which launch last
    for start, over in waits(kernels).items():
        for slot in (s for kernel in kernels[start] for s in _touched(kernel) if s in lifetime):
            lifetime[slot] = (lifetime[slot][0], max(lifetime[slot][1], min(over, len(kernels) - 1)))
    own = {slot: (first, touched[slot]) for slot, (first, _) in lifetime.items()}  # as a collective itself sees it
    alias: dict[Slot, Slot] = {}
    decisions: list[Decision] = []
    for step, launch in enumerate(kernels):
        for kernel in launch:
            against = ("the stage in_place is off", "it were on (fusion)") if "in_place" not in policy.fusion else ("", "")
            against = (SHARED, "one of them had a launch of its own") if len(launch) > 1 else against
            decisions += _alias(kernel, step, own if isinstance(kernel, CollectiveKernel) else lifetime, alias, against)
    root: dict[Slot, Slot] = {}
    for slot in lifetime:
        end = slot
        while end in alias:
            end = alias[end]
        root[slot] = end
    span: dict[Slot, tuple[int, int]] = {}
    for slot, end in root.items():
        (first, last), (start, stop) = lifetime[slot], span.get(end, lifetime[slot])
        span[end] = (min(first, start), max(last, stop))
    inside = _side_by_side(kernels, alias, root, span)
    placed: dict[Slot, int] = {}
    taken: list[tuple[int, int, int, int]] = []  # first and last step, start and end
    for slot in sorted(span, key=lambda s: (-s.type.nbytes, span[s])):
        (first, last), room = span[slot], _room(slot)
        busy = sorted((start, end) for begin, stop, start, end in taken if begin <= last and first <= stop)
        placed[slot] = at = _best_gap(busy, room)
        taken.append((first, last, at, at + room))
    placed.update({slot: placed[whole] + at for slot, (whole, at) in inside.items()})
    live = [0] * (len(kernels) + 1)  # bytes more than at the launch before
    for slot, (first, last) in lifetime.items():
        live[first] += _room(slot)
        live[last + 1] -= _room(slot)
    return MemoryPlan(
        offset={slot: placed[root[slot]] for slot in lifetime},
        alias=alias,
        lifetime=lifetime,
        size=max((placed[s] + _room(s) for s in placed), default=0),
        unplanned=sum(map(_room, lifetime)),
        bound=max(itertools.accumulate(live), default=0),
        decisions=tuple(decisions),
    )


def _touched(kernel: Kernel) -> set[Slot]:
    """The slots of what ``kernel`` reads and writes."""
    read = {load[0] for block in blocks(kernel) for load in loads(block)}
    return read | {store.slot for block in blocks(kernel) for store in block.stores}


def _side_by_side(
    kernels: Sequence[Sequence[Kernel]], alias: dict[Slot, Slot], root: dict[Slot, Slot], span: dict[Slot, tuple[int, int]]
) -> dict[Slot, tuple[Slot, int]]:
    """The places of what a collective computes in place in one tensor that has them all, which takes theirs in ``span``."""
    inside: dict[Slot, tuple[Slot, int]] = {}
    for kernel in (k for launch in kernels for k in launch if isinstance(k, CollectiveKernel) and k.in_place):
        pairs = zip(kernel.sources, kernel.results, strict=True)
        ends = [root[r.slot] for s, r in pairs if alias.get(r.slot) == s.slot and s.type.nbytes == s.slot.type.nbytes]
        ends = [end for end in dict.fromkeys(ends) if end not in inside and end in span]
        if len(ends) < 2:
            continue
        size = sum(map(_room, ends))
        whole = Slot("arena", f"{kernel.group.label}.bucket", TensorType((size,), uint8))
        start, steps = 0, [span.pop(end) for end in ends]
        for end in ends:
            inside[end] = whole, start
            start += _room(end)
        span[whole] = min(first for first, _ in steps), max(last for _, last in steps)
    return inside


def _room(slot: Slot) -> int:
    return max(-(-slot.type.nbytes // ALIGNMENT), 1) * ALIGNMENT


def _best_gap(busy: list[tuple[int, int]], size: int) -> int:
    """Start of the smallest gap between ``busy`` ranges that holds ``size``; behind them all if there is none."""
    best, best_size, end = None, 0, 0
    for start, stop in busy:
        if start - end >= size and (best is None or start - end < best_size):
            best, best_size = end, start - end
        end = max(end, stop)
    return end if best is None else best


def _alias(
    kernel: Kernel, step: int, lifetime: dict[Slot, tuple[int, int]], alias: dict[Slot, Slot], against: tuple[str, str]
) -> list[Decision]:
    """Lets each store of a kernel take the place of a tensor read for the last time at the same element, unless something is
    ``against`` all of them: what, and what would have to change. Decides on the tensors that are large enough and read last."""
    *before, final = blocks(kernel)
    elsewhere = {load[0] for block in before for load in loads(block)}
    read = dict.fromkeys(load[0] for block in (*before, final) for load in loads(block))
    if isinstance(kernel, ReductionKernel):
        against = against if against[0] else ("a later pass may read its rows again", "its kernel read each element once")
    if isinstance(kernel, LoopKernel):
        against = against if against[0] else ("a later step may read it", "no loop read it")
    decisions, taken = list[Decision](), set[Slot]()
    for store in dict.fromkeys(s.slot for block in blocks(kernel) for s in block.stores):
        if store.space != "arena" or lifetime[store][0] != step:
            continue
        stored = {s.offset for s in final.stores if s.slot == store}
        verdicts = {
            slot: against if against[0] else _over(slot, stored, final, slot in elsewhere, slot in taken)
            for slot in read
            if slot.space == "arena" and slot != store and lifetime[slot][1] == step and lifetime[slot][0] < step
            if slot.type.dtype.itemsize == store.type.dtype.itemsize and slot.type.nbytes >= store.type.nbytes
        }
        found = next((slot for slot, (reason, _) in verdicts.items() if not reason), None)
        if found is not None:
            alias[store] = found
            taken.add(found)
            decisions.append(Decision("alias", store.name, found.name, True, "each element is read before, for the last time"))
        elif verdicts:
            slot, (reason, change) = next(iter(verdicts.items()))
            decisions.append(Decision("alias", store.name, slot.name, False, reason, change=change))
    return decisions


def _over(slot: Slot, stored: set[Expr], final: Block, elsewhere: bool, taken: bool) -> tuple[str, str]:
    """Why what is ``stored`` at these offsets may not lie over ``slot``, and what would have to change; empty where it may."""
    found = {(offset, guards) for s, offset, guards in loads(final) if s == slot}
    if elsewhere:
        return "its kernel reads the old one on load, again and again", "the epilogue alone read that"
    if taken:
        return "another result lies there", "that one lay elsewhere"
    if found != {(offset, ()) for offset in stored}:
        return "its kernel reads the old one at other elements", "each element were read where it is stored"
    return "", ""

"""Lowering of collectives: where their operands and results lie."""

from __future__ import annotations

from graphrt.index import as_expr, axis
from graphrt.ir import Value
from graphrt.schedule.group import Group, pull
from graphrt.schedule.kernel_ir import Block, CollectiveKernel, Inst, Region, Store, Var
from graphrt.schedule.schedule import Schedule, Slot


def lower_collective(schedule: Schedule, group: Group) -> CollectiveKernel:
    """The kernel of the collective ``group``."""
    assert group.anchor is not None
    node = group.anchor
    sources = [_read(schedule, v) for v in node.inputs]
    results = [_stored(schedule, group, v) for v in node.outputs]
    block = Block(())
    for number, region in enumerate(sources):
        offset = axis(f"e{number}", max(region.type.size, 1)) + region.first
        block.insts.append(Inst(Var(f"v{number}", region.type.dtype), "load", (region.slot, offset, ())))
    for number, region in enumerate(results):
        name = f"e{number}" if node.op.in_place else f"r{number}"
        offset = axis(name, max(region.type.size, 1)) + region.first
        block.stores.append(Store(region.slot, offset, Var(f"v{number}", region.type.dtype), region.type.size))
    return CollectiveKernel(group, node.op.name, node.op.in_place, dict(node.attrs), sources, results, block)


def _read(schedule: Schedule, v: Value) -> Region:
    """The place of an operand, which lies in one piece (``passes.loops.place_operands``)."""
    (read,) = pull(v, tuple(as_expr(0) for _ in v.shape), (), schedule.buffered)
    place = schedule.home[read.value]
    type = place.slot.type if read.value is v else v.type
    return Region(place.slot, place.offset(read.index).const, type.with_order(type.order))


def _stored(schedule: Schedule, group: Group, v: Value) -> Region:
    """The place of a result; one of its own if nobody reads it."""
    places = schedule.stores.get((group, v), [])
    assert len(places) < 2 and not any(p.start for p in places), f"{v!r} lies elsewhere too"
    slot = places[0].slot if places else Slot("arena", v.name, v.type)
    return Region(slot, 0, slot.type)

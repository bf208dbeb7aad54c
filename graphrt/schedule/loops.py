"""Lowering of loops: where a body's inputs and outputs lie at each step, and what the loop moves in all.

history of h   [ h0 | h1 | h2 | ... | hT ]     step t reads h[t] and writes h[t + 1], backwards from the other end
x              [ x0 | x1 | ... ]               step t reads x[t]
no history     [ h ] [ h' ]                    by turns, so that the last lands in the first
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from graphrt.index import as_expr, axis
from graphrt.ir import Graph, Value
from graphrt.ops.body import Loop
from graphrt.schedule.group import Group, Launch, pull
from graphrt.schedule.kernel_ir import Block, Inst, Kernel, LoopKernel, Moving, Scheduled, Store, Var
from graphrt.schedule.schedule import Schedule, Slot
from graphrt.types import TensorType, as_dtype


def lower_loop(schedule: Schedule, group: Group, scheduled: Callable[[Graph], Scheduled]) -> LoopKernel:
    """The kernel of the loop ``group``; ``scheduled`` schedules its body."""
    assert group.anchor is not None
    node, loop = group.anchor, Loop.of(group.anchor)
    body, places = scheduled(loop.body), _Places(schedule, group, loop)
    arguments = [v.node.name for v in loop.arguments]
    results = [*loop.body.outputs]
    count, sequences = len(loop.history), len(loop.sequences)
    inputs, outputs = dict[str, Moving](), dict[str, Moving]()
    initial: list[tuple[Moving, Moving, int]] = []
    for i, v in enumerate(loop.states):
        read, outputs[results[i]] = places.state(node.outputs[i], v.type, loop.history[i])
        first = read if read.other is None or loop.length % 2 == 0 else Moving(read.other, 0, 0)
        inputs[arguments[i]] = read
        initial.append((places.operand(v), Moving(first.slot, first.first, 0), v.type.size))
    inputs |= {name: places.stepped(v) for name, v in zip(arguments[count:], loop.sequences, strict=False)}
    constants = {name: places.operand(v) for name, v in zip(arguments[count + sequences :], loop.constants, strict=True)}
    for name, result in zip(results[count:], node.outputs[count:], strict=True):
        outputs[name] = places.result(result)
    scratch = Slot("arena", f"{node.name}.body", TensorType((max(body.plan.size, 1),), as_dtype("uint8")))
    block = places.block(scratch)
    kernel = LoopKernel(group, loop.length, body, inputs | constants, outputs, frozenset(constants), initial, scratch, block)
    _name_groups(kernel)
    return kernel


def plan_lines(launch: Launch, kernels: Sequence[Kernel], indent: str = "") -> Iterator[str]:
    """The lines of ``launch`` in a plan, under that of a loop those of its body."""
    yield from (indent + line for line in str(launch).splitlines())
    for kernel in kernels:
        if isinstance(kernel, LoopKernel):
            for inner, others in zip(kernel.body.schedule.launches, kernel.body.kernels, strict=True):
                yield from plan_lines(inner, others, f"{indent}    ")


def loops(kernels: Iterable[Kernel]) -> Iterator[LoopKernel]:
    """The loops among ``kernels``, and those in their bodies."""
    for kernel in kernels:
        if isinstance(kernel, LoopKernel):
            yield kernel
            yield from loops(inner for launch in kernel.body.kernels for inner in launch)


def _name_groups(kernel: LoopKernel) -> None:
    """Names the groups of a loop's body after the loop's."""
    for i, group in enumerate(kernel.body.schedule.groups()):
        group.name = f"{kernel.group.name}_{i}"
    for inner in (k for launch in kernel.body.kernels for k in launch):
        if isinstance(inner, LoopKernel):
            _name_groups(inner)


class _Places:
    """The places of a loop's operands and results in the program around it, and what is loaded and stored of each."""

    def __init__(self, schedule: Schedule, group: Group, loop: Loop) -> None:
        self.schedule, self.group, self.loop = schedule, group, loop
        self.loads: dict[tuple[Slot, int], int] = {}  # elements from a place on
        self.stores: dict[Slot, int] = {}  # elements of results; none of what is only between

    def operand(self, v: Value) -> Moving:
        """The place of ``v``."""
        slot, first = self._at(v)
        self.loads[slot, first] = v.type.size
        return Moving(slot, first, 0)

    def stepped(self, v: Value) -> Moving:
        """The places of the elements of ``v`` in the order of the steps."""
        slot, first = self._at(v)
        stride = self._at(v, 1)[1] - first
        self.loads[slot, min(first, first + stride * (self.loop.length - 1))] = v.type.size
        return self._moving(slot, first, stride)

    def state(self, result: Value, type: TensorType, kept: bool) -> tuple[Moving, Moving]:
        """The places that a step reads a state of ``type`` from, and writes it to; ``result`` has all of them, or the last."""
        slot, size, length = self._stored(result), type.size, self.loop.length
        if not kept:
            other = Slot("arena", f"{result.name}.other", type)
            self.stores[other] = 0
            return Moving(slot, 0, 0, other), Moving(slot, 0, 0, other, 1)
        if self.loop.reverse:
            return Moving(slot, length * size, -size), Moving(slot, (length - 1) * size, -size)
        return Moving(slot, 0, size), Moving(slot, size, size)

    def result(self, v: Value) -> Moving:
        """The places to which steps write the parts of ``v``."""
        return self._moving(self._stored(v), 0, v.type.size // self.loop.length)

    def block(self, scratch: Slot) -> Block:
        """All loads and stores, each along an axis."""
        block = Block(())
        for number, ((slot, first), size) in enumerate(self.loads.items()):
            out = Var(f"v{number}", slot.type.dtype)
            block.insts.append(Inst(out, "load", (slot, axis(f"e{number}", size) + first, ())))
        for slot, size in (self.stores | {scratch: 0}).items():
            block.stores.append(Store(slot, axis("e", max(size, 1)), Var("v", slot.type.dtype), size))
        return block

    def _moving(self, slot: Slot, first: int, stride: int) -> Moving:
        length = self.loop.length
        return Moving(slot, first + (length - 1) * stride, -stride) if self.loop.reverse else Moving(slot, first, stride)

    def _at(self, v: Value, step: int = 0) -> tuple[Slot, int]:
        """The slot that has ``v``, and the first element there of ``v``, or of its part ``step``."""
        index = tuple(as_expr(step if d == 0 else 0) for d in range(v.ndim))
        (read,) = pull(v, index, (), self.schedule.buffered)
        place = self.schedule.home[read.value]
        return place.slot, place.offset(read.index).const

    def _stored(self, v: Value) -> Slot:
        """The slot that has the result ``v``; one of its own if nobody reads it."""
        places = self.schedule.stores.get((self.group, v), [])
        assert len(places) < 2 and not any(p.start or p.slot.type.order for p in places), f"{v!r} lies elsewhere too"
        slot = places[0].slot if places else Slot("arena", v.name, v.type)
        self.stores[slot] = v.type.size
        return slot

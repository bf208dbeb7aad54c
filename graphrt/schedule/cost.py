"""The bytes and flops of a launch, counted from its Kernel IR: the figures behind profiles and predictions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from graphrt.index import Expr
from graphrt.ir import Node
from graphrt.ops.body import contracted
from graphrt.schedule.group import Guard
from graphrt.schedule.kernel_ir import Block, CollectiveKernel, Kernel, LoopKernel, ReductionKernel, TemplateKernel
from graphrt.schedule.memory import blocks, loads
from graphrt.schedule.policy import ROW_LIMIT
from graphrt.schedule.schedule import Slot
from graphrt.types import DType


@dataclass(frozen=True)
class Cost:
    """``read`` and ``written`` bytes of memory; ``contraction`` flops on operands of ``dtype``, ``other`` flops.

    ``precision`` is what products of float32 operands are computed in: highest, high or medium.
    """

    read: int
    written: int
    contraction: int
    other: int
    dtype: DType | None = None
    precision: str = "highest"

    @property
    def bytes(self) -> int:
        """Bytes of memory, read and written."""
        return self.read + self.written

    @property
    def flops(self) -> int:
        """Flops of all kinds."""
        return self.contraction + self.other


def launch_cost(kernels: Sequence[Kernel]) -> Cost:
    """The cost of one launch.

    A buffer counts once as read by each kernel, and by each of a kernel's passes over rows that it does not hold, and once as
    written, however many blocks touch it: what a broadcast operand or a tile's neighbour reads again comes from a cache. What
    only a part of a buffer is read of counts as the part where that is known (gathered rows, slices), as the whole buffer in a
    template.
    """
    read: dict[tuple[int, int, Slot], int] = {}  # by kernel, pass and buffer
    written: dict[tuple[Slot, Expr], int] = {}  # by buffer and part
    nodes: set[Node] = set()
    for i, kernel in enumerate(kernels):
        nodes.update(kernel.group.nodes, kernel.group.inlined)
        for number, block in _passes(kernel):
            for slot, most in _reads(kernel, block).items():
                read[i, number, slot] = min(read.get((i, number, slot), 0) + most, slot.type.nbytes)
            written.update({(s.slot, s.offset): s.size * s.slot.type.dtype.itemsize for s in block.stores})
    products = sum(map(contracted, nodes))
    contraction = next((k for k in kernels if isinstance(k, TemplateKernel)), None) if products else None
    return Cost(
        read=sum(read.values()),
        written=sum(written.values()),
        contraction=products,
        other=sum(n.op.flops(n) for n in nodes) - products,
        dtype=contraction.factors if contraction else None,
        precision=contraction.precision if contraction else "highest",
    )


def _passes(kernel: Kernel) -> list[tuple[int, Block]]:
    """The blocks of ``kernel``, those that read memory in turns numbered apart."""
    if isinstance(kernel, ReductionKernel) and not kernel.whole and (kernel.columns or kernel.group.reduced_size > ROW_LIMIT):
        first = [(0, total.block) for total in kernel.totals]
        return first + [(i, block) for i, p in enumerate(kernel.passes) for block in (p.inner, p.after)]
    return [(0, block) for block in blocks(kernel)]


def _reads(kernel: Kernel, block: Block) -> dict[Slot, int]:
    """Bytes that ``block`` may read of each buffer: of a load, one element for each step of the axes it runs along."""
    found: dict[Slot, int] = {}
    domain = 2**63 if isinstance(kernel, TemplateKernel | LoopKernel | CollectiveKernel) else math.prod(kernel.shape)
    for slot, offset, guards in loads(block):
        whole = slot.type.nbytes
        once = min(reach(offset, guards), domain, slot.type.size) * slot.type.dtype.itemsize
        found[slot] = min(found.get(slot, 0) + once, whole)
    return found


def reach(offset: Expr, guards: Sequence[Guard]) -> int:
    """The number of elements that ``offset`` may reach where ``guards`` hold, at most."""
    limits = {name: extent for (kind, name, extent), _ in offset.terms if kind == "axis"}
    if len(limits) < len(offset.terms):
        return 2**63
    for e, low, high in guards:
        for name in e.axes() & limits.keys():
            if len(e.terms) == 1 and e.stride(name) == 1:
                limits[name] = min(limits[name], high - low)
    return math.prod(limits.values())

"""Limits of what kernels count: 32-bit indices reach 2**31 - 1 elements, and most kernels have no others."""

from __future__ import annotations

import math

from graphrt.errors import TargetError
from graphrt.schedule.kernel_ir import Kernel
from graphrt.schedule.memory import blocks, loads

LIMIT = 2**31 - 1


def counts(kernel: Kernel) -> int:
    """The largest number of elements that an index of ``kernel`` runs over: of a buffer, or of its loops."""
    slots = {slot for b in blocks(kernel) for slot, *_ in loads(b)} | {s.slot for b in blocks(kernel) for s in b.stores}
    return max((math.prod(kernel.group.shape), *(slot.type.size for slot in slots)))


def check_counts(kernel: Kernel, most: int, what: str) -> None:
    """Raises TargetError, with the user's line, if ``most``, to which ``what`` has to count for ``kernel``, is too much."""
    if most > LIMIT:
        group = kernel.group
        values = [*group.copies, *(v for node in (*group.nodes, *group.inlined) for v in (*node.inputs, *node.outputs))]
        largest = max(values, key=lambda v: v.type.size)
        raise TargetError(
            f"{largest.node.where()}: {largest.name} : {largest.type} has {largest.type.size} elements, and {what} count to "
            f"{LIMIT}; compute it in parts"
        )

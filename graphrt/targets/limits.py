"""Limits: of what kernels count (32-bit indices reach 2**31 - 1 elements, and most kernels have no others), and of memory."""

from __future__ import annotations

import math
import re

from graphrt.errors import ArgumentError, TargetError
from graphrt.schedule.kernel_ir import Kernel
from graphrt.schedule.memory import blocks, loads

LIMIT = 2**31 - 1
UNITS = {"B": 1, **{f"{p}B": 1000**i for i, p in enumerate("kMGT", 1)}, **{f"{p}iB": 1024**i for i, p in enumerate("KMGT", 1)}}


def number_of_bytes(memory_limit: str | int | None) -> int | None:
    """The bytes that ``memory_limit`` is: a number, or a text with a unit, as "2GB" (10**9) or "1.5 GiB" (2**30); None of none.

    Raises ArgumentError.
    """
    if memory_limit is None:
        return None
    text = f"{memory_limit}B" if isinstance(memory_limit, int) and not isinstance(memory_limit, bool) else memory_limit
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(\w+)\s*", text) if isinstance(text, str) else None
    if match is None or match[2] not in UNITS or not float(match[1]):
        raise ArgumentError(
            f"memory_limit is a positive number of bytes, or a text like '2GB' or '512MiB', in {', '.join(UNITS)}; "
            f"got {memory_limit!r}"
        )
    return int(float(match[1]) * UNITS[match[2]])


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

"""The resources that machine code takes: registers, spilled bytes, and how many programs fit on a multiprocessor."""

from __future__ import annotations

import functools

from graphrt.errors import TargetError
from graphrt.targets.templates import find_kernels
from graphrt.targets.triton.compile import cubin


@functools.lru_cache(256)
def usage(code: bytes, target: str) -> tuple[int, int]:
    """Registers and spilled bytes of a thread. Raises TargetError where the code does not say."""
    if target.startswith("hip"):
        return _note(code, b".vgpr_count"), 4 * _note(code, b".vgpr_spill_count")
    return cubin.usage(code, target.split(":")[1])


def resident(registers: int, shared: int, warps: int, target: str) -> int:
    """The number of programs of so many registers a thread, bytes of shared memory and warps that a multiprocessor holds."""
    find_kernels()
    from graphrt.kernels.triton.cost import occupancy

    return int(occupancy(registers, shared, warps, target.split(":")[1]))


def _note(code: bytes, name: bytes) -> int:
    """An unsigned number of the MessagePack note in an hsaco."""
    start = code.find(name) + len(name)
    if start < len(name):
        raise TargetError(f"the machine code does not tell its {name.decode()}")
    size = {0xCC: 1, 0xCD: 2, 0xCE: 4}.get(code[start], 0)
    return int.from_bytes(code[start + 1 : start + 1 + size], "big") if size else code[start]

"""What one multiprocessor holds, multiplies and moves in a clock, by architecture; and how many programs fit on it.

Figures are from the makers' data sheets; ``l2`` and ``memory`` are what good kernels reach, three quarters of the sheet.
"""

from __future__ import annotations

from typing import NamedTuple


class Device(NamedTuple):
    """A multiprocessor (compute unit). Rates are per clock."""

    shared: int  # bytes of shared memory
    flops: int  # of the tensor cores on halves
    l2: int  # bytes from L2
    memory: int  # bytes from DRAM
    fragments: float = 0.0  # registers that operands take for each accumulator: none where they are read from shared memory
    waiting: int = 0  # stages whose loads wait in registers and not in shared memory
    lanes: int = 32  # of a warp
    warps: int = 64
    registers: int = 65536


_DEVICES = {
    "sm_80": Device(163 << 10, 2048, 40, 10, 0.75),
    "sm_86": Device(99 << 10, 1024, 40, 5, 0.75, warps=48),
    "sm_89": Device(99 << 10, 1024, 40, 4, 0.75, warps=48),
    "sm_90": Device(227 << 10, 4096, 48, 18),
    "sm_100": Device(227 << 10, 8192, 48, 26),
    "gfx942": Device(64 << 10, 2048, 48, 8, 0.75, waiting=1, lanes=64, warps=32, registers=131072),
}
_RESERVED = 1024  # bytes of shared memory that the system takes of each program's
_MOST = 32  # programs at a time


def device(target: str) -> Device:
    """The architecture ``target``, as sm_90 or gfx942; an unknown one is taken for a small card."""
    return _DEVICES.get(target, _DEVICES["sm_89"])


def occupancy(registers: int, shared: int, num_warps: int, target: str) -> int:
    """Programs resident on a multiprocessor, from registers a thread, bytes of shared memory and warps of each."""
    d = device(target)
    by_registers = d.registers // (-(-max(registers, 1) // 8) * 8 * d.lanes * num_warps)
    by_shared = (d.shared + _RESERVED) // (shared + _RESERVED)
    return min(by_registers, by_shared, d.warps // num_warps, _MOST)

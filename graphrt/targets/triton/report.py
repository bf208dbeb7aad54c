"""What a compiler made of a kernel: registers, spills, shared memory, telling instructions, and how many blocks fit."""

from __future__ import annotations

import bisect
import collections
import itertools
import re
import struct
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphrt.schedule.cost import Cost, launch_cost
from graphrt.schedule.kernel_ir import Kernel
from graphrt.schedule.memory import blocks as blocks_of
from graphrt.schedule.memory import loads
from graphrt.targets.triton.build import compile_kernel, key
from graphrt.targets.triton.codegen import LaunchCode
from graphrt.targets.triton.compilation import Compilation
from graphrt.targets.triton.usage import cubin_usage, tool

# What the compiler is told apart by: matrix instructions, and accesses to global memory by their width.
_SASS = re.compile(r"\b(HGMMA|HMMA|DMMA|LDGSTS|UTMALDG|UTMASTG|LDG|STG)((?:\.\w+)*)")
_GCN = re.compile(r"\b(v_mfma|(?:global|buffer)_(?:load|store)_\w+)")
_WIDTHS = ("128", "64", "U16", "S16", "U8", "S8", "1D", "2D", "3D", "4D", "5D")
_WIDE_LOADS = ("LDG.E.128", "LDGSTS.128", "UTMALDG", "global_load_dwordx4", "buffer_load_dwordx4")
_WIDE_STORES = ("STG.E.128", "UTMASTG", "global_store_dwordx4", "buffer_store_dwordx4")
_MUCH = 16  # a buffer of a smaller part of the bytes moved may be read or written as it comes


@dataclass(frozen=True)
class Multiprocessor:
    """What blocks share: warps at most, blocks at most, bytes of shared memory, and what each block takes of them."""

    warps: int
    blocks: int
    shared: int
    reserved: int  # bytes of shared memory that each block takes besides its own
    registers: int  # 32-bit registers of one lane of one of the four schedulers
    granularity: int  # registers of a lane are given out so many at a time


_MULTIPROCESSORS = {
    "sm_80": Multiprocessor(64, 32, 164 << 10, 1 << 10, 512, 8),
    "sm_90": Multiprocessor(64, 32, 228 << 10, 1 << 10, 512, 8),
    "sm_100": Multiprocessor(64, 32, 228 << 10, 1 << 10, 512, 8),
    "gfx942": Multiprocessor(32, 32, 64 << 10, 0, 512, 8),
}


@dataclass(frozen=True)
class KernelReport:
    """One distinct kernel: ``title`` says what it computes, ``launches`` how often a run launches it.

    Registers and spilled bytes are by thread, shared memory by block; ``blocks`` and ``warps`` is what fits on one
    multiprocessor (0: unknown); ``tile`` is rows, columns and depth of a contraction and ``operands`` the dtype it multiplies;
    ``bytes`` and ``flops`` are those of one launch as predicted from the plan. ``narrow`` names what could move 16 bytes at a
    time and does not: loads or stores of a buffer that lies densely in runs of so many bytes and makes much of the traffic.
    """

    name: str
    title: str
    launches: int
    registers: int
    spills: int
    shared: int
    blocks: int
    warps: int
    instructions: Mapping[str, int]
    tile: tuple[int, int, int] | None
    operands: str
    bytes: int
    flops: int
    narrow: tuple[str, ...]


def reports(compilation: Compilation) -> list[KernelReport]:
    """Compiles every distinct kernel that has work, in the order of their first launches, and reads the results."""
    target, codes = compilation.architecture, compilation.codes
    shared: dict[str, list[int]] = {}
    for i, code in enumerate(codes):
        if code.grid:
            shared.setdefault(key(code, target), []).append(i)
    _ = compilation.image  # compiled side by side; what is read here comes from Triton's cache
    firsts = [same[0] for same in shared.values()]
    compiled = [compile_kernel(codes[i], compilation.module, target) for i in firsts]
    arch = target.split(":")[1]
    found = []
    for i, kernel, listing, same in zip(firsts, compiled, listings(compiled, arch), shared.values(), strict=True):
        title = compilation.launches[i].description()
        found.append(_report(codes[i], kernel, listing, arch, len(same), title, compilation.kernels[i]))
    return found


def _report(
    code: LaunchCode, compiled: Any, listing: str, arch: str, launches: int, title: str, kernels: Sequence[Kernel]
) -> KernelReport:
    if "cubin" in compiled.asm:
        registers, spills = cubin_usage(compiled.asm["cubin"])
        found = collections.Counter(_sass(*match.groups()) for match in _SASS.finditer(listing))
    else:
        registers = int(re.findall(r"\.vgpr_count:\s+(\d+)", listing)[-1])
        spills = 4 * int(re.findall(r"\.vgpr_spill_count:\s+(\d+)", listing)[-1])
        found = collections.Counter(_GCN.findall(listing))
    shared, warps = int(compiled.metadata.shared), int(compiled.metadata.num_warps)
    blocks = resident_blocks(arch, registers, shared, warps)
    c, cost = code.constants, launch_cost(kernels)
    product = "INPUT_PRECISION" in c
    return KernelReport(
        name=code.display,
        title=title,
        launches=launches,
        registers=registers,
        spills=spills,
        shared=shared,
        blocks=blocks,
        warps=blocks * warps,
        instructions=dict(sorted(found.items())),
        tile=(c["BM"], c["BN"], c["BK"]) if product else None,
        operands=cost.dtype.name if product and cost.dtype else "",
        bytes=cost.bytes,
        flops=cost.flops,
        narrow=tuple(_narrow(kernels, cost, found)),
    )


def _narrow(kernels: Sequence[Kernel], cost: Cost, found: Mapping[str, int]) -> Iterator[str]:
    every = [block for kernel in kernels for block in blocks_of(kernel)]
    loaded = {load[0] for block in every for load in loads(block)}
    stored = {store.slot for block in every for store in block.stores}
    for what, slots, wide in (("loads", loaded, _WIDE_LOADS), ("stores", stored, _WIDE_STORES)):
        largest = max(slots, key=lambda s: s.type.nbytes, default=None)
        if largest is None or not largest.type.ndim or largest.type.nbytes * _MUCH < cost.bytes:
            continue
        run = largest.type.shape[(largest.type.order or range(largest.type.ndim))[-1]] * largest.type.dtype.itemsize
        if run % 16 == 0 and not any(name.startswith(wide) for name in found):
            yield what


def resident_blocks(arch: str, registers: int, shared: int, warps: int) -> int:
    """How many blocks one multiprocessor of ``arch`` holds; 0 for one that is not in the table.

    A block has ``warps`` warps, ``registers`` a thread and ``shared`` bytes.
    """
    limits = _MULTIPROCESSORS.get(arch)
    if limits is None:
        return 0
    taken = -(-max(registers, 1) // limits.granularity) * limits.granularity
    by_registers = 4 * min(limits.registers // taken, limits.warps // 4) // warps
    room = shared + limits.reserved
    by_shared = limits.shared // room if room else limits.blocks
    return min(by_registers, by_shared, limits.blocks, limits.warps // warps)


def _sass(name: str, suffix: str) -> str:
    """``LDG.E.128`` for LDG.E.128.CONSTANT, ``LDGSTS.128`` for LDGSTS.E.BYPASS.LTC128B.128, ``HMMA`` for HMMA.16816.F32."""
    if name.endswith("MMA"):
        return name
    parts = suffix.split(".")[1:]
    width = next((p for p in parts if p in _WIDTHS), "")
    return ".".join([name, *(["E"] if name in ("LDG", "STG") else []), *([width] if width else [])])


def listings(kernels: Sequence[Any], arch: str) -> list[str]:
    """The instructions of each compiled kernel, as text.

    The disassembler takes half a second to start, so all code for an NVIDIA GPU goes through it at once, end to end, and is
    told apart by address.
    """
    if not kernels or "cubin" not in kernels[0].asm:
        return [kernel.asm["amdgcn"] for kernel in kernels]
    parts = [_code(kernel.asm["cubin"]) for kernel in kernels]
    ends = list(itertools.accumulate(map(len, parts)))
    machine = arch.upper().replace("_", "")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "code"
        path.write_bytes(b"".join(parts))
        text = tool("nvdisasm", "--binary", machine + "a" * (machine >= "SM90" or len(machine) > 4), path)
    found: list[list[str]] = [[] for _ in parts]
    for line in text.splitlines():
        if match := re.match(r"\s*/\*([0-9a-f]+)\*/", line):
            found[bisect.bisect_right(ends, int(match[1], 16))].append(line)
    return ["\n".join(lines) for lines in found]


def _code(cubin: bytes) -> bytes:
    """The machine code in a cubin: the contents of the .text sections of a 64-bit ELF file."""
    (table,) = struct.unpack_from("<Q", cubin, 0x28)
    size, count, names = struct.unpack_from("<HHH", cubin, 0x3A)
    sections = [struct.unpack_from("<IIQQQQ", cubin, table + i * size) for i in range(count)]  # name, ..., offset, size
    start = sections[names][4]
    return b"".join(
        cubin[offset : offset + length]
        for name, _, _, _, offset, length in sections
        if cubin[start + name :].startswith(b".text.")
    )

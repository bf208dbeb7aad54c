"""The cost of a tile: the multiprocessors of each architecture, how many programs fit on one, and the time of a launch.

Arithmetic, no measurement. Rates are from the makers' data sheets, those of memories three quarters of them, which good
kernels reach. ``ranked`` lists the tiles that leave room for four warps by predicted time; ``choose`` takes the first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

Config = dict[str, int]


class Machine(NamedTuple):
    """The machine of kernels: an architecture, as many multiprocessors, Triton's name of how float32 is multiplied."""

    arch: str = "sm_90"
    units: int = 132
    interpret: bool = False
    precision: str = "tf32"


class Multiprocessor(NamedTuple):
    """A multiprocessor (compute unit). Rates are per clock."""

    shared: int  # bytes of shared memory that a program can have
    flops: int  # of the tensor cores on halves
    l2: int  # bytes from L2
    memory: int  # bytes from DRAM
    fragments: float = 0.0  # registers that operands take for each accumulator: none where they are read from shared memory
    waiting: int = 0  # stages whose loads wait in registers and not in shared memory
    lanes: int = 32  # of a warp
    warps: int = 64
    programs: int = 32  # at a time
    reserved: int = 1024  # bytes of shared memory that the system takes for each program


_MULTIPROCESSORS = {
    "sm_80": Multiprocessor(163 << 10, 2048, 40, 10, 0.75),
    "sm_86": Multiprocessor(99 << 10, 1024, 40, 5, 0.75, warps=48, programs=16),
    "sm_89": Multiprocessor(99 << 10, 1024, 40, 4, 0.75, warps=48, programs=24),
    "sm_90": Multiprocessor(227 << 10, 4096, 48, 18),
    "sm_100": Multiprocessor(227 << 10, 8192, 48, 26),
    "gfx942": Multiprocessor(64 << 10, 2048, 48, 8, 0.75, waiting=1, lanes=64, warps=32, reserved=0),
}
_SCHEDULERS = 4  # of a multiprocessor, each with 512 registers for every lane, given out by eights


def multiprocessor(arch: str) -> Multiprocessor:
    """The architecture ``arch``, as sm_90 or gfx942; an unknown one is taken for a small card."""
    return _MULTIPROCESSORS.get(arch, _MULTIPROCESSORS["sm_89"])


def occupancy(registers: int, shared: int, num_warps: int, arch: str) -> int:
    """Programs resident on a multiprocessor, from registers a thread, bytes of shared memory and warps of each."""
    d = multiprocessor(arch)
    by_registers = _SCHEDULERS * min(512 // (cdiv(max(registers, 1), 8) * 8), d.warps // _SCHEDULERS) // num_warps
    room = shared + d.reserved
    by_shared = (d.shared + d.reserved) // room if room else d.programs
    return min(by_registers, by_shared, d.programs)


def power(n: int, low: int, high: int) -> int:
    """The power of two at or above n, kept within [low, high]."""
    return max(low, min(high, 1 << max(n - 1, 0).bit_length()))


def cdiv(a: int, b: int) -> int:
    return -(-a // b)


# (BM, BN, num_warps) by the operands' type; the tests compile each in every kernel, with prologues and without: no spills.
_HALF = [
    (128, 128, 8), (128, 64, 8), (128, 64, 4), (64, 128, 4), (128, 32, 4), (64, 64, 4), (64, 32, 4), (32, 64, 4), (128, 16, 4),
    (64, 16, 4), (16, 64, 2), (32, 32, 2), (32, 16, 2), (16, 32, 2), (16, 16, 1),
]  # fmt: skip
_LARGE = [(128, 256, 8), (256, 128, 8)]  # on halves, half of a thread's registers in accumulators: nothing else may want many
_SPECIALIZED = [(128, 256, 3), (128, 128, 4)]  # BM, BN and stages on halves
_SINGLE = [
    (128, 128, 8), (128, 64, 8), (64, 128, 8), (64, 64, 4), (64, 32, 4), (32, 64, 4), (64, 16, 4), (16, 64, 2), (32, 32, 2),
    (32, 16, 2), (16, 32, 2), (16, 16, 1),
]  # fmt: skip
_IEEE = [(64, 32, 4), (32, 64, 4), (64, 16, 2), (16, 64, 2), (32, 32, 2), (16, 16, 1)]  # FFMA: operands live in registers
_DOUBLE = [(64, 32, 4), (32, 64, 4), (32, 32, 4), (16, 16, 1)]

_COST = {"tf32": 2, "tf32x3": 6, "bf16x3": 3, "ieee": 16}  # of a float32 product, in products of halves
LATENCY = 800  # clocks from a load to its data, or from a store to the next program's first
LAUNCH = 4000  # clocks from one kernel's end to the next one's first result, inside a graph
MEETING = 3 * LATENCY  # as many within one kernel: what is stored reaches L2, then its program does, then all others see that
SHARED = 128  # bytes of shared memory read or written in a clock
_BARRIER = 40  # clocks of a step that are neither
_DESCRIPTOR = 1800  # clocks until a program has made its descriptors, about a microsecond
_ALU = 128  # scalar instructions in a clock


class Gemm(NamedTuple):
    """A template's work as a matrix product, and what is known of its operands."""

    tiles: Callable[[int, int], int]  # programs for (BM, BN)
    depth: float  # of the reduction; the mean one, where programs differ
    piece: int  # the piece of depth that blocks do not cross; blocks longer than it take several
    vectors: tuple[bool, bool]  # whether 16 bytes of the left, of the right operand lie side by side
    itemsize: int
    prologues: tuple[int, int]
    output: int  # bytes of an element of the result
    segment: int = 1  # rows that an epilogue sums: tiles have a multiple of them
    maps: int = 0  # bytes that it loads for each element
    tma: bool = False  # operands come through descriptors, which every program makes
    plain: bool = False  # nothing is computed on load, and no other map is read or summed where a tile is stored
    runs: tuple[int, int] = (1, 1)  # elements of each operand that lie side by side where 16 bytes do not
    single: int = 12  # instructions of a load of these

    def scattered(self, bm: int, bn: int) -> int:
        """Rows and columns that are loaded element by element."""
        return bm * (not self.vectors[0]) + bn * (not self.vectors[1])

    def loads(self, bm: int, bn: int) -> float:
        """Loads that these rows and columns take for each step of depth."""
        return bm * (not self.vectors[0]) / self.runs[0] + bn * (not self.vectors[1]) / self.runs[1]

    def steps(self, bk: int) -> float:
        if self.piece < bk and not self.tma:
            return max(1.0, math.ceil(self.depth / bk))
        return self.depth / self.piece * cdiv(self.piece, bk)


class Tiling(NamedTuple):
    bm: int
    bn: int
    bk: int
    warps: int
    stages: int
    resident: int  # programs on a multiprocessor at a time


def _prologue(loads: int, itemsize: int) -> int:
    """Instructions for each element of an operand that is computed from so many bytes: 13 from one map, 19 from two.

    Of halves four less: a norm is one multiply-add for each map, and two elements are packed by one conversion.
    """
    return (3 if itemsize <= 2 else 7) + 6 * max(loads // itemsize, 1) if loads else 0


def _registers(d: Multiprocessor, gemm: Gemm, area: int, stage: int, turned: float, threads: int) -> int:
    """Accumulators, an address for each 16 bytes on their way, and elements that pass through registers in float32.

    An epilogue that sums segments keeps half a tile more, and two thirds of what it loads wait there (sm_90, Triton 3.7).
    """
    held = 1.25 + d.fragments + 0.5 * (gemm.segment > 1) + gemm.maps / 6
    return min(255, 20 + round((area * held + stage / 8 + turned) / threads))


def tilings(gemm: Gemm, machine: Machine) -> Iterator[Tiling]:
    """The tiles that fit, at each depth of block and number of stages."""
    d, size = multiprocessor(machine.arch), gemm.itemsize
    table = _HALF if size <= 2 else _DOUBLE if size == 8 else _IEEE if machine.precision == "ieee" else _SINGLE
    left, right = gemm.prologues
    if gemm.plain and all(gemm.vectors) and size <= 2 and not d.fragments:
        table = [*_LARGE, *table]
    depths = (128, 64) if all(gemm.vectors) else (128, 64, 32)  # bytes of a block's depth
    for bm, bn, warps in table:
        if bm % gemm.segment:
            continue  # sums of segments need whole segments
        threads = warps * d.lanes
        if d.fragments and bm * bn >= 64 * threads and gemm.depth * size <= 1024:
            continue  # so short a loop is unrolled, and then operands and accumulators do not all fit in registers
        for bk in sorted({max(16, min(depth // size, power(math.ceil(gemm.depth), 16, 64))) for depth in depths}):
            if min(bm * bk, bn * bk, bm * bn) * size < 16 * threads:
                continue  # less than a vector for each thread
            computed = bk * (bm * (left > 0) + bn * (right > 0))
            single = bk * gemm.scattered(bm, bn)
            if max(computed, 2 * single) > (16 if d.waiting else 32) * threads or (computed and max(bm, bn) > 16 * warps > 32):
                continue  # more than a warp can turn round in registers, where on AMD the next block waits as well
            stage = bk * (bm * (left or size) + bn * (right or size))
            turned = 1.25 * computed + 1.5 * single
            registers = _registers(d, gemm, bm * bn, 0 if gemm.tma else stage, turned, threads)
            for stages in (2,) if d.waiting else (3,) if d.fragments else (3, 4):
                held = min(stages, math.ceil(gemm.steps(bk))) - d.waiting
                resident = occupancy(registers, max(held, 1) * stage, warps, machine.arch)
                if resident * warps >= 4:
                    yield Tiling(bm, bn, bk, warps, stages, resident)


def clocks(tiling: Tiling, gemm: Gemm, machine: Machine, programs: int = 0) -> float:
    """The predicted time of a launch: waves of resident programs, each bound by its slowest unit or by latency.

    With ``programs`` so many walk all tiles, and their first loads wait only once.
    """
    d, bm, bn, bk = multiprocessor(machine.arch), tiling.bm, tiling.bn, tiling.bk
    left, right = gemm.prologues
    steps = gemm.steps(bk)
    multiply = 2 * bm * bn * bk / d.flops * (1 if gemm.itemsize <= 2 else _COST[machine.precision])
    # Both tiles are written once; rows are read by one group of four warps, columns by every group.
    shared = bk * gemm.itemsize * (2 * bm + bn + bn * max(1, tiling.warps // 4)) / SHARED
    # What is computed on load is read from there and written again, as much as was loaded and as it is multiplied.
    shared += bk * (bm * (2 * left if left else 0) + bn * (2 * right if right else 0)) / SHARED
    moved = bk * (bm * (left or gemm.itemsize) + bn * (right or gemm.itemsize)) / d.l2
    computed = bm * _prologue(left, gemm.itemsize) + bn * _prologue(right, gemm.itemsize)
    scalar = bk * (computed + gemm.single * gemm.loads(bm, bn)) / _ALU
    work = steps * (max(multiply, shared, moved, scalar) + _BARRIER) + bm * bn * gemm.output / d.memory
    maps = bm * bn * gemm.maps / d.memory
    ahead = tiling.stages - 1 if d.fragments else max(tiling.stages - 2, 0.5)  # a product under way holds on to its stage
    start = 2 * LATENCY + _DESCRIPTOR * gemm.tma
    chain = LATENCY * steps / ahead
    if programs:
        turns = cdiv(gemm.tiles(bm, bn), programs)
        count = turns * cdiv(programs, machine.units)
        return max((count + 0.25) * work, start + turns * chain) + count * maps

    def wave(count: int) -> float:
        """Programs of one multiprocessor share it, but the first and the last quarter of one is never hidden."""
        return max((count + 0.25) * work, start + chain) + count * maps if count else 0.0

    full, rest = divmod(gemm.tiles(bm, bn), machine.units * tiling.resident)
    return full * wave(tiling.resident) + wave(cdiv(rest, machine.units))


def ranked(gemm: Gemm, machine: Machine) -> list[tuple[float, Config]]:
    """(clocks, configuration) of every tiling, the fastest first; among equals the least waste, then the largest tile."""

    def order(tiling: Tiling) -> tuple[float, ...]:
        area = tiling.bm * tiling.bn
        return clocks(tiling, gemm, machine), area * gemm.tiles(tiling.bm, tiling.bn), -area * tiling.bk, -tiling.stages

    names = ("BM", "BN", "BK", "num_warps", "num_stages")
    fitting = list(tilings(gemm, machine)) or [Tiling(max(gemm.segment, 32), 32, 16, 1, 2, 1)]  # too little for more threads
    found = sorted(((order(tiling), tiling) for tiling in fitting), key=lambda pair: pair[0])
    return [(rank[0], dict(zip(names, tiling[:5], strict=True))) for rank, tiling in found]


def choose(gemm: Gemm, machine: Machine) -> tuple[float, Config]:
    """(clocks, configuration) of the fastest tiling."""
    return ranked(gemm, machine)[0]


def walking(gemm: Gemm, machine: Machine) -> list[tuple[float, Config]]:
    """As ``ranked``, with PROGRAMS: 0 for one tile each, and where that may pay so many programs as walk the tiles."""
    found = []
    for one, config in ranked(gemm, machine):
        found.append((one, {**config, "PROGRAMS": 0}))
        if programs := persistent(config, gemm, machine):
            time = clocks(Tiling(*config.values(), resident=programs // machine.units), gemm, machine, programs)
            found.append((time, {**config, "PROGRAMS": programs}))
    return sorted(found, key=lambda pair: pair[0])


def specialized(gemm: Gemm, machine: Machine) -> list[tuple[float, Config]]:
    """As ``walking``, of tiles that two groups of four warps multiply, half of the rows each, while a third loads.

    Triton makes these of four warps on sm_90. They are predicted to take as long as eight warps that load and multiply, and are
    candidates of tuning alone: nobody has measured them yet.
    """
    if machine.arch != "sm_90" or gemm.itemsize > 2:
        return []
    found = []
    for bm, bn, stages in _SPECIALIZED:
        if gemm.steps(64) > stages:
            config = dict(BM=bm, BN=bn, BK=64, num_warps=4, num_stages=stages, PROGRAMS=0, SPECIALIZED=1)
            found.append((clocks(Tiling(bm, bn, 64, 8, stages, 1), gemm, machine), config))
    return sorted(found, key=lambda pair: pair[0])


def persistent(config: Config, gemm: Gemm, machine: Machine) -> int:
    """The number of programs that should walk a launch's tiles; 0 for one tile each.

    Pays from the third wave on where tiles are plainly loaded and products run beside the epilogue: each tile's first
    loads then hide behind the last tile's stores, for some registers, and shared memory that those stores do not give back.
    """
    d, (bm, bn, bk, warps, stages) = multiprocessor(machine.arch), config.values()
    if d.fragments or any(gemm.prologues):
        return 0
    stage = bk * (bm + bn) * gemm.itemsize
    registers = _registers(d, gemm, bm * bn, 0 if gemm.tma else stage, 0.0, warps * d.lanes) + 16
    programs = machine.units * occupancy(registers, stages * stage + bm * bn * gemm.output, warps, machine.arch)
    return programs if gemm.tiles(bm, bn) > 2 * programs else 0

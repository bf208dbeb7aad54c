"""Launch configurations and grids of the templates: arithmetic in plain Python, no measurement.

``matmul_config``, ``conv_config`` and ``pool_config`` take sizes and return the block sizes, num_warps and num_stages
to compile with; ``*_grid`` return the number of programs. Sizes of conv and pool are the mapping of upper-case names
that the template takes as constants. ``loads`` are the bytes that a prologue loads for each element of the left and of
the right operand; 0 is a plain load. The tile is the one with the least predicted time (``_clocks``) of those that
leave room for four warps on a multiprocessor. Under the interpreter a program costs milliseconds whatever its size, so
there tiles are large and few, below Triton's limit of 1,048,576 elements per tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from .device import device, occupancy

Sizes = Mapping[str, int]
Config = dict[str, int]

# (BM, BN, num_warps) by the operands' type; the tests compile each in every kernel, with prologues and without: no spills.
_HALF = [
    (128, 128, 8), (128, 64, 8), (128, 64, 4), (64, 128, 4), (128, 32, 4), (64, 64, 4), (64, 32, 4), (32, 64, 4), (128, 16, 4),
    (64, 16, 4), (16, 64, 2), (32, 32, 2), (32, 16, 2), (16, 32, 2), (16, 16, 1),
]  # fmt: skip
_SINGLE = [
    (128, 128, 8), (128, 64, 8), (64, 128, 8), (64, 64, 4), (64, 32, 4), (32, 64, 4), (64, 16, 4), (16, 64, 2), (32, 32, 2),
    (32, 16, 2), (16, 32, 2), (16, 16, 1),
]  # fmt: skip
_IEEE = [(64, 32, 4), (32, 64, 4), (64, 16, 2), (16, 64, 2), (32, 32, 2), (16, 16, 1)]  # FFMA: operands live in registers
_DOUBLE = [(64, 64, 8), (64, 32, 4), (32, 64, 4), (32, 32, 4), (16, 16, 1)]

_COST = {"tf32": 2, "tf32x3": 6, "bf16x3": 3, "ieee": 16}  # of a float32 product, in products of halves
_LATENCY = 800  # clocks from a load to its data, or from a store to the next program's first
_LAUNCH = 4000  # clocks from one kernel's end to the next one's first result, inside a graph
_SHARED = 128  # bytes of shared memory read or written in a clock
_BARRIER = 40  # clocks of a step that are neither
_ALU = 128  # scalar instructions in a clock
_FEWEST_PIXELS = 128  # that are worth a split of their own


class _Gemm(NamedTuple):
    """A template's work as a matrix product, and what is known of its operands."""

    tiles: Callable[[int, int], int]  # programs for (BM, BN)
    depth: float  # of the reduction; the mean one, where programs differ
    run: int  # the piece of depth that blocks do not cross; blocks longer than it take several runs
    vectors: tuple[bool, bool]  # whether 16 bytes of the left, of the right operand lie side by side
    itemsize: int
    loads: tuple[int, int]
    output: int  # bytes of an element of the result

    def scattered(self, bm: int, bn: int) -> int:
        """Rows and columns that are loaded element by element."""
        return bm * (not self.vectors[0]) + bn * (not self.vectors[1])

    def steps(self, bk: int) -> float:
        if self.run < bk:
            return max(1.0, math.ceil(self.depth / bk))
        return self.depth / self.run * _cdiv(self.run, bk)


class _Plan(NamedTuple):
    bm: int
    bn: int
    bk: int
    warps: int
    stages: int
    resident: int  # programs on a multiprocessor at a time


def _power(n: int, low: int, high: int) -> int:
    """The power of two at or above n, kept within [low, high]."""
    return max(low, min(high, 1 << max(n - 1, 0).bit_length()))


def _cdiv(a: int, b: int) -> int:
    return -(-a // b)


def _plans(gemm: _Gemm, precision: str, target: str) -> Iterator[_Plan]:
    """The tiles that fit, at each depth of block and number of stages."""
    d, size = device(target), gemm.itemsize
    table = _HALF if size <= 2 else _DOUBLE if size == 8 else _IEEE if precision == "ieee" else _SINGLE
    left, right = gemm.loads
    for bm, bn, warps in table:
        threads = warps * d.lanes
        for bk in sorted({min(bytes // size, _power(math.ceil(gemm.depth), 16, 64)) for bytes in (128, 64)}):
            if warps > 1 and min(bm * bk, bn * bk, bm * bn) * size < 16 * threads:
                continue  # less than a vector for each thread
            computed = bk * (bm * (left > 0) + bn * (right > 0))
            single = bk * gemm.scattered(bm, bn)
            if max(computed, single) > 32 * threads or (computed and max(bm, bn) > 16 * warps > 32):
                continue  # more than a warp can turn round in registers
            stage = bk * (bm * (left or size) + bn * (right or size))
            # Accumulators, an address for each 16 bytes on their way, and computed operands, which pass in float32.
            registers = 20 + round((bm * bn * (1.25 + d.fragments) + stage / 8 + 1.25 * computed + 1.5 * single) / threads)
            for stages in (2,) if d.waiting else (3, 4):
                held = min(stages, math.ceil(gemm.steps(bk))) - d.waiting
                resident = occupancy(min(registers, 255), max(held, 1) * stage, warps, target)
                if resident * warps >= min(4, warps * 4):
                    yield _Plan(bm, bn, bk, warps, stages, resident)


def _clocks(plan: _Plan, gemm: _Gemm, precision: str, target: str, units: int) -> float:
    """The predicted time of a launch: waves of resident programs, each bound by its slowest unit or by latency."""
    d, bm, bn, bk = device(target), plan.bm, plan.bn, plan.bk
    left, right = gemm.loads
    steps = gemm.steps(bk)
    multiply = 2 * bm * bn * bk / d.flops * (1 if gemm.itemsize <= 2 else _COST[precision])
    # Both tiles are written once; rows are read by one group of four warps, columns by every group.
    shared = bk * gemm.itemsize * (2 * bm + bn + bn * max(1, plan.warps // 4)) / _SHARED
    moved = bk * (bm * (left or gemm.itemsize) + bn * (right or gemm.itemsize)) / d.l2
    scalar = bk * (8 * (bm * (left > 0) + bn * (right > 0)) + 12 * gemm.scattered(bm, bn)) / _ALU
    work = steps * (max(multiply, shared, moved, scalar) + _BARRIER) + bm * bn * gemm.output / d.memory
    ahead = plan.stages - 1 if d.fragments else max(plan.stages - 2, 0.5)  # a product under way holds on to its stage
    chain = _LATENCY * (2 + steps / ahead)

    def wave(programs: int) -> float:
        """Programs of one multiprocessor share it, but the first and the last quarter of one is never hidden."""
        return max((programs + 0.25) * work, chain) if programs else 0.0

    full, rest = divmod(gemm.tiles(bm, bn), units * plan.resident)
    return full * wave(plan.resident) + wave(_cdiv(rest, units))


def _choose(gemm: _Gemm, precision: str, target: str, units: int) -> tuple[float, Config]:
    """(clocks, configuration) of the fastest plan; among equals the least waste, then the largest tile."""

    def order(plan: _Plan) -> tuple[float, ...]:
        area = plan.bm * plan.bn
        return _clocks(plan, gemm, precision, target, units), area * gemm.tiles(plan.bm, plan.bn), -area * plan.bk, -plan.stages

    best = min(_plans(gemm, precision, target), key=order)
    names = ("BM", "BN", "BK", "num_warps", "num_stages")
    return order(best)[0], dict(zip(names, best[:5], strict=True))


def _interpreted(m: int, n: int, k: int) -> Config:
    return {"BM": _power(m, 16, 512), "BN": _power(n, 16, 256), "BK": _power(k, 16, 256), "num_warps": 1, "num_stages": 1}


def matmul_config(
    m: int,
    n: int,
    k: int,
    itemsize: int,
    interpret: bool = False,
    *,
    batch: int = 1,
    loads: tuple[int, int] = (0, 0),
    precision: str = "tf32",
    target: str = "sm_90",
    units: int = 132,
) -> Config:
    """BM, BN, BK, num_warps, num_stages of ``matmul``; ``units`` is how many multiprocessors the device has."""
    if interpret:
        return _interpreted(m, n, k)

    def tiles(bm: int, bn: int) -> int:
        return batch * _cdiv(m, bm) * _cdiv(n, bn)

    return _choose(_Gemm(tiles, k, k, (True, True), itemsize, loads, itemsize), precision, target, units)[1]


def matmul_splits(
    sizes: Sizes,
    itemsize: int,
    interpret: bool = False,
    *,
    precision: str = "tf32",
    target: str = "sm_90",
    units: int = 132,
) -> int:
    """Into how many partial products to cut the depth of ``matmul``, each a batch entry of its own; a divisor of K.

    Pays where few tiles have a long way to go. Parts are at least 128 deep, and multiples of 16 where K is.
    """
    batch, m, n, k = (sizes[d] for d in ("BATCH", "M", "N", "K"))
    if interpret or not batch * m * n * k:
        return 1

    def clocks(splits: int) -> float:
        def tiles(bm: int, bn: int) -> int:
            return splits * batch * _cdiv(m, bm) * _cdiv(n, bn)

        gemm = _Gemm(tiles, k // splits, k // splits, (True, True), itemsize, (0, 0), 4 if splits > 1 else itemsize)
        return _choose(gemm, precision, target, units)[0] + _finish(splits, batch * m * n, target, units)

    step = math.gcd(k, 16)
    return min((s for s in range(1, max(k // 128, 1) + 1) if k % (s * step) == 0 or s == 1), key=clocks)


def _finish(splits: int, elements: int, target: str, units: int) -> float:
    """Clocks of adding up ``splits`` partial results in float32: another launch, and another reading."""
    return _LAUNCH + splits * elements * 4 / (device(target).memory * units) if splits > 1 else 0.0


def matmul_grid(sizes: Sizes, config: Config) -> int:
    """Programs of ``matmul`` for sizes BATCH, M, N."""
    return sizes["BATCH"] * _cdiv(sizes["M"], config["BM"]) * _cdiv(sizes["N"], config["BN"])


def _matrix(kind: str, z: Sizes) -> tuple[int, int, float, int, int]:
    """(rows, columns, mean depth, batches, channels of one tap) of the GEMM behind a convolution of this kind."""
    cg, kg = z["C"] // z["GROUPS"], z["K"] // z["GROUPS"]
    if kind == "fwd":
        return z["N"] * z["P"] * z["Q"], kg, z["R"] * z["S"] * cg, z["GROUPS"], cg
    if kind == "dgrad":
        sh, sw = z["STRIDE_H"], z["STRIDE_W"]
        rows = z["N"] * _cdiv(z["H"], sh) * _cdiv(z["W"], sw)
        return rows, cg, z["R"] * z["S"] * kg / (sh * sw), z["GROUPS"] * sh * sw, kg
    if kind == "wgrad":
        splits = z.get("SPLITS", 1)
        return kg, z["R"] * z["S"] * cg, split_pixels(z, splits), z["GROUPS"] * splits, cg
    raise ValueError(f"kind must be 'fwd', 'dgrad' or 'wgrad', got {kind!r}")


def split_pixels(sizes: Sizes, splits: int) -> int:
    """The most pixels that one of ``splits`` parts of a weight gradient adds up."""
    n, p, q = sizes["N"], sizes["P"], sizes["Q"]
    return _cdiv(n, splits) * p * q if splits <= n else _cdiv(p, splits // n) * q


def conv_grid(kind: str, sizes: Sizes, config: Config) -> int:
    """Programs of ``conv_fwd``, ``conv_dgrad`` or ``conv_wgrad`` ("fwd", "dgrad", "wgrad")."""
    return _conv_tiles(kind, sizes, config["BM"], config["BN"])


def _conv_tiles(kind: str, sizes: Sizes, bm: int, bn: int) -> int:
    rows, columns, _, batches, channels = _matrix(kind, sizes)
    across = _cdiv(columns, bn)
    if kind == "wgrad" and channels >= bn:  # a column tile keeps to one tap
        across = sizes["R"] * sizes["S"] * _cdiv(channels, bn)
    return batches * _cdiv(rows, bm) * across


def _conv_gemm(kind: str, sizes: Sizes, itemsize: int, loads: tuple[int, int]) -> _Gemm:
    _, _, depth, _, channels = _matrix(kind, sizes)
    c, k = (sizes[d] // sizes["GROUPS"] * itemsize % 16 == 0 for d in "CK")
    return _Gemm(
        lambda bm, bn: _conv_tiles(kind, sizes, bm, bn),
        depth,
        math.ceil(depth) if kind == "wgrad" else channels,
        {"fwd": (c, k), "dgrad": (k, k), "wgrad": (k, c)}[kind],
        itemsize,
        loads,
        4 if sizes.get("SPLITS", 1) > 1 else itemsize,
    )


def conv_config(
    kind: str,
    sizes: Sizes,
    itemsize: int,
    interpret: bool = False,
    *,
    loads: tuple[int, int] = (0, 0),
    precision: str = "tf32",
    target: str = "sm_90",
    units: int = 132,
) -> Config:
    """BM, BN, BK, num_warps, num_stages of a convolution kernel; for "wgrad" sizes should have SPLITS already."""
    if interpret:
        rows, columns, depth, _, _ = _matrix(kind, sizes)
        return _interpreted(rows, columns, math.ceil(depth))
    config = _choose(_conv_gemm(kind, sizes, itemsize, loads), precision, target, units)[1]
    if kind == "dgrad" and precision == "ieee" and itemsize == 4:
        config["BK"] = min(config["BK"], 16)  # both operand tiles live in registers beside the index arithmetic: 32 spills
    return config


def wgrad_splits(
    sizes: Sizes,
    itemsize: int,
    interpret: bool = False,
    *,
    precision: str = "tf32",
    target: str = "sm_90",
    units: int = 132,
) -> int:
    """Into how many partial sums to cut ``conv_wgrad``: parts of the batch, or of each image's rows if those are too few.

    The number with the least predicted time, the reading of the partial sums included.
    """
    n, p = sizes["N"], sizes["P"]
    if interpret or not n * p * sizes["Q"]:
        return 1
    filters = sizes["K"] * (sizes["C"] // sizes["GROUPS"]) * sizes["R"] * sizes["S"]
    parts = {_cdiv(n, size) for size in range(1, n + 1)} | {n * _cdiv(p, rows) for rows in range(1, p)}

    def clocks(splits: int) -> float:
        gemm = _conv_gemm("wgrad", {**sizes, "SPLITS": splits}, itemsize, (0, 0))
        return _choose(gemm, precision, target, units)[0] + _finish(splits, filters, target, units)

    enough = [s for s in parts if s == 1 or (s <= 8 * units and split_pixels(sizes, s) >= _FEWEST_PIXELS)]
    return min(sorted(enough), key=clocks)


def pool_config(outputs: int, interpret: bool = False, *, units: int = 132) -> Config:
    """BLOCK, num_warps, num_stages of the pooling kernels for a number of output elements."""
    if interpret:
        return {"BLOCK": _power(outputs, 16, 1 << 17), "num_warps": 1, "num_stages": 1}
    block = _power(outputs // (4 * units), 128, 1024)
    return {"BLOCK": block, "num_warps": min(4, block // 32), "num_stages": 1}


def pool_outputs(sizes: Sizes, gradient: bool) -> int:
    """Elements a pooling kernel computes: the input's for the two gradients, else the output's."""
    return math.prod(sizes[d] for d in (("N", "C", "H", "W") if gradient else ("N", "C", "P", "Q")))


def pool_grid(sizes: Sizes, config: Config, gradient: bool = False) -> int:
    """Programs of ``pool`` and ``max_pool_gather``, or with ``gradient`` of ``max_pool_grad`` and ``sum_pool_grad``."""
    return _cdiv(pool_outputs(sizes, gradient), config["BLOCK"])


def line_config(name: str, sizes: Sizes, interpret: bool = False) -> tuple[Config, int]:
    """Blocks, num_warps and num_stages of ``scan``, ``sort``, ``scatter`` or ``nms``, and the grid."""
    budget = 1 << 16 if interpret else 4096  # elements of the largest tile
    options = {"num_warps": 1 if interpret else 4, "num_stages": 1}
    if name == "nms":
        return {"BN": _power(sizes["N"], 16, 1 << 16), **options}, sizes["BATCH"] if sizes["N"] else 0
    lines, length = sizes["O"] * sizes["I"], sizes["R"]
    if name == "scan":
        br = _power(length, 1, 1024)
        bx = _power(lines, 1, max(budget // br, 1))
        return {"BX": bx, "BR": br, **options}, _cdiv(lines, bx) if length else 0
    if name == "sort":
        br = _power(length, 1, 64)
        bx = _power(lines, 1, max(budget // (br * br), 1))
        return {"BX": bx, "BR": br, "BK": br, **options}, _cdiv(lines, bx) * _cdiv(length, br) if length else 0
    bi = _power(sizes["I"], 1, 32)
    bj = _power(sizes["J"], 1, max(min(budget // (bi * 16), 64), 1))
    br = _power(length, 1, max(budget // (bi * bj), 1))
    return {"BJ": bj, "BR": br, "BI": bi, **options}, sizes["O"] * _cdiv(sizes["J"], bj) * _cdiv(sizes["I"], bi)

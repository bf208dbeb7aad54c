"""Launch configurations and grids of the templates: arithmetic in plain Python, no measurement.

``*_config`` take sizes and return the block sizes, num_warps and num_stages to compile with; ``*_grid`` return the number
of programs. Sizes are a ``Geometry``, or of other templates the mapping of upper-case names that they take as constants.
``prologues`` are the bytes that a prologue loads for each element of the left and of the right operand; 0 is a plain load.
Tiles of GEMMs are chosen by predicted time (``cost``). Under the interpreter a program costs milliseconds whatever its
size, so there tiles are large and few, below Triton's limit of 1,048,576 elements per tensor.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

from .cost import LAUNCH, Config, Gemm, Machine, cdiv, choose, multiprocessor, persistent, power, ranked, specialized, walking
from .geometry import Geometry

Sizes = Mapping[str, int]
_FEWEST_PIXELS = 128  # that are worth a split of their own
_MOST_PIXELS = 9  # of a cell of a pooling's gradient
_MOST_TAPS = 64  # of a window that are written out (``pool.UNROLLED``)
_MOST_CHANNELS = 64  # of a tile of pooling
_HERE = Machine()


def interpreted(m: int, n: int, k: int) -> Config:
    return {"BM": power(m, 16, 512), "BN": power(n, 16, 256), "BK": power(k, 16, 256), "num_warps": 1, "num_stages": 1}


def matmul_config(sizes: Sizes, itemsize: int, machine: Machine = _HERE, **more: Any) -> Config:
    """BM, BN, BK, num_warps, num_stages, PROGRAMS of ``matmul``: the first of ``matmul_configs``."""
    return matmul_configs(sizes, itemsize, machine, **more)[0][1]


def matmul_configs(
    sizes: Sizes,
    itemsize: int,
    machine: Machine = _HERE,
    *,
    prologues: tuple[int, int] = (0, 0),
    segment: int = 1,
    maps: int = 0,
    plain: bool = False,
    tma: bool = False,
) -> list[tuple[float, Config]]:
    """(predicted clocks, configuration) of ``matmul``, or of ``matmul_tma`` with ``tma``, the fastest first.

    ``segment`` is what the rows of a tile are to be a multiple of, ``maps`` the bytes that the epilogue loads for an element; a
    ``plain`` kernel has room for larger tiles.
    """
    if machine.interpret:
        return [(0.0, {**interpreted(sizes["M"], sizes["N"], sizes["K"]), "PROGRAMS": 0})]
    gemm = matmul_gemm(sizes, itemsize, prologues=prologues)._replace(segment=segment, maps=maps, tma=tma, plain=plain)
    if tma:
        return walking(gemm, machine)
    # One tile for each program: in the loop over tiles the compiler (Triton 3.9) forgets what lies side by side in memory, and
    # accesses get narrow. Tuning may find that it pays nonetheless.
    found = []
    for clocks, config in ranked(gemm, machine):
        programs = persistent(config, gemm, machine)
        found += [(clocks, {**config, "PROGRAMS": count}) for count in dict.fromkeys((0, programs))]
    return found


def matmul_specialized(
    sizes: Sizes, itemsize: int, machine: Machine = _HERE, *, plain: bool = False, **more: Any
) -> list[tuple[float, Config]]:
    """As ``matmul_configs``, of ``matmul_tma`` with SPECIALIZED: of a ``plain`` product, where the architecture has it."""
    return specialized(matmul_gemm(sizes, itemsize), machine) if plain and sizes["BATCH"] == 1 and not machine.interpret else []


def takes_tma(inner: tuple[int, int], itemsize: int, arch: str) -> bool:
    """Whether descriptors can read operands with these innermost sizes, both dense and from an aligned address."""
    return has_tma(arch) and all(size and size * itemsize % 16 == 0 for size in inner)


def has_tma(arch: str) -> bool:
    """Whether GPUs of ``arch`` read tensors through descriptors."""
    return arch.startswith("sm_") and int(arch[3:]) >= 90


def matmul_gemm(sizes: Sizes, itemsize: int, *, prologues: tuple[int, int] = (0, 0), output: int = 0) -> Gemm:
    """A product as ``cost`` knows it; ``output`` is the bytes of a result's element if not ``itemsize``."""
    batch, m, n, k = (sizes[d] for d in ("BATCH", "M", "N", "K"))

    def tiles(bm: int, bn: int) -> int:
        return batch * cdiv(m, bm) * cdiv(n, bn)

    return Gemm(tiles, k, k, (True, True), itemsize, prologues, output or itemsize)


def matmul_splits(sizes: Sizes, itemsize: int, machine: Machine = _HERE) -> int:
    """Into how many partial products to cut the depth of ``matmul``, each a batch entry of its own; a divisor of K.

    Pays where few tiles have a long way to go. Parts are at least 128 deep, and multiples of 16 where K is.
    """
    batch, m, n, k = (sizes[d] for d in ("BATCH", "M", "N", "K"))
    if machine.interpret or not batch * m * n * k:
        return 1

    def clocks(splits: int) -> float:
        part = {"BATCH": splits * batch, "M": m, "N": n, "K": k // splits}
        gemm = matmul_gemm(part, itemsize, output=4 if splits > 1 else 0)
        return choose(gemm, machine)[0] + _finish(splits, batch * m * n, machine)

    step = math.gcd(k, 16)
    return min((s for s in range(1, max(k // 128, 1) + 1) if k % (s * step) == 0 or s == 1), key=clocks)


def _finish(splits: int, elements: int, machine: Machine) -> float:
    """Clocks of adding up ``splits`` partial results in float32: another launch, and another reading."""
    return LAUNCH + splits * elements * 4 / (multiprocessor(machine.arch).memory * machine.units) if splits > 1 else 0.0


def matmul_grid(sizes: Sizes, config: Config) -> int:
    """Programs of ``matmul`` for sizes BATCH, M, N."""
    tiles = sizes["BATCH"] * cdiv(sizes["M"], config["BM"]) * cdiv(sizes["N"], config["BN"])
    return min(tiles, config.get("PROGRAMS") or tiles)


def matmul_steps(sizes: Sizes, config: Config) -> tuple[float, int]:
    """The blocks of depth that a tile of ``matmul`` takes, and the tiles."""
    return cdiv(sizes["K"], config["BK"]), matmul_grid(sizes, {**config, "PROGRAMS": 0})


def _matrix(kind: str, g: Geometry) -> tuple[int, int, float, int, int]:
    """(rows, columns, mean depth, batches, channels of one tap) of the GEMM behind a convolution of this kind."""
    cg, kg = g.C // g.GROUPS, g.K // g.GROUPS
    if kind == "fwd":
        return g.N * g.P * g.Q, kg, g.R * g.S * cg, g.GROUPS, cg
    if kind == "dgrad":
        rows, phases = g.N * cdiv(g.H, g.STRIDE_H) * cdiv(g.W, g.STRIDE_W), g.STRIDE_H * g.STRIDE_W
        return rows, cg, g.R * g.S * kg / phases, g.GROUPS * phases, kg
    if kind == "wgrad":
        sides = kg, g.R * g.S * cg
        rows, columns = sides[::-1] if g.K_AXIS else sides
        return rows, columns, split_pixels(g), g.GROUPS * g.SPLITS, cg
    raise ValueError(f"kind must be 'fwd', 'dgrad' or 'wgrad', got {kind!r}")


def split_pixels(g: Geometry) -> int:
    """The most pixels that one of the parts of a weight gradient adds up."""
    return cdiv(g.N, g.SPLITS) * g.P * g.Q if g.SPLITS <= g.N or not g.N else cdiv(g.P, g.SPLITS // g.N) * g.Q


def is_depthwise(g: Geometry) -> bool:
    """Whether groups have so few channels that a convolution is a vector kernel of ``depthwise`` and not a GEMM."""
    return g.GROUPS > 1 and max(g.C, g.K) <= 4 * g.GROUPS


def depthwise_config(kind: str, g: Geometry, itemsize: int, machine: Machine = _HERE, *, lanes: int = 32) -> Config:
    """BM, BN, num_warps, num_stages of ``depthwise_fwd``, ``_dgrad`` or ``_wgrad``: a vector of 16 bytes for each thread."""
    channels = g.C if kind == "dgrad" else g.K
    bn = power(channels, 16, 64)
    if machine.interpret:
        bm = power(g.N * g.H * g.W if kind == "dgrad" else g.N * g.P * g.Q, 16, 1024)
        return {"BM": bm, "BN": power(channels, 16, 256), "num_warps": 1, "num_stages": 1}
    return {"BM": 4 * lanes * 16 // itemsize // bn, "BN": bn, "num_warps": 4, "num_stages": 3}


def depthwise_grid(kind: str, g: Geometry, config: Config) -> int:
    """Programs of ``depthwise_fwd``, ``depthwise_dgrad`` or ``depthwise_wgrad``."""
    bm, bn = config["BM"], config["BN"]
    if kind == "wgrad":
        return g.SPLITS * g.R * g.S * (g.C // g.GROUPS) * cdiv(g.K, bn)
    if kind == "dgrad":
        return cdiv(g.N * g.H * g.W, bm) * cdiv(g.C, bn)
    return cdiv(g.N * g.P * g.Q, bm) * cdiv(g.K, bn)


def conv_grid(kind: str, g: Geometry, config: Config) -> int:
    """Programs of ``conv_fwd``, ``conv_dgrad`` or ``conv_wgrad`` ("fwd", "dgrad", "wgrad")."""
    return _conv_tiles(kind, g, config["BM"], config["BN"])


def conv_steps(kind: str, g: Geometry, config: Config) -> tuple[float, int]:
    """The blocks of depth that a tile of a convolution takes on average, and the tiles; those of ``conv_tma`` have a box."""
    box = (config["BH"], config["BW"]) if "BH" in config else None
    tiles = _box_tiles(kind, g, config["BM"], config["BN"], box) if box else conv_grid(kind, g, config)
    return _conv_gemm(kind, g, 1, (0, 0))._replace(tma=box is not None).steps(config["BK"]), tiles


def _conv_tiles(kind: str, g: Geometry, bm: int, bn: int) -> int:
    rows, columns, _, batches, channels = _matrix(kind, g)
    down, across = cdiv(rows, bm), cdiv(columns, bn)
    if kind == "wgrad":
        taps = g.R * g.S
        if g.K_AXIS:
            down = taps * cdiv(channels, bm) if channels >= bm else down  # a tile keeps to one tap
        else:
            across = taps * cdiv(channels, bn) if channels >= bn else across
    return batches * down * across


def _conv_gemm(kind: str, g: Geometry, itemsize: int, prologues: tuple[int, int]) -> Gemm:
    _, _, depth, _, channels = _matrix(kind, g)
    c, k = (n // g.GROUPS * itemsize % 16 == 0 for n in (g.C, g.K))
    runs = [math.gcd(n // g.GROUPS, 16 // itemsize) for n in (g.C, g.K)]
    left, right = {"fwd": (0, 1), "dgrad": (1, 1), "wgrad": (0, 1) if g.K_AXIS else (1, 0)}[kind]
    return Gemm(
        lambda bm, bn: _conv_tiles(kind, g, bm, bn),
        depth,
        math.ceil(depth) if kind == "wgrad" else channels,
        ((c, k)[left], (c, k)[right]),
        itemsize,
        prologues,
        4 if g.SPLITS > 1 else itemsize,
        runs=(runs[left], runs[right]),
        single=40 if itemsize <= 2 and g.R * g.S > 1 else 12,  # a tap and a channel for each; FFMA hides that
    )


def conv_config(kind: str, g: Geometry, itemsize: int, machine: Machine = _HERE, **more: Any) -> Config:
    """BM, BN, BK, num_warps, num_stages of a convolution kernel: the first of ``conv_configs``."""
    return conv_configs(kind, g, itemsize, machine, **more)[0][1]


def conv_configs(
    kind: str,
    g: Geometry,
    itemsize: int,
    machine: Machine = _HERE,
    *,
    prologues: tuple[int, int] = (0, 0),
    segment: int = 1,
    maps: int = 0,
    plain: bool = False,
) -> list[tuple[float, Config]]:
    """(predicted clocks, configuration) of a convolution kernel, the fastest first.

    ``segment`` is what the rows of a tile are to be a multiple of, ``maps`` the bytes that the epilogue loads for an element; a
    ``plain`` kernel has room for larger tiles. For "wgrad" g should have SPLITS and K_AXIS already.
    """
    if machine.interpret:
        m, n, depth, _, _ = _matrix(kind, g)
        return [(0.0, interpreted(m, n, math.ceil(depth)))]
    found = ranked(_conv_gemm(kind, g, itemsize, prologues)._replace(segment=segment, maps=maps, plain=plain), machine)
    if kind == "dgrad" and machine.precision == "ieee" and itemsize == 4:
        for _, config in found:
            config["BK"] = min(config["BK"], 16)  # both operand tiles live in registers beside the index arithmetic: 32 spills
            if segment > 1:
                config["num_warps"] = max(config["num_warps"], 4)  # sums of segments want registers too
    return found


def _output(kind: str, g: Geometry) -> tuple[int, int, int, int]:
    """(images, rows, columns, channels) of what "fwd" or "dgrad" writes."""
    return (g.N, g.P, g.Q, g.K) if kind == "fwd" else (g.N, g.H, g.W, g.C)


def is_pointwise(g: Geometry) -> bool:
    """Whether a convolution is a product for each pixel, which may stand in any order."""
    return g.R == g.S == g.STRIDE_H == g.STRIDE_W == 1 and g.P * g.Q == g.H * g.W


def conv_takes_tma(kind: str, g: Geometry, itemsize: int, arch: str) -> bool:
    """Whether ``conv_tma`` can compute "fwd" or "dgrad" of these sizes, from dense operands at aligned addresses."""
    skips = kind == "fwd" and g.R * g.S == 1 and not (g.PAD_H or g.PAD_W)
    fits = kind in ("fwd", "dgrad") and g.GROUPS == 1 and (max(g.STRIDE_H, g.STRIDE_W) == 1 or skips)
    return fits and takes_tma((g.C, g.K), itemsize, arch)


def _boxes(images: int, rows: int, columns: int, bh: int, bw: int, bm: int) -> int:
    return cdiv(images, max(bm // (bh * bw), 1)) * cdiv(rows, bh) * cdiv(columns, bw)


def conv_box(kind: str, g: Geometry, bm: int, segment: int = 1) -> tuple[int, int] | None:
    """BH, BW of ``conv_tma`` for tiles of bm pixels: the fewest boxes, among those the widest.

    With ``segment`` more than 1 such that pixels stand in a tile as they do in memory, or None: there is no such box.
    """
    if is_pointwise(g):
        return 1, bm
    images, rows, columns, _ = _output(kind, g)
    powers = [1 << i for i in range(bm.bit_length())]
    shapes = [(bh, bw) for bw in powers for bh in powers if bh * bw <= bm and bh <= 256 and bw <= 256]
    if segment > 1:
        whole = [(h, w) for h, w in shapes if w == columns and rows % h == 0 and h in (bm // w, rows)]
        shapes = [*whole, *((h, w) for h, w in shapes if w == bm and columns % w == 0)]
    return min(shapes, key=lambda s: (_boxes(images, rows, columns, *s, bm=bm), -s[1], -s[0]), default=None)


def conv_tma_grid(kind: str, g: Geometry, config: Config) -> int:
    """Programs of ``conv_tma``."""
    tiles = _box_tiles(kind, g, config["BM"], config["BN"], (config["BH"], config["BW"]))
    return min(tiles, config["PROGRAMS"] or tiles)


def _box_tiles(kind: str, g: Geometry, bm: int, bn: int, box: tuple[int, int]) -> int:
    images, rows, columns, channels = _output(kind, g)
    if is_pointwise(g):
        images, rows, columns = 1, 1, images * rows * columns
    return _boxes(images, rows, columns, *box, bm) * cdiv(channels, bn)


def conv_tma_configs(
    kind: str,
    g: Geometry,
    itemsize: int,
    machine: Machine = _HERE,
    *,
    prologues: tuple[int, int] = (0, 0),
    segment: int = 1,
    maps: int = 0,
    plain: bool = False,
) -> list[tuple[float, Config]]:
    """(predicted clocks, configuration) of ``conv_tma`` for "fwd" or "dgrad", the fastest first; none where no box fits."""

    @functools.cache
    def box(bm: int) -> tuple[int, int] | None:
        return conv_box(kind, g, bm, segment)

    gemm = _conv_gemm(kind, g, itemsize, prologues)._replace(segment=segment, maps=maps, tma=True, plain=plain)
    gemm = gemm._replace(tiles=lambda bm, bn: _box_tiles(kind, g, bm, bn, box(bm) or (1, 1)))
    if machine.interpret:
        m, n, _, _, k = _matrix(kind, g)
        found = [(0.0, {**interpreted(m, n, k), "PROGRAMS": 0})]
    else:
        found = walking(gemm, machine)
    return [(clocks, {**config, "BH": at[0], "BW": at[1]}) for clocks, config in found if (at := box(config["BM"])) is not None]


def wgrad_splits(g: Geometry, itemsize: int, machine: Machine = _HERE) -> int:
    """Into how many partial sums to cut ``conv_wgrad``: parts of the batch, or of each image's rows if those are too few.

    The number with the least predicted time, the reading of the partial sums included.
    """
    if machine.interpret or not g.N * g.P * g.Q:
        return 1
    parts = {cdiv(g.N, size) for size in range(1, g.N + 1)} | {g.N * cdiv(g.P, rows) for rows in range(1, g.P)}
    cut = [g._replace(SPLITS=splits) for splits in sorted(parts)]
    enough = [p for p in cut if p.SPLITS == 1 or (p.SPLITS <= 8 * machine.units and split_pixels(p) >= _FEWEST_PIXELS)]
    if is_depthwise(g):
        wanted = cdiv(4 * machine.units, depthwise_grid("wgrad", g, depthwise_config("wgrad", g, itemsize)))
        return next((p.SPLITS for p in enough if p.SPLITS >= wanted), enough[-1].SPLITS)
    filters = g.K * (g.C // g.GROUPS) * g.R * g.S

    def clocks(part: Geometry) -> float:
        gemm = _conv_gemm("wgrad", part, itemsize, (0, 0))
        return choose(gemm, machine)[0] + _finish(part.SPLITS, filters, machine)

    return min(enough, key=clocks).SPLITS


def pool_config(outputs: int, itemsize: int, machine: Machine = _HERE, *, lanes: int = 32) -> Config:
    """BLOCK, num_warps, num_stages of the pooling kernels for a number of ``pool_outputs``: 16 bytes a thread, or more."""
    if machine.interpret:
        return {"BLOCK": power(outputs, _MOST_CHANNELS, 1 << 17), "num_warps": 1, "num_stages": 1}
    vector = 16 // min(itemsize, 4) * lanes
    block = power(outputs // (4 * machine.units), vector, 32 * lanes)
    return {"BLOCK": block, "num_warps": min(4, block // vector), "num_stages": 1}


def pool_channels(g: Geometry, channels_last: bool, gradient: bool) -> int:
    """CHANNELS of the pooling kernels: the number that fills tiles best; 0, for runs, where 16 bytes would take two pixels.

    The gradients' tiles write out all windows and all pixels of a cell, which must not be too many.
    """
    if not channels_last or g.C % 8 or (gradient and (g.STRIDE_H * g.STRIDE_W > _MOST_PIXELS or g.R * g.S > _MOST_TAPS)):
        return 0
    return min((_MOST_CHANNELS, 32, 16, 8), key=lambda n: cdiv(g.C, n) * n)


def pool_outputs(g: Geometry, gradient: bool, channels: int = 0) -> int:
    """The elements shared out in blocks: of the output, with ``gradient`` of the input; with ``channels``, of its cells."""
    if not gradient:
        return g.N * g.C * g.P * g.Q
    down, across = (g.STRIDE_H, g.STRIDE_W) if channels else (1, 1)
    return g.N * g.C * cdiv(g.H + g.PAD_H % down, down) * cdiv(g.W + g.PAD_W % across, across)


def pool_grid(g: Geometry, config: Config, gradient: bool = False, channels: int = 0) -> int:
    """Programs of ``pool`` and ``max_pool_gather``, or with ``gradient`` of ``max_pool_grad`` and ``sum_pool_grad``."""
    outputs = pool_outputs(g, gradient, channels)
    if channels and g.C:
        return cdiv(g.C, channels) * cdiv(outputs // g.C, config["BLOCK"] // channels)
    return cdiv(outputs, config["BLOCK"])


def line_config(name: str, sizes: Sizes, interpret: bool = False) -> tuple[Config, int]:
    """Blocks, num_warps and num_stages of a template of the family line, and the grid."""
    budget = 1 << 16 if interpret else 4096  # elements of the largest tile
    options = {"num_warps": 1 if interpret else 4, "num_stages": 1}
    if name == "nms":
        return {"BN": power(sizes["N"], 16, 1 << 16), **options}, sizes["BATCH"] if sizes["N"] else 0
    if name == "svd":
        bn = power(sizes["N"], 1, 1 << 10 if interpret else 32)
        bk = power(sizes["M"] + 1 + sizes["N"], 1, budget // (2 * bn))  # several columns of doubles are at hand at a time
        options["num_warps"] = 1 if interpret else min(max(bk * bn // 256, 1), 8)
        return {"BK": bk, "BN": bn, **options}, sizes["BATCH"] if sizes["N"] else 0
    if name == "lu":
        bn = power(sizes["N"] + sizes["R"], 1, 1 << 8 if interpret else 64)
        bk = power(sizes["N"] + 2, 1, budget // bn)
        options["num_warps"] = 1 if interpret else min(max(bk * bn // 256, 1), 8)
        return {"BK": bk, "BN": bn, **options}, sizes["BATCH"]
    lines, length = sizes["O"] * sizes["I"], sizes["R"]
    if name in ("scan", "recurrence"):
        br = power(length, 1, 1024)
        bx = power(lines, 1, max(budget // br, 1))
        return {"BX": bx, "BR": br, **options}, cdiv(lines, bx) if length else 0
    if name == "sort":
        br = power(length, 1, 64)
        bx = power(lines, 1, max(budget // (br * br), 1))
        return {"BX": bx, "BR": br, "BK": br, **options}, cdiv(lines, bx) * cdiv(length, br) if length else 0
    bi = power(sizes["I"], 1, 32)
    bj = power(sizes["J"], 1, max(min(budget // (bi * 16), 64), 1))
    br = power(length, 1, max(budget // (bi * bj), 1))
    return {"BJ": bj, "BR": br, "BI": bi, **options}, sizes["O"] * cdiv(sizes["J"], bj) * cdiv(sizes["I"], bi)

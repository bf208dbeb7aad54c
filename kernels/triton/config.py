"""Launch configurations and grids of the templates: heuristics in plain Python, no measurement.

``matmul_config``, ``conv_config`` and ``pool_config`` take sizes and return the block sizes, num_warps and num_stages
to compile with; ``*_grid`` return the number of programs. Sizes of conv and pool are the mapping of upper-case names
that the template takes as constants. A tile is chosen from a table whose entries compile without spills for sm_80 and
sm_90, by minimising waves * (multiply-adds + loads) per program. Shared memory limits the stages. Under the interpreter
a program costs milliseconds whatever its size, so there tiles are large and few, below Triton's limit of 1,048,576
elements per tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

Sizes = Mapping[str, int]
Config = dict[str, int]

# (BM, BN, BK, num_warps, num_stages); 128x256 spills at 8 warps, 128x64 of 4-byte elements at 4 warps on sm_80.
_HALF = [
    (128, 128, 64, 8, 3),
    (128, 64, 64, 4, 3),
    (64, 128, 64, 4, 3),
    (128, 32, 64, 4, 3),
    (64, 64, 64, 4, 3),
    (64, 32, 64, 4, 4),
    (32, 64, 64, 4, 4),
    (128, 16, 64, 4, 3),
    (64, 16, 64, 4, 4),
    (16, 64, 64, 2, 4),
    (32, 32, 64, 2, 4),
    (32, 16, 64, 2, 3),
    (16, 32, 64, 2, 3),
    (16, 16, 64, 1, 3),
]
_SINGLE = [
    (128, 128, 32, 8, 3),
    (128, 64, 32, 8, 3),
    (64, 128, 32, 8, 3),
    *((m, n, 32, w, s) for m, n, k, w, s in _HALF if m * n <= 64 * 64),
]
_IEEE = [  # float32 by FFMA, whose operands live in registers: 64x64 spills in some convolutions
    (64, 32, 32, 4, 3),
    (32, 64, 32, 4, 3),
    (64, 16, 32, 2, 3),
    (16, 64, 32, 2, 3),
    (32, 32, 16, 2, 3),
    (16, 16, 16, 1, 2),
]
_DOUBLE = [(64, 64, 16, 8, 3), (64, 32, 16, 4, 2), (32, 64, 16, 4, 2), (32, 32, 16, 4, 2), (16, 16, 16, 1, 2)]

_LOAD_COST = 64  # multiply-adds of a tile that cost as much as loading one operand element
_SHARED_BYTES = {"sm_80": 163 << 10, "sm_86": 99 << 10, "sm_89": 99 << 10, "sm_90": 227 << 10, "gfx942": 64 << 10}


def _table(itemsize: int, precision: str) -> list[tuple[int, int, int, int, int]]:
    if itemsize <= 2:
        return _HALF
    if itemsize == 8:
        return _DOUBLE
    return _IEEE if precision == "ieee" else _SINGLE


def _power(n: int, low: int, high: int) -> int:
    """The power of two at or above n, kept within [low, high]."""
    return max(low, min(high, 1 << max(n - 1, 0).bit_length()))


def _cdiv(a: int, b: int) -> int:
    return -(-a // b)


def _choose(
    m: int, n: int, k: int, tiles: Callable[[int, int], int], itemsize: int, precision: str, target: str, units: int
) -> Config:
    """The cheapest tile of the table for a GEMM of m x n x k; ``tiles(BM, BN)`` counts the programs of all batches."""

    def cost(entry: tuple[int, ...]) -> tuple[int, int]:
        bm, bn = entry[:2]
        return _cdiv(tiles(bm, bn), units) * (bm * bn + _LOAD_COST * (bm + bn)), -bm * bn

    bm, bn, bk, warps, stages = min(_table(itemsize, precision), key=cost)
    bk = min(bk, _power(k, 16, bk))
    room = _SHARED_BYTES.get(target, 99 << 10) // ((bm + bn) * bk * itemsize)
    stages = max(1, min(2 if target.startswith("gfx") else stages, room))
    return {"BM": bm, "BN": bn, "BK": bk, "num_warps": warps, "num_stages": stages}


def _interpreted(m: int, n: int, k: int) -> Config:
    return {
        "BM": _power(m, 16, 512),
        "BN": _power(n, 16, 256),
        "BK": _power(k, 16, 256),
        "num_warps": 1,
        "num_stages": 1,
    }


def matmul_config(
    m: int,
    n: int,
    k: int,
    itemsize: int,
    interpret: bool = False,
    *,
    batch: int = 1,
    precision: str = "tf32",
    target: str = "sm_90",
    units: int = 132,
) -> Config:
    """BM, BN, BK, num_warps, num_stages of ``matmul``; ``units`` is how many multiprocessors the device has."""
    if interpret:
        return _interpreted(m, n, k)
    return _choose(m, n, k, lambda bm, bn: batch * _cdiv(m, bm) * _cdiv(n, bn), itemsize, precision, target, units)


def matmul_grid(sizes: Sizes, config: Config) -> int:
    """Programs of ``matmul`` for sizes BATCH, M, N."""
    return sizes["BATCH"] * _cdiv(sizes["M"], config["BM"]) * _cdiv(sizes["N"], config["BN"])


def _gemm(kind: str, z: Sizes) -> tuple[int, int, int, int, int]:
    """(rows, columns, depth, batches, channels of one tap) of the GEMM behind a convolution of this kind."""
    cg, kg = z["C"] // z["GROUPS"], z["K"] // z["GROUPS"]
    if kind == "fwd":
        return z["N"] * z["P"] * z["Q"], kg, z["R"] * z["S"] * cg, z["GROUPS"], cg
    if kind == "dgrad":
        sh, sw = z["STRIDE_H"], z["STRIDE_W"]
        rows = z["N"] * _cdiv(z["H"], sh) * _cdiv(z["W"], sw)
        return rows, cg, _cdiv(z["R"], sh) * _cdiv(z["S"], sw) * kg, z["GROUPS"] * sh * sw, kg
    if kind == "wgrad":
        splits = z.get("SPLITS", 1)
        return kg, z["R"] * z["S"] * cg, _cdiv(z["N"], splits) * z["P"] * z["Q"], z["GROUPS"] * splits, cg
    raise ValueError(f"kind must be 'fwd', 'dgrad' or 'wgrad', got {kind!r}")


def conv_grid(kind: str, sizes: Sizes, config: Config) -> int:
    """Programs of ``conv_fwd``, ``conv_dgrad`` or ``conv_wgrad`` ("fwd", "dgrad", "wgrad")."""
    return _conv_tiles(kind, sizes, config["BM"], config["BN"])


def _conv_tiles(kind: str, sizes: Sizes, bm: int, bn: int) -> int:
    rows, columns, _, batches, channels = _gemm(kind, sizes)
    across = _cdiv(columns, bn)
    if kind == "wgrad" and channels >= bn:  # a column tile keeps to one tap
        across = sizes["R"] * sizes["S"] * _cdiv(channels, bn)
    return batches * _cdiv(rows, bm) * across


def conv_config(
    kind: str,
    sizes: Sizes,
    itemsize: int,
    interpret: bool = False,
    *,
    precision: str = "tf32",
    target: str = "sm_90",
    units: int = 132,
) -> Config:
    """BM, BN, BK, num_warps, num_stages of a convolution kernel; for "wgrad" sizes should have SPLITS already."""
    rows, columns, depth, _, channels = _gemm(kind, sizes)
    if interpret:
        return _interpreted(rows, columns, depth)
    config = _choose(rows, columns, depth, lambda bm, bn: _conv_tiles(kind, sizes, bm, bn), itemsize, precision, target, units)
    if kind == "dgrad" and precision == "ieee" and itemsize == 4:
        config["BK"] = min(config["BK"], 16)  # both operand tiles live in registers beside the index arithmetic: 32 spills
    # Blocks of channels that do not divide the channels waste lanes in every tap; half a block often fits.
    half = config["BK"] // 2
    if kind != "wgrad" and channels > config["BK"] and channels % config["BK"] and not channels % half and half >= 16:
        config["BK"] = half
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
    """Into how many partial sums to cut ``conv_wgrad`` to fill the device, each of at least 512 pixels."""
    if interpret:
        return 1
    whole = {**sizes, "SPLITS": 1}
    config = conv_config("wgrad", whole, itemsize, precision=precision, target=target, units=1)
    wanted = _cdiv(units, conv_grid("wgrad", whole, config))
    images = _cdiv(512, max(1, sizes["P"] * sizes["Q"]))  # the fewest batch entries worth a split of their own
    splits = max(1, min(wanted, sizes["N"] // images))
    return _cdiv(sizes["N"], _cdiv(sizes["N"], splits))  # no empty splits


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

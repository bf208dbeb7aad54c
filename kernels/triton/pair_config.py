"""Tiles of ``matmul_pair``, by the arithmetic of a product's (``config``)."""

from __future__ import annotations

from .config import Sizes, interpreted, matmul_configs, matmul_grid
from .cost import Config, Machine


def pair_configs(
    sizes: Sizes, itemsize: int, machine: Machine, *, prologues: tuple[int, int] = (0, 0), maps: int = 0
) -> list[tuple[float, Config]]:
    """(predicted clocks, configuration) of ``matmul_pair``, the fastest first.

    Its tiles are those of a product of twice the columns, whose sums are as many; each of the two products takes the left block
    from shared memory anew, and so takes the time of one of its own with such a tile.
    """
    if machine.interpret:
        return [(0.0, interpreted(sizes["M"], sizes["N"], sizes["K"]))]

    def tile(config: Config) -> tuple[int, ...]:
        return config["BM"], config["BN"], config["BK"]

    def listed(sizes: Sizes) -> list[tuple[float, Config]]:
        found = matmul_configs(sizes, itemsize, machine, prologues=prologues, maps=maps)
        return [(clocks, {n: v for n, v in c.items() if n != "PROGRAMS"}) for clocks, c in found if not c["PROGRAMS"]]

    one = listed(sizes)
    alone = {tile(c): clocks for clocks, c in reversed(one)}
    halved = [{**c, "BN": c["BN"] // 2} for _, c in listed({**sizes, "N": 2 * sizes["N"]}) if c["BN"] >= 32]
    found = [(2 * alone[tile(c)], c) for c in halved if tile(c) in alone]
    return sorted(found, key=lambda f: f[0]) or [(2 * clocks, c) for clocks, c in one[:1]]


def pair_grid(sizes: Sizes, config: Config) -> int:
    """Programs of ``matmul_pair``."""
    return matmul_grid(sizes, {**config, "PROGRAMS": 0})

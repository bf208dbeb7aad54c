"""Launch configurations of ``matmul_gluon``, and the versions of Triton in whose Gluon it is written.

Gluon is experimental, and changes; what compiles elsewhere was not looked at. Nobody has measured these tiles: they are
for tuning.
"""

from __future__ import annotations

from typing import Any

import triton

from .config import Sizes, matmul_gemm
from .cost import Config, Machine, Tiling, clocks

VERSIONS = ("3.6", "3.7")
_TILES = [(128, 256, 8, 4), (256, 128, 8, 4), (128, 128, 4, 3)]  # BM, BN, warps and stages; 8 warps fit on a multiprocessor
_DEPTH = 64


def unknown() -> str:
    """Why the Gluon of this Triton is not that of ``VERSIONS``; empty where it is."""
    version = str(triton.__version__)
    known = version.rsplit(".", 1)[0] in VERSIONS
    return "" if known else f"written for the Gluon of Triton {' and '.join(VERSIONS)}, this is {version}"


def gluon_configs(
    sizes: Sizes, itemsize: int, machine: Machine, *, plain: bool = False, **more: Any
) -> list[tuple[float, Config]]:
    """(predicted clocks, configuration) of ``matmul_gluon``, the fastest first; none of a product that it does not compute.

    That is one of halves, deeper than its stages, in which nothing is computed on load, and only vectors are read where a
    tile is stored (``plain``). The times are those of as many warps that load and multiply.
    """
    if machine.arch != "sm_90" or machine.interpret or sizes["BATCH"] != 1 or itemsize != 2 or not plain:
        return []
    gemm, found = matmul_gemm(sizes, itemsize)._replace(tma=True), []
    for bm, bn, warps, stages in _TILES:
        if gemm.steps(_DEPTH) > stages:
            config = dict(BM=bm, BN=bn, BK=_DEPTH, STAGES=stages, num_warps=warps, num_stages=1)
            found.append((clocks(Tiling(bm, bn, _DEPTH, warps, stages, 8 // warps), gemm, machine), config))
    return sorted(found, key=lambda pair: pair[0])

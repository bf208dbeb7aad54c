"""The tiles of ``attention`` and of its gradients, by what halves and float32 take in registers and in shared memory."""

from .config import Sizes
from .cost import Config, Machine, cdiv, power

_HERE = Machine()
_AXES = {"attention": "MNV", "attention_dq": "MNK", "attention_dkv": "NMK", "attention_dscores": "MNN"}


def blocks(name: str, sizes: Sizes, itemsize: int, machine: Machine = _HERE) -> tuple[Config, int]:
    """BM, BN, BK, BV, of gradients also BD, num_warps and num_stages of the template ``name``, and the grid.

    ``_AXES`` are that of a tile's rows, that along which it walks, and that of its columns.
    """
    rows, across, columns = _AXES[name]
    gradient = name != "attention"
    side = 128 if machine.interpret else 64 if itemsize <= 2 else 32
    most = {rows: side if gradient else 2 * side, across: side, "K": side, "V": side if gradient else 2 * side}
    config = {f"B{axis}": power(sizes[axis], 16, most[axis]) for axis in "MNKV"}
    tile = (config[f"B{rows}"], config[f"B{columns}"])
    if gradient:
        config["BD"] = power(sizes["K"], 16, 2 * side)
        tile = (tile[0], config["BD"] if columns == "K" else tile[1])
    warps = 8 if tile[0] * tile[1] > 64 * 64 else 4
    options = {"num_warps": 1, "num_stages": 1} if machine.interpret else {"num_warps": warps, "num_stages": 2}
    return {**config, **options}, sizes["BATCH"] * cdiv(sizes[rows], tile[0]) * cdiv(sizes[columns], tile[1])

"""Which template function computes a node, on which tiles it could, in how many programs; into how many parts it is split."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from graphrt.ir import Node
from graphrt.schedule.kernel_ir import TemplateKernel
from graphrt.schedule.templates import TEMPLATES
from graphrt.targets.templates import kernels as find_kernels

PRECISIONS = {"highest": "ieee", "high": "tf32x3", "medium": "tf32"}  # torch's names for float32 products, and Triton's
_FUNCTIONS = {"conv": "conv_fwd", "max_pool": "pool", "sum_pool": "pool"}
_KINDS = {"conv": "fwd", "conv_dgrad": "dgrad", "conv_wgrad": "wgrad"}


OPTIONS = ("num_warps", "num_stages")
WARPS = (4, 8, 2, 1)


@dataclass(frozen=True)
class Choice:
    """One way to launch a kernel: blocks and options by name, the programs, and the predicted clocks (0: no prediction)."""

    config: dict[str, int]
    grid: int
    clocks: float = 0.0


@dataclass(frozen=True)
class Tiling:
    """A template's module and function, what it is given besides sizes, and the ways to launch it, the heuristic first."""

    module: str
    function: str
    constants: dict[str, Any]
    choices: list[Choice]


def tiling(kernel: TemplateKernel, loads: tuple[int, ...], interpret: bool, arch: str, units: int) -> Tiling:
    """``loads`` are the bytes that each operand's prologue loads for an element, 0 without one."""
    from graphrt.kernels.triton import config  # type: ignore[import-not-found]

    spec, sizes, itemsize = kernel.spec, kernel.sizes, kernel.factors.itemsize
    module, function = spec.name if spec.family == "line" else spec.family, _FUNCTIONS.get(spec.name, spec.name)
    precision, rows = PRECISIONS[kernel.precision], next((n.inputs[0].shape[1] for n in kernel.group.runs), 1)
    target: dict[str, Any] = {"loads": loads, "rows": rows, "precision": precision, "target": arch, "units": units}
    constants: dict[str, Any] = {"INPUT_PRECISION": precision}
    if spec.family == "matmul":
        m, n, k = sizes["M"], sizes["N"], sizes["K"]
        found = config.matmul_configs(m, n, k, itemsize, interpret, batch=sizes["BATCH"], **target)
        choices = [Choice(c, config.matmul_grid(sizes, c), clocks) for clocks, c in found]
    elif spec.family == "conv" and config.is_depthwise(sizes):
        kind, constants = _KINDS[spec.name], {}
        module, function = "depthwise", f"depthwise_{kind}"
        blocks = config.depthwise_config(kind, sizes, itemsize, interpret)
        choices = warps(blocks, config.depthwise_grid(kind, sizes, blocks), interpret)
    elif spec.family == "conv":
        kind = _KINDS[spec.name]
        found = config.conv_configs(kind, sizes, itemsize, interpret, **target)
        choices = [Choice(c, config.conv_grid(kind, sizes, c), clocks) for clocks, c in found]
    elif spec.family == "line":
        constants = {}
        blocks, grid = config.line_config(spec.name, sizes, interpret)
        choices = warps(blocks, grid, interpret)
    else:
        gradient = spec.name.endswith("_grad")
        first = config.pool_config(config.pool_outputs(sizes, gradient), interpret, units=units)
        others = [] if interpret else [{**first, "BLOCK": 32 * w, "num_warps": min(w, 4)} for w in (4, 8, 16, 32)]
        configs = [first, *(c for c in others if c != first)]
        choices = [Choice(c, config.pool_grid(sizes, c, gradient)) for c in configs]
        constants = {"CHANNELS_LAST": any(s.offset.stride("c") == 1 for s in kernel.epilogue.stores)}
        if function == "pool":
            constants["OP"] = "max" if spec.name == "max_pool" else "sum"
    return Tiling(module, function, constants, choices)


def warps(config: dict[str, int], grid: int, interpret: bool) -> list[Choice]:
    """``config``, and the same with other numbers of warps."""
    others = [] if interpret else [w for w in WARPS if w != config["num_warps"]]
    return [Choice(config, grid), *(Choice({**config, "num_warps": w}, grid) for w in others)]


def splits(node: Node, interpret: bool, units: int) -> int:
    """Into how many partial sums to cut a product or a weight gradient so that it fills the device; 0 for not at all."""
    if node.op.template is None:
        return 0
    sizes = TEMPLATES[node.op.template].sizes(node)
    count = _parts(node.op.template == "matmul", tuple(sizes.items()), node.inputs[0].dtype.itemsize, interpret, units)
    return count if count > 1 else 0


@functools.cache
def _parts(matmul: bool, sizes: tuple[tuple[str, int], ...], itemsize: int, interpret: bool, units: int) -> int:
    """A network has many layers of few sizes, and every number of parts is tried."""
    find_kernels()
    from graphrt.kernels.triton import config

    rule = config.matmul_splits if matmul else config.wgrad_splits
    return int(rule(dict(sizes), itemsize, interpret, precision="ieee", units=units))

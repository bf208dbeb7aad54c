"""Which template function computes a node, on which tiles, in how many programs; and into how many parts it is split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from graphrt.ir import Node
from graphrt.schedule.kernel_ir import TemplateKernel
from graphrt.schedule.templates import TEMPLATES
from graphrt.targets.templates import kernels as find_kernels

PRECISIONS = {"highest": "ieee", "high": "tf32x3", "medium": "tf32"}  # torch's names for float32 products, and Triton's
_FUNCTIONS = {"conv": "conv_fwd", "max_pool": "pool", "sum_pool": "pool"}
_KINDS = {"conv": "fwd", "conv_dgrad": "dgrad", "conv_wgrad": "wgrad"}


@dataclass(frozen=True)
class Tiling:
    """A template's module and function, what the tiles add to its constants, its launch options and its grid."""

    module: str
    function: str
    constants: dict[str, Any]
    options: dict[str, int]
    grid: int


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
        found = config.matmul_config(m, n, k, itemsize, interpret, batch=sizes["BATCH"], **target)
        grid = config.matmul_grid(sizes, found)
    elif spec.family == "conv" and config.is_depthwise(sizes):
        kind, constants = _KINDS[spec.name], {}
        module, function = "depthwise", f"depthwise_{kind}"
        found = config.depthwise_config(kind, sizes, itemsize, interpret)
        grid = config.depthwise_grid(kind, sizes, found)
    elif spec.family == "conv":
        found = config.conv_config(_KINDS[spec.name], sizes, itemsize, interpret, **target)
        grid = config.conv_grid(_KINDS[spec.name], sizes, found)
    elif spec.family == "line":
        constants = {}
        found, grid = config.line_config(spec.name, sizes, interpret)
    else:
        gradient = spec.name.endswith("_grad")
        found = config.pool_config(config.pool_outputs(sizes, gradient), interpret, units=units)
        grid = config.pool_grid(sizes, found, gradient)
        constants = {"CHANNELS_LAST": any(s.offset.stride("c") == 1 for s in kernel.epilogue.stores)}
        if function == "pool":
            constants["OP"] = "max" if spec.name == "max_pool" else "sum"
    options = {k: found.pop(k) for k in ("num_warps", "num_stages")}
    return Tiling(module, function, {**constants, **found}, options, grid)


def splits(node: Node, interpret: bool, units: int) -> int:
    """Into how many partial sums to cut a product or a weight gradient so that it fills the device; 0 for not at all."""
    if node.op.template is None:
        return 0
    find_kernels()
    from graphrt.kernels.triton import config

    rule = config.matmul_splits if node.op.template == "matmul" else config.wgrad_splits
    sizes = TEMPLATES[node.op.template].sizes(node)
    count = rule(sizes, node.inputs[0].dtype.itemsize, interpret, precision="ieee", units=units)
    return count if count > 1 else 0

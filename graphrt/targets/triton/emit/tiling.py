"""Which template functions could compute a node, on which tiles, in how many programs; into how many parts it is split."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from graphrt.ir import Node
from graphrt.passes.siblings import Times
from graphrt.schedule.kernel_ir import TemplateKernel
from graphrt.schedule.templates import TEMPLATES
from graphrt.targets.templates import kernels as find_kernels
from graphrt.targets.triton.emit.launch import WARPS, Choice, Form
from graphrt.targets.triton.emit.options import Options

PRECISIONS = {"highest": "ieee", "high": "tf32x3", "medium": "tf32"}  # torch's names for float32 products, and Triton's
_FUNCTIONS = {"conv": "conv_fwd", "max_pool": "pool", "sum_pool": "pool"}
_KINDS = {"conv": "fwd", "conv_dgrad": "dgrad", "conv_wgrad": "wgrad"}


DESCRIBED = ("conv_tma", "matmul_tma")  # the forms whose operands come through descriptors
CLOCK = 1.7e9  # a second, about what GPUs sustain


def choices(
    kernel: TemplateKernel,
    constants: Mapping[str, Any],
    described: Mapping[str, Any] | None,
    loads: tuple[int, ...],
    options: Options,
) -> list[Choice]:
    """The ways to launch ``kernel``, the heuristic first.

    ``constants`` are closures and types, ``described`` the same for the form whose operands come through descriptors, if they
    can (``descriptors``). ``loads`` are the bytes that each operand's prologue loads for an element, 0 without one.
    """
    from graphrt.kernels.triton import config  # type: ignore[import-not-found]

    spec, sizes, itemsize, threads = kernel.spec, kernel.sizes, kernel.factors.itemsize, options.lanes
    interpret, arch, units = options.interpret, options.arch, options.units
    precision, rows = PRECISIONS[kernel.precision], next((n.inputs[0].shape[1] for n in kernel.group.runs), 1)
    target: dict[str, Any] = {"loads": loads, "rows": rows, "precision": precision, "target": arch, "units": units}
    known: dict[str, Any] = {**sizes, "INPUT_PRECISION": precision}

    def form(module: str, function: str, *more: Mapping[str, Any]) -> Form:
        return Form(function, module, function, {k: v for given in more for k, v in given.items()})

    if spec.family == "matmul":
        m, n, k = sizes["M"], sizes["N"], sizes["K"]
        forms = [(form("matmul", "matmul", constants, known), False)]
        if described is not None:
            forms.append((form("matmul_tma", "matmul_tma", described, known), True))
        return [
            Choice(f, c, config.matmul_grid(sizes, c), clocks)
            for f, tma in forms
            for clocks, c in config.matmul_configs(m, n, k, itemsize, interpret, batch=sizes["BATCH"], tma=tma, **target)
        ]
    if spec.family == "conv":
        kind = _KINDS[spec.name]
        if config.is_depthwise(sizes):
            blocks = config.depthwise_config(kind, sizes, itemsize, interpret, lanes=threads)
            f = form("depthwise", f"depthwise_{kind}", constants, sizes)
            return warps(f, blocks, config.depthwise_grid(kind, sizes, blocks), interpret)
        turn = oriented(kind, options)
        if turn.get("K_AXIS"):  # the input is the left operand
            target["loads"] = loads[::-1]
        sizes = {**sizes, **turn}
        f = form("conv", _FUNCTIONS.get(spec.name, spec.name), constants, known, turn)
        found = config.conv_configs(kind, sizes, itemsize, interpret, **target)
        pointers = [Choice(f, c, config.conv_grid(kind, sizes, c), clocks) for clocks, c in found]
        if described is None:
            return pointers
        f = form("conv_tma", "conv_tma", described, known)
        found = config.conv_tma_configs(kind, sizes, itemsize, interpret, **target)
        return [*pointers, *(Choice(f, c, config.conv_tma_grid(kind, sizes, c), clocks) for clocks, c in found)]
    if spec.family == "line":
        blocks, grid = config.line_config(spec.name, sizes, interpret)
        return warps(form(spec.name, spec.name, constants, sizes), blocks, grid, interpret)
    gradient, function = spec.name.endswith("_grad"), _FUNCTIONS.get(spec.name, spec.name)
    more: dict[str, Any] = {"CHANNELS_LAST": any(s.offset.stride("c") == 1 for s in kernel.epilogue.stores)}
    if function == "pool":
        more["OP"] = "max" if spec.name == "max_pool" else "sum"
    f = form("pool", function, constants, sizes, more)
    stores = [s.slot.type.dtype for s in kernel.epilogue.stores]  # positions alone, where nobody reads the maxima
    stored = min((dtype.itemsize for dtype in stores if not dtype.is_int), default=stores[0].itemsize)
    first = config.pool_config(config.pool_outputs(sizes, gradient), stored, interpret, units=units, lanes=threads)
    others = [] if interpret else [{**first, "BLOCK": threads * w, "num_warps": min(w, 4)} for w in (4, 8, 16, 32)]
    configs = [first, *(c for c in others if c != first)]
    return [Choice(f, c, config.pool_grid(sizes, c, gradient)) for c in configs]


def oriented(kind: str, options: Options) -> dict[str, int]:
    """Which axis of a weight gradient's tile output channels lie along; nothing for other convolutions.

    Filters lie in rows of them, but what a prologue makes of their gradient is better taken as the left operand.
    """
    return {"K_AXIS": int(options.stores_fragments)} if kind == "wgrad" else {}


def warps(form: Form, config: dict[str, int], grid: int, interpret: bool) -> list[Choice]:
    """``config``, and the same with other numbers of warps."""
    others = [] if interpret else [w for w in WARPS if w != config["num_warps"]]
    return [Choice(form, config, grid), *(Choice(form, {**config, "num_warps": w}, grid) for w in others)]


def splits(node: Node, options: Options) -> int:
    """Into how many partial sums to cut a product or a weight gradient so that it fills the device; 0 for not at all."""
    if node.op.template is None:
        return 0
    sizes = TEMPLATES[node.op.template].sizes(node)
    matmul, itemsize = node.op.template == "matmul", node.inputs[0].dtype.itemsize
    sizes |= oriented(_KINDS.get(node.op.template, ""), options)
    count = _parts(matmul, tuple(sizes.items()), itemsize, options)
    return count if count > 1 else 0


@functools.cache
def _parts(matmul: bool, sizes: tuple[tuple[str, int], ...], itemsize: int, options: Options) -> int:
    """A network has many layers of few sizes, and every number of parts is tried."""
    find_kernels()
    from graphrt.kernels.triton import config

    rule = config.matmul_splits if matmul else config.wgrad_splits
    how = {"precision": PRECISIONS[options.precision], "target": options.arch, "units": options.units}
    return int(rule(dict(sizes), itemsize, options.interpret, **how))


def times(options: Options) -> Times:
    """What convolutions are predicted to take: the longest of their tiles' time and their bytes' from memory, and a launch."""
    find_kernels()
    from graphrt.kernels.triton import config, cost

    arch, units = options.arch, options.units
    byte = 1 / (cost.device(arch).memory * units)  # clocks

    def convolution(node: Node, filters: int) -> float:
        sizes, itemsize = {**TEMPLATES[node.op.template or ""].sizes(node), "K": filters}, node.inputs[0].dtype.itemsize
        kind = _KINDS[node.op.template or ""]
        if kind == "wgrad":
            sizes |= {"SPLITS": max(splits(node, options), 1), **oriented(kind, options)}
        precision = PRECISIONS[options.precision]
        found = config.conv_configs(kind, sizes, itemsize, options.interpret, precision=precision, target=arch, units=units)
        image, result = sizes["C"] * sizes["H"] * sizes["W"], filters * sizes["P"] * sizes["Q"]
        moved = itemsize * (sizes["N"] * (image + result) + sizes["C"] * filters * sizes["R"] * sizes["S"])
        return (max(found[0][0], moved * byte) + cost.LAUNCH) / CLOCK

    return Times(convolution, byte / CLOCK)

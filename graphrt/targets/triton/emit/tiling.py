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
    interpret, how = options.interpret, _machine(options)
    known: dict[str, Any] = {"INPUT_PRECISION": how.precision}
    tile: dict[str, Any] = {"loads": loads, "rows": next((n.inputs[0].shape[1] for n in kernel.group.runs), 1)}

    def form(module: str, function: str, *more: Mapping[str, Any]) -> Form:
        return Form(function, module, function, {k: v for given in more for k, v in given.items()})

    if spec.family == "matmul":
        forms = [(form("matmul", "matmul", constants, sizes, known), False)]
        if described is not None:
            forms.append((form("matmul_tma", "matmul_tma", described, sizes, known), True))
        return [
            Choice(f, c, config.matmul_grid(sizes, c), clocks)
            for f, tma in forms
            for clocks, c in config.matmul_configs(sizes, itemsize, how, tma=tma, **tile)
        ]
    if spec.family == "line":
        blocks, grid = config.line_config(spec.name, sizes, interpret)
        return warps(form(spec.name, spec.name, constants, sizes), blocks, grid, interpret)
    function = _FUNCTIONS.get(spec.name, spec.name)
    if spec.family == "conv":
        kind = _KINDS[spec.name]
        g = config.Geometry(**sizes, **oriented(kind, options))
        if config.is_depthwise(g):
            blocks = config.depthwise_config(kind, g, itemsize, how, lanes=threads)
            f = form("depthwise", f"depthwise_{kind}", constants, {"G": g})
            return warps(f, blocks, config.depthwise_grid(kind, g, blocks), interpret)
        if g.K_AXIS:  # the input is the left operand
            tile["loads"] = loads[::-1]
        f = form("conv", function, constants, {"G": g}, known)
        found = config.conv_configs(kind, g, itemsize, how, **tile)
        pointers = [Choice(f, c, config.conv_grid(kind, g, c), clocks) for clocks, c in found]
        if described is None:
            return pointers
        f = form("conv_tma", "conv_tma", described, {"G": g}, known)
        found = config.conv_tma_configs(kind, g, itemsize, how, **tile)
        return [*pointers, *(Choice(f, c, config.conv_tma_grid(kind, g, c), clocks) for clocks, c in found)]
    g, gradient = config.Geometry(**sizes), spec.name.endswith("_grad")
    more: dict[str, Any] = {"G": g, "CHANNELS_LAST": any(s.offset.stride("c") == 1 for s in kernel.epilogue.stores)}
    if function == "pool":
        more["OP"] = "max" if spec.name == "max_pool" else "sum"
    f = form("pool", function, constants, more)
    stores = [s.slot.type.dtype for s in kernel.epilogue.stores]  # positions alone, where nobody reads the maxima
    stored = min((dtype.itemsize for dtype in stores if not dtype.is_int), default=stores[0].itemsize)
    first = config.pool_config(config.pool_outputs(g, gradient), stored, how, lanes=threads)
    others = [] if interpret else [{**first, "BLOCK": threads * w, "num_warps": min(w, 4)} for w in (4, 8, 16, 32)]
    configs = [first, *(c for c in others if c != first)]
    return [Choice(f, c, config.pool_grid(g, c, gradient)) for c in configs]


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
    find_kernels()
    from graphrt.kernels.triton import config

    sizes, itemsize = TEMPLATES[node.op.template].sizes(node), node.inputs[0].dtype.itemsize
    if node.op.template == "matmul":
        count = _parts(tuple(sizes.items()), itemsize, options)
    else:
        count = _parts(config.Geometry(**sizes, **oriented(_KINDS.get(node.op.template, ""), options)), itemsize, options)
    return count if count > 1 else 0


@functools.cache
def _parts(sizes: Any, itemsize: int, options: Options) -> int:
    """A network has many layers of few sizes, and every number of parts is tried."""
    from graphrt.kernels.triton import config

    if isinstance(sizes, config.Geometry):
        return int(config.wgrad_splits(sizes, itemsize, _machine(options)))
    return int(config.matmul_splits(dict(sizes), itemsize, _machine(options)))


def _machine(options: Options) -> Any:
    """What the templates' arithmetic is told of ``options``."""
    from graphrt.kernels.triton import config

    return config.Machine(options.arch, options.units, options.interpret, PRECISIONS[options.precision])


def times(options: Options) -> Times:
    """What convolutions are predicted to take: the longest of their tiles' time and their bytes' from memory, and a launch."""
    find_kernels()
    from graphrt.kernels.triton import config, cost

    byte = 1 / (cost.device(options.arch).memory * options.units)  # clocks

    def convolution(node: Node, filters: int) -> float:
        kind, itemsize = _KINDS[node.op.template or ""], node.inputs[0].dtype.itemsize
        g = config.Geometry(**{**TEMPLATES[node.op.template or ""].sizes(node), "K": filters}, **oriented(kind, options))
        if kind == "wgrad":
            g = g._replace(SPLITS=max(splits(node, options), 1))
        found = config.conv_configs(kind, g, itemsize, _machine(options))
        image, result = g.C * g.H * g.W, filters * g.P * g.Q
        moved = itemsize * (g.N * (image + result) + g.C * filters * g.R * g.S)
        return (max(found[0][0], moved * byte) + cost.LAUNCH) / CLOCK

    return Times(convolution, byte / CLOCK)

"""The template functions that could compute a node, with tiles and programs; and the parts that a node is split into."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from graphrt.ir import Node
from graphrt.passes.siblings import Times
from graphrt.schedule.kernel_ir import TemplateKernel
from graphrt.schedule.policy import ROW_LIMIT, OnLoad
from graphrt.schedule.templates import TEMPLATES
from graphrt.targets.limits import LIMIT
from graphrt.targets.templates import find_kernels
from graphrt.targets.triton.emit.launch import CLOCK, WARPS, Choice, Form
from graphrt.targets.triton.emit.options import Options

_FUNCTIONS = {"conv": "conv_fwd", "max_pool": "pool", "sum_pool": "pool"}
_KINDS = {"conv": "fwd", "conv_dgrad": "dgrad", "conv_wgrad": "wgrad"}
DESCRIBED = ("conv_tma", "matmul_tma")  # the forms whose operands come through descriptors
GLUON = "matmul_gluon"  # another, which only Gluon's functions can call
_TILE = {False: 4096, True: 1 << 18}  # elements of a reduction's tile: compiled, interpreted
_FINEST = 16  # parts of a reduction at most, for each that is wanted: sizes have few divisors
SHARE = 1 << 18  # bytes that a program reads in about the time of a launch
Constants = Mapping[str, Any]


@dataclass(frozen=True)
class Closures:
    """The compile-time arguments of a template kernel: ``plain`` are its closures and types.

    ``described`` are those of the form whose operands come through descriptors, None if they cannot (``descriptors``).
    ``prologues`` are the bytes that each operand's prologue loads for an element, 0 without one.
    """

    plain: Constants
    described: Constants | None
    prologues: tuple[int, ...]


def choices(kernel: TemplateKernel, closures: Closures, options: Options) -> list[Choice]:
    """The ways to launch ``kernel``, the heuristic first."""
    find_kernels()
    family = {"matmul": _matmul, "line": _line, "conv": _conv, "pool": _pool, "attention": _attention}[kernel.spec.family]
    return family(kernel, closures, options)


def _form(module: str, function: str, *constants: Constants) -> Form:
    return Form(function, module, function, {k: v for given in constants for k, v in given.items()})


def _tile(kernel: TemplateKernel, prologues: tuple[int, ...]) -> dict[str, Any]:
    """Arguments of the arithmetic of tiles: prologues, and of the epilogue the length of segments and the bytes it loads.

    ``plain`` is what has none of these.
    """
    segment = next((n.inputs[0].shape[1] for n in kernel.group.segments), 1)
    params = kernel.epilogue.params
    across = {*params} - {params[1] if kernel.spec.family == "conv" else params[-1]}
    loads = [i.args for i in kernel.epilogue.insts if i.op == "load" and i.args[1].axes() & across]
    maps = sum(slot.type.dtype.itemsize for slot, *_ in loads)
    return {"prologues": prologues, "segment": segment, "maps": maps, "plain": not any(prologues) and segment == 1 and not maps}


def _matmul(kernel: TemplateKernel, closures: Closures, options: Options) -> list[Choice]:
    from graphrt.kernels.triton import config, gluon_config, pair_config

    sizes, machine = kernel.sizes, options.machine
    precision = {"INPUT_PRECISION": machine.precision}
    if kernel.spec.name == "matmul_pair":
        left, *right = closures.prologues
        form, tile = _form("matmul", "matmul_pair", closures.plain, sizes, precision), _tile(kernel, (left, max(right)))
        more = {"prologues": tile["prologues"], "maps": tile["maps"]}
        found = pair_config.pair_configs(sizes, kernel.factors.itemsize, machine, **more)
        return [
            Choice(form, c, n := pair_config.pair_grid(sizes, c), clocks, 2 * -(-sizes["K"] // c["BK"]), n)
            for clocks, c in found
        ]
    forms = [(_form("matmul", "matmul", closures.plain, sizes, precision), config.matmul_configs)]
    if closures.described is not None:
        through = _form("matmul_tma", "matmul_tma", closures.described, sizes, precision)
        forms.append((through, functools.partial(config.matmul_configs, tma=True)))
        forms.append((replace(through, name="matmul_specialized"), config.matmul_specialized))
        if not gluon_config.unknown():
            forms.append((_form(GLUON, GLUON, closures.described, sizes, precision), gluon_config.gluon_configs))
    return [
        Choice(f, c, config.matmul_grid(sizes, c), clocks, *config.matmul_steps(sizes, c))
        for f, configs in forms
        for clocks, c in configs(sizes, kernel.factors.itemsize, machine, **_tile(kernel, closures.prologues))
    ]


def unknown(found: Sequence[Choice]) -> list[str]:
    """The form that this Triton keeps from being among ``found``, with the reason."""
    find_kernels()
    from graphrt.kernels.triton.gluon_config import unknown

    reason = unknown() if any(c.form.name == "matmul_specialized" for c in found) else ""
    return [f"{GLUON}: {reason}"] if reason else []


def _attention(kernel: TemplateKernel, closures: Closures, options: Options) -> list[Choice]:
    from graphrt.kernels.triton import attention_config

    name = kernel.spec.name
    blocks, grid = attention_config.blocks(name, kernel.sizes, kernel.factors.itemsize, options.machine)
    precision = {"INPUT_PRECISION": options.machine.precision}
    form = _form("attention" if name == "attention" else "attention_grad", name, closures.plain, kernel.sizes, precision)
    return warps(form, blocks, grid, options.large)


def _line(kernel: TemplateKernel, closures: Closures, options: Options) -> list[Choice]:
    from graphrt.kernels.triton import config

    name = kernel.spec.name
    blocks, grid = config.line_config(name, kernel.sizes, options.large)
    return warps(_form(name, name, closures.plain, kernel.sizes), blocks, grid, options.large)


def _conv(kernel: TemplateKernel, closures: Closures, options: Options) -> list[Choice]:
    """Few channels a group are a vector kernel, others a product by pointers or by descriptors."""
    from graphrt.kernels.triton import config

    name, itemsize, machine = kernel.spec.name, kernel.factors.itemsize, options.machine
    kind, precision = _KINDS[name], {"INPUT_PRECISION": machine.precision}
    g = config.Geometry(**kernel.sizes, **oriented(kind, options))
    if config.is_depthwise(g):
        blocks = config.depthwise_config(kind, g, itemsize, machine, lanes=options.lanes)
        f = _form("depthwise", f"depthwise_{kind}", closures.plain, {"G": g})
        return warps(f, blocks, config.depthwise_grid(kind, g, blocks), options.large)
    tile = _tile(kernel, closures.prologues[::-1] if g.K_AXIS else closures.prologues)  # the input is the left operand
    f = _form("conv", _FUNCTIONS.get(name, name), closures.plain, {"G": g}, precision)
    found = config.conv_configs(kind, g, itemsize, machine, **tile)
    pointers = [Choice(f, c, config.conv_grid(kind, g, c), clocks, *config.conv_steps(kind, g, c)) for clocks, c in found]
    if closures.described is None:
        return pointers
    f = _form("conv_tma", "conv_tma", closures.described, {"G": g}, precision)
    found = config.conv_tma_configs(kind, g, itemsize, machine, **tile)
    boxes = [Choice(f, c, config.conv_tma_grid(kind, g, c), clocks, *config.conv_steps(kind, g, c)) for clocks, c in found]
    return [*pointers, *boxes]


def _pool(kernel: TemplateKernel, closures: Closures, options: Options) -> list[Choice]:
    from graphrt.kernels.triton import config

    name, lanes = kernel.spec.name, options.lanes
    function, gradient = _FUNCTIONS.get(name, name), name.endswith("_grad")
    g = config.Geometry(**kernel.sizes)
    more: dict[str, Any] = {"G": g, "CHANNELS_LAST": any(s.offset.stride("c") == 1 for s in kernel.epilogue.stores)}
    channels = config.pool_channels(g, more["CHANNELS_LAST"], gradient)
    if channels:
        more["CHANNELS"] = channels
    if function == "pool":
        more["OP"] = "max" if name == "max_pool" else "sum"
    stores = [s.slot.type.dtype for s in kernel.epilogue.stores]  # positions alone, where nobody reads the maxima
    stored = min((dtype.itemsize for dtype in stores if not dtype.is_int), default=stores[0].itemsize)
    first = config.pool_config(config.pool_outputs(g, gradient, channels), stored, options.machine, lanes=lanes)
    others = [] if options.large else [{**first, "BLOCK": lanes * w, "num_warps": min(w, 4)} for w in (4, 8, 16, 32)]
    f = _form("pool", function, closures.plain, more)
    return [Choice(f, c, config.pool_grid(g, c, gradient, channels)) for c in (first, *(c for c in others if c != first))]


def oriented(kind: str, options: Options) -> dict[str, int]:
    """The axis of a weight gradient's tile that output channels lie along; nothing for other convolutions.

    Filters lie in rows of them, but what a prologue makes of their gradient is better taken as the left operand.
    """
    return {"K_AXIS": int(options.stores_fragments)} if kind == "wgrad" else {}


def warps(form: Form, config: dict[str, int], grid: int, interpret: bool) -> list[Choice]:
    """``config``, and the same with other numbers of warps."""
    others = [] if interpret else [w for w in WARPS if w != config["num_warps"]]
    return [Choice(form, config, grid), *(Choice(form, {**config, "num_warps": w}, grid) for w in others)]


def splits(node: Node, options: Options) -> int:
    """The partial sums that what sums for long is cut into so that it fills the device; 0 for not at all."""
    if node.op.template is None:
        return _reduction_splits(node, options)
    find_kernels()
    from graphrt.kernels.triton import config

    sizes, itemsize = TEMPLATES[node.op.template].sizes(node), node.inputs[0].dtype.itemsize
    if node.op.template == "matmul":
        count = _parts(tuple(sizes.items()), itemsize, options)
    else:
        count = _parts(config.Geometry(**sizes, **oriented(_KINDS.get(node.op.template, ""), options)), itemsize, options)
    return count if count > 1 else 0


def reduction_tile(rows: int, size: int, whole: bool, interpret: bool) -> tuple[int, int]:
    """Rows, and elements of each, that a program of a reduction has at a time; ``whole`` rows are held between passes."""
    tile = _TILE[interpret]
    columns = power(size) if whole else min(power(size), max(tile // min(power(rows), 64), 64))
    return max(min(power(rows), tile // columns), 1), columns


def power(n: int) -> int:
    """The least power of two that is not below ``n``."""
    return 1 << max(n - 1, 0).bit_length()


def segment_group(segments: int, channels: int) -> int:
    """The number of ``segments``' sums, of ``channels`` numbers each, that a step of their own adds up; 1 for no such step."""
    rows, _ = reduction_tile(channels, segments, False, False)
    if segments * min(channels, rows) * 8 <= SHARE:  # sums, and those of squares
        return 1
    return max((n for n in range(1, math.isqrt(segments) + 1) if segments % n == 0), default=1)


def _reduction_splits(node: Node, options: Options) -> int:
    """The parts to cut a reduction into whose programs are few and would each read more than a share."""
    x, rows = node.inputs[0], node.types[0].size
    if node.op.split is None or not 0 < x.type.size <= LIMIT:  # what is larger is refused as the user wrote it
        return 0
    size = x.type.size // rows
    beside = 1 if tuple(node.attrs["dims"]) == (x.ndim - 1,) else 32  # rows that a program loads together, if it holds them
    programs = -(-rows // reduction_tile(rows, size, beside * size <= ROW_LIMIT, False)[0])  # interpreted plans are a GPU's
    wanted = -(-min(options.units, -(-x.type.nbytes // SHARE)) // programs)
    if wanted <= 1:
        return 0
    lengths = [x.shape[d] for d in node.attrs["dims"]]
    parts = (n for length in lengths for n in range(wanted, min(length, _FINEST * wanted) + 1) if length % n == 0)
    return min(parts, default=0)


@functools.cache
def _parts(sizes: Any, itemsize: int, options: Options) -> int:
    """A network has many layers of few sizes, and every number of parts is tried."""
    from graphrt.kernels.triton import config

    if isinstance(sizes, config.Geometry):
        return int(config.wgrad_splits(sizes, itemsize, options.machine))
    return int(config.matmul_splits(dict(sizes), itemsize, options.machine))


def times(options: Options) -> Times:
    """Predicted times of contractions: the longer of their tiles' time and their bytes' from memory, and a launch."""
    find_kernels()
    from graphrt.kernels.triton import config, cost, pair_config

    byte = 1 / (cost.multiprocessor(options.arch).memory * options.units)  # clocks

    def convolution(node: Node, filters: int, channels: int | None = None) -> float:
        kind, itemsize = _KINDS[node.op.template or ""], node.inputs[0].dtype.itemsize
        sizes = TEMPLATES[node.op.template or ""].sizes(node)
        g = config.Geometry(**{**sizes, "K": filters, "C": channels or sizes["C"]}, **oriented(kind, options))
        if kind == "wgrad":
            g = g._replace(SPLITS=max(splits(node, options) if channels is None else _parts(g, itemsize, options), 1))
        found = config.conv_configs(kind, g, itemsize, options.machine)
        image, result = g.C * g.H * g.W, filters * g.P * g.Q
        moved = itemsize * (g.N * (image + result) + g.C * filters * g.R * g.S)
        return (max(found[0][0], moved * byte) + cost.LAUNCH) / CLOCK

    machine = options.machine._replace(interpret=False)  # interpreted plans are a GPU's

    @functools.cache
    def product(batch: int, m: int, n: int, k: int, itemsize: int) -> float:
        sizes = {"BATCH": batch, "M": m, "N": n, "K": k}
        parts = int(config.matmul_splits(sizes, itemsize, machine))
        clocks = config.matmul_configs({**sizes, "BATCH": batch * parts, "K": k // parts}, itemsize, machine)[0][0]
        sums = cost.LAUNCH + (parts + 1) * 4 * batch * m * n * byte if parts > 1 else 0.0
        return (max(clocks, itemsize * batch * (m * n + m * k + k * n) * byte) + sums + cost.LAUNCH) / CLOCK

    def pair_of(node: Node, m: int, n: int, k: int) -> float:
        batch, itemsize = math.prod(node.types[0].shape[:-2]), node.inputs[0].dtype.itemsize
        sizes = {"BATCH": batch, "M": m, "N": n, "K": k}
        found = pair_config.pair_configs(sizes, itemsize, machine)
        result, moved = itemsize * batch * m * n, itemsize * batch * (m * n + m * k + k * n)
        plain = max(config.matmul_configs(sizes, itemsize, machine, plain=True)[0][0], moved * byte) + cost.LAUNCH
        one = CLOCK * product(batch, m, n, k, itemsize)
        pair = max(found[0][0], (moved + itemsize * batch * k * n) * byte) + cost.LAUNCH
        return (min(plain, one) + one + result * byte - pair) / CLOCK

    def product_of(node: Node, m: int, n: int, k: int) -> float:
        return product(math.prod(node.types[0].shape[:-2]), m, n, k, node.inputs[0].dtype.itemsize)

    loads = (8, 16) if options.arch.startswith("sm_") else ()  # an AMD compiler's narrow loads were not looked at
    # AMD's compiler spills where a kernel holds two things, and a library has no pairs.
    pair = pair_of if options.library == "never" and not options.stores_fragments else None
    return Times(convolution, byte / CLOCK, cost.LAUNCH / CLOCK, loads, product_of, pair=pair)


def on_load(options: Options) -> OnLoad:
    """Predicted times of operands that are computed on load; interpreted plans are a GPU's."""
    find_kernels()
    from graphrt.kernels.triton import cost

    machine = options.machine._replace(interpret=False)
    byte = 1 / (cost.multiprocessor(options.arch).memory * options.units)  # clocks

    @functools.cache
    def clocks(sizes: Any, kind: str, itemsize: int, loads: tuple[int, int]) -> float:
        from graphrt.kernels.triton import config

        if kind:
            return float(config.conv_configs(kind, sizes, itemsize, machine, prologues=loads)[0][0])
        return float(config.matmul_configs(dict(sizes), itemsize, machine, prologues=loads)[0][0])

    def extra(node: Node, operand: int, loads: int) -> float:
        from graphrt.kernels.triton import config

        template, itemsize = node.op.template or "", node.inputs[0].dtype.itemsize
        spec, kind = TEMPLATES[template], _KINDS.get(template, "")
        sizes: Any = tuple(spec.sizes(node).items())
        if kind:
            sizes = config.Geometry(**dict(sizes), **oriented(kind, options))
            if config.is_depthwise(sizes):
                return 0.0
        both = (loads, 0) if operand == 0 else (0, loads)
        both = both[::-1] if kind and sizes.K_AXIS else both
        moved = byte * (sum(v.type.nbytes for v in node.inputs) + node.types[0].nbytes)
        more = byte * (loads * node.inputs[operand].type.size - node.inputs[operand].type.nbytes)
        plain = max(clocks(sizes, kind, itemsize, (0, 0)), moved)
        return max(max(clocks(sizes, kind, itemsize, both), moved + more) - plain, 0.0) / CLOCK

    return OnLoad(extra, byte / CLOCK, cost.LAUNCH / CLOCK)

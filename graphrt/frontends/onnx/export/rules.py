"""The ops that are no scalar code as ONNX nodes: a rule each, of the writer, the node, and its attributes.

A rule returns the name of the result, or of the results; None for one that has no ONNX form, which is an error only where it is
read. Sizes among the attributes may follow the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from graphrt.frontends.onnx.export.sizes import Dim
from graphrt.ir import Node, Value
from graphrt.targets.scalar import identity
from graphrt.types import HALVES, float32, int64

if TYPE_CHECKING:
    from graphrt.frontends.onnx.export.writer import Writer

Attrs = Mapping[str, Any]
Rule = Callable[["Writer", Node, Attrs], Any]
RULES: dict[str, Rule] = {}
_LAST = np.iinfo(np.int64).min


def rule(name: str) -> Callable[[Rule], Rule]:
    """Enters the decorated function as the rule of the op ``name``."""

    def enter(write: Rule) -> Rule:
        assert name not in RULES, f"two rules for {name}"
        RULES[name] = write
        return write

    return enter


# --- views --------------------------------------------------------------------------------------------------------


@rule("reshape")
def _reshape(w: Writer, node: Node, attrs: Attrs) -> str:
    return w.reshape(w.name(node.inputs[0]), w.shape(node.outputs[0]))


@rule("permute")
def _permute(w: Writer, node: Node, attrs: Attrs) -> str:
    return w.emit("Transpose", w.name(node.inputs[0]), perm=attrs["dims"])


@rule("broadcast")
def _broadcast(w: Writer, node: Node, attrs: Attrs) -> str:
    return w.expand(w.name(node.inputs[0]), w.shape(node.outputs[0]))


@rule("widen")
def _widen(w: Writer, node: Node, attrs: Attrs) -> str:
    return w.cast(w.name(node.inputs[0]), float32)


@rule("pvary")
def _pvary(w: Writer, node: Node, attrs: Attrs) -> str:
    return w.name(node.inputs[0])


@rule("slice")
def _slice(w: Writer, node: Node, attrs: Attrs) -> str:
    rank = node.inputs[0].ndim
    whole = w.shape(node.inputs[0])
    axes = [d for d in range(rank) if (attrs["start"][d], attrs["stop"][d], attrs["step"][d]) != (0, whole[d], 1)]
    parts = [[attrs[what][d] for d in axes] for what in ("start", "stop", "step")]
    return w.slice(w.name(node.inputs[0]), parts[0], parts[1], axes, parts[2])


@rule("pad")
def _pad(w: Writer, node: Node, attrs: Attrs) -> str:
    x = _spread(w, w.name(node.inputs[0]), w.shape(node.inputs[0]), attrs["interior"], attrs["value"], node)
    return w.pad(x, attrs["low"], attrs["high"], attrs["value"], node.types[0].dtype)


def _spread(w: Writer, x: str, shape: Sequence[Dim], gaps: Sequence[int], value: float, node: Node) -> str:
    """``x`` with ``gaps`` of ``value`` between its elements."""
    dims = list(shape)
    for d, gap in enumerate(gaps):
        if gap and dims[d] != 0:
            x = w.reshape(x, (*dims[: d + 1], 1, *dims[d + 1 :]))
            behind = [gap if i == d + 1 else 0 for i in range(len(dims) + 1)]
            x = w.pad(x, [0] * len(behind), behind, value, node.types[0].dtype)
            dims[d] = dims[d] * (gap + 1)
            x = w.reshape(x, dims)
            x = w.slice(x, [0], [-gap], [d], [1])
            dims[d] = dims[d] - gap
    return x


@rule("flip")
def _flip(w: Writer, node: Node, attrs: Attrs) -> str:
    dims = attrs["dims"]
    return w.slice(w.name(node.inputs[0]), [-1] * len(dims), [_LAST] * len(dims), dims, [-1] * len(dims))


@rule("concat")
def _concat(w: Writer, node: Node, attrs: Attrs) -> str:
    return w.emit("Concat", *map(w.name, node.inputs), axis=attrs["dim"])


@rule("skew")
def _skew(w: Writer, node: Node, attrs: Attrs) -> str:
    """Each tap a slice of its row."""
    x, dim, shape = w.name(node.inputs[0]), attrs["dim"], w.shape(node.outputs[0])
    taps = [
        w.slice(x, [t * attrs["dilation"], t], [_behind(t * attrs["dilation"], shape[dim], attrs["step"]), t + 1],
                [dim, dim + 1], [attrs["step"], 1])
        for t in range(node.inputs[0].shape[dim + 1])
    ]  # fmt: skip
    return w.emit("Concat", *taps, axis=dim + 1)


def _behind(start: int, count: Dim, step: int) -> Dim:
    """The end of a slice of ``count`` elements."""
    return start if count == 0 else count * step - (step - 1) + start


@rule("unskew")
def _unskew(w: Writer, node: Node, attrs: Attrs) -> str:
    """Each tap spread out and moved to where its windows met it."""
    x, dim, step, dilation = w.name(node.inputs[0]), attrs["dim"], attrs["step"], attrs["dilation"]
    shape, dtype = w.shape(node.inputs[0]), node.types[0].dtype
    if not shape[dim] or not shape[dim + 1]:
        return w.full(0, dtype, w.shape(node.outputs[0]))
    taps = []
    for t in range(node.inputs[0].shape[dim + 1]):
        one = w.slice(x, [t], [t + 1], [dim + 1], [1])
        sizes = (*shape[: dim + 1], 1, *shape[dim + 2 :])
        one = _spread(w, one, sizes, [step - 1 if d == dim else 0 for d in range(len(shape))], 0, node)
        low = [t * dilation if d == dim else 0 for d in range(len(shape))]
        rest = attrs["size"] - t * dilation - (shape[dim] * step - (step - 1))
        taps.append(w.pad(one, low, [rest if d == dim else 0 for d in range(len(shape))], 0, dtype))
    return w.emit("Concat", *taps, axis=dim + 1)


@rule("iota")
def _iota(w: Writer, node: Node, attrs: Attrs) -> str:
    shape, dim = w.shape(node.outputs[0]), attrs["dim"]
    count = w.emit("Squeeze", w.ints([shape[dim]]), w.ints([0]))
    line = w.emit("Range", w.number(0, int64), count, w.number(1, int64))
    return w.expand(w.reshape(line, [n if d == dim else 1 for d, n in enumerate(shape)]), shape)


# --- contractions and windows -------------------------------------------------------------------------------------


@rule("matmul")
def _matmul(w: Writer, node: Node, attrs: Attrs) -> str:
    return w.emit("MatMul", *map(w.name, node.inputs))


@rule("matmul_pair")
def _matmul_pair(w: Writer, node: Node, attrs: Attrs) -> tuple[str, ...]:
    x, *weights = map(w.name, node.inputs)
    return tuple(w.emit("MatMul", x, weight) for weight in weights)


def _pads(padding: Sequence[tuple[int, int]]) -> list[int]:
    return [p[0] for p in padding] + [p[1] for p in padding]


@rule("conv")
def _conv(w: Writer, node: Node, attrs: Attrs) -> str:
    return w.emit(
        "Conv",
        *map(w.name, node.inputs),
        strides=attrs["stride"],
        pads=_pads(attrs["padding"]),
        dilations=attrs["dilation"],
        group=attrs["groups"],
    )


@rule("conv_dgrad")
def _conv_dgrad(w: Writer, node: Node, attrs: Attrs) -> str:
    """A transposed convolution, with what the stride does not decide of its size."""
    dy, weight = node.inputs
    extra = [
        n - ((m - 1) * s + (k - 1) * d + 1 - low - high)
        for n, m, s, k, d, (low, high) in zip(
            attrs["shape"], dy.shape[2:], attrs["stride"], weight.shape[2:], attrs["dilation"], attrs["padding"], strict=True
        )
    ]
    return w.emit(
        "ConvTranspose",
        *map(w.name, node.inputs),
        strides=attrs["stride"],
        pads=_pads(attrs["padding"]),
        dilations=attrs["dilation"],
        group=attrs["groups"],
        output_padding=extra,
    )


def _window(w: Writer, node: Node, attrs: Attrs, value: float) -> tuple[str, list[int]]:
    """The operand of a pooling and its padding: padded by hand where that is as wide as the window, which ONNX refuses."""
    x, padding = node.inputs[0], attrs["padding"]
    if all(max(p) < k for p, k in zip(padding, attrs["kernel"], strict=True)):
        return w.name(x), _pads(padding)
    low, high = zip(*padding, strict=True)
    return w.pad(w.name(x), (0, 0, *low), (0, 0, *high), value, x.dtype), [0] * 4


@rule("max_pool")
def _max_pool(w: Writer, node: Node, attrs: Attrs) -> tuple[str, None]:
    x, pads = _window(w, node, attrs, -math.inf)
    sizes = {"kernel_shape": attrs["kernel"], "strides": attrs["stride"], "dilations": attrs["dilation"]}
    return w.emit("MaxPool", x, pads=pads, **sizes), None


@rule("sum_pool")
def _sum_pool(w: Writer, node: Node, attrs: Attrs) -> str:
    """The mean of a window that counts its padding, times its size; a window with holes is a convolution with ones."""
    x, kernel, dtype = node.inputs[0], attrs["kernel"], node.types[0].dtype
    if any(d > 1 for d in attrs["dilation"]):
        channels = x.shape[1]
        ones = w.full(1, dtype, (channels, 1, *kernel))
        sizes = {"strides": attrs["stride"], "pads": _pads(attrs["padding"]), "dilations": attrs["dilation"]}
        return w.emit("Conv", w.name(x), ones, group=channels, **sizes)
    operand, pads = _window(w, node, attrs, 0)
    mean = w.emit("AveragePool", operand, kernel_shape=kernel, strides=attrs["stride"], pads=pads, count_include_pad=1)
    return w.emit("Mul", mean, w.number(math.prod(kernel), dtype))


@rule("attention")
def _attention(w: Writer, node: Node, attrs: Attrs) -> tuple[str, str]:
    query, key, value, bias, keep = node.inputs
    rank, wide = query.ndim, bias.dtype
    if not key.shape[-2]:
        return w.full(0, query.dtype, w.shape(node.outputs[0])), w.full(math.inf, wide, w.shape(node.outputs[1]))
    swapped = [*range(rank - 2), rank - 1, rank - 2]
    scores = w.emit("MatMul", w.wide(query), w.emit("Transpose", w.wide(key), perm=swapped))
    scores = w.emit("Mul", scores, w.number(attrs["scale"], wide))
    if _constant(bias) != 0:
        scores = w.emit("Add", scores, w.name(bias))
    if rows := attrs["rows"]:
        m, n = bias.shape[-2:]
        seen = np.arange(n) <= np.arange(m)[:, None] % rows
        scores = w.emit("Where", w.array(seen, "seen"), scores, w.number(-math.inf, wide))
    axes = w.ints([-1])
    top = _reduced(w, "ReduceMax", scores, [rank - 1], 1)
    none = w.emit("Equal", top, w.number(-math.inf, wide))  # a row that sees nothing
    shifted = w.emit("Sub", scores, w.emit("Where", none, w.number(0, wide), top))
    parts = w.emit("Exp", shifted)
    total = w.emit("ReduceSum", parts, axes, keepdims=1)
    share = w.emit("Where", none, w.number(1, wide), total)
    weights = w.emit("Div", parts, share)
    if _constant(keep) != 1:
        weights = w.emit("Mul", weights, w.name(keep))
    lse = w.emit("Where", none, w.number(math.inf, wide), w.emit("Add", top, w.emit("Log", share)))
    y = w.narrow(w.emit("MatMul", weights, w.wide(value)), query.dtype)
    return y, w.emit("Squeeze", lse, axes)


def _constant(v: Value) -> Any:
    """The number of which ``v`` is made, None where it is none."""
    while v.node.op.name in ("broadcast", "reshape"):
        v = v.node.inputs[0]
    return v.node.attrs["value"] if v.node.op.name == "constant" else None


# --- reductions, scans and order ----------------------------------------------------------------------------------


def _reduced(w: Writer, operator: str, x: str, dims: Sequence[int], keepdims: int) -> str:
    """Reductions but for the sum took their dimensions as an attribute until opset 18."""
    if operator == "ReduceSum" or w.opset >= 18:
        return w.emit(operator, x, w.ints(dims), keepdims=keepdims)
    return w.emit(operator, x, axes=dims, keepdims=keepdims)


@rule("reduce")
def _reduce(w: Writer, node: Node, attrs: Attrs) -> str:
    x, dims = node.inputs[0], list(attrs["dims"])
    if not dims:
        return w.name(x)
    operator = {"sum": "ReduceSum", "max": "ReduceMax", "min": "ReduceMin", "prod": "ReduceProd"}[attrs["op"]]
    return w.narrow(_reduced(w, operator, w.wide(x), dims, 0), x.dtype)


@rule("extremum")
def _extremum(w: Writer, node: Node, attrs: Attrs) -> tuple[str, str]:
    x, dims = w.name(node.inputs[0]), list(attrs["dims"])
    name = {"max": "Max", "min": "Min"}[attrs["op"]]
    return _reduced(w, f"Reduce{name}", x, dims, 0), w.emit(f"Arg{name}", x, axis=dims[0], keepdims=0)


@rule("scan")
def _scan(w: Writer, node: Node, attrs: Attrs) -> str:
    if attrs["op"] != "sum":
        raise w.refused(f"a running {attrs['op']} has no ONNX operator")
    return w.narrow(w.emit("CumSum", w.wide(node.inputs[0]), w.number(attrs["dim"], int64)), node.types[0].dtype)


@rule("sort")
def _sort(w: Writer, node: Node, attrs: Attrs) -> tuple[str, str]:
    count = w.ints([w.shape(node.inputs[0])[attrs["dim"]]])
    largest = int(attrs["descending"])
    return w.emit("TopK", w.name(node.inputs[0]), count, results=2, axis=attrs["dim"], largest=largest, sorted=1)


# --- positions ----------------------------------------------------------------------------------------------------


def _inside(w: Writer, index: str, size: Dim) -> str:
    """The positions in a dimension of ``size`` that lie in it."""
    end = w.emit("Squeeze", w.ints([size]), w.ints([0]))
    return w.emit("And", w.emit("GreaterOrEqual", index, w.number(0, int64)), w.emit("Less", index, end))


@rule("gather")
def _gather(w: Writer, node: Node, attrs: Attrs) -> str:
    """Zeros where a position lies outside; ONNX counts negative ones from the end, and refuses others."""
    x, index = node.inputs
    size, at = w.shape(x)[attrs["dim"]], w.name(index)
    if not x.shape[attrs["dim"]]:
        return w.full(0, x.dtype, w.shape(node.outputs[0]))
    inside = _inside(w, at, size)
    safe = w.emit("Where", inside, at, w.number(0, int64))
    found = w.emit("GatherElements", w.name(x), safe, axis=attrs["dim"])
    return w.emit("Where", inside, found, w.number(0, x.dtype))


@rule("scatter")
def _scatter(w: Writer, node: Node, attrs: Attrs) -> str:
    """Positions outside go to one more element, which is cut off."""
    index, src = node.inputs
    dim, op, dtype = attrs["dim"], attrs["op"], src.dtype
    if op in ("max", "min") and w.opset < 18:
        raise w.refused(f"ScatterElements combines by {op} from opset 18 on")
    size = attrs["size"]
    start = identity(op, dtype)
    wide = float32 if dtype in HALVES else dtype
    shape = [n + 1 if d == dim else n for d, n in enumerate(w.shape(node.outputs[0]))]
    end = w.emit("Squeeze", w.ints([size]), w.ints([0]))
    at = w.emit("Where", _inside(w, w.name(index), size), w.name(index), end)
    reduction = {"sum": "add", "prod": "mul"}.get(op, op)
    found = w.emit("ScatterElements", w.full(start, wide, shape), at, w.wide(src), axis=dim, reduction=reduction)
    return w.narrow(w.slice(found, [0], [size], [dim], [1]), dtype)

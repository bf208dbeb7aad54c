"""The op ``conv`` and its two gradients, in two spatial dimensions.

The gradient of a convolution is a convolution, so with ``conv_dgrad`` and ``conv_wgrad`` as ops the set is closed under
differentiation. Shapes are PyTorch's: x [N, C, H, W], w [K, C/groups, R, S], y [N, K, P, Q]; other ranks are made of views
around these (``convolution.py``). The memory layout is the layout pass's business, not the op's.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from graphrt.errors import ArgumentError, ShapeError
from graphrt.ir import Node, Value
from graphrt.op import Axes, Kind, OpDef, Sample, Types, register
from graphrt.ops.base import apply
from graphrt.ops.contraction import one_float, sum_of_parts
from graphrt.types import HALVES, Shape, TensorType, float32

Pads = tuple[tuple[int, int], ...]


def out_size(n: int, k: int, stride: int, pads: tuple[int, int], dilation: int) -> int:
    """Positions of a window of ``k`` taps in ``n`` padded elements: floor((n + pads - span) / stride) + 1, or 0."""
    return max((n + pads[0] + pads[1] - dilation * (k - 1) - 1) // stride + 1, 0)


def _check_attrs(rank: int, stride: Shape, padding: Pads, dilation: Shape, groups: int) -> None:
    if not len(stride) == len(padding) == len(dilation) == rank or min((*stride, *dilation, groups)) < 1:
        raise ArgumentError(f"stride, padding and dilation need {rank} entries; strides, dilations and groups are >= 1")
    if any(len(p) != 2 or min(p) < 0 for p in padding):
        raise ArgumentError(f"padding must be ({rank}) pairs (low, high) >= 0, got {padding}")


def check_channels(x: Shape, w: Shape, groups: int) -> None:
    """Raises ShapeError unless w [K, C/groups, *filter] fits x [N, C, *spatial]."""
    if x[1] % groups or w[0] % groups or w[1] != x[1] // groups:
        raise ShapeError(
            f"an input [N, C, ...] of {x[1]} channels in {groups} groups needs weight [K, {x[1] // groups}, ...] with K "
            f"divisible by {groups}, got {list(w)}"
        )


def _infer_conv(input: TensorType, weight: TensorType, *, stride: Shape, padding: Pads, dilation: Shape, groups: int) -> Types:
    one_float(("input", "weight"), input, weight)
    x, w = input.shape, weight.shape
    if len(x) != 4 or len(w) != 4:
        raise ShapeError(f"conv needs input [N, C, H, W] and weight [K, C/groups, R, S], got {list(x)}, {list(w)}")
    _check_attrs(2, stride, padding, dilation, groups)
    check_channels(x, w, groups)
    out = tuple(map(out_size, x[2:], w[2:], stride, padding, dilation))
    if min(out, default=1) < 1 and min(x[2:]) > 0:
        raise ShapeError(f"filter {list(w[2:])} does not fit input {list(x[2:])} with padding {padding}, dilation {dilation}")
    return (TensorType((x[0], w[0], *out), input.dtype),)


def _infer_dgrad(
    dy: TensorType, weight: TensorType, *, shape: Shape, stride: Shape, padding: Pads, dilation: Shape, groups: int
) -> Types:
    if dy.ndim != 4 or weight.ndim != 4:
        raise ShapeError(f"conv_dgrad needs dy [N, K, P, Q] and weight [K, C/g, R, S], got {dy}, {weight}")
    one_float(("dy", "weight"), dy, weight)
    x = TensorType((dy.shape[0], weight.shape[1] * groups, *shape), dy.dtype)
    (y,) = _infer_conv(x, weight, stride=stride, padding=padding, dilation=dilation, groups=groups)
    if y.shape != dy.shape:
        raise ShapeError(f"the gradient of output {list(y.shape)} has its shape, got dy {list(dy.shape)}")
    return (x,)


def _infer_wgrad(
    dy: TensorType, input: TensorType, *, shape: Shape, stride: Shape, padding: Pads, dilation: Shape, groups: int, splits: int
) -> Types:
    if dy.ndim != 4 or input.ndim != 4:
        raise ShapeError(f"conv_wgrad needs dy [N, K, P, Q] and input [N, C, H, W], got {dy}, {input}")
    w = TensorType((dy.shape[1], input.shape[1] // groups, *shape), dy.dtype)
    (y,) = _infer_conv(input, w, stride=stride, padding=padding, dilation=dilation, groups=groups)
    if y.shape != dy.shape:
        raise ShapeError(f"the gradient of output {list(y.shape)} has its shape, got dy {list(dy.shape)}")
    if not splits:
        return (w,)
    return (TensorType((splits, *w.shape), float32 if dy.dtype in HALVES else dy.dtype),)  # partial sums are not rounded


def _windows(x: np.ndarray, out: Shape, filter: Shape, stride: Shape, padding: Pads, dilation: Shape) -> Any:
    """Pairs (tap, the strided view of padded x that this tap meets); the view can be written to."""
    for tap in itertools.product(*map(range, filter)):
        start = [t * d for t, d in zip(tap, dilation, strict=True)]
        cut = tuple(slice(a, a + (n - 1) * s + 1, s) for a, n, s in zip(start, out, stride, strict=True))
        yield tap, x[(slice(None), slice(None), *cut)]


def _padded(shape: Shape, padding: Pads) -> tuple[Shape, tuple[slice, ...]]:
    full = tuple(n + a + b for n, (a, b) in zip(shape, padding, strict=True))
    return full, (slice(None), slice(None), *(slice(a, a + n) for n, (a, _) in zip(shape, padding, strict=True)))


def _groups(x: np.ndarray, groups: int) -> np.ndarray:
    return x.reshape(x.shape[0], groups, x.shape[1] // groups, *x.shape[2:])


def reference_conv(x: np.ndarray, w: np.ndarray, stride: Shape, padding: Pads, dilation: Shape, groups: int) -> np.ndarray:
    """Sum over taps of shifted inputs times weights."""
    full, inner = _padded(x.shape[2:], padding)
    xp = np.zeros((*x.shape[:2], *full), x.dtype)
    xp[inner] = x
    out = tuple(map(out_size, x.shape[2:], w.shape[2:], stride, padding, dilation))
    y = np.zeros((x.shape[0], groups, w.shape[0] // groups, *out), x.dtype)
    wg = w.reshape(groups, w.shape[0] // groups, *w.shape[1:])
    for tap, view in _windows(xp, out, w.shape[2:], stride, padding, dilation):
        y += np.einsum("ngc...,gkc->ngk...", _groups(view, groups), wg[(slice(None),) * 3 + tap])
    return y.reshape(x.shape[0], w.shape[0], *out)


def _reference_dgrad(
    dy: np.ndarray, w: np.ndarray, shape: Shape, stride: Shape, padding: Pads, dilation: Shape, groups: int
) -> np.ndarray:
    full, inner = _padded(shape, padding)
    dx = np.zeros((dy.shape[0], w.shape[1] * groups, *full), dy.dtype)
    wg = w.reshape(groups, w.shape[0] // groups, *w.shape[1:])
    for tap, view in _windows(dx, dy.shape[2:], w.shape[2:], stride, padding, dilation):
        part = np.einsum("ngk...,gkc->ngc...", _groups(dy, groups), wg[(slice(None),) * 3 + tap])
        view += part.reshape(view.shape)
    return dx[inner]


def _reference_wgrad(
    dy: np.ndarray,
    x: np.ndarray,
    shape: Shape,
    stride: Shape,
    padding: Pads,
    dilation: Shape,
    groups: int,
    splits: int,
) -> np.ndarray:
    full, inner = _padded(x.shape[2:], padding)
    xp = np.zeros((*x.shape[:2], *full), x.dtype)
    xp[inner] = x
    dw = np.zeros((max(splits, 1), dy.shape[1], x.shape[1] // groups, *shape), dy.dtype)
    for i, (entries, rows) in enumerate(_split_ranges(dy.shape[0], dy.shape[2], max(splits, 1))):
        g = _groups(dy[entries, :, rows], groups)
        g = g.reshape(*g.shape[:3], math.prod(g.shape[3:]))
        for tap, view in _windows(xp[entries], dy.shape[2:], shape, stride, padding, dilation):
            part = np.einsum(
                "ngkp,ngcp->gkc", g, _groups(view[:, :, rows], groups).reshape(*g.shape[:2], dw.shape[2], g.shape[-1])
            )
            dw[(i, slice(None), slice(None), *tap)] = part.reshape(dw.shape[1:3])
    return dw if splits else dw[0]


def _split_ranges(n: int, p: int, splits: int) -> list[tuple[slice, slice]]:
    """The batch entries and rows of each part of a split-K gradient.

    Up to ``n`` splits are chunks of ``ceil(n / splits)`` entries, the last ones maybe empty; more are a multiple of ``n``
    and cut the ``p`` rows of each entry so.
    """
    chunk, cuts = (-(-n // splits), 1) if splits <= n or not n else (1, splits // n)
    rows = -(-p // cuts)

    def part(i: int, size: int) -> slice:
        return slice(i * size, (i + 1) * size)

    return [(part(i // cuts, chunk), part(i % cuts, rows)) for i in range(splits)]


def _conv_attrs(node: Node) -> dict[str, Any]:
    return {k: node.attrs[k] for k in ("stride", "padding", "dilation", "groups")}


def _dgrad(dy: Value, w: Value, x: Value, attrs: dict[str, Any]) -> Value:
    return apply("conv_dgrad", dy, w, shape=x.shape[2:], **attrs)


def _wgrad(dy: Value, x: Value, w: Value, attrs: dict[str, Any]) -> Value:
    return apply("conv_wgrad", dy, x, shape=w.shape[2:], splits=0, **attrs)


def _wgrad_vjp(node: Node, ddw: Value) -> list[Value | None]:
    dy, x = node.inputs
    if node.attrs["splits"]:
        raise ShapeError(f"{node.where()}: a split wgrad is made by a pass, after differentiation")
    return [apply("conv", x, ddw, **_conv_attrs(node)), _dgrad(dy, ddw, x, _conv_attrs(node))]


def _conv_cases() -> list[tuple[Shape, Shape, dict[str, Any]]]:
    def case(x: Shape, w: Shape, stride: int = 1, pad: tuple[int, int] = (0, 0), dilation: int = 1, groups: int = 1) -> Any:
        rank = len(x) - 2
        return x, w, dict(stride=(stride,) * rank, padding=(pad,) * rank, dilation=(dilation,) * rank, groups=groups)

    return [
        case((2, 3, 7, 6), (4, 3, 3, 3)),
        case((1, 1, 9, 9), (5, 1, 3, 3), pad=(1, 1)),
        case((2, 4, 8, 7), (6, 2, 3, 2), stride=2, pad=(1, 0), groups=2),
        case((2, 20, 5, 5), (3, 20, 1, 1)),
        case((1, 3, 9, 9), (3, 1, 3, 3), pad=(2, 2), dilation=2, groups=3),
        case((3, 2, 7, 7), (20, 2, 3, 3), stride=3, pad=(0, 2)),
    ]


def _conv_samples(kind: str) -> Any:
    def make(rng: np.random.Generator) -> list[Sample]:
        found = []
        for x, w, attrs in _conv_cases():
            out = tuple(map(out_size, x[2:], w[2:], attrs["stride"], attrs["padding"], attrs["dilation"]))
            a = {"x": x, "w": w, "dy": (x[0], w[0], *out)}
            pair = {"conv": ("x", "w"), "conv_dgrad": ("dy", "w"), "conv_wgrad": ("dy", "x")}[kind]
            more: dict[str, dict[str, Any]] = {"conv_dgrad": {"shape": x[2:]}, "conv_wgrad": {"shape": w[2:], "splits": 0}}
            extra = more.get(kind, {})
            found.append(Sample(tuple(rng.standard_normal(a[p]).astype(np.float32) for p in pair), {**extra, **attrs}))
        if kind == "conv_wgrad":
            found.append(Sample(found[-1].inputs, {**found[-1].attrs, "splits": 2}))
        return found

    return make


def channels_last(rank: int) -> tuple[int, ...]:
    """N, spatial, C: the order of a feature map in memory."""
    return (0, *range(2, rank), 1)


def _filter_order(rank: int) -> tuple[int, ...]:
    """spatial, C, K: output channels innermost, so that a vector of them is one load."""
    return (*range(2, rank), 1, 0)


def _conv_orders(node: Node) -> Any:
    rank = len(node.inputs[0].shape)
    maps, filters = channels_last(rank), _filter_order(rank)
    if node.op.name != "conv_wgrad":
        return (maps, filters), (maps,)
    return (maps, maps), ((0, *(d + 1 for d in filters)) if node.attrs["splits"] else filters,)


def _split_wgrad(node: Node, splits: int) -> list[Value]:
    return [sum_of_parts(apply("conv_wgrad", *node.inputs, **{**node.attrs, "splits": splits}), node)]


def _flops(node: Node) -> int:
    """Two per multiply-add of the convolution, whichever of the three it is."""
    y = node.types[0].shape if node.op.name == "conv" else node.inputs[0].shape
    filter = node.inputs[1].shape[1:] if node.op.name != "conv_wgrad" else node.types[0].shape[-len(y) + 1 :]
    return 2 * math.prod(y) * math.prod(filter)


def _dgrad_axes(node: Node) -> Axes:
    groups, (k, _, *filter) = node.attrs["groups"], node.inputs[1].shape
    if groups == 1:
        return Axes(("n___", "_c__"), ("nc__",))
    return Axes(("n___", "____"), ("n___",), blocks=(k // groups, 1, *filter))


register(
    OpDef(
        name="conv",
        kind=Kind.CONTRACTION,
        infer=_infer_conv,
        vjp=lambda n, dy: [
            _dgrad(dy, n.inputs[1], n.inputs[0], _conv_attrs(n)),
            _wgrad(dy, n.inputs[0], n.inputs[1], _conv_attrs(n)),
        ],
        reference=reference_conv,
        samples=_conv_samples("conv"),
        template="conv",
        axes=lambda n: Axes(("n___", "c___"), ("nc__",)),
        orders=_conv_orders,
        flops=_flops,
    )
)
register(
    OpDef(
        name="conv_dgrad",
        kind=Kind.CONTRACTION,
        infer=_infer_dgrad,
        vjp=lambda n, ddx: [
            apply("conv", ddx, n.inputs[1], **_conv_attrs(n)),
            _wgrad(n.inputs[0], ddx, n.inputs[1], _conv_attrs(n)),
        ],
        reference=_reference_dgrad,
        samples=_conv_samples("conv_dgrad"),
        template="conv_dgrad",
        axes=_dgrad_axes,
        orders=_conv_orders,
        flops=_flops,
    )
)
register(
    OpDef(
        name="conv_wgrad",
        kind=Kind.CONTRACTION,
        infer=_infer_wgrad,
        vjp=_wgrad_vjp,
        reference=_reference_wgrad,
        samples=_conv_samples("conv_wgrad"),
        template="conv_wgrad",
        axes=lambda n: Axes(("n___", "n___"), ("_" * n.outputs[0].ndim,), (0, 0)),
        orders=_conv_orders,
        split=_split_wgrad,
        flops=_flops,
    )
)

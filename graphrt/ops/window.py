"""Window ops: pooling and its gradients.

Max pooling also returns which tap of its window won (``r*S + s``, the first on a tie), a small integer that the gradient
reads instead of the input. The gradient of that gradient picks the same elements again, so the set is closed.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from graphrt.errors import ArgumentError, DTypeError, ShapeError
from graphrt.ir import Node, Value
from graphrt.op import Kind, OpDef, Sample, Types, leading, register
from graphrt.ops.base import apply, require_float
from graphrt.ops.conv import Pads, channels_last, out_size
from graphrt.types import Shape, TensorType, int32, uint8

_ATTRS = ("kernel", "stride", "padding", "dilation")


def _index_type(kernel: Shape) -> Any:
    return uint8 if math.prod(kernel) <= 256 else int32


def _out_shape(x: Shape, kernel: Shape, stride: Shape, padding: Pads, dilation: Shape) -> Shape:
    if len(x) != 4 or not len(kernel) == len(stride) == len(padding) == len(dilation) == 2:
        raise ShapeError(f"pooling needs input [N, C, H, W] and two entries per argument, got {list(x)}")
    if min((*kernel, *stride, *dilation), default=1) < 1 or any(min(p) < 0 for p in padding):
        raise ArgumentError("kernel, stride and dilation must be >= 1 and padding >= 0")
    out = tuple(map(out_size, x[2:], kernel, stride, padding, dilation))
    if min(out) < 1:
        raise ShapeError(f"window {list(kernel)} does not fit input {list(x[2:])} with padding {padding}")
    return (*x[:2], *out)


def _infer_max_pool(input: TensorType, **attrs: Any) -> Types:
    require_float(input.dtype, "input")
    shape = _out_shape(input.shape, **attrs)
    return (TensorType(shape, input.dtype), TensorType(shape, _index_type(attrs["kernel"])))


def _infer_sum_pool(input: TensorType, **attrs: Any) -> Types:
    require_float(input.dtype, "input")
    return (TensorType(_out_shape(input.shape, **attrs), input.dtype),)


def _check_dy(dy: TensorType, shape: Shape, attrs: dict[str, Any]) -> TensorType:
    x = TensorType((*dy.shape[:2], *shape), dy.dtype)
    expected = _out_shape(x.shape, **attrs)
    if expected != dy.shape:
        raise ShapeError(f"the gradient of output {list(expected)} has its shape, got dy {list(dy.shape)}")
    return x


def _check_index(index: TensorType, like: TensorType, kernel: Shape) -> None:
    if index.shape != like.shape or index.dtype != _index_type(kernel):
        raise DTypeError(f"index must be {_index_type(kernel)}{list(like.shape)}, got {index}")


def _infer_max_pool_grad(dy: TensorType, index: TensorType, *, shape: Shape, **attrs: Any) -> Types:
    _check_index(index, dy, attrs["kernel"])
    return (_check_dy(dy, shape, attrs),)


def _infer_sum_pool_grad(dy: TensorType, *, shape: Shape, **attrs: Any) -> Types:
    return (_check_dy(dy, shape, attrs),)


def _infer_gather(input: TensorType, index: TensorType, **attrs: Any) -> Types:
    y = TensorType(_out_shape(input.shape, **attrs), input.dtype)
    _check_index(index, y, attrs["kernel"])
    return (y,)


def _taps(shape: Shape, out: Shape, kernel: Shape, stride: Shape, padding: Pads, dilation: Shape) -> Any:
    """For each tap: its number and, per dimension, the input coordinate each output meets and whether it is inside."""
    for number, tap in enumerate(itertools.product(*map(range, kernel))):
        grids = []
        for t, n, m, s, (low, _), d in zip(tap, shape, out, stride, padding, dilation, strict=True):
            grids.append(np.arange(m) * s - low + t * d)
            assert n >= 0
        inside = np.ones(out, bool)
        for axis, (g, n) in enumerate(zip(grids, shape, strict=True)):
            inside &= ((g >= 0) & (g < n)).reshape([-1 if i == axis else 1 for i in range(len(out))])
        where = np.ix_(*(np.clip(g, 0, max(n - 1, 0)) for g, n in zip(grids, shape, strict=True)))
        yield number, (slice(None), slice(None), *where), inside


def _reference_max_pool(x: np.ndarray, **attrs: Any) -> tuple[np.ndarray, np.ndarray]:
    shape = _out_shape(x.shape, **attrs)
    best, index = np.full(shape, -np.inf, x.dtype), np.full(shape, -1, np.int64)
    for number, where, inside in _taps(x.shape[2:], shape[2:], **attrs):
        v = x[where]
        wins = inside & ((v > best) | (np.isnan(v) & ~np.isnan(best)) | (index < 0))
        best, index = np.where(wins, v, best), np.where(wins, number, index)
    return best, np.maximum(index, 0).astype(_index_type(attrs["kernel"]).numpy)


def _reference_sum_pool(x: np.ndarray, **attrs: Any) -> np.ndarray:
    shape = _out_shape(x.shape, **attrs)
    y = np.zeros(shape)
    for _, where, inside in _taps(x.shape[2:], shape[2:], **attrs):
        y += np.where(inside, x[where], 0)
    return y.astype(x.dtype)


def _reference_max_pool_grad(dy: np.ndarray, index: np.ndarray, shape: Shape, **attrs: Any) -> np.ndarray:
    dx = np.zeros((*dy.shape[:2], *shape))
    for number, where, inside in _taps(shape, dy.shape[2:], **attrs):
        np.add.at(dx, where, np.where(inside & (index == number), dy, 0))
    return dx.astype(dy.dtype)


def _reference_sum_pool_grad(dy: np.ndarray, shape: Shape, **attrs: Any) -> np.ndarray:
    dx = np.zeros((*dy.shape[:2], *shape))
    for _, where, inside in _taps(shape, dy.shape[2:], **attrs):
        np.add.at(dx, where, np.where(inside, dy, 0))
    return dx.astype(dy.dtype)


def _reference_gather(x: np.ndarray, index: np.ndarray, **attrs: Any) -> np.ndarray:
    y = np.zeros(index.shape, x.dtype)
    for number, where, inside in _taps(x.shape[2:], index.shape[2:], **attrs):
        y = np.where(inside & (index == number), x[where], y)
    return y


def _pool_attrs(node: Node) -> dict[str, Any]:
    return {k: node.attrs[k] for k in _ATTRS}


_CASES: list[tuple[Shape, dict[str, Any]]] = [
    ((2, 3, 6, 6), dict(kernel=(2, 2), stride=(2, 2), padding=((0, 0), (0, 0)), dilation=(1, 1))),
    ((1, 1, 7, 7), dict(kernel=(2, 2), stride=(2, 2), padding=((0, 1), (0, 1)), dilation=(1, 1))),
    ((2, 20, 7, 5), dict(kernel=(3, 3), stride=(2, 2), padding=((1, 1), (1, 1)), dilation=(1, 1))),
    ((1, 3, 9, 8), dict(kernel=(2, 3), stride=(1, 2), padding=((1, 0), (0, 1)), dilation=(2, 1))),
]


def _samples(kind: str) -> Any:
    def make(rng: np.random.Generator) -> list[Sample]:
        found = []
        for x, attrs in _CASES:
            data = rng.permutation(math.prod(x)).reshape(x).astype(np.float32) / 10  # no ties: the gradient exists
            y, index = _reference_max_pool(data, **attrs)
            dy = rng.standard_normal(y.shape).astype(np.float32)
            inputs, extra = {
                "x": ((data,), {}),
                "dy_index": ((dy, index), {"shape": x[2:]}),
                "dy": ((dy,), {"shape": x[2:]}),
                "x_index": ((data, index), {}),
            }[kind]
            found.append(Sample(inputs, {**extra, **attrs}))
        return found

    return make


def _orders(node: Node) -> Any:
    maps = channels_last(len(node.types[0].shape))
    return (maps,) * len(node.inputs), (maps,) * len(node.types)


def _nothing_to_sum(node: Node) -> Value | None:
    """The operand of a sum over windows of one element each."""
    x, attrs = node.inputs[0], node.attrs
    alone = set(attrs["kernel"]) == {1} and not any(map(any, attrs["padding"]))
    return x if alone and x.shape == node.types[0].shape else None


def _window_flops(node: Node) -> int:
    return max(v.type.size for v in (*node.inputs, *node.outputs)) * math.prod(node.attrs["kernel"])


register(
    OpDef(
        name="max_pool",
        kind=Kind.WINDOW,
        infer=_infer_max_pool,
        vjp=lambda n, dy, _: [apply("max_pool_grad", dy, n.outputs[1], shape=n.inputs[0].shape[2:], **_pool_attrs(n))],
        reference=_reference_max_pool,
        samples=_samples("x"),
        template="max_pool",
        axes=lambda n: leading(n, 2),
        orders=_orders,
        flops=_window_flops,
    )
)
register(
    OpDef(
        name="max_pool_grad",
        kind=Kind.WINDOW,
        infer=_infer_max_pool_grad,
        vjp=lambda n, ddx: [apply("max_pool_gather", ddx, n.inputs[1], **_pool_attrs(n)), None],
        reference=_reference_max_pool_grad,
        samples=_samples("dy_index"),
        template="max_pool_grad",
        axes=lambda n: leading(n, 2),
        orders=_orders,
        flops=_window_flops,
    )
)
register(
    OpDef(
        name="max_pool_gather",
        kind=Kind.WINDOW,
        infer=_infer_gather,
        vjp=lambda n, dy: [
            apply("max_pool_grad", dy, n.inputs[1], shape=n.inputs[0].shape[2:], **_pool_attrs(n)),
            None,
        ],
        reference=_reference_gather,
        samples=_samples("x_index"),
        template="max_pool_gather",
        axes=lambda n: leading(n, 2),
        orders=_orders,
        flops=_window_flops,
    )
)
register(
    OpDef(
        name="sum_pool",
        kind=Kind.WINDOW,
        infer=_infer_sum_pool,
        vjp=lambda n, dy: [apply("sum_pool_grad", dy, shape=n.inputs[0].shape[2:], **_pool_attrs(n))],
        reference=_reference_sum_pool,
        simplify=_nothing_to_sum,
        samples=_samples("x"),
        template="sum_pool",
        axes=lambda n: leading(n, 2),
        orders=_orders,
        flops=_window_flops,
    )
)
register(
    OpDef(
        name="sum_pool_grad",
        kind=Kind.WINDOW,
        infer=_infer_sum_pool_grad,
        vjp=lambda n, ddx: [apply("sum_pool", ddx, **_pool_attrs(n))],
        reference=_reference_sum_pool_grad,
        simplify=_nothing_to_sum,
        samples=_samples("dy"),
        template="sum_pool_grad",
        axes=lambda n: leading(n, 2),
        orders=_orders,
        flops=_window_flops,
    )
)

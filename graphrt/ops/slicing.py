"""Views that select, pad, reverse and join: slices, padding, flips and concatenation, with indexing built from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from graphrt.errors import ArgumentError, DTypeError, ShapeError
from graphrt.index import as_expr
from graphrt.ir import Node, Value
from graphrt.op import REGISTRY, Kind, OpDef, Piece, Sample, Types, register
from graphrt.ops.base import alias, apply, cast, dim_index, dim_indices, function
from graphrt.ops.base import broadcast_to as _broadcast_to
from graphrt.ops.view import Index, arrays, reshape, unsqueeze
from graphrt.types import Shape, TensorType, promote


def _infer_slice(input: TensorType, *, start: Shape, stop: Shape, step: Shape) -> Types:
    if not len(start) == len(stop) == len(step) == input.ndim:
        raise ArgumentError(f"start, stop and step need {input.ndim} entries each")
    for a, b, k, n in zip(start, stop, step, input.shape, strict=True):
        if not (0 <= a <= b <= n and k >= 1):
            raise ArgumentError(f"slice {a}:{b}:{k} does not fit a dimension of size {n}")
    shape = tuple(-(-(b - a) // k) for a, b, k in zip(start, stop, step, strict=True))
    return (TensorType(shape, input.dtype),)


def _slice_vjp(node: Node, dy: Value) -> list[Value | None]:
    x = node.inputs[0]
    start, step = node.attrs["start"], node.attrs["step"]
    ends = [a + max(n - 1, 0) * k + (n > 0) for a, n, k in zip(start, dy.shape, step, strict=True)]
    high = tuple(n - e for n, e in zip(x.shape, ends, strict=True))
    return [apply("pad", dy, low=start, high=high, interior=tuple(k - 1 for k in step), value=0.0)]


register(
    OpDef(
        name="slice",
        kind=Kind.VIEW,
        infer=_infer_slice,
        vjp=_slice_vjp,
        reference=lambda x, start, stop, step: x[tuple(map(slice, start, stop, step))],
        samples=lambda rng: arrays(
            rng,
            ((5, 7), {"start": (1, 0), "stop": (4, 7), "step": (1, 2)}),
            ((6,), {"start": (2,), "stop": (2,), "step": (1,)}),
        ),
        pull=lambda node, index: [
            Piece(0, tuple(e * k + a for e, a, k in zip(index, node.attrs["start"], node.attrs["step"], strict=True)))
        ],
        flops=lambda n: 0,
    )
)


@function
def getitem(input: Value, key: Any) -> Value:
    """``input[key]`` for integers, slices (any step), None and Ellipsis. Raises ArgumentError, ShapeError."""
    keys = list(key) if isinstance(key, tuple) else [key]
    for k in keys:
        _check_key(k)
    used = sum(k is not None and k is not Ellipsis for k in keys)
    if used > input.ndim or len(keys) - used - sum(k is None for k in keys) > 1:
        raise ShapeError(f"{key!r} has too many indices for shape {list(input.shape)}")
    if Ellipsis not in keys:
        keys.append(Ellipsis)
    at = keys.index(Ellipsis)
    keys[at : at + 1] = [slice(None)] * (input.ndim - used)
    start, stop, step = list[int](), list[int](), list[int]()
    flips, shape = list[int](), list[int]()
    for k in keys:
        if k is None:
            shape.append(1)
            continue
        n = input.shape[len(start)]
        if isinstance(k, slice):
            a, b, s = k.indices(n)
            count = len(range(a, b, s))
            if s < 0:
                flips.append(len(start))
                a, s = a + (count - 1) * s, -s
            a = a if count else 0
            start, stop, step = [*start, a], [*stop, a + (count - 1) * s + 1 if count else a], [*step, s]
            shape.append(count)
        else:
            a = dim_index(k, n, "index")
            start, stop, step = [*start, a], [*stop, a + 1], [*step, 1]
    x = input
    if any(b - a != n for a, b, n in zip(start, stop, x.shape, strict=True)) or any(s > 1 for s in step):
        x = apply("slice", x, start=tuple(start), stop=tuple(stop), step=tuple(step))
    return reshape(flip(x, flips) if flips else x, shape)


def _check_key(key: Any) -> None:
    """Raises ArgumentError unless ``key`` is an int, None, Ellipsis or a slice of ints with a step other than 0."""
    parts = [key.start, key.stop, key.step] if isinstance(key, slice) else [None if key is Ellipsis else key]
    if any(p is not None and (isinstance(p, bool) or not isinstance(p, int | np.integer)) for p in parts):
        raise ArgumentError(f"an index is an int, a slice of ints, None or ..., got {key!r}")
    if isinstance(key, slice) and key.step == 0:
        raise ArgumentError("the step of a slice must not be 0")


def _infer_pad(input: TensorType, *, low: Shape, high: Shape, interior: Shape, value: float) -> Types:
    if not len(low) == len(high) == len(interior) == input.ndim or min((*low, *high, *interior), default=0) < 0:
        raise ArgumentError(f"low, high and interior need {input.ndim} entries >= 0 each, got {low}, {high}, {interior}")
    if not input.dtype.is_float and (not math.isfinite(value) or value != int(value)):
        raise ArgumentError(f"value must be a whole number for {input.dtype}, got {value!r}")
    shape = tuple(a + b + n + max(n - 1, 0) * k for a, b, k, n in zip(low, high, interior, input.shape, strict=True))
    return (TensorType(shape, input.dtype),)


def _pull_pad(node: Node, index: Index) -> list[Piece]:
    source, mask = [], []
    a = node.attrs
    for e, low, high, gap, n in zip(index, a["low"], a["high"], a["interior"], node.inputs[0].shape, strict=True):
        e = e - low
        if low or high:
            mask.append((e, 0, n + max(n - 1, 0) * gap))
        if gap:
            mask.append((e % (gap + 1), 0, 1))
        source.append(e // (gap + 1))
    return [Piece(0, tuple(source), tuple(mask))]


def _reference_pad(x: np.ndarray, low: Shape, high: Shape, interior: Shape, value: float) -> np.ndarray:
    inner = [n + max(n - 1, 0) * k for n, k in zip(x.shape, interior, strict=True)]
    y = np.full([a + n + b for a, n, b in zip(low, inner, high, strict=True)], value, x.dtype)
    y[tuple(slice(a, a + n, k + 1) for a, n, k in zip(low, inner, interior, strict=True))] = x
    return y


def _pad_vjp(node: Node, dy: Value) -> list[Value | None]:
    a, n = node.attrs, node.inputs[0].shape
    stop = tuple(lo + m + max(m - 1, 0) * k for lo, m, k in zip(a["low"], n, a["interior"], strict=True))
    return [apply("slice", dy, start=a["low"], stop=stop, step=tuple(k + 1 for k in a["interior"]))]


register(
    OpDef(
        name="pad",
        kind=Kind.VIEW,
        infer=_infer_pad,
        vjp=_pad_vjp,
        reference=_reference_pad,
        samples=lambda rng: arrays(
            rng,
            ((2, 3), {"low": (1, 0), "high": (0, 2), "interior": (0, 1), "value": 0.5}),
            ((0,), {"low": (2,), "high": (1,), "interior": (0,), "value": 0.0}),
        ),
        pull=_pull_pad,
        flops=lambda n: 0,
    )
)


@function
def pad(input: Value, pad: Sequence[int], mode: str = "constant", value: float = 0.0) -> Value:
    """torch.nn.functional.pad: ``pad`` lists (low, high) for the last dimension, then the one before it, and so on.

    Negative widths crop, in mode circular before anything is repeated, else behind. ``mode`` is constant (``value``), reflect,
    symmetric, replicate or circular.
    """
    widths = [int(n) for n in pad]
    if len(widths) % 2 or len(widths) > 2 * input.ndim:
        raise ArgumentError(f"pad needs (low, high) pairs for at most {input.ndim} dimensions, got {list(pad)}")
    pairs = [(0, 0)] * (input.ndim - len(widths) // 2) + list(zip(widths[-2::-2], widths[-1::-2], strict=True))
    if mode != "constant" and mode not in _EDGE:
        raise ArgumentError(f"mode must be constant, {', '.join(_EDGE)}, got {mode!r}")
    if any(a + b + n < 0 for (a, b), n in zip(pairs, input.shape, strict=True)):
        raise ArgumentError(f"pad {list(pad)} crops more than {list(input.shape)} holds")
    x = _cropped(input, pairs) if mode == "circular" else input
    wide = [(max(a, 0), max(b, 0)) for a, b in pairs]
    if mode == "constant" and any(map(any, wide)):
        low, high = zip(*wide, strict=True)
        x = apply("pad", x, low=low, high=high, interior=(0,) * x.ndim, value=value)
    for dim, (a, b) in enumerate(wide):
        if mode != "constant" and (a or b):
            x = concat([*_EDGE[mode](x, dim, a, True), x, *_EDGE[mode](x, dim, b, False)], dim)
    return x if mode == "circular" else _cropped(x, pairs)


def _cropped(x: Value, pairs: Sequence[tuple[int, int]]) -> Value:
    """``x`` without as many elements at the ends of each dimension as a negative width says."""
    if all(n >= 0 for p in pairs for n in p):
        return x
    if any(max(-a, 0) + max(-b, 0) > n for (a, b), n in zip(pairs, x.shape, strict=True)):
        raise ArgumentError(f"widths {list(pairs)} crop more than {list(x.shape)} holds")
    return getitem(x, tuple(slice(max(-a, 0), n - max(-b, 0)) for (a, b), n in zip(pairs, x.shape, strict=True)))


def cut(x: Value, dim: int, start: int, stop: int) -> Value:
    """Elements ``start`` to ``stop`` along ``dim``."""
    return getitem(x, (*[slice(None)] * dim, slice(start, stop)))


def used(dy: Value, start: Sequence[int], stop: Sequence[int]) -> Value | None:
    """A block of the last dimensions of a cotangent; None if it is known to be zero, because what was used lies elsewhere."""
    node, offset = dy.node, dy.ndim - len(start)
    if node.op.name == "add":
        found = [part for x in node.inputs if (part := used(x, start, stop)) is not None]
        return None if not found else found[0] if len(found) == 1 else apply("add", *found)
    if node.op.name == "pad":
        low, high = node.attrs["low"][offset:], node.attrs["high"][offset:]
        ends = [size - h for size, h in zip(dy.shape[offset:], high, strict=True)]
        if any(b <= first or a >= end for a, b, first, end in zip(start, stop, low, ends, strict=True)):
            return None
    return getitem(dy, (..., *map(slice, start, stop)))


def _edge(skip: int, mirrored: bool, what: str) -> Any:
    def border(x: Value, dim: int, width: int, low: bool) -> list[Value]:
        n = x.shape[dim]
        if width + skip > n:
            raise ArgumentError(f"{what} padding of {width} needs a dimension of more than {width + skip - 1}, got {n}")
        if width == 0:
            return []
        near = low if mirrored else not low
        part = cut(x, dim, skip, skip + width) if near else cut(x, dim, n - skip - width, n - skip)
        return [flip(part, [dim]) if mirrored else part]

    return border


def _replicate(x: Value, dim: int, width: int, low: bool) -> list[Value]:
    n = x.shape[dim]
    if n == 0:
        raise ArgumentError("replicate padding needs a dimension that is not empty")
    part = cut(x, dim, 0, 1) if low else cut(x, dim, n - 1, n)
    return [_broadcast_to(part, [width if d == dim else m for d, m in enumerate(x.shape)])] if width else []


_EDGE = {
    "reflect": _edge(1, True, "reflect"),
    "symmetric": _edge(0, True, "symmetric"),
    "replicate": _replicate,
    "circular": _edge(0, False, "circular"),
}


def _infer_flip(input: TensorType, *, dims: Shape) -> Types:
    dim_indices(dims, input.ndim)
    return (TensorType(input.shape, input.dtype),)


def _flipped(node: Node, index: Index) -> Index:
    dims, shape = node.attrs["dims"], node.types[0].shape
    return tuple(as_expr(n - 1) - e if d in dims else e for d, (e, n) in enumerate(zip(index, shape, strict=True)))


def _simplify_flip(node: Node) -> Value | None:
    """Dimensions of one element, and those that are flipped twice, stay as they are."""
    x, dims = node.inputs[0], {d for d in node.attrs["dims"] if node.types[0].shape[d] > 1}
    while x.node.op is node.op:
        x, dims = x.node.inputs[0], dims ^ {*x.node.attrs["dims"]}
    left = tuple(sorted(d for d in dims if x.shape[d] > 1))
    if not left:
        return x
    return apply("flip", x, dims=left) if x is not node.inputs[0] or len(left) < len(node.attrs["dims"]) else None


register(
    OpDef(
        name="flip",
        kind=Kind.VIEW,
        infer=_infer_flip,
        vjp=lambda n, dy: [apply("flip", dy, dims=n.attrs["dims"])],
        reference=lambda x, dims: np.flip(x, dims),
        samples=lambda rng: arrays(rng, ((3, 4), {"dims": (0,)}), ((2, 3, 2), {"dims": (0, 2)})),
        pull=lambda node, index: [Piece(0, _flipped(node, index))],
        push=lambda node, index: _flipped(node, index),
        flops=lambda n: 0,
        simplify=_simplify_flip,
    )
)


@function
def flip(input: Value, dims: int | Sequence[int]) -> Value:
    """``input`` reversed along ``dims``; a scalar counts as a vector."""
    along = dim_indices(dims, max(input.ndim, 1))
    return apply("flip", input, dims=along) if input.ndim else input


def _infer_concat(*tensors: TensorType, dim: int) -> Types:
    first = tensors[0]
    dim_index(dim, first.ndim)
    for t in tensors[1:]:
        if t.dtype != first.dtype:
            raise DTypeError(f"concat needs one dtype, got {[str(t.dtype) for t in tensors]}")
        if t.ndim != first.ndim or any(a != b for i, (a, b) in enumerate(zip(t.shape, first.shape, strict=True)) if i != dim):
            raise ShapeError(f"concat along {dim} needs all other sizes equal, got {[list(t.shape) for t in tensors]}")
    total = sum(t.shape[dim] for t in tensors)
    return (TensorType((*first.shape[:dim], total, *first.shape[dim + 1 :]), first.dtype),)


def _pull_concat(node: Node, index: Index) -> list[Piece]:
    """The parts that the index may reach: of a slice often one, whose mask always holds."""
    dim, offset, pieces = node.attrs["dim"], 0, []
    low, high = index[dim].range()
    for i, x in enumerate(node.inputs):
        n = x.shape[dim]
        if low < offset + n and high >= offset or not n:
            e = index[dim] - offset
            inside = low >= offset and high < offset + n
            pieces.append(Piece(i, (*index[:dim], e, *index[dim + 1 :]), () if inside else ((e, 0, n),)))
        offset += n
    return pieces


def _simplify_concat(node: Node) -> Value | None:
    """The concatenation of tensors to each of which a dimension was given to join them along, seen with that dimension."""
    dim, x = node.attrs["dim"], node.inputs[0].node
    shown = [v.node.inputs[0] for v in node.inputs if v.node.op is REGISTRY["reshape"]]
    whole = (*x.types[0].shape[:dim], *x.types[0].shape[dim + 1 :])
    if len(shown) < len(node.inputs) or dim >= len(whole) or any(v.shape != whole for v in shown):
        return None
    return reshape(apply("concat", *shown, dim=dim), node.types[0].shape)


def _concat_vjp(node: Node, dy: Value) -> list[Value | None]:
    dim, offset, grads = node.attrs["dim"], 0, list[Value | None]()
    for x in node.inputs:
        grads.append(cut(dy, dim, offset, offset + x.shape[dim]))
        offset += x.shape[dim]
    return grads


register(
    OpDef(
        name="concat",
        kind=Kind.VIEW,
        infer=_infer_concat,
        vjp=_concat_vjp,
        reference=lambda *tensors, dim: np.concatenate(tensors, dim),
        samples=lambda rng: [
            Sample(tuple(rng.standard_normal((2, n)).astype(np.float32) for n in (3, 1, 2)), {"dim": 1}),
            Sample(tuple(rng.standard_normal((n, 2)).astype(np.float32) for n in (0, 4)), {"dim": 0}),
        ],
        pull=_pull_concat,
        simplify=_simplify_concat,
        flops=lambda n: 0,
    )
)


@function
def concat(tensors: Sequence[Value], dim: int = 0) -> Value:
    """The tensors one behind the other along ``dim`` (torch.cat)."""
    if not tensors:
        raise ArgumentError("tensors must hold at least one Value")
    at = dim_index(dim, tensors[0].ndim)
    dtype = promote(*(t.dtype for t in tensors))
    parts = [cast(t, dtype) for t in tensors]
    return apply("concat", *parts, dim=at) if len(parts) > 1 else parts[0]


@function
def stack(tensors: Sequence[Value], dim: int = 0) -> Value:
    """The tensors, all of one shape, along a new dimension ``dim``."""
    if not tensors:
        raise ArgumentError("tensors must hold at least one Value")
    at = dim_index(dim, tensors[0].ndim + 1)
    return concat([unsqueeze(t, at) for t in tensors], at)


cat = alias("cat", concat)

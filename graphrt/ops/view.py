"""Sources and views. A view moves no data: it is an index map (``pull``), folded into whoever reads it.

``pull(node, index)`` says for an element of the view's output where it is read from: pieces of operands, each with an
index and the ranges in which it holds; elements that no piece covers take ``attrs["value"]`` (padding) or 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from graphrt.errors import ArgumentError, DTypeError, ShapeError
from graphrt.index import Expr, as_expr, delinearize, linearize, row_major
from graphrt.ir import OPERATORS, Node, Value
from graphrt.op import REGISTRY, Kind, OpDef, Piece, Sample, Types, register
from graphrt.ops.base import apply, broadcast_shape, dim_index, dim_indices, function, tensor, unbroadcast
from graphrt.ops.base import broadcast_to as _broadcast_to
from graphrt.types import Shape, TensorType, as_dtype

Index = tuple[Expr, ...]


def _source(name: str) -> OpDef:
    def infer(*, shape: Shape, dtype: str, **_: Any) -> Types:
        if any(n < 0 for n in shape):
            raise ShapeError(f"shape must not be negative, got {list(shape)}")
        return (TensorType(tuple(shape), as_dtype(dtype)),)

    def reference(**_: Any) -> None:
        raise AssertionError("sources are given, not computed")

    return register(OpDef(name, Kind.SOURCE, infer, None, reference, lambda rng: []))


_source("input")
_source("parameter")

register(
    OpDef(
        name="constant",
        kind=Kind.GENERATED,
        infer=lambda *, value, dtype: (TensorType((), as_dtype(dtype)),),
        vjp=lambda n, dy: [],
        reference=lambda value, dtype: np.asarray(value, as_dtype(dtype).numpy),
        samples=lambda rng: [Sample((), {"value": 2.5, "dtype": "float32"})],
        body=lambda s, index, value, dtype: s.const(value, as_dtype(dtype)),
    )
)


def _infer_iota(*, shape: Shape, dim: int) -> Types:
    dim_index(dim, len(shape))
    return (TensorType(tuple(shape), as_dtype("int64")),)


register(
    OpDef(
        name="iota",
        kind=Kind.GENERATED,
        infer=_infer_iota,
        vjp=lambda n, dy: [],
        reference=lambda shape, dim: np.broadcast_to(
            np.arange(shape[dim]).reshape([-1 if i == dim else 1 for i in range(len(shape))]), shape
        ),
        samples=lambda rng: [Sample((), {"shape": (3, 4), "dim": d}) for d in (0, 1)],
        body=lambda s, index, shape, dim: s.index(index[dim]),
    )
)


def _arrays(rng: np.random.Generator, *calls: tuple[Sequence[int], dict[str, Any]]) -> list[Sample]:
    return [Sample((np.asarray(rng.standard_normal(shape), np.float32),), attrs) for shape, attrs in calls]


# --- reshape -----------------------------------------------------------------------------------------------------


def _infer_reshape(input: TensorType, *, shape: Shape) -> Types:
    if any(n < 0 for n in shape) or math.prod(shape) != input.size:
        raise ShapeError(f"cannot reshape {list(input.shape)} ({input.size} elements) to {list(shape)}")
    return (TensorType(tuple(shape), input.dtype),)


def _simplify_reshape(node: Node) -> Value | None:
    x, shape = node.inputs[0], node.types[0].shape
    inner = x.node
    if x.shape == shape:
        return x
    if inner.op is node.op:
        return reshape(inner.inputs[0], shape)
    return None


def _pull_reshape(node: Node, index: Index) -> list[Piece]:
    x = node.inputs[0]
    return [Piece(0, delinearize(linearize(index, row_major(node.types[0].shape)), x.shape))]


register(
    OpDef(
        name="reshape",
        kind=Kind.VIEW,
        infer=_infer_reshape,
        vjp=lambda n, dy: [reshape(dy, n.inputs[0].shape)],
        reference=lambda x, shape: np.reshape(x, shape),
        samples=lambda rng: _arrays(
            rng, ((2, 6), {"shape": (3, 4)}), ((4,), {"shape": (2, 1, 2)}), ((1,), {"shape": ()}), ((0, 3), {"shape": (3, 0)})
        ),
        pull=_pull_reshape,
        push=lambda node, index: delinearize(linearize(index, row_major(node.inputs[0].shape)), node.types[0].shape),
        simplify=_simplify_reshape,
        flops=lambda n: 0,
    )
)


@function
def reshape(input: Value, shape: Sequence[int]) -> Value:
    """``input`` with its elements, in row-major order, in ``shape``; one size may be -1. Raises ShapeError."""
    shape = [int(n) for n in shape]
    if shape.count(-1) > 1:
        raise ArgumentError(f"only one size of shape can be -1, got {shape}")
    if -1 in shape:
        known = math.prod(n for n in shape if n != -1)
        if known == 0 or input.type.size % known:
            raise ShapeError(f"cannot reshape {list(input.shape)} ({input.type.size} elements) to {shape}")
        shape[shape.index(-1)] = input.type.size // known
    return input if input.shape == tuple(shape) else apply("reshape", input, shape=tuple(shape))


@function
def flatten(input: Value, start_dim: int = 0, end_dim: int = -1) -> Value:
    """Dimensions ``start_dim`` to ``end_dim`` joined into one."""
    if input.ndim == 0:
        return reshape(input, (1,))
    a, b = dim_index(start_dim, input.ndim, "start_dim"), dim_index(end_dim, input.ndim, "end_dim")
    if a > b:
        raise ArgumentError(f"start_dim {start_dim} lies behind end_dim {end_dim}")
    return reshape(input, (*input.shape[:a], math.prod(input.shape[a : b + 1]), *input.shape[b + 1 :]))


@function
def squeeze(input: Value, dim: int | Sequence[int] | None = None) -> Value:
    """``input`` without its dimensions of size 1, or without those in ``dim`` that have size 1."""
    dims = dim_indices(dim, input.ndim)
    return reshape(input, [n for i, n in enumerate(input.shape) if not (i in dims and n == 1)])


@function
def unsqueeze(input: Value, dim: int) -> Value:
    """``input`` with a new dimension of size 1 at ``dim``."""
    at = dim_index(dim, input.ndim + 1)
    return reshape(input, (*input.shape[:at], 1, *input.shape[at:]))


# --- permute -----------------------------------------------------------------------------------------------------


def _infer_permute(input: TensorType, *, dims: Shape) -> Types:
    if sorted(dims) != list(range(input.ndim)):
        raise ArgumentError(f"dims must name each of the {input.ndim} dimensions once, got {list(dims)}")
    return (TensorType(tuple(input.shape[d] for d in dims), input.dtype),)


def _inverse(dims: Sequence[int]) -> tuple[int, ...]:
    return tuple(sorted(range(len(dims)), key=lambda i: dims[i]))


def _simplify_permute(node: Node) -> Value | None:
    x, dims = node.inputs[0], node.attrs["dims"]
    if dims == tuple(range(x.ndim)):
        return x
    if x.node.op is node.op:
        return permute(x.node.inputs[0], [x.node.attrs["dims"][d] for d in dims])
    return None


register(
    OpDef(
        name="permute",
        kind=Kind.VIEW,
        infer=_infer_permute,
        vjp=lambda n, dy: [apply("permute", dy, dims=_inverse(n.attrs["dims"]))],
        reference=lambda x, dims: np.transpose(x, dims),
        samples=lambda rng: _arrays(rng, ((2, 3, 4), {"dims": (2, 0, 1)}), ((5, 2), {"dims": (1, 0)})),
        pull=lambda node, index: [Piece(0, tuple(index[i] for i in _inverse(node.attrs["dims"])))],
        push=lambda node, index: tuple(index[d] for d in node.attrs["dims"]),
        simplify=_simplify_permute,
        flops=lambda n: 0,
    )
)


@function
def permute(input: Value, dims: Sequence[int]) -> Value:
    """Dimension ``i`` of the result is dimension ``dims[i]`` of ``input``."""
    order = tuple(dim_index(d, input.ndim, "dims") for d in dims)
    return input if order == tuple(range(input.ndim)) else apply("permute", input, dims=order)


@function
def transpose(input: Value, dim0: int, dim1: int) -> Value:
    """``input`` with two dimensions exchanged."""
    a, b = dim_index(dim0, input.ndim, "dim0"), dim_index(dim1, input.ndim, "dim1")
    order = list(range(input.ndim))
    order[a], order[b] = b, a
    return permute(input, order)


# --- broadcast ---------------------------------------------------------------------------------------------------


def _infer_broadcast(input: TensorType, *, shape: Shape) -> Types:
    if len(shape) < input.ndim or broadcast_shape(input.shape, shape) != tuple(shape):
        raise ShapeError(f"cannot broadcast {list(input.shape)} to {list(shape)}")
    return (TensorType(tuple(shape), input.dtype),)


def _simplify_broadcast(node: Node) -> Value | None:
    x, shape = node.inputs[0], node.types[0].shape
    if x.shape == shape:
        return x
    return _broadcast_to(x.node.inputs[0], shape) if x.node.op is node.op else None


def _pull_broadcast(node: Node, index: Index) -> list[Piece]:
    shape = node.inputs[0].shape
    tail = index[len(index) - len(shape) :]
    return [Piece(0, tuple(as_expr(0) if n == 1 else e for n, e in zip(shape, tail, strict=True)))]


register(
    OpDef(
        name="broadcast",
        kind=Kind.VIEW,
        infer=_infer_broadcast,
        vjp=lambda n, dy: [unbroadcast(dy, n.inputs[0].shape)],
        reference=lambda x, shape: np.broadcast_to(x, shape),
        samples=lambda rng: _arrays(rng, ((3, 1), {"shape": (2, 3, 4)}), ((), {"shape": (2,)}), ((1,), {"shape": (0,)})),
        pull=_pull_broadcast,
        simplify=_simplify_broadcast,
        flops=lambda n: 0,
    )
)


@function
def expand(input: Value, shape: Sequence[int]) -> Value:
    """``input`` repeated along dimensions of size 1 (and new leading ones) up to ``shape``; -1 keeps a size."""
    lead = len(shape) - input.ndim
    if lead < 0:
        raise ShapeError(f"cannot expand {list(input.shape)} to fewer dimensions {list(shape)}")
    final = [input.shape[i - lead] if n == -1 and i >= lead else int(n) for i, n in enumerate(shape)]
    return _broadcast_to(input, final)


# --- slice, pad, flip, concat -------------------------------------------------------------------------------------


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
        samples=lambda rng: _arrays(
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
    used = sum(k is not None and k is not Ellipsis for k in keys)
    if used > input.ndim or keys.count(Ellipsis) > 1:
        raise ShapeError(f"{key!r} has too many indices for shape {list(input.shape)}")
    if Ellipsis not in keys:
        keys.append(Ellipsis)
    at = keys.index(Ellipsis)
    keys[at : at + 1] = [slice(None)] * (input.ndim - used)
    start, stop, step, flips, shape = [], [], [], [], []
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


def _infer_pad(input: TensorType, *, low: Shape, high: Shape, interior: Shape, value: float) -> Types:
    if not len(low) == len(high) == len(interior) == input.ndim or min((*low, *high, *interior), default=0) < 0:
        raise ArgumentError(f"low, high and interior need {input.ndim} entries >= 0 each, got {low}, {high}, {interior}")
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
        samples=lambda rng: _arrays(
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

    Negative widths crop. Modes: constant, reflect, symmetric, replicate, circular.
    """
    widths = [int(n) for n in pad]
    if len(widths) % 2 or len(widths) > 2 * input.ndim:
        raise ArgumentError(f"pad needs (low, high) pairs for at most {input.ndim} dimensions, got {list(pad)}")
    pairs = [(0, 0)] * (input.ndim - len(widths) // 2) + list(zip(widths[-2::-2], widths[-1::-2], strict=True))
    x = input
    if any(n < 0 for p in pairs for n in p):
        if any(max(-a, 0) + max(-b, 0) > n for (a, b), n in zip(pairs, x.shape, strict=True)):
            raise ArgumentError(f"pad {list(pad)} crops more than {list(x.shape)} holds")
        x = getitem(x, tuple(slice(max(-a, 0), n - max(-b, 0)) for (a, b), n in zip(pairs, x.shape, strict=True)))
    pairs = [(max(a, 0), max(b, 0)) for a, b in pairs]
    if mode == "constant":
        low, high = zip(*pairs, strict=True) if pairs else ((), ())
        return apply("pad", x, low=low, high=high, interior=(0,) * x.ndim, value=value) if any(map(any, pairs)) else x
    if mode not in _EDGE:
        raise ArgumentError(f"mode must be constant, {', '.join(_EDGE)}, got {mode!r}")
    for dim, (a, b) in enumerate(pairs):
        if a or b:
            x = concat([*_EDGE[mode](x, dim, a, True), x, *_EDGE[mode](x, dim, b, False)], dim)
    return x


def _cut(x: Value, dim: int, start: int, stop: int) -> Value:
    return getitem(x, (*[slice(None)] * dim, slice(start, stop)))


def _edge(skip: int, mirrored: bool, what: str) -> Any:
    def border(x: Value, dim: int, width: int, low: bool) -> list[Value]:
        n = x.shape[dim]
        if width + skip > n:
            raise ArgumentError(f"{what} padding of {width} needs a dimension of more than {width + skip - 1}, got {n}")
        if width == 0:
            return []
        near = low if mirrored else not low
        part = _cut(x, dim, skip, skip + width) if near else _cut(x, dim, n - skip - width, n - skip)
        return [flip(part, [dim]) if mirrored else part]

    return border


def _replicate(x: Value, dim: int, width: int, low: bool) -> list[Value]:
    n = x.shape[dim]
    if n == 0:
        raise ArgumentError("replicate padding needs a dimension that is not empty")
    part = _cut(x, dim, 0, 1) if low else _cut(x, dim, n - 1, n)
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


register(
    OpDef(
        name="flip",
        kind=Kind.VIEW,
        infer=_infer_flip,
        vjp=lambda n, dy: [apply("flip", dy, dims=n.attrs["dims"])],
        reference=lambda x, dims: np.flip(x, dims),
        samples=lambda rng: _arrays(rng, ((3, 4), {"dims": (0,)}), ((2, 3, 2), {"dims": (0, 2)})),
        pull=lambda node, index: [
            Piece(
                0,
                tuple(
                    as_expr(n - 1) - e if d in node.attrs["dims"] else e
                    for d, (e, n) in enumerate(zip(index, node.types[0].shape, strict=True))
                ),
            )
        ],
        flops=lambda n: 0,
    )
)


@function
def flip(input: Value, dims: int | Sequence[int]) -> Value:
    """``input`` reversed along ``dims``."""
    return apply("flip", input, dims=dim_indices(dims, input.ndim))


def _infer_concat(*tensors: TensorType, dim: int) -> Types:
    first = tensors[0]
    dim_index(dim, first.ndim)
    for t in tensors[1:]:
        if t.dtype != first.dtype:
            raise DTypeError(f"concat needs one dtype, got {[str(t.dtype) for t in tensors]}")
        if t.ndim != first.ndim or any(
            a != b for i, (a, b) in enumerate(zip(t.shape, first.shape, strict=True)) if i != dim
        ):
            raise ShapeError(f"concat along {dim} needs all other sizes equal, got {[list(t.shape) for t in tensors]}")
    total = sum(t.shape[dim] for t in tensors)
    return (TensorType((*first.shape[:dim], total, *first.shape[dim + 1 :]), first.dtype),)


def _pull_concat(node: Node, index: Index) -> list[Piece]:
    dim, offset, pieces = node.attrs["dim"], 0, []
    for i, x in enumerate(node.inputs):
        n = x.shape[dim]
        e = index[dim] - offset
        pieces.append(Piece(i, (*index[:dim], e, *index[dim + 1 :]), ((e, 0, n),)))
        offset += n
    return pieces


def _concat_vjp(node: Node, dy: Value) -> list[Value | None]:
    dim, offset, grads = node.attrs["dim"], 0, list[Value | None]()
    for x in node.inputs:
        grads.append(_cut(dy, dim, offset, offset + x.shape[dim]))
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
        flops=lambda n: 0,
    )
)


@function
def concat(tensors: Sequence[Value], dim: int = 0) -> Value:
    """The tensors one behind the other along ``dim`` (torch.cat)."""
    if not tensors:
        raise ArgumentError("concat needs at least one tensor")
    at = dim_index(dim, tensor(tensors[0]).ndim)
    return apply("concat", *tensors, dim=at) if len(tensors) > 1 else tensors[0]


@function
def stack(tensors: Sequence[Value], dim: int = 0) -> Value:
    """The tensors, all of one shape, along a new dimension ``dim``."""
    return concat([unsqueeze(t, dim) for t in tensors], dim)


def iota(like: Value, dim: int) -> Value:
    """The index along ``dim`` at each element of ``like``, int64."""
    shape = like.shape
    return like.graph.append(REGISTRY["iota"], (), {"shape": shape, "dim": dim_index(dim, len(shape))}).outputs[0]




OPERATORS["getitem"] = getitem

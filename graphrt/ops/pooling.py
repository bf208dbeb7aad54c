"""Pooling functions, over the window ops. Names, arguments and defaults follow torch.nn.functional.

The ops are 2-D. One dimension is two with a height of 1; three are the planes first, then the depth over what is left of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from graphrt.errors import ArgumentError, ShapeError
from graphrt.ir import Value
from graphrt.ops.base import apply, cast, dim_index, function, in_float32, ntuple, require_float, tensor
from graphrt.ops.convolution import paddings
from graphrt.ops.elementwise import pow as power
from graphrt.ops.indexing import gather
from graphrt.ops.reduction import amax
from graphrt.ops.reduction import sum as total
from graphrt.ops.slicing import concat, cut
from graphrt.ops.source import iota
from graphrt.ops.transcendental import floor_divide, remainder
from graphrt.ops.unfold import batched, unbatched
from graphrt.ops.view import reshape
from graphrt.types import int64

Size = int | Sequence[int]
Padding = int | Sequence[int | Sequence[int]]
Attrs = dict[str, Any]


def _attrs(x: Value, kernel: Size, stride: Size | None, padding: Padding, dilation: Size, ceil_mode: bool) -> Attrs:
    """Pooling arguments in the op's form; ceil mode becomes high padding, dropping windows that start past the end.

    Padding in (low, high) pairs may be any; else it is at most half a window, as in torch.
    """
    rank = x.ndim - 2
    k = ntuple(kernel, rank, "kernel_size", 1)
    s = k if stride is None else ntuple(stride, rank, "stride", 1)
    d = ntuple(dilation, rank, "dilation", 1)
    given = paddings(padding, k, s, d)
    paired = isinstance(padding, list | tuple) and any(isinstance(p, list | tuple) for p in padding)
    if not paired and any(2 * a > b for (a, _), b in zip(given, k, strict=True)):
        raise ArgumentError(f"padding must be at most half of kernel_size {k}, got {padding}")
    pads = []
    for n, size, step, (low, high), gap in zip(x.shape[2:], k, s, given, d, strict=True):
        if ceil_mode:
            span = n + low + high - gap * (size - 1) - 1
            out = -(-span // step) + 1
            if (out - 1) * step >= n + low:
                out -= 1
            high = max((out - 1) * step + gap * (size - 1) + 1 - n - low, high)
        pads.append((low, high))
    return dict(kernel=k, stride=s, padding=tuple(pads), dilation=d)


def _along(op: str, x: Value, dim: int, attrs: Attrs) -> Value:
    """Pools dimension ``dim`` alone, its arguments being the first of each of ``attrs``."""
    plane = reshape(x, (x.shape[0], math.prod(x.shape[1:dim]), x.shape[dim], math.prod(x.shape[dim + 1 :])))
    one = {"kernel": 1, "stride": 1, "padding": (0, 0), "dilation": 1}
    return apply(op, plane, **{name: (attrs[name][0], one[name]) for name in one})


def _pool(op: str, x: Value, attrs: Attrs) -> Value:
    """``op`` over the windows of x [N, C, *spatial] in one, two or three dimensions.

    A sum over all of an image is a reduction: others follow it in its kernel, and its gradient is a view.
    """
    if op == "sum_pool" and attrs["kernel"] == x.shape[2:] and not any(map(any, attrs["padding"])) and x.dtype.is_float:
        return total(x, tuple(range(2, x.ndim)), keepdim=True)
    if x.ndim == 4:
        return apply(op, x, **attrs)
    if x.ndim == 3:
        return _shaped(_along(op, x, 2, attrs), x, 2)
    n, c, depth, *plane = x.shape
    y = apply(op, reshape(x, (n, c * depth, *plane)), **{k: v[1:] for k, v in attrs.items()})
    y = reshape(y, (n, c, depth, *y.shape[2:]))
    return _shaped(_along(op, y, 2, attrs), y, 2)


def _shaped(pooled: Value, x: Value, dim: int) -> Value:
    return reshape(pooled, (*x.shape[:dim], pooled.shape[2], *x.shape[dim + 1 :]))


def _positions(tap: Value, dim: int, attrs: Attrs, i: int) -> Value:
    """Coordinate along ``dim`` of the input that tap number ``tap`` of each window meets; attributes number ``i``."""
    return iota(tap, dim) * attrs["stride"][i] - attrs["padding"][i][0] + tap * attrs["dilation"][i]


def _max_along(x: Value, flat: Value | None, dim: int, attrs: Attrs, scale: int) -> tuple[Value, Value]:
    """Max pooling of ``dim`` alone, and where its winners lie: ``scale`` a step along it, plus ``flat`` where given."""
    y = _along("max_pool", x, dim, attrs)
    at = _positions(_shaped(cast(y.node.outputs[1], int64), x, dim), dim, attrs, 0)
    index = at * scale if flat is None else at * scale + gather(flat, dim, at)
    return _shaped(y, x, dim), index


def _max_with_indices(x: Value, attrs: Attrs) -> tuple[Value, Value]:
    """Max pooling, with the winners' row-major indices in the input's spatial dimensions, int64."""
    if x.ndim == 3:
        return _max_along(x, None, 2, attrs, 1)
    n, c, *spatial = x.shape
    planes = reshape(x, (n, math.prod((c, *spatial[:-2])), *spatial[-2:]))
    flat_attrs = {k: v[-2:] for k, v in attrs.items()}
    y = apply("max_pool", planes, **flat_attrs)
    tap, width = cast(y.node.outputs[1], int64), flat_attrs["kernel"][1]
    rows = _positions(floor_divide(tap, width), 2, flat_attrs, 0)
    index = rows * spatial[-1] + _positions(remainder(tap, width), 3, flat_attrs, 1)
    if x.ndim == 4:
        return y, index
    shape = (n, c, spatial[0], *y.shape[2:])
    return _max_along(reshape(y, shape), reshape(index, shape), 2, attrs, spatial[1] * spatial[2])


def _max_pool(
    rank: int,
    input: Value,
    kernel_size: Size,
    stride: Size | None,
    padding: Padding,
    dilation: Size,
    ceil_mode: bool,
    return_indices: bool,
) -> Any:
    x = batched(input, rank, f"max_pool{rank}d")
    attrs = _attrs(x, kernel_size, stride, padding, dilation, ceil_mode)
    if not return_indices:
        return unbatched(_pool("max_pool", x, attrs), input, rank)
    y, index = _max_with_indices(x, attrs)
    return unbatched(y, input, rank), unbatched(index, input, rank)


def _sum_pool(
    rank: int, input: Value, kernel_size: Size, stride: Size | None, padding: Padding, ceil_mode: bool, dilation: Size
) -> Value:
    x = batched(input, rank, f"sum_pool{rank}d")
    return unbatched(_pool("sum_pool", x, _attrs(x, kernel_size, stride, padding, dilation, ceil_mode)), input, rank)


def _avg_pool(
    rank: int,
    input: Value,
    kernel_size: Size,
    stride: Size | None,
    padding: Size,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None = None,
) -> Value:
    x = batched(input, rank, f"avg_pool{rank}d")
    attrs = _attrs(x, kernel_size, stride, padding, 1, ceil_mode)
    if divisor_override is not None and (not isinstance(divisor_override, int) or divisor_override == 0):
        raise ArgumentError(f"divisor_override must be an int other than 0, got {divisor_override!r}")
    y = _pool("sum_pool", x, attrs)
    pads, given = attrs["padding"], ntuple(padding, rank, "padding", 0)
    plain = count_include_pad or not any(given)
    if divisor_override is not None:
        y = y * (1.0 / divisor_override)
    elif plain and all(b <= p for (_, b), p in zip(pads, given, strict=True)):
        y = y * (1.0 / math.prod(attrs["kernel"]))
    else:
        margin = given if count_include_pad else (0,) * rank  # what ceil mode adds behind the padding never counts
        counts = np.ones(())
        for n, size, step, (low, _), m, extra in zip(
            y.shape[2:], attrs["kernel"], attrs["stride"], pads, x.shape[2:], margin, strict=True
        ):
            start = np.arange(n) * step - low
            counts = np.multiply.outer(counts, np.minimum(start + size, m + extra) - np.maximum(start, -extra))
        y = y * (1.0 / counts).astype(y.dtype.numpy)
    return unbatched(y, input, rank)


def _lp_pool(rank: int, input: Value, norm_type: float, kernel_size: Size, stride: Size | None, ceil_mode: bool) -> Value:
    if not isinstance(norm_type, int | float) or isinstance(norm_type, bool) or not 0 < norm_type < math.inf:
        raise ArgumentError(f"norm_type must be a positive number, got {norm_type!r}")
    require_float(tensor(input).dtype, "input")
    mean = _avg_pool(rank, power(input, float(norm_type)), kernel_size, stride, 0, ceil_mode, True)
    return power(mean * math.prod(ntuple(kernel_size, rank, "kernel_size", 1)), 1.0 / norm_type)


def _adaptive(input: Value, rank: int, output_size: Any, what: str) -> tuple[Value, tuple[int, ...]]:
    """``input`` with a batch, and ``output_size`` with its Nones (the input's size) filled in."""
    x = batched(input, rank, what)
    wanted = output_size if isinstance(output_size, list | tuple) else (output_size,) * rank
    if len(wanted) != rank:
        raise ArgumentError(f"output_size must be an int or {rank} of them, got {output_size!r}")
    sizes = [n if size is None else size for n, size in zip(x.shape[2:], wanted, strict=True)]
    if min(x.shape[2:]) < 1:
        raise ShapeError(f"{what} needs spatial dimensions that are not empty, got {list(input.shape)}")
    return x, ntuple(sizes, rank, "output_size", 1)


def _whole(kernel: Sequence[int]) -> Attrs:
    """Windows of ``kernel`` side by side."""
    return dict(kernel=tuple(kernel), stride=tuple(kernel), padding=((0, 0),) * len(kernel), dilation=(1,) * len(kernel))


def _ranges(n: int, out: int) -> list[tuple[int, int]]:
    """The ``out`` windows that adaptive pooling cuts ``n`` elements into; neighbours overlap where it is uneven."""
    if out > 4096:
        raise ArgumentError(f"output_size must not exceed 4096, got {out}")
    return [(i * n // out, -(-(i + 1) * n // out)) for i in range(out)]


def _adaptive_avg_pool(rank: int, input: Value, output_size: Any) -> Value:
    x, sizes = _adaptive(input, rank, output_size, f"adaptive_avg_pool{rank}d")
    if all(n % size == 0 for n, size in zip(x.shape[2:], sizes, strict=True)):
        kernel = [n // size for n, size in zip(x.shape[2:], sizes, strict=True)]
        return _avg_pool(rank, input, kernel, None, 0, False, True)
    for dim, size in enumerate(sizes, 2):
        parts = [(cut(x, dim, a, b), b - a) for a, b in _ranges(x.shape[dim], size)]
        x = concat([_shaped(_along("sum_pool", part, dim, _whole([k])), part, dim) * (1.0 / k) for part, k in parts], dim)
    return unbatched(x, input, rank)


def _adaptive_max_pool(rank: int, input: Value, output_size: Any, return_indices: bool) -> Any:
    x, sizes = _adaptive(input, rank, output_size, f"adaptive_max_pool{rank}d")
    spatial = x.shape[2:]
    if all(n % size == 0 for n, size in zip(spatial, sizes, strict=True)):
        return _max_pool(
            rank, input, [n // size for n, size in zip(spatial, sizes, strict=True)], None, 0, 1, False, return_indices
        )
    index: Value | None = None
    for dim in reversed(range(2, rank + 2)):  # the last first: of equal elements the first in row-major order wins
        scale = math.prod(spatial[dim - 1 :])
        values, indices = [], []
        for a, b in _ranges(x.shape[dim], sizes[dim - 2]):
            flat = None if index is None else cut(index, dim, a, b)
            y, at = _max_along(cut(x, dim, a, b), flat, dim, _whole([b - a]), scale)
            values.append(y)
            indices.append(at + a * scale)
        x, index = concat(values, dim), concat(indices, dim)
    assert index is not None
    return (unbatched(x, input, rank), unbatched(index, input, rank)) if return_indices else unbatched(x, input, rank)


# --- public functions: each family is defined once for its three ranks ---------------------------------------------

_INPUT = ("[N, C, L] or [C, L]", "[N, C, H, W] or [C, H, W]", "[N, C, D, H, W] or [C, D, H, W]")
_RANKS = (1, 2, 3)


def _public(rank: int, name: str, doc: str, f: Callable[..., Any]) -> Callable[..., Any]:
    f.__name__ = f.__qualname__ = f"{name}{rank}d"
    f.__doc__ = doc.replace("<input>", _INPUT[rank - 1]).replace("<rank>", str(rank))
    return function(f)


def _define_max(rank: int) -> Callable[..., Any]:
    def f(
        input: Value,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Padding = 0,
        dilation: Size = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> Any:
        return _max_pool(rank, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)

    doc = """Largest element of each window of <input>; NaN wins, the first of equal elements gets the gradient.

    ``kernel_size``, ``stride`` (None: the window's) and ``dilation`` are an int, or one for each dimension; ``padding`` may be
    (low, high) pairs as well. ``ceil_mode`` rounds the number of windows up. With ``return_indices`` also where each lies in
    the flattened spatial dimensions, int64. Raises ShapeError, ArgumentError."""
    return _public(rank, "max_pool", doc, in_float32(f) if rank == 3 else f)  # two of them, one behind the other


def _define_sum(rank: int) -> Callable[..., Any]:
    def f(
        input: Value,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Padding = 0,
        ceil_mode: bool = False,
        dilation: Size = 1,
    ) -> Value:
        return _sum_pool(rank, input, kernel_size, stride, padding, ceil_mode, dilation)

    doc = """Sum of each window of <input>; padding counts as zero.

    ``kernel_size``, ``stride``, ``padding``, ``dilation`` and ``ceil_mode`` as in ``max_pool<rank>d``. Raises ShapeError,
    ArgumentError."""
    return _public(rank, "sum_pool", doc, in_float32(f))


def _define_avg(rank: int) -> Callable[..., Any]:
    def f(
        input: Value,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Value:
        return _avg_pool(rank, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)

    doc = """Mean of each window of <input>; padding counts as zero elements unless ``count_include_pad`` is False.

    ``divisor_override`` divides the sum instead of the number of elements. ``kernel_size``, ``stride``, ``padding`` and
    ``ceil_mode`` as in ``max_pool<rank>d``. Raises ShapeError, ArgumentError."""
    return _public(rank, "avg_pool", doc, in_float32(f))


def _define_lp(rank: int) -> Callable[..., Any]:
    def f(input: Value, norm_type: float, kernel_size: Size, stride: Size | None = None, ceil_mode: bool = False) -> Value:
        return _lp_pool(rank, input, norm_type, kernel_size, stride, ceil_mode)

    doc = """``sum(input ** norm_type) ** (1 / norm_type)`` of each window of <input>.

    ``kernel_size``, ``stride`` and ``ceil_mode`` as in ``max_pool<rank>d``. Raises ArgumentError, DTypeError, ShapeError."""
    return _public(rank, "lp_pool", doc, in_float32(f))


def _define_adaptive_avg(rank: int) -> Callable[..., Any]:
    def f(input: Value, output_size: Any) -> Value:
        return _adaptive_avg_pool(rank, input, output_size)

    doc = "Means of <input> over ``output_size`` windows of nearly equal size; None keeps a dimension's size."
    return _public(rank, "adaptive_avg_pool", doc, in_float32(f))


def _define_adaptive_max(rank: int) -> Callable[..., Any]:
    def f(input: Value, output_size: Any, return_indices: bool = False) -> Any:
        return _adaptive_max_pool(rank, input, output_size, return_indices)

    doc = """Largest elements of <input> in ``output_size`` windows of nearly equal size; None keeps a dimension's size.

    ``return_indices`` as in ``max_pool<rank>d``."""
    return _public(rank, "adaptive_max_pool", doc, f)


max_pool1d, max_pool2d, max_pool3d = map(_define_max, _RANKS)
sum_pool1d, sum_pool2d, sum_pool3d = map(_define_sum, _RANKS)
avg_pool1d, avg_pool2d, avg_pool3d = map(_define_avg, _RANKS)
lp_pool1d, lp_pool2d, lp_pool3d = map(_define_lp, _RANKS)
adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d = map(_define_adaptive_avg, _RANKS)
adaptive_max_pool1d, adaptive_max_pool2d, adaptive_max_pool3d = map(_define_adaptive_max, _RANKS)


def _spatial_rank(input: Value, what: str) -> int:
    if not 3 <= tensor(input).ndim <= 5:
        raise ShapeError(f"{what} needs input [N, C] with one to three spatial dimensions, got {list(input.shape)}")
    return input.ndim - 2


@function
@in_float32
def global_avg_pool(input: Value) -> Value:
    """Mean of each channel of [N, C, *spatial], as [N, C, 1, ...]."""
    return _avg_pool(_spatial_rank(input, "global_avg_pool"), input, input.shape[2:], None, 0, False, True)


@function
@in_float32
def global_avg_pool2d(input: Value) -> Value:
    """Mean over H and W of [N, C, H, W], as [N, C, 1, 1]."""
    return avg_pool2d(input, tensor(input).shape[2:])


@function
def global_max_pool(input: Value) -> Value:
    """Largest element of each channel of [N, C, *spatial], as [N, C, 1, ...]."""
    return _max_pool(_spatial_rank(input, "global_max_pool"), input, input.shape[2:], None, 0, 1, False, False)


@function
@in_float32
def channel_pool(input: Value, kernel_size: int, stride: int | None = None, mode: str = "max") -> Value:
    """Pooling across the channels of [N, C, *rest]: windows of ``kernel_size`` channels, ``stride`` apart.

    ``stride`` None is the window's; ``mode`` is max, sum or avg.
    """
    if tensor(input).ndim < 2:
        raise ShapeError(f"channel_pool needs input [N, C, *rest], got {list(input.shape)}")
    if mode not in ("max", "sum", "avg"):
        raise ArgumentError(f"mode must be 'max', 'sum' or 'avg', got {mode!r}")
    (kernel,) = ntuple(kernel_size, 1, "kernel_size", 1)
    attrs = {**_whole([kernel]), "stride": ntuple(kernel if stride is None else stride, 1, "stride", 1)}
    y = _shaped(_along("max_pool" if mode == "max" else "sum_pool", input, 1, attrs), input, 1)
    return y * (1.0 / kernel) if mode == "avg" else y


@function
def maxout(input: Value, pool_size: int, dim: int = 1) -> Value:
    """Largest of each ``pool_size`` neighbours along ``dim`` (Goodfellow et al., ICML 2013); ties share the gradient."""
    at = dim_index(dim, tensor(input).ndim)
    (size,) = ntuple(pool_size, 1, "pool_size", 1)
    if input.shape[at] % size:
        raise ShapeError(f"maxout needs a dimension divisible by pool_size {size}, got {list(input.shape)} at dim {dim}")
    return amax(reshape(input, (*input.shape[:at], input.shape[at] // size, size, *input.shape[at + 1 :])), at + 1)

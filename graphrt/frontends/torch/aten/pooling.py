"""ATen operators of windows: pooling, adaptive pooling, resizing, and their gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import graphrt.ops as F
from graphrt.frontends.torch.table import aten, pullback
from graphrt.ir import Value

Ints = Sequence[int]
_AVG = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)
_MAX = (F.max_pool1d, F.max_pool2d, F.max_pool3d)
_ADAPTIVE_AVG = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)
_ADAPTIVE_MAX = (F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d)


def _sizes(value: int | Ints, rank: int) -> list[int]:
    """One number for each dimension; torch also passes one for all, as a number or a list."""
    values = [value] if isinstance(value, int) else list(value)
    return values * rank if len(values) == 1 else values


def _window(kernel: Ints, stride: int | Ints, padding: int | Ints, rank: int) -> tuple[list[int], list[int] | None, list[int]]:
    """Kernel, stride (None, as an empty list, is the kernel) and padding."""
    none = isinstance(stride, list | tuple) and not stride
    return _sizes(kernel, rank), None if none else _sizes(stride, rank), _sizes(padding, rank)


def _enter(rank: int) -> None:
    """Enters the poolings of ``rank`` spatial dimensions and their gradients; torch takes those of one through two."""

    def plane(*names: str) -> Callable[[Any], Any]:
        return aten(*(f"{n}.default" for n in names if rank > 1))

    @aten(f"avg_pool{rank}d.default")
    def avg_pool(
        input: Value,
        kernel: Ints,
        stride: int | Ints = (),
        padding: int | Ints = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Value:
        window = _window(kernel, stride, padding, rank)
        return _AVG[rank - 1](input, *window, ceil_mode, count_include_pad, divisor_override)

    @plane(f"avg_pool{rank}d_backward")
    def avg_pool_backward(dy: Value, input: Value, *arguments: Any) -> Value:
        return pullback(lambda x: avg_pool(x, *arguments), [input], dy)[0]

    @aten(f"max_pool{rank}d_with_indices.default")
    def max_pool_with_indices(
        input: Value,
        kernel: Ints,
        stride: int | Ints = (),
        padding: int | Ints = 0,
        dilation: int | Ints = 1,
        ceil_mode: bool = False,
    ) -> tuple[Value, Value]:
        window = _window(kernel, stride, padding, rank)
        return _MAX[rank - 1](input, *window, _sizes(dilation, rank), ceil_mode, True)

    @plane(f"max_pool{rank}d_with_indices_backward")
    def max_pool_backward(dy: Value, input: Value, *arguments: Any) -> Value:
        return pullback(lambda x: max_pool_with_indices(x, *arguments[:5])[0], [input], dy)[0]

    @aten(f"adaptive_max_pool{rank}d.default")
    def adaptive_max_pool(input: Value, output_size: Ints) -> tuple[Value, Value]:
        return _ADAPTIVE_MAX[rank - 1](input, list(output_size), True)

    @plane(f"adaptive_max_pool{rank}d_backward")
    def adaptive_max_pool_backward(dy: Value, input: Value, indices: Value) -> Value:
        return pullback(lambda x: _ADAPTIVE_MAX[rank - 1](x, list(dy.shape[-rank:])), [input], dy)[0]

    @plane(f"_adaptive_avg_pool{rank}d")
    @aten(f"adaptive_avg_pool{rank}d.default")
    def adaptive_avg_pool(input: Value, output_size: Ints) -> Value:
        return _ADAPTIVE_AVG[rank - 1](input, list(output_size))

    @plane(f"_adaptive_avg_pool{rank}d_backward")
    def adaptive_avg_pool_backward(dy: Value, input: Value) -> Value:
        return pullback(lambda x: adaptive_avg_pool(x, dy.shape[-rank:]), [input], dy)[0]


for _rank in (1, 2, 3):
    _enter(_rank)


def _enter_resize(operator: str, mode: str, rank: int, aligns: bool, antialias: bool = False) -> None:
    """Enters an interpolation in its three forms: as called, with sizes, and its gradient."""

    def resize(input: Value, size: Ints | None, align: bool, scales: Sequence[float | None]) -> Value:
        corners = align if aligns else None
        if None in scales or not scales or align:  # a scale is where pixels lie; with aligned corners, the sizes are
            assert size is not None
            return F.interpolate(input, list(size), None, mode, corners, antialias=antialias)
        factors = [float(s) for s in scales if s is not None]
        return F.interpolate(input, None, factors, mode, corners, antialias=antialias)

    @aten(f"{operator}.vec")
    def called(input: Value, output_size: Ints | None, *rest: Any) -> Value:
        align, scales = rest if aligns else (False, *rest)
        if output_size is None and align:
            output_size = [int(n * s) for n, s in zip(input.shape[2:], scales, strict=True)]
        return resize(input, output_size, align, scales if output_size is None else ())

    @aten(f"{operator}.default")
    def sized(input: Value, output_size: Ints, *rest: Any) -> Value:
        align, scales = (rest[0], rest[1:]) if aligns else (False, rest)
        return resize(input, output_size, align, scales)

    @aten(f"{operator}_backward.default")
    def backward(dy: Value, output_size: Ints, input_size: Ints, *rest: Any) -> Value:
        zeros = F.zeros(dy.graph, list(input_size), dy.dtype)  # it is linear: where it is taken does not matter
        return pullback(lambda x: sized(x, output_size, *rest), [zeros], dy)[0]


for _rank, _linear in enumerate(("linear", "bilinear", "trilinear"), 1):
    _enter_resize(f"upsample_nearest{_rank}d", "nearest", _rank, False)
    _enter_resize(f"_upsample_nearest_exact{_rank}d", "nearest-exact", _rank, False)
    _enter_resize(f"upsample_{_linear}{_rank}d", _linear, _rank, True)
_enter_resize("upsample_bicubic2d", "bicubic", 2, True)
for _mode in ("bilinear", "bicubic", "lanczos"):
    _enter_resize(f"_upsample_{_mode}2d_aa", _mode, 2, True, True)

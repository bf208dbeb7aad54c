"""Layers that make a map larger: padding of every kind, and upsampling, with torch's names; SymmetricPad is NumPy's mode."""

from __future__ import annotations

from collections.abc import Sequence

import graphrt.ops as F
from graphrt.errors import ArgumentError, ShapeError
from graphrt.ir import Value
from graphrt.nn.module import Module
from graphrt.ops.base import tensor

Size = int | Sequence[int]


class _Pad(Module):
    """Padding of the last ``rank`` dimensions, as ``ops.pad`` does it."""

    rank, mode, value = 0, "constant", 0.0

    def __init__(self, padding: Size) -> None:
        widths = [padding] * (2 * self.rank) if isinstance(padding, int) else list(padding)
        if len(widths) != 2 * self.rank:
            raise ArgumentError(f"{type(self).__name__} needs an int, or {2 * self.rank} of them, got {padding!r}")
        self.padding = tuple(widths)

    def forward(self, input: Value) -> Value:
        known = (self.rank + 1, self.rank + 2)
        if tensor(input).ndim not in known:
            raise ShapeError(f"{type(self).__name__} needs {known[0]} or {known[1]} dimensions, got {list(input.shape)}")
        return F.pad(input, self.padding, self.mode, self.value)


class _ConstantPad(_Pad):
    def __init__(self, padding: Size, value: float) -> None:
        super().__init__(padding)
        self.value = value


_WIDTHS = "``padding`` is a width for all sides, or (low, high) of the last dimension, then of the one before it, and so on."


class ConstantPad1d(_ConstantPad):
    __doc__ = f"""``value`` around [N, C, L]. {_WIDTHS}"""
    rank = 1


class ConstantPad2d(_ConstantPad):
    __doc__ = f"""``value`` around [N, C, H, W]. {_WIDTHS}"""
    rank = 2


class ConstantPad3d(_ConstantPad):
    __doc__ = f"""``value`` around [N, C, D, H, W]. {_WIDTHS}"""
    rank = 3


class ZeroPad1d(_Pad):
    __doc__ = f"""Zeros around [N, C, L]. {_WIDTHS}"""
    rank = 1


class ZeroPad2d(_Pad):
    __doc__ = f"""Zeros around [N, C, H, W]. {_WIDTHS}"""
    rank = 2


class ZeroPad3d(_Pad):
    __doc__ = f"""Zeros around [N, C, D, H, W]. {_WIDTHS}"""
    rank = 3


class ReflectionPad1d(_Pad):
    __doc__ = f"""[N, C, L] mirrored at its first and last element, which are not repeated. {_WIDTHS}"""
    rank, mode = 1, "reflect"


class ReflectionPad2d(_Pad):
    __doc__ = f"""[N, C, H, W] mirrored at its outermost pixels, which are not repeated. {_WIDTHS}"""
    rank, mode = 2, "reflect"


class ReflectionPad3d(_Pad):
    __doc__ = f"""[N, C, D, H, W] mirrored at its outermost elements, which are not repeated. {_WIDTHS}"""
    rank, mode = 3, "reflect"


class SymmetricPad1d(_Pad):
    __doc__ = f"""[N, C, L] mirrored at its edges, with its first and last element again. {_WIDTHS}"""
    rank, mode = 1, "symmetric"


class SymmetricPad2d(_Pad):
    __doc__ = f"""[N, C, H, W] mirrored at its edges, with its outermost pixels again. {_WIDTHS}"""
    rank, mode = 2, "symmetric"


class SymmetricPad3d(_Pad):
    __doc__ = f"""[N, C, D, H, W] mirrored at its edges, with its outermost elements again. {_WIDTHS}"""
    rank, mode = 3, "symmetric"


class ReplicationPad1d(_Pad):
    __doc__ = f"""The first and last element of [N, C, L] around it. {_WIDTHS}"""
    rank, mode = 1, "replicate"


class ReplicationPad2d(_Pad):
    __doc__ = f"""The outermost pixels of [N, C, H, W] around it. {_WIDTHS}"""
    rank, mode = 2, "replicate"


class ReplicationPad3d(_Pad):
    __doc__ = f"""The outermost elements of [N, C, D, H, W] around it. {_WIDTHS}"""
    rank, mode = 3, "replicate"


class CircularPad1d(_Pad):
    __doc__ = f"""[N, C, L] repeated on both sides. {_WIDTHS}"""
    rank, mode = 1, "circular"


class CircularPad2d(_Pad):
    __doc__ = f"""[N, C, H, W] repeated on all sides. {_WIDTHS}"""
    rank, mode = 2, "circular"


class CircularPad3d(_Pad):
    __doc__ = f"""[N, C, D, H, W] repeated on all sides. {_WIDTHS}"""
    rank, mode = 3, "circular"


class Upsample(Module):
    """[N, C, *spatial] resized to ``size`` or by ``scale_factor``.

    ``mode`` is nearest, nearest-exact, linear, bilinear, trilinear, bicubic or area, and with it ``align_corners`` and
    ``recompute_scale_factor`` are those of ``ops.interpolate``. When called it raises ArgumentError and ShapeError.
    """

    def __init__(
        self,
        size: Size | None = None,
        scale_factor: float | Sequence[float] | None = None,
        mode: str = "nearest",
        align_corners: bool | None = None,
        recompute_scale_factor: bool | None = None,
    ) -> None:
        self.size, self.scale_factor, self.mode = size, scale_factor, mode
        self.align_corners, self.recompute_scale_factor = align_corners, recompute_scale_factor

    def forward(self, input: Value) -> Value:
        return F.interpolate(input, self.size, self.scale_factor, self.mode, self.align_corners, self.recompute_scale_factor)

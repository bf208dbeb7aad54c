"""Augmentations that move pixels: flips, crops and affine maps."""

from __future__ import annotations

import math
from typing import Any

import graphrt.ops as F
from graphrt.errors import ArgumentError, ShapeError
from graphrt.ir import Value
from graphrt.nn.augment.base import (
    Augmentation,
    Range,
    around,
    between,
    chance,
    each,
    pair,
    probability,
    ratio_of,
    share_of,
    sides_of,
    size_of,
)
from graphrt.ops.grid import sampled


class _Moving(Augmentation):
    """Base of those that move pixels, and with ``masks`` those of a target [N, H, W] or [N, C, H, W] alike.

    Pixels of masks are never mixed with one another, and what comes in from outside is 0.
    """

    def __init__(self, masks: bool) -> None:
        self.masks = masks

    def move(self, input: Value, mask: bool, **drawn: Value) -> Value:
        """``input`` [N, C, H, W] with its pixels in other places; ``mask`` says that it is one."""
        raise ArgumentError(f"{type(self).__name__} must define move(self, input, mask, ...)")

    def change(self, input: Value, **drawn: Value) -> Value:
        return self.move(input, False, **drawn)

    def retarget(self, input: Value, target: Any, **drawn: Value) -> Any:
        if not self.masks:
            return target
        if not isinstance(target, Value) or target.ndim not in (3, 4) or target.shape[-2:] != input.shape[-2:]:
            given = list(target.shape) if isinstance(target, Value) else type(target).__name__
            raise ShapeError(f"masks of pictures {list(input.shape)} are [N, H, W] or [N, C, H, W], got {given}")
        wide = F.cast(target if target.ndim == 4 else F.unsqueeze(target, 1), "float32")  # exact up to 2**24
        moved = self.move(wide, True, **drawn)
        return F.cast(moved if target.ndim == 4 else F.squeeze(moved, 1), target.dtype)


class RandomHorizontalFlip(_Moving):
    """The picture and its mirror image, with probability ``p`` the latter; ``masks`` moves targets [N, H, W] alike."""

    dim = 3

    def __init__(self, p: float = 0.5, masks: bool = False) -> None:
        super().__init__(masks)
        self.p = probability(p)

    def draw(self, input: Value) -> dict[str, Value]:
        return {"flip": chance(input, self.p)}

    def move(self, input: Value, mask: bool, **drawn: Value) -> Value:
        return F.where(each(drawn["flip"]), F.flip(input, self.dim), input)


class RandomVerticalFlip(RandomHorizontalFlip):
    """The picture upside down with probability ``p``; ``masks`` moves targets [N, H, W] alike."""

    dim = 2


class RandomCrop(_Moving):
    """A part of ``size`` (H, W) or a square, of the picture with ``padding`` at its four sides, or (left, top, right, bottom).

    ``padding_mode`` is constant (``fill``), edge, reflect or symmetric. ``masks`` moves targets [N, H, W] alike. Raises
    ArgumentError, and ShapeError where the padded picture is smaller.
    """

    def __init__(
        self,
        size: int | tuple[int, int],
        padding: int | tuple[int, int, int, int] = 0,
        fill: float = 0.0,
        padding_mode: str = "constant",
        masks: bool = False,
    ) -> None:
        super().__init__(masks)
        modes = {"constant": "constant", "edge": "replicate", "reflect": "reflect", "symmetric": "symmetric"}
        if padding_mode not in modes:
            raise ArgumentError(f"padding_mode must be one of {', '.join(modes)}, got {padding_mode!r}")
        self.size = size_of(size)
        self.padding = (padding,) * 4 if isinstance(padding, int) else tuple(padding)
        if len(self.padding) != 4 or min(self.padding) < 0:
            raise ArgumentError(f"padding is a width, or (left, top, right, bottom), got {padding!r}")
        self.fill, self.padding_mode = fill, modes[padding_mode]

    def draw(self, input: Value) -> dict[str, Value]:
        left, top, right, bottom = self.padding
        padded = (input.shape[2] + top + bottom, input.shape[3] + left + right)
        if self.size[0] > padded[0] or self.size[1] > padded[1]:
            raise ShapeError(f"a crop of {self.size} does not fit {list(input.shape)} with padding {self.padding}")
        return {
            name: F.randint(input.graph, 0, n - size + 1, input.shape[:1])
            for name, n, size in zip(("top", "left"), padded, self.size, strict=True)
        }

    def move(self, input: Value, mask: bool, **drawn: Value) -> Value:
        left, top, right, bottom = self.padding
        x = F.pad(input, (left, right, top, bottom), self.padding_mode, 0.0 if mask else self.fill)
        for dim, first in ((2, drawn["top"]), (3, drawn["left"])):
            shape = [n if d != dim else self.size[dim - 2] for d, n in enumerate(x.shape)]
            along = F.reshape(F.arange(x.graph, shape[dim]), [n if d == dim else 1 for d, n in enumerate(shape)])
            x = F.gather(x, dim, F.broadcast_to(each(first) + along, shape))
        return x


class RandomAffine(_Moving):
    """The picture turned by up to ``degrees``, moved, scaled and sheared about its centre.

    ``degrees`` is a bound on both sides, or (low, high), counter-clockwise; ``translate`` (x, y) bounds the way as shares of
    width and height; ``scale`` is (low, high); ``shear`` is a bound of the angle by which rows slant, or (low, high). Pixels
    come from four neighbours, or from the nearest one by ``interpolation`` "nearest"; from outside comes ``fill``. ``masks``
    moves targets [N, H, W] alike. Raises ArgumentError.
    """

    def __init__(
        self,
        degrees: Range = 0.0,
        translate: tuple[float, float] = (0.0, 0.0),
        scale: tuple[float, float] = (1.0, 1.0),
        shear: Range = 0.0,
        interpolation: str = "bilinear",
        fill: float = 0.0,
        masks: bool = False,
    ) -> None:
        super().__init__(masks)
        self.degrees, self.shear = around(degrees, "degrees"), around(shear, "shear")
        self.translate, self.scale = pair(translate, "translate"), pair(scale, "scale")
        if not (0 < self.scale[0] <= self.scale[1]) or min(self.translate) < 0:
            raise ArgumentError(f"scale is 0 < low <= high and translate at least 0, got {scale} and {translate}")
        if interpolation not in ("bilinear", "nearest"):
            raise ArgumentError(f'interpolation must be "bilinear" or "nearest", got {interpolation!r}')
        self.interpolation, self.fill = interpolation, fill

    def draw(self, input: Value) -> dict[str, Value]:
        across, down = (n * share for n, share in zip(input.shape[:1:-1], self.translate, strict=True))
        return {
            "angle": between(input, *self.degrees),
            "x": between(input, -across, across),
            "y": between(input, -down, down),
            "scale": between(input, *self.scale),
            "shear": between(input, *self.shear),
        }

    def move(self, input: Value, mask: bool, **drawn: Value) -> Value:
        angle, slant = (drawn[name] * (math.pi / 180.0) for name in ("angle", "shear"))
        cos, sin, tan = F.cos(angle), F.sin(angle), F.sin(slant) / F.cos(slant)
        height, width = input.shape[2:]
        column, row = _grid(input, height, width)
        across, down = (each(v, 3) for v in (column - each(drawn["x"], 3), row - each(drawn["y"], 3)))
        # The way back: moved back, turned back, and shrunk by the scale; then rows slant back.
        c, s = (each(v / drawn["scale"], 3) for v in (cos, sin))
        y = across * s + down * c
        x = across * c - down * s - y * each(tan, 3)
        return _read(
            input,
            y + (height - 1) / 2,
            x + (width - 1) / 2,
            mask or self.interpolation == "nearest",
            0.0 if mask else self.fill,
        )


class RandomRotation(RandomAffine):
    """The picture turned about its centre by up to ``degrees``, a bound on both sides or (low, high), counter-clockwise.

    ``interpolation``, ``fill`` and ``masks`` as of ``RandomAffine``.
    """

    def __init__(self, degrees: Range, interpolation: str = "bilinear", fill: float = 0.0, masks: bool = False) -> None:
        super().__init__(degrees, interpolation=interpolation, fill=fill, masks=masks)


class RandomResizedCrop(_Moving):
    """A part of the picture, resized to ``size`` (H, W) or a square: Szegedy et al., "Going deeper with convolutions", 2015.

    Its area is the share ``scale`` (low, high) of the picture's, its width by its height the ``ratio`` (low, high), evenly by
    the logarithm; a side that would not fit is cut. Between pixels it is linear, with nothing smoothed where it shrinks.
    ``masks`` moves targets [N, H, W] alike. Raises ArgumentError.
    """

    def __init__(
        self,
        size: int | tuple[int, int],
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        masks: bool = False,
    ) -> None:
        super().__init__(masks)
        self.size, self.scale, self.ratio = size_of(size), share_of(scale), ratio_of(ratio)

    def draw(self, input: Value) -> dict[str, Value]:
        sides = sides_of(input, self.scale, self.ratio)
        places = {}
        for n, side, first in ((input.shape[2], "height", "top"), (input.shape[3], "width", "left")):
            places[first] = F.uniform(input.graph, input.shape[:1]) * (float(n) - sides[side])
        return {**sides, **places}

    def move(self, input: Value, mask: bool, **drawn: Value) -> Value:
        at = []
        for dim, side, first in ((0, "height", "top"), (1, "width", "left")):
            step = F.arange(input.graph, self.size[dim], dtype="float32") + 0.5
            along = F.unsqueeze(drawn[side] / self.size[dim], 1) * step + F.unsqueeze(drawn[first] - 0.5, 1)
            held = F.clamp(along, 0.0, input.shape[2 + dim] - 1.0)  # at its edge a part has its own pixels
            shape = (input.shape[0], self.size[0], 1) if dim == 0 else (input.shape[0], 1, self.size[1])
            at.append(F.broadcast_to(F.reshape(held, shape), (input.shape[0], *self.size)))
        return _read(input, at[0], at[1], mask, 0.0)


def _grid(input: Value, height: int, width: int) -> tuple[Value, Value]:
    """Columns [1, 1, W] and rows [1, H, 1] of pixels, from the centre."""
    across = F.arange(input.graph, width, dtype="float32") - (width - 1) / 2
    down = F.arange(input.graph, height, dtype="float32") - (height - 1) / 2
    return F.reshape(across, (1, 1, width)), F.reshape(down, (1, height, 1))


def _read(input: Value, rows: Value, columns: Value, nearest: bool, fill: float) -> Value:
    """``input`` at the positions ``rows`` and ``columns`` [N, H, W], and ``fill`` outside."""
    mode = "nearest" if nearest else "bilinear"
    if not fill:
        return sampled(input, (rows, columns), mode)
    return sampled(input - fill, (rows, columns), mode) + fill

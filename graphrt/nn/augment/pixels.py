"""Augmentations that change what pixels are: colours, noise, and parts left out."""

from __future__ import annotations

import math

import graphrt.ops as F
from graphrt.errors import ArgumentError
from graphrt.ir import Value
from graphrt.nn.augment.base import (
    Augmentation,
    Range,
    around,
    between,
    box,
    chance,
    each,
    ordered,
    probability,
    ratio_of,
    share_of,
    sides_of,
    size_of,
)


class ColorJitter(Augmentation):
    """``brightness``, ``contrast`` and ``saturation`` multiplied by factors, in this order.

    Each is a number b, for factors from 1 - b (0 at least) to 1 + b, or (low, high). Contrast is about the picture's mean grey,
    saturation about each pixel's grey; the latter does nothing but to three channels. Results are clamped to ``clip`` (low,
    high) if given, such as (0, 1), which normalised pictures would not bear. Raises ArgumentError.
    """

    def __init__(
        self,
        brightness: Range = 0.0,
        contrast: Range = 0.0,
        saturation: Range = 0.0,
        clip: tuple[float, float] | None = None,
    ) -> None:
        self.brightness, self.contrast = _factors(brightness, "brightness"), _factors(contrast, "contrast")
        self.saturation, self.clip = _factors(saturation, "saturation"), _clip(clip)

    def draw(self, input: Value) -> dict[str, Value]:
        names = ("brightness", "contrast", "saturation")
        wanted = {name: getattr(self, name) for name in names if getattr(self, name) != (1.0, 1.0)}
        return {name: between(input, *bounds) for name, bounds in wanted.items()}

    def change(self, input: Value, **drawn: Value) -> Value:
        x = input
        if "brightness" in drawn:
            x = x * each(drawn["brightness"])
        if "contrast" in drawn:
            mean = F.mean(_grey(x), (1, 2, 3), keepdim=True)
            x = mean + (x - mean) * each(drawn["contrast"])
        if "saturation" in drawn and input.shape[1] == 3:
            grey = _grey(x)
            x = grey + (x - grey) * each(drawn["saturation"])
        return x if self.clip is None else F.clamp(x, *self.clip)


class GaussianNoise(Augmentation):
    """Normal noise of ``mean`` and deviation ``sigma`` added to each element, then clamped to ``clip`` (low, high) if given."""

    def __init__(self, mean: float = 0.0, sigma: float = 0.1, clip: tuple[float, float] | None = None) -> None:
        if not (0 <= sigma < math.inf and math.isfinite(mean)):
            raise ArgumentError(f"mean and sigma must be finite, sigma at least 0, got {mean} and {sigma}")
        self.mean, self.sigma, self.clip = mean, sigma, _clip(clip)

    def draw(self, input: Value) -> dict[str, Value]:
        return {"noise": F.normal(input.graph, input.shape, self.mean, self.sigma)}

    def change(self, input: Value, **drawn: Value) -> Value:
        x = input + F.cast(drawn["noise"], input.dtype)
        return x if self.clip is None else F.clamp(x, *self.clip)


class Cutout(Augmentation):
    """A square of ``size`` pixels about any pixel of the picture becomes ``value``, as far as it lies within.

    DeVries and Taylor, "Improved regularization of convolutional neural networks with cutout", 2017. ``p`` is the probability
    that a picture is changed. Raises ArgumentError.
    """

    def __init__(self, size: int, p: float = 1.0, value: float = 0.0) -> None:
        self.size, self.p, self.value = size_of(size)[0], probability(p), value

    def draw(self, input: Value) -> dict[str, Value]:
        places = {}
        for n, low, high in zip(input.shape[2:], ("top", "left"), ("bottom", "right"), strict=True):
            places[low] = F.randint(input.graph, 0, n, input.shape[:1]) - self.size // 2
            places[high] = places[low] + self.size
        return {"change": chance(input, self.p), **places}

    def change(self, input: Value, **drawn: Value) -> Value:
        sides = [drawn[name] for name in ("top", "bottom", "left", "right")]
        return F.where(each(drawn["change"]) & box(input, *sides), self.value, input)


class RandomErasing(Cutout):
    """A rectangle within the picture becomes ``value``, with probability ``p``.

    Zhong et al., "Random erasing data augmentation", AAAI 2020. Its area is the share ``scale`` (low, high) of the picture's,
    its width by its height the ``ratio`` (low, high), evenly by the logarithm; a side that would not fit is cut. Raises
    ArgumentError.
    """

    def __init__(
        self,
        p: float = 0.5,
        scale: tuple[float, float] = (0.02, 0.33),
        ratio: tuple[float, float] = (0.3, 3.3),
        value: float = 0.0,
    ) -> None:
        self.p, self.scale, self.ratio, self.value = probability(p), share_of(scale), ratio_of(ratio), value

    def draw(self, input: Value) -> dict[str, Value]:
        places = {"change": chance(input, self.p)}
        sides = sides_of(input, self.scale, self.ratio)
        for n, side, low, high in ((input.shape[2], "height", "top", "bottom"), (input.shape[3], "width", "left", "right")):
            length = F.round(sides[side])
            room = float(n + 1) - length  # places that its first pixel may have
            places[low] = F.floor(F.uniform(input.graph, input.shape[:1]) * room)
            places[high] = places[low] + length
        return places


def _grey(input: Value) -> Value:
    """[N, 1, H, W]: the brightness of red, green and blue (ITU-R BT.601), or the mean of other channels."""
    if input.shape[1] != 3:
        return F.mean(input, 1, keepdim=True)
    return input[:, 0:1] * 0.2989 + input[:, 1:2] * 0.587 + input[:, 2:3] * 0.114


def _factors(given: Range, name: str) -> tuple[float, float]:
    """Factors about 1, or (low, high)."""
    low, high = around(given, name)
    if not isinstance(given, int | float) and low < 0:
        raise ArgumentError(f"{name} is factors of at least 0, got {given!r}")
    return (max(0.0, 1.0 + low), 1.0 + high) if isinstance(given, int | float) else (low, high)


def _clip(clip: tuple[float, float] | None) -> tuple[float, float] | None:
    return None if clip is None else ordered(clip, "clip")

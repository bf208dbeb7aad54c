"""The common part of augmentations: the base, their sequence, what they draw, and checks of their arguments."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import graphrt.ops as F
from graphrt.errors import ArgumentError, ShapeError
from graphrt.ir import Value
from graphrt.nn.module import Module

Range = float | tuple[float, float]


class Augmentation(Module):
    """Base of augmentations: ``draw`` says what is random, ``change`` what is done with it.

    Called with a batch it gives the batch, called with (input, target) both. In eval mode nothing is changed.
    """

    def draw(self, input: Value) -> dict[str, Value]:
        """The numbers drawn for a batch like ``input``, by the names that ``change`` takes it by."""
        return {}

    def change(self, input: Value, **drawn: Value) -> Value:
        """``input`` changed as ``drawn`` says."""
        raise ArgumentError(f"{type(self).__name__} must define change(self, input, ...)")

    def retarget(self, input: Value, target: Any, **drawn: Value) -> Any:
        """``target`` for the changed ``input``, which is given as it was before."""
        return target

    def forward(self, input: Value, target: Any = None) -> Any:
        if self.training:
            if not isinstance(input, Value) or input.ndim != 4:
                given = list(input.shape) if isinstance(input, Value) else type(input).__name__
                raise ShapeError(f"{type(self).__name__} needs pictures [N, C, H, W], got {given}")
            drawn = self.draw(input)
            target = None if target is None else self.retarget(input, target, **drawn)
            input = self.change(input, **drawn)
        return input if target is None else (input, target)


class Compose(Module):
    """Augmentations one after the other: ``parts`` are Modules, or functions of (input, target) that return both.

    Called with a batch, or with (input, target), as an ``Augmentation``; a function is left out of the former. Raises
    ArgumentError for a part that cannot be called.
    """

    def __init__(self, parts: Sequence[Any]) -> None:
        for part in parts:
            if not callable(part) or isinstance(part, type):
                raise ArgumentError(f"an augmentation is a Module or a function of (input, target), got {part!r}")
        self.parts = list(parts)

    def forward(self, input: Any, target: Any = None) -> Any:
        for part in self.parts if self.training else ():
            if target is not None:
                if not _takes_both(part):
                    raise ArgumentError(f"an augmentation takes (input, target), {part!r} does not")
                found = part(input, target)
                if not isinstance(found, tuple) or len(found) != 2:
                    raise ArgumentError(f"an augmentation returns (input, target), {part!r} gave {type(found).__name__}")
                input, target = found
            elif isinstance(part, Module):
                input = part(input)
        return input if target is None else (input, target)


def _takes_both(part: Callable[..., Any]) -> bool:
    try:
        inspect.signature(part).bind(None, None)
    except TypeError:
        return False
    except ValueError:  # of what is not Python, nothing is known
        pass
    return True


# --- what is drawn, and how it is used ------------------------------------------------------------------------------


def between(input: Value, low: float, high: float) -> Value:
    """Numbers [N] in [low, high), or all ``low``."""
    if low == high:
        return F.full(input.graph, input.shape[:1], float(low))
    return F.uniform(input.graph, input.shape[:1]) * (high - low) + low


def chance(input: Value, p: float) -> Value:
    """bool [N], true with probability ``p``."""
    return F.lt(F.uniform(input.graph, input.shape[:1]), p)


def sides_of(input: Value, scale: tuple[float, float], ratio: tuple[float, float]) -> dict[str, Value]:
    """Height and width [N] of rectangles, in pixels."""
    height, width = input.shape[2:]
    area = between(input, *scale) * float(height * width)
    shape = F.exp(between(input, math.log(ratio[0]), math.log(ratio[1])))
    sides = {"height": F.sqrt(area / shape), "width": F.sqrt(area * shape)}
    return {name: F.minimum(side, float(n)) for (name, side), n in zip(sides.items(), (height, width), strict=True)}


def each(value: Value, ndim: int = 4) -> Value:
    """[N] as [N, 1, ...] of ``ndim`` dimensions; what has so many already as it is."""
    return value if value.ndim == ndim else F.reshape(value, (value.shape[0], *[1] * (ndim - 1)))


def box(input: Value, top: Value, bottom: Value, left: Value, right: Value) -> Value:
    """bool [N, 1, H, W]: the pixels from ``top`` to before ``bottom`` and from ``left`` to before ``right``, [N] each."""
    height, width = input.shape[2:]
    row = F.reshape(F.arange(input.graph, height, dtype=top.dtype), (1, 1, height, 1))
    column = F.reshape(F.arange(input.graph, width, dtype=left.dtype), (1, 1, 1, width))
    inside = F.ge(row, each(top)) & F.lt(row, each(bottom))
    return inside & F.ge(column, each(left)) & F.lt(column, each(right))


# --- what arguments say ---------------------------------------------------------------------------------------------


def probability(p: float) -> float:
    """``p``. Raises ArgumentError unless it is a probability."""
    if not 0.0 <= p <= 1.0:
        raise ArgumentError(f"p is a probability, got {p}")
    return p


def size_of(size: int | tuple[int, int]) -> tuple[int, int]:
    """``size`` as (height, width). Raises ArgumentError."""
    found = tuple(size) if isinstance(size, tuple | list) else (size, size)
    if len(found) != 2 or not all(isinstance(n, int) and n > 0 for n in found):
        raise ArgumentError(f"size is a number of pixels, or (height, width), got {size!r}")
    return found[0], found[1]


def pair(given: Sequence[float], name: str) -> tuple[float, float]:
    """Two numbers. Raises ArgumentError, which calls them ``name``."""
    if isinstance(given, int | float) or len(given) != 2:
        raise ArgumentError(f"{name} is two numbers, got {given!r}")
    return float(given[0]), float(given[1])


def ordered(given: Range, name: str) -> tuple[float, float]:
    """(low, high). Raises ArgumentError, which calls them ``name``."""
    low, high = pair(given, name)  # type: ignore[arg-type]
    if not low <= high:
        raise ArgumentError(f"{name} is (low, high), got {given!r}")
    return low, high


def around(given: Range, name: str) -> tuple[float, float]:
    """A bound on both sides of 0, or (low, high)."""
    if isinstance(given, int | float):
        if not given >= 0:
            raise ArgumentError(f"{name} is at least 0, or (low, high), got {given!r}")
        return -float(given), float(given)
    return ordered(given, name)


def share_of(scale: tuple[float, float]) -> tuple[float, float]:
    """The least and the largest share of a picture's area. Raises ArgumentError."""
    low, high = ordered(scale, "scale")
    if not 0 <= low <= high <= 1:
        raise ArgumentError(f"scale is shares of the picture's area, 0 <= low <= high <= 1, got {scale}")
    return low, high


def ratio_of(ratio: tuple[float, float]) -> tuple[float, float]:
    """The least and the largest ratio of width to height. Raises ArgumentError."""
    low, high = ordered(ratio, "ratio")
    if not low > 0:
        raise ArgumentError(f"ratio is 0 < low <= high, got {ratio}")
    return low, high

"""Data by name or folder, for a network: what the network gets of an example, which a checkpoint keeps for predictions.

Pictures lie in [0, 1]. An ``Intake`` gives them the network's channels, normalises them by the training examples', and brings
them to its size: padded where little is missing, as digits of 28 pixels are for LeNet-5, else resized.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from graphrt.data import (
    SHAPES,
    Dataset,
    ImageFolder,
    Normalize,
    Source,
    Subset,
    checkerboard,
    circles,
    load_breast_cancer,
    load_digits,
    load_iris,
    load_mnist,
    load_wine,
    rings,
    shapes,
    spirals,
    split,
    xor,
)
from graphrt.errors import ArgumentError, unknown

PADDED = 1 / 4  # the share of a side that is padded at most


@dataclass(frozen=True)
class Entry:
    """Data that comes with graphrt: how its examples are made, and the names of its classes; () for numbers to predict."""

    load: Callable[..., Any]
    classes: tuple[str, ...]
    count: int = 0  # how many are drawn, 0 where they are given
    size: int = 0  # of a drawn picture


_DIGITS = tuple("0123456789")
DATA: dict[str, Entry] = {
    "mnist": Entry(load_mnist, _DIGITS),
    "digits": Entry(load_digits, _DIGITS),
    "iris": Entry(load_iris, ("setosa", "versicolor", "virginica")),
    "wine": Entry(load_wine, ("0", "1", "2")),
    "breast_cancer": Entry(load_breast_cancer, ("malignant", "benign")),
    "spirals": Entry(spirals, ("0", "1"), 1000),
    "rings": Entry(rings, ("inner", "outer"), 1000),
    "checkerboard": Entry(checkerboard, ("0", "1"), 2000),
    "xor": Entry(xor, ("0", "1"), 1000),
    "shapes": Entry(shapes, SHAPES, 2000, 32),
    "circles": Entry(circles, (), 2000, 32),
}


@dataclass(frozen=True)
class Examples:
    """Training and test examples as they are, the names of their classes, and the shape of one."""

    train: Source
    test: Source
    classes: tuple[str, ...]
    shape: tuple[int, ...]
    outputs: int


def load(name: str, shape: Sequence[int]) -> Examples:
    """The data called ``name``, or of the folder of that name, its pictures of ``shape``'s channels and size if it is a folder.

    A folder has pictures in a folder for each class, or such folders in ``train`` and ``test`` or ``val``; else a fifth is held
    back. Raises ArgumentError, InputError, ImportError.
    """
    entry = DATA.get(name)
    if entry is not None:
        train, test = _built_in(entry)
        outputs = len(entry.classes) or int(np.prod(train.y.shape[1:]))
        return Examples(train, test, entry.classes, train.x.shape[1:], outputs)
    folder = Path(name)
    if not name or not folder.is_dir():
        raise ArgumentError(f"{unknown('data', name, DATA)}; or a folder of pictures, with a folder for each class")
    if len(shape) != 3:
        raise ArgumentError(f"{name} has pictures, and the network takes {list(shape)}")
    held = next((folder / part for part in ("test", "val") if (folder / part).is_dir()), None)
    parts = [folder / "train", held] if held is not None and (folder / "train").is_dir() else [folder]
    read = [ImageFolder(part, (shape[1], shape[2]), "L" if shape[0] == 1 else "RGB", workers=2) for part in parts]
    if read[0].classes != read[-1].classes:
        raise ArgumentError(f"{parts[0]} has the classes {read[0].classes}, {parts[1]} has {read[1].classes}")
    halves: list[Source] = split(read[0], (0.8, 0.2), stratify=read[0].labels) if len(read) == 1 else [*read]
    return Examples(halves[0], halves[1], tuple(read[0].classes), tuple(shape), len(read[0].classes))


def _built_in(entry: Entry) -> tuple[Dataset, Dataset]:
    if not entry.count:
        train, test = entry.load(normalize=False, pad=0) if entry.load is load_mnist else entry.load(normalize=False)
        return train, test
    sized = {"size": entry.size} if entry.size else {}
    drawn = [entry.load(count, seed=seed, **sized) for seed, count in enumerate((entry.count, entry.count // 4))]
    if entry.load is shapes:
        drawn = [replace(part, y=part.y["class"]) for part in drawn]
    return drawn[0], drawn[1]


@dataclass(frozen=True)
class Intake:
    """Prepares examples for a network that takes ``shape``; ``mean`` and ``std`` go out, by channel."""

    shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @staticmethod
    def fit(train: Source, shape: Sequence[int]) -> Intake:
        """The intake of a network of input ``shape`` that is trained on the examples ``train``."""
        normal = Normalize.fit(train)
        return Intake(tuple(shape), tuple(map(float, normal.mean)), tuple(map(float, normal.std)))

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """``x`` [N, ...] as the network takes it, float32. Raises ArgumentError for what does not fit."""
        x = np.asarray(x, np.float32)
        picture = len(self.shape) == 3
        if x.ndim != len(self.shape) + 1 or not (picture or x.shape[1] == len(self.mean)):
            raise ArgumentError(f"examples of shape {list(x.shape[1:])} do not fit a network that was trained on {self}")
        x = _channels(x, len(self.mean)) if picture else x
        x = Normalize(np.array(self.mean, np.float32), np.array(self.std, np.float32))(x)
        if not picture:
            return x
        x = _channels(x, self.shape[0])
        missing = [(n - m) for n, m in zip(self.shape[1:], x.shape[2:], strict=True)]
        if all(0 <= m <= PADDED * n for m, n in zip(missing, self.shape[1:], strict=True)):
            return np.pad(x, ((0, 0), (0, 0), *((m // 2, m - m // 2) for m in missing)))
        return resized(x, self.shape[1:])

    def of(self, source: Source) -> Source:
        """``source`` with its examples taken in: at once where they are in memory, else as they are read."""
        if isinstance(source, Dataset):
            return replace(source, x=self(source.x))
        return _TakenIn(source, self)

    def to_json(self) -> dict[str, Any]:
        """Itself as JSON; ``from_json`` reads it."""
        return asdict(self)

    @staticmethod
    def from_json(found: dict[str, Any]) -> Intake:
        """Reads what ``to_json`` wrote."""
        return Intake(*(tuple(found[name]) for name in ("shape", "mean", "std")))

    def __str__(self) -> str:
        return f"pictures of {len(self.mean)} channels" if len(self.shape) == 3 else f"{len(self.mean)} numbers"


@dataclass(frozen=True)
class _TakenIn:
    source: Source
    intake: Intake

    def __len__(self) -> int:
        return len(self.source)

    def rows(self, rows: np.ndarray) -> tuple[Any, ...]:
        """The examples of these numbers."""
        x, *rest = self.source.rows(rows)
        return (self.intake(x), *rest)


def first(source: Source, count: int) -> Source:
    """The first ``count`` examples of ``source``, all for 0."""
    if not count or count >= len(source):
        return source
    return source.take(count) if isinstance(source, Dataset) else Subset(source, np.arange(count))


def _channels(x: np.ndarray, count: int) -> np.ndarray:
    """Pictures ``x`` [N, C, H, W] with ``count`` channels: grey ones repeated, coloured ones made grey by their mean.

    Raises ArgumentError for pictures that are neither.
    """
    if x.shape[1] not in (1, 3, count):
        raise ArgumentError(f"pictures have 1 channel or 3, got {x.shape[1]} in an example of shape {list(x.shape[1:])}")
    return x if x.shape[1] == count else np.repeat(x.mean(1, keepdims=True), count, 1)


def resized(x: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Pictures ``x`` [N, C, H, W] at ``size``, bilinear, with the centres of corner pixels where half a pixel is."""
    for dim, length in zip((2, 3), size, strict=True):
        have = x.shape[dim]
        at = np.clip((np.arange(length) + 0.5) * have / length - 0.5, 0, have - 1)
        low = np.floor(at).astype(int)
        share = (at - low).astype(np.float32).reshape(-1, *[1] * (3 - dim))
        x = np.take(x, low, dim) * (1 - share) + np.take(x, np.minimum(low + 1, have - 1), dim) * share
    return np.ascontiguousarray(x, np.float32)

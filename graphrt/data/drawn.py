"""Sets drawn from a seed, with exact labels: points in the plane, circles, shapes, scenes of them, edges and their pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphrt.data.dataset import Dataset
from graphrt.errors import ArgumentError

SHAPES = ("circle", "square", "triangle")
_COLOURS = np.array([[1.0, 0.2, 0.2], [0.2, 0.9, 0.3], [0.3, 0.4, 1.0], [1.0, 0.9, 0.2], [0.9, 0.3, 0.9]], np.float32)


def _points(x: np.ndarray, y: np.ndarray, noise: float, rng: np.random.Generator) -> Dataset:
    """Points [N, 2] with noise of that deviation, in an order that ``rng`` draws."""
    order = rng.permutation(len(x))
    moved = x + noise * rng.standard_normal(x.shape)
    return Dataset(moved[order].astype(np.float32), y[order].astype(np.int64))


def spirals(count: int, classes: int = 2, turns: float = 1.0, noise: float = 0.02, seed: int = 0) -> Dataset:
    """``count`` points on arms that wind about the origin, one for each of ``classes``, in [-1, 1]: x [N, 2], y int64 [N].

    An arm makes so many ``turns``; ``noise`` is the deviation of the points from it, and ``seed`` draws them.
    """
    rng = np.random.default_rng(seed)
    y = np.arange(count) % classes
    along = np.sqrt(rng.random(count))
    angle = 2 * np.pi * (turns * along + y / classes)
    return _points(along[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1), y, noise, rng)


def rings(count: int, radii: Sequence[float] = (0.3, 0.9), noise: float = 0.05, seed: int = 0) -> Dataset:
    """``count`` points on rings of these ``radii`` about the origin, one a class: x [N, 2], y int64 [N].

    ``noise`` is the deviation of the points, and ``seed`` draws them.
    """
    rng = np.random.default_rng(seed)
    y = np.arange(count) % len(radii)
    angle = 2 * np.pi * rng.random(count)
    return _points(np.asarray(radii)[y, None] * np.stack([np.cos(angle), np.sin(angle)], 1), y, noise, rng)


def checkerboard(count: int, cells: int = 4, noise: float = 0.0, seed: int = 0) -> Dataset:
    """``count`` points in [-1, 1], of the class of the field of a board of ``cells`` by ``cells``: x [N, 2], y int64 [N].

    ``noise`` moves points after they got their class; ``seed`` draws them.
    """
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (count, 2))
    field = np.floor((x + 1) / 2 * cells).astype(int)
    return _points(x, field.sum(1) % 2, noise, rng)


def xor(count: int, noise: float = 0.0, seed: int = 0) -> Dataset:
    """``count`` points in [-1, 1], of class 1 where their signs differ; ``noise`` and ``seed`` as of ``checkerboard``."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (count, 2))
    return _points(x, x[:, 0] * x[:, 1] < 0, noise, rng)


def circles(count: int, size: int = 32, noise: float = 0.05, seed: int = 0) -> Dataset:
    """``count`` bright discs on a dark ground: x float32 [N, 1, size, size], y float32 [N, 3].

    y is the centre's column and row and the radius, in pixels, with the centre of the first pixel at 0; the disc lies within
    the picture, and a pixel on its edge is as bright as the share that is covered. ``noise`` is the deviation of the pixels,
    and ``seed`` draws all. Raises ArgumentError for a ``size`` under 8.
    """
    if size < 8:
        raise ArgumentError(f"size must be at least 8, got {size}")
    rng = np.random.default_rng(seed)
    radius = rng.uniform(size / 10, size / 3, count)
    column, row = rng.uniform(radius, size - 1 - radius, (2, count))
    across = np.arange(size)
    away = np.hypot(across - column[:, None, None], across[:, None] - row[:, None, None])
    pixels = np.clip(radius[:, None, None] - away + 0.5, 0.0, 1.0)[:, None]
    x = pixels + noise * rng.standard_normal(pixels.shape)
    return Dataset(x.astype(np.float32), np.stack([column, row, radius], 1).astype(np.float32))


def _inside(kind: int, size: int, column: float, row: float, radius: float) -> np.ndarray:
    """The pixels [size, size] of a shape about (column, row)."""
    across, down = np.arange(size)[None, :] - column, np.arange(size)[:, None] - row
    if kind == 0:
        return np.hypot(across, down) <= radius
    if kind == 1:
        return (np.abs(across) <= radius) & (np.abs(down) <= radius)
    return (down <= radius) & (np.abs(across) <= (down + radius) / 2)


def _around(mask: np.ndarray) -> tuple[int, int, int, int]:
    """The box (x1, y1, x2, y2) of the pixels of ``mask``, which ends behind the last of them."""
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def shapes(
    count: int, size: int = 64, objects: int | None = None, noise: float = 0.03, seed: int = 0, by_class: bool = False
) -> Dataset:
    """``count`` pictures of coloured circles, squares and triangles (classes 0, 1, 2): x float32 [N, 3, size, size] in [0, 1].

    y is a dict of ``class`` int64 [N], ``box`` float32 [N, 4], the columns and rows (x1, y1, x2, y2) at which the shape begins
    and behind which it ends, and ``mask`` bool [N, size, size]. With ``objects`` k each picture has k shapes that do not
    overlap, and y [N, k], [N, k, 4] and [N, k, size, size]. ``noise`` is the deviation of the pixels, and ``seed`` draws all;
    with ``by_class`` a shape's colour is that of its class, on a ground that is always the same. Raises ArgumentError where the
    shapes would have under 8 pixels.
    """
    many = objects or 1
    cells = int(np.ceil(np.sqrt(many)))
    cell = size // cells
    if many < 1 or cell < 8:
        raise ArgumentError(f"{objects} shapes in {size}x{size} pixels have under 8 pixels each")
    rng = np.random.default_rng(seed)
    x = np.empty((count, 3, size, size), np.float32)
    kinds = rng.integers(0, len(SHAPES), (count, many))
    boxes, masks = np.empty((count, many, 4), np.float32), np.zeros((count, many, size, size), bool)
    for i in range(count):
        x[i] = 0.12 if by_class else rng.uniform(0.0, 0.25, (3, 1, 1))
        for j, place in enumerate(rng.permutation(cells * cells)[:many]):
            radius = rng.uniform(max(2.0, 0.2 * cell), 0.45 * cell)
            column, row = rng.uniform(radius, cell - 1 - radius, 2) + np.array([place % cells, place // cells]) * cell
            mask = _inside(int(kinds[i, j]), size, column, row, radius)
            boxes[i, j], masks[i, j] = _around(mask), mask
            x[i][:, mask] = _COLOURS[kinds[i, j] if by_class else rng.integers(len(_COLOURS))][:, None]
    x = np.clip(x + noise * rng.standard_normal(x.shape), 0.0, 1.0).astype(np.float32)
    y: dict[str, np.ndarray] = {"class": kinds.astype(np.int64), "box": boxes, "mask": masks}
    return Dataset(x, y if objects is not None else {name: part[:, 0] for name, part in y.items()})


def scenes(count: int, size: int = 64, objects: int = 5, noise: float = 0.03, seed: int = 0) -> Dataset:
    """``count`` pictures of 1 to ``objects`` shapes: x float32 [N, 3, size, size] in [0, 1].

    Shapes may hide parts of one another, and are of different colours while there are any.

    y is a dict with a slot for each of K = ``objects``: ``present`` bool [N, K], ``class`` int64 [N, K], a number of SHAPES and
    -1 in an empty slot; ``box`` float32 [N, K, 4] and ``mask`` bool [N, K, size, size] as of ``shapes``, of what is seen, at
    least half of each shape; and ``label`` int64 [N, size, size], the class at each pixel plus 1, 0 for the ground. ``noise``
    is the deviation of the pixels, and ``seed`` draws all. Raises ArgumentError for a ``size`` under 16 or no objects.
    """
    if size < 16 or objects < 1:
        raise ArgumentError(f"size must be at least 16 and objects at least 1, got {size} and {objects}")
    rng = np.random.default_rng(seed)
    x = np.empty((count, 3, size, size), np.float32)
    kinds, boxes = np.full((count, objects), -1, np.int64), np.zeros((count, objects, 4), np.float32)
    masks, label = np.zeros((count, objects, size, size), bool), np.zeros((count, size, size), np.int64)
    for i in range(count):
        x[i] = rng.uniform(0.0, 0.25, (3, 1, 1))
        whole: list[int] = []  # pixels of each shape, hidden ones included
        wanted, colours = int(rng.integers(1, objects + 1)), rng.permutation(len(_COLOURS))
        for _ in range(100):  # tries; where shapes are many they may find no room
            if len(whole) == wanted:
                break
            j, kind = len(whole), int(rng.integers(len(SHAPES)))
            radius = rng.uniform(0.1 * size, 0.22 * size)
            column, row = rng.uniform(radius, size - 1 - radius, 2)
            mask = _inside(kind, size, column, row, radius)
            behind = masks[i, :j] & ~mask
            if any(seen.sum() * 2 < pixels for seen, pixels in zip(behind, whole, strict=True)):
                continue
            masks[i, :j], masks[i, j], kinds[i, j] = behind, mask, kind
            whole.append(int(mask.sum()))
            x[i][:, mask] = _COLOURS[colours[j % len(colours)]][:, None]
            label[i][mask] = kind + 1
        for j in range(len(whole)):
            boxes[i, j] = _around(masks[i, j])
    x = np.clip(x + noise * rng.standard_normal(x.shape), 0.0, 1.0).astype(np.float32)
    y = {"present": kinds >= 0, "class": kinds, "box": boxes, "mask": masks, "label": label}
    return Dataset(x, y)


def edges(count: int, size: int = 64, objects: int = 3, noise: float = 0.0, seed: int = 0, by_class: bool = False) -> Dataset:
    """``count`` outlines of ``shapes`` with their pictures: x float32 [N, 1, size, size], 1 on edges; y [N, 3, size, size].

    A pixel of a shape is on its edge where one of its four neighbours is outside. Arguments as of ``shapes``: ``objects`` of
    them, ``noise`` of the pictures, ``seed``, and ``by_class``, by which the outline says what the picture is.
    """
    drawn = shapes(count, size, objects, noise, seed, by_class)
    masks = np.pad(drawn.y["mask"], ((0, 0), (0, 0), (1, 1), (1, 1)))
    middle = masks[:, :, 1:-1, 1:-1]
    core = middle & masks[:, :, :-2, 1:-1] & masks[:, :, 2:, 1:-1] & masks[:, :, 1:-1, :-2] & masks[:, :, 1:-1, 2:]
    return Dataset((middle & ~core).any(1)[:, None].astype(np.float32), drawn.x)

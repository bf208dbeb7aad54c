"""Boxes that may hold an object, found without learning: regions of like colour, and what they grow to.

picture ─▶ regions of pixels like their neighbours ─▶ the two most similar neighbours become one, until all are ─▶ boxes of all
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphrt.errors import ShapeError

_CHUNK = 64  # pictures whose pixels are joined at once
_WAYS = ((1.0, 1.0, 1.0), (1.0, 0.0, 0.0), (0.0, 1.0, 1.0))  # weights of likeness in colour, in size, and of filling a box


def selective_search(
    images: np.ndarray, count: int = 32, threshold: float = 0.2, smallest: int = 4, largest: int = 200
) -> np.ndarray:
    """Proposals for ``images`` [N, C, H, W] in [0, 1], float32 [N, count, 4], boxes of no area where there are fewer.

    After Uijlings et al., "Selective search for object recognition", IJCV 2013. Regions begin as pixels that differ from a
    neighbour by less than ``threshold`` in every channel; the two most similar neighbours become one until one is left, once
    by colour, size and how well both fill their box, once by colour alone and once without it. Boxes (x1, y1, x2, y2) of all
    regions count, those of the first ones before those of each stage of growth, without the ones narrower than ``smallest``
    pixels. Only the ``largest`` so many first regions grow. Raises ShapeError.
    """
    if images.ndim != 4:
        raise ShapeError(f"images must be [N, C, H, W], got {list(images.shape)}")
    found = np.zeros((len(images), count, 4), np.float32)
    for start in range(0, len(images), _CHUNK):
        some = images[start : start + _CHUNK]
        for i, labels in enumerate(_regions(some, threshold)):
            boxes = _boxes(some[i], labels, largest)
            sides = boxes[:, 2:] - boxes[:, :2]
            boxes = boxes[(sides >= smallest).all(1)]
            first = np.sort(np.unique(boxes, axis=0, return_index=True)[1])[:count]
            found[start + i, : len(first)] = boxes[first]
    return found


def _regions(images: np.ndarray, threshold: float) -> np.ndarray:
    """The region of each pixel [N, H, W], by number of one of its pixels: trees of pixels that hook onto smaller ones."""
    n, _, h, w = images.shape
    number = np.arange(n * h * w).reshape(n, h, w)
    across = (np.abs(np.diff(images, axis=3)) < threshold).all(1)
    down = (np.abs(np.diff(images, axis=2)) < threshold).all(1)
    one = np.concatenate([number[:, :, 1:][across], number[:, 1:][down]])
    other = np.concatenate([number[:, :, :-1][across], number[:, :-1][down]])
    root = number.reshape(-1).copy()
    while True:
        a, b = root[one], root[other]
        apart = a != b
        if not apart.any():
            return root.reshape(n, h, w)
        one, other, a, b = one[apart], other[apart], a[apart], b[apart]
        np.minimum.at(root, np.maximum(a, b), np.minimum(a, b))
        while (root[root] != root).any():
            root = root[root]


def _boxes(image: np.ndarray, labels: np.ndarray, largest: int) -> np.ndarray:
    """The boxes [R, 4] of the regions of one picture and of all they grow to, in that order."""
    _, inverse, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    of = inverse.reshape(labels.shape)
    rows, columns = np.indices(labels.shape)
    low, high = (np.full((2, len(sizes)), fill) for fill in (labels.size, 0))
    for axis, place in enumerate((columns, rows)):
        np.minimum.at(low[axis], of, place)
        np.maximum.at(high[axis], of, place + 1)
    boxes = np.concatenate([low, high]).T.astype(np.float64)
    colours = np.stack([np.bincount(of.reshape(-1), channel.reshape(-1)) for channel in image], 1) / sizes[:, None]
    pairs = np.concatenate([np.stack([a[a != b], b[a != b]], 1) for a, b in ((of[1:], of[:-1]), (of[:, 1:], of[:, :-1]))])
    kept = np.argsort(-sizes, kind="stable")[:largest]
    grown = [_grown(boxes, colours, sizes.astype(np.float64), np.unique(np.sort(pairs, 1), axis=0), kept, w) for w in _WAYS]
    return np.concatenate([boxes, *grown])


def _grown(
    boxes: np.ndarray, colours: np.ndarray, sizes: np.ndarray, pairs: np.ndarray, kept: np.ndarray, weights: Sequence[float]
) -> np.ndarray:
    """The boxes of what regions ``kept`` grow to, joined two by two by the ``weights`` of their likeness."""
    whole = sizes.sum()
    region = {int(i): (boxes[i], colours[i], sizes[i]) for i in kept}
    neighbours = {i: set[int]() for i in region}
    for a, b in pairs.tolist():
        if a in region and b in region:
            neighbours[a].add(b)
            neighbours[b].add(a)

    def joined(a: int, b: int) -> np.ndarray:
        one, other = region[a][0], region[b][0]
        return np.concatenate([np.minimum(one[:2], other[:2]), np.maximum(one[2:], other[2:])])

    def alike(a: int, b: int) -> float:
        (_, colour, size), (_, like, more) = region[a], region[b]
        x1, y1, x2, y2 = joined(a, b)
        parts = (1 - np.abs(colour - like).mean(), 1 - (size + more) / whole, 1 - ((x2 - x1) * (y2 - y1) - size - more) / whole)
        return float(np.dot(weights, parts))

    likeness = {(a, b): alike(a, b) for a in neighbours for b in neighbours[a] if a < b}
    found, number = [np.zeros((0, 4))], len(boxes)
    while likeness:
        a, b = max(likeness, key=lambda pair: likeness[pair])
        box, (_, colour, size), (_, like, more) = joined(a, b), region.pop(a), region.pop(b)
        region[number] = (box, (colour * size + like * more) / (size + more), size + more)
        around = (neighbours.pop(a) | neighbours.pop(b)) - {a, b}
        likeness = {pair: value for pair, value in likeness.items() if not {a, b} & {*pair}}
        neighbours[number] = around
        for other in around:
            neighbours[other] = (neighbours[other] - {a, b}) | {number}
            likeness[other, number] = alike(other, number)
        found.append(box[None])
        number += 1
    return np.concatenate(found)

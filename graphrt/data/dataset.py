"""Datasets: examples in memory or read when they are needed, batches of them, splits, and normalisation.

A ``Source`` has a length and gives the examples at an array of rows. ``Dataset`` holds arrays, memory-mapped ones among them;
``Examples`` asks another object for one example at a time.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from graphrt.errors import ArgumentError, InputError
from graphrt.files import whole
from graphrt.runtime.arrays import to_numpy


@runtime_checkable
class Source(Protocol):
    """A set of examples, of which batches are made."""

    def __len__(self) -> int:
        """How many examples there are."""

    def rows(self, rows: np.ndarray) -> tuple[Any, ...]:
        """The examples of these numbers as a batch: (x, y), or (x, y, sample_weight)."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Examples ``x`` [N, ...] with targets ``y`` [N, ...], and a ``weight`` [N] of each or None.

    ``x`` and ``y`` may each be a tuple or a dict of arrays. A memory-mapped array stays on disk: rows are read as batches need
    them. Raises ArgumentError when numbers of examples differ.
    """

    x: Any
    y: Any
    weight: np.ndarray | None = None

    def __post_init__(self) -> None:
        parts = [*_leaves(self.x), *_leaves(self.y), *([] if self.weight is None else [self.weight])]
        if len({np.shape(part)[0] if np.ndim(part) else -1 for part in parts}) != 1 or not np.ndim(parts[0]):
            shapes = " and ".join(str(np.shape(part)) for part in parts)
            raise ArgumentError(f"x and y must hold as many examples, got shapes {shapes}")

    def __len__(self) -> int:
        return len(_leaves(self.x)[0])

    def rows(self, rows: np.ndarray | slice) -> tuple[Any, ...]:
        """The examples of these numbers: (x, y), or (x, y, weight) where there are weights."""
        found = _each(self.x, lambda a: np.asarray(a[rows])), _each(self.y, lambda a: np.asarray(a[rows]))
        return found if self.weight is None else (*found, self.weight[rows])

    def take(self, count: int) -> Dataset:
        """The first ``count`` examples."""
        return self.subset(slice(count))

    def subset(self, rows: np.ndarray | slice) -> Dataset:
        """The examples of these numbers as a Dataset."""
        return Dataset(*self.rows(rows))

    def save(self, path: str | Path) -> None:
        """Writes a safetensors file, which ``load_safetensors`` reads. Raises ArgumentError for several arrays as x or y."""
        from safetensors.numpy import save_file

        if isinstance(self.x, tuple | Mapping) or isinstance(self.y, tuple | Mapping):
            raise ArgumentError("only a Dataset of one x and one y is saved; write the others with safetensors itself")
        arrays = {"x": self.x, "y": self.y} | ({} if self.weight is None else {"weight": self.weight})
        with whole(path) as file:
            save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, file)


def load_safetensors(path: str | Path, x: str = "x", y: str = "y", weight: str | None = None) -> Dataset:
    """The tensors called ``x`` and ``y``, and ``weight`` if given, of the safetensors file at ``path``.

    Raises InputError for a file that is none and for a name that it lacks, OSError.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            if missing := [name for name in (x, y, weight) if name is not None and name not in file.keys()]:
                raise InputError(f"{path} has no {', '.join(map(repr, missing))}; there is {', '.join(file.keys())}")
            return Dataset(*(file.get_tensor(name) for name in (x, y, weight) if name is not None))
    except SafetensorError as error:
        raise InputError(f"{path} is not a safetensors file: {error}") from None


class Examples:
    """Examples that ``source`` gives one at a time: ``len(source)`` of them, ``source[i]`` is (x, y), as a torch Dataset has.

    A Source will do too. ``transform`` is applied to each x, and may be any library's augmentation, whose own random numbers
    are no part of a checkpoint; ``workers`` threads read at a time, in an order that does not depend on them. Raises
    ArgumentError for fewer than 1 of them.
    """

    def __init__(self, source: Any, transform: Callable[[Any], Any] | None = None, workers: int = 1) -> None:
        if workers < 1:
            raise ArgumentError(f"workers must be at least 1, got {workers}")
        self.source, self.transform, self.workers = source, transform, workers
        self._pool: ThreadPoolExecutor | None = None

    def __len__(self) -> int:
        return len(self.source)

    def rows(self, rows: np.ndarray) -> tuple[Any, ...]:
        """The examples of these numbers, stacked. Raises InputError where their shapes differ."""
        if self.workers > 1 and self._pool is None:
            self._pool = ThreadPoolExecutor(self.workers)
        numbers = [int(row) for row in rows]
        found = list((self._pool.map if self._pool else map)(self._one, numbers))
        return tuple(_stacked(part, numbers) for part in zip(*found, strict=True))

    def _one(self, row: int) -> tuple[Any, ...]:
        if hasattr(self.source, "__getitem__"):
            x, *rest = self.source[row]
        else:
            x, *rest = (_each(part, lambda a: a[0]) for part in self.source.rows(np.array([row])))
        return (x if self.transform is None else self.transform(x), *rest)


def _stacked(parts: Sequence[Any], rows: Sequence[int]) -> Any:
    if isinstance(parts[0], Mapping):
        return {name: _stacked([part[name] for part in parts], rows) for name in parts[0]}
    if isinstance(parts[0], tuple):
        return tuple(_stacked(part, rows) for part in zip(*parts, strict=True))
    arrays = [np.asarray(to_numpy(part)) for part in parts]
    for row, array in zip(rows, arrays, strict=True):
        if array.shape != arrays[0].shape:
            raise InputError(
                f"example {row} has shape {list(array.shape)} and example {rows[0]} {list(arrays[0].shape)}; a batch needs one "
                "shape: resize or crop in transform"
            )
    return np.stack(arrays)


class Subset:
    """The examples of ``source`` at ``rows``, in that order."""

    def __init__(self, source: Source, rows: np.ndarray) -> None:
        self.source, self.chosen = source, np.asarray(rows)

    def __len__(self) -> int:
        return len(self.chosen)

    def rows(self, rows: np.ndarray) -> tuple[Any, ...]:
        """The examples of these numbers."""
        return self.source.rows(self.chosen[rows])


def as_source(given: Any) -> Source | None:
    """``given`` as a Source: itself, the Dataset that a tuple (x, y) or (x, y, weight) of arrays, or of dicts of them, stands
    for, or ``Examples`` of what has a length and gives examples by number but no batches."""
    if isinstance(given, Source):
        return given
    if isinstance(given, tuple) and len(given) in (2, 3) and (hasattr(given[1], "shape") or isinstance(given[1], Mapping)):
        return Dataset(*(_each(part, lambda a: a if hasattr(a, "shape") else np.asarray(a)) for part in given))
    single = hasattr(given, "__getitem__") and hasattr(given, "__len__") and not hasattr(given, "__iter__")
    return Examples(given) if single else None


def batches(
    dataset: Source,
    batch_size: int,
    shuffle: bool = False,
    rng: np.random.Generator | None = None,
    drop_last: bool = False,
) -> Iterator[tuple[Any, ...]]:
    """(x, y) of ``batch_size`` examples of ``dataset`` each; the last one is smaller, or left out with ``drop_last``.

    ``shuffle`` draws the order from ``rng``. Raises ArgumentError for a batch size under 1, or shuffling without ``rng``: the
    order must be reproducible.
    """
    if batch_size < 1:
        raise ArgumentError(f"batch_size must be at least 1, got {batch_size}")
    if shuffle and rng is None:
        raise ArgumentError("shuffle needs rng, a numpy.random.Generator")
    order = rng.permutation(len(dataset)) if shuffle and rng is not None else np.arange(len(dataset))
    stop = len(dataset) - len(dataset) % batch_size if drop_last else len(dataset)
    for start in range(0, stop, batch_size):
        yield dataset.rows(order[start : min(start + batch_size, stop)])


def prefetched(given: Iterator[Any], depth: int = 2) -> Iterator[Any]:
    """The items of ``given``, which a thread of its own fetches up to ``depth`` ahead; its error comes where its item would.

    Raises ArgumentError for a depth under 1.
    """
    if depth < 1:
        raise ArgumentError(f"depth must be at least 1, got {depth}")
    waiting: queue.Queue[tuple[bool, Any]] = queue.Queue(depth)
    stopped = threading.Event()

    def put(good: bool, item: Any) -> None:
        while not stopped.is_set():
            try:
                return waiting.put((good, item), timeout=0.1)
            except queue.Full:
                pass

    def fetch() -> None:
        try:
            for item in given:
                put(True, item)
                if stopped.is_set():
                    return
            put(False, None)
        except BaseException as error:  # of the thread, raised where the item is waited for
            put(False, error)

    threading.Thread(target=fetch, daemon=True).start()
    try:
        while True:
            good, item = waiting.get()
            if good:
                yield item
            elif item is None:
                return
            else:
                raise item
    finally:
        stopped.set()


def split(
    dataset: Source, fractions: Sequence[float] = (0.8, 0.2), seed: int = 0, stratify: np.ndarray | bool = True
) -> list[Any]:
    """``dataset`` in parts of these ``fractions``, drawn with ``seed``; Datasets of a Dataset.

    ``stratify`` True draws the parts from each class alike where targets are integers [N]; an array [N] has the classes of
    others, False draws from all. Raises ArgumentError for fractions that are not above 0 or add up to more than 1, and an array
    of another length.
    """
    if not all(f > 0 for f in fractions) or sum(fractions) > 1 + 1e-9:
        raise ArgumentError(f"fractions must be above 0 and add up to at most 1, got {tuple(fractions)}")
    count = len(dataset)
    labels = np.zeros(count, int)
    if isinstance(stratify, np.ndarray):
        labels = stratify
    elif stratify and isinstance(dataset, Dataset) and isinstance(dataset.y, np.ndarray):
        labels = dataset.y if dataset.y.ndim == 1 and dataset.y.dtype.kind in "iu" else labels
    if labels.shape != (count,):
        raise ArgumentError(f"stratify needs a class for each of {count} examples, got shape {labels.shape}")
    rng = np.random.default_rng(seed)
    order = rng.permutation(count)
    order = order[np.argsort(labels[order], kind="stable")]
    # Classes lie one behind the other; every example goes to the part that is furthest behind its share.
    wanted, have = np.asarray(fractions), np.zeros(len(fractions))
    parts: list[list[int]] = [[] for _ in fractions]
    rest = 1.0 - wanted.sum()
    shares, have = (np.append(wanted, rest), np.append(have, 0.0)) if rest > 1e-9 else (wanted, have)
    for i, row in enumerate(order):
        chosen = int(np.argmax(shares * (i + 1) - have))
        have[chosen] += 1
        if chosen < len(parts):
            parts[chosen].append(int(row))
    rows = [rng.permutation(part) for part in parts]
    return [dataset.subset(part) if isinstance(dataset, Dataset) else Subset(dataset, part) for part in rows]


def class_weights(y: np.ndarray, classes: int | None = None) -> np.ndarray:
    """Weights [C] that make up for classes of different sizes: N / (C * count), as scikit-learn's "balanced".

    For ``CrossEntropyLoss(weight=...)``; ``y`` are integer classes, of which there are ``classes``, or as many as occur. A
    class without examples has weight 0. Raises ArgumentError for other targets.
    """
    y = np.asarray(y)
    if y.dtype.kind not in "iu" or not y.size or y.min() < 0:
        raise ArgumentError(f"class_weights needs integer classes of at least 0, got {y.dtype} of shape {list(y.shape)}")
    counts = np.bincount(y.reshape(-1), minlength=classes or 0)
    weights = np.divide(y.size, len(counts) * counts, out=np.zeros(len(counts)), where=counts > 0)
    return weights.astype(np.float32)


@dataclass(frozen=True, eq=False)
class Normalize:
    """Subtracts ``mean`` and divides by ``std`` per channel, dimension 1 of x [N, C, ...]; ``fit`` finds both."""

    mean: np.ndarray
    std: np.ndarray

    @staticmethod
    def fit(train: Source, batch_size: int = 1024) -> Normalize:
        """Mean and deviation of each channel of the examples ``train``, read ``batch_size`` at a time; 1 for a constant one.

        Raises ArgumentError for examples that are no array of at least two dimensions.
        """
        count, mean, squares = 0, np.zeros(0), np.zeros(0)
        for x, *_ in batches(train, batch_size):
            if not isinstance(x, np.ndarray) or x.ndim < 2:
                raise ArgumentError("normalisation is of one array x [N, C, ...]")
            rows = np.moveaxis(x, 1, 0).reshape(x.shape[1], -1).astype(np.float64)
            new, size = rows.mean(1), rows.shape[1]
            off = new - mean if count else new
            squares = (squares if count else 0.0) + ((rows - new[:, None]) ** 2).sum(1) + off**2 * count * size / (count + size)
            mean = (mean if count else 0.0) + off * size / (count + size)
            count += size
        std = np.sqrt(squares / max(count, 1))
        return Normalize(mean.astype(np.float32), np.where(std > 0, std, 1.0).astype(np.float32))

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """``x`` [N, C, ...], or one example [C, ...], as float32."""
        shape = (-1, *[1] * (x.ndim - 2)) if x.ndim > 1 and x.shape[1:2] == self.mean.shape else (-1, *[1] * (x.ndim - 1))
        return ((x - self.mean.reshape(shape)) / self.std.reshape(shape)).astype(np.float32)


def normalized(train: Dataset, *others: Dataset) -> tuple[Dataset, ...]:
    """``train`` and ``others`` with the channels of x normalised by the mean and deviation of those of ``train`` alone."""
    fitted = Normalize.fit(train)
    return tuple(Dataset(fitted(np.asarray(d.x)), d.y, d.weight) for d in (train, *others))


def _leaves(tree: Any) -> list[Any]:
    return list(tree.values()) if isinstance(tree, Mapping) else list(tree) if isinstance(tree, tuple) else [tree]


def _each(tree: Any, function: Callable[[Any], Any]) -> Any:
    if isinstance(tree, Mapping):
        return {name: function(part) for name, part in tree.items()}
    return tuple(function(part) for part in tree) if isinstance(tree, tuple) else function(tree)

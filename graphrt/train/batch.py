"""Batches for training: of a Dataset, or of whatever makes its own, such as a torch DataLoader."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np

from graphrt.data import Dataset, batches
from graphrt.errors import ArgumentError
from graphrt.op import Order
from graphrt.runtime.arrays import order_of, to_numpy
from graphrt.types import as_dtype, float64

Batch = tuple[Any, Any]
Spec = tuple[tuple[int, ...], str] | tuple[tuple[int, ...], str, Order]  # shape and dtype of an array, and how it lies


def count_batches(train: Dataset | Collection[Any], batch_size: int | None) -> int:
    """Batches of an epoch. Raises ArgumentError."""
    if isinstance(train, Dataset):
        if batch_size is None:
            raise ArgumentError("a Dataset needs a batch size: fit(data, epochs, batch_size=64)")
        count = len(train) // max(batch_size, 1)
        if batch_size < 1 or count < 1:
            raise ArgumentError(f"{len(train)} examples make no batch of {batch_size}")
        return count
    if isinstance(train, tuple) or not (hasattr(train, "__iter__") and hasattr(train, "__len__")):
        raise ArgumentError(
            f"fit takes a Dataset(x, y), or batches (x, y) with a len, such as a torch DataLoader; got {type(train).__name__}"
        )
    if batch_size is not None:
        raise ArgumentError(f"a {type(train).__name__} makes its own batches; leave batch_size out")
    if not len(train):
        raise ArgumentError(f"the {type(train).__name__} holds no batch")
    return len(train)


def as_batch(given: Any) -> Batch:
    """(x, y) as arrays or tensors. Raises ArgumentError."""
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise ArgumentError(
            f"a batch is (x, y), got {type(given).__name__}{f' of {len(given)}' if hasattr(given, '__len__') else ''}"
        )
    return plain(given[0]), plain(given[1])


def plain(value: Any) -> Any:
    """An array or tensor; float64 as float32."""
    array = value if hasattr(value, "dtype") else np.asarray(value)
    if as_dtype(array.dtype) is not float64:
        return array
    return array.astype(np.float32) if isinstance(array, np.ndarray) else array.float()


def one_epoch(train: Dataset | Collection[Any], batch_size: int | None, rng: np.random.Generator) -> Iterator[Any]:
    """The batches of one epoch, those of a Dataset in an order that ``rng`` draws."""
    return batches(train, batch_size or 1, True, rng, True) if isinstance(train, Dataset) else iter(train)


def spec_of(value: Any) -> tuple[tuple[int, ...], str]:
    """Shape and dtype of ``value``."""
    array = value if hasattr(value, "dtype") else to_numpy(value)
    return tuple(array.shape), as_dtype(array.dtype).name


def laid_spec_of(value: Any) -> Spec:
    """Shape and dtype of ``value``, and its dimensions as they lie in memory."""
    return *spec_of(value), order_of(value)

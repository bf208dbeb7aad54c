"""Batches for training: of a Dataset, or of whatever makes its own, such as a torch DataLoader.

A batch is (x, y), or (x, y, sample_weight) with a weight for each example. x and y are each an array, or several of them as a
tuple or a dict; a program's inputs are called x and y, x.0 and x.1, or x.NAME.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from graphrt.data import Source, as_source, batches, prefetched
from graphrt.data.dataset import Dataset
from graphrt.errors import ArgumentError
from graphrt.ir import Graph, Value
from graphrt.mesh import Axes
from graphrt.op import Order
from graphrt.runtime.arrays import from_dlpack, order_of, to_numpy
from graphrt.types import as_dtype, float64

Spec = tuple[tuple[int, ...], str] | tuple[tuple[int, ...], str, Order]  # shape and dtype of an array, and how it lies
Tree = Any  # an array, a Spec or a Value; or a tuple or dict of them
WEIGHT = "sample_weight"


class Batch(NamedTuple):
    """The arrays that one step is given."""

    x: Tree
    y: Tree
    weight: Any = None

    def named(self) -> dict[str, Any]:
        """The arrays by the names of a program's inputs."""
        targets = {} if self.y is None else leaves("y", self.y)
        return {**leaves("x", self.x), **targets, **({} if self.weight is None else {WEIGHT: self.weight})}

    def __len__(self) -> int:
        return len(next(iter(leaves("x", self.x).values())))


def count_batches(train: Source | Collection[Any], batch_size: int | None, drop_last: bool) -> int:
    """Batches of an epoch. Raises ArgumentError."""
    if (source := as_source(train)) is not None:
        if batch_size is None:
            raise ArgumentError("a Dataset needs a batch size: fit(data, epochs, batch_size=64)")
        count = (len(source) + (0 if drop_last else batch_size - 1)) // max(batch_size, 1)
        if batch_size < 1 or count < 1:
            raise ArgumentError(f"{len(source)} examples make no batch of {batch_size}")
        return count
    if isinstance(train, tuple) or not (hasattr(train, "__iter__") and hasattr(train, "__len__")):
        raise ArgumentError(
            "fit takes a Dataset(x, y), arrays (x, y), or batches (x, y) with a len, such as a torch DataLoader; "
            f"got {type(train).__name__}"
        )
    if batch_size is not None:
        raise ArgumentError(f"a {type(train).__name__} makes its own batches; leave batch_size out")
    if not len(train):
        raise ArgumentError(f"the {type(train).__name__} holds no batch")
    return len(train)


def as_batch(given: Any) -> Batch:
    """``given`` as arrays or tensors. Raises ArgumentError."""
    if not isinstance(given, tuple | list) or len(given) not in (2, 3):
        raise ArgumentError(
            f"a batch is (x, y) or (x, y, sample_weight), got {type(given).__name__}"
            f"{f' of {len(given)}' if hasattr(given, '__len__') else ''}"
        )
    batch = Batch(plain(given[0]), plain(given[1]), plain(given[2]) if len(given) == 3 else None)
    sizes = {name: array.shape[:1] for name, array in batch.named().items()}
    if len(set(sizes.values())) > 1:
        sizes = {name: size[0] if size else "none" for name, size in sizes.items()}
        raise ArgumentError(f"the parts of a batch hold as many examples, got {sizes}")
    return batch


def plain(value: Any) -> Tree:
    """An array or tensor, or a tuple or dict of them; float64 as float32."""
    array = value = from_dlpack(value)
    if not hasattr(value, "dtype"):
        if isinstance(value, Mapping):
            return {name: plain(part) for name, part in value.items()}
        if isinstance(value, tuple | list) and value and all(hasattr(part, "shape") and np.ndim(part) for part in value):
            return tuple(plain(part) for part in value)
        array = np.asarray(value)
    if as_dtype(array.dtype) is not float64:
        return array
    return array.astype(np.float32) if isinstance(array, np.ndarray) else array.float()


def leaves(name: str, tree: Tree) -> dict[str, Any]:
    """The leaves of ``tree`` by the names of a program's inputs."""
    if type(tree) is dict:
        return {f"{name}.{key}": leaf for key, leaf in tree.items()}
    if type(tree) is tuple and not is_spec(tree):
        return {f"{name}.{i}": leaf for i, leaf in enumerate(tree)}
    return {name: tree}


def each(function: Callable[..., Any], *trees: Any) -> Any:
    """``function`` of what stands in each place of ``trees``, which are of one structure of dicts, tuples and lists."""
    first = trees[0]
    if isinstance(first, Mapping):
        return {key: each(function, *(tree[key] for tree in trees)) for key in first}
    if isinstance(first, tuple | list):
        return type(first)(each(function, *parts) for parts in zip(*trees, strict=True))
    return function(*trees)


def mapped(function: Callable[[str, Any], Any], name: str, tree: Tree) -> Tree:
    """``tree`` with ``function`` of the name and of what is there in the place of each leaf."""
    names = tuple(leaves(name, tree))
    if isinstance(tree, Mapping):
        return each(function, dict(zip(tree, names, strict=True)), tree)
    return each(function, names if isinstance(tree, tuple) and not is_spec(tree) else names[0], tree)


def is_spec(tree: Tree) -> bool:
    """Whether it is the shape and dtype of one array."""
    return type(tree) is tuple and len(tree) in (2, 3) and type(tree[1]) is str


def inputs(graph: Graph, name: str, spec: Tree, varying: Axes = ()) -> Tree:
    """Inputs of ``graph`` for what ``spec`` describes, of which each process along the axes ``varying`` has its own."""

    def made(key: str, leaf: Spec) -> Value:
        shape, dtype, order = (*leaf, None)[:3]
        return graph.input(key, shape, dtype, order, varying)

    return mapped(made, name, spec)


def called(net: Callable[..., Any], x: Tree) -> Any:
    """``net`` of one input, of several in a row, or of several by name."""
    if isinstance(x, Mapping):
        return net(**x)
    return net(*x) if isinstance(x, tuple) else net(x)


def one_epoch(
    train: Source | Collection[Any], batch_size: int | None, rng: np.random.Generator, drop_last: bool
) -> Iterator[Any]:
    """The batches of one epoch, those of a Source in an order that ``rng`` draws."""
    if (source := as_source(train)) is None:
        return iter(train)  # type: ignore[arg-type]
    return _ahead(source, batches(source, batch_size or 1, True, rng, drop_last))


def in_order(data: Source | Iterable[Any], batch_size: int) -> Iterator[Any]:
    """All batches of ``data``, of ``batch_size`` where it is a Source."""
    source = as_source(data)
    return iter(data) if source is None else _ahead(source, batches(source, batch_size))  # type: ignore[arg-type]


def _ahead(source: Source, given: Iterator[Any]) -> Iterator[Any]:
    """Batches of arrays as they are; others are read by a thread while steps are computed."""
    return given if isinstance(source, Dataset) else prefetched(given)


def spec_of(tree: Tree) -> Tree:
    """Shape and dtype of each array."""
    if not hasattr(tree, "dtype"):
        return mapped(lambda _, value: spec_of(value if hasattr(value, "dtype") else to_numpy(value)), "", tree)
    return tuple(tree.shape), as_dtype(tree.dtype).name


def laid_spec_of(tree: Tree) -> Tree:
    """Shape and dtype of each array, and its dimensions as they lie in memory."""
    return mapped(lambda _, value: (*spec_of(value), order_of(value)), "", tree)

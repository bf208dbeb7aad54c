"""Data: arrays, files and other libraries' datasets, batches of them, splits, and sets that need no download."""

from graphrt.data.dataset import (
    Dataset,
    Examples,
    Normalize,
    Source,
    Subset,
    as_source,
    batches,
    class_weights,
    load_safetensors,
    normalized,
    prefetched,
    split,
)
from graphrt.data.drawn import SHAPES, checkerboard, circles, edges, rings, scenes, shapes, spirals, xor
from graphrt.data.folder import ImageFolder
from graphrt.data.proposals import selective_search
from graphrt.data.shipped import (
    DATASETS,
    load_breast_cancer,
    load_digits,
    load_iris,
    load_mnist,
    load_photographs,
    load_wine,
)

__all__ = [
    "DATASETS", "SHAPES", "Dataset", "Examples", "ImageFolder", "Normalize", "Source", "Subset", "as_source", "batches",
    "checkerboard", "circles", "class_weights", "edges", "load_breast_cancer", "load_digits", "load_iris", "load_mnist",
    "load_photographs", "load_safetensors", "load_wine", "normalized", "prefetched", "rings", "scenes", "selective_search",
    "shapes", "spirals", "split", "xor",
]  # fmt: skip

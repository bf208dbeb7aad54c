"""The entries of the ATen table; importing the package fills it."""

from graphrt.frontends.torch.aten import (
    attention,
    contraction,
    creation,
    decomposition,
    elementwise,
    embedding,
    grid,
    histogram,
    indexing,
    loss,
    normalization,
    pooling,
    recurrent,
    reduction,
    refused,
    shape,
)

__all__ = [
    "attention",
    "contraction",
    "creation",
    "decomposition",
    "elementwise",
    "embedding",
    "grid",
    "histogram",
    "indexing",
    "loss",
    "normalization",
    "pooling",
    "recurrent",
    "reduction",
    "refused",
    "shape",
]

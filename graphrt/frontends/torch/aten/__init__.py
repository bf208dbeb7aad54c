"""The entries of the ATen table; importing the package fills it."""

from graphrt.frontends.torch.aten import (
    contraction,
    creation,
    elementwise,
    indexing,
    loss,
    normalization,
    pooling,
    reduction,
    shape,
)

__all__ = ["contraction", "creation", "elementwise", "indexing", "loss", "normalization", "pooling", "reduction", "shape"]

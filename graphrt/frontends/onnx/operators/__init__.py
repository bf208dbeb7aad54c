"""The table's functions by family; importing this fills the table."""

from graphrt.frontends.onnx.operators import (
    activation,
    control,
    convolution,
    creation,
    elementwise,
    indexing,
    linear,
    normalization,
    pooling,
    quantization,
    recurrent,
    reduction,
    resize,
    sequence,
    shape,
    vision,
)

__all__ = [
    "activation",
    "control",
    "convolution",
    "creation",
    "elementwise",
    "indexing",
    "linear",
    "normalization",
    "pooling",
    "quantization",
    "recurrent",
    "reduction",
    "resize",
    "sequence",
    "shape",
    "vision",
]

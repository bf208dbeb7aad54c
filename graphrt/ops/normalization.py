"""Normalisation: plain code over the ops. Names, arguments and defaults follow torch.nn.functional."""

from __future__ import annotations

from collections.abc import Sequence

from graphrt.errors import ArgumentError, ShapeError
from graphrt.ir import Value
from graphrt.ops.base import function
from graphrt.ops.elementwise import rsqrt, stop_gradient
from graphrt.ops.reduction import mean
from graphrt.ops.view import reshape


@function
def batch_norm(
    input: Value,
    running_mean: Value | None,
    running_var: Value | None,
    weight: Value | None = None,
    bias: Value | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Value:
    """Batch normalisation over all dimensions but 1 (Ioffe and Szegedy, 2015).

    In training the batch's statistics are used and the running ones are updated (the variance unbiased), as in torch.
    """
    if input.ndim < 2:
        raise ShapeError(f"batch_norm needs [N, C, ...], got {list(input.shape)}")
    channels = input.shape[1]
    for what, v in (("running_mean", running_mean), ("running_var", running_var), ("weight", weight), ("bias", bias)):
        if v is not None and v.shape != (channels,):
            raise ShapeError(f"{what} must be [{channels}], got {list(v.shape)}")
    dims = [d for d in range(input.ndim) if d != 1]
    shape = [channels if d == 1 else 1 for d in range(input.ndim)]
    if training:
        count = input.type.size // max(channels, 1)
        if count < 2:
            raise ShapeError(f"batch_norm in training needs more than one value per channel, got {list(input.shape)}")
        average = mean(input, dims)
        centred = input - reshape(average, shape)
        variance = mean(centred * centred, dims)
        if running_mean is not None and running_var is not None:
            graph = input.graph
            graph.update(running_mean, running_mean * (1 - momentum) + stop_gradient(average) * momentum)
            unbiased = stop_gradient(variance) * (momentum * count / (count - 1))
            graph.update(running_var, running_var * (1 - momentum) + unbiased)
    else:
        if running_mean is None or running_var is None:
            raise ArgumentError("batch_norm needs running_mean and running_var when it is not training")
        average, variance = running_mean, running_var
        centred = input - reshape(average, shape)
    scale = rsqrt(variance + eps)
    y = centred * reshape(scale if weight is None else scale * weight, shape)
    return y if bias is None else y + reshape(bias, shape)


@function
def layer_norm(
    input: Value,
    normalized_shape: int | Sequence[int],
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-5,
) -> Value:
    """Normalisation over the last dimensions, whose sizes are ``normalized_shape`` (Ba et al., 2016)."""
    sizes = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    if not sizes or input.shape[-len(sizes) :] != sizes:
        raise ShapeError(f"normalized_shape {list(sizes)} must be the last sizes of {list(input.shape)}")
    dims = list(range(input.ndim - len(sizes), input.ndim))
    centred = input - mean(input, dims, keepdim=True)
    y = centred * rsqrt(mean(centred * centred, dims, keepdim=True) + eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias

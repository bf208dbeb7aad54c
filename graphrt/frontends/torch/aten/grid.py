"""ATen operators that sample images at positions of a grid, and their gradients."""

from __future__ import annotations

from collections.abc import Sequence

import graphrt.ops as F
from graphrt.frontends.torch.table import aten, pullback
from graphrt.ir import Value

_MODES = ("bilinear", "nearest", "bicubic")
_PADDINGS = ("zeros", "border", "reflection")


@aten("grid_sampler_2d.default", "grid_sampler_3d.default")
def grid_sampler(input: Value, grid: Value, interpolation_mode: int, padding_mode: int, align_corners: bool) -> Value:
    return F.grid_sample(input, grid, _MODES[interpolation_mode], _PADDINGS[padding_mode], align_corners)


@aten("grid_sampler_2d_backward.default", "grid_sampler_3d_backward.default")
def grid_sampler_backward(
    dy: Value,
    input: Value,
    grid: Value,
    interpolation_mode: int,
    padding_mode: int,
    align_corners: bool,
    output_mask: Sequence[bool],
) -> tuple[Value | None, ...]:
    """The gradients of input and grid, as far as ``output_mask`` asks for them."""
    found = pullback(lambda x, g: grid_sampler(x, g, interpolation_mode, padding_mode, align_corners), [input, grid], dy)
    return tuple(g if wanted else None for g, wanted in zip(found, output_mask, strict=True))


@aten("affine_grid_generator.default")
def affine_grid_generator(theta: Value, size: Sequence[int], align_corners: bool) -> Value:
    return F.affine_grid(theta, list(size), align_corners)

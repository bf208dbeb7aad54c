"""Layers whose weights are sharded along an axis of a mesh: tensor parallelism (Shoeybi et al., "Megatron-LM", 2019).

    x ──▶ ColumnParallelLinear ──▶ gelu ──▶ RowParallelLinear ──▶ all_reduce ──▶ y
          each process some outputs         each some inputs      once forward, once backward

On a graph without that axis they compute what ``Linear`` does, with the same weights.
"""

from __future__ import annotations

import graphrt.ops as F
from graphrt.ir import Value
from graphrt.nn.layers import Linear
from graphrt.nn.module import optional
from graphrt.ops.base import tensor


class ColumnParallelLinear(Linear):
    """``Linear`` of which each process along ``axis`` of the mesh computes some of the outputs.

    [..., in_features], the same in all, gives [..., out_features / size], of which each has its own; ``weight`` and ``bias``
    are cut along ``out_features``, a multiple of the processes, and start as ``Linear``'s. Raises ArgumentError; when called,
    ShapeError and DTypeError.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, axis: str = "tp") -> None:
        super().__init__(in_features, out_features, bias)
        self.axis = axis
        for parameter in (self.weight, self.bias):
            if parameter is not None:
                parameter.sharded = (axis, 0)


class RowParallelLinear(Linear):
    """``Linear`` of which each process along ``axis`` of the mesh has some of the inputs.

    [..., in_features / size], of which each has its own, gives [..., out_features], the same in all: the sum of what they make
    of theirs, plus ``bias``. ``weight`` is cut along ``in_features``, a multiple of the processes. Raises ArgumentError; when
    called, ShapeError and DTypeError.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, axis: str = "tp") -> None:
        super().__init__(in_features, out_features, bias)
        self.axis = axis
        self.weight.sharded = (axis, 1)

    def forward(self, input: Value) -> Value:
        y = F.linear(tensor(input), self.weight.value(input.graph))
        y = F.all_reduce(y, self.axis) if self.axis in y.type.varying else y
        return y if self.bias is None else y + optional(self.bias, input)

"""The common part of matrix products and convolutions: the dtypes of operands, and sums of parts of the products."""

from __future__ import annotations

from collections.abc import Sequence

from graphrt.errors import DTypeError
from graphrt.ir import Node, Value
from graphrt.ops.base import apply
from graphrt.ops.base import cast as cast_to
from graphrt.types import TensorType


def one_float(names: Sequence[str], *types: TensorType) -> None:
    """Raises DTypeError unless all are of one floating-point dtype."""
    if len({t.dtype for t in types}) > 1 or not types[0].dtype.is_float:
        got = ", ".join(f"{n} {t.dtype}" for n, t in zip(names, types, strict=True))
        raise DTypeError(f"operands must have one floating-point dtype, got {got}")


def sum_of_parts(parts: Value, node: Node) -> Value:
    """The sum over the first dimension: of halves in float32, which their products are computed in."""
    return cast_to(apply("reduce", parts, op="sum", dims=(0,)), node.types[0].dtype)

"""The reference: nodes run in NumPy, one op at a time. Slow and obviously right."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from graphrt.ir import Node, Value
from graphrt.types import HALVES

Round = Callable[[np.ndarray, Value], np.ndarray]


def walk(
    nodes: Iterable[Node], table: dict[Value, np.ndarray], precision: str = "float64", disturb: Round | None = None
) -> None:
    """Adds what ``nodes``, in order, compute from ``table`` to it.

    ``precision`` float64 computes all floats in double, float32 each in its own dtype; halves in float32, and rounded.
    ``disturb`` changes each result, as a rounding would.
    """

    def operand(v: Value) -> np.ndarray:
        return table[v].astype(np.float32) if v.dtype in HALVES and precision == "float32" else table[v]

    with np.errstate(all="ignore"):
        for node in nodes:
            results: Any = node.op.reference(*map(operand, node.inputs), **node.attrs)
            many = results if isinstance(results, tuple) else (results,)
            for v, result in zip(node.outputs, many, strict=True):
                table[v] = fit(result, v, precision)
                if disturb is not None:
                    table[v] = disturb(table[v], v)


def fit(array: Any, value: Value, precision: str) -> np.ndarray:
    """``array`` as ``value`` is held."""
    wide = value.dtype.is_float and precision == "float64"
    return np.asarray(array).astype(np.float64 if wide else value.dtype.numpy)

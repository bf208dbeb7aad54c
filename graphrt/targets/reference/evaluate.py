"""The reference target: walks the graph in NumPy, one op at a time. Slow and obviously right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from graphrt.ir import Graph, Value
from graphrt.op import Kind
from graphrt.types import HALVES


def evaluate(graph: Graph, feeds: Mapping[str, Any], precision: str = "float64") -> dict[Value, np.ndarray]:
    """Every value of ``graph`` for ``feeds`` (inputs and parameters by name).

    ``precision`` float64 computes all floats in double, float32 each in its own dtype; halves in float32, and rounded.
    """
    table: dict[Value, np.ndarray] = {}

    def fit(array: Any, v: Value) -> np.ndarray:
        wide = v.dtype.is_float and precision == "float64"
        return np.asarray(array).astype(np.float64 if wide else v.dtype.numpy)

    def operand(v: Value) -> np.ndarray:
        return table[v].astype(np.float32) if v.dtype in HALVES and precision == "float32" else table[v]

    with np.errstate(all="ignore"):
        for node in graph.nodes:
            if node.op.kind is Kind.SOURCE:
                if node.name not in feeds:
                    continue  # an input that nothing reads need not be given
                results: Any = feeds[node.name]
            else:
                results = node.op.reference(*map(operand, node.inputs), **node.attrs)
            many = results if isinstance(results, tuple) else (results,)
            table.update({v: fit(r, v) for v, r in zip(node.outputs, many, strict=True)})
    return table

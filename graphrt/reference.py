"""The reference: nodes run in NumPy, one op at a time. Slow and obviously right."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from graphrt.ir import Node, Value
from graphrt.mesh import Mesh
from graphrt.op import Kind
from graphrt.types import HALVES

Round = Callable[[np.ndarray, Value], np.ndarray]
Exchange = Callable[[Node, list[np.ndarray]], tuple[np.ndarray, ...]]


def walk(
    nodes: Iterable[Node],
    table: dict[Value, np.ndarray],
    precision: str = "float64",
    disturb: Round | None = None,
    exchange: Exchange | None = None,
) -> None:
    """Adds what ``nodes``, in order, compute from ``table`` to it.

    ``precision`` float64 computes all floats in double, float32 each in its own dtype; halves in float32, and rounded.
    ``disturb`` changes each result, as a rounding would; ``exchange`` carries out collectives.
    """

    def operand(v: Value) -> np.ndarray:
        return table[v].astype(np.float32) if v.dtype in HALVES and precision == "float32" else table[v]

    with np.errstate(all="ignore"):
        for node in nodes:
            results: Any
            if node.op.kind is Kind.COLLECTIVE and exchange is not None:
                results = exchange(node, list(map(operand, node.inputs)))
            else:
                results = node.op.reference(*map(operand, node.inputs), **node.attrs)
            many = results if isinstance(results, tuple) else (results,)
            for v, result in zip(node.outputs, many, strict=True):
                table[v] = fit(result, v, precision)
                if disturb is not None:
                    table[v] = disturb(table[v], v)


def walk_ranks(
    nodes: Iterable[Node], mesh: Mesh, tables: Sequence[dict[Value, np.ndarray]], precision: str = "float64"
) -> None:
    """``walk`` for all processes of ``mesh``, by rank, one node after the other: what each has is in a table of its own."""
    for node in nodes:
        if node.op.kind is not Kind.COLLECTIVE:
            for table in tables:
                walk([node], table, precision)
            continue
        for row in mesh.groups(node.attrs["axis"]):
            operands = [[tables[rank][v] for rank in row] for v in node.inputs]
            found = node.op.reference(*operands, **node.attrs)
            many = found if isinstance(found, tuple) else (found,)
            for v, results in zip(node.outputs, many, strict=True):
                for rank, result in zip(row, results, strict=True):
                    tables[rank][v] = fit(result, v, precision)


def fit(array: Any, value: Value, precision: str) -> np.ndarray:
    """``array`` as ``value`` is held."""
    wide = value.dtype.is_float and precision == "float64"
    return np.asarray(array).astype(np.float64 if wide else value.dtype.numpy)

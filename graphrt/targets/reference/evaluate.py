"""The reference target: walks the graph in NumPy, one op at a time. Slow and obviously right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from graphrt.ir import Graph, Value
from graphrt.op import Kind
from graphrt.reference import Exchange, fit, walk


def evaluate(
    graph: Graph, feeds: Mapping[str, Any], precision: str = "float64", exchange: Exchange | None = None
) -> dict[Value, np.ndarray]:
    """Every value of ``graph`` for ``feeds`` (inputs and parameters by name), as ``walk`` computes them.

    An input that nothing reads need not be given. ``exchange`` carries out collectives.
    """
    sources = [n for n in graph.nodes if n.op.kind is Kind.SOURCE and n.name in feeds]
    table = {n.outputs[0]: fit(feeds[n.name], n.outputs[0], precision) for n in sources}
    walk((n for n in graph.nodes if n.op.kind is not Kind.SOURCE), table, precision, exchange=exchange)
    return table

"""Random inputs for a graph of which nothing but its types is known."""

from __future__ import annotations

import numpy as np

from graphrt.ir import Graph
from graphrt.targets.reference.evaluate import evaluate
from graphrt.types import TensorType

SMALL = 4  # integers are drawn below: most positions and labels have as many


def random_inputs(graph: Graph, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A batch for ``graph``: integers from 0 to 3; normal floats, or from 0.5 to 1.5 where a tenth of a result is NaN else."""
    inputs = [n for n in graph.nodes if n.op.name == "input"]
    for positive in (False, True):
        found = {n.name: draw(n.types[0], rng, positive) for n in inputs}
        if positive or not _makes_nan(graph, found):
            break
    return found


def draw(type: TensorType, rng: np.random.Generator, positive: bool = False) -> np.ndarray:
    """An array of ``type``, row-major."""
    if type.dtype.is_bool:
        return rng.integers(0, 2, type.shape).astype(np.bool_)
    if not type.dtype.is_float:
        return rng.integers(0, SMALL, type.shape).astype(type.dtype.numpy)
    array = rng.random(type.shape) + 0.5 if positive else rng.standard_normal(type.shape)
    return np.asarray(array).astype(type.dtype.numpy)


def _makes_nan(graph: Graph, inputs: dict[str, np.ndarray]) -> bool:
    table = evaluate(graph, {**graph.initial, **inputs})
    return any(10 * np.count_nonzero(np.isfinite(table[v])) < 9 * v.type.size for v in graph.results())

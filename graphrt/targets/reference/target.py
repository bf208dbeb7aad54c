"""The reference target: a graph after its passes, walked in NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from graphrt.ir import Graph, Node
from graphrt.passes.pipeline import PassPolicy
from graphrt.runtime.arrays import from_numpy
from graphrt.runtime.collectives import Collectives
from graphrt.runtime.lowering import Lowering
from graphrt.runtime.processes import processes
from graphrt.runtime.program import Executable
from graphrt.runtime.state import State, dense
from graphrt.targets.reference.evaluate import evaluate
from graphrt.targets.target import Settings, Target


def parse(name: str, settings: Settings) -> Target:
    """The targets ``reference``, and ``reference:float64``, which computes all floats in double."""
    return ReferenceTarget(name, settings)


class ReferenceTarget(Target):
    """NumPy, one op at a time."""

    def passes(self) -> PassPolicy:
        """Nothing is split, and loops are walked."""
        return PassPolicy(splits=lambda node: 0, loops=True)

    def build(self, lowering: Lowering) -> Executable:
        """The graph after the passes, ready to be walked."""
        return ReferenceExecutable(lowering.graph, self.name.partition(":")[2] or "float32")


class ReferenceExecutable(Executable):
    """Runs a graph by ``evaluate``; new parameter values are written when everything has been computed."""

    def __init__(self, graph: Graph, precision: str) -> None:
        self._graph, self._precision = graph, precision

    def run(self, inputs: Mapping[str, Any], state: State, tensors: bool = False) -> dict[str, Any]:
        """Walks the graph; results are new arrays."""
        table = evaluate(self._graph, {**state, **inputs}, self._precision, self._exchange)
        outputs = {name: dense(v.type) for name, v in self._graph.outputs.items()}
        for name, v in self._graph.outputs.items():
            outputs[name][...] = table[v]
        for name, v in self._graph.updates.items():
            state.put(name, table[v])
        return outputs

    def _exchange(self, node: Node, operands: list[np.ndarray]) -> tuple[np.ndarray, ...]:
        """The results of a collective, of which other processes have their part."""
        assert self._graph.mesh is not None
        results = tuple(np.zeros(v.shape, operands[0].dtype if operands else v.dtype.numpy) for v in node.outputs)
        tensors = [[from_numpy(a) for a in side] for side in (map(np.array, operands), results)]
        Collectives(processes(self._graph.mesh)).start(node.op.name, node.attrs, *tensors).wait()
        return results

    def time(self, inputs: Mapping[str, Any], state: State) -> list[float]:
        """Runs once; there are no launches to time."""
        self.run(inputs, state)
        return []

    def source(self, lowering: Lowering, launch: int | None) -> str:
        """The graph itself."""
        return str(self._graph)

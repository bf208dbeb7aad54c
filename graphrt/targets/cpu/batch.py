"""Launches of a program for any batch that stop at the count: kernels whose work goes row by row, the batch outermost.

Only of programs without gradients: those rely on rows past the count being zeros, which somebody has to compute. So does what
folds the batch: a kernel that stores what a sum reads, neutral past the count, goes on to the last row of the largest batch.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphrt.index import Expr, axis
from graphrt.ir import Graph, Value
from graphrt.passes.batch_rows import AXIS, Rows, analyse
from graphrt.passes.open_batch import ROWS, read_past_the_count
from graphrt.schedule.group import Group
from graphrt.schedule.kernel_ir import Kernel, PointwiseKernel, ReductionKernel, TemplateKernel
from graphrt.targets.cpu.loop_ir import Columns, decide

TEMPLATES = ("conv", "conv_dgrad", "max_pool", "sum_pool", "matmul", "attention")  # whose tasks begin with the first example


@dataclass(frozen=True)
class RowLimit:
    """The largest batch of a program, 0 where it has one alone, the rows of its values, and which are read past the count."""

    most: int = 0
    rows: Rows | None = None
    read_past: frozenset[Value] = frozenset()

    @staticmethod
    def of(graph: Graph) -> RowLimit:
        """That of a program of ``graph``, what is scheduled."""
        source = graph.sources.get(ROWS)
        if source is None or "most" not in source.attrs or any(node.origin.phase == "bwd" for node in graph.nodes):
            return RowLimit()
        found = analyse(graph, source.attrs["most"], dict(source.attrs["dims"]))
        rows = {v: None if v in found.refused else row for v, row in found.rows.items()}
        return RowLimit(source.attrs["most"], rows, read_past_the_count(graph, found))

    def limits(self, kernel: Kernel) -> bool:
        """Whether ``kernel`` computes the rows of the batch one behind the other, and nothing else."""
        if not self.most or kernel.group.segments or kernel.group.copies:
            return False
        if isinstance(kernel, TemplateKernel):
            return kernel.spec.name in TEMPLATES and self._outermost(kernel.group, self._first(kernel.group))
        if not isinstance(kernel, PointwiseKernel | ReductionKernel) or kernel.totals:
            return False
        if isinstance(kernel, ReductionKernel) and isinstance(decide(kernel), Columns):
            return False
        order = kernel.order if isinstance(kernel, PointwiseKernel) else kernel.kept
        outer = next((d for d in order if kernel.shape[d] > 1), None)
        return outer is not None and self._outermost(kernel.group, axis(f"{AXIS}{outer}", kernel.shape[outer]))

    def _first(self, group: Group) -> Expr | None:
        """The first dimension of what a template computes, in terms of its domain."""
        assert group.anchor is not None
        index = group.index.get(group.anchor.outputs[0])
        return index[0] if index else None

    def _outermost(self, group: Group, outer: Expr | None) -> bool:
        """Whether all results have their row along ``outer``, which tasks walk first, and none is read past the count."""
        if outer is None or not group.outputs or not self.read_past.isdisjoint(group.outputs):
            return False
        return all(self._row(group, v, outer) for v in group.outputs)

    def _row(self, group: Group, v: Value, outer: Expr) -> bool:
        assert self.rows is not None
        row, index = self.rows.get(v), group.index.get(v)
        if row is None or index is None or len(outer.terms) != 1:
            return False
        extent = outer.range()[1] + 1
        at = row.substitute({f"{AXIS}{d}": e for d, e in enumerate(index)})
        return extent % self.most == 0 and at == outer // (extent // self.most)

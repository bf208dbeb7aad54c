"""Values of an epilogue that depend on its column alone and are dear, as a norm's factor: computed once a launch."""

from __future__ import annotations

import math
from collections.abc import Set
from dataclasses import dataclass, replace

from graphrt.schedule.kernel_ir import Block, TemplateKernel, Var
from graphrt.targets.cpu.reduction_rewrites import COSTLY, axes_of, pruned, sliced

MOST = 4096  # numbers, on the stack of who launches
ROWS = 8  # for so many at least


@dataclass(frozen=True)
class Ahead:
    """The ``block`` that computes ``values`` for one of ``size`` columns, which are along ``axis``."""

    axis: str
    size: int
    block: Block
    values: list[Var]

    @staticmethod
    def of(kernel: TemplateKernel, moved: Set[str]) -> Ahead | None:
        """That of ``kernel``'s epilogue, if there is any; its axes ``moved`` stand for something else."""
        block, depends = kernel.epilogue, dict[str, frozenset[str]]()
        if kernel.spec.family not in ("conv", "matmul"):
            return None
        for v in block.given:
            depends[v.name] = frozenset({v.name, *block.params})
        for inst in block.insts:
            names = axes_of(inst) | {a.name for a in inst.args if isinstance(a, Var)}
            depends[inst.out.name] = frozenset().union(*(depends.get(name, {name}) for name in names))
        dear = (i for i in block.insts if i.op in COSTLY and i.op != "uniform" and len(depends[i.out.name]) == 1)
        along = next((axis for i in dear for axis in depends[i.out.name] if axis not in moved), None)
        size = kernel.sizes.get(along.upper()) if along is not None else None
        if along is None or size is None or math.prod(kernel.group.shape) < ROWS * size:
            return None
        own = {i.out for i in block.insts if depends[i.out.name] == {along} and i.op != "load"}
        used = [s.var for s in block.stores] + [a for i in block.insts if i.out not in own for a in i.args]
        values = [v for v in dict.fromkeys(v for v in used if isinstance(v, Var)) if v in own]
        if any(v.dtype is not kernel.dtype for v in values) or len(values) * size > MOST:
            return None
        return Ahead(along, size, Block((along,), insts=sliced(block, values)), values)

    def rest(self, block: Block) -> Block:
        """``block`` without what is computed ahead."""
        return pruned(replace(block, insts=[i for i in block.insts if i.out not in self.values]), [])

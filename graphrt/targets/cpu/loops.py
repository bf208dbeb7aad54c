"""How the axes of a kernel's domain become C loops, and which way its memory runs."""

from __future__ import annotations

import math
from collections.abc import Sequence

from graphrt.index import Expr, axis, delinearize
from graphrt.schedule.kernel_ir import Block, ReductionKernel


def unit_stride(block: Block, fast: str, slow: str) -> bool:
    """Whether the block's memory lies along ``fast``: its smallest stride there is below that along ``slow``."""
    offsets = [i.args[1] for i in block.insts if i.op == "load"] + [s.offset for s in block.stores]
    if not offsets:
        return False
    largest = max(offsets, key=lambda e: len(e.axes()))
    a, b = largest.stride(fast), largest.stride(slow)
    if a is not None and abs(a) == 1:
        return True
    return bool(a) and not (b is not None and abs(b) == 1)


def _expressions(block: Block) -> list[Expr]:
    found = [s.offset for s in block.stores]
    for inst in block.insts:
        for arg in inst.args:
            if isinstance(arg, Expr):
                found.append(arg)
            elif isinstance(arg, tuple):
                found += [g[0] for g in arg]
    return found


def merge(
    dims: Sequence[int], shape: Sequence[int], blocks: Sequence[Block], fixed: dict[str, Expr], o: str, j: str
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Cuts ``dims`` (memory order) into outer and inner ones: as many inner as keep every index affine in one axis."""
    for cut in range(len(dims) + 1):
        outer, inner = tuple(dims[:cut]), tuple(dims[cut:])
        if len(inner) <= 1:
            break
        at, _, _ = bind(shape, outer, inner, o, j)
        if all(e.substitute({**fixed, **at}).stride(j) is not None for b in blocks for e in _expressions(b)):
            break
    return outer, inner


def bind(shape: Sequence[int], outer: Sequence[int], inner: Sequence[int], o: str, j: str) -> tuple[dict[str, Expr], int, int]:
    """The domain's axes in terms of the loop axes, and the two trip counts."""
    many, size = math.prod(shape[d] for d in outer), math.prod(shape[d] for d in inner)
    at = dict(zip([f"i{d}" for d in outer], delinearize(axis(o, many), [shape[d] for d in outer]), strict=True))
    at.update(zip([f"i{d}" for d in inner], delinearize(axis(j, size), [shape[d] for d in inner]), strict=True))
    return at, many, size


def innermost(kernel: ReductionKernel) -> int:
    """The axis along which the largest tensor that the rows read is contiguous."""
    best, chosen = -1, (*kernel.kept, *kernel.reduced)[-1]
    for inst in kernel.passes[0].inner.insts:
        if inst.op == "load" and inst.args[0].type.size > best:
            for d, n in enumerate(kernel.shape):
                if n > 1 and inst.args[1].stride(f"i{d}") == 1:
                    best, chosen = inst.args[0].type.size, d
    return chosen

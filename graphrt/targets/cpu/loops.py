"""How the axes of a kernel's domain become C loops, and which way its memory runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graphrt.index import Expr, axis, delinearize
from graphrt.schedule.kernel_ir import Block


@dataclass(frozen=True)
class Nest:
    """Two loops, ``many`` times ``size`` elements; ``at`` are the domain's axes in terms of theirs."""

    at: dict[str, Expr]
    many: int
    size: int


def nest(
    dims: Sequence[int], shape: Sequence[int], blocks: Sequence[Block], names: tuple[str, str], fixed: Mapping[str, Expr]
) -> Nest:
    """The loops ``names``, outer and inner, over ``dims`` (in memory order) for ``blocks``; other axes are ``fixed``.

    As many axes are merged into the inner loop as keep every index affine in it.
    """
    expressions = [e for block in blocks for e in _expressions(block)]
    for cut in range(len(dims) + 1):
        outer, inner = dims[:cut], dims[cut:]
        found = Nest(
            {**fixed, **walk(outer, shape, names[0]), **walk(inner, shape, names[1])}, count(outer, shape), count(inner, shape)
        )
        if len(inner) <= 1 or all(e.substitute(found.at).stride(names[1]) is not None for e in expressions):
            break
    return found


def walk(dims: Sequence[int], shape: Sequence[int], name: str) -> dict[str, Expr]:
    """The axes ``dims`` of a domain in terms of one loop over all of them."""
    sizes = [shape[d] for d in dims]
    return dict(zip([f"i{d}" for d in dims], delinearize(axis(name, math.prod(sizes)), sizes), strict=True))


def count(dims: Sequence[int], shape: Sequence[int]) -> int:
    """The elements along ``dims``."""
    return math.prod(shape[d] for d in dims)


def lies_along(block: Block, fast: str, slow: str) -> bool:
    """Whether the block's memory lies along ``fast``: one step there is a shorter way than one along ``slow``."""
    offsets = [i.args[1] for i in block.insts if i.op == "load"] + [s.offset for s in block.stores]
    if not offsets:
        return False
    largest = max(offsets, key=lambda e: len(e.axes()))
    a, b = largest.common_stride(fast), largest.common_stride(slow)
    return a != 0 and (b == 0 or abs(a) <= abs(b))


def depends(block: Block, on: str) -> bool:
    """Whether what ``block`` computes is another along the axis ``on``."""
    return any(on in e.axes() for e in _expressions(block))


def _expressions(block: Block) -> list[Expr]:
    """Every index expression of ``block``."""
    found = [s.offset for s in block.stores]
    for inst in block.insts:
        for arg in inst.args:
            if isinstance(arg, Expr):
                found.append(arg)
            elif isinstance(arg, tuple):
                found += [g[0] for g in arg]
    return found

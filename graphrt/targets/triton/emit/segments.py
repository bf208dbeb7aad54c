"""Sums of segments of a tile's rows have a row for each segment, and are spread over its rows only where others need that."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any

from graphrt.index import Expr
from graphrt.schedule.kernel_ir import Block, Inst, Var


def spread(block: Block, rows: Collection[str], short: bool) -> tuple[Block, dict[str, int]]:
    """``block`` with sums of segments spread where what they meet varies along the axes ``rows``.

    The others come with the lengths of their segments, by name. Unless ``short`` everything that is stored is spread too.
    """
    segments: dict[str, int] = {}
    along = {*rows, *(v.name for v in block.given)}
    wide: dict[str, Var] = {}
    insts: list[Inst] = []

    def over_rows(v: Any) -> Any:
        if not isinstance(v, Var) or v.name not in segments:
            return v
        if v.name not in wide:
            wide[v.name] = Var(f"{v.name}_rows", v.dtype)
            insts.append(Inst(wide[v.name], "spread", (v, segments[v.name])))
        return wide[v.name]

    for inst in block.insts:
        used = set(_names(inst))
        if inst.op == "segment_sum":
            segments[inst.out.name] = inst.args[1]
        elif not along.isdisjoint(used):
            inst = replace(inst, args=tuple(over_rows(a) for a in inst.args))
            along.add(inst.out.name)
        elif found := [segments[name] for name in used if name in segments]:
            segments[inst.out.name] = found[0]
        insts.append(inst)
    stores = block.stores if short else [replace(s, var=over_rows(s.var)) for s in block.stores]
    return replace(block, insts=insts, stores=stores), segments


def _names(inst: Inst) -> Iterator[str]:
    """The variables and axes that ``inst`` reads, those of its offsets and guards included."""
    for arg in inst.args:
        if isinstance(arg, Var):
            yield arg.name
        for e in [arg] if isinstance(arg, Expr) else [g[0] for g in arg] if isinstance(arg, tuple) else []:
            yield from e.axes()

"""How a kernel's axes lie in memory where no tensor has the shape of its domain, and what a column or a row needs but once."""

from __future__ import annotations

import math
from collections.abc import Sequence, Set
from dataclasses import replace

from graphrt.schedule.kernel_ir import Block, Inst, Pass, ReductionKernel, Store, Var
from graphrt.schedule.memory import loads
from graphrt.targets.cpu.reduction_rewrites import axes_of, pruned, renamed, sliced


def innermost(kernel: ReductionKernel) -> int:
    """The axis along which what the rows read most of is contiguous; a gather reads as much as it has positions."""
    most, chosen = -1, (*kernel.kept, *kernel.reduced)[-1]
    depends: dict[str, set[str]] = {}
    for inst in kernel.passes[0].inner.insts:
        depends[inst.out.name] = set().union(*(depends.get(name, {name}) for name in _names(inst)))
        axes = [d for d in range(len(kernel.shape)) if f"i{d}" in depends[inst.out.name]]
        if inst.op == "load" and (read := math.prod(kernel.shape[d] for d in axes)) > most:
            for d in axes:
                if kernel.shape[d] > 1 and inst.args[1].stride(f"i{d}") == 1:
                    most, chosen = read, d
    return chosen


def memory_axes(blocks: Sequence[Block], shape: Sequence[int]) -> list[int]:
    """The axes longer than 1, outermost first, in the largest tensor that all of them index; empty if none is."""
    wanted = [d for d, n in enumerate(shape) if n > 1]
    best, found = 0, list[int]()
    for block in blocks:
        touched = [(s.slot, s.offset) for s in block.stores] + [(slot, offset) for slot, offset, _ in loads(block)]
        for slot, offset in touched:
            strides = {d: offset.stride(f"i{d}") or 0 for d in wanted}
            if slot.type.size > best and all(step > 0 for step in strides.values()):
                best, found = slot.type.size, sorted(wanted, key=lambda d, at=strides: -at[d])  # type: ignore[misc]
    return found


def in_memory_order(axes: Sequence[int], blocks: Sequence[Block], shape: Sequence[int]) -> tuple[int, ...]:
    """``axes`` in the order of memory, as ``memory_axes`` finds it, if the innermost of those longer than 1 is another."""
    order = [d for d in memory_axes(blocks, shape) if d in axes]
    if not order or order[-1] == [d for d in axes if shape[d] > 1][-1]:
        return tuple(axes)
    return (*(d for d in axes if d not in order), *order)


def once_a_column(passes: Sequence[Pass], rows: Set[str]) -> list[Pass]:
    """``passes`` with what does not depend on the axes ``rows`` moved behind the pass before, or in front of the first."""
    found = [Pass(Block(passes[0].inner.params), [], Block(passes[0].inner.params))]
    for p in passes:
        moved = _of_columns(p, rows)
        after = found[-1].after
        found[-1] = replace(found[-1], after=replace(after, insts=after.insts + _apart(sliced(p.inner, moved), moved)))
        left = replace(p.inner, insts=[i for i in p.inner.insts if i.out not in moved])
        found.append(replace(p, inner=pruned(left, p.folds)))
    return found if found[0].after.insts else found[1:]


def apart(work: Pass, columns: Set[str]) -> tuple[Block, Pass]:
    """The part of a pass that depends on none of ``columns``, axes and variables, and the pass without that.

    Numbers alone are no reason to take anything out.
    """
    inner, depends = work.inner, set(columns)
    for inst in inner.insts:
        if _names(inst) & depends:
            depends.add(inst.out.name)
    shared = [i for i in inner.insts if i.out.name not in depends]
    if all(inst.op == "const" for inst in shared):
        return Block(inner.params), work
    stored = [s for s in inner.stores if depends.isdisjoint({s.var.name, *s.offset.axes(), *_guarded(s)})]
    own = [s for s in inner.stores if s not in stored]
    left = replace(inner, insts=[i for i in inner.insts if i.out.name in depends], stores=own)
    return replace(inner, insts=shared, stores=stored, result=None), replace(work, inner=left)


def _guarded(store: Store) -> set[str]:
    """The axes that the guards of ``store`` depend on."""
    return set().union(*(e.axes() for e, _, _ in store.guards))


def _of_columns(work: Pass, rows: Set[str]) -> list[Var]:
    """The values of a pass that depend on no axis of ``rows``, are no constants, and are used by what does or at the end."""
    depends, free = set(rows), list[Inst]()
    for inst in work.inner.insts:
        if _names(inst) & depends or inst.op == "uniform":
            depends.add(inst.out.name)
        elif inst.op != "const":
            free.append(inst)
    used = {name for i in work.inner.insts if i.out.name in depends for name in _names(i)}
    used |= {f.x.name for f in work.folds}
    used |= {name for s in work.inner.stores for name in (s.var.name, *s.offset.axes())}
    return [i.out for i in free if i.out.name in used]


def _apart(insts: Sequence[Inst], moved: Sequence[Var]) -> list[Inst]:
    """``insts`` with new names for what stays in its place too: all but ``moved``."""
    names = {i.out: Var(f"{i.out.name}_once", i.out.dtype) for i in insts if i.out not in moved}
    return [Inst(names.get(i.out, i.out), i.op, tuple(renamed(a, names) for a in i.args)) for i in insts]


def _names(inst: Inst) -> set[str]:
    """The variables and axes that ``inst`` depends on."""
    return {a.name for a in inst.args if isinstance(a, Var)} | axes_of(inst)

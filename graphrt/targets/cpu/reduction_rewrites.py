"""Takes work out of loops over rows: functions from one reduction kernel to another that computes the same values.

A sum over a row of which one element is chosen (``where(index == k, x, 0)``, the class of a loss) reads that element. A value
that took many instructions (an exponential) is kept for later passes over the row, when the row is short enough for a cache.
An exponential of a row less its maximum is a shorter one: no result is above 1, and those below the normal range are 0.
Its maximum and the sum of these are found in one pass, with a maximum that was guessed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from graphrt.index import Expr, axis
from graphrt.schedule.kernel_ir import Block, Fold, Inst, Pass, ReductionKernel, Var
from graphrt.schedule.policy import ROW_LIMIT
from graphrt.types import bool_

COSTLY = {
    *("exp", "exp_bounded", "exp2", "expm1", "log", "log2", "log10", "log1p", "pow", "sin", "cos", "tanh", "erf", "erfc"),
    *("erfinv", "atan", "atan2", "div", "sqrt", "rsqrt", "fmod", "quotient", "uniform"),
}


def read_chosen(kernel: ReductionKernel) -> ReductionKernel:
    """``kernel`` with each sum over a row of which one element is chosen replaced by a read of that element.

    It is read behind the pass: what a reduction reads is never overwritten by its own kernel (``schedule/order.py``).
    """
    if len(kernel.reduced) != 1 or kernel.shape[kernel.reduced[0]] == 1:  # the index along a row of one is no axis
        return kernel
    along = axis(f"i{kernel.reduced[0]}", kernel.shape[kernel.reduced[0]])
    passes: list[Pass] = []
    for p in kernel.passes:
        read: list[Inst] = []
        left = []
        for f in p.folds:
            choice = _choice(p.inner, f.x, along) if f.op == "sum" else None
            if choice is None:
                left.append(f)
            else:
                read += _element(p.inner, *choice, along, f.result)
        inner, after = pruned(p.inner, left), replace(p.after, insts=read + p.after.insts)
        if passes and not left and not inner.stores:
            passes[-1] = replace(passes[-1], after=_concatenated(passes[-1].after, after))
        else:
            passes.append(Pass(inner, left, after))
    return replace(kernel, passes=passes)


def keep_costly(kernel: ReductionKernel, beside: int = 1) -> tuple[ReductionKernel, list[Var]]:
    """``kernel`` with costly values of a pass read back by later ones (op ``kept``), and the values to write down.

    What is made of costly values is read back in their place, where that is about as many. So many rows lie ``beside`` each
    other.
    """
    row = math.prod(kernel.shape[d] for d in kernel.reduced) * beside
    number = _numbered(kernel)
    first: dict[int, Var] = {}  # costly values of the passes before, and what is made of them, by number
    costly: set[int] = set()
    kept: list[Var] = []
    passes = []
    for p in kernel.passes:
        again = {i.out: first[number[i.out]] for i in p.inner.insts if number[i.out] in first}
        dear = [v for v in again if number[v] in costly]
        ends = [v for v in again if v.name in _used(p, again)]
        room = row * len({*kept, *(again[v] for v in ends)}) <= ROW_LIMIT
        wanted = ends if room and len(ends) <= len(dear) + 1 else dear
        insts = []
        for inst in p.inner.insts:
            at = again.get(inst.out) if inst.out in wanted else None
            if at is not None and (at in kept or row * (len(kept) + 1) <= ROW_LIMIT):
                kept += [at] if at not in kept else []
                insts.append(Inst(inst.out, "kept", (at,)))
            else:
                insts.append(inst)
        for inst in p.inner.insts:
            of = (first.get(number.get(v, -1)) for v in inst.args if isinstance(v, Var))
            if inst.op in COSTLY or any(v is not None and v not in kept for v in of):
                first.setdefault(number[inst.out], inst.out)
                costly |= {number[inst.out]} if inst.op in COSTLY else set()
        passes.append(replace(p, inner=pruned(replace(p.inner, insts=insts), p.folds)))
    return replace(kernel, passes=passes), kept


def _used(p: Pass, again: Mapping[Var, Var]) -> set[str]:
    """The names that a pass uses in anything else than what was made ``again``."""
    rest = [i for i in p.inner.insts if i.out not in again]
    names = {a.name for i in rest for a in i.args if isinstance(a, Var)}.union(*map(axes_of, rest))
    return names | {f.x.name for f in p.folds} | {name for s in p.inner.stores for name in (s.var.name, *s.offset.axes())}


def bound_exponentials(kernel: ReductionKernel) -> ReductionKernel:
    """``kernel`` with ``exp(x - max(x))`` as op ``exp_bounded``: wherever it is computed, so that it is the same everywhere."""
    over = _over_maxima(kernel)
    passes = []
    for p in kernel.passes:
        insts = [replace(i, op="exp_bounded") if i.out in over else i for i in p.inner.insts]
        passes.append(replace(p, inner=replace(p.inner, insts=insts)))
    return replace(kernel, passes=passes)


def _over_maxima(kernel: ReductionKernel) -> set[Var]:
    """The variables that are ``exp(x - max(x))`` of an element ``x`` and the maximum of its row."""
    number = _numbered(kernel)
    maxima = {f.result: number.get(f.x, f.x) for p in kernel.passes for f in p.folds if f.op == "max"}
    found = set()
    for p in kernel.passes:
        by = {i.out: i for i in p.inner.insts}
        for inst in p.inner.insts:
            if inst.op == "exp" and inst.args[0] in by and by[inst.args[0]].op == "sub":
                x, most = by[inst.args[0]].args
                found |= {inst.out} if most in maxima and maxima[most] == number.get(x, x) else set()
    return found


@dataclass(frozen=True)
class Guess:
    """Maximum of a row and sum of ``exp_bounded(x - max(x))`` in one pass, ``both``, with a guess in place of the maximum.

    ``raw`` is that sum; multiplied by ``exp(guess - max(x))`` it is the sum. Kept exponentials lack that factor too, so their
    shares are theirs of ``raw``.
    """

    both: Pass
    guess: Var
    raw: Var


def guess_maximum(passes: Sequence[Pass], kept: Sequence[Var]) -> Guess | None:
    """The first two of ``passes``, the maximum of a row and the sum of its exponentials less that, as one.

    None if they are anything else, there is work between them, or later ones use what was kept other than in products with the
    reciprocal of the sum, ``1 / sum``.
    """
    if len(passes) < 2 or not _maximum_and_sum(*passes[:2]):
        return None
    maximum, total, *later = passes
    (most,), (s,) = maximum.folds, total.folds
    difference = _difference(total.inner, s.x, most.result)
    if difference is None:
        return None
    guess, raw = Var(f"{most.result.name}_guess", most.result.dtype), Var(f"{s.result.name}_raw", s.result.dtype)
    after = total.after
    if kept:
        inverse = _reciprocal(after, s.result)
        if inverse is None or list(kept) != [s.x] or not _only_shares(inverse.out, after, later):
            return None
        after = replace(after, insts=_replaced(after, inverse, raw))
    x = difference.args[0]
    both = Pass(replace(total.inner, insts=_replaced(total.inner, difference, guess)), [replace(most, x=x), s], after)
    return Guess(both, guess, raw)


def _maximum_and_sum(maximum: Pass, total: Pass) -> bool:
    """Whether the passes are a maximum and a sum, with nothing stored or computed before the sum is there."""
    stores = [s for block in (maximum.inner, maximum.after, total.inner) for s in block.stores]
    folds = [(f.op, f.at) for f in (*maximum.folds, *total.folds)]
    return folds == [("max", None), ("sum", None)] and not stores and not maximum.after.insts


def _difference(block: Block, exponential: Var, maximum: Var) -> Inst | None:
    """The instruction ``x - maximum`` if ``exponential`` is that of its result, and nothing else uses ``maximum``."""
    made = {i.out: i for i in block.insts}.get(exponential)
    users = [i for i in block.insts if maximum in i.args]
    alone = made is not None and made.op == "exp_bounded" and [i.out for i in users] == [made.args[0]]
    return users[0] if alone else None


def _reciprocal(block: Block, x: Var) -> Inst | None:
    """The instruction ``1 / x`` of ``block``, if there is just one."""
    ones = {i.out for i in block.insts if i.op == "const" and i.args == (1,)}
    found = [i for i in block.insts if i.op == "div" and i.args[0] in ones and i.args[1] == x]
    return found[0] if len(found) == 1 else None


def _replaced(block: Block, inst: Inst, second: Var) -> list[Inst]:
    """The instructions of ``block`` with ``second`` as the second argument of ``inst``."""
    return [replace(i, args=(i.args[0], second)) if i is inst else i for i in block.insts]


def _only_shares(inverse: Var, after: Block, later: Sequence[Pass]) -> bool:
    """Whether kept values and the ``inverse`` of their sum are used in nothing but products of the two."""
    blocks = [after, *(block for p in later for block in (p.inner, p.after))]
    kept = {i.out for p in later for i in p.inner.insts if i.op == "kept"}
    either = {*kept, inverse}
    for inst in (i for block in blocks for i in block.insts):
        used = [a for a in inst.args if isinstance(a, Var) and a in either]
        share = inst.op == "mul" and len(used) == 2 and (used[0] in kept) != (used[1] in kept)
        if used and not share:
            return False
    ends = {s.var for block in blocks for s in block.stores} | {f.x for p in later for f in p.folds}
    return either.isdisjoint(ends)


def _numbered(kernel: ReductionKernel) -> dict[Var, int]:
    """A number for each variable that a pass makes per element, not those of the row: the same for all of the same value."""
    numbers: dict[Any, int] = {}
    number: dict[Var, int] = {}
    for p in kernel.passes:
        for inst in p.inner.insts:
            args = tuple(number.get(a, a) if isinstance(a, Var) else a for a in inst.args)
            value = repr(args) if inst.op == "const" else args  # 0.0 and -0.0 are equal, and two values
            number[inst.out] = numbers.setdefault((inst.op, value, inst.out.dtype), len(numbers))
    return number


def _choice(block: Block, x: Var, along: Expr) -> tuple[Var, Var] | None:
    """(value, position) if ``x`` is the value where the row's index equals the position, and zero elsewhere."""
    by = {i.out: i for i in block.insts}
    if x not in by or by[x].op != "where":
        return None
    condition, value, other = by[x].args
    if condition not in by or by[condition].op != "eq" or other not in by or (by[other].op, *by[other].args) != ("const", 0):
        return None
    for index, position in (by[condition].args, by[condition].args[::-1]):
        is_index = index in by and (by[index].op, *by[index].args) == ("index", along)
        if is_index and not any(along.axes() & axes_of(i) for i in sliced(block, [position])):
            return value, position
    return None


def _element(block: Block, value: Var, position: Var, along: Expr, result: Var) -> list[Inst]:
    """``result = value`` at ``position`` of the row, 0 if that lies outside; renamed, so that several can stand together."""
    names = {i.out: Var(f"{i.out.name}_{result.name}", i.out.dtype) for i in block.insts}
    (name,), size = along.axes(), along.range()[1] + 1

    def moved(insts: Sequence[Inst], at: Expr | None) -> list[Inst]:
        there = {} if at is None else {name: at}
        return [Inst(names[i.out], i.op, tuple(renamed(a, names, there) for a in i.args)) for i in insts]

    first = sliced(block, [position])
    k = names.get(position, position)
    zero, limit, inside = (Var(f"{result.name}_{what}", k.dtype) for what in ("zero", "size", "at"))
    low, high, both = (Var(f"{result.name}_{what}", bool_) for what in ("low", "high", "in"))
    nothing = Var(f"{result.name}_else", result.dtype)
    rest = [i for i in sliced(block, [value]) if i not in first]
    return [
        *moved(first, None),
        Inst(zero, "const", (0,)),
        Inst(limit, "const", (size,)),
        Inst(low, "ge", (k, zero)),
        Inst(high, "lt", (k, limit)),
        Inst(both, "logical_and", (low, high)),
        Inst(inside, "where", (both, k, zero)),
        *moved(rest, axis(inside.name, size)),
        Inst(nothing, "const", (0.0 if result.dtype.is_float else 0,)),
        Inst(result, "where", (both, names.get(value, value), nothing)),
    ]


def renamed(arg: Any, names: Mapping[Var, Var], at: Mapping[str, Expr] | None = None) -> Any:
    """An argument of an instruction with renamed variables, and in place of the axes of ``at`` what is there."""
    if isinstance(arg, Var):
        return names.get(arg, arg)
    if isinstance(arg, Expr):
        there = {v.name: new.name for v, new in names.items() if v.name in arg.axes()}
        moved = arg.renamed(there) if there else arg
        return moved.substitute(dict(at)) if at else moved
    return tuple(renamed(a, names, at) for a in arg) if isinstance(arg, tuple) else arg


def axes_of(inst: Inst) -> set[str]:
    """The names of the axes, positions found at run time among them, that the arguments of ``inst`` depend on."""

    def of(arg: Any) -> set[str]:
        if isinstance(arg, Expr):
            return arg.axes()
        return set().union(*map(of, arg)) if isinstance(arg, tuple) else set()

    return of(inst.args)


def sliced(block: Block, roots: Sequence[Var]) -> list[Inst]:
    """The instructions of ``block`` that ``roots`` depend on, in order."""
    wanted, found = {v.name for v in roots}, []
    for inst in reversed(block.insts):
        if inst.out.name in wanted:
            wanted |= {a.name for a in inst.args if isinstance(a, Var)} | axes_of(inst)
            found.append(inst)
    return found[::-1]


def pruned(block: Block, folds: Sequence[Fold]) -> Block:
    """``block`` without what neither its stores nor ``folds`` need."""
    at = {Var(name, bool_) for s in block.stores for name in s.offset.axes()}
    return replace(block, insts=sliced(block, [*(f.x for f in folds), *(s.var for s in block.stores), *at]))


def _concatenated(a: Block, b: Block) -> Block:
    return replace(a, insts=a.insts + b.insts, stores=a.stores + b.stores)

"""Prints blocks of Kernel IR as Triton: loads with their masks, arithmetic, stores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from graphrt.index import Expr
from graphrt.schedule.group import Guard
from graphrt.schedule.kernel_ir import Block, CollectiveKernel, Inst, Kernel, LoopKernel, ReductionKernel, TemplateKernel, Var
from graphrt.schedule.memory import blocks, loads
from graphrt.schedule.schedule import Slot
from graphrt.targets.scalar import TRITON, TRITON_TYPES, guard_text, scalar, triton_number
from graphrt.targets.triton.emit.options import Options
from graphrt.types import DType, bfloat16, float64


@dataclass
class Masks:
    """The masks that loads take: the whole one when its offset covers ``axes``, else the bounds of those it covers."""

    whole: str
    axes: set[str]
    zeros: str  # added to an offset so that it has the shape of the whole mask ("": that is never needed)
    bounds: dict[str, str] = field(default_factory=dict)

    def of(self, used: set[str]) -> tuple[str, str]:
        """(mask, text to add to the offset) for an offset over the axes ``used``."""
        if self.zeros and used >= self.axes:
            return self.whole, f" + {self.zeros}"
        return " & ".join(dict.fromkeys(self.bounds[a] for a in sorted(used) if self.bounds[a])), ""


class TritonPrinter:
    """Prints the blocks of one launch, whose pointers are ``slots`` in order."""

    def __init__(self, slots: list[Slot], options: Options) -> None:
        self.slots, self.options = slots, options
        self.wide: set[str] = set()  # constants that must be tensors
        self.spans: dict[str, set[str]] = {}  # the axes along which a variable of a generated kernel varies

    def pointer(self, slot: Slot) -> str:
        """The pointer to ``slot``."""
        return f"ARGS[{self.slots.index(slot)}]"

    def lines(self, block: Block, at: dict[str, Expr], masks: Masks, indent: str = "    ") -> list[str]:
        """The instructions of ``block`` with its axes replaced by ``at``."""
        lines = []
        for inst in block.insts:
            self.spans[inst.out.name] = self.span(inst, at)
            lines.append(f"{indent}{inst.out.name} = {self.expression(inst, at, masks)}")
        return lines

    def span(self, inst: Inst, at: dict[str, Expr]) -> set[str]:
        """The axes along which the result of ``inst`` varies, those of positions found at run time included."""
        names: set[str] = set()
        for arg in inst.args:
            if isinstance(arg, Var):
                names |= self.spans.get(arg.name, set())
            for e in [arg] if isinstance(arg, Expr) else [g[0] for g in arg] if isinstance(arg, tuple) else []:
                names |= self.used(e.substitute(at))
        return names

    def used(self, e: Expr) -> set[str]:
        """The axes along which ``e`` varies, those of positions found at run time included."""
        return set().union(*(self.spans.get(name, {name}) for name in e.axes()))

    def expression(self, inst: Inst, at: dict[str, Expr], masks: Masks) -> str:
        """The right-hand side of ``inst`` with axes replaced by ``at``."""
        if inst.op == "load":
            return self._load(inst, at, masks)
        if inst.op == "const":
            return self._constant(inst)
        if inst.op == "index":
            e = inst.args[0].substitute(at)
            return f"({e.render()}).to(tl.int64)" if e.terms else f"tl.full((1,), {e.const}, tl.int64)"
        if inst.op == "guard":
            return guard_text(_substituted(inst.args[0], at), "//", " & ") or "True"
        if inst.op == "uniform":
            seed, counter, stream, element = inst.args
            e = element.substitute(at)
            text = e.render() if e.terms else f"tl.full((1,), {e.const}, tl.int32)"
            return f"uniform({seed.name}, {counter.name}, {stream}, {text})"
        if inst.op == "segment_sum":
            return f"segment_sum({inst.args[0].name}, mask, {inst.args[1]})"
        if inst.op == "spread":
            return f"spread_segments({inst.args[0].name}, {inst.args[1]})"
        if inst.op == "cast":
            x = inst.args[0]
            return f"{x.name} != 0" if inst.out.dtype.is_bool else cast_to(x.name, inst.out.dtype)
        return scalar(inst, TRITON, lambda v: v.name)

    def _load(self, inst: Inst, at: dict[str, Expr], masks: Masks) -> str:
        """A load under the mask of the axes that its offset and guards have, and under the guards."""
        slot, offset, guards = inst.args
        e, checks = offset.substitute(at), _substituted(guards, at)
        condition = guard_text(checks, "//", " & ")
        used = self.used(e).union(*(self.used(g) for g, _, _ in checks))
        mask, zeros = masks.of(used)
        mask = " & ".join(text for text in (mask, condition) if text)
        if self.options.interpret and not used and not zeros:
            zeros = " + tl.zeros((1,), tl.int32)"  # the interpreter gives comparisons of scalars no type
        elif not zeros:  # guards may run along axes that the offset does not
            zeros = "".join(f" + {a} * 0" for a in sorted(used - self.used(e)))
        where = f"{self.pointer(slot)} + ({e.render()}{zeros})"
        return f"tl.load({where}, mask={mask}, other=0)" if mask else f"tl.load({where})"

    def _constant(self, inst: Inst) -> str:
        number, dtype = triton_number(inst.args[0], inst.out.dtype), inst.out.dtype
        if number == "-0.0":  # which Triton takes for 0
            bits = 8 * dtype.itemsize
            return f"tl.full((1,), {-(2 ** (bits - 1))}, tl.int{bits}).to({TRITON_TYPES[dtype]}, bitcast=True)"
        if inst.out.name in self.wide or dtype is float64:  # a bare number may be rounded to float32
            return f"tl.full((1,), {number}, {TRITON_TYPES[dtype]})"
        narrow = dtype.is_bool or (dtype.is_int and dtype.itemsize < 4)
        return f"tl.cast({number}, {TRITON_TYPES[dtype]})" if narrow else number

    def stores(
        self, block: Block, at: dict[str, Expr], mask: str, zeros: str, indent: str = "    ", product: bool = False
    ) -> list[str]:
        """The stores of ``block``; ``zeros`` widens an offset to the shape of ``mask``.

        Four neighbours of a ``product``'s row that a thread is left with (``Options.stores_fragments``) are 8 bytes of halves.
        With another axis in front a tile does go through shared memory (Triton 3.9), and is stored 16 bytes at a time.
        """
        lines = []
        product = product and self.options.stores_fragments
        for s in block.stores:
            value = s.var.name
            if s.slot.type.dtype.is_bool and not s.var.dtype.is_bool:
                value = f"{value} != 0"
            elif s.slot.type.dtype is bfloat16:  # a store alone may round towards zero
                value = cast_to(value, bfloat16)
            offset = f"({s.offset.substitute(at).render()} + {zeros})"
            first = guard_text(_substituted(s.guards, at), "//", " & ")
            written = f"{mask} & {first}" if first else mask
            if product and s.slot.type.dtype.itemsize < 4 and all(i.out != s.var for i in block.insts if i.op == "const"):
                offset, value, written = f"{offset}[None]", f"({value})[None]", f"({written})[None]"
            lines.append(f"{indent}tl.store({self.pointer(s.slot)} + {offset}, {value}, mask={written})")
        return lines or [f"{indent}pass"]


def _substituted(guards: Sequence[Guard], at: dict[str, Expr]) -> tuple[Guard, ...]:
    """``guards`` with axes replaced by ``at``."""
    return tuple((e.substitute(at), low, high) for e, low, high in guards)


def slots_of(launch: Sequence[Kernel]) -> list[Slot]:
    """The slots that the kernels of a launch read and write, in the order of their pointers."""
    found: dict[Slot, None] = {}
    for kernel in launch:
        for block in blocks(kernel):
            found.update(dict.fromkeys(load[0] for load in loads(block)))
            found.update(dict.fromkeys(s.slot for s in block.stores))
    return list(found)


def tensors(kernel: Kernel) -> set[str]:
    """Variables that must not be bare numbers: what functions take, what is reduced, and one side of each choice."""
    names: set[str] = set()
    numbers = {i.out.name for block in blocks(kernel) for i in block.insts if i.op == "const"}
    for inst in (i for block in blocks(kernel) for i in block.insts):
        if TRITON.get(inst.op, "").startswith("grt_"):
            names.update(a.name for a in inst.args)
        elif inst.op == "where" and numbers.issuperset(a.name for a in inst.args[1:]):
            names.add(inst.args[1].name)
    if isinstance(kernel, TemplateKernel):
        loaded = {block.result for block in kernel.loaders.values()}
        return names | {
            i.out.name for block in kernel.loaders.values() for i in block.insts if i.op == "const" and i.out in loaded
        }
    if isinstance(kernel, LoopKernel | CollectiveKernel):
        return names  # not printed: loops are written out, and a collective is a call
    if isinstance(kernel, ReductionKernel):
        names |= {f.x.name for p in kernel.passes for f in p.folds}
        names |= {s.var.name for p in kernel.passes for s in p.inner.stores if s.rows > 1}
    return names | {total.fold.x.name for total in kernel.totals}


def cast_to(name: str, dtype: DType) -> str:
    """The variable ``name`` as ``dtype``; a cast alone may round to bfloat16 in a way of its own."""
    return f"cast({name}, tl.bfloat16)" if dtype is bfloat16 else f"{name}.to({TRITON_TYPES[dtype]})"

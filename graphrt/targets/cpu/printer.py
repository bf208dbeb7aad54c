"""Prints blocks of Kernel IR as C: loads, arithmetic and stores of one kernel.

Each kernel opens its buffers into a struct of typed pointers, named after the graph's values. They are locals, which no store
can change, so addresses are computed once. The text does not say where buffers lie: a launch gives its kernel a table of
places, so launches that differ in nothing else share a kernel. ``@`` stands for the kernel's name and ``@0``, ``@1`` for the
fields', until ``named`` puts them in.
"""

from __future__ import annotations

import ctypes
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

from graphrt.index import Expr
from graphrt.passes.decision import Decision
from graphrt.schedule.kernel_ir import Block, Inst, Kernel, Store, Var
from graphrt.schedule.memory import MemoryPlan, blocks, loads
from graphrt.schedule.schedule import Slot
from graphrt.targets.limits import LIMIT, counts
from graphrt.targets.scalar import C_TYPES, C, c_number, guard_text, identity, scalar, wrapping
from graphrt.types import DType, bfloat16, float32

_TAKEN = {
    *"auto break case char const continue default do double else enum extern float for goto if inline int long".split(),
    *"register restrict return short signed sizeof static struct switch typedef union unsigned void volatile while".split(),
    *("asm", "typeof", "linux", "unix", "i386"),  # words and macros of GNU C
    "ahead",  # a field that kernels may have beside those of their buffers
}
PlaceInTable = tuple[int, int]  # entry of the program's table of pointers, bytes from where it points


@dataclass(frozen=True)
class Buffers:
    """The place of each slot: entry of the pointer table, and byte offset for what lies in the arena (entry 0).

    ``constant`` slots never change; ``frozen`` names the kernels that keep what they pack of them, behind the last entry. If
    ``checked``, kernels look at each index before they use it (``kernels/c/checked.h``).
    """

    entries: dict[tuple[str, str], int]
    plan: MemoryPlan
    constant: set[Slot]
    checked: bool = False
    frozen: list[str] = field(default_factory=list)

    def place(self, slot: Slot, element: int) -> PlaceInTable:
        """The place of ``element`` of ``slot``."""
        offset = element * slot.type.dtype.itemsize
        if slot.space == "arena":
            return 0, self.plan.offset[slot] + offset
        return self.entries[slot.space, slot.name], offset

    def keep(self, kernel: str) -> PlaceInTable:
        """A new place for what ``kernel`` packs."""
        self.frozen.append(kernel)
        return len(self.entries) + 1, (len(self.frozen) - 1) * ctypes.sizeof(ctypes.c_void_p)


def identifiers(names: Sequence[str]) -> list[str]:
    """A C identifier for each name that is no keyword, no macro (those have no lower-case letter) and no other's."""
    found: list[str] = []
    for name in names:
        text = re.sub(r"[^0-9A-Za-z_]", "_", name)
        if text in _TAKEN or not re.match("[A-Za-z]", text) or not re.search("[a-z]", text):
            text = f"the_{text}"
        found.append(text if text not in found else next(t for i in count(1) if (t := f"{text}_{i}") not in found))
    return found


class CPrinter(ABC):
    """Prints the blocks of one kernel; ``arrays`` names the variables that hold a value per lane, read as ``name[j]``."""

    def __init__(self, kernel: Kernel, buffers: Buffers) -> None:
        self.group, self.buffers = kernel.group.name, buffers
        self.arrays: set[str] = set()
        self.element = "o * SIZE + j"  # of what is kept of a row
        stores = [s for b in blocks(kernel) for s in b.stores]
        self.stored = {s.slot for s in stores}
        touched = [(slot, offset) for b in blocks(kernel) for slot, offset, _ in loads(b)]
        touched += [(s.slot, s.offset) for s in stores]
        self.first: dict[Slot, int] = {}  # the element of each slot that its field points to
        for slot, offset in touched:
            self.first[slot] = min(self.first.get(slot, offset.const), offset.const)
        self.first = {slot: first if 0 <= first < slot.type.size else 0 for slot, first in self.first.items()}
        self.fields = {slot: f"@{number}" for number, slot in enumerate(self.first)}
        self.places = [buffers.place(slot, first) for slot, first in self.first.items()]
        self.int = "long" if counts(kernel) > LIMIT else "int"  # of what indices are made: loops of int are vectorised better

    @property
    def decisions(self) -> list[Decision]:
        """The choices that the text has in it."""
        return []

    @property
    def suffix(self) -> str:
        """The end of the name of the function to call, behind the kernel's."""
        return ""

    @abstractmethod
    def generate(self) -> tuple[int | None, list[str]]:
        """The number of tasks and the text; None where the text shares out its work itself."""

    def named(self, text: str) -> str:
        """``text`` with the names of the kernel's group and of the graph's values."""
        names = identifiers([slot.name for slot in self.fields])
        return re.sub(r"@(\d*)", lambda found: names[int(found[1])] if found[1] else self.group, text)

    def opened(self, more: Sequence[tuple[str, str]] = ()) -> list[str]:
        """The struct of the kernel's buffers, and the function that fills it from the table of its places.

        ``more`` are types and names of fields for what lies behind the places in that table.
        """
        types = {s: f"{'' if s in self.stored else 'const '}{C_TYPES[s.type.dtype]} *" for s in self.fields}
        members = "".join(f" {types[s]}{n};" for s, n in self.fields.items()) or " char none;"
        values = [f".{n} = table[{i}]" for i, n in enumerate(self.fields.values())] or ["0"]
        members += "".join(f" {kind} {name};" for kind, name in more)
        values += [f".{name} = table[{i}]" for i, (_, name) in enumerate(more, len(self.places))]
        return [
            f"typedef struct {{{members} }} @_buffers;",
            "GRT_INLINE @_buffers @_open(void **table) {",
            "  (void)table;",
            f"  return (@_buffers){{{', '.join(values)}}};",
            "}",
        ]

    def task(self) -> list[str]:
        """The head of the function that runs one task."""
        return ["GRT_HIDDEN void @_task(long task, void **table) {", "  const @_buffers buf = @_open(table);"]

    # --- blocks ---------------------------------------------------------------------------------------------------

    def var(self, v: Var) -> str:
        """The name of ``v``, or its element of an array."""
        return f"{v.name}[j]" if v.name in self.arrays else v.name

    def expression(self, inst: Inst, at: dict[str, Expr]) -> str:
        """The right-hand side of ``inst`` with axes replaced by ``at``."""
        if inst.op == "load":
            slot, offset, guards = inst.args
            place, condition = self.index(slot, offset, at), self.guard(guards, at)
            if not condition:
                return f"buf.{self.fields[slot]}[{place}]"
            if slot.space != "arena":  # GCC may read what a mask hides; only the arena has room around it
                place = f"{condition} ? {place} : 0"
            return f"{condition} ? buf.{self.fields[slot]}[{place}] : 0"
        if inst.op == "const":
            return c_number(inst.args[0], inst.out.dtype)
        if inst.op == "index":
            return self.expr(inst.args[0], at)
        if inst.op == "guard":
            return self.guard(inst.args[0], at) or "1"
        if inst.op == "uniform":
            seed, counter, stream, element = inst.args
            return f"grt_uniform({self.var(seed)}, {self.var(counter)}, {stream}u, (uint32_t)({self.expr(element, at)}))"
        if inst.op == "kept":
            return f"{inst.args[0].name}_row[{self.element}]"
        if inst.op == "cast":
            return self.converted(inst.args[0], inst.out.dtype)
        return scalar(inst, C, self.var)

    def converted(self, x: Var, dtype: DType) -> str:
        """``x`` as ``dtype``."""
        text = self.var(x)
        if x.dtype is dtype:
            return text
        if dtype.is_bool:
            return f"{text} != 0"
        if dtype is bfloat16:
            return f"grt_to_bf16({text})"
        return f"({C_TYPES[dtype]})" + (f"grt_from_bf16({text})" if x.dtype is bfloat16 else text)

    def expr(self, e: Expr, at: dict[str, Expr]) -> str:
        """The index expression ``e`` with axes replaced by ``at``."""
        lanes = {name: f"{name}[j]" for name in e.axes() & self.arrays}  # positions found at run time
        return (e.renamed(lanes) if lanes else e).substitute(at).render("/")

    def index(self, slot: Slot, offset: Expr, at: dict[str, Expr]) -> str:
        """The index of a slot's element at ``offset`` behind its field."""
        text, first = self.expr(offset - self.first[slot], at), self.first[slot]
        return f'grt_at({text}, {first}, {slot.type.size}, "{self.fields[slot]}")' if self.buffers.checked else text

    def guard(self, guards: tuple[tuple[Expr, int, int], ...], at: dict[str, Expr]) -> str:
        """The condition that all ``guards`` hold; empty where they always do."""
        text = guard_text(tuple((e.substitute(at), lo, hi) for e, lo, hi in guards), "/", " && ")
        return f"({text})" if text else ""

    def insts(self, block: Block, at: dict[str, Expr], indent: str) -> list[str]:
        """The instructions of ``block``, a constant each; loads come first: GCC moves one behind a condition into the branch
        that reads it, and a loop with a load in a branch may not be vectorised."""
        found = {i.out.name for i in block.insts}  # positions are among them where one is gathered from

        def waits(inst: Inst) -> bool:
            _, offset, guards = inst.args
            return any(e.runs_along(found) for e in (offset, *(e for e, _, _ in guards)))

        ordered = sorted(block.insts, key=lambda i: i.op != "load" or waits(i))
        return [f"{indent}const {C_TYPES[i.out.dtype]} {i.out.name} = {self.expression(i, at)};" for i in ordered]

    def stores(self, stores: Sequence[Store], at: dict[str, Expr], indent: str) -> list[str]:
        """The assignments of ``stores``."""
        lines = []
        for s in stores:
            exact = s.exact and s.slot.type.dtype is bfloat16 and s.var.dtype is float32
            value = f"grt_upper_half({self.var(s.var)})" if exact else self.converted(s.var, s.slot.type.dtype)
            to = "=" if s.rows == 1 else "+="
            lines.append(f"{indent}buf.{self.fields[s.slot]}[{self.index(s.slot, s.offset, at)}] {to} {value};")
        return lines


def initial(op: str, dtype: DType) -> str:
    """The C literal that a fold ``op`` starts from."""
    return c_number(identity(op, dtype), dtype)


def combine(op: str, total: str, x: str, dtype: DType) -> str:
    """The C expression of ``total`` with ``x`` folded in."""
    form = {"sum": "{0} + {1}", "prod": "{0} * {1}", "max": "grt_max({0}, {1})", "min": "grt_min({0}, {1})"}[op]
    return wrapping(form, (total, x), dtype) if dtype.is_int and op in ("sum", "prod") else form.format(total, x)

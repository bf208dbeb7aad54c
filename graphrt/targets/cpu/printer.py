"""Prints blocks of Kernel IR as C, and the kernels that have a template.

A template kernel becomes closures (always-inline functions), macros and an ``#include`` of the template from ``kernels/c``.
Each kernel opens its buffers into a struct of typed pointers, named after the graph's values: locals, which no store can
change, so that addresses are computed once. Where they lie is no part of the text: a launch hands its kernel a table of
places, so that launches that differ in nothing else share a kernel. Until ``named`` puts names in, ``@`` stands for the
kernel's and ``@0``, ``@1`` for the fields'.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import count

from graphrt.index import Expr
from graphrt.schedule.kernel_ir import (
    Block,
    Inst,
    Kernel,
    Store,
    TemplateKernel,
    Var,
)
from graphrt.schedule.memory import MemoryPlan, blocks, loads
from graphrt.schedule.schedule import Slot
from graphrt.targets.cpu.loops import unit
from graphrt.targets.limits import LIMIT, counts
from graphrt.targets.scalar import C_TYPES, C, c_number, guard_text, identity, scalar, wrapping
from graphrt.targets.templates import kernels as find_kernels
from graphrt.types import DType, bfloat16

_TAKEN = {
    *"auto break case char const continue default do double else enum extern float for goto if inline int long".split(),
    *"register restrict return short signed sizeof static struct switch typedef union unsigned void volatile while".split(),
    *("asm", "typeof", "linux", "unix", "i386"),  # words and macros of GNU C
}
_HEADERS = {
    "max_pool": "pool.h",
    "sum_pool": "pool.h",
    "max_pool_grad": "pool_grad.h",
    "sum_pool_grad": "pool_grad.h",
    "max_pool_gather": "pool_gather.h",
}


PlaceInTable = tuple[int, int]  # entry of the program's table of pointers, bytes from where it points


@dataclass(frozen=True)
class Buffers:
    """Where each slot is: entry of the pointer table, and byte offset for what lies in the arena (entry 0).

    ``constant`` slots never change; ``frozen`` names the kernels that keep what they pack of them, behind the last entry. If
    ``checked``, kernels look at each index before they use it (``kernels/c/checked.h``).
    """

    entries: dict[tuple[str, str], int]
    plan: MemoryPlan
    constant: set[Slot]
    checked: bool = False
    frozen: list[str] = field(default_factory=list)

    def place(self, slot: Slot, element: int) -> PlaceInTable:
        """Where ``element`` of ``slot`` is."""
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


def included(header: str, macros: Mapping[str, object]) -> list[str]:
    """The template ``header`` with ``macros``, and behind it nothing that either has defined."""
    defined = dict.fromkeys([*macros, *_macros(header)])
    return [
        *(f"#define {name} {value}" for name, value in macros.items()),
        f'#include "{header}"',
        *(f"#undef {name}" for name in defined),
    ]


@cache
def _macros(header: str) -> tuple[str, ...]:
    """What a template defines for one kernel, in its own file and in those it includes; guarded files are for all kernels."""
    text = (find_kernels() / "c" / header).read_text()
    if "#ifndef GRAPHRT_" in text:
        return ()
    found = dict.fromkeys(re.findall(r"^#define (\w+)", text, re.M))
    for name in re.findall(r'^#include "(.+)"', text, re.M):
        found.update(dict.fromkeys(_macros(name)))
    return tuple(found)


class Printer:
    """Prints one kernel; ``arrays`` names the variables that hold a value per lane, read as ``name[j]``."""

    def __init__(self, kernel: Kernel, buffers: Buffers, winograd: int) -> None:
        self.group, self.buffers, self.winograd = kernel.group.name, buffers, winograd
        self.arrays: set[str] = set()
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

    def named(self, text: str) -> str:
        """``text`` with the names of the kernel's group and of the graph's values."""
        names = identifiers([slot.name for slot in self.fields])
        return re.sub(r"@(\d*)", lambda found: names[int(found[1])] if found[1] else self.group, text)

    def opened(self) -> list[str]:
        """The struct of the kernel's buffers, and the function that fills it from the table of its places."""
        types = {s: f"{'' if s in self.stored else 'const '}{C_TYPES[s.type.dtype]} *" for s in self.fields}
        members = "".join(f" {types[s]}{n};" for s, n in self.fields.items()) or " char none;"
        values = [f".{n} = table[{i}]" for i, n in enumerate(self.fields.values())] or ["0"]
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
        return f"{v.name}[j]" if v.name in self.arrays else v.name

    def expression(self, inst: Inst, at: dict[str, Expr]) -> str:
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
            return f"{inst.args[0].name}_row[o * SIZE + j]"
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
        lanes = {name: f"{name}[j]" for name in e.axes() & self.arrays}  # positions found at run time
        return (e.renamed(lanes) if lanes else e).substitute(at).render("/")

    def index(self, slot: Slot, offset: Expr, at: dict[str, Expr]) -> str:
        """The index of a slot's element at ``offset`` behind its field."""
        text, first = self.expr(offset - self.first[slot], at), self.first[slot]
        return f'grt_at({text}, {first}, {slot.type.size}, "{self.fields[slot]}")' if self.buffers.checked else text

    def guard(self, guards: tuple[tuple[Expr, int, int], ...], at: dict[str, Expr]) -> str:
        text = guard_text(tuple((e.substitute(at), lo, hi) for e, lo, hi in guards), "/", " && ")
        return f"({text})" if text else ""

    def insts(self, block: Block, at: dict[str, Expr], indent: str) -> list[str]:
        return [f"{indent}const {C_TYPES[i.out.dtype]} {i.out.name} = {self.expression(i, at)};" for i in block.insts]

    def stores(self, stores: Sequence[Store], at: dict[str, Expr], indent: str) -> list[str]:
        lines = []
        for s in stores:
            value = self.converted(s.var, s.slot.type.dtype)
            lines.append(f"{indent}buf.{self.fields[s.slot]}[{self.index(s.slot, s.offset, at)}] = {value};")
        return lines

    # --- templates ------------------------------------------------------------------------------------------------

    def template(self, kernel: TemplateKernel) -> list[str]:
        """The closures, macros and the template."""
        spec, ctype = kernel.spec, C_TYPES[kernel.dtype]
        assert kernel.group.anchor is not None
        lines, macros = self.opened(), {"NAME": "@", "T": ctype}
        matmul = spec.family == "matmul"
        letters = kernel.sizes if matmul else {(f"C{k}" if len(k) == 1 else k): v for k, v in kernel.sizes.items()}
        macros.update({k: str(int(v) if isinstance(v, bool) else v) for k, v in letters.items()})
        if "OP" in kernel.sizes:
            macros["START"] = initial(kernel.sizes["OP"], kernel.dtype)
        for operand, block in kernel.loaders.items():
            params = ", ".join(f"{self.int} {p}" for p in block.params)
            assert block.result is not None
            kind = ctype if block.result.dtype.is_float else C_TYPES[block.result.dtype]
            lines.append(f"GRT_INLINE {kind} @_{operand}(const @_buffers buf, {params}) {{")
            lines += [*self.insts(block, {}, "  "), f"  return {block.result.name};", "}"]
            macros[f"LOAD_{operand}"] = f"@_{operand}"
        given = ", ".join(f"{'int' if i else C_TYPES[v.dtype]} {v.name}" for i, v in enumerate(kernel.epilogue.given))
        params = ", ".join(f"{self.int} {p}" for p in kernel.epilogue.params)
        lines.append(f"GRT_INLINE void @_store(const @_buffers buf, {params}, {given}) {{")
        lines += [*self.insts(kernel.epilogue, {}, "  "), *self.stores(kernel.epilogue.stores, {}, "  "), "}"]
        macros["STORE_C" if matmul else "STORE"] = "@_store"
        macros.update(self._hints(kernel))
        for operand in kernel.loaders.keys() & {"B", "W"}:  # what is packed
            macros["FROZEN"] = str(self._frozen(kernel.loaders[operand]))
        return [*lines, *included(_HEADERS.get(spec.name, spec.name + ".h"), macros)]

    def _frozen(self, block: Block) -> int:
        """Which of the kernel's places says where the values of ``block`` are kept packed; 0 if they may change."""
        slots = {slot for slot, *_ in loads(block)}
        if not slots or slots - self.buffers.constant or any(i.op == "uniform" for i in block.insts):
            return 0
        self.places.append(self.buffers.keep(self.group))
        return len(self.places) - 1

    def _hints(self, kernel: TemplateKernel) -> dict[str, str]:
        """Which coordinate is the unit stride of each operand: it decides loop orders, never results."""
        loaders, name, family = kernel.loaders, kernel.spec.name, kernel.spec.family
        if family == "line":
            return {}
        if family == "matmul":
            fast = {"A_FAST_M": unit(loaders["A"], "m", "k"), "B_FAST_N": unit(loaders["B"], "n", "k")}
            read = {"A_DIRECT": fast["A_FAST_M"] == "0", "B_DIRECT": fast["B_FAST_N"] == "1"}
            return {**fast, **{k: str(int(there and _direct(loaders[k[0]]))) for k, there in read.items()}}
        hints = {}
        if family == "conv":
            hints["WINOGRAD"] = str(self.winograd)
            first = next(iter(loaders.values()))
            hints["X_CHANNELS_LAST"] = unit(
                loaders.get("X", first), "c" if "X" in loaders else "k", "w" if "X" in loaders else "q"
            )
            hints |= {f"{operand}_DIRECT": str(int(_direct(block))) for operand, block in loaders.items() if operand != "W"}
            if "W" in loaders:
                hints["W_FAST_K"] = unit(loaders["W"], "k", "c")
            if "DY" in loaders:
                hints["DY_CHANNELS_LAST"] = unit(loaders["DY"], "k", "q")
            return hints
        operand, block = next(iter(loaders.items()))
        larger = (kernel.epilogue, "w") if name.endswith("_grad") else (block, kernel.spec.operands[operand][-1])
        hints["CHANNELS_LAST"] = unit(larger[0], "c", larger[1])
        hints["OP_MAX" if name.startswith("max") else "OP_SUM"] = "1"
        return hints


def _direct(block: Block) -> bool:
    """Whether ``block`` is no more than a load."""
    return [(i.op, i.args[-1]) for i in block.insts] == [("load", ())]


def initial(op: str, dtype: DType) -> str:
    return c_number(identity(op, dtype), dtype)


def combine(op: str, total: str, x: str, dtype: DType) -> str:
    form = {"sum": "{0} + {1}", "prod": "{0} * {1}", "max": "grt_max({0}, {1})", "min": "grt_min({0}, {1})"}[op]
    return wrapping(form, (total, x), dtype) if dtype.is_int and op in ("sum", "prod") else form.format(total, x)

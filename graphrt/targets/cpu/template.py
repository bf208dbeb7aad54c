"""Prints the kernels that have a template: closures (always-inline functions), macros, an ``#include`` from ``kernels/c``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from graphrt.index import Expr, axis
from graphrt.passes.decision import Decision
from graphrt.schedule.kernel_ir import Block, TemplateKernel, Var
from graphrt.schedule.memory import loads
from graphrt.targets.cpu.ahead import Ahead
from graphrt.targets.cpu.loops import depends, lies_along
from graphrt.targets.cpu.printer import Buffers, CPrinter, initial
from graphrt.targets.cpu.reduction_rewrites import sliced
from graphrt.targets.cpu.variants import DEPTH, Processor, choose, depth
from graphrt.targets.scalar import C_TYPES
from graphrt.targets.templates import find_kernels
from graphrt.types import bfloat16, float32

_HEADERS = {
    "max_pool": "pool.h",
    "sum_pool": "pool.h",
    "max_pool_grad": "pool_grad.h",
    "sum_pool_grad": "pool_grad.h",
    "max_pool_gather": "pool_gather.h",
}


class TemplatePrinter(CPrinter):
    """Prints one template kernel; ``variant`` are the loops that compute it, None where the template has no choice."""

    def __init__(self, kernel: TemplateKernel, buffers: Buffers, processor: Processor, limited: bool = False) -> None:
        super().__init__(kernel, buffers)
        self.kernel, self.limited = kernel, limited
        self.hints = _hints(kernel)
        packed = next((kernel.loaders[o] for o in ("B", "W") if o in kernel.loaders), None)
        self.frozen = self._frozen(packed) if packed is not None else None
        last = self.hints.get("DY_CHANNELS_LAST" if kernel.spec.name == "conv_dgrad" else "X_CHANNELS_LAST", False)
        self.variant = choose(kernel.spec.name, kernel.sizes, last, bool(self.frozen), processor, _halves(kernel))
        self.pointwise = self.variant is not None and self.variant.file == "conv_pointwise.h"
        self.paired = self.variant is not None and self.variant.more.get("PAIRS") == "1"
        if self.paired:
            directly = {f"{o}_DIRECT": o != "B" and self._pairs_lie(o) for o in kernel.loaders}
            self.hints |= {name: directly[name] for name in self.hints.keys() & directly}
        self.ahead = Ahead.of(kernel, self._pixels(kernel.epilogue).keys())

    @property
    def decisions(self) -> list[Decision]:
        """The choice of the loops."""
        assert self.kernel.group.anchor is not None
        return self.variant.decisions(self.kernel.group.anchor.outputs[0].name) if self.variant is not None else []

    @property
    def suffix(self) -> str:
        """That of the function that computes ahead and then calls the template's."""
        return "_ahead" if self.ahead is not None else ""

    def generate(self) -> tuple[int | None, list[str]]:
        """The closures, macros and the template; it shares out its work itself."""
        kernel = self.kernel
        matmul = kernel.spec.family == "matmul"
        lines, macros = self.opened(self._computed()), {"NAME": "@", "T": C_TYPES[kernel.dtype]}
        sizes = paired_sizes(kernel) if self.paired else kernel.sizes
        letters = sizes if matmul else {(f"C{k}" if len(k) == 1 else k): v for k, v in sizes.items()}
        macros.update({k: str(int(v) if isinstance(v, bool) else v) for k, v in letters.items()})
        if "OP" in kernel.sizes:
            macros["START"] = initial(kernel.sizes["OP"], kernel.dtype)
        for operand, block in kernel.loaders.items():
            lines += self._pair_loader(operand, block) if self.paired else self._loader(operand, block)
            macros[f"LOAD_{operand}"] = f"@_{operand}"
        lines += self._store()
        macros["STORE_C" if matmul else "STORE"] = "@_store"
        if self.pointwise:
            lines += self._fetch()
            macros["FETCH"] = "@_fetch"
        macros.update({name: str(int(hint)) for name, hint in self.hints.items()})
        if self.limited and self._rows_are_m():
            macros["ROWS_M"] = "1"
        if self.frozen is not None:
            macros["FROZEN"] = str(self.frozen)
        if self.variant is not None:
            macros.update(self.variant.macros)
        name = kernel.spec.name
        return None, [*lines, *included(_HEADERS.get(name, f"{name}.h"), macros), *self._launch()]

    def _computed(self) -> list[tuple[str, str]]:
        """The field of what is computed ahead."""
        return [(f"const {C_TYPES[self.kernel.dtype]} *", "ahead")] if self.ahead is not None else []

    def _launch(self) -> list[str]:
        """The function that computes ahead and then calls the template's."""
        if (ahead := self.ahead) is None:
            return []
        kind, places, size = C_TYPES[self.kernel.dtype], len(self.places), ahead.size
        return [
            f"GRT_LAUNCH void @{self.suffix}(void **table) {{",
            f"  {kind} ahead[{len(ahead.values) * size}] __attribute__((aligned(64)));",
            f"  void *with[{places + 1}];",
            "  memcpy(with, table, sizeof with - sizeof *with);",
            f"  with[{places}] = ahead;",
            "  const @_buffers buf = @_open(with);",
            f"  GRT_SIMD for ({self.int} {ahead.axis} = 0; {ahead.axis} < {size}; {ahead.axis}++) {{",
            *self.insts(ahead.block, {}, "    "),
            *(f"    ahead[{i * size} + {ahead.axis}] = {v.name};" for i, v in enumerate(ahead.values)),
            "  }",
            "  @(with);",
            "}",
        ]

    def _rows_are_m(self) -> bool:
        """Whether the rows of the batch are those of one product."""
        return self.pointwise or (self.kernel.spec.name == "matmul" and self.kernel.sizes["BATCH"] == 1)

    def _pixels(self, block: Block) -> dict[str, Expr]:
        """The coordinates of ``block`` that say which pixel it is about, by that one's number in the batch: a product of all
        pixels passes it in place of the column. Most tensors lie so that no quotient is left."""
        if not self.pointwise or not any(block is b for b in (self.kernel.epilogue, *self._images())):
            return {}
        sizes, forward = self.kernel.sizes, self.kernel.spec.name == "conv"
        rows, columns = (sizes["P"], sizes["Q"]) if forward else (sizes["H"], sizes["W"])
        down, across = (sizes["STRIDE_H"], sizes["STRIDE_W"]) if block is not self.kernel.epilogue else (1, 1)
        image, _, row, column = block.params
        number = axis(column, sizes["N"] * rows * columns)
        return {
            image: number // max(rows * columns, 1),
            row: number // max(columns, 1) % max(rows, 1) * down,
            column: number % max(columns, 1) * across,
        }

    def _images(self) -> list[Block]:
        """The loaders of what is no filter."""
        return [block for operand, block in self.kernel.loaders.items() if operand != "W"]

    def _loader(self, operand: str, block: Block) -> list[str]:
        """The closure that computes an element of ``operand``."""
        assert block.result is not None
        params = ", ".join(f"{self.int} {p}" for p in block.params)
        kind = C_TYPES[self.kernel.dtype if block.result.dtype.is_float else block.result.dtype]
        head = f"GRT_INLINE {kind} @_{operand}(const @_buffers buf, {params}) {{"
        return [head, *self.insts(block, self._pixels(block), "  "), f"  return {block.result.name};", "}"]

    def _pair_loader(self, operand: str, block: Block) -> list[str]:
        """The closure that gives two elements of ``operand``, neighbours along the coordinate that is summed over."""
        at = DEPTH[self.kernel.spec.name].lower()
        number, groups = depth(self.kernel.spec.name, self.kernel.sizes)
        params = ", ".join(f"{self.int} {p}" for p in block.params)
        head = f"GRT_INLINE float @_{operand}(const @_buffers buf, {params}) {{"
        if self._pairs_lie(operand):
            slot, offset, _ = loads(block)[0]
            place = self.index(slot, offset, {**self._pixels(block), at: axis(at, -(-number * groups // 2)) * 2})
            return [head, f"  return grt_pair_at(&buf.{self.fields[slot]}[{place}]);", "}"]
        assert block.narrow is not None
        first = ", ".join(f"2 * {p}" if p == at else p for p in block.params)
        odd = groups == 1 and number % 2 == 1  # the last pair has but one
        there = f"(2 * {at} + 1 < {number} ? 2 * {at} + 1 : 2 * {at})" if odd else f"2 * {at} + 1"
        other = f"@_{operand}_one(buf, {', '.join(there if p == at else p for p in block.params)})"
        return [
            f"GRT_INLINE grt_bf16 @_{operand}_one(const @_buffers buf, {params}) {{",
            *self.insts(_until(block, block.narrow), self._pixels(block), "  "),
            f"  return {self.converted(block.narrow, bfloat16)};",
            "}",
            head,
            f"  const grt_bf16 other = {f'2 * {at} + 1 < {number} ? {other} : 0' if odd else other};",
            f"  return grt_pair(@_{operand}_one(buf, {first}), other);",
            "}",
        ]

    def _pairs_lie(self, operand: str) -> bool:
        """Whether pairs of ``operand`` lie in memory as they are: no more than a load of two neighbours."""
        block, (number, _) = self.kernel.loaders[operand], depth(self.kernel.spec.name, self.kernel.sizes)
        plain = [(i.op, i.args[-1]) for i in block.insts if i.op != "cast"] == [("load", ())] and len(block.insts) <= 2
        stored = plain and loads(block)[0][0].type.dtype is bfloat16
        return stored and number % 2 == 0 and loads(block)[0][1].stride(DEPTH[self.kernel.spec.name].lower()) == 1

    def _store(self) -> list[str]:
        """The closure that stores an element of the result."""
        block, there = self.kernel.epilogue, list[str]()
        if (ahead := self.ahead) is not None:
            block = ahead.rest(block)
            there = [
                f"  const {C_TYPES[v.dtype]} {v.name} = buf.ahead[{i * ahead.size} + {ahead.axis}];"
                for i, v in enumerate(ahead.values)
            ]
        given = [f"{'int' if i and v.dtype.is_int else C_TYPES[v.dtype]} {v.name}" for i, v in enumerate(block.given)]
        params = ", ".join([*(f"{self.int} {p}" for p in block.params), *given])
        head, at = f"GRT_INLINE void @_store(const @_buffers buf, {params}) {{", self._pixels(self.kernel.epilogue)
        return [head, *there, *self.insts(block, at, "  "), *self.stores(block.stores, at, "  "), "}"]

    def _fetch(self) -> list[str]:
        """The closure that fetches what that of stores is about to meet where rows of pixels are a filter's number apart."""
        block, at = self.kernel.epilogue, self._pixels(self.kernel.epilogue)
        column = block.params[1]
        met = [(s.slot, s.offset, 1) for s in block.stores if not s.guards]
        met += [(slot, offset, 0) for slot, offset, guards in loads(block) if not guards and len(offset.axes()) > 1]
        found = {i.out.name for i in block.insts}  # positions that are loaded themselves
        places = {
            f"  __builtin_prefetch(&buf.{self.fields[slot]}[{self.index(slot, offset, at)}], {written});"
            for slot, offset, written in met
            if offset.stride(column) == 1 and not offset.runs_along(found) and not self.buffers.checked
        }
        params = ", ".join(f"{self.int} {p}" for p in block.params)
        return [f"GRT_INLINE void @_fetch(const @_buffers buf, {params}) {{", *sorted(places), "}"]

    def _frozen(self, block: Block) -> int:
        """The number of the kernel's place that says where the values of ``block`` are kept packed; 0 if they may change."""
        slots = {slot for slot, *_ in loads(block)}
        if not slots or slots - self.buffers.constant or any(i.op == "uniform" for i in block.insts):
            return 0
        self.places.append(self.buffers.keep(self.group))
        return len(self.places) - 1


def _hints(kernel: TemplateKernel) -> dict[str, bool]:
    """The coordinate of unit stride of each operand: it decides loop orders, never results."""
    loaders, name = kernel.loaders, kernel.spec.name
    if name == "scatter":
        return {"SHARED": not depends(loaders["INDEX"], "i")}
    if kernel.spec.family in ("line", "attention"):
        return {}
    if kernel.spec.family == "matmul":
        a, b = lies_along(loaders["A"], "m", "k"), lies_along(loaders["B"], "n", "k")
        direct = {"A_DIRECT": not a and _direct(loaders["A"]), "B_DIRECT": b and _is_row(loaders["B"], "n")}
        return {"A_FAST_M": a, "B_FAST_N": b, **direct}
    if kernel.spec.family == "conv":
        first = next(iter(loaders.values()))
        last = lies_along(loaders["X"], "c", "w") if "X" in loaders else lies_along(first, "k", "q")
        hints = {"X_CHANNELS_LAST": last}
        hints |= {f"{operand}_DIRECT": _direct(block) for operand, block in loaders.items() if operand != "W"}
        if "W" in loaders:
            hints["W_FAST_K"] = lies_along(loaders["W"], "k", "c")
        if "DY" in loaders:
            hints["DY_CHANNELS_LAST"] = lies_along(loaders["DY"], "k", "q")
        if name == "conv_wgrad":
            hints["STORED_FAST_K"] = lies_along(kernel.epilogue, "k", "c")
        return hints
    operand, block = next(iter(loaders.items()))
    larger = (kernel.epilogue, "w") if name.endswith("_grad") else (block, kernel.spec.operands[operand][-1])
    hints = {"CHANNELS_LAST": lies_along(larger[0], "c", larger[1]), "OP_MAX" if name.startswith("max") else "OP_SUM": True}
    return hints | ({"INDEXED": _uses(kernel.epilogue, kernel.epilogue.given[1])} if name == "max_pool" else {})


def _uses(block: Block, v: Var) -> bool:
    """Whether what ``block`` stores depends on ``v``."""
    stored = [s.var for s in block.stores]
    return v in stored or any(v in inst.args for inst in sliced(block, stored))


def _halves(kernel: TemplateKernel) -> bool:
    """Whether all operands of a contraction are bfloat16, or numbers that are cast from it."""
    anchor = kernel.group.anchor
    if kernel.spec.name not in DEPTH or kernel.dtype is not float32 or anchor is None:
        return False
    made = zip(anchor.inputs, kernel.loaders.values(), strict=True)
    return all(v.dtype is bfloat16 or (b.narrow is not None and b.narrow.dtype is bfloat16) for v, b in made)


def paired_sizes(kernel: TemplateKernel) -> dict[str, Any]:
    """The sizes of ``kernel`` with pairs counted in place of the numbers that it sums over."""
    number, groups = depth(kernel.spec.name, kernel.sizes)
    return {**kernel.sizes, DEPTH[kernel.spec.name]: -(-number // 2) * groups}


def _until(block: Block, v: Var) -> Block:
    """``block`` without the cast of ``v``, which it ends with."""
    return replace(block, insts=[i for i in block.insts if not (i.op == "cast" and i.out == block.result and i.args == (v,))])


def _direct(block: Block) -> bool:
    """Whether ``block`` is no more than a load."""
    return [(i.op, i.args[-1]) for i in block.insts] == [("load", ())]


def _is_row(block: Block, axis: str) -> bool:
    """Whether ``block`` is no more than a load, of elements side by side along ``axis`` as far as that goes."""
    return _direct(block) and block.insts[0].args[1].stride(axis) is not None


def included(header: str, macros: Mapping[str, object]) -> list[str]:
    """The template ``header`` with ``macros``, and behind it an #undef of all that either has defined."""
    files = [header, *(value.strip('"') for value in macros.values() if isinstance(value, str) and value.endswith('.h"'))]
    defined = dict.fromkeys([*macros, *(name for file in files for name in _macros(file))])
    return [
        *(f"#define {name} {value}" for name, value in macros.items()),
        f'#include "{header}"',
        *(f"#undef {name}" for name in defined),
    ]


@cache
def _macros(header: str) -> tuple[str, ...]:
    """The macros that a template defines for one kernel, in its own file and in those it includes.

    Guarded files are for all kernels.
    """
    text = (find_kernels() / "c" / header).read_text()
    if "#ifndef GRAPHRT_" in text:
        return ()
    found = dict.fromkeys(re.findall(r"^#define (\w+)", text, re.M))
    for name in re.findall(r'^#include "(.+)"', text, re.M):
        found.update(dict.fromkeys(_macros(name)))
    return tuple(found)

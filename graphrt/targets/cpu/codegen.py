"""Prints Kernel IR as C: one function per group, the plan line as its comment, sizes as named constants.

A template kernel becomes closures (always-inline functions), macros and an ``#include`` of the template from ``kernels/c``.
Pointwise and reduction kernels are generated whole: axes are merged while every address stays affine in the inner one, so
that the C compiler sees a plain vectorisable loop.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from graphrt.index import Expr, axis, delinearize
from graphrt.schedule.kernel_ir import (
    Block,
    Inst,
    Kernel,
    PointwiseKernel,
    ReductionKernel,
    Store,
    TemplateKernel,
    Var,
)
from graphrt.schedule.memory import MemoryPlan
from graphrt.schedule.order import Schedule, Slot
from graphrt.targets.scalar import C_TYPES, C, c_number, guard_text, identity, scalar
from graphrt.types import DType, bfloat16

CHUNK = 8192  # elements of a pointwise task: a few microseconds, well above the cost of handing it out
LANES = 128  # columns a column reduction accumulates side by side
_HEADERS = {
    "max_pool": "pool.h",
    "sum_pool": "pool.h",
    "max_pool_grad": "pool_grad.h",
    "sum_pool_grad": "pool_grad.h",
    "max_pool_gather": "pool_gather.h",
}


@dataclass(frozen=True)
class Buffers:
    """Where each slot is: entry of the pointer table, and byte offset for what lies in the arena (entry 0)."""

    entries: dict[tuple[str, str], int]
    plan: MemoryPlan

    def pointer(self, slot: Slot, const: bool) -> str:
        kind = f"{'const ' if const else ''}{C_TYPES[slot.type.dtype]} *"
        if slot.space == "arena":
            return f"(({kind})((char *)buf[0] + {self.plan.offset[slot]}))"
        return f"(({kind})buf[{self.entries[slot.space, slot.name]}])"


def generate(schedule: Schedule, kernels: Sequence[Sequence[Kernel]], plan: MemoryPlan) -> tuple[str, Buffers]:
    """The C source of a program and the table of its buffers."""
    entries: dict[tuple[str, str], int] = {}
    for space, names in (
        ("input", [n.name for n in schedule.graph.nodes if n.op.name == "input"]),
        ("state", [n.name for n in schedule.graph.nodes if n.op.name == "parameter"]),
        ("output", list(schedule.graph.outputs)),
    ):
        for name in names:
            entries[space, name] = len(entries) + 1
    buffers = Buffers(entries, plan)
    lines = ['#include "runtime.h"', '#include "elementwise.h"', ""]
    calls = []
    for number, (launch, group) in enumerate(zip(kernels, schedule.launches, strict=True)):
        lines.append(f"/* launch {number} */")
        tasks = []
        for kernel in launch:
            lines.append("/* " + _comment(str(kernel.group)) + " */")
            printer = Printer(kernel.group.name, buffers)
            if isinstance(kernel, TemplateKernel):
                lines += printer.template(kernel)
            else:
                count, text = printer.pointwise(kernel) if isinstance(kernel, PointwiseKernel) else printer.reduction(kernel)
                lines += text
                tasks.append((kernel.group.name, count))
            lines.append("")
        if tasks:
            lines += _launch(group.name, tasks)
        calls.append(group.name)
    lines += _entry(calls)
    return "\n".join(lines) + "\n", buffers


def _comment(text: str) -> str:
    """``text`` with nothing in it that could end a C comment or continue a line."""
    return text.replace("*/", "* /").replace("/*", "/ *").replace("\\", "/").replace("\n", " ").replace("??/", "")


def _entry(names: list[str]) -> list[str]:
    """The exported functions: one launch by number, and the whole program."""
    table = ", ".join(names) or "0"
    return [
        "/* entry */",
        f"static void (*const launches[])(void **) = {{{table}}};",
        "void graphrt_launch(int number, void **buf) { launches[number](buf); }",
        f"void graphrt_run(void **buf) {{ for (int i = 0; i < {len(names)}; i++) launches[i](buf); }}",
    ]


def _launch(name: str, tasks: list[tuple[str, int]]) -> list[str]:
    """One parallel launch over the tasks of several independent kernels."""
    if len(tasks) == 1:
        return [f"static void {name}(void **buf) {{ GRT_PARALLEL({name}_task, {tasks[0][1]}, buf); }}", ""]
    lines, start = [f"static void {name}_all(long task, void **buf) {{"], 0
    for i, (kernel, count) in enumerate(tasks):
        end = start + count
        condition = "else" if i == len(tasks) - 1 else f"{'else ' if i else ''}if (task < {end})"
        lines.append(f"  {condition} {kernel}_task(task - {start}, buf);")
        start = end
    return [*lines, "}", f"static void {name}(void **buf) {{ GRT_PARALLEL({name}_all, {start}, buf); }}", ""]


class Printer:
    """Prints one kernel; ``arrays`` names the variables that hold a value per lane, read as ``name[j]``."""

    def __init__(self, name: str, buffers: Buffers) -> None:
        self.name, self.buffers = name, buffers
        self.arrays: set[str] = set()

    # --- blocks ---------------------------------------------------------------------------------------------------

    def var(self, v: Var) -> str:
        return f"{v.name}[j]" if v.name in self.arrays else v.name

    def expression(self, inst: Inst, at: dict[str, Expr]) -> str:
        if inst.op == "load":
            slot, offset, guards = inst.args
            text = f"{self.buffers.pointer(slot, True)}[{self.expr(offset, at)}]"
            condition = self.guard(guards, at)
            return f"{condition} ? {text} : 0" if condition else text
        if inst.op == "const":
            return c_number(inst.args[0], inst.out.dtype)
        if inst.op == "index":
            return self.expr(inst.args[0], at)
        if inst.op == "guard":
            return self.guard(inst.args[0], at) or "1"
        if inst.op == "uniform":
            seed, counter, stream, element = inst.args
            return f"grt_uniform({self.var(seed)}, {self.var(counter)}, {stream}u, (uint32_t)({self.expr(element, at)}))"
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

    def guard(self, guards: tuple[tuple[Expr, int, int], ...], at: dict[str, Expr]) -> str:
        text = guard_text(tuple((e.substitute(at), lo, hi) for e, lo, hi in guards), "/", " && ")
        return f"({text})" if text else ""

    def insts(self, block: Block, at: dict[str, Expr], indent: str) -> list[str]:
        return [f"{indent}const {C_TYPES[i.out.dtype]} {i.out.name} = {self.expression(i, at)};" for i in block.insts]

    def stores(self, stores: Sequence[Store], at: dict[str, Expr], indent: str) -> list[str]:
        lines = []
        for s in stores:
            value = self.converted(s.var, s.slot.type.dtype)
            lines.append(f"{indent}{self.buffers.pointer(s.slot, False)}[{self.expr(s.offset, at)}] = {value};")
        return lines

    # --- templates ------------------------------------------------------------------------------------------------

    def template(self, kernel: TemplateKernel) -> list[str]:
        spec, ctype = kernel.spec, C_TYPES[kernel.dtype]
        lines, macros = [], {"NAME": self.name, "T": ctype, "ACC": ctype}
        letters = (
            kernel.sizes if spec.name == "matmul" else {(f"C{k}" if len(k) == 1 else k): v for k, v in kernel.sizes.items()}
        )
        macros.update({k: str(int(v) if isinstance(v, bool) else v) for k, v in letters.items()})
        if "OP" in kernel.sizes:
            macros["START"] = _initial(kernel.sizes["OP"], kernel.dtype)
        for operand, block in kernel.loaders.items():
            params = ", ".join(f"int {p}" for p in block.params)
            assert block.result is not None
            kind = ctype if block.result.dtype.is_float else C_TYPES[block.result.dtype]
            lines.append(f"GRT_INLINE {kind} {self.name}_{operand}(void *const *restrict buf, {params}) {{")
            lines += [*self.insts(block, {}, "  "), f"  return {block.result.name};", "}"]
            macros[f"LOAD_{operand}"] = f"{self.name}_{operand}"
        given = ", ".join(f"{'int' if i else C_TYPES[v.dtype]} {v.name}" for i, v in enumerate(kernel.epilogue.given))
        params = ", ".join(f"int {p}" for p in kernel.epilogue.params)
        lines.append(f"GRT_INLINE void {self.name}_store(void *const *restrict buf, {params}, {given}) {{")
        lines += [*self.insts(kernel.epilogue, {}, "  "), *self.stores(kernel.epilogue.stores, {}, "  "), "}"]
        macros["STORE"] = f"{self.name}_store"
        macros.update(self._hints(kernel))
        lines += [f"#define {k} {v}" for k, v in macros.items()]
        return [*lines, f'#include "{_HEADERS.get(spec.name, spec.name + ".h")}"']

    def _hints(self, kernel: TemplateKernel) -> dict[str, str]:
        """Which coordinate is the unit stride of each operand: it decides loop orders, never results."""
        loaders, name = kernel.loaders, kernel.spec.name
        if name in ("scan", "sort", "scatter", "nms"):
            return {}
        if name == "matmul":
            return {"A_FAST_M": _unit(loaders["A"], "m", "k"), "B_FAST_N": _unit(loaders["B"], "n", "k")}
        hints = {}
        if name.startswith("conv"):
            first = next(iter(loaders.values()))
            hints["X_CHANNELS_LAST"] = _unit(
                loaders.get("X", first), "c" if "X" in loaders else "k", "w" if "X" in loaders else "q"
            )
            if "DY" in loaders:
                hints["DY_CHANNELS_LAST"] = _unit(loaders["DY"], "k", "q")
            fast, slow = ("k", "q") if name == "conv" else ("c", "w") if name == "conv_dgrad" else ("k", "s")
            hints["OUT_CHANNELS_LAST"] = _unit(kernel.epilogue, fast, slow)
            return hints
        operand, block = next(iter(loaders.items()))
        larger = (kernel.epilogue, "w") if name.endswith("_grad") else (block, kernel.spec.operands[operand][-1])
        hints["CHANNELS_LAST"] = _unit(larger[0], "c", larger[1])
        hints["OP_MAX" if name.startswith("max") else "OP_SUM"] = "1"
        return hints

    # --- generated kernels ----------------------------------------------------------------------------------------

    def pointwise(self, kernel: PointwiseKernel) -> tuple[int, list[str]]:
        """Number of tasks and the text of ``NAME_task``."""
        dims = kernel.order
        outer, inner = _merge(dims, kernel.shape, [kernel.block], {}, "o", "j")
        at, rows, row = _bind(kernel.shape, outer, inner, "o", "j")
        indent = "    "
        body = [*self.insts(kernel.block, at, indent), *self.stores(kernel.block.stores, at, indent)]
        head = [f"static void {self.name}_task(long task, void **buf) {{"]
        if rows == 1:
            tasks = max(-(-row // CHUNK), 1)
            loop = [
                f"  enum {{ SIZE = {row}, CHUNK = {CHUNK} }};",
                "  const int begin = (int)task * CHUNK, end = SIZE - begin < CHUNK ? SIZE : begin + CHUNK;",
                '  _Pragma("GCC ivdep") for (int j = begin; j < end; j++) {',
                *body,
                "  }",
            ]
        else:
            step = max(CHUNK // max(row, 1), 1)
            tasks = max(-(-rows // step), 1)
            loop = [
                f"  enum {{ ROWS = {rows}, SIZE = {row}, STEP = {step} }};",
                "  const int begin = (int)task * STEP, end = ROWS - begin < STEP ? ROWS : begin + STEP;",
                '  for (int o = begin; o < end; o++) _Pragma("GCC ivdep") for (int j = 0; j < SIZE; j++) {',
                *body,
                "  }",
            ]
        return (tasks if rows * row else 0), [*head, *loop, "}"]

    def reduction(self, kernel: ReductionKernel) -> tuple[int, list[str]]:
        """Row by row if the innermost axis is reduced, else many columns side by side."""
        order = [*kernel.kept, *kernel.reduced]
        innermost = _innermost(kernel)
        assert len(order) == len(kernel.shape)
        columns = bool(kernel.kept) and innermost in kernel.kept and kernel.shape[innermost] > 1
        return self._columns(kernel) if columns else self._rows(kernel)

    def _rows(self, kernel: ReductionKernel) -> tuple[int, list[str]]:
        shape = kernel.shape
        rows = math.prod(shape[d] for d in kernel.kept)
        fixed = dict(
            zip([f"i{d}" for d in kernel.kept], delinearize(axis("x", rows), [shape[d] for d in kernel.kept]), strict=True)
        )
        inner_blocks = [p.inner for p in kernel.passes]
        outer, inner = _merge(kernel.reduced, shape, inner_blocks, fixed, "o", "j")
        loops, many, row = _bind(shape, outer, inner, "o", "j")
        at = {**fixed, **loops}
        step = max(CHUNK // max(many * row * len(kernel.passes), 1), 1)
        tasks = -(-rows // step)
        lines = [
            f"static void {self.name}_task(long task, void **buf) {{",
            f"  enum {{ ROWS = {rows}, OUTER = {many}, SIZE = {row}, STEP = {step} }};",
            "  const int begin = (int)task * STEP, end = ROWS - begin < STEP ? ROWS : begin + STEP;",
            "  for (int x = begin; x < end; x++) {",
        ]
        for p in kernel.passes:
            for op, _, result in p.reduces:
                lines.append(f"    {C_TYPES[result.dtype]} {result.name} = {_initial(op, result.dtype)};")
            sums = [result.name for op, _, result in p.reduces if op == "sum"]
            simple = len(sums) == len(p.reduces)
            hint = f'_Pragma("omp simd reduction(+:{",".join(sums)})") ' if sums and simple else ""
            lines.append(f"    for (int o = 0; o < OUTER; o++) {hint}for (int j = 0; j < SIZE; j++) {{")
            lines += self.insts(p.inner, at, "      ")
            lines += [f"      {r.name} = {_combine(op, r.name, self.var(x))};" for op, x, r in p.reduces]
            lines += [*self.stores(p.inner.stores, at, "      "), "    }"]
            lines += [*self.insts(p.after, at, "    "), *self.stores(p.after.stores, at, "    ")]
        return tasks, [*lines, "  }", "}"]

    def _columns(self, kernel: ReductionKernel) -> tuple[int, list[str]]:
        shape = kernel.shape
        reduced = math.prod(shape[d] for d in kernel.reduced)
        fixed = dict(
            zip(
                [f"i{d}" for d in kernel.reduced],
                delinearize(axis("r", reduced), [shape[d] for d in kernel.reduced]),
                strict=True,
            )
        )
        blocks = [b for p in kernel.passes for b in (p.inner, p.after)]
        outer, inner = _merge(kernel.kept, shape, blocks, fixed, "o", "x")
        loops, many, size = _bind(shape, outer, inner, "o", "x")
        at = {**fixed, **loops}
        lanes = max(min(size, LANES), 1)
        per = -(-size // lanes)
        lines = [
            f"static void {self.name}_task(long task, void **buf) {{",
            f"  enum {{ SIZE = {size}, LANES = {lanes}, BLOCKS = {per}, REDUCED = {reduced} }};",
            "  const int o = (int)task / BLOCKS, start = (int)task % BLOCKS * LANES;",
            "  const int lanes = SIZE - start < LANES ? SIZE - start : LANES;",
            "  (void)o;",
        ]
        loop = '_Pragma("GCC ivdep") for (int j = 0; j < lanes; j++) {'
        for p in kernel.passes:
            for op, _, result in p.reduces:
                first = _initial(op, result.dtype)
                lines.append(f"  {C_TYPES[result.dtype]} {result.name}[LANES];")
                lines.append(f"  for (int j = 0; j < LANES; j++) {result.name}[j] = {first};")
                self.arrays.add(result.name)
            lines += [f"  for (int r = 0; r < REDUCED; r++) {loop}", "      const int x = start + j;", "      (void)x;"]
            lines += self.insts(p.inner, at, "      ")
            lines += [f"      {self.var(r)} = {_combine(op, self.var(r), self.var(x))};" for op, x, r in p.reduces]
            lines += [*self.stores(p.inner.stores, at, "      "), "  }"]
            if p.after.insts or p.after.stores:
                declared = [i.out for i in p.after.insts]
                lines += [f"  {C_TYPES[v.dtype]} {v.name}_[LANES];" for v in declared]
                lines += [f"  {loop}", "      const int x = start + j;", "      (void)x;"]
                lines += self.insts(p.after, at, "      ")
                lines += self.stores(p.after.stores, at, "      ")
                lines += [f"      {v.name}_[j] = {v.name};" for v in declared] + ["  }"]
                for v in declared:
                    lines.append(f"  {C_TYPES[v.dtype]} *const {v.name} = {v.name}_;")
                    self.arrays.add(v.name)
        return many * per, [*lines, "}"]


def _initial(op: str, dtype: DType) -> str:
    return c_number(identity(op, dtype), dtype)


def _combine(op: str, total: str, x: str) -> str:
    return {
        "sum": f"{total} + {x}",
        "prod": f"{total} * {x}",
        "max": f"grt_max({total}, {x})",
        "min": f"grt_min({total}, {x})",
    }[op]


def _unit(block: Block, fast: str, slow: str) -> str:
    """ "1" if the block's memory runs along ``fast``: its smallest stride there is below that along ``slow``."""
    offsets = [i.args[1] for i in block.insts if i.op == "load"] + [s.offset for s in block.stores]
    if not offsets:
        return "0"
    largest = max(offsets, key=lambda e: len(e.axes()))
    a, b = largest.stride(fast), largest.stride(slow)
    return "1" if a is not None and abs(a) == 1 else "0" if b is not None and abs(b) == 1 else "1" if a else "0"


def _expressions(block: Block) -> list[Expr]:
    found = [s.offset for s in block.stores]
    for inst in block.insts:
        for arg in inst.args:
            if isinstance(arg, Expr):
                found.append(arg)
            elif isinstance(arg, tuple):
                found += [g[0] for g in arg]
    return found


def _merge(
    dims: Sequence[int], shape: Sequence[int], blocks: Sequence[Block], fixed: dict[str, Expr], o: str, j: str
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Cuts ``dims`` (memory order) into outer and inner ones: as many inner as keep every index affine in one axis."""
    for cut in range(len(dims) + 1):
        outer, inner = tuple(dims[:cut]), tuple(dims[cut:])
        if len(inner) <= 1:
            break
        at, _, _ = _bind(shape, outer, inner, o, j)
        if all(e.substitute({**fixed, **at}).stride(j) is not None for b in blocks for e in _expressions(b)):
            break
    return outer, inner


def _bind(shape: Sequence[int], outer: Sequence[int], inner: Sequence[int], o: str, j: str) -> tuple[dict[str, Expr], int, int]:
    """The domain's axes in terms of the loop axes, and the two trip counts."""
    many, size = math.prod(shape[d] for d in outer), math.prod(shape[d] for d in inner)
    at = dict(zip([f"i{d}" for d in outer], delinearize(axis(o, many), [shape[d] for d in outer]), strict=True))
    at.update(zip([f"i{d}" for d in inner], delinearize(axis(j, size), [shape[d] for d in inner]), strict=True))
    return at, many, size


def _innermost(kernel: ReductionKernel) -> int:
    """The axis along which the largest tensor that the rows read is contiguous."""
    best, chosen = -1, (*kernel.kept, *kernel.reduced)[-1]
    for inst in kernel.passes[0].inner.insts:
        if inst.op == "load" and inst.args[0].type.size > best:
            for d, n in enumerate(kernel.shape):
                if n > 1 and inst.args[1].stride(f"i{d}") == 1:
                    best, chosen = inst.args[0].type.size, d
    return chosen

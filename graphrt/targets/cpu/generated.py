"""Prints the kernels that have no template: loops over a domain, over rows, over columns side by side.

Axes are merged while every address stays affine in the inner one, so that the C compiler sees a plain vectorisable loop.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from graphrt.index import Expr, axis, delinearize
from graphrt.schedule.kernel_ir import Pass, PointwiseKernel, ReductionKernel, Var
from graphrt.targets.cpu.loops import bind, innermost, merge
from graphrt.targets.cpu.printer import Printer, combine, initial
from graphrt.targets.cpu.rows import choose, keep
from graphrt.targets.scalar import C_TYPES

CHUNK = 8192  # elements of a pointwise task: a few microseconds, well above the cost of handing it out
ROWS_CHUNK = 65536  # elements, over all passes, of a task of rows: long runs of memory suit the prefetcher
LANES = 128  # columns a column reduction accumulates side by side, at most
VECTOR = 16  # at least: a cache line of floats
TASKS = 8  # of a launch, at least, where there is so much to do: enough for a few threads to share evenly


class LoopPrinter(Printer):
    """Prints one pointwise or reduction kernel."""

    def generate(self, kernel: PointwiseKernel | ReductionKernel) -> tuple[int, list[str]]:
        """Number of tasks and the text of ``NAME_task``."""
        return self.pointwise(kernel) if isinstance(kernel, PointwiseKernel) else self.reduction(kernel)

    def pointwise(self, kernel: PointwiseKernel) -> tuple[int, list[str]]:
        """One loop nest over the domain."""
        dims = kernel.order
        outer, inner = merge(dims, kernel.shape, [kernel.block], {}, "o", "j")
        at, rows, row = bind(kernel.shape, outer, inner, "o", "j")
        indent = "    "
        body = [*self.insts(kernel.block, at, indent), *self.stores(kernel.block.stores, at, indent)]
        head = [*self.opened(), *self.task()]
        if rows == 1:
            tasks = max(-(-row // CHUNK), 1)
            loop = [
                f"  enum {{ SIZE = {row}, CHUNK = {CHUNK} }};",
                "  const int begin = (int)task * CHUNK, end = SIZE - begin < CHUNK ? SIZE : begin + CHUNK;",
                "  GRT_SIMD for (int j = begin; j < end; j++) {",
                *body,
                "  }",
            ]
        else:
            step = max(CHUNK // max(row, 1), 1)
            tasks = max(-(-rows // step), 1)
            loop = [
                f"  enum {{ ROWS = {rows}, SIZE = {row}, STEP = {step} }};",
                "  const int begin = (int)task * STEP, end = ROWS - begin < STEP ? ROWS : begin + STEP;",
                "  for (int o = begin; o < end; o++) GRT_SIMD for (int j = 0; j < SIZE; j++) {",
                *body,
                "  }",
            ]
        return (tasks if rows * row else 0), [*head, *loop, "}"]

    def reduction(self, kernel: ReductionKernel) -> tuple[int, list[str]]:
        """Row by row if the innermost axis is reduced, else many columns side by side."""
        fastest = innermost(kernel)
        columns = bool(kernel.kept) and fastest in kernel.kept and kernel.shape[fastest] > 1
        kernel = choose(kernel)
        return self._columns(kernel) if columns else self._rows(*keep(kernel))

    def _rows(self, kernel: ReductionKernel, kept: Sequence[Var]) -> tuple[int, list[str]]:
        shape = kernel.shape
        rows = math.prod(shape[d] for d in kernel.kept)
        fixed = dict(
            zip([f"i{d}" for d in kernel.kept], delinearize(axis("x", rows), [shape[d] for d in kernel.kept]), strict=True)
        )
        inner_blocks = [p.inner for p in kernel.passes]
        outer, inner = merge(kernel.reduced, shape, inner_blocks, fixed, "o", "j")
        loops, many, row = bind(shape, outer, inner, "o", "j")
        at = {**fixed, **loops}
        size = max(many * row * len(kernel.passes), 1)
        step = max(min(ROWS_CHUNK // size, rows // TASKS), CHUNK // size, 1)
        tasks = -(-rows // step)
        lines = [
            *self.opened(),
            *self.task(),
            f"  enum {{ ROWS = {rows}, OUTER = {many}, SIZE = {row}, STEP = {step} }};",
            "  const int begin = (int)task * STEP, end = ROWS - begin < STEP ? ROWS : begin + STEP;",
            *(f"  {C_TYPES[v.dtype]} {v.name}_row[OUTER * SIZE];" for v in kept),
            "  for (int x = begin; x < end; x++) {",
        ]
        for p in kernel.passes:
            for op, _, result in p.reduces:
                lines.append(f"    {C_TYPES[result.dtype]} {result.name} = {initial(op, result.dtype)};")
            if p.reduces or p.inner.stores:
                lines += self._over_row(p, at, kept, row)
            lines += [*self.insts(p.after, at, "    "), *self.stores(p.after.stores, at, "    ")]
        return tasks, [*lines, "  }", "}"]

    def _over_row(self, p: Pass, at: dict[str, Expr], kept: Sequence[Var], row: int) -> list[str]:
        """The loop of one pass over the elements of a row."""
        sums = [result.name for op, _, result in p.reduces if op == "sum"]
        body = [*self.insts(p.inner, at, "      "), *self.stores(p.inner.stores, at, "      ")]
        body += [f"      {i.out.name}_row[o * SIZE + j] = {i.out.name};" for i in p.inner.insts if i.out in kept]
        fold = [f"      {r.name} = {combine(op, r.name, self.var(x), r.dtype)};" for op, x, r in p.reduces]
        if len(sums) < len(p.reduces) and row >= 2 * VECTOR:
            return self.lanes(p.reduces, body, fold)
        simple = sums and len(sums) == len(p.reduces)
        hint = f'_Pragma("omp simd reduction(+:{",".join(sums)})") ' if simple else ""
        return [f"    for (int o = 0; o < OUTER; o++) {hint}for (int j = 0; j < SIZE; j++) {{", *body, *fold, "    }"]

    def lanes(self, reduces: Sequence[tuple[str, Var, Var]], body: Sequence[str], fold: Sequence[str]) -> list[str]:
        """The loop over a row with VECTOR partial results side by side: a fold that is no sum vectorises in no other way."""
        lines, gather, join = [], [], []
        for op, x, r in reduces:
            first, part = initial(op, r.dtype), f"{r.name}_[l]"
            lines.append(f"    {C_TYPES[r.dtype]} {r.name}_[{VECTOR}];")
            lines.append(f"    for (int l = 0; l < {VECTOR}; l++) {part} = {first};")
            gather.append(f"      {part} = {combine(op, part, self.var(x), r.dtype)};")
            join.append(f"    for (int l = 0; l < {VECTOR}; l++) {r.name} = {combine(op, r.name, part, r.dtype)};")
        return [
            *lines,
            "    for (int o = 0; o < OUTER; o++) {",
            f"    for (int k = 0; k + {VECTOR} <= SIZE; k += {VECTOR}) GRT_SIMD for (int l = 0; l < {VECTOR}; l++) {{",
            *("      const int j = k + l;", *body, *gather, "    }"),
            f"    for (int j = SIZE / {VECTOR} * {VECTOR}; j < SIZE; j++) {{",
            *(*body, *fold, "    }", "    }", *join),
        ]

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
        outer, inner = merge(kernel.kept, shape, blocks, fixed, "o", "x")
        loops, many, size = bind(shape, outer, inner, "o", "x")
        at = {**fixed, **loops}
        fair = math.ceil(size * many / TASKS / VECTOR) * VECTOR  # columns of a task when all are shared out
        lanes = max(min(size, LANES, fair), 1)
        per = -(-size // lanes)
        lines = [
            *self.opened(),
            *self.task(),
            f"  enum {{ SIZE = {size}, LANES = {lanes}, BLOCKS = {per}, REDUCED = {reduced} }};",
            "  const int o = (int)task / BLOCKS, start = (int)task % BLOCKS * LANES;",
            "  const int lanes = SIZE - start < LANES ? SIZE - start : LANES;",
            "  (void)o;",
        ]
        loop = "GRT_SIMD for (int j = 0; j < lanes; j++) {"
        for p in kernel.passes:
            for op, _, result in p.reduces:
                first = initial(op, result.dtype)
                lines.append(f"  {C_TYPES[result.dtype]} {result.name}[LANES];")
                lines.append(f"  for (int j = 0; j < LANES; j++) {result.name}[j] = {first};")
                self.arrays.add(result.name)
            lines += [f"  for (int r = 0; r < REDUCED; r++) {loop}", "      const int x = start + j;", "      (void)x;"]
            lines += self.insts(p.inner, at, "      ")
            lines += [f"      {self.var(r)} = {combine(op, self.var(r), self.var(x), r.dtype)};" for op, x, r in p.reduces]
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

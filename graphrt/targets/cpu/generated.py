"""Prints the kernels that have no template: loops over a domain, over rows, over columns side by side.

Axes are merged while every address stays affine in the inner one, so that the C compiler sees a plain vectorisable loop. Such
a loop runs in strips where its result is too large for any cache: each is written past the caches (``kernels/c/stream.h``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from graphrt.index import Expr, axis, delinearize
from graphrt.schedule.kernel_ir import Block, Pass, PointwiseKernel, ReductionKernel, Store, Var
from graphrt.schedule.memory import loads
from graphrt.targets.cpu.loops import bind, innermost, merge
from graphrt.targets.cpu.printer import Printer, combine, initial
from graphrt.targets.cpu.rows import Guess, bounded, choose, guessed, keep, multiplied
from graphrt.targets.scalar import C_TYPES

CHUNK = 8192  # elements of a pointwise task: a few microseconds, well above the cost of handing it out
ROWS_CHUNK = 1 << 18  # elements, over all passes, of a task of rows: long runs of memory suit the prefetcher
STRIP = 512  # elements: what is collected before it is streamed
STREAM = 32 << 20  # bytes of the smallest result that is streamed: nobody finds it in a cache
LINES = 1024  # bytes of the shortest run that is worth it
FETCH = 8 << 20  # bytes of the smallest operand whose rows are fetched ahead: it comes from memory
PAGE = 4096  # bytes beyond which the processor's own prefetching has long begun
LANES = 128  # columns a column reduction accumulates side by side, at most
VECTOR = 16  # at least: a cache line of floats
EXTREMA = {"max": "grt_most", "min": "grt_least"}  # the reductions of elementwise.h
LOOK = 64  # elements at the front of a row whose maximum is the guess for all of it
NEAR = 8  # how far above its guess a maximum may be: x - guess is rounded to half an ULP of that
TASKS = 8  # of a launch, at least, where there is so much to do: enough for a few threads to share evenly


class LoopPrinter(Printer):
    """Prints one pointwise or reduction kernel."""

    def generate(self, kernel: PointwiseKernel | ReductionKernel) -> tuple[int, list[str]]:
        """Number of tasks and the text of ``NAME_task``."""
        return self.pointwise(kernel) if isinstance(kernel, PointwiseKernel) else self.reduction(kernel)

    def pointwise(self, kernel: PointwiseKernel) -> tuple[int, list[str]]:
        """One loop nest over the domain."""
        outer, inner = merge(kernel.order, kernel.shape, [kernel.block], {}, "o", "j")
        at, rows, row = bind(kernel.shape, outer, inner, "o", "j")
        head = [*self.opened(), *self.task()]
        if rows == 1:
            tasks = max(-(-row // CHUNK), 1)
            loop = [
                f"  enum {{ SIZE = {row}, CHUNK = {CHUNK} }};",
                "  const int begin = (int)task * CHUNK, end = SIZE - begin < CHUNK ? SIZE : begin + CHUNK;",
                *self.run("  ", "GRT_SIMD ", ("begin", "end"), kernel.block, at, row),
            ]
        else:
            step = max(CHUNK // max(row, 1), 1)
            tasks = max(-(-rows // step), 1)
            loop = [
                f"  enum {{ ROWS = {rows}, SIZE = {row}, STEP = {step} }};",
                "  const int begin = (int)task * STEP, end = ROWS - begin < STEP ? ROWS : begin + STEP;",
                "  for (int o = begin; o < end; o++)",
                *self.run("  ", "GRT_SIMD ", ("0", "SIZE"), kernel.block, at, row),
            ]
        return (tasks if rows * row else 0), self.closed([*head, *loop])

    def run(
        self,
        indent: str,
        hint: str,
        span: tuple[str, str],
        block: Block,
        at: dict[str, Expr],
        row: int,
        rest: Sequence[str] = (),
    ) -> list[str]:
        """The loop of ``j`` over ``span`` of a row of ``row``: ``block``, then ``rest``; in strips if results are streamed."""
        streamed = [s for s in block.stores if self.streams(s, at, row)]
        inside = indent + ("    " if streamed else "  ")
        parts = [f"part{n}" for n in range(len(streamed))]
        body = self.insts(block, at, inside)
        body += self.stores([s for s in block.stores if s not in streamed], at, inside)
        for s, part in zip(streamed, parts, strict=True):
            body.append(f"{inside}{part}[j - k] = {self.converted(s.var, s.slot.type.dtype)};")
        body += [f"{inside}{line}" for line in rest]
        if not streamed:
            return [f"{indent}{hint}for (int j = {span[0]}; j < {span[1]}; j++) {{", *body, f"{indent}}}"]
        here = {name: e.substitute({"j": axis("k", row)}) for name, e in at.items()}
        lines = [
            f"{indent}for (int k = {span[0]}; k < {span[1]}; k += {STRIP}) {{",
            f"{indent}  const int stop = {span[1]} - k < {STRIP} ? {span[1]} : k + {STRIP};",
            *(f"{indent}  {C_TYPES[s.slot.type.dtype]} {p}[{STRIP}];" for s, p in zip(streamed, parts, strict=True)),
            f"{indent}  {hint}for (int j = k; j < stop; j++) {{",
            *body,
            f"{indent}  }}",
        ]
        for s, part in zip(streamed, parts, strict=True):
            there = f"buf.{self.fields[s.slot]} + {self.expr(s.offset, here)}"
            lines.append(f"{indent}  grt_stream({there}, {part}, (size_t)(stop - k) * sizeof *{part});")
        return [*lines, f"{indent}}}"]

    def streams(self, s: Store, at: dict[str, Expr], row: int) -> bool:
        """Whether ``s`` fills runs of a result that is too large for a cache."""
        itemsize = s.slot.type.dtype.itemsize
        large = s.size * itemsize >= STREAM and row * itemsize >= LINES
        return large and s.offset.substitute(at).stride("j") == 1

    def closed(self, lines: list[str]) -> list[str]:
        """The whole text of a task; what it streamed is seen by all before it counts as done."""
        return [*lines, *(["  grt_fence();"] if any("grt_stream(" in line for line in lines) else []), "}"]

    def reduction(self, kernel: ReductionKernel) -> tuple[int, list[str]]:
        """Row by row if the innermost axis is reduced, else many columns side by side."""
        fastest = innermost(kernel)
        columns = bool(kernel.kept) and fastest in kernel.kept and kernel.shape[fastest] > 1
        kernel = choose(kernel)
        return self._columns(kernel) if columns else self._rows(*bounded(*keep(multiplied(kernel))))

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
        lines += self._fetched(inner_blocks, at, rows, row) if many == 1 else []
        passes = list(kernel.passes)
        while passes:
            guess = guessed(passes, kept) if many == 1 and row >= 4 * LOOK else None
            p = passes.pop(0)
            if guess:
                lines += self._guessed(p, passes.pop(0), guess, at, kept, row)
                p = guess.both
            elif p.reduces or p.inner.stores:
                lines += self._over_row(p, at, kept, row)
            lines += [*self.insts(p.after, at, "    "), *self.stores(p.after.stores, at, "    ")]
        return tasks, self.closed([*lines, "  }"])

    def _fetched(self, blocks: Sequence[Block], at: dict[str, Expr], rows: int, row: int) -> list[str]:
        """Fetches the next row of each large operand: it is short, and the processor begins anew on every page."""
        there = {name: e.substitute({"x": axis("next", rows)}) for name, e in at.items()}
        lines = {}
        for slot, offset, _ in (load for block in blocks for load in loads(block)):
            size, itemsize = math.prod(slot.type.shape), slot.type.dtype.itemsize
            along = offset.substitute(at).stride("j") == 1 and LINES <= row * itemsize <= PAGE
            if size * itemsize >= FETCH and size == rows * row and along:
                lines[slot] = f"__builtin_prefetch(&buf.{self.fields[slot]}[{self.expr(offset, there)}]);"
        if not lines:
            return []
        step = 64 // max(slot.type.dtype.itemsize for slot in lines)
        loop = f"    for (int next = x + 1, j = 0; j < SIZE; j += {step}) {{"
        return [loop, *(f"      {line}" for line in lines.values()), "    }"]

    def _guessed(
        self, maximum: Pass, total: Pass, found: Guess, at: dict[str, Expr], kept: Sequence[Var], row: int
    ) -> list[str]:
        """``found.both``, which does the work of the passes ``maximum`` and ``total`` at once, and these if the guess was bad.

        A row that has a NaN makes the sum one; one whose maximum is far above the guess, or infinite, fails the comparison.
        """
        ((_, x, most),), ((_, _, s),) = maximum.reduces, total.reduces
        guess, scale = found.guess.name, found.scale.name
        first = replace(maximum, reduces=[("max", x, found.guess)])
        lines = [
            f"    {C_TYPES[most.dtype]} {scale} = 1;",
            *self._over_row(first, at, (), row, LOOK, strict=False),
            *self._over_row(found.both, at, kept, row, strict=False),
            f"    if ({most.name} - {guess} <= {NEAR} && {s.name} == {s.name}) {{",
            f"      {scale} = grt_exp({guess} - {most.name});",
            f"      {s.name} *= {scale};",
            "    } else {",
        ]
        for p in (maximum, total):
            lines += [f"  {line}" for line in self._over_row(p, at, kept, row, declare=False)]
        return [*lines, "    }"]

    def _over_row(
        self,
        p: Pass,
        at: dict[str, Expr],
        kept: Sequence[Var],
        row: int,
        stop: int | None = None,
        declare: bool = True,
        strict: bool = True,
    ) -> list[str]:
        """The loop of one pass over the elements of a row, or over those before ``stop``; its results declared or set.

        Extrema are folded without regard to NaN, which a loop can do in vectors, and NaN is looked for beside if ``strict``.
        """
        declared, body, hints, after = [], [], [], []
        for op, x, r in p.reduces:
            kind = f"{C_TYPES[r.dtype]} " if declare else ""
            declared.append(f"    {kind}{r.name} = {initial(op, r.dtype)};")
            value, fold = self.var(x), {"sum": "+", "prod": "*"} | (EXTREMA if r.dtype.is_float else {})
            hints.append(f"reduction({fold.get(op, op)}:{r.name})")
            if op in ("sum", "prod"):
                body.append(f"{r.name} = {combine(op, r.name, value, r.dtype)};")
                continue
            body.append(f"{r.name} = {r.name} {'>' if op == 'max' else '<'} {value} ? {r.name} : {value};")
            if r.dtype.is_float and strict:
                declared.append(f"    int {r.name}_nan = 0;")
                hints.append(f"reduction(|:{r.name}_nan)")
                body.append(f"{r.name}_nan |= {value} != {value};")
                after.append(f"    if ({r.name}_nan) {r.name} = NAN;")
        body = [f"{i.out.name}_row[o * SIZE + j] = {i.out.name};" for i in p.inner.insts if i.out in kept] + body
        short = row < 2 * VECTOR and any(op != "sum" for op, _, _ in p.reduces)
        hint = f'_Pragma("omp simd {" ".join(hints)}") ' if hints and not short else ""
        loop = self.run("    ", hint, ("0", str(stop or "SIZE")), p.inner, at, row, body)
        return [*declared, "    for (int o = 0; o < OUTER; o++)", *loop, *after]

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

"""Prints the loops of kernels that have no template, as ``loop_ir.decide`` decided them: elements, rows, or columns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from graphrt.index import Expr, axis, delinearize
from graphrt.schedule.kernel_ir import Block, Fold, Pass, PointwiseKernel, ReductionKernel, Store, Var
from graphrt.targets.cpu.loop_ir import (
    BLOCK,
    CHUNK,
    STEPS,
    Accumulator,
    ColumnPass,
    Columns,
    Elements,
    RowPass,
    Rows,
    Sweep,
    decide,
)
from graphrt.targets.cpu.loops import Nest
from graphrt.targets.cpu.printer import Buffers, CPrinter, combine, initial
from graphrt.targets.scalar import C_TYPES

STRIP = 512  # elements: what is collected before it is streamed
NEAR = 8  # how far above its guess a maximum may be: x - guess is rounded to half an ULP of that
_LANES = "GRT_SIMD for (int j = 0; j < lanes; j++) {"
_EXTREMA = {"max": "grt_most", "min": "grt_least"}  # the reductions of elementwise.h


@dataclass(frozen=True)
class _Loop:
    """The innermost loop, of ``j`` from ``begin`` to ``end``, with a ``hint`` for the compiler in front of it."""

    indent: str
    hint: str
    begin: str
    end: str


@dataclass
class _Folds:
    """The lines of a sweep's folds by where they stand: around the loop, around a block of it, inside; and the loop's hints."""

    before: list[str] = field(default_factory=list)
    start: list[str] = field(default_factory=list)
    body: list[str] = field(default_factory=list)
    end: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)


class LoopPrinter(CPrinter):
    """Prints one pointwise or reduction kernel."""

    def __init__(self, kernel: PointwiseKernel | ReductionKernel, buffers: Buffers) -> None:
        super().__init__(kernel, buffers)
        self.kernel = kernel

    def generate(self) -> tuple[int, list[str]]:
        """The number of tasks and the text of ``@_task``; what it streamed is seen by all before it counts as done."""
        loops = decide(self.kernel)
        head = [*self.opened(), *self.task(), *self._totals()]
        if isinstance(loops, Elements):
            assert isinstance(self.kernel, PointwiseKernel)
            lines = self._elements(loops, self.kernel.block)
        else:
            lines = self._rows(loops) if isinstance(loops, Rows) else self._columns(loops)
        fence = ["  grt_fence();"] if any("grt_stream(" in line for line in lines) else []
        return loops.tasks, [*head, *lines, *fence, "}"]

    def _totals(self) -> list[str]:
        """The totals that a task finds before it begins."""
        lines = []
        for total in self.kernel.totals:
            f, size = total.fold, math.prod(total.shape)
            at = dict(zip(total.block.params, delinearize(axis("t", size), total.shape), strict=True))
            lines += [
                f"  {C_TYPES[f.result.dtype]} {f.result.name} = {initial(f.op, f.result.dtype)};",
                f"  for ({self.int} t = 0; t < {size}; t++) {{",
                *self.insts(total.block, at, "    "),
                f"    {f.result.name} = {combine(f.op, f.result.name, self.var(f.x), f.result.dtype)};",
                "  }",
            ]
        return lines

    def _share(self, count: str, step: str) -> str:
        """The part of ``count`` turns that a task takes."""
        return (
            f"  const {self.int} begin = ({self.int})task * {step}, end = {count} - begin < {step} ? {count} : begin + {step};"
        )

    # --- elements -------------------------------------------------------------------------------------------------

    def _elements(self, loops: Elements, block: Block) -> list[str]:
        many, size = loops.nest.many, loops.nest.size
        if many == 1:
            head = [f"  enum {{ SIZE = {size}, CHUNK = {CHUNK} }};", self._share("SIZE", "CHUNK")]
            return [*head, *self._loop(_Loop("  ", "GRT_SIMD ", "begin", "end"), block, loops.nest, loops.streamed)]
        return [
            f"  enum {{ ROWS = {many}, SIZE = {size}, STEP = {loops.step} }};",
            self._share("ROWS", "STEP"),
            f"  for ({self.int} o = begin; o < end; o++)",
            *self._loop(_Loop("  ", "GRT_SIMD ", "0", "SIZE"), block, loops.nest, loops.streamed),
        ]

    def _loop(self, loop: _Loop, block: Block, nest: Nest, streamed: Sequence[Store], folds: Sequence[str] = ()) -> list[str]:
        """``block``, then ``folds``, for each ``j``; in strips where results are streamed, each collected in a small array."""
        indent = loop.indent
        inside = indent + ("    " if streamed else "  ")
        parts = [f"part{n}" for n in range(len(streamed))]
        body = self.insts(block, nest.at, inside)
        body += self.stores([s for s in block.stores if s not in streamed], nest.at, inside)
        for s, part in zip(streamed, parts, strict=True):
            body.append(f"{inside}{part}[j - k] = {self.converted(s.var, s.slot.type.dtype)};")
        body += [f"{inside}{line}" for line in folds]
        if not streamed:
            head = f"{indent}{loop.hint}for ({self.int} j = {loop.begin}; j < {loop.end}; j++) {{"
            return [head, *body, f"{indent}}}"]
        here = {name: e.substitute({"j": axis("k", nest.size)}) for name, e in nest.at.items()}
        lines = [
            f"{indent}for ({self.int} k = {loop.begin}; k < {loop.end}; k += {STRIP}) {{",
            f"{indent}  const {self.int} stop = {loop.end} - k < {STRIP} ? {loop.end} : k + {STRIP};",
            *(f"{indent}  {C_TYPES[s.slot.type.dtype]} {p}[{STRIP}];" for s, p in zip(streamed, parts, strict=True)),
            f"{indent}  {loop.hint}for ({self.int} j = k; j < stop; j++) {{",
            *body,
            f"{indent}  }}",
        ]
        for s, part in zip(streamed, parts, strict=True):
            there = f"buf.{self.fields[s.slot]} + {self.expr(s.offset - self.first[s.slot], here)}"
            lines.append(f"{indent}  grt_stream({there}, {part}, (size_t)(stop - k) * sizeof *{part});")
        return [*lines, f"{indent}}}"]

    # --- rows -----------------------------------------------------------------------------------------------------

    def _rows(self, loops: Rows) -> list[str]:
        nest = loops.nest
        lines = [
            f"  enum {{ ROWS = {loops.rows}, OUTER = {nest.many}, SIZE = {nest.size}, STEP = {loops.step} }};",
            self._share("ROWS", "STEP"),
            *(f"  {C_TYPES[v.dtype]} {v.name}_row[OUTER * SIZE];" for v in loops.kept),
            f"  for ({self.int} x = begin; x < end; x++) {{",
            *self._fetches(loops),
            *self._cleared(nest),
        ]
        for p in loops.passes:
            lines += [*self._row_pass(p, nest), *self.insts(p.after, nest.at, "    ")]
            lines += self.stores(p.after.stores, nest.at, "    ")
        return [*lines, "  }"]

    def _cleared(self, nest: Nest) -> list[str]:
        """The sums of columns, set to zero by the first row of each segment: they lie as a row does."""
        assert isinstance(self.kernel, ReductionKernel)
        first, lines = {name: e.substitute({"o": Expr(), "j": Expr()}) for name, e in nest.at.items()}, []
        for s in (s for p in self.kernel.passes for s in p.inner.stores if s.rows > 1):
            there = f"&buf.{self.fields[s.slot]}[{self.index(s.slot, s.offset, first)}]"
            lines.append(f"    if (x % {s.rows} == 0) memset({there}, 0, OUTER * SIZE * sizeof *buf.{self.fields[s.slot]});")
        return lines

    def _fetches(self, loops: Rows) -> list[str]:
        """The loop that fetches the next row of operands."""
        if not loops.fetched:
            return []
        lines = [
            f"      __builtin_prefetch(&buf.{self.fields[slot]}[{(offset - self.first[slot]).render('/')}]);"
            for slot, offset in loops.fetched.items()
        ]
        step = 64 // max(slot.type.dtype.itemsize for slot in loops.fetched)
        return [f"    for ({self.int} next = x + 1, j = 0; j < SIZE; j += {step}) {{", *lines, "    }"]

    def _row_pass(self, p: RowPass, nest: Nest) -> list[str]:
        """The loops of a pass. A guess fails where the row has a NaN, which the sum then is, or a maximum far above it."""
        if p.loop is None:
            return []
        if isinstance(p.loop, Sweep):
            return self._sweep(p.loop, nest)
        guess, raw = p.loop.found.guess.name, p.loop.found.raw
        most, s = (sweep.work.folds[0].result.name for sweep in p.loop.again)
        return [
            *self._sweep(p.loop.first, nest),
            *self._sweep(p.loop.both, nest),
            f"    {C_TYPES[raw.dtype]} {raw.name} = {s};",
            f"    if ({most} - {guess} <= {NEAR} && {s} == {s}) {{",
            f"      {s} *= grt_exp({guess} - {most});",
            "    } else {",
            *(f"  {line}" for sweep in p.loop.again for line in self._sweep(sweep, nest)),
            f"      {raw.name} = {s};",
            "    }",
        ]

    def _sweep(self, sweep: Sweep, nest: Nest) -> list[str]:
        """The loop over a row, or over blocks of it."""
        folds = _Folds()
        for a in sweep.accumulators:
            self._accumulate(a, sweep, nest, folds)
        body = [f"{v.name}_row[{self.element}] = {v.name};" for v in sweep.kept] + folds.body
        hint = f'_Pragma("omp simd {" ".join(folds.hints)}") ' if folds.hints else "GRT_SIMD "
        hint = hint if sweep.vectors else ""
        outer = f"    for ({self.int} o = 0; o < OUTER; o++)"
        if not sweep.block:
            loop = _Loop("    ", hint, "0", str(sweep.stop or "SIZE"))
            lines = self._loop(loop, sweep.work.inner, nest, sweep.streamed, body)
            return [*folds.before, outer, *lines, *folds.after]
        return [
            *folds.before,
            outer,
            f"      for ({self.int} first = 0; first < SIZE; first += {sweep.block}) {{",
            f"        const {self.int} last = SIZE - first < {sweep.block} ? SIZE : first + {sweep.block};",
            *folds.start,
            *self._loop(_Loop("        ", hint, "first", "last"), sweep.work.inner, nest, sweep.streamed, body),
            *folds.end,
            "      }",
            *folds.after,
        ]

    def _accumulate(self, a: Accumulator, sweep: Sweep, nest: Nest, lines: _Folds) -> None:
        """Adds the lines of one fold to ``lines``."""
        f = a.fold
        r, dtype = f.result.name, C_TYPES[f.result.dtype]
        lines.before.append(f"    {f'{dtype} ' if sweep.declares else ''}{r} = {initial(f.op, f.result.dtype)};")
        if f.op in ("max", "min"):
            self._extreme(a, nest, lines)
            return
        lines.hints.append(f"reduction({'+' if f.op == 'sum' else '*'}:{r})")
        lines.body.append(f"{r} = {combine(f.op, r, self.var(f.x), f.result.dtype)};")
        if a.blocked:
            lines.before.append(f"    double {r}_sum = 0;")
            lines.start.append(f"        {r} = 0;")
            lines.end.append(f"        {r}_sum += {r};")
            lines.after.append(f"    {r} = ({dtype}){r}_sum;")

    def _extreme(self, a: Accumulator, nest: Nest, lines: _Folds) -> None:
        """An extreme; where its position is wanted, a block's elements are kept in ``_of`` and searched if they beat others."""
        f, value, beats = a.fold, self.var(a.fold.x), ">" if a.fold.op == "max" else "<"
        r = best = f.result.name
        if f.at is not None:
            best, dtype, start = f"{r}_best", C_TYPES[f.result.dtype], initial(f.op, f.result.dtype)
            lines.before.append(f"    {self.int} {f.at.name} = 0;")
            lines.start += [f"        {dtype} {r}_of[{min(BLOCK, nest.size)}], {best} = {start};", f"        int {r}_nan = 0;"]
            lines.body.append(f"{r}_of[j - first] = {value};")
            lines.end.append(f"        GRT_FIND({beats}, {r}, {f.at.name}, {r}_of, {best}, {r}_nan, first)")
        lines.hints.append(f"reduction({_EXTREMA[f.op] if f.result.dtype.is_float else f.op}:{best})")
        lines.body.append(f"{best} = {best} {beats} {value} ? {best} : {value};")
        if not a.checked:
            return
        lines.hints.append(f"reduction(|:{r}_nan)")
        lines.body.append(f"{r}_nan |= {value} != {value};")
        if f.at is None:
            lines.before.append(f"    int {r}_nan = 0;")
            lines.after.append(f"    if ({r}_nan) {r} = NAN;")

    # --- columns --------------------------------------------------------------------------------------------------

    def _columns(self, loops: Columns) -> list[str]:
        size = f"SIZE = {loops.nest.size}, LANES = {loops.lanes}, BLOCKS = {loops.blocks}, REDUCED = {loops.reduced}"
        lines, turn = [f"  enum {{ {size} }};"], "task"
        if loops.step < loops.reduced:
            turn = "turn"
            lines += [
                f"  enum {{ STEP = {loops.step}, PARTS = (REDUCED + STEP - 1) / STEP }};",
                f"  const {self.int} turn = ({self.int})(task / PARTS), begin = ({self.int})(task % PARTS) * STEP;",
                f"  const {self.int} end = REDUCED - begin < STEP ? REDUCED : begin + STEP;",
            ]
        lines += [
            f"  const {self.int} o = ({self.int}){turn} / BLOCKS, start = ({self.int}){turn} % BLOCKS * LANES;",
            f"  const {self.int} lanes = SIZE - start < LANES ? SIZE - start : LANES;",
            "  (void)o;",
            *(f"  {C_TYPES[v.dtype]} {v.name}_row[REDUCED * LANES];" for p in loops.passes for v in p.kept),
        ]
        self.element = "r * LANES + j"
        for p in loops.passes:
            for f in p.work.folds:
                lines += self._array(f.result, C_TYPES[f.result.dtype], initial(f.op, f.result.dtype))
                lines += self._array(f.at, self.int, "0") if f.at is not None else []
            if p.work.folds or p.work.inner.stores:
                lines += self._column_pass(p, loops)
            if p.work.after.insts or p.work.after.stores:
                lines += self._after_columns(p.work, loops)
        return lines

    def _array(self, v: Var, kind: str, start: str) -> list[str]:
        """The array of ``v``, one element for each column."""
        self.arrays.add(v.name)
        return [f"  {kind} {v.name}[LANES];", f"  for (int j = 0; j < LANES; j++) {v.name}[j] = {start};"]

    def _column_pass(self, p: ColumnPass, loops: Columns) -> list[str]:
        """The rows of the task's columns, in blocks where sums are put together in double."""
        at = loops.nest.at
        inside = [
            *self._column_head(),
            *self.insts(p.work.inner, at, "      "),
            *(f"      {v.name}_row[{self.element}] = {v.name};" for v in p.kept),
            *(f"      {line}" for f in p.work.folds for line in self._folded(f)),
            *self.stores(p.work.inner.stores, at, "      "),
        ]
        shared = [*self.insts(p.shared, at, "    "), *self.stores(p.shared.stores, at, "    ")]
        rows = [*shared, f"    {_LANES}", *inside, "    }", "  }"]
        if not p.doubles:
            begin, end = ("begin", "end") if loops.step < loops.reduced else ("0", "REDUCED")
            return [f"  for ({self.int} r = {begin}; r < {end}; r++) {{", *rows, *self._grouped(p, loops.group)]
        added = "".join(f" {v.name}_sum[j] += {v.name}[j], {v.name}[j] = 0;" for v in p.doubles)
        total = "".join(f" {v.name}[j] = ({C_TYPES[v.dtype]}){v.name}_sum[j];" for v in p.doubles)
        total = f"  {_LANES}{total} }}" if loops.group == 1 else ""
        return [
            *(f"  double {v.name}_sum[LANES] = {{0}};" for v in p.doubles),
            f"  for ({self.int} block = 0; block < REDUCED; block += {STEPS}) {{",
            f"  const {self.int} last = REDUCED - block < {STEPS} ? REDUCED : block + {STEPS};",
            f"  for ({self.int} r = block; r < last; r++) {{",
            *rows,
            f"  {_LANES}{added} }}",
            "  }",
            *([total] if total else self._grouped(p, loops.group)),
        ]

    def _grouped(self, p: ColumnPass, group: int) -> list[str]:
        """The folds of a pass over each ``group`` of columns, which then all have the result."""
        lines = []
        for f in p.work.folds if group > 1 else ():
            r, dtype = f.result.name, f.result.dtype
            start, kind = (f"{r}_sum", "double") if f.result in p.doubles else (r, C_TYPES[dtype])
            lines += [
                f"  for (int j = 0; j < lanes; j += {group}) {{",
                f"    {kind} all = {start}[j];",
                f"    for (int i = 1; i < {group}; i++) all = {combine(f.op, 'all', f'{start}[j + i]', dtype)};",
                f"    for (int i = 0; i < {group}; i++) {r}[j + i] = ({C_TYPES[dtype]})all;",
                "  }",
            ]
        return lines

    def _column_head(self) -> list[str]:
        """The column of a lane."""
        return [f"      const {self.int} x = start + j;", "      (void)x;"]

    def _folded(self, f: Fold) -> list[str]:
        """Element ``x`` of row ``r`` folded into what ``f`` has of its column."""
        x, so_far = self.var(f.x), self.var(f.result)
        if f.at is None:
            return [f"{so_far} = {combine(f.op, so_far, x, f.result.dtype)};"]
        wins = f"{f.at.name}_wins"
        unordered = f" || ({x} != {x} && {so_far} == {so_far})" if f.result.dtype.is_float else ""
        return [
            f"const int {wins} = {x} {'>' if f.op == 'max' else '<'} {so_far}{unordered};",
            *(f"{self.var(v)} = {wins} ? {new} : {self.var(v)};" for v, new in ((f.result, x), (f.at, "r"))),
        ]

    def _after_columns(self, work: Pass, loops: Columns) -> list[str]:
        """The block that runs once a column; later passes find its variables in arrays.

        Of a group of columns the first stores, when all have read: a store may take the place of what they read.
        """
        at, grouped = loops.nest.at, loops.group > 1
        made = [i.out for i in work.after.insts]
        lines = [
            *(f"  {C_TYPES[v.dtype]} {v.name}_[LANES];" for v in made),
            f"  {_LANES}",
            *self._column_head(),
            *self.insts(work.after, at, "      "),
            *([] if grouped else self.stores(work.after.stores, at, "      ")),
            *(f"      {v.name}_[j] = {v.name};" for v in made),
            "  }",
            *(f"  {C_TYPES[v.dtype]} *const {v.name} = {v.name}_;" for v in made),
        ]
        self.arrays.update(v.name for v in made)
        if grouped and work.after.stores:
            stores = self.stores(work.after.stores, at, "    ")
            lines += [f"  for (int j = 0; j < lanes; j += {loops.group}) {{", *self._column_head(), *stores, "  }"]
        return lines

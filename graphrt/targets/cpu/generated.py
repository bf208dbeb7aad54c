"""Prints the kernels that have no template: loops over a domain, over rows, over columns side by side.

Axes are merged while every address stays affine in the inner one, so that the C compiler sees a plain vectorisable loop. Such
a loop runs in strips where its result is too large for any cache: each is written past the caches (``kernels/c/stream.h``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from graphrt.index import Expr, axis, delinearize
from graphrt.schedule.kernel_ir import Block, Fold, Pass, PointwiseKernel, ReductionKernel, Store, Var
from graphrt.schedule.memory import loads
from graphrt.targets.cpu.loops import bind, innermost, merge
from graphrt.targets.cpu.printer import Buffers, CPrinter, combine, initial
from graphrt.targets.cpu.reduction_rewrites import Guess, bounded, choose, guessed, keep
from graphrt.targets.scalar import C_TYPES

CHUNK = 8192  # elements of a pointwise task: a few microseconds, well above the cost of handing it out
ROWS_CHUNK = 1 << 18  # elements, over all passes, of a task of rows: long runs of memory suit the prefetcher
STRIP = 512  # elements: what is collected before it is streamed
STREAM = 32 << 20  # bytes of the smallest result that is streamed: nobody finds it in a cache
LINES = 1024  # bytes of the shortest run that is worth it
FETCH = 8 << 20  # bytes of the smallest operand whose rows are fetched ahead: it comes from memory
PAGE = 4096  # bytes beyond which the processor's own prefetching has long begun
TERMS = 4096  # of a row that are summed one behind the other, in vectors; of more, sums of so many are added in double
STEPS = 64  # rows of a column reduction, likewise
LANES = 128  # columns a column reduction accumulates side by side, at most
VECTOR = 16  # at least: a cache line of floats
EXTREMA = {"max": "grt_most", "min": "grt_least"}  # the reductions of elementwise.h
BLOCK = 1024  # elements of a row among which an extreme is found before it is looked for
LOOK = 64  # elements at the front of a row whose maximum is the guess for all of it
NEAR = 8  # how far above its guess a maximum may be: x - guess is rounded to half an ULP of that
TASKS = 8  # of a launch, at least, where there is so much to do: enough for a few threads to share evenly


class LoopPrinter(CPrinter):
    """Prints one pointwise or reduction kernel."""

    def __init__(self, kernel: PointwiseKernel | ReductionKernel, buffers: Buffers) -> None:
        super().__init__(kernel, buffers)
        self.kernel = kernel

    def generate(self) -> tuple[int, list[str]]:
        """The number of tasks and the text of ``@_task``."""
        kernel = self.kernel
        return self.pointwise(kernel) if isinstance(kernel, PointwiseKernel) else self.reduction(kernel)

    def pointwise(self, kernel: PointwiseKernel) -> tuple[int, list[str]]:
        """One loop nest over the domain."""
        outer, inner = merge(kernel.order, kernel.shape, [kernel.block], {}, "o", "j")
        at, rows, row = bind(kernel.shape, outer, inner, "o", "j")
        head = [*self.opened(), *self.task(), *self.totals(kernel)]
        if rows == 1:
            tasks = max(-(-row // CHUNK), 1)
            loop = [
                f"  enum {{ SIZE = {row}, CHUNK = {CHUNK} }};",
                f"  const {self.int} begin = ({self.int})task * CHUNK, end = SIZE - begin < CHUNK ? SIZE : begin + CHUNK;",
                *self.run("  ", "GRT_SIMD ", ("begin", "end"), kernel.block, at, row),
            ]
        else:
            step = max(CHUNK // max(row, 1), 1)
            tasks = max(-(-rows // step), 1)
            loop = [
                f"  enum {{ ROWS = {rows}, SIZE = {row}, STEP = {step} }};",
                f"  const {self.int} begin = ({self.int})task * STEP, end = ROWS - begin < STEP ? ROWS : begin + STEP;",
                f"  for ({self.int} o = begin; o < end; o++)",
                *self.run("  ", "GRT_SIMD ", ("0", "SIZE"), kernel.block, at, row),
            ]
        return (tasks if rows * row else 0), self.closed([*head, *loop])

    def totals(self, kernel: PointwiseKernel | ReductionKernel) -> list[str]:
        """The totals that a task finds before it begins."""
        lines = []
        for total in kernel.totals:
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
            return [f"{indent}{hint}for ({self.int} j = {span[0]}; j < {span[1]}; j++) {{", *body, f"{indent}}}"]
        here = {name: e.substitute({"j": axis("k", row)}) for name, e in at.items()}
        lines = [
            f"{indent}for ({self.int} k = {span[0]}; k < {span[1]}; k += {STRIP}) {{",
            f"{indent}  const {self.int} stop = {span[1]} - k < {STRIP} ? {span[1]} : k + {STRIP};",
            *(f"{indent}  {C_TYPES[s.slot.type.dtype]} {p}[{STRIP}];" for s, p in zip(streamed, parts, strict=True)),
            f"{indent}  {hint}for ({self.int} j = k; j < stop; j++) {{",
            *body,
            f"{indent}  }}",
        ]
        for s, part in zip(streamed, parts, strict=True):
            there = f"buf.{self.fields[s.slot]} + {self.expr(s.offset - self.first[s.slot], here)}"
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
        kernel = choose(bounded(kernel))
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
            *self.totals(kernel),
            f"  enum {{ ROWS = {rows}, OUTER = {many}, SIZE = {row}, STEP = {step} }};",
            f"  const {self.int} begin = ({self.int})task * STEP, end = ROWS - begin < STEP ? ROWS : begin + STEP;",
            *(f"  {C_TYPES[v.dtype]} {v.name}_row[OUTER * SIZE];" for v in kept),
            f"  for ({self.int} x = begin; x < end; x++) {{",
        ]
        lines += self._fetched(inner_blocks, at, rows, row) if many == 1 else []
        passes = list(kernel.passes)
        while passes:
            guess = guessed(passes, kept) if many == 1 and row >= 4 * LOOK else None
            p = passes.pop(0)
            if guess:
                lines += self._guessed(p, passes.pop(0), guess, at, kept, row)
                p = guess.both
            elif p.folds or p.inner.stores:
                lines += self._over_row(p, at, kept, row, many)
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
                lines[slot] = f"__builtin_prefetch(&buf.{self.fields[slot]}[{self.expr(offset - self.first[slot], there)}]);"
        if not lines:
            return []
        step = 64 // max(slot.type.dtype.itemsize for slot in lines)
        loop = f"    for ({self.int} next = x + 1, j = 0; j < SIZE; j += {step}) {{"
        return [loop, *(f"      {line}" for line in lines.values()), "    }"]

    def _guessed(
        self, maximum: Pass, total: Pass, found: Guess, at: dict[str, Expr], kept: Sequence[Var], row: int
    ) -> list[str]:
        """``found.both``, which does the work of the passes ``maximum`` and ``total`` at once, and these if the guess was bad.

        A row that has a NaN makes the sum one; one whose maximum is far above the guess, or infinite, fails the comparison.
        """
        most, s = maximum.folds[0].result.name, total.folds[0].result.name
        guess, raw = found.guess.name, found.raw.name
        first = replace(maximum, folds=[replace(maximum.folds[0], result=found.guess)])
        lines = [
            *self._over_row(first, at, (), row, stop=LOOK, strict=False),
            *self._over_row(found.both, at, kept, row, strict=False),
            f"    {C_TYPES[found.raw.dtype]} {raw} = {s};",
            f"    if ({most} - {guess} <= {NEAR} && {s} == {s}) {{",
            f"      {s} *= grt_exp({guess} - {most});",
            "    } else {",
        ]
        for p in (maximum, total):
            lines += [f"  {line}" for line in self._over_row(p, at, kept, row, declare=False)]
        return [*lines, f"      {raw} = {s};", "    }"]

    def _over_row(
        self,
        p: Pass,
        at: dict[str, Expr],
        kept: Sequence[Var],
        row: int,
        many: int = 1,
        stop: int | None = None,
        declare: bool = True,
        strict: bool = True,
    ) -> list[str]:
        """The loop of one pass over ``many`` runs of a row, or over what lies before ``stop``; its results declared or set.

        Extrema are folded without regard to NaN, which a loop can do in vectors, and NaN is looked for beside if ``strict``.
        Where one's position is wanted, elements are kept a block at a time, and a block that beats those before is searched.
        Long sums are added up in double, block by block: rounding errors grow with a block's length, not with a row's.
        """
        before, body, hints, after = list[str](), list[str](), list[str](), list[str]()
        start, end = list[str](), list[str]()  # of a block
        for f in p.folds:
            op, r, value, dtype = f.op, f.result.name, self.var(f.x), C_TYPES[f.result.dtype]
            number, beats = initial(op, f.result.dtype), ">" if op == "max" else "<"
            fold = {"sum": "+", "prod": "*"} | (EXTREMA if f.result.dtype.is_float else {})
            before.append(f"    {f'{dtype} ' if declare else ''}{r} = {number};")
            if f.at is not None:
                before.append(f"    {self.int} {f.at.name} = 0;")
                body.append(f"{r}_of[j - first] = {value};")
                end.append(f"        GRT_FIND({beats}, {r}, {f.at.name}, {r}_of, {r}_best, {r}_nan, first)")
                start += [f"        {dtype} {r}_of[{min(BLOCK, row)}], {r}_best = {number};", f"        int {r}_nan = 0;"]
            elif op == "sum" and f.result.dtype.is_float and many * (stop or row) > TERMS:
                before.append(f"    double {r}_sum = 0;")
                start.append(f"        {r} = 0;")
                end.append(f"        {r}_sum += {r};")
                after.append(f"    {r} = ({dtype}){r}_sum;")
            best = r if f.at is None else f"{r}_best"
            hints.append(f"reduction({fold.get(op, op)}:{best})")
            if op in ("sum", "prod"):
                body.append(f"{r} = {combine(op, r, value, f.result.dtype)};")
                continue
            body.append(f"{best} = {best} {beats} {value} ? {best} : {value};")
            if f.result.dtype.is_float and strict:
                hints.append(f"reduction(|:{r}_nan)")
                body.append(f"{r}_nan |= {value} != {value};")
                if f.at is None:
                    before.append(f"    int {r}_nan = 0;")
                    after.append(f"    if ({r}_nan) {r} = NAN;")
        body = [f"{i.out.name}_row[o * SIZE + j] = {i.out.name};" for i in p.inner.insts if i.out in kept] + body
        short = row < 2 * VECTOR and any(f.op != "sum" for f in p.folds)
        hint = f'_Pragma("omp simd {" ".join(hints)}") ' if hints and not short else ""
        if not end:
            loop = self.run("    ", hint, ("0", str(stop or "SIZE")), p.inner, at, row, body)
            return [*before, f"    for ({self.int} o = 0; o < OUTER; o++)", *loop, *after]
        length = BLOCK if any(f.at is not None for f in p.folds) else TERMS
        head = [
            f"    for ({self.int} o = 0; o < OUTER; o++)",
            f"      for ({self.int} first = 0; first < SIZE; first += {length}) {{",
            f"        const {self.int} last = SIZE - first < {length} ? SIZE : first + {length};",
        ]
        loop = self.run("        ", hint, ("first", "last"), p.inner, at, row, body)
        return [*before, *head, *start, *loop, *end, "      }", *after]

    def _folded(self, f: Fold) -> list[str]:
        """One more element of row ``r`` joined to what ``f`` has of a column."""
        x, so_far = self.var(f.x), self.var(f.result)
        if f.at is None:
            return [f"{so_far} = {combine(f.op, so_far, x, f.result.dtype)};"]
        wins = f"{f.at.name}_wins"
        unordered = f" || ({x} != {x} && {so_far} == {so_far})" if f.result.dtype.is_float else ""
        return [
            f"const int {wins} = {x} {'>' if f.op == 'max' else '<'} {so_far}{unordered};",
            *(f"{self.var(v)} = {wins} ? {new} : {self.var(v)};" for v, new in ((f.result, x), (f.at, "r"))),
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
            *self.totals(kernel),
            f"  enum {{ SIZE = {size}, LANES = {lanes}, BLOCKS = {per}, REDUCED = {reduced} }};",
            f"  const {self.int} o = ({self.int})task / BLOCKS, start = ({self.int})task % BLOCKS * LANES;",
            f"  const {self.int} lanes = SIZE - start < LANES ? SIZE - start : LANES;",
            "  (void)o;",
        ]
        loop = "GRT_SIMD for (int j = 0; j < lanes; j++) {"
        for p in kernel.passes:
            for f in p.folds:
                for v, kind, first in (
                    (f.result, C_TYPES[f.result.dtype], initial(f.op, f.result.dtype)),
                    (f.at, self.int, "0"),
                ):
                    if v is not None:
                        lines.append(f"  {kind} {v.name}[LANES];")
                        lines.append(f"  for (int j = 0; j < LANES; j++) {v.name}[j] = {first};")
                        self.arrays.add(v.name)
            sums = [f.result for f in p.folds if f.op == "sum" and f.result.dtype.is_float and reduced > STEPS]
            steps = [f"  for ({self.int} r = 0; r < REDUCED; r++) {{"]
            if sums:
                lines += [f"  double {r.name}_sum[LANES] = {{0}};" for r in sums]
                steps = [
                    f"  for ({self.int} block = 0; block < REDUCED; block += {STEPS}) {{",
                    f"  const {self.int} last = REDUCED - block < {STEPS} ? REDUCED : block + {STEPS};",
                    f"  for ({self.int} r = block; r < last; r++) {{",
                ]
            lines += [*steps, f"    {loop}", f"      const {self.int} x = start + j;", "      (void)x;"]
            lines += self.insts(p.inner, at, "      ")
            lines += [f"      {line}" for f in p.folds for line in self._folded(f)]
            lines += [*self.stores(p.inner.stores, at, "      "), "    }", "  }"]
            if sums:
                added = "".join(f" {r.name}_sum[j] += {r.name}[j], {r.name}[j] = 0;" for r in sums)
                lines += [f"  {loop}{added} }}", "  }"]
                total = "".join(f" {r.name}[j] = ({C_TYPES[r.dtype]}){r.name}_sum[j];" for r in sums)
                lines += [f"  {loop}{total} }}"]
            if p.after.insts or p.after.stores:
                declared = [i.out for i in p.after.insts]
                lines += [f"  {C_TYPES[v.dtype]} {v.name}_[LANES];" for v in declared]
                lines += [f"  {loop}", f"      const {self.int} x = start + j;", "      (void)x;"]
                lines += self.insts(p.after, at, "      ")
                lines += self.stores(p.after.stores, at, "      ")
                lines += [f"      {v.name}_[j] = {v.name};" for v in declared] + ["  }"]
                for v in declared:
                    lines.append(f"  {C_TYPES[v.dtype]} *const {v.name} = {v.name}_;")
                    self.arrays.add(v.name)
        return many * per, [*lines, "}"]

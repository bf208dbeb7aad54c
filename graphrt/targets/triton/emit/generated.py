"""Kernels without a template: elementwise groups and reductions, each a function that is given its program's number.

Several of them, or a template and some of them, share a launch: a dispatching kernel gives each so many programs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from graphrt.index import Expr, axis, delinearize
from graphrt.schedule.kernel_ir import Block, Fold, Kernel, Pass, PointwiseKernel, ReductionKernel, Store, Var
from graphrt.targets.scalar import TRITON_TYPES, identity, triton_number
from graphrt.targets.triton.emit.printer import Masks, TritonPrinter, slots_of, tensors
from graphrt.targets.triton.emit.tiling import power, reduction_tile
from graphrt.types import DType

WARPS = 4  # of a generated kernel
STEPS = 64  # of a row that are added one behind the other; of more, blocks of so many are summed
_BLOCK = 1 << 17  # elements of an elementwise kernel's block, interpreted
_VECTOR = 8  # and compiled, those of a thread: 16 bytes of halves


class GeneratedPrinter(TritonPrinter):
    """Prints groups that have no template."""

    def parts(self, launch: Sequence[Kernel]) -> tuple[list[str], list[Part]]:
        """A function for each group, and their calls.

        Groups that compute the same share a function and a call, which picks their pointers: in a training step's updates most
        do, and a compiler's time grows with the square of what there is.
        """
        text: list[str] = []
        parts: dict[tuple[str, ...], Part] = {}
        for kernel in launch:
            self.wide = tensors(kernel)
            every, self.slots = self.slots, slots_of([kernel])
            if isinstance(kernel, PointwiseKernel):
                lines, count = self._pointwise(kernel)
            else:
                assert isinstance(kernel, ReductionKernel)
                lines, count = self._reduction(kernel)
            part = Part(kernel.group.name, count)
            if part is (same := parts.setdefault((*lines, *(s.type.dtype.name for s in self.slots)), part)):
                text += ["@triton.jit", f"def {part.name}_part(pid, ARGS):", *lines, "", ""]
            same.pointers.append([every.index(s) for s in self.slots])
            self.slots = every
        return text, list(parts.values())

    def _pointwise(self, kernel: PointwiseKernel) -> tuple[list[str], int]:
        size, at = math.prod(kernel.shape), _walk(kernel.order, kernel.shape, "i")
        block = min(power(size), _BLOCK if self.options.large else _VECTOR * WARPS * self.options.lanes)
        masks = Masks("mask", {"i"}, "", {"i": "mask"})
        lines = [
            f"    i = pid * {block} + tl.arange(0, {block})",
            f"    mask = i < {size}",
            *self._totals(kernel),
            *self.lines(kernel.block, at, masks),
            *self.stores(kernel.block, at, "mask", f"tl.zeros(({block},), tl.int32)"),
        ]
        return lines, -(-size // block)

    def _totals(self, kernel: PointwiseKernel | ReductionKernel) -> list[str]:
        """The totals that a program finds before it begins: of the shape that its elements or rows have."""
        lines, column = [], isinstance(kernel, ReductionKernel)
        for total in kernel.totals:
            size = math.prod(total.shape)
            at = dict(zip(total.block.params, delinearize(axis("t", size), total.shape), strict=True))
            inside = Masks("t_ok", {"t"}, "", {"t": "t_ok"})
            lines += [
                f"    t = tl.arange(0, {power(size)})[None, :]",
                f"    t_ok = t < {size}",
                *self.lines(total.block, at, inside),
                *(f"    {line}" for line in _fold(total.fold, _masked(total.fold, "t_ok"))),
            ]
            name = total.fold.result.name
            lines += [] if column else [f"    {name} = tl.reshape({name}, (1,))"]
            self.spans[name] = set()
        return lines

    def _reduction(self, kernel: ReductionKernel) -> tuple[list[str], int]:
        """Rows ``x``, elements ``r``: all of a row at once if it is ``whole``, else block after block in each pass.

        A program has a tile of rows, or where their columns are added up a segment, one tile after the other.
        """
        rows, size = (math.prod(kernel.shape[d] for d in dims) for dims in (kernel.kept, kernel.reduced))
        at = {**_walk(kernel.kept, kernel.shape, "x"), **_walk(kernel.reduced, kernel.shape, "r")}
        tile, added = self._tile(kernel, rows, size), _added(kernel)
        share = added[0].rows if added else tile.rows
        masks = Masks("mask", {"x", "r"}, "", {"x": "x_ok", "r": "r_ok"})
        lines = [f"    x = pid * {share} + tl.arange(0, {tile.rows})[:, None]", f"    x_ok = x < {rows}", *self._totals(kernel)]
        if kernel.whole:
            lines += [f"    r = tl.arange(0, {tile.columns})[None, :]", f"    r_ok = r < {size}", "    mask = x_ok & r_ok"]
        body = list[str]()
        for p in kernel.passes:
            self.spans.update({v.name: {"x"} for f in p.folds for v in _found(f)})
            body += self._whole(p, at, masks, tile) if kernel.whole else self._blockwise(p, at, masks, tile, size)
            body += self.lines(p.after, at, masks)
            if p.after.stores:
                body += self.stores(p.after, at, "x_ok", f"tl.zeros(({tile.rows}, 1), tl.int32)")
        return [*lines, *(self._segment(kernel, body, tile, added) if added else body)], -(-rows // share)

    def _segment(self, kernel: ReductionKernel, body: Sequence[str], tile: _Tile, added: Sequence[Store]) -> list[str]:
        """``body`` for a segment of rows, a tile at a time, with the sums of its columns, which are stored behind."""
        sums = [Var(f"column{n}", s.var.dtype) for n, s in enumerate(added)]
        at = {**_walk(kernel.kept, kernel.shape, "first"), **_walk(kernel.reduced, kernel.shape, "r")}
        behind = Block((), stores=[replace(s, var=v) for s, v in zip(added, sums, strict=True)])
        rows = added[0].rows
        # The last tile may reach into the next segment.
        held = [f"        x_ok = x < first + {rows}", "        mask = x_ok & r_ok"] if rows % tile.rows else []
        return [
            f"    first = pid * {rows}",
            *(f"    {v.name} = tl.zeros((1, {tile.columns}), {TRITON_TYPES[v.dtype]})" for v in sums),
            f"    for start in range(0, {rows}, {tile.rows}):",
            f"        x = first + start + tl.arange(0, {tile.rows})[:, None]",
            *held,
            *(f"    {line}" for line in body),
            *(
                f"        {v.name} += tl.sum(tl.where(mask, {s.var.name}, 0), 0)[None, :]"
                for v, s in zip(sums, added, strict=True)
            ),
            *self.stores(behind, at, "r_ok", f"tl.zeros((1, {tile.columns}), tl.int32)"),
        ]

    def _tile(self, kernel: ReductionKernel, rows: int, size: int) -> _Tile:
        """As many elements as registers like, and short rows enough for a vector of each thread to store."""
        most, columns = reduction_tile(rows, size, kernel.whole, self.options.large)
        sizes = [s.slot.type.dtype.itemsize for p in kernel.passes for s in p.after.stores]
        threads = WARPS * self.options.lanes
        vectors = 16 // max(min(sizes, default=4), 2) * threads if columns <= _VECTOR else 0  # one for each thread
        segment = min((s.rows for s in _added(kernel)), default=rows)
        return _Tile(min(max(min(power(rows), vectors), most), power(segment)), columns)

    def _whole(self, p: Pass, at: dict[str, Expr], masks: Masks, tile: _Tile) -> list[str]:
        """A pass over rows that lie in registers."""
        lines = self.lines(p.inner, at, masks)
        lines += [f"    {line}" for f in p.folds for line in _fold(f, _masked(f))]
        plain = replace(p.inner, stores=[s for s in p.inner.stores if s.rows == 1])
        return lines + (self.stores(plain, at, "mask", tile.zeros) if plain.stores else [])

    def _blockwise(self, p: Pass, at: dict[str, Expr], masks: Masks, tile: _Tile, size: int) -> list[str]:
        """A pass over rows in blocks, which are combined element by element; long ones in groups of blocks, each folded."""
        columns = tile.columns
        steps, groups = _blocks(-(-size // columns))
        running = {f: [f"{v.name}_all" for v in _found(f)] for f in p.folds}
        totals = {f: [f"{v.name}_total" for v in _found(f)] for f in p.folds}
        lines: list[str] = []
        pad, start = "    ", f"    for start in range(0, {size}, {columns}):"
        if groups > 1:
            lines += [f"    {line}" for f in p.folds for line in _started(f, totals[f], tile.rows, 1)]
            pad, start = "        ", f"        for start in range(block, block + {steps * columns}, {columns}):"
            lines.append(f"    for block in range(0, {groups * steps * columns}, {steps * columns}):")
        lines += [f"{pad}{line}" for f in p.folds for line in _started(f, running[f], tile.rows, columns)]
        lines += [start, f"{pad}    r = start + tl.arange(0, {columns})[None, :]"]
        lines += [f"{pad}    r_ok = r < {size}", f"{pad}    mask = x_ok & r_ok"]
        lines += self.lines(p.inner, at, masks, pad + "    ")
        lines += [f"{pad}    {_combined(f, running[f], _masked(f))}" for f in p.folds]
        if p.inner.stores:
            lines += self.stores(p.inner, at, "mask", tile.zeros, pad + "    ")
        lines += [f"{pad}{line}" for f in p.folds for line in _fold(f, running[f])]
        if groups > 1:
            found = {f: [v.name for v in _found(f)] for f in p.folds}
            lines += [f"{pad}{_combined(f, totals[f], found[f])}" for f in p.folds]
            lines += [f"    {', '.join(found[f])} = {', '.join(totals[f])}" for f in p.folds]
        return lines


@dataclass(frozen=True)
class _Tile:
    """The elements that a program of a reduction has at hand: so many rows, so many columns of each."""

    rows: int
    columns: int

    @property
    def zeros(self) -> str:
        """Zeros of its shape."""
        return f"tl.zeros(({self.rows}, {self.columns}), tl.int32)"


@dataclass
class Part:
    """Groups that compute the same, each with ``count`` programs and pointers of its own; or a kernel's ``call``.

    The call lacks its last argument, the number of the program.
    """

    name: str
    count: int
    pointers: list[list[int]] = field(default_factory=list)
    call: str = ""

    @property
    def programs(self) -> int:
        """The programs of all its groups."""
        return self.count * len(self.pointers)

    def lines(self, pid: str) -> list[str]:
        """The call of the part by its program number ``pid``."""
        if self.call:
            return [f"{self.call}, PID={pid})"]
        shared = [len(set(places)) == 1 for places in zip(*self.pointers, strict=True)]
        own = [i for i, same in enumerate(shared) if not same]
        chosen = [f"{self.name}_p{i}" if i in own else f"ARGS[{p}]" for i, p in enumerate(self.pointers[0])]
        arguments = f"({', '.join(chosen)}{',' * (len(chosen) == 1)})"
        if not own:
            return [f"{self.name}_part({pid}, {arguments})"]

        def choose(low: int, high: int, indent: str) -> list[str]:
            if high - low == 1:
                return [f"{indent}{chosen[i]} = ARGS[{self.pointers[low][i]}]" for i in own]
            middle = (low + high) // 2
            test = f"{indent}if {self.name}_n < {middle}:"
            return [test, *choose(low, middle, indent + "    "), f"{indent}else:", *choose(middle, high, indent + "    ")]

        number = f"{self.name}_n = ({pid}) // {self.count}"
        return [number, *choose(0, len(self.pointers), ""), f"{self.name}_part(({pid}) % {self.count}, {arguments})"]


def dispatcher(name: str, parts: Sequence[Part], blocks: Sequence[str] = (), dependent: bool = False) -> list[str]:
    """A kernel that gives its programs to ``parts`` in turn. One that is ``dependent`` waits for the launch in front.

    ``blocks`` are its arguments.
    """
    names = "".join(f", {n}: tl.constexpr" for n in ("NAME", *blocks))
    head = ['@triton.jit(repr=lambda s: s.constants["NAME"])', f"def {name}(ARGS{names}, PID=None):"]
    head += ["    gdc_wait()", "    gdc_launch_dependents()"] if dependent else []  # so at most two launches are under way
    return [*head, "    pid = program(PID)", *branches(parts, "    ")]


def branches(parts: Sequence[Part], indent: str) -> list[str]:
    """Lines that give program ``pid`` to one of ``parts``, which have theirs in turn; the last gets what programs are left.

    The right part is found by halving: a chain of hundreds is slow, and deeper than Triton's compiler can go.
    """
    starts = [*itertools.accumulate((part.programs for part in parts), initial=0)]

    def branch(low: int, high: int, indent: str) -> list[str]:
        if high - low == 1:
            pid = f"pid - {starts[low]}" if starts[low] else "pid"
            return [indent + line for line in parts[low].lines(pid)]
        middle = (low + high) // 2
        test = f"{indent}if pid < {starts[middle]}:"
        return [test, *branch(low, middle, indent + "    "), f"{indent}else:", *branch(middle, high, indent + "    ")]

    return branch(0, len(parts), indent)


def literal(value: Any) -> str:
    """A compile-time argument as it stands in source."""
    if isinstance(value, str) and value[:1] == "@":
        return value[1:]
    if isinstance(value, float) and not math.isfinite(value):
        return f"float('{value}')"
    return value if isinstance(value, str) and value.startswith("tl.") else repr(value)


_COMBINE = {"sum": "add", "prod": "multiply", "max": "maximum", "min": "minimum"}


_NOWHERE = 2**31 - 1  # the position of what is masked off


def _masked(f: Fold, mask: str = "mask") -> list[str]:
    """The value that ``f`` folds, masked off outside the row; then its position, if that is wanted."""
    value = f"tl.where({mask}, {f.x.name}, {_identity(f.op, f.x.dtype)})"
    return [value] if f.at is None else [value, f"tl.where({mask}, r, {_NOWHERE})"]


def _fold(f: Fold, of: Sequence[str]) -> list[str]:
    """The results of ``f`` of each row."""
    if f.at is not None:
        y, at = f.result.name, f.at.name
        found = f"{y}, {at} = arg{f.op}({', '.join(of)}, 1)"
        return [found, f"{y} = {y}[:, None]", f"{at} = {at}.to(tl.int64)[:, None]"]
    (value,) = of
    folded = f"tl.sum({value}, 1)" if f.op == "sum" else f"tl.reduce({value}, 1, {_COMBINE[f.op]})"
    return [f"{f.result.name} = {folded}[:, None]"]


def _added(kernel: ReductionKernel) -> list[Store]:
    """The stores of ``kernel`` that add up columns of segments of rows, all equally long."""
    return [s for p in kernel.passes for s in p.inner.stores if s.rows > 1]


def _found(f: Fold) -> list[Var]:
    """The variables that ``f`` makes: a result, and its position if that is wanted."""
    return [v for v in (f.result, f.at) if v is not None]


def _started(f: Fold, names: Sequence[str], rows: int, columns: int) -> list[str]:
    """``names``, for what ``f`` makes, with nothing folded yet."""
    values = [(_identity(f.op, f.x.dtype), TRITON_TYPES[f.x.dtype]), (_NOWHERE, "tl.int64" if columns == 1 else "tl.int32")]
    return [f"{name} = tl.full(({rows}, {columns}), {n}, {t})" for name, (n, t) in zip(names, values, strict=False)]


def _combined(f: Fold, names: Sequence[str], more: Sequence[str]) -> str:
    """``names`` combined with ``more`` of the same."""
    combine = _COMBINE[f.op] if f.at is None else f"arg{f.op}_combine"
    return f"{', '.join(names)} = {combine}({', '.join([*names, *more])})"


def _blocks(steps: int) -> tuple[int, int]:
    """``steps`` additions as blocks of so many, and their number: rounding errors grow with both, not with the product."""
    if steps <= STEPS:
        return steps, 1
    length = max(STEPS, math.isqrt(steps))
    return length, -(-steps // length)


def _identity(op: str, dtype: DType) -> str:
    return triton_number(identity(op, dtype), dtype)


def _walk(dims: Sequence[int], shape: Sequence[int], name: str) -> dict[str, Expr]:
    """The axes ``dims`` of a domain in terms of one axis over all of them."""
    sizes = [shape[d] for d in dims]
    return dict(zip([f"i{d}" for d in dims], delinearize(axis(name, math.prod(sizes)), sizes), strict=True))

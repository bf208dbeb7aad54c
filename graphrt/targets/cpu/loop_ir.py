"""Loop IR: the loops of a kernel that has no template. ``decide`` makes it of Kernel IR, ``generated.py`` prints it.

    Elements    each element by itself        for o of the task: for j: block
    Rows        rows of neighbours in memory  for x of the task: sweep after sweep over the o, j of row x
    Columns     rows side by side             for each pass: for r: for j of the task's columns: block, folds

Where a row is made of short stretches that lie beside those of other rows (the channels of a group, of a channels-last map), or
elements are computed from what many of them share so, columns are the elements of such stretches: what belongs to a column is
computed once, and folds over columns of one row are folded once more.

A nest says how axes become two loops; what is left to decide is the work of a task, and for each loop over a row whether it is
blocked, what it keeps and what it streams. So this is no tree: one record for each kind of kernel, with a list of its sweeps.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from graphrt.index import Expr, axis
from graphrt.schedule.kernel_ir import Block, Fold, Pass, PointwiseKernel, ReductionKernel, Store, Var
from graphrt.schedule.memory import loads
from graphrt.schedule.policy import ROW_LIMIT
from graphrt.schedule.row_passes import BESIDE
from graphrt.schedule.schedule import Slot
from graphrt.targets.cpu.loops import Nest, count, nest, walk
from graphrt.targets.cpu.reduction_rewrites import Guess, bound_exponentials, guess_maximum, keep_costly, read_chosen
from graphrt.targets.cpu.stretches import apart, in_memory_order, innermost, memory_axes, once_a_column

CHUNK = 8192  # elements of a pointwise task: a few microseconds, well above the cost of handing it out
ROWS_CHUNK = 1 << 18  # elements, over all passes, of a task of rows: long stretches of memory suit the prefetcher
STREAM = 32 << 20  # bytes of the smallest result that is streamed: nobody finds it in a cache
LINES = 1024  # bytes of the shortest stretch of memory that is worth it
FETCH = 8 << 20  # bytes of the smallest operand whose rows are fetched ahead: it comes from memory
PAGE = 4096  # bytes beyond which the processor's own prefetching has long begun
TERMS = 4096  # of a row that are summed one behind the other, in vectors; of more, sums of so many are added in double
STEPS = 64  # rows of a column reduction, likewise
LANES = 128  # columns a column reduction accumulates side by side, at most
VECTOR = 16  # at least: a cache line of floats
BLOCK = 1024  # elements of a row among which an extreme is found before it is looked for
LOOK = 64  # elements at the front of a row whose maximum is the guess for all of it
TASKS = 8  # of a launch, at least, where there is so much to do: enough for a few threads to share evenly


@dataclass(frozen=True)
class Elements:
    """A pointwise kernel: a task computes ``step`` turns of the outer loop, or of the inner one where that is all there is."""

    nest: Nest
    tasks: int
    step: int
    streamed: Sequence[Store]


@dataclass(frozen=True)
class Accumulator:
    """A fold of a sweep. ``blocked``: it starts anew with each block of the row, and what blocks give is put together.

    Sums are put together in double: rounding errors grow with a block's length, not with a row's. A block whose extreme beats
    those before is searched for its position. ``checked``: extrema are folded without regard to NaN, which a loop can do in
    vectors, and NaN is looked for beside.
    """

    fold: Fold
    blocked: bool
    checked: bool


@dataclass(frozen=True)
class Sweep:
    """A loop over a row, or over its first ``stop`` elements, that does the work of one pass.

    ``block`` is the length of its blocks (0: none), ``kept`` are the values written down for later sweeps, ``streamed`` the
    stores that leave past the caches. It runs in ``vectors``, and ``declares`` its results or sets those that are there.
    """

    work: Pass
    stop: int | None
    accumulators: Sequence[Accumulator]
    block: int
    vectors: bool
    kept: Sequence[Var]
    streamed: Sequence[Store]
    declares: bool


@dataclass(frozen=True)
class Guessed:
    """``both`` does the work of the sweeps ``again`` with a maximum that ``first`` guessed; they run if it was far off."""

    first: Sweep
    both: Sweep
    again: tuple[Sweep, Sweep]
    found: Guess


@dataclass(frozen=True)
class RowPass:
    """The loop of a pass, None where it has no elements to look at, and what is computed behind it once a row."""

    loop: Sweep | Guessed | None
    after: Block


@dataclass(frozen=True)
class Rows:
    """A reduction along memory: a task takes ``step`` of the ``rows``, in whole segments where columns are added up.

    ``fetched`` are operands whose next row is fetched.
    """

    nest: Nest
    rows: int
    tasks: int
    step: int
    kept: Sequence[Var]
    fetched: dict[Slot, Expr]
    passes: Sequence[RowPass]


@dataclass(frozen=True)
class ColumnPass:
    """A pass over columns; ``doubles`` are the sums that are added up in double, a block of rows at a time.

    ``shared`` is computed once for all columns of a row: a C compiler that is to find it keeps branches, and makes no vectors.
    ``kept`` are the values written down for later passes.
    """

    work: Pass
    doubles: Sequence[Var]
    shared: Block
    kept: Sequence[Var]


@dataclass(frozen=True)
class Columns:
    """A reduction across memory: a task accumulates ``lanes`` columns; an outer turn has ``blocks`` of them.

    ``group`` columns next to each other are of one row. A task takes ``step`` of the ``reduced`` elements of a column: all of
    them, unless nothing is folded.
    """

    nest: Nest
    tasks: int
    lanes: int
    blocks: int
    reduced: int
    step: int
    group: int
    passes: Sequence[ColumnPass]


def decide(kernel: PointwiseKernel | ReductionKernel) -> Elements | Rows | Columns:
    """The loops of ``kernel``: rows if the innermost axis is reduced, columns if neighbours belong to different rows."""
    if isinstance(kernel, PointwiseKernel):
        plain = replace(kernel, order=in_memory_order(kernel.order, [kernel.block], kernel.shape))
        return _shared(plain) or _elements(plain)
    fastest = innermost(kernel)
    columns = bool(kernel.kept) and fastest in kernel.kept and kernel.shape[fastest] > 1
    kernel = read_chosen(bound_exponentials(kernel))
    if columns:
        return _columns(kernel)
    if any(f.at is not None for p in kernel.passes for f in p.folds):  # positions count along the axes as they are
        return _rows(*keep_costly(kernel))
    reduced = in_memory_order(kernel.reduced, [p.inner for p in kernel.passes], kernel.shape)
    return _stretches(kernel) or _rows(*keep_costly(replace(kernel, reduced=reduced)))


def _elements(kernel: PointwiseKernel) -> Elements:
    found = nest(kernel.order, kernel.shape, [kernel.block], ("o", "j"), {})
    step = CHUNK if found.many == 1 else max(CHUNK // max(found.size, 1), 1)
    turns = found.size if found.many == 1 else found.many
    tasks = max(-(-turns // step), 1) if found.many * found.size else 0
    return Elements(found, tasks, step, _streamed(kernel.block, found))


def _streamed(block: Block, nest: Nest) -> list[Store]:
    """The stores of ``block`` that fill long stretches of a result too large for a cache."""

    def streams(s: Store) -> bool:
        itemsize = s.slot.type.dtype.itemsize
        large = s.size * itemsize >= STREAM and nest.size * itemsize >= LINES
        return large and s.rows == 1 and s.offset.substitute(nest.at).stride("j") == 1

    return [s for s in block.stores if streams(s)]


def _rows(kernel: ReductionKernel, kept: Sequence[Var]) -> Rows:
    rows, inner = count(kernel.kept, kernel.shape), [p.inner for p in kernel.passes]
    found = nest(kernel.reduced, kernel.shape, inner, ("o", "j"), walk(kernel.kept, kernel.shape, "x"))
    size = max(found.many * found.size * len(kernel.passes), 1)
    step = max(min(ROWS_CHUNK // size, rows // TASKS), CHUNK // size, 1)
    segment = math.lcm(*(s.rows for block in inner for s in block.stores))
    step = -(-step // segment) * segment
    fetched = _fetched(inner, found, rows) if found.many == 1 else {}
    return Rows(found, rows, -(-rows // step), step, kept, fetched, _row_passes(kernel.passes, found, kept))


def _fetched(blocks: Sequence[Block], nest: Nest, rows: int) -> dict[Slot, Expr]:
    """The large operands that lie row by row, and where the next row is: the processor begins anew on every page."""
    there = {name: e.substitute({"x": axis("next", rows)}) for name, e in nest.at.items()}
    found = {}
    for slot, offset, _ in (load for block in blocks for load in loads(block)):
        size, itemsize = math.prod(slot.type.shape), slot.type.dtype.itemsize
        along = offset.substitute(nest.at).stride("j") == 1 and LINES <= nest.size * itemsize <= PAGE
        if size * itemsize >= FETCH and size == rows * nest.size and along:
            found[slot] = offset.substitute(there)
    return found


def _row_passes(passes: Sequence[Pass], nest: Nest, kept: Sequence[Var]) -> list[RowPass]:
    """The sweeps of ``passes``; two of them with a guess where that computes the same."""
    found = []
    while passes:
        guess = guess_maximum(passes, kept) if nest.many == 1 and nest.size >= 4 * LOOK else None
        if guess:
            found.append(RowPass(_guessed(passes[0], passes[1], guess, nest, kept), guess.both.after))
            passes = passes[2:]
            continue
        work = passes[0]
        loop = _sweep(work, nest, kept) if work.folds or work.inner.stores else None
        found.append(RowPass(loop, work.after))
        passes = passes[1:]
    return found


def _guessed(maximum: Pass, total: Pass, found: Guess, nest: Nest, kept: Sequence[Var]) -> Guessed:
    first = replace(maximum, folds=[replace(maximum.folds[0], result=found.guess)])
    return Guessed(
        _sweep(first, nest, (), LOOK, strict=False),
        _sweep(found.both, nest, kept, strict=False),
        (_sweep(maximum, nest, kept, declares=False), _sweep(total, nest, kept, declares=False)),
        found,
    )


def _sweep(
    work: Pass, nest: Nest, kept: Sequence[Var], stop: int | None = None, declares: bool = True, strict: bool = True
) -> Sweep:
    """The loop of ``work`` over a row; only if ``strict`` it looks for NaN."""
    long = nest.many * (stop or nest.size) > TERMS
    accumulators = []
    for f in work.folds:
        extreme, is_float = f.op in ("max", "min"), f.result.dtype.is_float
        blocked = f.at is not None or (f.op == "sum" and is_float and long)
        accumulators.append(Accumulator(f, blocked, extreme and is_float and strict))
    searched = any(f.at is not None for f in work.folds)
    block = BLOCK if searched else TERMS if any(a.blocked for a in accumulators) else 0
    short = nest.size < 2 * VECTOR and any(f.op != "sum" for f in work.folds)
    here = [i.out for i in work.inner.insts if i.out in kept]
    return Sweep(work, stop, accumulators, block, not short, here, _streamed(work.inner, nest), declares)


def _columns(kernel: ReductionKernel) -> Columns:
    kernel, kept = keep_costly(kernel, BESIDE)
    blocks = [b for p in kernel.passes for b in (p.inner, p.after)]
    return _side_by_side((kernel.kept, kernel.reduced), kernel.shape, kernel.passes, blocks, kept=kept)


def _side_by_side(
    axes: tuple[Sequence[int], Sequence[int]],
    shape: Sequence[int],
    passes: Sequence[Pass],
    blocks: Sequence[Block],
    group: int = 1,
    kept: Sequence[Var] = (),
) -> Columns:
    """Columns over the first of ``axes``, along which the indices of ``blocks`` are affine; their elements over the second.

    Values that are ``kept`` have room for all elements of a task's columns.
    """
    across, reduced = axes
    size = count(reduced, shape)
    found = nest(across, shape, blocks, ("o", "x"), walk(reduced, shape, "r"))
    fair = math.ceil(found.size * found.many / TASKS / VECTOR) * VECTOR  # columns of a task when all are shared out
    room = ROW_LIMIT // (max(size, 1) * len(kept)) // VECTOR * VECTOR if kept else LANES
    lanes = max(min(found.size, math.ceil(min(LANES, room, fair) / group) * group), 1)
    folds = [f for p in passes for f in p.folds]
    step = max(size if folds else min(CHUNK // lanes, size), 1)
    doubles = size > STEPS or group > 1
    own = {name for name, e in found.at.items() if "x" in e.axes()}
    own |= {v.name for p in passes for v in (*(f.result for f in p.folds), *(f.at for f in p.folds if f.at is not None))}
    own |= {i.out.name for p in passes for i in p.after.insts} | {v.name for v in kept}
    sweeps = []
    for p in passes:
        shared, work = apart(p, own)
        here = [i.out for i in p.inner.insts if i.out in kept]
        sweeps.append(ColumnPass(work, _doubles(p.folds) if doubles else [], shared, here))
    per = -(-found.size // lanes)
    return Columns(found, found.many * per * max(-(-size // step), 1), lanes, per, size, step, group, sweeps)


def _stretches(kernel: ReductionKernel) -> Columns | None:
    """Columns of a reduction whose rows are short stretches of memory, beside those of other rows; None for other ones."""
    order = memory_axes([p.inner for p in kernel.passes], kernel.shape)
    tail = list(itertools.takewhile(kernel.reduced.__contains__, reversed(order)))
    group, rest = count(tail, kernel.shape), [d for d in kernel.reduced if d not in tail]
    beside = len(order) > len(tail) and order[-len(tail) - 1] in kernel.kept
    if not tail or not beside or group > LANES or count(rest, kernel.shape) == 1:
        return None
    rows = {f"i{d}" for d in rest}
    passes = once_a_column(kernel.passes, rows)
    place = {d: i for i, d in enumerate(order)}
    kept, along = (sorted(dims, key=lambda d: place.get(d, -1)) for dims in ((*kernel.kept, *tail), rest))
    found = _side_by_side((kept, along), kernel.shape, passes, [p.inner for p in passes], group)
    return found if found.nest.size > group else None


def _shared(kernel: PointwiseKernel) -> Columns | None:
    """Columns of elements that share operands with those beside them, so that indices cut their loop short; None for others."""
    order = memory_axes([kernel.block], kernel.shape)
    small = set().union(*(e.axes() for _, e, _ in loads(kernel.block) if len(e.axes()) < len(order)))
    own = [d for d in order if f"i{d}" in small]
    across = [d for d in order if d not in own]
    plain = nest(kernel.order, kernel.shape, [kernel.block], ("o", "j"), {})
    if not across or not own or order[-1] not in own or plain.size >= LANES:
        return None
    passes = once_a_column([Pass(kernel.block, [], Block(kernel.block.params))], {f"i{d}" for d in across})
    kept = [*(d for d in range(len(kernel.shape)) if d not in order), *own]
    found = _side_by_side((kept, across), kernel.shape, passes, [p.inner for p in passes])
    return found if found.nest.size > plain.size else None


def _doubles(folds: Sequence[Fold]) -> list[Var]:
    """The sums of floats among ``folds``."""
    return [f.result for f in folds if f.op == "sum" and f.result.dtype.is_float]

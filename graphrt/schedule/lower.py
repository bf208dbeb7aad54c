"""Lowering: the kernel of a group, in Kernel IR: blocks of scalar code that an emitter records, hung into loops."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from graphrt.index import axes, axis
from graphrt.ir import Graph, Node, Value
from graphrt.op import Kind
from graphrt.schedule.collectives import lower_collective
from graphrt.schedule.emitter import Emitter, compute_dtype
from graphrt.schedule.group import Group, Guard, Index
from graphrt.schedule.kernel_ir import (
    Block,
    Fold,
    Kernel,
    Pass,
    PointwiseKernel,
    ReductionKernel,
    Scheduled,
    TemplateKernel,
    Total,
    Var,
)
from graphrt.schedule.loops import lower_loop
from graphrt.schedule.policy import SchedulePolicy
from graphrt.schedule.schedule import Schedule
from graphrt.schedule.templates import TEMPLATES
from graphrt.types import int64


def lower(
    schedule: Schedule, group: Group, policy: SchedulePolicy, scheduled: Callable[[Graph], Scheduled] | None = None
) -> Kernel:
    """The kernel of ``group``; ``scheduled`` schedules the bodies of loops."""
    if group.kind == "loop":
        assert scheduled is not None, "this target's loops are written out"
        return lower_loop(schedule, group, scheduled)
    if group.kind == "collective":
        return lower_collective(schedule, group)
    if group.kind == "template":
        return _template(schedule, group, policy.precision)
    if group.kind == "reduction":
        return _reduction(schedule, group, policy.row_limit)
    return _pointwise(schedule, group)


def memory_order(group: Group, schedule: Schedule) -> tuple[int, ...]:
    """The order of the domain's axes in the memory of the largest tensor of the domain's shape that the group touches."""
    best: tuple[int, ...] = tuple(range(len(group.shape)))
    for v in (*group.outputs, *group.copies, *group.inputs):
        stored = schedule.stores.get((group, v))
        place = stored[0] if stored else schedule.home.get(v)
        if place is not None and v.shape == group.shape and group.index.get(v, group.domain) == group.domain:
            return place.slot.type.order or best
    return best


def _totals(schedule: Schedule, group: Group, counter: list[int]) -> tuple[list[Total], dict[Any, Var]]:
    """The totals that ``group`` finds for itself, and how its blocks know of them."""
    totals, known = list[Total](), dict[Any, Var]()
    for node in (n for n in group.inlined if n.op.kind is Kind.REDUCTION):
        x, y, emitter = node.inputs[0], node.outputs[0], Emitter(schedule, group, {}, counter)
        emitter.block.params = tuple(f"i{d}" for d in range(x.ndim))
        each = emitter.read(x, axes("i", x.shape))
        known["read", y, ()] = found = emitter.new(each.dtype)
        totals.append(Total(x.shape, emitter.block, Fold(node.attrs["op"], each, found)))
    return totals, known


def _pointwise(schedule: Schedule, group: Group) -> PointwiseKernel:
    counter = [0]
    totals, known = _totals(schedule, group, counter)
    emitter = Emitter(schedule, group, {}, counter)
    emitter.known.update(known)
    emitter.block.params = tuple(f"i{d}" for d in range(len(group.shape)))
    for node in group.nodes:
        v = node.outputs[0]
        if v in group.outputs:
            emitter.store(v, group.index[v], emitter.read(v, group.index[v]))
    for v in group.copies:
        emitter.store(v, group.domain, emitter.read(v, group.domain))
    return PointwiseKernel(group, group.shape, memory_order(group, schedule), emitter.block, totals)


def _template(schedule: Schedule, group: Group, precision: str) -> TemplateKernel:
    node = group.anchor
    assert node is not None and node.op.template is not None
    spec = TEMPLATES[node.op.template]
    loaders = {}
    for name, coordinates, v, at in closures(node):
        emitter = Emitter(schedule, group, {}, [0])
        emitter.block.params = coordinates
        emitter.block.result = emitter.read(v, at)
        loaders[name] = emitter.block
    emitter = Emitter(schedule, group, {f"i{d}": e for d, e in enumerate(result_index(node))}, [0])
    dtype = compute_dtype(node.types[0].dtype)
    emitter.block.params = spec.output
    others = (int64 if v.dtype.is_int else compute_dtype(v.dtype) for v in node.outputs[1:])
    accumulators = [Var("acc", dtype), *(Var(f"acc{i}", other) for i, other in enumerate(others, 1))]
    emitter.block.given = tuple(accumulators)
    for v, var in zip(node.outputs, accumulators, strict=True):
        emitter.known["read", v, group.index[v]] = emitter.cast(var, compute_dtype(v.dtype))
    inside = [(i[1], 0, 1) for i in group.segments.values()]  # the first row of a segment stores for all
    of_segments = {group.index[n.outputs[0]] for n in group.segments}
    for v in group.values():
        if v in group.outputs:
            at = group.index[v]
            emitter.store(v, at, emitter.read(v, at), tuple(inside[:1]) if group.index[v] in of_segments else _first(group, at))
    return TemplateKernel(group, spec, spec.sizes(node), dtype, loaders, emitter.block, precision)


def closures(node: Node) -> Iterator[tuple[str, tuple[str, ...], Value, Index]]:
    """The loaders of a template's ``node``: name, coordinates, and the value that each reads, at which index."""
    assert node.op.template is not None
    spec = TEMPLATES[node.op.template]
    extents = spec.extents(node)
    for (name, coordinates), v in zip(spec.operands.items(), node.inputs, strict=True):
        yield name, coordinates, v, spec.operand_index(node, name, {c: axis(c, extents[c]) for c in coordinates})
    if spec.result:
        at = {c: axis(c, extents[c]) for c in spec.output}
        yield spec.result, spec.output, node.outputs[0], spec.output_index(node, at)


def result_index(node: Node) -> Index:
    """The index of a template's result over the coordinates of its epilogue."""
    assert node.op.template is not None
    spec = TEMPLATES[node.op.template]
    extents = spec.extents(node)
    names = spec.output[len(spec.output) - len(node.types[0].shape) :]
    if spec.output[0] not in "ob":  # a filter's c counts within its group: only the exact extent folds reshapes away
        extents = {**extents, **dict(zip(names, node.types[0].shape, strict=True))}
    return spec.output_index(node, {c: axis(c, extents[c]) for c in spec.output})


def _first(group: Group, index: Index) -> tuple[Guard, ...]:
    """Guards by which the first element along each axis that ``index`` lacks stores for all."""
    used = set().union(*(e.axes() for e in index))
    return tuple((e, 0, 1) for e in group.domain if e.axes() and not e.axes() & used)


def _reduction(schedule: Schedule, group: Group, row_limit: int) -> ReductionKernel:
    order, columns, keep = rows_of(group, schedule, row_limit)
    rows = _Rows(schedule, group, keep)
    passes = [rows.next() for _ in range(max(rows.level[n] for n in group.nodes) + 1)]
    if not passes[-1].inner.stores and not passes[-1].folds:
        tail = passes.pop()
        passes[-1].after.insts += tail.after.insts
        passes[-1].after.stores += tail.after.stores
    reduced = tuple(d for d in order if d in group.reduced)
    kept = tuple(d for d in order if d not in group.reduced)
    return ReductionKernel(group, group.shape, kept, reduced, _asked_for(passes), columns, keep, rows.totals)


def rows_of(group: Group, schedule: Schedule, row_limit: int) -> tuple[tuple[int, ...], bool, bool]:
    """The order of the domain's axes in memory, whether neighbours there are of different rows, and whether a row is held."""
    order = memory_order(group, schedule)
    columns = next((d not in group.reduced for d in reversed(order) if group.shape[d] > 1), False)
    # Some columns must fit side by side, or what is loaded together goes to waste.
    return order, columns, row_limit > 0 and group.reduced_size <= (row_limit // 32 if columns else row_limit)


class _Rows:
    """Writes the passes over the rows of a reduction, one after the other; with ``keep`` what one computes the next has.

    ``level`` is the pass that computes each member, ``of_row`` what is known of a row as a whole.
    """

    def __init__(self, schedule: Schedule, group: Group, keep: bool) -> None:
        self.group, self.level, self.keep, self.number = group, group.levels(), keep, 0
        counter = [0]
        self.totals, self.of_row = _totals(schedule, group, counter)
        self.emitter = Emitter(schedule, group, {}, counter)
        self.emitter.known = dict(self.of_row)

    def next(self) -> Pass:
        """The next pass: the loop over a row with what is folded and stored in it, and what comes behind the loop."""
        emitter = self.emitter
        emitter.known = dict(emitter.known) if self.keep else dict(self.of_row)
        emitter.block = inner = Block(tuple(f"i{d}" for d in range(len(self.group.shape))))
        folds = [self._fold(n) for n in self.group.folded() if self.level[n] == self.number]
        for v in self.group.outputs:
            if self.level[v.node] == self.number and self.group.is_full(v):
                self._store(v)
        full, emitter.known = emitter.known, dict(self.of_row)
        emitter.block = after = Block(inner.params)
        for v in self.group.values():
            if not self.group.is_full(v) and self._is_ready(v):
                self._find(v)
        emitter.known = {**full, **self.of_row}
        self.number += 1
        return Pass(inner, folds, after)

    def _store(self, v: Value) -> None:
        """Stores ``v`` element by element; of a sum over a segment of rows, what each of them adds."""
        at, summed = self.group.index[v], self.group.segments.get(v.node)
        if summed is None:
            self.emitter.store(v, at, self.emitter.read(v, at))
        else:
            terms = v.node.inputs[0]
            self.emitter.store(v, at, self.emitter.read(terms, summed), rows=terms.shape[1])

    def _fold(self, node: Node) -> Fold:
        """The fold of ``node``, and the variables that hold its results from then on."""
        x = self.emitter.read(node.inputs[0], self.group.domain)
        x = self.emitter.as_stored(x, node.inputs[0].dtype) if len(node.outputs) > 1 else x  # elements are compared
        results = [self.emitter.new(x.dtype), *(self.emitter.new(v.dtype) for v in node.outputs[1:])]
        for v, var in zip(node.outputs, results, strict=True):
            self.of_row["read", v, self.group.index[v]] = var
        return Fold(node.attrs["op"], x, *results)

    def _is_ready(self, v: Value) -> bool:
        """Whether ``v`` follows from this pass, or, in the first, from nothing in the rows."""
        ready = self.level[v.node] + (v.node.op.kind is Kind.REDUCTION)
        return ready == self.number + 1 or ready == self.number == 0

    def _find(self, v: Value) -> None:
        """Computes ``v``, of which a row has one, and stores it if it is an output."""
        at = self.group.index[v]
        self.of_row["read", v, at] = found = self.emitter.read(v, at)
        if v in self.group.outputs:
            self.emitter.store(v, at, found)


def _asked_for(passes: Sequence[Pass]) -> list[Pass]:
    """``passes`` without the positions of extremes that nothing uses."""
    used: set[Any] = {f.x for p in passes for f in p.folds}  # a later pass may look for the largest of positions
    for block in (block for p in passes for block in (p.inner, p.after)):
        used.update(s.var for s in block.stores)
        for inst in block.insts:
            used.update(a for a in inst.args if isinstance(a, Var))
    return [replace(p, folds=[f if f.at in used else replace(f, at=None) for f in p.folds]) for p in passes]

"""Lowering: the kernel of a group, in Kernel IR.

Op bodies are run over a handler that records what they ask for; views become index arithmetic, members become values, and what
is left is a load.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from graphrt.index import Expr, axes, axis
from graphrt.ir import Node, Value
from graphrt.op import Kind
from graphrt.schedule.group import Group, Guard, Index, Read
from graphrt.schedule.kernel_ir import (
    Block,
    Fold,
    Inst,
    Kernel,
    Pass,
    PointwiseKernel,
    ReductionKernel,
    Store,
    TemplateKernel,
    Total,
    Var,
)
from graphrt.schedule.policy import SchedulePolicy
from graphrt.schedule.schedule import Schedule
from graphrt.schedule.templates import TEMPLATES
from graphrt.types import HALVES, DType, as_dtype, bool_, float32, int64

COMPARE = ("eq", "ne", "lt", "le", "gt", "ge")
SAME = (
    "add", "sub", "mul", "div", "neg", "abs", "minimum", "maximum", "pow", "exp", "log", "sqrt", "rsqrt", "sin", "cos",
    "tanh", "erf", "erfc", "erfinv", "floor", "ceil", "trunc", "round", "exp2", "log2", "log10", "expm1", "log1p", "atan",
    "atan2", "fmod", "quotient", "copysign", "bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_not", "left_shift",
    "right_shift", "logical_and", "logical_or", "logical_not",
)  # fmt: skip


def compute_dtype(dtype: DType) -> DType:
    """The dtype in which a value is computed: float32 for halves, its own for everything else."""
    return float32 if dtype in HALVES else dtype


class Emitter:
    """Records scalar code: the handler ``s`` that op bodies are written for.

    Values are read at indices over the group's domain, as fusion compared them; what addresses memory or asks for its place
    is written over the block's own axes (``axes_map``).
    """

    def __init__(self, schedule: Schedule, group: Group, axes_map: dict[str, Expr], counter: list[int]) -> None:
        self.schedule, self.group, self.axes, self.counter = schedule, group, axes_map, counter
        self.known: dict[Any, Var] = {}
        self.numbers: dict[Var, Any] = {}  # constants, to be converted here and not by the target
        self.rounded: set[Var] = set()  # hold halves
        self.block = Block(())
        self.members = {*group.nodes, *group.inlined}

    def emit(self, op: str, args: tuple[Any, ...], dtype: DType) -> Var:
        """The variable that holds ``op(*args)``: a new instruction, or the one that computes it already."""
        key = (op, repr(args) if op == "const" else args, dtype)  # 0.0 and -0.0 are equal, and two values
        if key not in self.known:
            out = self.new(dtype)
            self.block.insts.append(Inst(out, op, args))
            self.known[key] = out
        return self.known[key]

    def new(self, dtype: DType) -> Var:
        """A variable of a name of its own."""
        self.counter[0] += 1
        return Var(f"v{self.counter[0]}", dtype)

    def __getattr__(self, op: str) -> Callable[..., Var]:
        if op in COMPARE:
            return lambda a, b: self.emit(op, (a, b), bool_)
        if op in SAME:
            return lambda *args: self.emit(op, args, args[0].dtype)
        raise AttributeError(f"{op!r} is no scalar operation")

    def const(self, number: Any, like: Any) -> Var:
        """``number`` in the dtype in which ``like``, a variable or a dtype, is computed."""
        dtype = compute_dtype(like.dtype if isinstance(like, Var) else like)
        var = self.emit("const", (float(number) if dtype.is_float else int(number),), dtype)
        self.numbers[var] = number
        return var

    def where(self, condition: Var, a: Var, b: Var) -> Var:
        """``a`` where ``condition`` holds, else ``b``."""
        return self.emit("where", (condition, a, b), a.dtype)

    def cast(self, x: Var, like: Any) -> Var:
        """``x`` in the dtype of ``like``, a variable or a dtype; rounded to a half it is computed on in float32."""
        dtype = like.dtype if isinstance(like, Var) else as_dtype(like)
        if dtype in HALVES and x.dtype.is_float:  # round to half, then compute on in float
            half = self.cast(self.emit("cast", (x,), dtype), float32)
            self.rounded.add(half)
            return half
        dtype = compute_dtype(dtype)
        if x in self.numbers:
            number = self.numbers[x]
            return self.const(bool(number) if dtype.is_bool else number, dtype)
        return x if x.dtype == dtype else self.emit("cast", (x,), dtype)

    def index(self, e: Expr) -> Var:
        """The number that ``e``, over the domain's axes, is, as int64."""
        return self.emit("index", (e.substitute(self.axes),), int64)

    def uniform(self, seed: Var, counter: Var, stream: int, element: Expr) -> Var:
        """The random number in [0, 1) of number ``element`` of the stream."""
        return self.emit("uniform", (seed, counter, stream, element.substitute(self.axes)), float32)

    def place(self, index: Index) -> Index:
        """``index`` over the group's domain as one over the block's axes."""
        return tuple(e.substitute(self.axes) for e in index)

    def guarded(self, guards: tuple[Guard, ...]) -> tuple[Guard, ...]:
        """``guards`` over the block's axes."""
        return tuple((e.substitute(self.axes), low, high) for e, low, high in guards)

    def read(self, v: Value, index: Index, guards: tuple[Guard, ...] = ()) -> Var:
        """The element ``v[index]``: computed, if the group computes it, else loaded."""
        pending = [Read(v, index, guards)]
        while pending:  # not recursive: a chain may be thousands of nodes long
            read = pending[-1]
            if self._found(read) is None:
                missing = [r for r in self._needs(read) if self._found(r) is None]
                if missing:
                    pending += reversed(missing)
                    continue
                self.known["read", read.value, read.index, read.guards] = self._compute(read)
            pending.pop()
        return self._have(Read(v, index, guards))

    def _found(self, read: Read) -> Var | None:
        key = ("read", read.value, read.index)
        return self.known.get(key) or self.known.get((*key, read.guards))

    def _have(self, read: Read) -> Var:
        found = self._found(read)
        assert found is not None
        return found

    def _seen_through(self, v: Value) -> bool:
        """Whether ``v`` is a view of something else; a group that copies a stored view out reads the view itself."""
        return v.node.op.kind is Kind.VIEW and v not in self.group.inputs and v not in self.schedule.buffered

    def _computed(self, node: Node) -> bool:
        if node.op.kind is Kind.REDUCTION:
            return node in self.group.segments  # and totals are known beforehand
        return node in self.members and node is not self.group.anchor

    def _needs(self, read: Read) -> list[Read]:
        """The nodes that must be known before ``read`` can be computed."""
        node, index, guards = read.value.node, read.index, read.guards
        if not read.value.type.size:
            return []  # code that is written but never runs
        if self._seen_through(read.value):
            assert node.op.pull is not None
            return [Read(node.inputs[p.operand], p.index, guards + p.mask) for p in node.op.pull(node, index)]
        if not self._computed(node):
            return []
        if node in self.group.segments:
            return [Read(node.inputs[0], self.group.segments[node])]
        if node.op.kind is Kind.GATHER:
            position = Read(node.inputs[1], index, guards)
            return [position] if self._found(position) is None else [position, self._gathered(node, index, position)]
        return [Read(x, index if x.ndim == len(index) else (), guards) for x in node.inputs]

    def _gathered(self, node: Node, index: Index, position: Read) -> Read:
        """The index at which ``node`` reads its data: a position found at run time is an axis named after its variable."""
        dim, size = node.attrs["dim"], node.inputs[0].shape[node.attrs["dim"]]
        return Read(node.inputs[0], (*index[:dim], axis(self._position(node, position).name, size), *index[dim + 1 :]))

    def _position(self, node: Node, position: Read) -> Var:
        """The position to gather from, 0 where it lies outside."""
        return self.where(self._inside(node, position), self._have(position), self.const(0, int64))

    def _inside(self, node: Node, position: Read) -> Var:
        at, size = self._have(position), node.inputs[0].shape[node.attrs["dim"]]
        return self.logical_and(self.ge(at, self.const(0, at)), self.lt(at, self.const(size, at)))

    def _compute(self, read: Read) -> Var:
        node, v, index, guards = read.value.node, read.value, read.index, read.guards
        if not v.type.size:
            return self.const(0, v.dtype)
        if node.op.kind is Kind.GENERATED:
            assert node.op.body is not None
            return node.op.body(self, index, **node.attrs)
        needs = self._needs(read)
        if self._seen_through(v):
            return self._view(node, index, needs)
        if self._computed(node):
            operands = [self._have(r) for r in needs]
            if node in self.group.segments:
                return self.emit("segment_sum", (operands[0], node.inputs[0].shape[1]), operands[0].dtype)
            if node.op.kind is Kind.GATHER:
                return self.where(self._inside(node, needs[0]), operands[1], self.const(0, v.dtype))
            if v.dtype.is_bool:
                operands = [self.as_stored(x, of.dtype) for x, of in zip(operands, node.inputs, strict=True)]
            assert node.op.body is not None
            return node.op.body(self, *([index] if node.op.kind is Kind.RANDOM else []), *operands, **node.attrs)
        place = self.schedule.home[v]
        where = (place.slot, place.offset(self.place(index)), self.guarded(guards))
        loaded = self.cast(self.emit("load", where, v.dtype), compute_dtype(v.dtype))
        self.rounded.add(loaded)
        return loaded

    def as_stored(self, x: Var, dtype: DType) -> Var:
        """``x`` rounded to ``dtype``: what is compared must not depend on whether it was stored."""
        number = self.numbers.get(x)
        if dtype not in HALVES or x in self.rounded or (number is not None and float(dtype.numpy.type(number)) == number):
            return x
        return self.cast(x, dtype)

    def _view(self, node: Node, index: Index, needs: list[Read]) -> Var:
        assert node.op.pull is not None
        pieces = node.op.pull(node, index)
        if len(pieces) == 1 and not pieces[0].mask:
            return self._have(needs[0])
        result = self.const(node.attrs.get("value", 0), node.types[0].dtype)
        for piece, need in zip(reversed(pieces), reversed(needs), strict=True):
            result = self.where(self.emit("guard", (self.guarded(piece.mask),), bool_), self._have(need), result)
        return result

    def store(self, v: Value, index: Index, var: Var, guards: tuple[Guard, ...] = ()) -> None:
        """Stores ``var`` as the element of ``v`` at ``index`` wherever the group stores ``v``, where ``guards`` hold."""
        for place in self.schedule.stores.get((self.group, v), []):
            self.block.stores.append(Store(place.slot, place.offset(self.place(index)), var, v.type.size, self.guarded(guards)))


def lower(schedule: Schedule, group: Group, policy: SchedulePolicy) -> Kernel:
    """The kernel of ``group``."""
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
        folds = [self._fold(n) for n in self.group.nodes if n.op.kind is Kind.REDUCTION and self.level[n] == self.number]
        for v in self.group.outputs:
            if self.level[v.node] == self.number and self.group.is_full(v):
                emitter.store(v, self.group.index[v], emitter.read(v, self.group.index[v]))
        full, emitter.known = emitter.known, dict(self.of_row)
        emitter.block = after = Block(inner.params)
        for v in self.group.values():
            if not self.group.is_full(v) and self._is_ready(v):
                self._find(v)
        emitter.known = {**full, **self.of_row}
        self.number += 1
        return Pass(inner, folds, after)

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
    used: set[Any] = set()
    for block in (block for p in passes for block in (p.inner, p.after)):
        used.update(s.var for s in block.stores)
        for inst in block.insts:
            used.update(a for a in inst.args if isinstance(a, Var))
    return [replace(p, folds=[f if f.at in used else replace(f, at=None) for f in p.folds]) for p in passes]

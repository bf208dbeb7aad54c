"""The emitter: the handler over which op bodies are run, which records the scalar code that they ask for.

Views become index arithmetic, members of the group become values, and what is left is a load.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from graphrt.index import Expr, axis
from graphrt.ir import Node, Value
from graphrt.op import Kind
from graphrt.schedule.group import Group, Guard, Index, Read
from graphrt.schedule.kernel_ir import Block, Inst, Store, Var
from graphrt.schedule.schedule import Schedule
from graphrt.types import HALVES, DType, as_dtype, bool_, float32, int64

COMPARE = ("eq", "ne", "lt", "le", "gt", "ge")
SAME = (
    "add", "sub", "mul", "div", "neg", "abs", "minimum", "maximum", "pow", "exp", "log", "sqrt", "rsqrt", "sin", "cos",
    "tanh", "erf", "erfc", "erfinv", "floor", "ceil", "trunc", "round", "exp2", "log2", "log10", "expm1", "log1p", "atan",
    "atan2", "fmod", "quotient", "copysign", "bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_not", "left_shift",
    "right_shift", "fma", "logical_and", "logical_or", "logical_not",
)  # fmt: skip
PICKS = ("maximum", "minimum", "neg", "abs", "where")  # what these make of halves are halves


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
        self.rounded: dict[Var, DType] = {}  # hold halves, of these dtypes
        self.block = Block(())
        self.members = {*group.nodes, *group.inlined}

    def emit(self, op: str, args: tuple[Any, ...], dtype: DType) -> Var:
        """The variable that holds ``op(*args)``: a new instruction, or the one that computes it already."""
        key = (op, repr(args) if op == "const" else args, dtype)  # 0.0 and -0.0 are equal, and two values
        if key not in self.known:
            out = self.new(dtype)
            self.block.insts.append(Inst(out, op, args))
            self.known[key] = out
            if op in PICKS and (half := self._common_half(args[1:] if op == "where" else args)):
                self.rounded[out] = half
        return self.known[key]

    def _common_half(self, args: tuple[Var, ...]) -> DType | None:
        """The half that all of ``args`` hold a number of, if there is one."""
        halves = {self.rounded[x] for x in args if x in self.rounded}
        half = halves.pop() if len(halves) == 1 else None
        return half if half is not None and all(self._holds(x, half) for x in args) else None

    def _holds(self, x: Var, dtype: DType) -> bool:
        """Whether ``x`` is a number of the half ``dtype``."""
        number = self.numbers.get(x)
        return self.rounded.get(x) is dtype or (number is not None and float(dtype.numpy.type(number)) == number)

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
            self.rounded[half] = dtype
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
        if v.dtype in HALVES:
            self.rounded[loaded] = v.dtype
        return loaded

    def as_stored(self, x: Var, dtype: DType) -> Var:
        """``x`` rounded to ``dtype``: what is compared must not depend on whether it was stored."""
        return x if dtype not in HALVES or self._holds(x, dtype) else self.cast(x, dtype)

    def _view(self, node: Node, index: Index, needs: list[Read]) -> Var:
        assert node.op.pull is not None
        pieces = node.op.pull(node, index)
        if len(pieces) == 1 and not pieces[0].mask:
            return self._have(needs[0])
        result = self.const(node.attrs.get("value", 0), node.types[0].dtype)
        for piece, need in zip(reversed(pieces), reversed(needs), strict=True):
            result = self.where(self.emit("guard", (self.guarded(piece.mask),), bool_), self._have(need), result)
        return result

    def store(self, v: Value, index: Index, var: Var, guards: tuple[Guard, ...] = (), rows: int = 1) -> None:
        """Stores ``var`` as the element of ``v`` at ``index`` wherever the group stores ``v``, where ``guards`` hold.

        Of so many ``rows``, one behind the other, it stores the sum.
        """
        for place in self.schedule.stores.get((self.group, v), []):
            offset, inside = place.offset(self.place(index)), self.guarded(guards)
            exact = v.dtype in HALVES and rows == 1 and self._holds(var, v.dtype)
            self.block.stores.append(Store(place.slot, offset, var, v.type.size, inside, rows, exact))

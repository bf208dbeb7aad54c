"""Kernel IR: what a group computes, free of any target.

A kernel is straight-line scalar blocks hung into loops. A template kernel has a loader block per operand and an epilogue
block; a pointwise kernel is one block over its domain; a reduction kernel is a list of passes over its rows. Offsets are
index expressions over the block's axes. Targets print blocks from one table of scalar operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from graphrt.index import Expr
from graphrt.schedule.group import Group, Guard
from graphrt.schedule.schedule import Schedule, Slot
from graphrt.schedule.templates import TemplateSpec
from graphrt.types import HALVES, DType, Shape, TensorType, float32

if TYPE_CHECKING:
    from graphrt.schedule.memory import MemoryPlan


@dataclass(frozen=True)
class Var:
    """A scalar variable of a block."""

    name: str
    dtype: DType


@dataclass(frozen=True)
class Inst:
    """``out = op(*args)``; ops: load(Slot, offset, guards), const(number), index(Expr), guard(guards),
    uniform(seed, counter, stream, Expr), cast(Var), where, segment_sum(Var, length): over segments of the
    rows of a tile, each row gets its segment's; and the scalar operations. A printer may add to these."""

    out: Var
    op: str
    args: tuple[Any, ...]


@dataclass(frozen=True)
class Store:
    """Writes ``var``, converted to the slot's dtype, at ``offset``, where every guard holds; ``size`` elements in all.

    Where so many ``rows``, one behind the other, write to one place, what is there in the end is the sum of them. ``exact``
    says that ``var`` holds a half of the slot's dtype, which needs no rounding.
    """

    slot: Slot
    offset: Expr
    var: Var
    size: int
    guards: tuple[Guard, ...] = ()
    rows: int = 1
    exact: bool = False


@dataclass
class Block:
    """Straight-line code over the axes ``params`` (and variables ``given``); ends with stores or a ``result``."""

    params: tuple[str, ...]
    given: tuple[Var, ...] = ()
    insts: list[Inst] = field(default_factory=list)
    stores: list[Store] = field(default_factory=list)
    result: Var | None = None

    @property
    def narrow(self) -> Var | None:
        """The half-precision variable that the result is cast from, else the result."""
        made = next((i for i in self.insts if i.out == self.result and i.op == "cast"), None)
        return made.args[0] if made is not None and made.args[0].dtype in HALVES else self.result


@dataclass
class TemplateKernel:
    """A template of loops with closures: ``loaders`` by operand, ``epilogue`` for the stores; it accumulates in ``dtype``."""

    group: Group
    spec: TemplateSpec
    sizes: dict[str, Any]
    dtype: DType
    loaders: dict[str, Block]
    epilogue: Block
    precision: str  # of float32 products: highest, high or medium

    @property
    def factors(self) -> DType:
        """The dtype in which a contraction takes its operands: theirs, or the half that all are cast from, which is exact.

        For other templates it is what the first operand is stored in.
        """
        assert self.group.anchor is not None
        dtype = self.group.anchor.inputs[0].dtype
        factors = (self.loaders[operand] for operand in self.spec.factors)
        found = {block.narrow.dtype for block in factors if block.narrow is not None}
        exact = dtype is float32 and len(found) == 1
        return found.pop() if exact else dtype


@dataclass(frozen=True)
class Fold:
    """``result`` is the sum, prod, max or min (``op``) of ``x`` over a row; ``at``, of an extreme, where it is met first."""

    op: str
    x: Var
    result: Var
    at: Var | None = None


@dataclass(frozen=True)
class Total:
    """A ``fold`` of what ``block`` computes over axes i0, i1, ... of ``shape``, one number that each task finds for itself."""

    shape: Shape
    block: Block
    fold: Fold


@dataclass
class PointwiseKernel:
    """One block over ``shape``; axes i0, i1, ... in the order ``order`` of memory. ``totals`` are found before."""

    group: Group
    shape: Shape
    order: tuple[int, ...]
    block: Block
    totals: list[Total]


@dataclass
class Pass:
    """One run over the reduced axes: ``inner`` per element, then ``folds`` of what it computes, then ``after`` per row."""

    inner: Block
    folds: list[Fold]
    after: Block


@dataclass
class ReductionKernel:
    """Rows are the kept axes of ``shape`` (in memory order ``kept``), elements the reduced ones (``reduced``).

    ``totals`` are found before the first pass.
    ``columns``: neighbours in memory belong to different rows. ``whole``: later passes use what the first one loaded.
    """

    group: Group
    shape: Shape
    kept: tuple[int, ...]
    reduced: tuple[int, ...]
    passes: list[Pass]
    columns: bool
    whole: bool
    totals: list[Total]


@dataclass(frozen=True)
class Moving:
    """The place of a body's buffer: in ``slot`` from element ``first`` on, ``stride`` elements further at each step.

    With ``other`` it is there and in ``slot`` by turns: what the last step leaves is in ``slot``, and ``ahead`` is 1 for that.
    """

    slot: Slot
    first: int
    stride: int
    other: Slot | None = None
    ahead: int = 0


@dataclass(frozen=True)
class Scheduled:
    """The launches of a body in order, the kernels of each, and what lies where between them."""

    schedule: Schedule
    kernels: Sequence[Sequence[Kernel]]
    plan: MemoryPlan


@dataclass
class LoopKernel:
    """``length`` runs of a ``body``, whose inputs and outputs, by name, are ``inputs`` and ``outputs``.

    Before the first are the ``initial`` copies: from one place to another, so many elements each. What is packed of the
    ``constants`` among the inputs is kept from step to step. ``scratch`` is what the body needs between its launches, ``block``
    has what is loaded and stored in all.
    """

    group: Group
    length: int
    body: Scheduled
    inputs: dict[str, Moving]
    outputs: dict[str, Moving]
    constants: frozenset[str]
    initial: list[tuple[Moving, Moving, int]]
    scratch: Slot
    block: Block


@dataclass(frozen=True)
class Region:
    """A tensor of ``type`` in ``slot`` from element ``first`` on, dense in its own order."""

    slot: Slot
    first: int
    type: TensorType


@dataclass
class CollectiveKernel:
    """A collective of a mesh's processes: ``op`` with ``attrs`` makes the ``results`` of all their ``sources``.

    ``block`` has what is loaded and stored in all: element by element where results may lie over their sources (``in_place``).
    """

    group: Group
    op: str
    in_place: bool
    attrs: dict[str, Any]
    sources: list[Region]
    results: list[Region]
    block: Block


Kernel = TemplateKernel | PointwiseKernel | ReductionKernel | LoopKernel | CollectiveKernel

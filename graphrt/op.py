"""The definition of an op: one frozen ``OpDef`` with every rule about it, and the registry of all of them.

The fields without a default are required, so an op that lacks a rule fails when its module is imported. Everything that
must know about ops (verification, autodiff, fusion, lowering, the reference target, tests, documentation) asks an OpDef;
nothing else names one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np

from graphrt.errors import GraphError
from graphrt.types import TensorType

if TYPE_CHECKING:
    from graphrt.index import Expr
    from graphrt.node import Node, Value

Attrs = Mapping[str, Any]
Types = tuple[TensorType, ...]
Order = tuple[int, ...] | None


class Kind(Enum):
    """How an op relates the elements it reads to those it writes: all that the scheduler needs to know of it."""

    SOURCE = "source"  # input, parameter: a buffer somebody else fills
    ELEMENTWISE = "elementwise"  # each output element from the same element of each input
    GENERATED = "generated"  # no input buffer: constant, iota; computed from the index wherever it is needed
    RANDOM = "random"  # as elementwise over its own index, from a counter
    VIEW = "view"  # no arithmetic: an index map, folded into whoever reads it
    GATHER = "gather"  # as elementwise in its last operand, the positions at which it reads its first along one axis
    REDUCTION = "reduction"  # one axis set folded by an associative operation
    SCATTER = "scatter"  # elements sent to computed positions: a template of loops
    SCAN = "scan"  # one axis walked in order, each result from those before it: a template of loops
    SORT = "sort"  # one axis put in order: a template of loops
    DECOMPOSITION = "decomposition"  # matrices as products of others, made where the result lies: a template of loops
    CONTRACTION = "contraction"  # matmul, convolution and its gradients: a template of loops
    ATTENTION = "attention"  # products with a softmax between them: a template of loops
    WINDOW = "window"  # pooling and its gradients: a template of loops
    LOOP = "loop"  # a graph of its own, run once for each step
    COLLECTIVE = "collective"  # what the processes of a mesh exchange


@dataclass(frozen=True)
class Sample:
    """One seeded call of an op: NumPy arrays for the inputs, attributes, and which inputs a gradient is checked for."""

    inputs: tuple[np.ndarray, ...]
    attrs: Mapping[str, Any]


@dataclass(frozen=True)
class Piece:
    """The source of one part of a view's output: operand number, index into it, and where that holds (None: always)."""

    operand: int
    index: tuple[Expr, ...]
    mask: tuple[tuple[Expr, int, int], ...] = ()  # (e, lo, hi): lo <= e < hi must hold


@dataclass(frozen=True)
class Axes:
    """The dimensions of operands and results that go together, a letter for each, as einsum has them.

    A result's element at some place of a letter needs operands at that place alone. A letter that no result has is folded
    over, and what is ``neutral`` there, a number for each operand, changes nothing; None leaves an operand as it is. Along
    ``_`` elements need one another; where groups of the last operand need one another alone, ``blocks`` says how many
    neighbours along each of its dimensions.
    """

    operands: tuple[str, ...]
    results: tuple[str, ...]
    neutral: tuple[float | None, ...] = ()
    blocks: tuple[int, ...] = ()


LETTERS = "abcdefghijopqrstuvwxyz"  # of leading dimensions; k, l, m and n are for the last ones


def leading(node: Node, count: int | None = None) -> Axes:
    """The ``Axes`` of an op that treats the first ``count`` dimensions (None: all but the last two) one by one."""
    first = node.inputs[0].ndim - 2 if count is None else count
    operands, results = ([LETTERS[:first] + "_" * (v.ndim - first) for v in vs] for vs in (node.inputs, node.outputs))
    return Axes(tuple(operands), tuple(results))


def beside(node: Node) -> Axes:
    """The ``Axes`` of an op that works along ``attrs["dim"]`` and treats the other dimensions one by one."""
    letters = "".join("_" if d == node.attrs["dim"] else LETTERS[d] for d in range(node.inputs[0].ndim))
    return Axes((letters,) * len(node.inputs), (letters,) * len(node.outputs))


@dataclass(frozen=True)
class OpDef:
    """Everything graphrt knows of one op. See ``docs/architecture.md`` for how each field is used."""

    name: str
    kind: Kind
    infer: Callable[..., Types]  # (*input types, **attrs) -> output types; raises with the op's argument names
    vjp: Callable[..., Sequence[Value | None]] | None  # (node, *cotangents) -> one gradient per input; None: no gradient
    reference: Callable[..., Any]  # (*arrays, **attrs) -> array(s): NumPy, written apart from the lowering
    samples: Callable[[np.random.Generator], Sequence[Sample]]  # seeded inputs, edge cases among them
    body: Callable[..., Any] | None = None  # ELEMENTWISE, RANDOM, GENERATED: scalar code over a handler
    pull: Callable[..., Sequence[Piece]] | None = None  # VIEW: (node, output index) -> where it is read from
    push: Callable[..., tuple[Expr, ...]] | None = None  # VIEW that only reorders: (node, input index) -> output index
    simplify: Callable[[Node], Value | None] | None = None  # an equal, simpler value built from the node's inputs
    split: Callable[[Node, int], Sequence[Value]] | None = None  # the same results from n parts and a reduction of theirs
    orders: Callable[[Node], tuple[Sequence[Order], Sequence[Order]]] | None = None  # preferred layouts: inputs, outputs
    stores_any: bool = False  # its template stores results in whichever order their readers like
    template: str | None = None  # kinds that are a template of loops: its name
    axes: Callable[[Node], Axes] | None = None  # kinds that work along dimensions: which go together; None: none do
    flops: Callable[[Node], int] = lambda node: node.outputs[0].type.size
    barrier: bool = False  # without vjp: gradients end here by intention, which is no error
    cheap: bool = True  # ELEMENTWISE: may be computed again instead of loaded
    in_place: bool = False  # COLLECTIVE: each result may lie over the operand that it is made of
    varying: Callable[[Types, Attrs], tuple[str, ...]] | None = None  # the axes its results vary over; None: its operands'

    def types(self, operands: Types, attrs: Attrs) -> Types:
        """The types of the results for ``operands``. Raises what ``infer`` does."""
        if self.varying is None and not any([t.varying for t in operands]):
            return self.infer(*operands, **attrs)
        found = self.infer(*(t.over(()) for t in operands), **attrs)  # whose rules are those of one process
        if self.varying is not None:
            varying = self.varying(operands, attrs)
        else:
            varying = next((t.varying for t in operands if t.varying), ())
            if any(t.varying != varying for t in operands if t.varying):
                varying = tuple(sorted({axis for t in operands for axis in t.varying}))
        return tuple(t.over(varying) for t in found)


REGISTRY: dict[str, OpDef] = {}


def register(op: OpDef) -> OpDef:
    """Adds ``op`` to the registry. Raises GraphError when its name is taken."""
    if op.name in REGISTRY:
        raise GraphError(f"op {op.name!r} is defined twice")
    REGISTRY[op.name] = op
    return op

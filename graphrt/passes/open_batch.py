"""A program for any batch: a graph built for the largest is rewritten so that it takes how many rows there are as an input.

Every node computes all rows of the largest batch, and where one folds the batch, a sum, a maximum, a weight's gradient, rows
past the count are replaced by what changes nothing (``where``, since a row may hold NaN). Numbers made of a count (``Factor``)
are computed from the count of the run. What would need another graph for another batch is refused (``batch_rows``).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from graphrt.errors import ArgumentError, GraphError, InputError
from graphrt.index import Expr, axis
from graphrt.ir import Graph, Node, Value
from graphrt.node import Factor
from graphrt.op import REGISTRY, Kind
from graphrt.ops.base import broadcast_to, cast
from graphrt.ops.elementwise import where
from graphrt.ops.source import iota
from graphrt.ops.transcendental import floor_divide, remainder
from graphrt.passes.batch_rows import AXIS, Analysis, analyse, row_dim
from graphrt.passes.decision import Decision
from graphrt.passes.rewrite import rewrite
from graphrt.passes.simplify import dead_code
from graphrt.passes.zero_rows import is_gradient, sources_of_zeros

ROWS = "batch.rows"  # the input that says how many rows there are
MASK = "batch.mask"  # what names of masks begin with, the conditions that a row is one of these


@dataclass(frozen=True)
class UpTo:
    """Any batch from 1 to ``most``, of the ``inputs`` whose dimension it is, by name (None: all whose first is ``most``)."""

    most: int
    inputs: Mapping[str, int] | None = None


def up_to(most: int, inputs: Mapping[str, int] | None = None) -> UpTo:
    """Any batch from 1 to ``most``: an argument of ``compile``, whose graph is built for a batch of ``most``.

    The batch is the first dimension of every input where that is ``most``, or dimension ``inputs[name]`` of those inputs that
    ``inputs`` names. Raises ArgumentError for a ``most`` that is no int above 0.
    """
    if not isinstance(most, int) or isinstance(most, bool) or most < 1:
        raise ArgumentError(f"up_to takes the largest batch, an int of 1 or more, got {most!r}")
    return UpTo(most, None if inputs is None else dict(inputs))


@dataclass(frozen=True)
class OpenBatch:
    """How a program for any batch from ``least`` to ``most`` is called.

    ``inputs`` are the dimensions of inputs that the batch is, ``outputs`` of outputs, each with the elements for a row.
    """

    least: int
    most: int
    inputs: Mapping[str, int]
    outputs: Mapping[str, tuple[int, int]]

    def count(self, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
        """The batch of inputs of ``shapes`` by name; None where none of them has it. Raises InputError."""
        sizes = {name: shapes[name][dim] for name, dim in self.inputs.items() if len(shapes.get(name, ())) > dim}
        if len(set(sizes.values())) > 1:
            raise InputError(f"inputs have one batch, got {', '.join(f'{n} in {name!r}' for name, n in sizes.items())}")
        rows = next(iter(sizes.values()), None)
        if rows is not None and not self.least <= rows <= self.most:
            raise InputError(f"the program takes batches of {self.least} to {self.most}, got {rows}{self._more(rows)}")
        return rows

    def _more(self, rows: int) -> str:
        if rows > self.most:
            return f"; compile it with batch=up_to({rows}), from a graph of that batch"
        return ": in training, a norm over the batch needs two values or more of a channel" if rows else ""

    def cut(self, results: Mapping[str, Any], rows: int) -> dict[str, Any]:
        """``results`` without what was computed of rows past the count."""
        found = dict(results)
        for name, (dim, each) in self.outputs.items():
            if name in found and rows < self.most:
                found[name] = found[name][(*[slice(None)] * dim, slice(rows * each))]
        return found

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        outputs = {name: list(pair) for name, pair in self.outputs.items()}
        return {"least": self.least, "most": self.most, "inputs": dict(self.inputs), "outputs": outputs}

    @staticmethod
    def from_json(found: Mapping[str, Any]) -> OpenBatch:
        """The reverse of ``to_json``."""
        outputs = {name: (dim, each) for name, (dim, each) in found["outputs"].items()}
        return OpenBatch(found["least"], found["most"], dict(found["inputs"]), outputs)


def open_batch(graph: Graph, wanted: UpTo) -> tuple[Graph, OpenBatch, list[Decision]]:
    """``graph`` for any batch that is ``wanted``, how its program is called, and what was decided.

    Raises GraphError, with the user's line, for a node that does not take any batch, ArgumentError for inputs that are none.
    """
    inputs = _batched(graph, wanted)
    found = analyse(graph, wanted.most, inputs)
    used = {node.name for node in dead_code(graph).nodes} if found.refusals else set()
    refusals = [v for v in found.refusals if v.node.name in used]
    if refusals:
        more = f"\nand {len(refusals) - 1} more" if len(refusals) > 1 else ""
        raise GraphError(f"no program takes any batch up to {wanted.most} of this graph: {refusals[0]}{more}")
    outputs = {name: _part(name, v, found) for name, v in graph.outputs.items() if found.rows[v] is not None}
    for name, v in graph.updates.items():
        if found.rows[v] is not None:
            raise GraphError(
                f"no program takes any batch up to {wanted.most} of this graph: parameter {name!r} becomes {v.node.where()}, "
                "which has a row for each example; make it an output and an input"
            )
    new, least, decisions = _rewritten(graph, found, inputs)
    decisions += [Decision("batch", v.node.outputs[0].name, "any batch", True, v.reason) for v in found.verdicts]
    return new, OpenBatch(least, wanted.most, inputs, outputs), decisions


def verdicts(graph: Graph, batch: UpTo) -> list[Any]:
    """Whether each node of ``graph`` that meets the batch takes any, with reasons: ``batch_rows.Verdict``, which print."""
    return analyse(graph, batch.most, _batched(graph, batch)).verdicts


def norms_over_batch(graph: Graph, batch: UpTo) -> bool:
    """Whether the forward pass folds the batch into more than a number, as batch norm does.

    Masked statistics are sums of their own, which no convolution computes behind its result.
    """
    last = max((i for i, node in enumerate(graph.nodes) if node.origin.phase == "fwd"), default=-1)
    first = graph.snapshot()
    first.nodes = graph.nodes[: last + 1]
    masks = analyse(first, batch.most, _batched(graph, batch)).masks
    reductions = [n for n in first.nodes if n.op.kind is Kind.REDUCTION and n.origin.phase == "fwd"]
    return any(node.name in masks and node.types[0].size > 1 for node in reductions)


def _batched(graph: Graph, wanted: UpTo) -> dict[str, int]:
    """The inputs with a batch, and which dimension it is."""
    sources = {name: node.types[0].shape for name, node in graph.sources.items() if node.op.name == "input"}
    if ROWS in sources:
        raise ArgumentError(f"an input is called {ROWS!r}, which is the name of the batch's count")
    if wanted.inputs is None:
        found = {name: 0 for name, shape in sources.items() if shape[:1] == (wanted.most,)}
        if not found:
            raise ArgumentError(
                f"no input's first dimension is {wanted.most}: {_listed(sources)}; build the graph for the largest batch"
            )
        return found
    for name, dim in wanted.inputs.items():
        shape = sources.get(name, ())
        if not 0 <= dim < len(shape) or shape[dim] != wanted.most:
            raise ArgumentError(f"dimension {dim} of input {name!r} is not {wanted.most}; the inputs are {_listed(sources)}")
    return dict(wanted.inputs)


def _listed(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items()) or "none"


def _part(name: str, v: Value, found: Analysis) -> tuple[int, int]:
    """The dimension of an output along which the rows lie, and how many elements of it each has. Raises GraphError."""
    row = found.rows[v]
    assert row is not None
    dim = row_dim(row)
    each = v.shape[dim] // found.most
    if row != (_axis(v, dim) // each):
        raise GraphError(
            f"no program takes any batch up to {found.most} of this graph: output {name!r}, {v.node.where()}, has examples "
            f"that alternate along dimension {dim} of {list(v.shape)}; give it back with the batch in front of what joins it"
        )
    return dim, each


def _axis(v: Value, dim: int) -> Expr:
    return axis(f"{AXIS}{dim}", v.shape[dim])


def _rewritten(graph: Graph, found: Analysis, inputs: Mapping[str, int]) -> tuple[Graph, int, list[Decision]]:
    """The graph with masks and counts, the least batch, and the decisions on counts."""
    new = rewrite(graph, lambda node: None)
    attrs = {"shape": (), "dtype": "int64", "most": found.most, "dims": tuple(sorted(inputs.items()))}
    new.append(REGISTRY["input"], (), attrs, ROWS)
    new.nodes.insert(0, new.nodes.pop())
    values = {v.name: v for v in graph.values()}
    by_name = {node.name: node for node in graph.nodes}
    zeros = sources_of_zeros(_gradients(by_name, found), found)
    least, decisions, number = [1], list[Decision](), itertools.count()

    def rule(node: Node) -> Any:
        count = node.graph.sources[ROWS].outputs[0]
        if masks := found.masks.get(node.name):
            operands = list(node.inputs)
            for i, (neutral, row) in masks.items():
                if neutral or not is_gradient(operands[i]):
                    operands[i] = _masked(operands[i], row, neutral, count, next(number))
            return node.graph.append(node.op, operands, node.attrs, node.name, [t.order for t in node.types]).outputs
        old = by_name.get(node.name)
        if old is not None and not zeros.isdisjoint(old.outputs):
            pairs = zip(node.outputs, old.outputs, strict=True)
            return [v if o not in zeros else _masked(v, found.rows[o], 0.0, count, next(number)) for v, o in pairs]
        factor = node.attrs.get("value")
        if node.op.kind is not Kind.GENERATED or not isinstance(factor, Factor):
            return None
        source = values.get(factor.source)
        along = None if source is None else found.rows[source]
        if source is None or along is None or row_dim(along) not in factor.dims:
            return None
        size = math.prod(source.shape[d] for d in factor.dims)
        each = size // found.most
        least.append(-(-factor.least // each))
        reason = f"{float(factor):g} is made of a count of {size}, {each} for each row, which is counted when it runs"
        decisions.append(Decision("batch", node.name, "any batch", True, reason))
        return [factor.of(cast(count * each, node.types[0].dtype))]

    return rewrite(new, rule), min(max(least), found.most), decisions


def _gradients(named: Mapping[str, Node], found: Analysis) -> list[Value]:
    """The gradients that are to be masked with zeros."""
    every = [(named[name].inputs[i], mask[0]) for name, masks in found.masks.items() for i, mask in masks.items()]
    return [v for v, neutral in every if not neutral and is_gradient(v)]


def _masked(x: Value, row: Expr | None, neutral: float, count: Value, number: int) -> Value:
    """``x`` where its row is below ``count``, else ``neutral``; the condition is mask ``number``."""
    assert row is not None
    atom = row.terms[0][0]
    dim = row_dim(row)
    each = x.shape[dim] // _rows(row)
    if atom[0] == "axis" or (atom[0] == "div" and atom[1] == _axis(x, dim)):
        at, bound = iota(x, dim), count * each
    else:
        at, bound = _code(row, x), count
    below = x.graph.append(REGISTRY["lt"], (at, broadcast_to(bound, x.shape)), name=f"{MASK}_{number}")
    return where(below.outputs[0], x, neutral)


def _rows(row: Expr) -> int:
    return row.range()[1] + 1


def read_past_the_count(graph: Graph, found: Analysis) -> frozenset[Value]:
    """The values of a rewritten ``graph`` whose rows past the count matter: those between a mask, which has a name by which it
    is known (``MASK``), and what folds the batch."""
    read = set[Value]()
    rows = {v: None if v in found.refused else row for v, row in found.rows.items()}
    for node in reversed(graph.nodes):
        of_one = node.op.kind is Kind.VIEW and found.refused.isdisjoint(node.outputs)  # the first example, if it has no row
        if not read.isdisjoint(node.outputs) or (not of_one and any(rows[v] is None for v in node.outputs)):
            masked = node.inputs[1:2] if len(node.inputs) == 3 and node.inputs[0].name.startswith(MASK) else ()
            read.update(v for v in node.inputs if rows[v] is not None and v not in masked)
    return frozenset(read)


def _code(e: Expr, like: Value) -> Value:
    """The expression, of one axis, as a value of the shape of ``like``."""
    ((atom, _),) = e.terms
    if atom[0] == "axis":
        return iota(like, int(atom[1].removeprefix(AXIS)))
    inner = _code(atom[1], like)
    return floor_divide(inner, atom[2]) if atom[0] == "div" else remainder(inner, atom[2])

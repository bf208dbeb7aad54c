"""The rows of a batch in a graph: which example each element of a value belongs to, and whether any number of them would do.

A value's row is an index expression over its own dimensions: ``i0`` for a batch in front, ``i0 // 49`` where pixels were
joined to it. Views compose it as they do any index, elementwise ops need one of all operands, and what works along dimensions
says by letters (``OpDef.axes``) which of them it treats one by one and which it folds. A value without a row is the same for
every batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from graphrt.index import Expr, axes
from graphrt.ir import Graph, Node, Value
from graphrt.node import Factor
from graphrt.op import Kind
from graphrt.ops.base import constant_of
from graphrt.ops.body import Loop

Rows = dict[Value, Expr | None]
AXIS = "i"


@dataclass(frozen=True)
class Verdict:
    """Whether ``node`` ``takes`` any batch, with a ``reason``, and of a refusal the ``change`` that would be right."""

    node: Node
    takes: bool
    reason: str
    change: str = ""

    def __str__(self) -> str:
        return f"{self.node.where()}: {self.reason}" + (f"; {self.change}" if self.change else "")


@dataclass
class Analysis:
    """The facts that are known of a graph built for a batch of ``most``.

    The ``rows`` of every value; ``verdicts`` on nodes that meet the batch; the operands to be masked, ``masks[node's name]
    [operand's number]``, each with what is neutral and its row; ``refused`` values, which depend on a node that was refused.
    """

    most: int
    rows: Rows = field(default_factory=dict)
    verdicts: list[Verdict] = field(default_factory=list)
    masks: dict[str, dict[int, tuple[float, Expr]]] = field(default_factory=dict)
    refused: set[Value] = field(default_factory=set)

    @property
    def refusals(self) -> list[Verdict]:
        """The verdicts that refuse."""
        return [v for v in self.verdicts if not v.takes]


class _Refusal(Exception):
    """A node that does not take any batch: the reason, and what would be right."""


def analyse(graph: Graph, most: int, inputs: Mapping[str, int], given: Mapping[str, Expr | None] | None = None) -> Analysis:
    """The rows of ``graph``, built for a batch of ``most``, which dimension ``inputs[name]`` of an input is.

    ``given`` are rows of other sources, of a loop's body.
    """
    found = Analysis(most)
    named = {node.name: node for node in graph.nodes}
    for node in graph.nodes:
        found.rows.update(dict.fromkeys(node.outputs))
        if not found.refused.isdisjoint(node.inputs):
            found.refused.update(node.outputs)
            continue
        try:
            if node.op.kind is Kind.SOURCE:
                row = _row_of_source(node, most, inputs, given or {})
                found.rows[node.outputs[0]] = row
            else:
                _judge(node, found, named)
        except _Refusal as refusal:
            reason, change = refusal.args
            found.verdicts.append(Verdict(node, False, reason, change))
            found.refused.update(node.outputs)
    return found


def row_dim(row: Expr) -> int:
    """The dimension along which rows lie."""
    (name,) = row.axes()
    return int(name.removeprefix(AXIS))


def _row_of_source(node: Node, most: int, inputs: Mapping[str, int], given: Mapping[str, Expr | None]) -> Expr | None:
    if node.name in given:
        return given[node.name]
    dim = inputs.get(node.name)
    return None if dim is None or most == 1 else axes(AXIS, node.types[0].shape)[dim]


def _judge(node: Node, found: Analysis, named: Mapping[str, Node]) -> None:
    """Finds the rows of what ``node`` computes. Raises _Refusal."""
    rows = [found.rows[v] for v in node.inputs]
    kind = node.op.kind
    if kind is Kind.RANDOM and (row := _drawn(node, found.most)) is not None:
        found.rows[node.outputs[0]] = row
        found.verdicts.append(Verdict(node, True, "each example has numbers of its own, by its place in the batch"))
        return
    _counted_by_hand(node, found)
    if all(row is None for row in rows):
        _counted(node, found)
        _widened(node, found, named)
        return
    if kind is Kind.ELEMENTWISE:
        found.rows[node.outputs[0]] = _one_row(node, rows)
    elif kind is Kind.VIEW:
        found.rows[node.outputs[0]] = _seen(node, rows, found.most)
    elif kind is Kind.LOOP:
        _looped(node, rows, found)
    elif node.op.axes is not None:
        _along(node, rows, found)
    else:
        raise _Refusal(f"{node.op.name} of a batch is not known to treat examples one by one", "compile for each batch")
    if node.name not in found.masks:
        found.verdicts.append(Verdict(node, True, "each example is computed from itself"))


def _counted(node: Node, found: Analysis) -> None:
    """Raises _Refusal where as many constants as the largest batch has examples are folded."""
    if node.op.kind is not Kind.REDUCTION or node.origin.phase != "fwd" or found.most == 1:
        return
    x = node.inputs[0]
    if 0 in node.attrs["dims"] and x.shape[0] == found.most and constant_of(x):
        raise _Refusal(
            f"{node.op.name} folds a constant over {found.most} places, as many as the largest batch: another batch has fewer",
            "fold a value of the batch, such as x * 0 + 1; or, if they are not the batch's, take another largest batch",
        )


def _drawn(node: Node, most: int) -> Expr | None:
    """Random numbers for each of the largest batch, in front, are the batch's."""
    shape = node.types[0].shape
    return axes(AXIS, shape)[0] if shape and shape[0] == most else None


def _one_row(node: Node, rows: list[Expr | None]) -> Expr:
    """The row that all operands that have one share."""
    different = {row for row in rows if row is not None}
    if len(different) > 1:
        raise _Refusal(
            f"{node.op.name} meets different examples of the batch: element {' and '.join(sorted(map(_place, different)))}",
            "let each example be computed from itself, or compile for each batch",
        )
    return different.pop()


def _place(row: Expr) -> str:
    return f"[{row}]"


def _seen(node: Node, rows: list[Expr | None], most: int) -> Expr | None:
    """The row that a view shows at each place."""
    assert node.op.pull is not None
    shown = set[Expr]()
    for piece in node.op.pull(node, axes(AXIS, node.types[0].shape)):
        row = rows[piece.operand]
        if row is not None:
            shown.add(row.substitute({f"{AXIS}{d}": e for d, e in enumerate(piece.index)}))
    if shown == {Expr()}:
        return None  # the first example, which every batch has
    from_, to = list(node.inputs[0].shape), list(node.types[0].shape)
    if len(shown) == 1:
        row = next(iter(shown))
        whole = len(row.terms) == 1 and row.terms[0][1] == 1 and not row.const and row.range() == (0, most - 1)
        if whole and len(row.axes()) == 1:
            return row
    raise _Refusal(
        f"{node.op.name} from {from_} to {to} takes the batch of {most} apart, or joins several: another batch has other parts",
        "keep the batch a dimension of its own, as in reshape(x, (x.shape[0], ...)), and whole: no slice, concat or flip of it",
    )


def _along(node: Node, rows: list[Expr | None], found: Analysis) -> None:
    """Rows of what works along dimensions; operands whose batch is folded are to be masked."""
    assert node.op.axes is not None
    spec, letters = node.op.axes(node), dict[str, Expr]()
    for given, row in zip(spec.operands, rows, strict=False):
        if row is None:
            continue
        letter = given[row_dim(row)]
        if letter == "_":
            raise _Refusal(
                f"{node.op.name} works along the batch, dimension {row_dim(row)} of {_shapes(node)}: an example's result "
                "depends on the others",
                "work along another dimension, or compile for each batch",
            )
        moved = row.substitute({f"{AXIS}{row_dim(row)}": axes(letter, (_extent(row),))[0]})
        letters.setdefault(letter, moved)
        if len(letters) > 1 or letters[letter] != moved:
            raise _Refusal(
                f"{node.op.name} sets each example beside every other one, {_shapes(node)}",
                "compile for each batch, or keep the batch a dimension of both operands",
            )
    ((letter, moved),) = letters.items()
    for result, letters_of in zip(node.outputs, spec.results, strict=True):
        if letter in letters_of:
            place = axes(AXIS, result.shape)[letters_of.index(letter)]
            found.rows[result] = moved.substitute({f"{letter}0": place})
    if any(letter in letters_of for letters_of in spec.results):
        return
    masks = dict[int, tuple[float, Expr]]()
    for i, (v, row) in enumerate(zip(node.inputs, rows, strict=True)):
        number = spec.neutral[i]
        if number is not None and letter in spec.operands[i] and (row is not None or number < 0):
            masks[i] = number, moved.substitute({f"{letter}0": axes(AXIS, v.shape)[spec.operands[i].index(letter)]})
    found.masks[node.name] = masks
    numbers = ", ".join(f"{number:g}" for number in dict.fromkeys(number for number, _ in masks.values()))
    found.verdicts.append(Verdict(node, True, f"it folds the batch, of which rows past the count are {numbers}"))


def _looped(node: Node, rows: list[Expr | None], found: Analysis) -> None:
    """Rows of a loop's results: each step treats examples one by one, and no two states disagree."""
    loop = Loop.of(node)
    states, sequences = len(loop.states), len(loop.sequences)
    given = dict[str, Expr | None]()
    for i, (v, row) in enumerate(zip(loop.arguments, rows, strict=True)):
        along = row is not None and states <= i < states + sequences
        if along and row is not None and row_dim(row) == 0:
            raise _Refusal("a loop steps through the batch: an example's result depends on those before it", "scan a sequence")
        given[v.node.name] = _shifted(row, -1) if along else row
    for _ in range(states + 1):
        inner = analyse(loop.body, found.most, {}, given)
        if inner.refusals or inner.masks:
            raise _Refusal(
                "the body of a loop folds the batch" if not inner.refusals else f"in a loop, {inner.refusals[0].reason}",
                "fold the batch behind the loop, of what all steps give",
            )
        after = [inner.rows[v] for v in loop.results]
        grown = {v.node.name: row for v, row in zip(loop.arguments[:states], after, strict=False) if row is not None}
        if all(given[name] == row for name, row in grown.items()):
            break
        given |= grown
    for i, (result, row) in enumerate(zip(node.outputs, after, strict=True)):
        kept = i >= states or loop.history[i]
        row = row if i >= states else given[loop.arguments[i].node.name]
        found.rows[result] = _shifted(row, 1) if kept else row


def _shifted(row: Expr | None, by: int) -> Expr | None:
    """``row`` where its dimension has so many more before it."""
    return None if row is None else row.renamed({f"{AXIS}{row_dim(row)}": f"{AXIS}{row_dim(row) + by}"})


def _extent(row: Expr) -> int:
    """The extent of the dimension along which rows lie."""
    atom: Any = row.terms[0][0]
    while atom[0] != "axis":
        atom = atom[1].terms[0][0]
    return int(atom[2])


def _shapes(node: Node) -> str:
    return " and ".join(str(list(v.shape)) for v in node.inputs)


def _widened(node: Node, found: Analysis, named: Mapping[str, Node]) -> None:
    """A gradient that is spread over what the forward pass folded has the rows of what that was."""
    forward = named.get(node.origin.source)
    if node.op.kind is not Kind.VIEW or forward is None or len(node.inputs) != 1:
        return
    y, x = node.outputs[0], node.inputs[0]
    if y.type.size <= x.type.size:
        return
    for v in (*forward.inputs, *forward.outputs):
        row = found.rows.get(v)
        if row is not None and v.shape == y.shape:
            found.rows[y] = row
            return


def _counted_by_hand(node: Node, found: Analysis) -> None:
    """Raises _Refusal where ``node`` scales a sum over the batch by a number that looks like the largest batch.

    A mean that was written as ``sum(x) / x.shape[0]`` would divide every batch by the largest.
    """
    if node.op.kind is not Kind.ELEMENTWISE or len(node.inputs) != 2 or node.origin.phase != "fwd":
        return
    for total, number in (node.inputs, node.inputs[::-1]):
        value, source = constant_of(number), total.node
        while source.op.kind in (Kind.VIEW, Kind.ELEMENTWISE) and len(source.inputs) == 1:
            source = source.inputs[0].node
        if value is None or isinstance(value, Factor) or source.op.kind is not Kind.REDUCTION or source.name not in found.masks:
            continue
        x = source.inputs[0]
        sizes = {found.most, *(x.shape[d] for d in source.attrs["dims"]), x.type.size // max(source.types[0].size, 1)}
        if any(size % found.most == 0 and abs(value) in (size, 1.0 / size) for size in sizes):
            raise _Refusal(
                f"a sum over the batch meets the number {value:g}, which looks like the largest batch, {found.most}: another "
                "batch would be divided by it too",
                "take F.mean, which counts the batch when it runs; or, if the number is not the batch's, another largest batch",
            )

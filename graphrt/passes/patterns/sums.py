"""The sum of a linear combination, taken from the sum of what it combines.

Normalisation's gradient asks for the sum of ``dy * a + centred * b`` with ``a`` and ``b`` constant along the summed axes.
What is centred sums to 0, and the sum of ``dy`` is the bias's gradient: no kernel needs to read the tensors once more, and
what depends on the sum need not wait for it.

    sum(x * a + y * b) = sum(x) * a, if y = z - mean(z)        sum(-x) = -sum(x)

And the sum of reshaped products, reshaped: ``reshape(a @ b) + reshape(c @ d) = reshape(a @ b + c @ d)``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graphrt.ir import Node, Value
from graphrt.op import Kind
from graphrt.ops.base import apply, broadcast_to, constant_of
from graphrt.passes.patterns.match import Match, Rule, op
from graphrt.types import HALVES

DEPTH = 12  # of a combination; a deeper one is summed as it is


def _may_be_factored(node: Node, found: Match) -> bool:
    x = found["x"]  # a sum without its factors, such as 1 / n, may overflow a half
    combined = x.node.op.name in ("add", "sub", "neg") and x.dtype.is_float and x.dtype not in HALVES
    return node.attrs["op"] == "sum" and combined


def _factored(node: Node, found: Match) -> Value | None:
    """The value of a sum over a combination of one tensor and centred ones, without reading more than that tensor."""
    x = found["x"]
    terms = _Sums(node).terms(x, 1.0, None, DEPTH)
    if terms is None or len({t.value for t in terms}) > 1:
        return None
    total: Value | None = None
    for t in terms:
        part = apply("reduce", t.value, **node.attrs)
        part = part if t.factor is None else part * t.factor
        part = part if t.sign > 0 else -part
        total = part if total is None else total + part
    return broadcast_to(x.graph.constant(0.0, x.dtype), node.types[0].shape) if total is None else total


def _are_rows(node: Node, found: Match) -> bool:
    """Whether both are results of contractions, or sums of such, that are seen in one other shape."""
    kinds = [found[name].node.op.kind is Kind.CONTRACTION or found[name].node.op.name == "add" for name in ("a", "b")]
    return all(kinds) and found["a"].shape == found["b"].shape


def _sum_of_rows(node: Node, found: Match) -> Value:
    """The sum in the shape in which its terms are computed: whoever merges the terms finds them (``addends``, ``siblings``)."""
    return apply("reshape", apply("add", found["a"], found["b"]), shape=node.types[0].shape)


RULES = (
    Rule(op("reduce", "x"), _may_be_factored, _factored),
    Rule(op("add", op("reshape", "a"), op("reshape", "b")), _are_rows, _sum_of_rows),
)


@dataclass(frozen=True)
class _Term:
    """``sign * value * factor``; the factor has the shape of the sum, None is 1."""

    sign: float
    value: Value
    factor: Value | None


@dataclass(frozen=True)
class _Sums:
    """Takes apart what the reduction ``node`` sums."""

    node: Node

    def terms(self, v: Value, sign: float, factor: Value | None, depth: int) -> list[_Term] | None:
        """``v`` as a sum of terms, without those that sum to 0; None if it is too deep."""
        node, name = v.node, v.node.op.name
        if not depth:
            return None
        if constant_of(v) == 0 or _centred(node, self.node):
            return []
        if name in ("add", "sub"):
            a = self.terms(node.inputs[0], sign, factor, depth - 1)
            b = self.terms(node.inputs[1], sign if name == "add" else -sign, factor, depth - 1)
            return None if a is None or b is None else a + b
        if name == "neg":
            return self.terms(node.inputs[0], -sign, factor, depth - 1)
        if name == "mul":
            for x, y in (node.inputs, node.inputs[::-1]):
                if (more := constant_along(y, self.node)) is not None:
                    return self.terms(x, sign, more if factor is None else factor * more, depth - 1)
        return [_Term(sign, v, factor)]


def constant_along(v: Value, reduction: Node) -> Value | None:
    """``v`` without the dimensions that ``reduction`` sums, if it is constant along them."""
    shape = reduction.types[0].shape
    if (number := constant_of(v)) is not None:
        return broadcast_to(v.graph.constant(number, v.dtype), shape)
    if not _is_constant(v, reduction):
        return None
    x = v.node.inputs[0]
    lead = v.ndim - x.ndim
    kept = [1 if d < lead else x.shape[d - lead] for d in range(v.ndim) if d not in reduction.attrs["dims"]]
    return broadcast_to(apply("reshape", x, shape=tuple(kept)), shape)


def _is_constant(v: Value, reduction: Node) -> bool:
    """Whether ``v`` is broadcast along every dimension that ``reduction`` sums."""
    if v.node.op.name != "broadcast":
        return False
    x = v.node.inputs[0]
    lead = v.ndim - x.ndim
    return not any(d >= lead and x.shape[d - lead] != 1 and v.shape[d] != 1 for d in reduction.attrs["dims"])


def variance(reduction: Node) -> bool:
    """Whether ``reduction`` sums ``(x - mean(x)) * (x - mean(x))`` over the dimensions of the mean."""
    x = reduction.inputs[0].node
    return x.op.name == "mul" and x.inputs[0] is x.inputs[1] and _centred(x.inputs[0].node, reduction)


def _centred(node: Node, reduction: Node) -> bool:
    """Whether ``node`` is ``x - mean(x)`` over the dimensions that ``reduction`` sums."""
    if node.op.name != "sub" or not _is_constant(node.inputs[1], reduction):
        return False
    mean, count = unreshaped(node.inputs[1].node.inputs[0]), node.types[0].size / max(reduction.types[0].size, 1)
    if mean.node.op.name != "mul" or not count:
        return False
    for total, part in (mean.node.inputs, mean.node.inputs[::-1]):
        share, sum_of = constant_of(part), unreshaped(total).node
        if share is not None and abs(share * count - 1) < 1e-6 and sum_of.op is reduction.op:
            return sum_of.inputs[0] is node.inputs[0] and sum_of.attrs == reduction.attrs
    return False


def unreshaped(v: Value) -> Value:
    """The value that ``v`` is a view of with as many elements in the same order."""
    while v.node.op.name in ("reshape", "broadcast") and v.type.size == v.node.inputs[0].type.size:
        v = v.node.inputs[0]
    return v


def total(term: Value, users: Mapping[Value, Sequence[Node]]) -> Value:
    """The sum of which ``term`` is a term, through additions whose results only one node reads; else ``term`` itself."""
    while len(users[term]) == 1 and users[term][0].op.name == "add":
        term = users[term][0].outputs[0]
    return term


def addends(total: Value, users: Mapping[Value, Sequence[Node]]) -> list[Value]:
    """The terms of ``total``, left to right."""
    found, pending = [], [total]
    while pending:
        v = pending.pop()
        if v.node.op.name == "add" and (v is total or len(users[v]) == 1):
            pending += reversed(v.node.inputs)
        else:
            found.append(v)
    return found

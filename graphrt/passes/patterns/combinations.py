"""Linear combinations of halves with a factor for each channel, as one fused multiply-add for each of them:

    (x - mean) * scale + bias = fma(x, scale, bias - mean * scale)

Normalisation's output and its input's gradient are such combinations. A matrix product that computes them on load computes
them many times, and factors once for each row or column of a block. In halves nothing is lost by that: ``mean * scale`` is
rounded to float32, and a half near the mean has 2^13 times the error or more.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from graphrt.ir import Graph, Node, Value
from graphrt.ops.base import apply, broadcast_to
from graphrt.passes.rewrite import pruned
from graphrt.types import HALVES, float32

FEW = 16  # elements of a combination for each of its factors, or these are no vectors
MOST = 16  # terms of a combination


def fuse_combinations(graph: Graph) -> Graph:
    """``graph`` with the combinations rewritten that take fewer operations so, the larger ones first."""
    wanted, within = set[str](), set[Node]()
    for node in reversed(graph.nodes):
        if node not in within and (found := _found(node)) is not None:
            wanted.add(node.name)
            within.update(found.nodes)
    if not wanted:
        return graph

    def rule(node: Node) -> Sequence[Value] | None:
        found = _found(node) if node.name in wanted else None
        return None if found is None else (_built(found, node.outputs[0]),)

    return pruned(graph, rule)


@dataclass(frozen=True)
class _Term:
    """``sign`` times the product of ``half`` (None: 1) and of ``factors``, which are small."""

    sign: float
    half: Value | None
    factors: tuple[Value, ...]


@dataclass
class _Combination:
    """The sum of ``terms`` that ``nodes``, operations on whole tensors, compute."""

    terms: list[_Term] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)

    def take(self, v: Value, sign: float = 1.0, factors: tuple[Value, ...] = ()) -> bool:
        """Adds ``sign * v`` times ``factors``; False if ``v`` is made of anything else, or of too much."""
        node, name = v.node, v.node.op.name
        if len(self.nodes) > MOST:
            return False
        if _is_small(v):
            self.terms.append(_Term(sign, None, (*factors, v)))
            return True
        if name == "widen" and node.inputs[0].dtype in HALVES:
            self.terms.append(_Term(sign, node.inputs[0], factors))
            return True
        self.nodes.append(node)
        if name == "mul":
            for x, y in (node.inputs, node.inputs[::-1]):
                if _is_small(y):
                    return self.take(x, sign, (*factors, y))
        if name == "neg":
            return self.take(node.inputs[0], -sign, factors)
        if name in ("add", "sub"):
            a, b = node.inputs
            return self.take(a, sign, factors) and self.take(b, sign if name == "add" else -sign, factors)
        return False


def _is_small(v: Value) -> bool:
    """Whether ``v`` repeats a few elements."""
    return v.node.op.name == "broadcast" and FEW * v.node.inputs[0].type.size <= v.type.size


def _found(node: Node) -> _Combination | None:
    """The combination that ``node`` is, if that takes fewer operations: one for each half."""
    if node.op.name not in ("add", "sub") or node.types[0].dtype is not float32:
        return None
    found, v = _Combination(), node.outputs[0]
    if not found.take(v):
        return None
    halves = {t.half for t in found.terms if t.half is not None}
    small = math.prod(np.broadcast_shapes(*(_shape(f) for t in found.terms for f in t.factors)))
    return found if halves and len(halves) < len(found.nodes) and FEW * small <= v.type.size else None


def _shape(factor: Value) -> tuple[int, ...]:
    """The shape of the source of ``factor``, in as many dimensions."""
    shape = factor.node.inputs[0].shape
    return (1,) * (factor.ndim - len(shape)) + shape


def _built(found: _Combination, like: Value) -> Value:
    """The value of a combination, of the shape of ``like``."""
    sums: dict[Value | None, Value] = {}
    for t in found.terms:
        small = [apply("reshape", f.node.inputs[0], shape=_shape(f)) for f in t.factors]
        product = functools.reduce(operator.mul, small) if small else like.graph.constant(1.0, float32)
        product = product if t.sign > 0 else -product
        sums[t.half] = sums[t.half] + product if t.half in sums else product

    total = broadcast_to(sums.pop(None), like.shape) if None in sums else None
    for half, factor in sums.items():
        assert half is not None
        x, factor = apply("widen", half), broadcast_to(factor, like.shape)
        total = x * factor if total is None else apply("fma", x, factor, total)
    assert total is not None
    return total

"""Rows past the count that are zero: one mask where a gradient meets the batch, in place of one at each sum that it comes to.

What a gradient goes through on its way back mostly keeps a row of zeros one: views, products with weights, ReLU's mask,
pooling's gradients. So a mask that a sum over the batch needs is moved up to the last value that could be anything else.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence

import numpy as np

from graphrt.ir import Node, Value
from graphrt.op import Kind
from graphrt.ops.base import constant_of
from graphrt.passes.batch_rows import Analysis

_ANYTHING = (0.0, 1.5, -2.0, math.nan, math.inf)  # that a row past the count may hold
_FINITE = (1.5, -2.0)  # that stands for what is the same for every batch


def sources_of_zeros(wanted: Iterable[Value], found: Analysis) -> set[Value]:
    """The values that have to be zero in rows past the count for all ``wanted`` to be."""
    sources, seen, pending = set[Value](), set[Value](), list(wanted)
    while pending:
        v = pending.pop()
        if v in seen:
            continue
        seen.add(v)
        carriers = _carriers(v, found)
        if carriers:
            pending += carriers
        else:
            sources.add(v)
    return sources


def is_gradient(v: Value) -> bool:
    """Whether ``v`` is a float of the backward pass."""
    return v.node.origin.phase == "bwd" and v.dtype.is_float


def _carriers(v: Value, found: Analysis) -> list[Value]:
    """The operands whose zeros make ``v`` zero, all of them gradients; none where other rows of zeros would not do."""
    node = v.node
    batched = [x for x in node.inputs if found.rows[x] is not None]
    floats = [x for x in batched if x.dtype.is_float]
    if not floats or not all(map(is_gradient, floats)) and node.op.kind is not Kind.ELEMENTWISE:
        return []
    if node.op.kind is Kind.ELEMENTWISE:
        return _elementwise(node, floats, found)
    if node.op.kind is Kind.VIEW:
        return floats if not node.attrs.get("value") and len(floats) == len(node.inputs) else []
    if node.op.kind is Kind.CONTRACTION:
        return floats if len(floats) == 1 else []  # what is zero times a row that may be NaN need not be
    summed = node.op.kind is Kind.REDUCTION and node.attrs["op"] == "sum"
    return floats if node.op.kind is Kind.WINDOW or summed else []


def _elementwise(node: Node, floats: Sequence[Value], found: Analysis) -> list[Value]:
    """The fewest operands whose zeros make the result zero, whatever the others hold; as the op's reference has it."""
    gradients = list(dict.fromkeys(x for x in floats if is_gradient(x)))
    for size in range(1, len(gradients) + 1):
        for chosen in itertools.combinations(gradients, size):
            if all(_gives_zero(node, given) for given in itertools.product(*(_probes(x, chosen, found) for x in node.inputs))):
                return list(chosen)
    return []


def _probes(x: Value, chosen: Sequence[Value], found: Analysis) -> Sequence[float]:
    """The numbers that an operand may be."""
    if x in chosen:
        return (0.0,)
    if (number := constant_of(x)) is not None:
        return (float(number),)
    if x.dtype.is_bool:
        return (0.0, 1.0)
    return _ANYTHING if found.rows[x] is not None and x.dtype.is_float else _FINITE


def _gives_zero(node: Node, given: Sequence[float]) -> bool:
    arrays = [np.full((1,), number).astype(x.dtype.numpy) for number, x in zip(given, node.inputs, strict=True)]
    with np.errstate(all="ignore"):
        return not np.any(np.asarray(node.op.reference(*arrays, **node.attrs)) != 0)

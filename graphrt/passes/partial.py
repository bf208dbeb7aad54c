"""Long sums over all but the channels become sums of segments, and a short sum of those.

A segment is a few dozen pixels next to each other in memory, no more than a tile of the template that computes them, so the
sums of segments can be an epilogue of that template: batch norm's statistics cost no pass over the feature map. Where they
cannot, there is work for as many programs as there are segments, and not only for one a channel.

A sum of squares of what is centred would have to wait for the mean. Each segment is centred by its own mean m instead, and
the rest is added at the end (Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample
variances", 1979):

    sum((x - mean)^2) = sum over segments of (sum((x - m)^2) + length * (m - mean)^2)

The sums of many segments are summed a group at a time first: one program a channel would read for longer than all others
compute.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from graphrt.index import axes
from graphrt.ir import Graph, Node, Value
from graphrt.op import Kind
from graphrt.ops import permute, reshape
from graphrt.ops import sum as sum_over
from graphrt.ops.base import cast, widened
from graphrt.ops.slicing import cut
from graphrt.passes.layout import follows
from graphrt.passes.patterns.sums import constant_along, variance
from graphrt.passes.rewrite import copied, pruned


@dataclass(frozen=True)
class Segments:
    """``length`` pixels are summed at a time; those taken one after the other lie ``phases`` apart.

    ``group`` such sums are summed before the last sum. ``behind`` says whether a contraction's kernel can compute them.
    """

    length: int
    phases: tuple[int, int] = (1, 1)
    group: int = 1
    behind: bool = True


def partial_sums(graph: Graph, segments: Callable[[Node, Node | None], Segments | None]) -> Graph:
    """Cuts each sum for which ``segments`` (a target's policy) gives some; their length divides the pixels of a phase.

    The policy is asked with the sum and the contraction whose epilogue it could be, or None.
    """
    position = {n: i for i, n in enumerate(graph.nodes)}
    plans: dict[str, _Plan] = {}
    for node in graph.nodes:
        if _over_pixels(node):
            producer, cone = _cone(node, position)
            found = segments(node, producer)
            if found is not None:
                plans[node.name] = _Plan(found, cone if found.behind else set(), variance(node))
    if not plans:
        return graph
    known: dict[tuple[Value, Segments], _Sums] = {}

    def rule(node: Node) -> Sequence[Value] | None:
        plan = plans.pop(node.name, None)
        return None if plan is None else (_cut(node, plan, known),)

    return pruned(graph, rule)


@dataclass(frozen=True)
class _Plan:
    """The plan of one sum: its segments, the nodes to copy for it, whether it is a variance's."""

    segments: Segments
    cone: set[str]
    variance: bool


def _over_pixels(node: Node) -> bool:
    """Whether ``node`` sums a tensor over every dimension but its second, the channels."""
    if node.op.kind is not Kind.REDUCTION:
        return False
    x = node.inputs[0]
    return x.ndim > 1 and node.attrs["op"] == "sum" and tuple(node.attrs["dims"]) == (0, *range(2, x.ndim))


def _cone(node: Node, position: dict[Node, int]) -> tuple[Node | None, set[str]]:
    """The contraction that computes the last of what ``node`` sums, and the names of the cheap nodes between the two.

    They are copied for the sum: a copy that only the sum reads need not be stored when the sum becomes an epilogue.
    """
    shape = node.inputs[0].shape
    pending, path, dear = {node.inputs[0].node}, list[Node](), False
    while pending:
        last = max(pending, key=position.__getitem__)
        pending.remove(last)
        if last.op.template is not None:
            break
        if follows(last) and last.op.cheap:
            path.append(last)
            pending.update(v.node for v in last.inputs if v.shape == shape)
        dear |= not last.op.cheap
    else:
        return None, set()
    if last.op.kind is not Kind.CONTRACTION:  # what was computed last has no epilogue that sums
        return None, set()
    if dear and last.origin.phase != node.origin.phase:  # over when the sum begins: copies would read what is dear from memory
        return None, set()
    found = {last}
    for n in reversed(path):
        if any(v.node in found for v in n.inputs):
            found.add(n)
    return last, {n.name for n in found if n is not last}


def _cut(node: Node, plan: _Plan, known: dict[tuple[Value, Segments], _Sums]) -> Value:
    """The sum ``node`` from float32 sums of segments [segments, C]; ``known`` holds those that exist by what they sum.

    Of a slice of channels, such as one of several sibling convolutions' results, all channels are summed, once for all.
    """
    base = node.inputs[0]
    if plan.variance:
        base, centre = base.node.inputs[0].node.inputs
    base, start = _all_channels(base)
    if (base, plan.segments) not in known:
        terms = widened(_terms(copied(base, plan.cone, {}), plan.segments))
        sums = _Sums(terms, sum_over(terms, 1), plan.segments.length)
        known[base, plan.segments] = sums.grouped(plan.segments.group) if plan.segments.group > 1 else sums
    parts = known[base, plan.segments]
    result = cut(parts.total, 1, start, start + node.types[0].size)
    if plan.variance:
        mean = constant_along(centre, node)
        assert mean is not None
        apart = result * (1.0 / parts.length) - mean  # not the segment's own mean, which would be stored for this
        squares = cut(parts.squares, 1, start, start + node.types[0].size)
        result = squares + apart * apart * float(parts.length)
    return cast(sum_over(result, 0), node.types[0].dtype)


class _Sums:
    """``total`` [segments, C] of ``terms`` [segments, n, C], and their ``squares`` about each segment's own mean.

    A segment has ``length`` pixels. Its terms are pixels, or are sums themselves: those of ``inner``.
    """

    def __init__(self, terms: Value, total: Value, length: int, inner: _Sums | None = None) -> None:
        self.terms, self.total, self.length, self.inner = terms, total, length, inner

    def grouped(self, count: int) -> _Sums:
        """The sums of ``count`` segments each."""
        terms = reshape(self.total, (-1, count, self.total.shape[1]))
        return _Sums(terms, sum_over(terms, 1), self.length * count, self)

    @functools.cached_property
    def squares(self) -> Value:
        own = self.total * (1.0 / self.length)
        own = reshape(own, (own.shape[0], 1, own.shape[1]))
        if self.inner is None:
            off = self.terms - own
            return sum_over(off * off, 1)
        off = self.terms * (1.0 / self.inner.length) - own
        return sum_over(reshape(self.inner.squares, self.terms.shape) + off * off * float(self.inner.length), 1)


def _all_channels(x: Value) -> tuple[Value, int]:
    """The value that ``x`` shows some channels of, and the first of them; ``x`` itself if it is no such slice."""
    v = x
    while v.node.op.kind is Kind.VIEW and follows(v.node):
        v = v.node.inputs[0]
    if v.node.op.kind is not Kind.VIEW or len(v.node.inputs) > 1 or v.shape != x.shape or v.node.op.pull is None:
        return x, 0
    whole, index = v.node.inputs[0], axes("i", tuple(n + 1 for n in x.shape))
    pieces = v.node.op.pull(v.node, index)
    if whole.ndim != x.ndim or len(pieces) != 1 or pieces[0].mask:
        return x, 0
    offset = [a - e for a, e in zip(pieces[0].index, index, strict=True)]
    alike = all(a == b for d, (a, b) in enumerate(zip(whole.shape, x.shape, strict=True)) if d != 1)
    return (whole, offset[1].const) if alike and not any(e.terms for e in offset) else (x, 0)


def _terms(x: Value, segments: Segments) -> Value:
    """``x`` [N, C, ...] as [segments, length, C]."""
    if segments.phases == (1, 1):
        last = permute(x, (0, *range(2, x.ndim), 1))
    else:
        n, c, h, w = x.shape
        down, across = segments.phases
        last = permute(reshape(x, (n, c, h // down, down, w // across, across)), (3, 5, 0, 2, 4, 1))
    return reshape(last, (math.prod(last.shape[:-1]) // segments.length, segments.length, x.shape[1]))

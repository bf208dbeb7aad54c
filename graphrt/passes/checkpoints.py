"""Checkpoints: the forward pass is cut into stretches, of which the backward pass computes all but the last again.

    x -> [conv relu conv relu] -> y -> [conv relu conv relu] -> z -> [conv loss]        y and z are kept, and no relu
         dw <- dconv drelu ... <- [conv relu conv relu again, from y] <-

What crosses a cut is kept, everything else of a stretch lives from when it is computed again until its gradients are (Chen et
al., "Training deep nets with sublinear memory cost", 2016). A cut is where the fewest bytes cross it, near where the bytes that
the backward pass reads are divided evenly. What is made of many times its own bytes, such as the statistics of a norm, is kept
anyway, and so is what other processes have sent.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from graphrt.ir import Graph, Node, Value
from graphrt.op import Kind
from graphrt.passes.decision import Decision
from graphrt.passes.rewrite import rewrite

SMALL = 16  # times its own bytes a result must be made of to be kept


def keep_checkpoints(graph: Graph, stretches: int, decisions: list[Decision]) -> Graph:
    """``graph`` whose forward pass has so many ``stretches``; what is computed again is added to ``decisions``."""
    if stretches < 2 or not any(node.origin.phase == "bwd" for node in graph.nodes):
        return graph
    cut = _Cut.of(graph, stretches)
    again = _computed_again(graph, cut)
    for nodes in again.values():
        bytes = sum(v.type.nbytes for n in nodes for v in n.outputs if n.op.kind is not Kind.VIEW)
        reason = f"it and {len(nodes) - 1} nodes up to {nodes[-1].name} are {bytes:,} bytes, which need not be kept until then"
        decisions.append(Decision("checkpoint", nodes[0].name, "the backward pass", True, reason))
    return _rewritten(graph, cut, again) if again else graph


@dataclass(frozen=True)
class _Cut:
    """The ``stretch`` of each node of the forward pass, the number of the ``last``, and what is ``kept`` of all."""

    stretch: Mapping[Node, int]
    last: int
    kept: frozenset[Value]

    @staticmethod
    def of(graph: Graph, stretches: int) -> _Cut:
        """The cut of ``graph`` into so many ``stretches``, or fewer where they would be empty."""
        forward = [n for n in graph.nodes if n.origin.phase == "fwd" and n.op.kind is not Kind.SOURCE]
        position = {n: i for i, n in enumerate(forward)}
        read = {b for n in graph.nodes if n.origin.phase == "bwd" for b in map(_behind, n.inputs)}
        sizes = [sum(v.type.nbytes for v in n.outputs if v in read and not _is_small(v)) for n in forward]
        last = {v: i for i, n in enumerate(forward) for v in map(_behind, n.inputs) if not _is_small(v)}
        crossing = [0] * (len(forward) + 1)  # bytes that the nodes from each on read of what is before
        for v, end in last.items():
            if v.node in position:
                crossing[position[v.node] + 1] += v.type.nbytes
                crossing[end + 1] -= v.type.nbytes
        cuts = _positions(sizes, list(accumulate(crossing)), stretches)
        number = {n: bisect.bisect_right(cuts, i) for i, n in enumerate(forward)}
        kept = {v for v, end in last.items() if v.node in number and number[v.node] != number[forward[end]]}
        return _Cut(number, len(cuts), frozenset(kept))

    def again(self, v: Value) -> bool:
        """Whether the backward pass, which reads ``v``, computes it again."""
        if v.node.origin.phase != "fwd":  # a view of the forward pass's, which reads what is computed again itself
            return False
        v = _behind(v)
        number = self.stretch.get(v.node, self.last)
        return number < self.last and v not in self.kept and not _is_small(v) and v.node.op.kind is not Kind.COLLECTIVE


def _positions(sizes: Sequence[int], crossing: Sequence[int], stretches: int) -> list[int]:
    """The first node of each stretch but the first: near even parts of the ``sizes``, where the fewest bytes cross."""
    sums = list(accumulate(sizes))
    width = sum(sizes) / stretches
    found = list[int]()
    for i in range(1, stretches):
        low, high = (bisect.bisect_left(sums, width * (i + side)) + 1 for side in (-0.5, 0.5))
        near = range(max(low, found[-1] + 1 if found else 1), min(high, len(sizes)))
        if near:
            found.append(min(near, key=lambda p: (crossing[p], abs(sums[p - 1] - width * i))))
    return found


def _behind(v: Value) -> Value:
    """``v``, or what it is a view of; a view of several values is stored as they are, and stands for itself."""
    while v.node.op.kind is Kind.VIEW and len(v.node.inputs) == 1:
        v = v.node.inputs[0]
    return v


def _is_small(v: Value) -> bool:
    """Whether ``v`` costs no memory worth mentioning: it is there anyway, or is made of many times its own bytes."""
    node = v.node
    largest = max((x.type.nbytes for x in node.inputs), default=0)
    return node.op.kind in (Kind.SOURCE, Kind.GENERATED) or (node.op.kind is not Kind.VIEW and v.type.nbytes * SMALL <= largest)


def _computed_again(graph: Graph, cut: _Cut) -> dict[int, list[Node]]:
    """The nodes of each stretch that the backward pass needs again, in order."""
    needed = {v.node for n in graph.nodes if n.origin.phase == "bwd" for v in n.inputs if cut.again(v)}
    again: dict[int, list[Node]] = {}
    for node in reversed(graph.nodes):  # first who reads, then what is read
        if node in needed:
            needed.update(v.node for v in node.inputs if cut.again(v))
            again.setdefault(cut.stretch[_behind(node.outputs[0]).node], []).append(node)
    return {number: nodes[::-1] for number, nodes in again.items()}


def _rewritten(graph: Graph, cut: _Cut, again: Mapping[int, Sequence[Node]]) -> Graph:
    """``graph`` in which the nodes of each stretch are computed ``again`` where the backward pass first reads one of them."""
    number = {n.name: i for i, nodes in again.items() for n in nodes}
    kept = {(v.node.name, v.node.outputs.index(v)) for v in cut.kept}
    first: dict[str, Node] = {}  # by name, in the new graph
    copies: dict[str, Node] = {}
    pending = {i: [n.name for n in nodes] for i, nodes in again.items()}

    def now(v: Value) -> Value:
        at = v.node.outputs.index(v)
        return copies[v.node.name].outputs[at] if v.node.name in copies and (v.node.name, at) not in kept else v

    def compute(stretch: int) -> None:
        for node in [first[name] for name in pending[stretch] if name in first]:
            new = node.graph
            with new.at(replace(node.origin, phase="again", source=node.name)):
                orders = [t.order for t in node.types]
                copies[node.name] = new.append(node.op, [now(v) for v in node.inputs], node.attrs, orders=orders)
        pending[stretch] = [name for name in pending[stretch] if name not in first]

    def rule(node: Node) -> Sequence[Value] | None:
        if node.name in number:
            first[node.name] = node
        read = {number[v.node.name] for v in node.inputs if v.node.name in number}
        if node.origin.phase != "bwd" or not read:
            return None
        for stretch in sorted(read):
            compute(stretch)
        return node.graph.adopt(node, [now(v) for v in node.inputs]).outputs

    return rewrite(graph, rule)

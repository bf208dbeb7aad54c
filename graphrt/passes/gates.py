"""Two products of one matrix that meet behind them, as a gate and what it lets through, are one product with two results.

    h = silu(x @ w1) * (x @ w3)        y1, y3 = matmul_pair(x, w1, w3); h = silu(y1) * y3, behind the two sums of a tile

What they share is loaded once, and neither result is stored to be read by the other's kernel (gated linear units: Dauphin et
al., 2017; SwiGLU: Shazeer, 2020). A target's predicted times decide; where it has no such template, a pair is two products.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from graphrt.index import axes, linearize, row_major
from graphrt.ir import Graph, Node, Value
from graphrt.op import Kind
from graphrt.ops.base import apply
from graphrt.passes.decision import Decision
from graphrt.passes.rewrite import pruned
from graphrt.passes.siblings import Times


def part_pairs(graph: Graph, times: Times | None) -> Graph:
    """``graph`` with each pair as two products, where there is no template for one."""
    if (times is not None and times.pair is not None) or all(n.op.name != "matmul_pair" for n in graph.nodes):
        return graph
    return pruned(graph, _apart)  # of one of which perhaps nothing is made


def pair_products(graph: Graph, times: Times | None, decisions: list[Decision]) -> Graph:
    """``graph`` with products paired that are predicted to gain, where there is a template; appends to ``decisions``."""
    if times is None or times.pair is None:
        return graph
    chosen: dict[Node, Node] = {}
    for a, b in _meeting(graph):
        if a in chosen or b in chosen:
            continue
        (m, k), n = a.inputs[0].shape[-2:], a.types[0].shape[-1]
        saved = times.pair(a, m, n, k)
        taken = saved > times.launch / 2
        reason = f"meets the product {a.name}: predicted to {'save' if saved > 0 else 'lose'} {1e6 * abs(saved):.1f} us"
        change = "" if taken else "one kernel were predicted to take less time than both"
        decisions.append(Decision("siblings", b.name, f"{a.name} (pair)", taken, reason, change=change))
        if taken:
            chosen |= {a: b, b: a}
    return _built(graph, chosen) if chosen else graph


def _apart(node: Node) -> Sequence[Value] | None:
    if node.op.name != "matmul_pair":
        return None
    x, *weights = node.inputs
    return [apply("matmul", x, w) for w in weights]


def _meeting(graph: Graph) -> Iterator[tuple[Node, Node]]:
    """Products of one matrix, by two of one shape, whose results one elementwise op is made of, element by element."""
    sides: dict[tuple[Value, tuple[int, ...]], list[Node]] = {}
    for node in graph.nodes:
        if node.op.name == "matmul" and node.types[0].size and node.inputs[0].shape[-1]:
            sides.setdefault((node.inputs[0], node.inputs[1].shape), []).append(node)
    users = graph.users()
    for nodes in sides.values():
        reach = {n: _reach(n, users) for n in nodes} if len(nodes) > 1 else {}
        for i, a in enumerate(nodes):
            for b in nodes[i + 1 :]:
                if reach[a] & reach[b] and not _waits(b, a):
                    yield a, b


def _reach(node: Node, users: Mapping[Value, Sequence[Node]]) -> set[Node]:
    """The elementwise ops of the same phase that are made of ``node``'s elements, each at its place."""
    found, pending = set[Node](), [node.outputs[0]]
    while pending:
        for user in users[pending.pop()]:
            if not (user.op.kind is Kind.ELEMENTWISE or _keeps_places(user)) or user in found:
                continue
            if user.types[0].size == node.types[0].size and user.origin.phase == node.origin.phase:
                found.add(user)
                pending.append(user.outputs[0])
    return {n for n in found if n.op.kind is Kind.ELEMENTWISE}


def _keeps_places(node: Node) -> bool:
    """Whether ``node`` is a view of all elements in their row-major order, as of another shape or dtype."""
    if node.op.pull is None or len(node.inputs) != 1 or node.inputs[0].type.size != node.types[0].size:
        return False
    shape = node.types[0].shape
    at = axes("i", shape)
    pieces = list(node.op.pull(node, at))
    row = linearize(pieces[0].index, row_major(node.inputs[0].shape))
    return len(pieces) == 1 and not pieces[0].mask and row == linearize(at, row_major(shape))


def _waits(node: Node, other: Node) -> bool:
    """Whether ``node`` is made of what ``other`` computes."""
    seen, pending = set[Node](), [v.node for v in node.inputs]
    while pending:
        n = pending.pop()
        if n is other:
            return True
        if n not in seen:
            seen.add(n)
            pending += [v.node for v in n.inputs]
    return False


def _built(graph: Graph, chosen: Mapping[Node, Node]) -> Graph:
    """``graph`` with each of ``chosen`` and its partner as one, at the place of the first."""
    new, table = graph.like(), dict[Value, Value]()

    def add(node: Node) -> None:
        if all(v in table for v in node.outputs):
            return
        partner = chosen.get(node)
        pending = [*node.inputs, *(partner.inputs if partner else ())]
        for v in pending:  # a weight of the partner's may come later
            add(v.node)
        with new.at(node.origin):
            if partner is None:
                outputs = new.adopt(node, [table[v] for v in node.inputs]).outputs
                table.update(zip(node.outputs, outputs, strict=True))
            else:
                x, w = node.inputs
                pair = apply("matmul_pair", table[x], table[w], table[partner.inputs[1]]).node
                table.update(zip((node.outputs[0], partner.outputs[0]), pair.outputs, strict=True))

    for node in graph.nodes:
        add(node)
    new.take_results(graph, table)
    return new

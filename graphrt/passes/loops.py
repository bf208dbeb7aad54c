"""Loops before the other passes: what nobody needs of one is taken out, its body is simplified, or its steps are written out.

loop(h, x) of 64 steps, of which only the last state is read        no result of a step is stacked that nobody reads
loop(h, x) of 3 steps                                               h1 = body(h, x[0]), h2 = body(h1, x[1]), ...
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphrt.index import axes, linearize, row_major
from graphrt.ir import Graph, Node, Value
from graphrt.op import Kind
from graphrt.ops import clone, getitem, reshape, stack
from graphrt.ops.body import Loop
from graphrt.passes.rewrite import pruned, rewrite
from graphrt.passes.simplify import simplify

FEW = 4  # steps that are written out, so that they fuse with what is around them


def tidy_loops(graph: Graph, keep: bool) -> Graph:
    """``graph`` with less in its loops; the steps of short ones, and of all unless ``keep``, are written out."""
    while any(node.op.kind is Kind.LOOP for node in graph.nodes):
        users, results = graph.users(), set(graph.results())
        loops = [node for node in graph.nodes if node.op.kind is Kind.LOOP]
        used = {node.name: [bool(users[v]) or v in results for v in node.outputs] for node in loops}
        changed = False

        def rule(node: Node, used: Mapping[str, list[bool]] = used) -> Sequence[Value] | None:
            nonlocal changed
            if node.op.kind is not Kind.LOOP:
                return None
            found = _trimmed(node, used[node.name]) if keep and node.attrs["length"] > FEW else _written_out(node)
            changed |= found is not None
            return found

        candidate = pruned(graph, rule)
        if not changed:
            return _returned_apart(graph)
        graph = candidate
    return graph


def _returned_apart(graph: Graph) -> Graph:
    """``graph`` with copies of what loops return: a loop stores each of its results in one place, which is its own."""
    if not any(v.node.op.kind is Kind.LOOP for v in graph.results()):
        return graph
    new = rewrite(graph, lambda node: None)
    copies: dict[Value, Value] = {}
    for results in (new.outputs, new.updates):
        for name, v in results.items():
            if v.node.op.kind is Kind.LOOP:
                if v not in copies:
                    with new.at(v.node.origin):
                        copies[v] = clone(v)
                results[name] = copies[v]
    return new


def _returned_once(graph: Graph) -> Graph:
    """``graph`` with copies of what a collective makes for all names but the first: it stores each result in one place."""
    found = [v for v in graph.results() if v.node.op.kind is Kind.COLLECTIVE]
    if len(set(found)) == len(found):
        return graph
    new = rewrite(graph, lambda node: None)
    first, copies = set[Value](), dict[Value, Value]()
    for results in (new.outputs, new.updates):
        for name, v in results.items():
            if v in first and v not in copies:
                with new.at(v.node.origin):
                    copies[v] = clone(v)
            results[name] = copies.get(v, v)
            if v.node.op.kind is Kind.COLLECTIVE:
                first.add(v)
    return new


def place_operands(graph: Graph) -> Graph:
    """``graph`` with copies of those operands of loops of which a step's part does not lie in one piece, row-major.

    Operands of collectives, which are computed as they lie in memory, need only lie in one piece, and their results have one
    place each.
    """
    copies: dict[Value, Value] = {}

    def placed(v: Value, stepped: bool) -> Value:
        if _lies(v, stepped):
            return v
        if v not in copies:
            copies[v] = clone(v) if v.ndim < 2 else reshape(clone(reshape(v, (v.type.size,))), v.shape)
        return copies[v]

    def rule(node: Node) -> Sequence[Value] | None:
        if node.op.kind is Kind.COLLECTIVE:
            free = (Kind.VIEW, Kind.GENERATED)
            inputs = [placed(v, False) if v.node.op.kind in free else v for v in node.inputs]
        elif node.op.kind is Kind.LOOP:
            states, sequences = len(node.attrs["history"]), node.attrs["sequences"]
            inputs = [placed(v, states <= i < states + sequences) for i, v in enumerate(node.inputs)]
        else:
            return None
        return None if tuple(inputs) == node.inputs else node.graph.append(node.op, inputs, node.attrs).outputs

    if not any(node.op.kind in (Kind.LOOP, Kind.COLLECTIVE) for node in graph.nodes):
        return graph
    return _returned_once(rewrite(graph, rule))


def _lies(v: Value, stepped: bool) -> bool:
    """Whether ``v``, or each part of it along the first dimension if it is ``stepped``, is stored in one piece, row-major."""
    index = axes("i", v.shape)
    x, at = v, index
    while x.node.op.kind is Kind.VIEW and x.type.size:
        assert x.node.op.pull is not None
        piece, *others = x.node.op.pull(x.node, at)
        if others or piece.mask:
            return False
        x, at = x.node.inputs[piece.operand], piece.index
    if x.node.op.kind in (Kind.VIEW, Kind.GENERATED) or x.type.order is not None or x.dtype is not v.dtype:
        return False
    rest = linearize(at, x.type.strides) - linearize(index[stepped:], row_major(v.shape[stepped:]))
    return rest.axes() <= ({"i0"} if stepped else set()) and rest.stride("i0") is not None


def _trimmed(node: Node, used: Sequence[bool]) -> Sequence[Value] | None:
    """The results of ``node`` from a loop that has only what is ``used``; None if it has no more. Others are any value."""
    loop, count = Loop.of(node), len(node.attrs["history"])
    arguments, results = loop.arguments, loop.results
    wanted = [i for i, u in enumerate(used) if u]
    while True:
        live = _made_of([results[i] for i in wanted])
        states = [i for i in range(count) if i in wanted or arguments[i].node in live]
        if set(states) <= set(wanted):
            break
        wanted = sorted({*wanted, *states})
    small, table = Graph(), dict[Value, Value]()
    taken = [i for i, v in enumerate(arguments) if i in states or v.node in live]
    for i in taken:
        table[arguments[i]] = small.adopt(arguments[i].node, []).outputs[0]
    for n in loop.body.nodes:
        if n in live and n.op.kind is not Kind.SOURCE:
            table.update(zip(n.outputs, small.adopt(n, [table[v] for v in n.inputs]).outputs, strict=True))
    for name, i in [(name, i) for i, name in enumerate(loop.body.outputs) if i in wanted]:
        small.output(name, table[results[i]])
    body = simplify(tidy_loops(small, True))
    if len(wanted) == len(results) and len(taken) == len(arguments) and len(body.nodes) == len(loop.body.nodes):
        return None
    attrs = {
        **node.attrs,
        "body": str(body),
        "history": tuple(loop.history[i] for i in states),
        "sequences": sum(count <= i < count + len(loop.sequences) for i in taken),
    }
    new = node.graph.append(node.op, [node.inputs[i] for i in taken], attrs)
    place = {i: new.outputs[at] for at, i in enumerate(wanted)}
    return [place.get(i, new.outputs[0]) for i in range(len(results))]


def _made_of(values: Sequence[Value]) -> set[Node]:
    """The nodes that ``values`` are made of."""
    found, pending = set[Node](), [v.node for v in values]
    while pending:
        node = pending.pop()
        if node not in found:
            found.add(node)
            pending += [v.node for v in node.inputs]
    return found


def _written_out(node: Node) -> Sequence[Value]:
    """The results of ``node`` from a copy of its body for each step."""
    loop, graph = Loop.of(node), node.graph
    states, count = [list(loop.states)], len(loop.history)
    stacked = list[list[Value]]()
    for t in reversed(range(loop.length)) if loop.reverse else range(loop.length):
        given = [*states[-1], *(getitem(x, t) for x in loop.sequences), *loop.constants]
        table = dict(zip(loop.arguments, given, strict=True))
        for n in loop.body.nodes:
            if n.op.kind is not Kind.SOURCE:
                with graph.at(n.origin):
                    copy = graph.append(n.op, [table[v] for v in n.inputs], n.attrs)
                table.update(zip(n.outputs, copy.outputs, strict=True))
        results = [table[v] for v in loop.results]
        states.append(results[:count])
        stacked.append(results[count:])
    step = -1 if loop.reverse else 1
    histories = [stack([s[i] for s in states][::step]) if kept else states[-1][i] for i, kept in enumerate(loop.history)]
    return [*histories, *(stack(each[::step]) for each in zip(*stacked, strict=True))]

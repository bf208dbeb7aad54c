"""Choose how each value lies in memory: channels-last inside, row-major at the edges.

Nothing is rewritten: a layout is part of a value's type, and index maps turn it into strides. Templates say which order
they like (``OpDef.orders``); elementwise values follow their operands; what is only flattened stays row-major, so that the
matmul behind it reads consecutive addresses. Inputs keep the order their caller gives them.
"""

from __future__ import annotations

from collections.abc import Mapping

from graphrt.index import axes
from graphrt.ir import Graph, Node, Value
from graphrt.op import Kind, Order
from graphrt.passes.rewrite import rewrite

_ROUNDS = 4  # of wishes that go from what is read to what it is made of; a weight behind a cast takes three


def assign_layouts(graph: Graph, min_channels: int = 1, fixed: Mapping[str, Order] | None = None) -> Graph:
    """``graph`` with an order on every value; feature maps of fewer than ``min_channels`` channels stay row-major.

    ``fixed`` names parameters whose buffers exist already, with their order.
    """
    users, results = graph.users(), set(graph.results())
    rows: dict[Value, bool] = {}

    def asks_for_rows(v: Value) -> bool:
        """Whether ``v`` is returned, or read by a template that has no wish of its own, seen through views."""
        if v not in rows:
            rows[v] = v in results or any(
                any(map(asks_for_rows, n.outputs)) if n.op.kind is Kind.VIEW else n.op.template is not None for n in users[v]
            )
        return rows[v]

    wishes: dict[Value, list[Order]] = {v: [] for v in graph.values()}
    for node in graph.nodes:
        if node.op.orders is not None:
            for v, order in zip(node.inputs, node.op.orders(node)[0], strict=True):
                wishes[v].append(order)
        elif node.op.kind is Kind.VIEW and any(map(asks_for_rows, node.outputs)):
            for v in node.inputs:
                wishes[v].append(None)
    returned: dict[Value, Order] = {}
    for name, order in graph.orders.items():
        v = graph.outputs[name]
        if _can_lie(v, order):
            returned.setdefault(v, v.type.with_order(order).order)
    chosen: dict[Value, Order] = {}
    for _ in range(_ROUNDS):  # a later round knows what operands are asked to follow
        before = dict(chosen)
        for node in graph.nodes:
            for i, v in enumerate(node.outputs):
                order = _choose(node, i, wishes[v], chosen)
                if fixed is not None and node.op.name == "parameter" and node.name in fixed:
                    chosen[v] = fixed[node.name]
                    continue
                if v in returned:
                    chosen[v] = returned[v]
                    continue
                chosen[v] = None if order is not None and _few_channels(v, order, min_channels) else order
        if chosen == before:
            break
        for node in reversed(graph.nodes):
            if follows(node):  # momentum * 0.9 + dw: the momentum lies as dw does
                y = node.outputs[0]
                orders = [o for o in (chosen[y], *wishes[y], *(chosen[v] for v in node.inputs if v.shape == y.shape)) if o]
                for v in node.inputs:
                    led = follows(v.node) or v.node.op.name == "parameter"
                    if orders and led and v.shape == y.shape and not wishes[v]:
                        wishes[v].append(orders[0])
    for name, v in graph.updates.items():  # new state lies where the old lay
        chosen[v] = chosen[graph.sources[name].outputs[0]]
    if all(v.type.order == v.type.with_order(order).order for v, order in chosen.items()):
        return graph
    result = rewrite(graph, lambda node: None)
    for old, new in zip(graph.nodes, result.nodes, strict=True):
        types = tuple(t.with_order(chosen[v]) for t, v in zip(old.types, old.outputs, strict=True))
        object.__setattr__(new, "types", types)
    return result


def _can_lie(v: Value, order: tuple[int, ...]) -> bool:
    """Whether ``v`` can be made to lie in ``order``: sources lie where they are, and templates know few orders."""
    op = v.node.op
    if op.kind is Kind.SOURCE:
        return False
    return op.template is None or order == tuple(range(v.ndim)) or (op.orders is not None and order in op.orders(v.node)[1])


def follows(node: Node) -> bool:
    """Whether each element of the result is made of the same elements of the operands, so that one order suits all."""
    if node.op.kind is Kind.VIEW and node.op.push is not None:
        index = axes("i", node.types[0].shape)
        return len(node.inputs[0].shape) == len(index) and node.op.push(node, index) == index
    return node.op.kind is Kind.ELEMENTWISE


def _keeps_dimensions(node: Node) -> bool:
    """Whether a view cuts, pads or joins its operands, each dimension for itself, so that they and it should lie alike."""
    if node.op.pull is None or not node.types[0].size:
        return False
    index = axes("i", tuple(n + 1 for n in node.types[0].shape))  # so that none is the constant 0
    pieces = node.op.pull(node, index)
    return all(
        len(p.index) == len(index) and all(e.axes() == i.axes() for e, i in zip(p.index, index, strict=True)) for p in pieces
    )


def _few_channels(v: Value, order: Order, least: int) -> bool:
    return order is not None and order[0] == 0 and v.ndim >= 3 and order[-1] == 1 and v.shape[1] < least


def _choose(node: Node, i: int, wishes: list[Order], chosen: dict[Value, Order]) -> Order:
    wanted = [o for o in wishes if o is not None]
    if node.op.kind is Kind.SOURCE:
        return (wanted[0] if wanted else None) if node.op.name == "parameter" else node.types[0].order
    if node.op.kind is Kind.VIEW and not follows(node):
        if not _keeps_dimensions(node):
            return None
        wanted += [o for v in node.inputs if not wishes and (o := chosen[v]) is not None]
        return wanted[0] if wanted else None
    shape = node.types[i].shape
    if node.op.orders is not None:
        return None if wishes and not wanted else node.op.orders(node)[1][i]
    if follows(node) or node.op.kind is Kind.RANDOM:
        inherited = [
            chosen[v]
            for v in node.inputs
            if v.shape == shape and (v.node.op.kind is not Kind.VIEW or follows(v.node) or _keeps_dimensions(v.node))
        ]
        followed = [o for o in inherited if o is not None]
        if followed:
            return followed[0]
        return wanted[0] if wanted else None
    return None

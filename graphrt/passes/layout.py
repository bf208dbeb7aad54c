"""Choose how each value lies in memory: channels-last inside, row-major at the edges.

Nothing is rewritten: a layout is part of a value's type, and index maps turn it into strides. Templates say which order
they like (``OpDef.orders``); elementwise values follow their operands; what is only flattened stays row-major, so that the
matmul behind it reads consecutive addresses, and what is permuted before that lies as it is permuted, where its template can
store it so. Inputs keep the order their caller gives them.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping

from graphrt.index import axes
from graphrt.ir import Graph, Node, Value
from graphrt.op import Kind, Order
from graphrt.passes.decision import Decision
from graphrt.passes.rewrite import rewrite

_ROUNDS = 4  # of wishes that go from what is read to what it is made of; a weight behind a cast takes three


def assign_layouts(
    graph: Graph,
    min_channels: int = 1,
    fixed: Mapping[str, Order] | None = None,
    decisions: list[Decision] | None = None,
) -> Graph:
    """``graph`` with an order on every value; feature maps of fewer than ``min_channels`` channels stay row-major.

    ``fixed`` names parameters whose buffers exist already, with their order. Verdicts on what templates like are added to
    ``decisions``.
    """
    layouts = _Layouts(graph, min_channels, fixed or {})
    layouts.choose()
    if decisions is not None:
        decisions += [d for node in graph.nodes for d in layouts.verdicts(node)]
    if all(v.type.order == v.type.with_order(order).order for v, order in layouts.chosen.items()):
        return graph
    return rewrite(graph, lambda node: None, orders=layouts.chosen)


class _Layouts:
    """Orders ``chosen`` so far; ``wishes`` of those who read each value, ``fixed`` ones, and those of ``returned`` values.

    ``alike`` are results that follow operands, last first, with those of the same shape.
    """

    def __init__(self, graph: Graph, min_channels: int, fixed: Mapping[str, Order]) -> None:
        self.graph, self.min_channels = graph, min_channels
        self.users, self.results = graph.users(), set(graph.results())
        self.chosen: dict[Value, Order] = {}
        self._follows, self._keeps_dimensions = functools.cache(follows), functools.cache(_keeps_dimensions)
        self._rows: dict[Node, bool] = {}
        self.fixed = {n.outputs[0]: fixed[n.name] for n in graph.nodes if n.op.name == "parameter" and n.name in fixed}
        self.returned: dict[Value, Order] = {}
        for name, order in graph.orders.items():
            v = graph.outputs[name]
            if _can_lie(v, order):
                self.returned.setdefault(v, v.type.with_order(order).order)
        self.wishes: dict[Value, list[Order]] = {v: [] for v in graph.values()}
        following = ((n, n.outputs[0]) for n in reversed(graph.nodes) if self._follows(n))
        self.alike = [(y, [v for v in n.inputs if v.shape == y.shape]) for n, y in following]
        for node in graph.nodes:
            if node.op.orders is not None:
                for v, wish in zip(node.inputs, node.op.orders(node)[0], strict=True):
                    self.wishes[v].append(wish)
            elif node.op.kind is Kind.VIEW and self._asks_for_rows(node):
                for v in node.inputs:
                    self.wishes[v].append(_permutation(node) if v.node.op.stores_any else None)

    def _asks_for_rows(self, view: Node) -> bool:
        """Whether ``view`` is returned, or read by a template that likes rows, or that finds other dimensions in it."""
        if view not in self._rows:
            keeps, read = self._keeps_dimensions(view), [(n, v) for v in view.outputs for n in self.users[v]]
            self._rows[view] = any(v in self.results for v in view.outputs) or any(
                self._asks_for_rows(n) or (not keeps and self._is_read(n))
                if n.op.kind is Kind.VIEW
                else n.op.template is not None and not (keeps and _likes_channels(n, v))
                for n, v in read
            )
        return self._rows[view]

    def _is_read(self, view: Node) -> bool:
        """Whether a template reads ``view``, seen through views."""
        users = [n for v in view.outputs for n in self.users[v]]
        return any(self._is_read(n) if n.op.kind is Kind.VIEW else n.op.template is not None for n in users)

    def choose(self) -> None:
        """Fills ``chosen``."""
        for v in self.graph.values():
            self.chosen[v] = self._order(v)
        for _ in range(_ROUNDS - 1):  # a later round knows what operands are asked to follow
            if not (again := self._pass_wishes_on()):
                break
            for v in self.graph.values():
                if v in again and (order := self._order(v)) != self.chosen[v]:
                    self.chosen[v] = order
                    again.update(y for reader in self.users[v] for y in reader.outputs)
        for name, v in self.graph.updates.items():  # new state lies where the old lay
            self.chosen[v] = self.chosen[self.graph.sources[name].outputs[0]]

    def _order(self, v: Value) -> Order:
        if v in self.fixed:
            return self.fixed[v]
        if v in self.returned:
            return self.returned[v]
        order = self._choose(v.node, v.index, self.wishes[v])
        return None if _few_channels(v, order, self.min_channels) else order

    def _choose(self, node: Node, i: int, wishes: list[Order]) -> Order:
        chosen = self.chosen
        wanted = [o for o in wishes if o is not None]
        if node.op.kind is Kind.SOURCE:
            return (wanted[0] if wanted else None) if node.op.name == "parameter" else node.types[0].order
        if node.op.kind is Kind.VIEW and not self._follows(node):
            if not self._keeps_dimensions(node):
                return None
            wanted += [o for v in node.inputs if not wishes and (o := chosen[v]) is not None]
            return wanted[0] if wanted else None
        shape = node.types[i].shape
        if node.op.kind is Kind.COLLECTIVE:
            return chosen[node.inputs[i]] if i < len(node.inputs) and node.inputs[i].shape == shape else None
        if node.op.orders is not None:
            return None if wishes and not wanted else node.op.orders(node)[1][i]
        if node.op.stores_any:
            return wanted[0] if wanted else None
        if self._follows(node) or node.op.kind is Kind.RANDOM:
            for v in node.inputs:
                if chosen[v] is not None and v.shape == shape and self._leads(v.node):
                    return chosen[v]
            return wanted[0] if wanted else None
        return None

    def _leads(self, node: Node) -> bool:
        """Whether who reads ``node`` element by element should lie as it does."""
        return node.op.kind is not Kind.VIEW or self._follows(node) or self._keeps_dimensions(node)

    def _pass_wishes_on(self) -> set[Value]:
        """Asks operands to lie as what is made of them, and gives them: momentum * 0.9 + dw has the momentum lie as dw does."""
        asked = set[Value]()
        for y, alike in self.alike:
            orders = [o for o in (self.chosen[y], *self.wishes[y], *[self.chosen[v] for v in alike]) if o]
            for v in alike if orders else ():
                if not self.wishes[v] and (self._follows(v.node) or v.node.op.name == "parameter"):
                    self.wishes[v].append(orders[0])
                    asked.add(v)
        return asked

    def verdicts(self, node: Node) -> Iterator[Decision]:
        """Whether each result of ``node`` lies as its template likes it, and why (not)."""
        if node.op.stores_any:
            lying = [v for v in node.outputs if self.chosen[v] is not None]
            yield from (Decision("layout", v.name, str(self.chosen[v]), True, "who reads it permutes it so") for v in lying)
        if node.op.orders is None:
            return
        for v, liked in zip(node.outputs, node.op.orders(node)[1], strict=True):
            if liked is None:
                continue
            channels_last = liked == (0, *range(2, v.ndim), 1)
            taken = self.chosen[v] == v.type.with_order(liked).order
            about, change = "channels-last" if channels_last else str(liked), "" if taken else self._change(v, liked)
            yield Decision("layout", v.name, about, taken, self._why(v, liked, taken), change=change)

    def _why(self, v: Value, liked: Order, taken: bool) -> str:
        if v in self.returned:
            return "the caller asks for that order" if taken else "the caller asks for another order"
        if v in self.graph.updates.values():
            return "the parameter that it becomes lies so" if taken else "the parameter that it becomes lies otherwise"
        if taken:
            return "its template likes it so"
        if _few_channels(v, liked, self.min_channels):
            return f"{v.shape[1]} channels, fewer than {self.min_channels}"
        return "who reads it likes rows"

    def _change(self, v: Value, liked: Order) -> str:
        """The condition that would have to be otherwise for ``v`` to lie as ``liked``."""
        if v in self.returned or v in self.graph.updates.values():
            return f"{'the caller' if v in self.returned else 'the parameter'} had it so"
        few = _few_channels(v, liked, self.min_channels)
        return f"it had {self.min_channels} channels" if few else "another template read it"


def _can_lie(v: Value, order: tuple[int, ...]) -> bool:
    """Whether ``v`` can be made to lie in ``order``: sources lie where they are, and templates know few orders."""
    op = v.node.op
    if op.kind is Kind.SOURCE:
        return False
    return (
        op.template is None
        or op.stores_any
        or order == tuple(range(v.ndim))
        or (op.orders is not None and order in op.orders(v.node)[1])
    )


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


def _permutation(view: Node) -> Order:
    """The order of its operand in which ``view`` lies in rows: that of a permutation; None, rows, for any other view."""
    index = axes("i", tuple(n + 1 for n in view.types[0].shape))  # so that none is the constant 0
    pieces = view.op.pull(view, index) if view.op.pull is not None and view.types[0].size else ()
    if len(pieces) != 1 or sorted(map(str, pieces[0].index)) != sorted(map(str, index)):
        return None
    place = {e: d for d, e in enumerate(pieces[0].index)}
    return tuple(place[e] for e in index)


def _likes_channels(node: Node, v: Value) -> bool:
    """Whether the template ``node`` has a wish how its operand ``v`` lies."""
    wishes = node.op.orders(node)[0] if node.op.orders is not None else ()
    return any(x is v and wish is not None for x, wish in zip(node.inputs, wishes, strict=False))


def _few_channels(v: Value, order: Order, least: int) -> bool:
    return order is not None and order[0] == 0 and v.ndim >= 3 and order[-1] == 1 and v.shape[1] < least
